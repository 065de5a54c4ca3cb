//! Fixtures of the end-to-end tests: a project that is driven through the command line.
//!
//! Needs an installation in `XYLEM_HOME`, which `cargo xtask test` sets.
#![allow(clippy::disallowed_methods, reason = "whole systems run in real time")]

pub mod cdc;
pub mod process;
pub mod raw_client;
mod reach;
pub mod replica;
pub mod rounds;
pub mod small;
pub mod soak;
pub mod sysbench;

use crate::sysbench::Login;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The number of computes that a project may have in addition to that of `main`.
const COMPUTES: usize = 12;

/// A project in a temporary directory. It is stopped and removed on drop.
pub struct Project {
    dir: TempDir,
    home: PathBuf,
    /// Environment of every command.
    envs: Vec<(String, String)>,
    /// Further arguments of `up`.
    up_args: Vec<String>,
    /// The `--gateway` of each `up` that gives none; `None`: the installation does not know
    /// it.
    gateway: Option<&'static str>,
    /// The `--api`, in the same way.
    api: Option<&'static str>,
}

impl Project {
    /// An empty directory; starts nothing. The project has no gateway and no API.
    pub fn new() -> Result<Project> {
        let home = std::env::var_os("XYLEM_HOME").context(
            "XYLEM_HOME is not set: run these tests with cargo xtask test, which builds an \
             installation for them",
        )?;
        Project::in_new_dir(Path::new(&home), Some("off"), Some("off"))
    }

    /// As [`Project::new`], of the installation in `home`, which may be of an older version.
    pub fn of(home: &Path) -> Result<Project> {
        let help = Command::new(home.join("bin/xylem"))
            .args(["up", "--help"])
            .output()
            .with_context(|| format!("no installation in {}", home.display()))?;
        let help = String::from_utf8_lossy(&help.stdout);
        let off = |flag: &str| help.contains(flag).then_some("off");
        Project::in_new_dir(home, off("--gateway "), off("--api "))
    }

    fn in_new_dir(
        home: &Path,
        gateway: Option<&'static str>,
        api: Option<&'static str>,
    ) -> Result<Project> {
        let dir = tempfile::Builder::new().prefix("xylem-e2e-").tempdir()?;
        Ok(Project {
            dir,
            home: home.into(),
            envs: Vec::new(),
            up_args: Vec::new(),
            gateway,
            api,
        })
    }

    /// The same project with a gateway.
    pub fn with_gateway(mut self) -> Project {
        self.gateway = Some("on");
        self
    }

    /// The same project with an API.
    pub fn with_api(mut self) -> Project {
        self.api = Some("on");
        self
    }

    /// As [`Project::new`], with environment variables for every command and further
    /// arguments of `up`.
    pub fn with(envs: Vec<(String, String)>, up_args: &[&str]) -> Result<Project> {
        let mut project = Project::new()?;
        project.envs = envs;
        project.up_args = up_args.iter().map(|&arg| arg.to_owned()).collect();
        Ok(project)
    }

    /// Starts a project on free ports. Its compute has a buffer pool of `buffer_pool`.
    pub fn up(buffer_pool: &str) -> Result<Project> {
        let project = Project::new()?;
        project.up_in_place(buffer_pool)?;
        Ok(project)
    }

    /// Starts the project in its prepared directory.
    pub fn up_in_place(&self, buffer_pool: &str) -> Result<()> {
        // Further computes take the ports after that of the first.
        let ports = free_ports(5 + COMPUTES)?;
        let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
        let mut args = vec![
            "up",
            "--detach",
            "--mysql-port",
            &ports[4],
            "--grpc-port",
            &ports[0],
            "--http-port",
            &ports[1],
            "--buffer-pool",
            buffer_pool,
        ];
        if self.gateway == Some("on") {
            args.extend(["--gateway-port", &ports[2]]);
        }
        if self.api == Some("on") {
            args.extend(["--api-port", &ports[3]]);
        }
        args.extend(self.up_args.iter().map(String::as_str));
        self.xylem(&args)?;
        Ok(())
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The owner's token; `None` before the server runs.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn token(&self) -> Result<Option<String>> {
        match std::fs::read_to_string(self.dir().join("token")) {
            Ok(token) => Ok(Some(token.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A gRPC request with the owner's token.
    ///
    /// # Errors
    /// When there is none.
    pub fn request<T>(&self, message: T) -> Result<tonic::Request<T>> {
        let mut request = tonic::Request::new(message);
        let token = self.token()?.context("the project has no token")?;
        let metadata = request.metadata_mut();
        metadata.insert(xylem_proto::TOKEN_KEY, token.parse()?);
        Ok(request)
    }

    /// The installation.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The command `xylem ARGS --dir …`; does not run it.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut words = args.to_vec();
        for (flag, switch) in [("--gateway", self.gateway), ("--api", self.api)] {
            if let Some(switch) = switch
                && words.first() == Some(&"up")
                && !words.contains(&flag)
            {
                words.splice(1..1, [flag, switch]);
            }
        }
        let mut command = Command::new(self.home.join("bin/xylem"));
        command
            .args(words)
            .env("XYLEM_DIR", self.dir())
            .env("XYLEM_HOME", &self.home)
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs `xylem ARGS`; a failing exit status is not an error.
    pub fn try_xylem(&self, args: &[&str]) -> Result<Output> {
        self.command(args)
            .output()
            .with_context(|| format!("cannot run xylem {}", args.join(" ")))
    }

    /// Runs `xylem ARGS`; returns what it prints.
    pub fn xylem(&self, args: &[&str]) -> Result<String> {
        let out = self.try_xylem(args)?;
        if !out.status.success() {
            bail!(
                "xylem {} failed ({}):\n{}\n{}",
                args.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stderr),
                self.logs()
            );
        }
        Ok(String::from_utf8(out.stdout)?)
    }

    /// `result`, with the logs if it is an error: they say why a client lost its server.
    ///
    /// # Errors
    /// That of `result`.
    pub fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| anyhow!("{error:#}\n{}", self.logs()))
    }

    /// Runs `xylem ARGS --json`; returns its document.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.xylem(&[args, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("not one JSON document: {text}"))
    }

