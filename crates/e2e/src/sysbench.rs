//! Load from sysbench.

use anyhow::{Context, Result, bail};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The server under load, and the account.
#[derive(Clone, Debug)]
pub struct Login {
    /// The server's Unix socket.
    pub socket: PathBuf,
    /// The user name.
    pub user: String,
    /// The user's password; may be empty.
    pub password: String,
}

/// A sysbench workload.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Number of tables.
    pub tables: u32,
    /// Rows per table.
    pub rows: u32,
    /// Client threads.
    pub threads: u32,
    /// Length of a run in seconds.
    pub seconds: u32,
    /// Limit of transactions per second; `None`: no limit.
    pub rate: Option<u32>,
}

/// A TCP port of this machine that stands for the socket of a [`Login`].
#[derive(Clone, Debug)]
pub struct Port {
    /// The port at 127.0.0.1.
    pub number: u16,
    /// With TLS: a directory with the `cacert.pem`, `client-cert.pem` and `client-key.pem`
    /// that sysbench reads from its working directory.
    pub tls: Option<PathBuf>,
}

impl Load {
    fn command(&self, login: &Login, script: &str, action: &str) -> Command {
        let mut command = self.command_anywhere(login, script, action);
        command.arg(format!("--mysql-socket={}", login.socket.display()));
        command
    }

    fn command_anywhere(&self, login: &Login, script: &str, action: &str) -> Command {
        let mut command = Command::new("sysbench");
        command
            .arg(script)
            .arg("--db-driver=mysql")
            .arg(format!("--mysql-user={}", login.user))
            .arg(format!("--mysql-password={}", login.password))
            .arg("--mysql-db=sbtest")
            .arg("--rand-type=uniform")
            .arg(format!("--tables={}", self.tables))
            .arg(format!("--table-size={}", self.rows))
            .arg(format!("--threads={}", self.threads))
            .arg(format!("--time={}", self.seconds))
            .args(self.rate.map(|rate| format!("--rate={rate}")))
            .arg(action)
            .stdin(Stdio::null());
        command
    }

    /// Creates and fills the tables in the existing database `sbtest`.
    pub fn prepare(&self, login: &Login) -> Result<()> {
        let mut command = self.command(login, "oltp_read_write", "prepare");
        finish(
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?,
        )
        .map(|_| ())
    }

    /// Runs a script to its end and returns the report. An error of any thread is an
    /// error.
    pub fn run(&self, login: &Login, script: &str) -> Result<String> {
        finish(self.start(login, script)?)
    }

    /// As [`Load::run`], at a TCP port.
    pub fn run_at(&self, port: &Port, login: &Login, script: &str) -> Result<String> {
        let mut command = self.command_anywhere(login, script, "run");
        command
            .arg("--mysql-host=127.0.0.1")
            .arg(format!("--mysql-port={}", port.number));
        if let Some(files) = &port.tls {
            command.arg("--mysql-ssl=on").current_dir(files);
        }
        finish(spawn(command)?)
    }

    /// Starts a run in the background; see [`finish`].
    pub fn start(&self, login: &Login, script: &str) -> Result<Child> {
        spawn(self.command(login, script, "run"))
    }

    /// As [`Load::start`]; the report has a line for each second.
    pub fn start_by_second(&self, login: &Login, script: &str) -> Result<Child> {
        let mut command = self.command(login, script, "run");
        command.arg("--report-interval=1");
        spawn(command)
    }
}

fn spawn(mut command: Command) -> Result<Child> {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run sysbench")
}

/// Waits for a run and returns its report, or its error messages as an error.
pub fn finish(child: Child) -> Result<String> {
    let out = child.wait_with_output()?;
    let report = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() || report.contains("FATAL") {
        bail!(
            "sysbench failed: {report}\n{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    Ok(report)
}
