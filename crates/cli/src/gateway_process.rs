//! The gateway process of `xylem up`: starting, waiting, stopping. `gateway.json` keeps
//! which one it is.

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
use std::net::SocketAddr;
use std::time::Duration;

/// How long clients may go on after a gateway was told to stop.
pub const DRAIN: Duration = Duration::from_secs(30);

/// How long the gateway may take to listen.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How often the log of a gateway that starts is looked at.
const POLL: Duration = Duration::from_millis(4);

/// How long a gateway whose computes have stopped may take to end: its clients have lost
/// their connections, and only logins that were not finished are left.
pub const END_LIMIT: Duration = Duration::from_secs(5);

/// How long the end of a gateway takes at most while computes run.
const DRAIN_LIMIT: Duration = DRAIN.saturating_add(END_LIMIT);

/// How often another port is tried when the one chosen is taken meanwhile.
const PORT_TRIES: usize = 20;

/// The gateway process, as `gateway.json` keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRecord {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// The address that it listens on.
    pub listen: SocketAddr,
    /// It was ended on purpose.
    #[serde(default)]
    pub stopped: bool,
    /// Offset in bytes at which this run's lines begin in `gateway.log`.
    pub log_from: u64,
}

/// The state of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayState {
    /// Its process runs.
    Running,
    /// It was ended on purpose, or never started.
    Stopped,
    /// It ended by itself, or was ended behind our back.
    Crashed,
}

impl GatewayState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            GatewayState::Running => "running",
            GatewayState::Stopped => "stopped",
            GatewayState::Crashed => "crashed",
        }
    }
}

impl GatewayRecord {
    /// Reads the record in `state`; `None` when there is none, or half of one.
    pub fn load(state: &StateDir) -> Option<GatewayRecord> {
        serde_json::from_slice(&std::fs::read(state.gateway_file()).ok()?).ok()
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, state: &StateDir) -> Result<()> {
        files::write_atomic(
            &state.gateway_file(),
            &serde_json::to_vec_pretty(self)?,
            files::SECRET,
        )
    }

    /// Its present state.
    pub fn state(&self) -> GatewayState {
        match (self.process.is_alive(), self.stopped) {
            (true, _) => GatewayState::Running,
            (false, true) => GatewayState::Stopped,
            (false, false) => GatewayState::Crashed,
        }
    }

    /// The address at which this machine reaches it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(ports::reachable(self.listen.ip()), self.listen.port())
    }

    /// Whether it greets a client, in one quick look.
    pub fn answers(&self) -> bool {
        ready::probe_at(self.address())
    }
}

/// The gateway that runs, if one does and was not told to stop.
pub fn running(state: &StateDir) -> Option<GatewayRecord> {
    GatewayRecord::load(state).filter(|record| !record.stopped && record.process.is_alive())
}

/// The words by which a gateway says that it takes clients at `address`: `xylem up` looks
/// for them in its log file, since another program may greet there as well.
pub fn listening(address: SocketAddr) -> String {
    format!("The gateway listens on {address}.")
}

/// Refuses a port that the gateway cannot have, before anything is started.
///
/// # Errors
/// When the port is taken, or given for something else as well, or the gateway runs on
/// another.
pub fn check_port(state: &StateDir, project: &Project, given: &Ports) -> Result<()> {
    let Some(port) = given
        .gateway_port
        .filter(|_| project.settings.has_gateway())
    else {
        return Ok(());
    };
    for (flag, other) in [
        ("--mysql-port", given.mysql_port),
        ("--grpc-port", given.server.grpc_port),
        ("--http-port", given.server.http_port),
    ] {
        if other == Some(port) {
            return Err(Failure::usage(
                format!("--gateway-port and {flag} cannot both be {port}"),
                "give them different ports",
            ));
        }
    }
    if let Some(record) = running(state) {
        return check_wanted(&record, port);
    }
    choose(state, project, Some(port), &[]).map(|_| ())
}

fn check_wanted(record: &GatewayRecord, port: u16) -> Result<()> {
    if record.listen.port() == port {
        return Ok(());
    }
    Err(Failure::new(
        format!(
            "the gateway runs already, on {} and not on port {port}",
            record.listen
        ),
        "stop it first: `xylem down`, or `xylem up --gateway off`",
    ))
}

/// Starts the gateway unless it runs, and waits until it listens. The caller holds the
/// lock; the server runs. False when the gateway ran already.
///
/// # Errors
/// When a wanted port is taken, or the gateway ends.
pub async fn ensure(
    app: &App,
    home: &Home,
    project: &mut Project,
    wanted: Option<u16>,
    progress: &Progress,
) -> Result<bool> {
    let state = &app.state;
    if let Some(record) = running(state) {
        check_wanted(&record, wanted.unwrap_or(record.listen.port()))?;
        return Ok(false);
    }
    // A command that told it to stop may have been ended before the gateway was.
    if let Some(record) = GatewayRecord::load(state) {
        record.process.kill().await?;
    }
    let choice = start(app, home, project, wanted, progress).await?;
    if let Some(taken) = choice.instead_of {
        progress.note(&format!(
            "port {taken} is taken: the gateway uses {}",
            choice.port
        ));
    }
    if project.ports.gateway_port != Some(choice.port) {
        project.ports.gateway_port = Some(choice.port);
        project.save(state)?;
    }
    Ok(true)
}