    /// Runs SQL on branch `main`; rows as tab-separated lines without a header.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.sql_on("main", sql)
    }

    /// Runs SQL on a compute: a branch's, or a read-only one.
    pub fn sql_on(&self, compute: &str, sql: &str) -> Result<String> {
        self.xylem(&sql_args(compute, sql))
    }

    /// A global status variable of a compute.
    ///
    /// # Errors
    /// When it has no such variable, or its value is of another type.
    pub fn status_on<T>(&self, compute: &str, name: &str) -> Result<T>
    where
        T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let line = self.sql_on(compute, &format!("SHOW GLOBAL STATUS LIKE '{name}'"))?;
        let value = line
            .split_once('\t')
            .with_context(|| format!("{compute} has no status variable {name}"))?
            .1
            .trim_end();
        value
            .parse()
            .with_context(|| format!("{name} of {compute} is {value:?}"))
    }

    /// Starts a client that runs SQL on a compute; its output is piped.
    pub fn start_sql_on(&self, compute: &str, sql: &str) -> Result<Child> {
        self.command(&sql_args(compute, sql))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run xylem sql")
    }

    /// Runs SQL that must fail; returns the error text.
    pub fn sql_error(&self, sql: &str) -> Result<String> {
        self.sql_error_on("main", sql)
    }

    /// Runs SQL on a compute that must fail; returns the error text.
    pub fn sql_error_on(&self, compute: &str, sql: &str) -> Result<String> {
        let out = self.try_xylem(&["sql", compute, "-e", sql])?;
        ensure!(!out.status.success(), "this should have failed: {sql}");
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// `CHECKSUM TABLE … EXTENDED` of every base table of a database.
    pub fn checksums(&self, database: &str) -> Result<BTreeMap<String, String>> {
        self.checksums_on("main", database)
    }

    /// As [`Project::checksums`], on any compute.
    pub fn checksums_on(&self, compute: &str, database: &str) -> Result<BTreeMap<String, String>> {
        let tables = self.sql_on(
            compute,
            &format!(
                "SELECT table_name FROM information_schema.tables WHERE table_schema='{database}' \
                 AND table_type IN ('BASE TABLE','SYSTEM VERSIONED') ORDER BY 1"
            ),
        )?;
        let names: Vec<String> = tables
            .lines()
            .map(|table| format!("`{database}`.`{table}`"))
            .collect();
        ensure!(!names.is_empty(), "database {database} has no tables");
        let rows = self.sql_on(
            compute,
            &format!("CHECKSUM TABLE {} EXTENDED", names.join(",")),
        )?;
        let sums: BTreeMap<String, String> = rows
            .lines()
            .filter_map(|row| row.split_once('\t'))
            .map(|(table, sum)| (table.to_owned(), sum.to_owned()))
            .collect();
        ensure!(sums.len() == names.len(), "a checksum is missing: {rows}");
        ensure!(
            !sums.values().any(|sum| sum == "NULL"),
            "a table cannot be read: {rows}"
        );
        Ok(sums)
    }

    /// `CHECK TABLE … EXTENDED` of every table of a database; complaints only.
    ///
    /// Without the warning of an entry that is marked as deleted and whose row is gone:
    /// purge and rollback race for it in stock MariaDB, too (MDEV-29823), where sysbench's
    /// `oltp_read_write` leaves such an entry in one of some ten runs.
    pub fn check(&self, database: &str) -> Result<Vec<String>> {
        self.check_on("main", database)
    }

    /// As [`Project::check`], on any compute.
    pub fn check_on(&self, compute: &str, database: &str) -> Result<Vec<String>> {
        let mut bad = Vec::new();
        for table in self.checksums_on(compute, database)?.keys() {
            let rows = self.sql_on(compute, &format!("CHECK TABLE {table} EXTENDED"))?;
            bad.extend(
                rows.lines()
                    .filter(|row| !row.ends_with("\tOK") && !is_unpurged_entry(row))
                    .map(str::to_owned),
            );
        }
        Ok(bad)
    }

    /// SIGKILLs the compute of `main` and removes its data directory.
    pub fn lose_compute(&self) -> Result<()> {
        let compute = self.compute()?;
        self.xylem(&["compute", "kill", "main"])?;
        let dir = compute["dir"].as_str().context("compute has no dir")?;
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {dir}"))
    }

    /// SIGKILLs the server.
    pub fn kill_server(&self) -> Result<()> {
        let status = self.json(&["status"])?;
        let pid = status["server"]["pid"]
            .as_i64()
            .context("server has no pid")?;
        kill(i32::try_from(pid)?)
    }

    /// Starts the server and the compute unless they run.
    pub fn start(&self) -> Result<()> {
        self.xylem(&["up", "--detach"]).map(|_| ())
    }

    /// The row of `compute ls` for `main`.
    pub fn compute(&self) -> Result<Value> {
        self.compute_named("main")
    }

    /// The row of `compute ls` for a compute.
    pub fn compute_named(&self, name: &str) -> Result<Value> {
        let rows = self.json(&["compute", "ls"])?;
        rows.as_array()
            .and_then(|rows| rows.iter().find(|row| row["name"] == name))
            .cloned()
            .with_context(|| format!("no compute {name} in {rows}"))
    }

    /// The row of `branch ls --all` for a branch.
    pub fn branch(&self, name: &str) -> Result<Value> {
        let rows = self.json(&["branch", "ls", "--all"])?;
        rows.as_array()
            .and_then(|rows| rows.iter().find(|row| row["name"] == name))
            .cloned()
            .with_context(|| format!("no branch {name} in {rows}"))
    }

    /// The root login of `main`.
    pub fn login(&self) -> Result<Login> {
        self.login_to("main")
    }

    /// The root login of any compute.
    pub fn login_to(&self, compute: &str) -> Result<Login> {
        let compute = self.compute_named(compute)?;
        let text = |field: &str| {
            compute[field]
                .as_str()
                .with_context(|| format!("no {field}"))
        };
        let password = std::fs::read_to_string(text("password_file")?)?;
        Ok(Login {
            socket: text("socket")?.into(),
            user: text("user")?.to_owned(),
            password: password.trim().to_owned(),
        })
    }

    /// The last lines of all logs, for the message of a failure.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut logs = vec!["server.log".to_owned(), "gateway.log".to_owned()];
        let computes = std::fs::read_dir(self.dir().join("computes"));
        logs.extend(computes.into_iter().flatten().flatten().map(|entry| {
            format!(
                "computes/{}/mariadbd.log",
                entry.file_name().to_string_lossy()
            )
        }));
        for log in logs {
            if let Ok(content) = std::fs::read_to_string(self.dir().join(&log)) {
                let lines: Vec<&str> = content.lines().collect();
                let tail = &lines[lines.len().saturating_sub(60)..];
                text.push_str(&format!("--- {log}\n{}\n", tail.join("\n")));
            }
        }
        text
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        if let Ok(out) = self.try_xylem(&["down"])
            && !out.status.success()
        {
            eprintln!("xylem down: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

/// The arguments of `xylem` that run SQL and print rows as tab-separated lines.
fn sql_args<'a>(compute: &'a str, sql: &'a str) -> [&'a str; 7] {
    let (batch, bare) = ("--batch", "--skip-column-names");
    ["sql", compute, "-e", sql, "--", batch, bare]
}

/// SIGKILLs a process and waits until it is gone.
pub fn kill(pid: i32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid).context("not a pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    wait_until("a killed process to die", Duration::from_secs(10), || {
        // A zombie counts as gone. It may still hold files and ports, which the next
        // process must cope with.
        Ok(std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")))
    })
}

/// Polls until `done`, for at most `limit`.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    while !done()? {
        ensure!(started.elapsed() < limit, "waited {limit:?} for {what}");
        #[allow(clippy::disallowed_methods, reason = "a test polls another process")]
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Whether `CHECK TABLE` warns of an entry of a secondary index that is marked as deleted
/// and has no row.
fn is_unpurged_entry(row: &str) -> bool {
    row.contains("\tWarning\tInnoDB: Clustered index record not found for index")
        && row.contains("RECORD(info_bits=32,")
}

/// Free TCP ports, below the range of ephemeral ports. Tests of the same process get
/// different ports.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    const FIRST: u32 = 15_000;
    const RANGE: u32 = 15_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Tests of other processes start at another offset.
    let offset = std::process::id().wrapping_mul(97);
    let mut ports = Vec::new();
    for _ in 0..RANGE {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(offset);
        let port = u16::try_from(FIRST + turn % RANGE)?;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    bail!("no {count} free TCP ports from {FIRST} on")
}
