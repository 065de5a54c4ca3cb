//! The processes that `xylem up` starts beside the server and the computes, the gateway and
//! the API: starting, waiting, stopping. `gateway.json` and `api.json` keep which ones they
//! are.

use crate::app::App;
use crate::compute::{ready, record};
use crate::failure::Failure;
use crate::files;
use crate::home::{self, Home};
use crate::log_file;
use crate::ports::{self, Choice, Wanted};
use crate::process::Process;
use crate::progress::Progress;
use crate::project::{self, Project};
use crate::settings::Ports;
use crate::spawn::{Detached, Inherits, put_aside};
use crate::state::StateDir;
use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;
use utoipa::ToSchema;
use xylem_tls::ServerFiles;
use xylem_tls::authority::Paths;

/// A role of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// [`crate::cmd::gateway`]
    Gateway,
    /// [`crate::cmd::api`]
    Api,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 2] = [Role::Gateway, Role::Api];

    /// Its name: that of its command, of its files and of its setting.
    pub fn name(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Api => "api",
        }
    }

    /// The name of its log file.
    pub fn log_name(self) -> &'static str {
        match self {
            Role::Gateway => "gateway.log",
            Role::Api => "api.log",
        }
    }

    /// Its description in a sentence.
    pub fn described(self) -> &'static str {
        match self {
            Role::Gateway => "the gateway",
            Role::Api => "the API",
        }
    }

    /// The flag of its port.
    pub fn port_flag(self) -> &'static str {
        match self {
            Role::Gateway => "--gateway-port",
            Role::Api => "--api-port",
        }
    }

    /// Whether the project is to have it.
    pub fn is_wanted(self, project: &Project) -> bool {
        match self {
            Role::Gateway => project.settings.has_gateway(),
            Role::Api => project.settings.has_api(),
        }
    }

    /// Its address.
    pub fn bind(self, project: &Project) -> IpAddr {
        match self {
            Role::Gateway => project.settings.gateway_bind(),
            Role::Api => project.settings.api_bind(),
        }
    }

    /// Its port among `ports`.
    pub fn port(self, ports: &Ports) -> Option<u16> {
        match self {
            Role::Gateway => ports.gateway_port,
            Role::Api => ports.api_port,
        }
    }

    /// Sets its port among `ports`.
    pub fn set_port(self, ports: &mut Ports, port: Option<u16>) {
        match self {
            Role::Gateway => ports.gateway_port = port,
            Role::Api => ports.api_port = port,
        }
    }

    fn preferred_port(self) -> u16 {
        match self {
            Role::Gateway => project::GATEWAY_PORT,
            Role::Api => project::API_PORT,
        }
    }

    /// Its arguments beside the address.
    fn args(self, project: &Project) -> Vec<OsString> {
        let settings = &project.settings;
        match self {
            Role::Gateway => match &settings.gateway.gateway_domain {
                Some(domain) => vec!["--domain".into(), domain.into()],
                None => Vec::new(),
            },
            Role::Api => {
                let dirs = settings.api.api_files.iter();
                dirs.flat_map(|dir| ["--files".into(), dir.into()])
                    .collect()
            }
        }
    }

    /// The loss of its clients when it is ended by force.
    fn lost(self) -> &'static str {
        match self {
            Role::Gateway => "clients that have not logged in yet must connect again",
            Role::Api => "look at what changed: operations may not have ended",
        }
    }
}

/// How long clients may go on after a gateway was told to stop, and operations after the API
/// was.
pub const DRAIN: Duration = Duration::from_secs(30);

/// How long a role may take to listen.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How often the log of a role that starts is looked at.
const POLL: Duration = Duration::from_millis(4);

/// How long a gateway whose computes have stopped may take to end: its clients have lost
/// their connections, and only logins that were not finished are left.
pub const END_LIMIT: Duration = Duration::from_secs(5);

/// How long the end of a role takes at most while computes run.
const DRAIN_LIMIT: Duration = DRAIN.saturating_add(END_LIMIT);

