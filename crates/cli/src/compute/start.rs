//! Starting a compute: attach, base backup, mariadbd, ready.

use super::base::Materialise;
use super::mycnf::{self, Options, PageServer};
use super::name::ComputeName;
use super::record::{ComputeRecord, ComputeState, Phase};
use super::{account, bootstrap, decoy, reader, ready, stop};
use crate::control::Control;
use crate::datadir::log_tables;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::moment::Moment;
use crate::ports;
use crate::proc::{self, Detached, Inherits, Process};
use crate::programs;
use crate::progress::Progress;
use crate::project::{self, Project};
use crate::state::{ComputeDir, ServerRecord, StateDir};
use crate::user::{self, User};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xylem_proto::control::{AttachResponse, Branch};
use xylem_types::BranchName;

/// Log files beyond this are put aside before a start.
const LOG_BYTES_MAX: u64 = 32 << 20;

/// How often another port is tried when the one chosen is taken meanwhile.
const PORT_TRIES: usize = 20;

/// What mariadbd says of a port that is taken.
const PORT_TAKEN: &str = "Can't start server: Bind on TCP/IP port";

/// mariadbd found its port taken.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("port {0} was taken while the compute started")]
struct PortTaken(u16);

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
    /// What it is called.
    pub name: ComputeName,
    /// What is known of it.
    pub record: ComputeRecord,
    /// It ran before.
    pub already: bool,
    /// The port it would have had, had it been free.
    pub instead_of: Option<u16>,
    /// How long the start took.
    pub took: Duration,
}

/// A compute that is being started.
struct Start<'a> {
    name: &'a ComputeName,
    dir: ComputeDir,
    /// The branch that it works on, as `id:…`.
    branch: String,
    port: u16,
    attached: AttachResponse,
    /// The LSN it shows, if it is a reader.
    at_lsn: Option<u64>,
    /// Whom mariadbd runs as, and where.
    host: &'a Host,
}

/// Whom mariadbd runs as, and the programs where that user can run them.
struct Host {
    /// `None`: the caller.
    user: Option<User>,
    home: Home,
}

impl Host {
    /// Writes a file that mariadbd reads and may not change.
    fn write_for(&self, path: &Path, data: &[u8]) -> Result<()> {
        files::write_atomic(path, data, files::SECRET)?;
        match &self.user {
            Some(user) => user.let_read(path),
            None => Ok(()),
        }
    }

    /// The file `from` where mariadbd can read it: where it is, or a copy at
    /// `to`.
    fn readable(&self, from: PathBuf, to: PathBuf) -> Result<PathBuf> {
        if self.user.is_none() {
            return Ok(from);
        }
        let data =
            std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write_for(&to, &data)?;
        Ok(to)
    }

    /// Empty data and temporary directories: nothing of value is in the old
    /// ones. What SQL has written to files stays. The data directory is still
    /// to be filled and given away.
    fn fresh(&self, dir: &ComputeDir) -> Result<()> {
        for path in [dir.data(), dir.tmp()] {
            files::remove_tree(&path)?;
            files::make_private_dir(&path)?;
        }
        for path in [dir.run(), dir.sql_files()] {
            files::make_private_dir(&path)?;
        }
        let Some(user) = &self.user else {
            return Ok(());
        };
        [dir.tmp(), dir.run(), dir.sql_files()]
            .iter()
            .try_for_each(|path| user.give(path))
    }

    /// Gives the data directory to mariadbd's user.
    fn give(&self, data: &Path) -> Result<()> {
        match &self.user {
            Some(user) => user.give_all(data),
            None => Ok(()),
        }
    }
}