/// Starts the gateway, on another port if the one chosen is taken meanwhile.
async fn start(
    app: &App,
    home: &Home,
    project: &Project,
    wanted: Option<u16>,
    progress: &Progress,
) -> Result<Choice> {
    let state = &app.state;
    let mut taken = Vec::new();
    loop {
        let choice = choose(state, project, wanted, &taken)?;
        progress.say("starting the gateway".to_owned());
        let record = spawn(state, home, project, choice.port)?;
        let Err(error) = wait_listening(state, &record).await else {
            return Ok(choice);
        };
        // It may have been taken after it was found free.
        let log = log_file::read(&state.gateway_log(), record.log_from);
        let lost = wanted.is_none() && ports::was_taken(&log, record.listen);
        if !lost || taken.len() >= PORT_TRIES {
            return Err(error);
        }
        taken.push(choice.port);
    }
}

/// Chooses the gateway's port: the `explicit` one, else the one of last time, else the
/// next free one that is not in `taken`.
///
/// # Errors
/// When the explicit port is taken, or none is free.
pub(crate) fn choose(
    state: &StateDir,
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
    avoid.extend(taken);
    Wanted {
        what: "the gateway",
        flag: "--gateway-port",
        address: project.settings.gateway_bind(),
        explicit,
        preferred: ports.gateway_port.unwrap_or(project::GATEWAY_PORT),
    }
    .choose(&avoid)
}

fn spawn(state: &StateDir, home: &Home, project: &Project, port: u16) -> Result<GatewayRecord> {
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let listen = SocketAddr::new(project.settings.gateway_bind(), port);
    let mut args: Vec<OsString> = vec!["gateway".into()];
    let mut option = |name: &str, value: OsString| args.extend([name.into(), value]);
    option("--dir", state.root().into());
    option("--listen", listen.to_string().into());
    if let Some(domain) = &project.settings.gateway.gateway_domain {
        option("--domain", domain.into());
    }
    put_aside(&state.gateway_log());
    let log_from = files::length_of(&state.gateway_log());
    let process = Detached {
        program: &me,
        args,
        // It works in another directory, where a relative path would lead elsewhere.
        envs: vec![(home::VARIABLE.to_owned(), home.root().into())],
        // It starts the server if that has ended.
        inherits: Inherits::All,
        user: None,
        log: &state.gateway_log(),
        cwd: state.root(),
    }
    .spawn()?;
    let record = GatewayRecord {
        process,
        listen,
        stopped: false,
        log_from,
    };
    record.save(state)?;
    Ok(record)
}

/// Waits until the gateway says that it listens.
async fn wait_listening(state: &StateDir, record: &GatewayRecord) -> Result<()> {
    let log = state.gateway_log();
    let wanted = listening(record.listen);
    let listens = async {
        loop {
            let alive = record.process.is_alive();
            if log_file::read(&log, record.log_from).contains(&wanted) {
                return Ok(());
            }
            if !alive {
                return Err(log_file::died(
                    "the gateway ended before it listened",
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
                "the gateway (pid {}) does not listen after {} s",
                record.process.pid,
                READY_LIMIT.as_secs()
            ),
            format!(
                "see {}, or go without it: `xylem up --gateway off`",
                log.display()
            ),
        )),
    }
}

/// Tells the gateway to stop: it takes no further clients, and ends when its clients have
/// gone. Its process, if it ran.
///
/// # Errors
/// When it cannot be signalled.
pub fn tell_to_stop(state: &StateDir) -> Result<Option<Process>> {
    let Some(process) = mark(state)? else {
        return Ok(None);
    };
    let ran = process
        .signal(Signal::TERM)
        .context("cannot stop the gateway")?;
    Ok(Some(process).filter(|_| ran))
}

/// Waits until a gateway that was told to stop has ended; kills it after `limit`, and says
/// so.
///
/// # Errors
/// When it does not go.
pub async fn wait_stopped(process: Process, limit: Duration) -> Result<()> {
    if process.wait_gone(limit).await {
        return Ok(());
    }
    eprintln!(
        "the gateway (pid {}) did not end in {} s: killing it (clients that have not logged in yet must connect again)",
        process.pid,
        limit.as_secs()
    );
    process.kill().await.context("cannot kill the gateway")
}

/// Stops the gateway while computes go on: its clients have [`DRAIN`]. False when it did
/// not run.
///
/// # Errors
/// When it cannot be signalled, or does not go.
pub async fn stop(state: &StateDir) -> Result<bool> {
    let Some(process) = tell_to_stop(state)? else {
        return Ok(false);
    };
    wait_stopped(process, DRAIN_LIMIT).await?;
    Ok(true)
}

/// Ends the gateway at once (SIGKILL).
///
/// # Errors
/// When it cannot be signalled.
pub fn kill(state: &StateDir) -> Result<()> {
    if let Some(process) = mark(state)? {
        process.signal(Signal::KILL)?;
    }
    Ok(())
}

/// Notes that the end is on purpose. Before the signal, so that a command which watches
/// does not take it for a crash. The process, if there is one on record.
fn mark(state: &StateDir) -> Result<Option<Process>> {
    let Some(record) = GatewayRecord::load(state) else {
        return Ok(None);
    };
    if !record.stopped {
        GatewayRecord {
            stopped: true,
            ..record.clone()
        }
        .save(state)?;
    }
    Ok(Some(record.process))
}