/// How long the doctor waits for the API to take a connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How often another port is tried when the one chosen is taken meanwhile.
const PORT_TRIES: usize = 20;

/// The process of a role, as `gateway.json` and `api.json` keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRecord {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// The address that it listens on.
    pub listen: SocketAddr,
    /// It was ended on purpose.
    #[serde(default)]
    pub stopped: bool,
    /// Offset in bytes at which this run's lines begin in the role's log.
    pub log_from: u64,
}

/// The state of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleState {
    /// Its process runs.
    Running,
    /// It was ended on purpose, or never started.
    Stopped,
    /// It ended by itself, or was ended behind our back.
    Crashed,
}

impl RoleState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            RoleState::Running => "running",
            RoleState::Stopped => "stopped",
            RoleState::Crashed => "crashed",
        }
    }
}

impl RoleRecord {
    /// Reads the record in `state`; `None` when there is none, or half of one.
    pub fn load(state: &StateDir, role: Role) -> Option<RoleRecord> {
        serde_json::from_slice(&std::fs::read(state.role_file(role)).ok()?).ok()
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, state: &StateDir, role: Role) -> Result<()> {
        files::write_atomic(
            &state.role_file(role),
            &serde_json::to_vec_pretty(self)?,
            files::SECRET,
        )
    }

    /// Its present state.
    pub fn state(&self) -> RoleState {
        match (self.process.is_alive(), self.stopped) {
            (true, _) => RoleState::Running,
            (false, true) => RoleState::Stopped,
            (false, false) => RoleState::Crashed,
        }
    }

    /// The address at which this machine reaches it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(ports::reachable(self.listen.ip()), self.listen.port())
    }

    /// Whether it takes a client, in one quick look.
    pub fn answers(&self, role: Role) -> bool {
        match role {
            Role::Gateway => ready::probe_at(self.address()),
            Role::Api => TcpStream::connect_timeout(&self.address(), ANSWER_LIMIT).is_ok(),
        }
    }
}

/// The process of a role that runs, if one does and was not told to stop.
pub fn running(state: &StateDir, role: Role) -> Option<RoleRecord> {
    RoleRecord::load(state, role).filter(|record| !record.stopped && record.process.is_alive())
}

/// The words by which a role says that it takes clients at `address`: `xylem up` looks
/// for them in its log file, since another program may greet there as well.
pub fn listening(role: Role, address: SocketAddr) -> String {
    let mut who = role.described().to_owned();
    who.replace_range(..1, "T");
    format!("{who} listens on {address}.")
}

/// The certificate of the project's server, or the one that replaces it.
///
/// # Errors
/// When the project's settings cannot be read.
pub fn certificate(app: &App) -> Result<ServerFiles> {
    let server = Project::load(&app.state)?.settings.server;
    let certificate = match server.tls_cert {
        Some(own) => PathBuf::from(own),
        None => Paths::in_dir(&app.state.certificates()).server,
    };
    Ok(ServerFiles {
        key: server
            .tls_key
            .map_or_else(|| certificate.clone(), PathBuf::from),
        clients: None,
        certificate,
    })
}

/// Refuses a port that a role cannot have, before anything is started.
///
/// # Errors
/// When the port is taken, or given for something else as well, or the role runs on
/// another.
pub fn check_port(state: &StateDir, role: Role, project: &Project, given: &Ports) -> Result<()> {
    let port = role.port(given).filter(|_| role.is_wanted(project));
    let Some(port) = port else {
        return Ok(());
    };
    for (flag, other) in [
        ("--gateway-port", given.gateway_port),
        ("--api-port", given.api_port),
        ("--mysql-port", given.mysql_port),
        ("--grpc-port", given.server.grpc_port),
        ("--http-port", given.server.http_port),
    ] {
        if other == Some(port) && flag != role.port_flag() {
            return Err(Failure::usage(
                format!("{} and {flag} cannot both be {port}", role.port_flag()),
                "give them different ports",
            ));
        }
    }
    if let Some(record) = running(state, role) {
        return check_wanted(role, &record, port);
    }
    choose(state, role, project, Some(port), &[]).map(|_| ())
}