impl Starter<'_> {
    /// Starts the compute `name` unless it runs, on `port` if given. That of a
    /// read-only compute must have been started before.
    ///
    /// # Errors
    /// When something is missing, the server refuses, or mariadbd ends.
    pub async fn start(&mut self, name: &ComputeName, port: Option<u16>) -> Result<Started> {
        let begin = Instant::now();
        let dir = self.state.compute(name);
        let branch = self.branch_of(name).await?;
        let mut before = ComputeRecord::load(&dir);
        if let Some(record) = before.as_ref().filter(|r| r.process.is_alive()) {
            if record.branch_id == branch.id {
                return self.running(name, &dir, record, port, begin).await;
            }
            // It works on a line that had this name once, and cannot write.
            stop::stop(self.state, name).await?;
            before = ComputeRecord::load(&dir);
        }
        self.bring_up(name, &branch, before.as_ref(), port, begin)
            .await
    }

    /// Starts a further compute that shows `branch` at `at`, or now, and takes
    /// no writes.
    ///
    /// # Errors
    /// When the moment lies outside the branch's history, and as for
    /// [`Starter::start`].
    pub async fn start_reader(
        &mut self,
        branch: &BranchName,
        at: Option<Moment>,
        port: Option<u16>,
    ) -> Result<Started> {
        let begin = Instant::now();
        self.home.check()?;
        let lease = self.control.create_lease(branch, at).await?;
        let name = ComputeName::parse(&lease.name)
            .map_err(|error| anyhow::anyhow!("the server made a lease: {error}"))?;
        // An earlier one of that name has no branch any more.
        stop::stop(self.state, &name).await?;
        let started = self.bring_up(&name, &lease, None, port, begin).await;
        if started.is_err()
            && let Err(error) = self.control.remove_branch(&lease.name).await
        {
            self.progress.note(&format!(
                "the server forgets {} after a while: {error:#}",
                lease.name
            ));
        }
        started
    }

    /// The branch that the compute `name` works on.
    async fn branch_of(&self, name: &ComputeName) -> Result<Branch> {
        if !name.is_reader() {
            return self.control.branch(name).await;
        }
        match self.control.find_branch(name).await? {
            Some(branch) => Ok(branch),
            None => Err(Failure::new(
                format!("there is no read-only compute {name}, or it was away for too long"),
                format!(
                    "`xylem compute ls` shows those there are; `xylem compute start {} --read-only` starts another",
                    name.branch()
                ),
            )),
        }
    }

    async fn bring_up(
        &mut self,
        name: &ComputeName,
        branch: &Branch,
        before: Option<&ComputeRecord>,
        port: Option<u16>,
        begin: Instant,
    ) -> Result<Started> {
        self.home.check()?;
        let host = self.host(name).await?;
        let mut taken = Vec::new();
        loop {
            let choice = self.choose_port(name, before, port, &taken)?;
            match self.try_on(name, branch, choice, &host, begin).await {
                // Somebody took it between the look and mariadbd's own.
                Err(error)
                    if port.is_none()
                        && taken.len() < PORT_TRIES
                        && error.downcast_ref::<PortTaken>().is_some() =>
                {
                    taken.push(choice.port);
                }
                started => return started,
            }
        }
    }

    /// Makes the compute's directory, in a place that mariadbd's user reaches.
    async fn host(&self, name: &ComputeName) -> Result<Host> {
        let user = user::of(self.project).await?;
        let home = match &user {
            Some(user) => {
                user.open_computes(self.state)?;
                programs::reachable(self.home, user)?
            }
            None => self.home.clone(),
        };
        let dir = self.state.compute(name);
        files::make_private_dir(dir.root())?;
        if let Some(user) = &user {
            user.let_pass(dir.root())?;
        }
        Ok(Host { user, home })
    }

    async fn try_on(
        &mut self,
        name: &ComputeName,
        branch: &Branch,
        choice: ports::Choice,
        host: &Host,
        begin: Instant,
    ) -> Result<Started> {
        let dir = self.state.compute(name);
        self.progress.say(format!("attaching to branch {name}"));
        // By its name: whoever has it now.
        let mut attached = self.control.attach(name).await?;
        if attached.empty {
            let start = Start {
                name,
                dir: dir.clone(),
                branch: format!("id:{}", attached.branch_id),
                port: choice.port,
                attached,
                at_lsn: None,
                host,
            };
            self.fill(&start).await?;
            attached = self.control.attach(name).await?;
            if attached.empty {
                return Err(Failure::new(
                    format!("branch {name} is still empty after its system tables were made"),
                    format!(
                        "see {} and {}",
                        dir.log().display(),
                        self.state.server_log().display()
                    ),
                ));
            }
        }
        let start = Start {
            name,
            dir,
            branch: format!("id:{}", attached.branch_id),
            port: choice.port,
            attached,
            at_lsn: branch.lease.then_some(branch.branch_point_lsn),
            host,
        };
        let record = self.run(&start).await?;
        self.remember_port(name, choice.port)?;
        Ok(Started {
            name: name.clone(),
            record,
            already: false,
            instead_of: choice.instead_of,
            took: begin.elapsed(),
        })
    }

    /// The compute runs, or is about to.
    async fn running(
        &self,
        name: &ComputeName,
        dir: &ComputeDir,
        record: &ComputeRecord,
        port: Option<u16>,
        begin: Instant,
    ) -> Result<Started> {
        if let Some(port) = port.filter(|port| *port != record.port) {
            return Err(Failure::new(
                format!(
                    "{} runs already, on port {} and not {port}",
                    name.described(),
                    record.port
                ),
                format!("stop it first: `xylem compute stop {name}`"),
            ));
        }
        let mut record = record.clone();
        if record.phase != Phase::Running || record.state() != ComputeState::Running {
            ready::wait(record.process, &record.socket, &dir.log(), record.log_from).await?;
            decoy::put(&dir.data())?;
            record.phase = Phase::Running;
            record.save(dir)?;
        }
        Ok(Started {
            name: name.clone(),
            record,
            already: true,
            instead_of: None,
            took: begin.elapsed(),
        })
    }

    /// The port given, else the one of last time, else the next free one.
    fn choose_port(
        &self,
        name: &ComputeName,
        before: Option<&ComputeRecord>,
        explicit: Option<u16>,
        taken: &[u16],
    ) -> Result<ports::Choice> {
        let main = is_main(name);
        let kept = if main {
            self.project.ports.mysql
        } else {
            // That of `main` goes with the name.
            before
                .map(|r| r.port)
                .filter(|port| self.project.ports.mysql != Some(*port))
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
            .filter(|(other, _)| other != name)
            .map(|(_, record)| record.port)
            .collect();
        let ports = &self.project.ports;
        avoid.extend([ports.grpc, ports.http].into_iter().flatten());
        avoid.extend(taken);
        if !main {
            avoid.extend(ports.mysql);
        }
        let flag = if main {
            "--mysql-port (`up`) or --port (`compute start`)"
        } else {
            "--port"
        };
        let what = name.described();
        let mut choice =
            ports::choose(&what, flag, self.project.bind, explicit, preferred, &avoid)?;
        // Branches other than main have no port of their own to miss.
        if kept.is_none() && !main {
            choice.instead_of = None;
        }
        Ok(choice)
    }

    fn remember_port(&mut self, name: &ComputeName, port: u16) -> Result<()> {
        if is_main(name) && self.project.ports.mysql != Some(port) {
            self.project.ports.mysql = Some(port);
            self.project.save(self.state)?;
        }
        Ok(())
    }

    /// Puts MariaDB's system tables into an empty branch.
    async fn fill(&mut self, start: &Start<'_>) -> Result<()> {
        let dir = &start.dir;
        self.progress.say("making the system tables".to_owned());
        // Other branches are worth keeping.
        let whole_project = is_main(start.name);
        self.project.half_made = whole_project;
        self.project.save(self.state)?;
        let sql = bootstrap::sql(self.home)?;
        files::write_atomic(&dir.bootstrap_sql(), sql.as_bytes(), files::SECRET)?;
        start.host.fresh(dir)?;
        start.host.give(&dir.data())?;
        self.write_options(start, None, true)?;
        let log_from = files::length_of(&dir.log());
        let user = start.host.user.as_ref();
        let log = files::open_log(&dir.log(), user)?;
        let mut command = Command::new(start.host.home.mariadbd());
        if let Some(user) = user {
            command.gid(user.gid).uid(user.uid);
        }
        let child = command
            .arg(defaults_file(dir))
            .args([
                "--bootstrap",
                "--enforce-storage-engine=",
                "--log-warnings=0",
            ])
            .args(["--max-allowed-packet=8M", "--net-buffer-length=16K"])
            // Each help topic is a commit; durable they are at the end.
            .arg("--innodb-flush-log-at-trx-commit=0")
            .env_clear()
            .envs(proc::harmless_environment())
            .envs(self.environment(start))
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
    async fn run(&mut self, start: &Start<'_>) -> Result<ComputeRecord> {
        let (name, dir) = (start.name, &start.dir);
        self.progress
            .say(format!("fetching what {} needs", name.described()));
        start.host.fresh(dir)?;
        let data = dir.data();
        let mut base = Materialise::new(&data);
        self.control
            .base_backup(&start.branch, start.attached.start_lsn, |item| {
                base.take(item)
            })
            .await?;
        log_tables::empty(&data)?;
        start.host.give(&data)?;
        let socket = self.write_options(start, base.log_bytes(), false)?;
        let _ = std::fs::remove_file(&socket);
        let user = account::client_user(&data);

        let mut args = vec![defaults_file(dir)];
        let id = &start.attached.branch_id;
        let accounts = self.project.accounts_wanted();
        let make_accounts = !self.project.without_accounts;
        let set_accounts = make_accounts && self.project.accounts_on(id) != accounts;
        let password = self.state.make_password()?;
        let mut init = String::new();
        if make_accounts {
            init.push_str(&bootstrap::own_account_sql(&password));
        }
        if set_accounts {
            init.push_str(&bootstrap::accounts_sql(&user, &password, accounts));
        }
        if start.at_lsn.is_some() {
            init.push_str(reader::INIT_SQL);
        }
        if !init.is_empty() {
            init.insert_str(0, account::NOT_IN_BINARY_LOG);
            start.host.write_for(&dir.init_sql(), init.as_bytes())?;
            let mut arg = OsString::from("--init-file=");
            arg.push(dir.init_sql());
            args.push(arg);
        }
        args.extend(self.project.mariadbd_args_of(is_main(name)));
        let client = mycnf::render_client(account::OWN_USER, &socket, start.port, &password)?;
        files::write_atomic(&dir.client_cnf(), client.as_bytes(), files::SECRET)?;

        self.progress.say(format!("starting {}", name.described()));
        put_aside(&dir.log());
        let log_from = files::length_of(&dir.log());
        let mariadbd = start.host.home.mariadbd();
        let process = Detached {
            program: &mariadbd,
            args,
            envs: self.environment(start),
            inherits: Inherits::Harmless,
            user: start.host.user.as_ref(),
            log: &dir.log(),
            cwd: &data,
        }
        .spawn()?;
        let mut record = self.record(start, process, socket, log_from);
        record.user = user;
        record.save(dir)?;
        let ready = ready::wait(process, &record.socket, &dir.log(), log_from).await;
        let _ = std::fs::remove_file(dir.init_sql());
        if ready.is_err() && ComputeRecord::load(dir).is_some_and(|now| now.phase == Phase::Stopped)
        {
            return Err(Failure::new(
                format!(
                    "another command ended {} while it started",
                    name.described()
                ),
                "start it again",
            ));
        }
        if ready.is_ok() {
            decoy::put(&data)?;
        }
        if let Err(error) = ready {
            let log = files::read_log(&dir.log(), log_from);
            return Err(if log.contains(PORT_TAKEN) {
                error.context(PortTaken(start.port))
            } else {
                error
            });
        }
        if start.at_lsn.is_some()
            && let Err(error) = reader::check(self.home, dir)
        {
            process.kill().await?;
            return Err(error);
        }
        if set_accounts {
            self.check_login(dir, log_from)?;
            // A reader's branch is not started on twice but after a crash.
            if start.at_lsn.is_none() {
                self.project.accounts_of.insert(id.clone(), accounts);
                self.project.save(self.state)?;
            }
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
        start: &Start<'_>,
        process: Process,
        socket: PathBuf,
        log_from: u64,
    ) -> ComputeRecord {
        ComputeRecord {
            branch: start.name.branch().to_string(),
            branch_id: start.attached.branch_id.clone(),
            process,
            phase: Phase::Starting,
            bind: self.project.bind,
            host: ports::reachable(self.project.bind).to_string(),
            port: start.port,
            socket,
            user: account::root(),
            read_only: start.at_lsn.is_some(),
            at_lsn: start.at_lsn,
            epoch: start.attached.epoch,
            start_lsn: start.attached.start_lsn,
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
            "xylem's own client cannot log in with the password just set: {}",
            said.trim()
        );
        Err(ready::died(&what, &dir.log(), log_from))
    }

    fn environment(&self, start: &Start<'_>) -> Vec<(String, OsString)> {
        let home = &start.host.home;
        vec![
            ("LD_LIBRARY_PATH".to_owned(), home.library_path()),
            ("LD_PRELOAD".to_owned(), home.client_library().into()),
            ("XYLEM_DATADIR".to_owned(), start.dir.data().into()),
        ]
    }

    /// Writes `my.cnf`; returns where the socket will be.
    fn write_options(
        &self,
        start: &Start<'_>,
        log_file_bytes: Option<u64>,
        bootstrap: bool,
    ) -> Result<PathBuf> {
        let dir = &start.dir;
        let (host, home) = (start.host, &start.host.home);
        let socket = dir.socket(host.user.as_ref())?;
        let server: SocketAddr =
            self.server.grpc.parse().with_context(|| {
                format!("{:?} in server.json is not an address", self.server.grpc)
            })?;
        let mut includes = Vec::new();
        for (nth, file) in [self.state.custom_cnf(), dir.custom_cnf()]
            .into_iter()
            .enumerate()
        {
            if file.exists() {
                includes.push(host.readable(file, dir.included_cnf(nth))?);
            }
        }
        let token_file = self.state.token_file();
        let token_file = if token_file.exists() {
            Some(host.readable(token_file, dir.token_file())?)
        } else {
            None
        };
        let options = Options {
            basedir: home.basedir(),
            share: home.share(),
            plugin_dir: home.plugin_dir(),
            datadir: dir.data(),
            tmpdir: dir.tmp(),
            sql_files: dir.sql_files(),
            socket: socket.clone(),
            pid_file: dir.pid_file(),
            log_error: dir.log(),
            bind: self.project.bind,
            port: start.port,
            as_root: host.user.is_none() && rustix::process::geteuid().is_root(),
            buffer_pool: self
                .project
                .buffer_pool
                .as_deref()
                .unwrap_or(mycnf::BUFFER_POOL),
            page_size: self.project.page_size,
            undo_tablespaces: account::undo_tablespaces(&dir.data()),
            log_file_bytes,
            includes,
            page_server: PageServer {
                host: server.ip().to_string(),
                port: server.port(),
                branch: &start.branch,
                epoch: start.attached.epoch,
                start_lsn: start.attached.start_lsn,
                token_file,
            },
            bootstrap,
            read_only: start.at_lsn.is_some(),
            left_another: !is_main(start.name),
        };
        let text = mycnf::render(&options)?;
        host.write_for(&dir.my_cnf(), text.as_bytes())?;
        Ok(socket)
    }
}

/// Whether it is the compute of branch `main`, which has a port of its own.
fn is_main(name: &ComputeName) -> bool {
    *name == ComputeName::from(BranchName::main())
}

fn defaults_file(dir: &ComputeDir) -> OsString {
    let mut option = OsString::from("--defaults-file=");
    option.push(dir.my_cnf());
    option
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
