//! Starting a compute: attach, base backup, mariadbd, ready.

use super::base::Materialise;
use super::mycnf::{self, Options, PageServer};
use super::record::{ComputeRecord, ComputeState, Phase};
use super::{account, bootstrap, ready};
use crate::control::Control;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::ports;
use crate::proc::{Detached, Process};
use crate::progress::Progress;
use crate::project::{self, Project};
use crate::state::{ComputeDir, ServerRecord, StateDir};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xylem_proto::control::AttachResponse;
use xylem_types::BranchName;

/// Log files beyond this are put aside before a start.
const LOG_BYTES_MAX: u64 = 32 << 20;

/// What a start works with.
#[derive(Debug)]
pub struct Starter<'a> {
    /// The project's directory; the caller holds its lock.
    pub state: &'a StateDir,
    /// The installation.
    pub home: &'a Home,
    /// The project's settings; saved when they change.
    pub project: &'a mut Project,
    /// The server that runs.
    pub server: &'a ServerRecord,
    /// A connection to it.
    pub control: &'a Control,
    /// Where to say what is being done.
    pub progress: &'a Progress,
}

/// A compute that accepts connections.
#[derive(Debug)]
pub struct Started {
    /// What is known of it.
    pub record: ComputeRecord,
    /// It ran before.
    pub already: bool,
    /// The port it would have had, had it been free.
    pub instead_of: Option<u16>,
    /// How long the start took.
    pub took: Duration,
}