fn check_wanted(role: Role, record: &RoleRecord, port: u16) -> Result<()> {
    if record.listen.port() == port {
        return Ok(());
    }
    Err(Failure::new(
        format!(
            "{} runs already, on {} and not on port {port}",
            role.described(),
            record.listen
        ),
        format!(
            "stop it first: `xylem down`, or `xylem up --{} off`",
            role.name()
        ),
    ))
}

/// Starts a role unless it runs, and waits until it listens. The caller holds the lock; the
/// server runs. False when the role ran already.
///
/// # Errors
/// When a wanted port is taken, or the process ends.
pub async fn ensure(
    app: &App,
    role: Role,
    home: &Home,
    project: &mut Project,
    wanted: Option<u16>,
    progress: &Progress,
) -> Result<bool> {
    let state = &app.state;
    if let Some(record) = running(state, role) {
        check_wanted(role, &record, wanted.unwrap_or(record.listen.port()))?;
        return Ok(false);
    }
    // A command that told it to stop may have been ended before the role was.
    if let Some(record) = RoleRecord::load(state, role) {
        record.process.kill().await?;
    }
    let choice = start(app, role, home, project, wanted, progress).await?;
    if let Some(taken) = choice.instead_of {
        progress.note(&format!(
            "port {taken} is taken: {} uses {}",
            role.described(),
            choice.port
        ));
    }
    if role.port(&project.ports) != Some(choice.port) {
        role.set_port(&mut project.ports, Some(choice.port));
        project.save(state)?;
    }
    Ok(true)
}

/// Starts a role, on another port if the one chosen is taken meanwhile.
async fn start(
    app: &App,
    role: Role,
    home: &Home,
    project: &Project,
    wanted: Option<u16>,
    progress: &Progress,
) -> Result<Choice> {
    let state = &app.state;
    let mut taken = Vec::new();
    loop {
        let choice = choose(state, role, project, wanted, &taken)?;
        progress.say(format!("starting {}", role.described()));
        let record = spawn(state, role, home, project, choice.port)?;
        let Err(error) = wait_listening(state, role, &record).await else {
            return Ok(choice);
        };
        // It may have been taken after it was found free.
        let log = log_file::read(&state.role_log(role), record.log_from);
        let lost = wanted.is_none() && ports::was_taken(&log, record.listen);
        if !lost || taken.len() >= PORT_TRIES {
            return Err(error);
        }
        taken.push(choice.port);
    }
}

/// Chooses a role's port: the `explicit` one, else the one of last time, else the
/// next free one that is not in `taken`.
///
/// # Errors
/// When the explicit port is taken, or none is free.
pub(crate) fn choose(
    state: &StateDir,
    role: Role,
    project: &Project,
    explicit: Option<u16>,
    taken: &[u16],
) -> Result<Choice> {
    let ports = project.ports;
    // Those of stopped computes as well, which would move about otherwise.
    let computes = record::list(state);
    let mut avoid: Vec<u16> = computes.iter().map(|(_, record)| record.port).collect();
    let others = [
        ports.mysql_port,
        ports.server.grpc_port,
        ports.server.http_port,
    ];
    avoid.extend(others.into_iter().flatten());
    let roles = Role::ALL.into_iter().filter(|other| *other != role);
    avoid.extend(roles.filter_map(|other| other.port(&ports)));
    avoid.extend(taken);
    Wanted {
        what: role.described(),
        flag: role.port_flag(),
        address: role.bind(project),
        explicit,
        preferred: role.port(&ports).unwrap_or(role.preferred_port()),
    }
    .choose(&avoid)
}