impl Starter<'_> {
    /// Starts the compute of `branch` unless it runs, on `port` if given.
    ///
    /// # Errors
    /// When something is missing, the server refuses, or mariadbd ends.
    pub async fn start(&mut self, branch: &BranchName, port: Option<u16>) -> Result<Started> {
        let begin = Instant::now();
        let dir = self.state.compute(branch);
        let before = ComputeRecord::load(&dir);
        if let Some(record) = before.as_ref().filter(|r| r.process.is_alive()) {
            return self.running(branch, &dir, record, port, begin).await;
        }
        self.home.check()?;
        files::make_private_dir(dir.root())?;
        let choice = self.choose_port(branch, before.as_ref(), port)?;

        self.progress.say(format!("attaching to branch {branch}"));
        let mut attached = self.control.attach(branch).await?;
        if attached.empty {
            self.fill(branch, &dir, choice.port, &attached).await?;
            attached = self.control.attach(branch).await?;
            if attached.empty {
                return Err(Failure::new(
                    format!("branch {branch} is still empty after its system tables were made"),
                    format!(
                        "see {} and {}",
                        dir.log().display(),
                        self.state.server_log().display()
                    ),
                ));
            }
        }
        let record = self.run(branch, &dir, choice.port, &attached).await?;
        self.remember_port(branch, choice.port)?;
        Ok(Started {
            record,
            already: false,
            instead_of: choice.instead_of,
            took: begin.elapsed(),
        })
    }

    /// The compute runs, or is about to.
    async fn running(
        &self,
        branch: &BranchName,
        dir: &ComputeDir,
        record: &ComputeRecord,
        port: Option<u16>,
        begin: Instant,
    ) -> Result<Started> {
        if let Some(port) = port.filter(|port| *port != record.port) {
            return Err(Failure::new(
                format!(
                    "the compute of branch {branch} runs already, on port {} and not {port}",
                    record.port
                ),
                format!("stop it first: `xylem compute stop {branch}`"),
            ));
        }
        let mut record = record.clone();
        if record.phase != Phase::Running || record.state() != ComputeState::Running {
            ready::wait(record.process, &record.socket, &dir.log(), record.log_from).await?;
            record.phase = Phase::Running;
            record.save(dir)?;
        }
        Ok(Started {
            record,
            already: true,
            instead_of: None,
            took: begin.elapsed(),
        })
    }

    /// The port given, else the one of last time, else the next free one.
    fn choose_port(
        &self,
        branch: &BranchName,
        before: Option<&ComputeRecord>,
        explicit: Option<u16>,
    ) -> Result<ports::Choice> {
        let main = *branch == BranchName::main();
        let kept = if main {
            self.project.ports.mysql
        } else {
            before.map(|r| r.port)
        };
        let preferred = match (kept, main) {
            (Some(port), _) => port,
            (None, true) => project::MYSQL_PORT,
            (None, false) => self
                .project
                .ports
                .mysql
                .unwrap_or(project::MYSQL_PORT)
                .saturating_add(1),
        };
        // Ports of computes that rest are theirs, or they would move about.
        let others = super::record::list(self.state);
        let mut avoid: Vec<u16> = others
            .iter()
            .filter(|(name, _)| name != branch)
            .map(|(_, record)| record.port)
            .collect();
        let ports = &self.project.ports;
        avoid.extend([ports.grpc, ports.http].into_iter().flatten());
        if !main {
            avoid.extend(ports.mysql);
        }
        let flag = if main {
            "--mysql-port (`up`) or --port (`compute start`)"
        } else {
            "--port"
        };
        let what = format!("the compute of branch {branch}");
        let mut choice =
            ports::choose(&what, flag, self.project.bind, explicit, preferred, &avoid)?;
        // Branches other than main have no port of their own to miss.
        if kept.is_none() && !main {
            choice.instead_of = None;
        }
        Ok(choice)
    }

    fn remember_port(&mut self, branch: &BranchName, port: u16) -> Result<()> {
        if *branch == BranchName::main() && self.project.ports.mysql != Some(port) {
            self.project.ports.mysql = Some(port);
            self.project.save(self.state)?;
        }
        Ok(())
    }

    /// Puts MariaDB's system tables into an empty branch.
    async fn fill(
        &mut self,
        branch: &BranchName,
        dir: &ComputeDir,
        port: u16,
        attached: &AttachResponse,
    ) -> Result<()> {
        self.progress.say("making the system tables".to_owned());
        self.project.half_made = true;
        self.project.save(self.state)?;
        let sql = bootstrap::sql(self.home)?;
        files::write_atomic(&dir.bootstrap_sql(), sql.as_bytes(), files::SECRET)?;
        fresh(dir)?;
        self.write_options(branch, dir, port, attached, None, true)?;
        let log_from = files::length_of(&dir.log());
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.log())?;
        let child = Command::new(self.home.mariadbd())
            .arg(defaults_file(dir))
            .args([
                "--bootstrap",
                "--enforce-storage-engine=",
                "--log-warnings=0",
            ])
            .args(["--max-allowed-packet=8M", "--net-buffer-length=16K"])
            // Each help topic is a commit; durable they are at the end.
            .arg("--innodb-flush-log-at-trx-commit=0")
            .envs(self.environment(dir))
            .current_dir(dir.data())
            .stdin(std::fs::File::open(dir.bootstrap_sql())?)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start mariadbd --bootstrap")?;
        let status = wait_child(child).await?;
        if !status.success() {
            return Err(ready::died(
                &format!("making the system tables failed (mariadbd --bootstrap: {status})"),
                &dir.log(),
                log_from,
            ));
        }
        let _ = std::fs::remove_file(dir.bootstrap_sql());
        self.project.half_made = false;
        self.project.save(self.state)
    }

    /// A fresh directory, mariadbd, ready.
    async fn run(
        &mut self,
        branch: &BranchName,
        dir: &ComputeDir,
        port: u16,
        attached: &AttachResponse,
    ) -> Result<ComputeRecord> {
        self.progress.say(format!(
            "fetching what the compute of branch {branch} needs"
        ));
        fresh(dir)?;
        let data = dir.data();
        let mut base = Materialise::new(&data);
        self.control
            .base_backup(branch, attached.start_lsn, |item| base.take(item))
            .await?;
        let socket = self.write_options(branch, dir, port, attached, base.log_bytes(), false)?;
        let _ = std::fs::remove_file(&socket);
        let user = account::client_user(&data);

        let mut args = vec![defaults_file(dir)];
        let accounts = self.project.accounts_wanted();
        let set_accounts = *branch == BranchName::main() && self.project.accounts < accounts;
        let password = self.state.make_password()?;
        if set_accounts {
            let sql = bootstrap::accounts_sql(&user, &password, accounts);
            files::write_atomic(&dir.init_sql(), sql.as_bytes(), files::SECRET)?;
            let mut arg = OsString::from("--init-file=");
            arg.push(dir.init_sql());
            args.push(arg);
        }
        args.extend(self.project.mariadbd_args.iter().map(OsString::from));
        let client = mycnf::render_client(&user, &socket, port, &password)?;
        files::write_atomic(&dir.client_cnf(), client.as_bytes(), files::SECRET)?;

        self.progress
            .say(format!("starting the compute of branch {branch}"));
        put_aside(&dir.log());
        let log_from = files::length_of(&dir.log());
        let mariadbd = self.home.mariadbd();
        let process = Detached {
            program: &mariadbd,
            args,
            envs: self.environment(dir),
            log: &dir.log(),
            cwd: &data,
        }
        .spawn()?;
        let mut record = self.record(branch, process, port, socket, attached, log_from);
        record.user = user;
        record.save(dir)?;
        let ready = ready::wait(process, &record.socket, &dir.log(), log_from).await;
        let _ = std::fs::remove_file(dir.init_sql());
        if ready.is_err() && ComputeRecord::load(dir).is_some_and(|now| now.phase == Phase::Stopped)
        {
            return Err(Failure::new(
                format!("another command ended the compute of branch {branch} while it started"),
                "start it again",
            ));
        }
        ready?;
        if set_accounts {
            self.check_login(dir, log_from)?;
            self.project.accounts = accounts;
            self.project.save(self.state)?;
        }
        // Unless it was ended on purpose in this very moment.
        if ComputeRecord::load(dir).is_none_or(|now| now.phase != Phase::Stopped) {
            record.phase = Phase::Running;
            record.save(dir)?;
        }
        Ok(record)
    }

    fn record(
        &self,
        branch: &BranchName,
        process: Process,
        port: u16,
        socket: PathBuf,
        attached: &AttachResponse,
        log_from: u64,
    ) -> ComputeRecord {
        ComputeRecord {
            branch: branch.to_string(),
            process,
            phase: Phase::Starting,
            bind: self.project.bind,
            host: ports::reachable(self.project.bind).to_string(),
            port,
            socket,
            user: account::root(),
            read_only: false,
            epoch: attached.epoch,
            start_lsn: attached.start_lsn,
            log_from,
        }
    }

    /// Errors in the init file are only logged by mariadbd: so try.
    fn check_login(&self, dir: &ComputeDir, log_from: u64) -> Result<()> {
        let mut option = OsString::from("--defaults-file=");
        option.push(dir.client_cnf());
        let output = Command::new(self.home.client())
            .arg(option)
            .args(["--execute=DO 0"])
            .env("LD_LIBRARY_PATH", self.home.library_path())
            .stdin(Stdio::null())
            .output()
            .context("cannot run MariaDB's client")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!(
            "root cannot log in with the password just set: {}",
            said.trim()
        );
        Err(ready::died(&what, &dir.log(), log_from))
    }

    fn environment(&self, dir: &ComputeDir) -> Vec<(String, OsString)> {
        vec![
            ("LD_LIBRARY_PATH".to_owned(), self.home.library_path()),
            ("LD_PRELOAD".to_owned(), self.home.client_library().into()),
            ("XYLEM_DATADIR".to_owned(), dir.data().into()),
        ]
    }

    /// Writes `my.cnf`; returns where the socket will be.
    fn write_options(
        &self,
        branch: &BranchName,
        dir: &ComputeDir,
        port: u16,
        attached: &AttachResponse,
        log_file_bytes: Option<u64>,
        bootstrap: bool,
    ) -> Result<PathBuf> {
        let socket = dir.socket()?;
        let server: SocketAddr =
            self.server.grpc.parse().with_context(|| {
                format!("{:?} in server.json is not an address", self.server.grpc)
            })?;
        let includes = [self.state.custom_cnf(), dir.custom_cnf()];
        let options = Options {
            basedir: self.home.basedir(),
            share: self.home.share(),
            plugin_dir: self.home.plugin_dir(),
            datadir: dir.data(),
            tmpdir: dir.tmp(),
            socket: socket.clone(),
            pid_file: dir.pid_file(),
            log_error: dir.log(),
            bind: self.project.bind,
            port,
            as_root: rustix::process::geteuid().is_root(),
            buffer_pool: self
                .project
                .buffer_pool
                .as_deref()
                .unwrap_or(mycnf::BUFFER_POOL),
            page_size: self.project.page_size,
            undo_tablespaces: account::undo_tablespaces(&dir.data()),
            log_file_bytes,
            includes: includes.into_iter().filter(|path| path.exists()).collect(),
            page_server: PageServer {
                host: server.ip().to_string(),
                port: server.port(),
                branch: branch.as_str(),
                epoch: attached.epoch,
                start_lsn: attached.start_lsn,
                token_file: Some(self.state.token_file()).filter(|path| path.exists()),
            },
            bootstrap,
        };
        let text = mycnf::render(&options)?;
        files::write_atomic(&dir.my_cnf(), text.as_bytes(), files::SECRET)?;
        Ok(socket)
    }
}

fn defaults_file(dir: &ComputeDir) -> OsString {
    let mut option = OsString::from("--defaults-file=");
    option.push(dir.my_cnf());
    option
}

/// Empty data and temporary directories. Nothing of value is in the old ones.
fn fresh(dir: &ComputeDir) -> Result<()> {
    for path in [dir.data(), dir.tmp()] {
        files::remove_tree(&path)?;
        files::make_private_dir(&path)?;
    }
    Ok(())
}

/// Renames a log that has grown long; the one before that goes.
pub fn put_aside(log: &std::path::Path) {
    if files::length_of(log) > LOG_BYTES_MAX {
        let mut old = log.as_os_str().to_owned();
        old.push(".1");
        let _ = std::fs::rename(log, old);
    }
}

/// Waits for a child; ends it when the waiting is given up.
pub(crate) async fn wait_child(child: std::process::Child) -> Result<std::process::ExitStatus> {
    struct Guard(std::process::Child);
    impl Drop for Guard {
        fn drop(&mut self) {
            // Neither does anything to a child that was waited for.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut guard = Guard(child);
    loop {
        let ended = guard.0.try_wait();
        if let Some(status) = ended.context("cannot wait for mariadbd --bootstrap")? {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