fn spawn(
    state: &StateDir,
    role: Role,
    home: &Home,
    project: &Project,
    port: u16,
) -> Result<RoleRecord> {
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let listen = SocketAddr::new(role.bind(project), port);
    let mut args: Vec<OsString> = vec![role.name().into()];
    let mut option = |name: &str, value: OsString| args.extend([name.into(), value]);
    option("--dir", state.root().into());
    option("--listen", listen.to_string().into());
    args.extend(role.args(project));
    let log = state.role_log(role);
    put_aside(&log);
    let log_from = files::length_of(&log);
    let process = Detached {
        program: &me,
        args,
        // It works in another directory, where a relative path would lead elsewhere.
        envs: vec![(home::VARIABLE.to_owned(), home.root().into())],
        // It starts the server if that has ended.
        inherits: Inherits::All,
        user: None,
        log: &log,
        cwd: state.root(),
    }
    .spawn()?;
    let record = RoleRecord {
        process,
        listen,
        stopped: false,
        log_from,
    };
    record.save(state, role)?;
    Ok(record)
}

/// Waits until a role says that it listens.
async fn wait_listening(state: &StateDir, role: Role, record: &RoleRecord) -> Result<()> {
    let log = state.role_log(role);
    let wanted = listening(role, record.listen);
    let listens = async {
        loop {
            let alive = record.process.is_alive();
            if log_file::read(&log, record.log_from).contains(&wanted) {
                return Ok(());
            }
            if !alive {
                return Err(log_file::died(
                    &format!("{} ended before it listened", role.described()),
                    &log,
                    record.log_from,
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(READY_LIMIT, listens).await {
        Ok(listens) => listens,
        Err(_) => Err(Failure::new(
            format!(
                "{} (pid {}) does not listen after {} s",
                role.described(),
                record.process.pid,
                READY_LIMIT.as_secs()
            ),
            format!(
                "see {}, or go without it: `xylem up --{} off`",
                log.display(),
                role.name()
            ),
        )),
    }
}

/// Tells a role to stop: it takes no further clients, and ends when its clients have gone.
/// Its process, if it ran.
///
/// # Errors
/// When it cannot be signalled.
pub fn tell_to_stop(state: &StateDir, role: Role) -> Result<Option<Process>> {
    let Some(process) = mark(state, role)? else {
        return Ok(None);
    };
    let ran = process
        .signal(Signal::TERM)
        .with_context(|| format!("cannot stop {}", role.described()))?;
    Ok(Some(process).filter(|_| ran))
}

/// Waits until a role that was told to stop has ended; kills it after `limit`, and says so.
///
/// # Errors
/// When it does not go.
pub async fn wait_stopped(role: Role, process: Process, limit: Duration) -> Result<()> {
    if process.wait_gone(limit).await {
        return Ok(());
    }
    eprintln!(
        "{} (pid {}) did not end in {} s: killing it ({})",
        role.described(),
        process.pid,
        limit.as_secs(),
        role.lost()
    );
    let killed = process.kill().await;
    killed.with_context(|| format!("cannot kill {}", role.described()))
}

/// Stops a role while computes go on: its clients have [`DRAIN`]. False when it did not
/// run.
///
/// # Errors
/// When it cannot be signalled, or does not go.
pub async fn stop(state: &StateDir, role: Role) -> Result<bool> {
    let Some(process) = tell_to_stop(state, role)? else {
        return Ok(false);
    };
    wait_stopped(role, process, DRAIN_LIMIT).await?;
    Ok(true)
}

/// Ends a role at once (SIGKILL).
///
/// # Errors
/// When it cannot be signalled.
pub fn kill(state: &StateDir, role: Role) -> Result<()> {
    if let Some(process) = mark(state, role)? {
        process.signal(Signal::KILL)?;
    }
    Ok(())
}

/// Notes that the end is on purpose. Before the signal, so that a command which watches
/// does not take it for a crash. The process, if there is one on record.
fn mark(state: &StateDir, role: Role) -> Result<Option<Process>> {
    let Some(record) = RoleRecord::load(state, role) else {
        return Ok(None);
    };
    if !record.stopped {
        RoleRecord {
            stopped: true,
            ..record.clone()
        }
        .save(state, role)?;
    }
    Ok(Some(record.process))
}
