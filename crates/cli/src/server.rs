//! The server process: starting, waiting, stopping.

use crate::app::App;
use crate::compute::mycnf::reaches;
use crate::compute::record;
use crate::control::Control;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::keys;
use crate::log_file;
use crate::ports::{self, Wanted};
use crate::process::Process;
use crate::progress::Progress;
use crate::project::{self, Project};
use crate::run_as;
use crate::settings::{Ports, ServerPorts};
use crate::spawn::{Detached, Inherits, put_aside};
use crate::state::{ServerRecord, StateDir};
use crate::timing::Timer;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tonic::Code;
use xylem_tls::authority::Paths;

/// How long the server may take to open its branches.
const READY_LIMIT: Duration = Duration::from_secs(600);

/// How long, after a server was started, another one that has its address and refuses the
/// token is taken for another project's: the new server is about to end, and says why.
const STRANGER_LIMIT: Duration = Duration::from_secs(15);

/// How long the server may take to stop by itself.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How often other ports are tried when those chosen are taken meanwhile.
const PORT_TRIES: usize = 20;

/// A server that is ready.
#[derive(Debug)]
pub struct Running {
    /// Its process and addresses.
    pub record: ServerRecord,
    /// A connection to it.
    pub control: Control,
}

/// Starts the server unless it runs, and waits until it is ready. The caller
/// holds the lock.
///
/// # Errors
/// When a wanted port is taken, or the server ends.
pub async fn ensure(
    app: &App,
    home: &Home,
    project: &mut Project,
    wanted: ServerPorts,
    progress: &Progress,
) -> Result<Running> {
    let state = &app.state;
    if let Some(running) = running(app, wanted, progress).await? {
        return Ok(running);
    }
    prepare(app, home, project, progress).await?;
    let (choice, running) = start(app, project, wanted, progress).await?;
    let Chosen { grpc, http } = choice;
    for (what, choice) in [("gRPC", grpc), ("HTTP", http)] {
        if let Some(taken) = choice.instead_of {
            progress.note(&format!(
                "port {taken} is taken: the server's {what} uses {}",
                choice.port
            ));
        }
    }
    let ports = ServerPorts {
        grpc_port: Some(grpc.port),
        http_port: Some(http.port),
    };
    if project.ports.server != ports {
        project.ports.server = ports;
        project.save(state)?;
    }
    Ok(running)
}

/// The server, once it is ready, if it runs.
///
/// # Errors
/// When it has other ports than those that are wanted, or does not get ready.
pub async fn running(
    app: &App,
    wanted: ServerPorts,
    progress: &Progress,
) -> Result<Option<Running>> {
    let record = app.state.server_record();
    let Some(record) = record.filter(|record| record.process.is_alive()) else {
        return Ok(None);
    };
    check_wanted(&record, wanted)?;
    let process = record.process;
    match wait_ready(app, record, Duration::ZERO, progress).await {
        Ok(running) => Ok(Some(running)),
        // It was dying already, killed from outside, and is gone now.
        Err(_) if !process.is_alive() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Starts the server, on other ports if those chosen are taken meanwhile.
async fn start(
    app: &App,
    project: &Project,
    wanted: ServerPorts,
    progress: &Progress,
) -> Result<(Chosen, Running)> {
    let state = &app.state;
    let asked = Asked {
        address: project.settings.server_bind(),
        kept: project.ports,
        grpc: expected_by_computes(state, project, wanted.grpc_port)?.or(wanted.grpc_port),
        http: wanted.http_port,
    };
    keys::ensure(app)?;
    place_socket(state, project).await;
    let mut taken = Vec::new();
    loop {
        let chosen = asked.choose(&taken)?;
        check_computes(app, project, chosen.grpc.port)?;
        progress.say("starting the server".to_owned());
        let record = spawn(state, project, chosen.grpc.port, chosen.http.port)?;
        let log_from = record.log_from;
        let error = match wait_ready(app, record, STRANGER_LIMIT, progress).await {
            Ok(running) => return Ok((chosen, running)),
            Err(error) => error,
        };
        // A port may have been taken after it was found free.
        let log = log_file::read(&state.server_log(), log_from);
        let lost = asked.lost(&log, chosen.grpc.port, chosen.http.port);
        match lost.filter(|_| taken.len() < PORT_TRIES) {
            Some(port) => taken.push(port),
            None => return Err(error),
        }
    }
}

/// The gRPC port on which a compute that runs waits for its server.
fn expected_by_computes(
    state: &StateDir,
    project: &Project,
    wanted: Option<u16>,
) -> Result<Option<u16>> {
    let computes = record::list(state);
    let runs = computes.iter().any(|(_, c)| c.process.is_alive());
    let expected = project.ports.server.grpc_port.filter(|_| runs);
    match (expected, wanted) {
        (Some(expected), Some(wanted)) if expected != wanted => Err(Failure::new(
            format!("a compute runs and waits for its server on port {expected}, not {wanted}"),
            "leave --grpc-port out, or stop the compute first: `xylem compute stop main`",
        )),
        _ => Ok(expected),
    }
}

/// Gives the server's socket a place that computes of another account can reach. What is
/// wrong with the account or the place is reported when a compute is started.
async fn place_socket(state: &StateDir, project: &Project) {
    let computes = record::list(state);
    // What runs knows where the socket is.
    if computes.iter().any(|(_, c)| c.process.is_alive()) {
        return;
    }
    if let Ok(Some(user)) = run_as::of(project).await {
        let _ = run_as::open_computes(&user, state);
    }
}

/// Refuses to start a server that a compute which runs cannot reach: without TLS, as
/// older versions started it, or at another address. It would end at its next call.
fn check_computes(app: &App, project: &Project, port: u16) -> Result<()> {
    let state = &app.state;
    let bind = ports::reachable(project.settings.server_bind());
    let address = SocketAddr::new(bind, port);
    let socket = state.server_socket();
    for (name, compute) in record::list(state) {
        let text = std::fs::read_to_string(state.compute(&name).my_cnf());
        let lost = text.is_ok_and(|text| !reaches(&text, socket.as_deref(), address));
        if compute.process.is_alive() && lost {
            let stop = app.command(&format!("compute stop {name}"));
            return Err(Failure::new(
                format!(
                    "{} runs, and knows the server by another address or without TLS, which the server now requires: it could not go on",
                    name.described()
                ),
                format!("stop it first, nothing that it has acknowledged is lost: `{stop}`"),
            ));
        }
    }
    Ok(())
}

/// The ports of one try to start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen {
    /// That of gRPC.
    pub grpc: ports::Choice,
    /// That of HTTP.
    pub http: ports::Choice,
}

/// The ports that a start must choose from.
pub(crate) struct Asked {
    /// The address that the server listens on.
    pub address: IpAddr,
    /// Those of last time.
    pub kept: Ports,
    /// The port that gRPC must have.
    pub grpc: Option<u16>,
    /// The port that HTTP must have.
    pub http: Option<u16>,
}

impl Asked {
    /// Ports that are free now, and not among `taken`.
    ///
    /// # Errors
    /// When one that was asked for is taken, or none is free.
    pub fn choose(&self, taken: &[u16]) -> Result<Chosen> {
        let kept = self.kept;
        let avoid = |others: [Option<u16>; 5]| {
            let others = others.into_iter().flatten();
            others.chain(taken.iter().copied()).collect::<Vec<_>>()
        };
        let grpc = Wanted {
            what: "the server's gRPC",
            flag: "--grpc-port",
            address: self.address,
            explicit: self.grpc,
            preferred: kept.server.grpc_port.unwrap_or(project::GRPC_PORT),
        }
        .choose(&avoid([
            Some(project::HTTP_PORT).filter(|_| kept.server.grpc_port.is_none()),
            kept.server.http_port,
            kept.mysql_port,
            kept.gateway_port,
            self.http,
        ]))?;
        let http = Wanted {
            what: "the server's HTTP",
            flag: "--http-port",
            address: self.address,
            explicit: self.http,
            preferred: kept.server.http_port.unwrap_or(project::HTTP_PORT),
        }
        .choose(&avoid([
            Some(grpc.port),
            kept.mysql_port,
            kept.gateway_port,
            None,
            None,
        ]))?;
        if grpc.port == http.port {
            return Err(Failure::usage(
                format!("gRPC and HTTP cannot both have port {}", grpc.port),
                "give --grpc-port and --http-port different ports",
            ));
        }
        Ok(Chosen { grpc, http })
    }

    /// The port that a server found taken according to its log file, if it may use
    /// another.
    pub fn lost(&self, log: &str, grpc: u16, http: u16) -> Option<u16> {
        let says = |port: u16| ports::was_taken(log, SocketAddr::new(self.address, port));
        let grpc = Some(grpc).filter(|port| self.grpc.is_none() && says(*port));
        grpc.or_else(|| Some(http).filter(|port| self.http.is_none() && says(*port)))
    }
}

fn check_wanted(record: &ServerRecord, wanted: ServerPorts) -> Result<()> {
    for (what, address, port) in [
        ("gRPC", &record.grpc, wanted.grpc_port),
        ("HTTP", &record.http, wanted.http_port),
    ] {
        if let Some(port) = port
            && !address.ends_with(&format!(":{port}"))
        {
            return Err(Failure::new(
                format!("the server runs already, its {what} on {address} and not on port {port}"),
                "stop it first: `xylem down`",
            ));
        }
    }
    Ok(())
}

/// Puts the server's data directory into place before its first start.
async fn prepare(app: &App, home: &Home, project: &mut Project, progress: &Progress) -> Result<()> {
    let data = app.state.server_data();
    if project.half_made {
        remove_half_made(&app.state, project, progress)?;
    }
    // A template's pages have the default size, and its WAL is a local one.
    let settings = &project.settings;
    let fits = settings.format.page_size.is_none() && settings.store.wal_store.is_none();
    let Some(template) = home.template().filter(|_| fits) else {
        return Ok(());
    };
    let url = match &settings.store.object_store {
        Some(url) => url.clone(),
        None => xylem_server::place::default_url(&data),
    };
    // With a store elsewhere there may be a project without there being
    // anything here.
    progress.say("creating the project from the template".to_owned());
    let now = app.now()?;
    let entropy = app.entropy.clone();
    tokio::task::spawn_blocking(move || {
        use xylem_server::project::{create_from_template_in, exists};
        if exists(&data, &url)? {
            return Ok(());
        }
        create_from_template_in(&template, &data, &url, now, &entropy).map(|_| ())
    })
    .await
    .context("creating the project from the template")?
    .context("cannot create the project from the template")
}

/// Removes what an interrupted bootstrap left: nobody has used the project yet.
fn remove_half_made(state: &StateDir, project: &mut Project, progress: &Progress) -> Result<()> {
    progress.note(
        "an earlier start was interrupted before the project was ready: creating the project anew",
    );
    if project.settings.store.object_store.is_some() {
        return Err(Failure::new(
            "the project is incomplete, and part of it is in the object store",
            format!(
                "begin anew: remove {} and what is in the object store",
                state.root().display()
            ),
        ));
    }
    files::remove_tree(&state.server_data())?;
    files::remove_tree(&state.computes())?;
    project.half_made = false;
    project.save(state)
}

fn spawn(state: &StateDir, project: &Project, grpc: u16, http: u16) -> Result<ServerRecord> {
    // A data directory made from a template has the template's mode.
    files::make_private_dir(&state.server_data())?;
    files::close(&state.server_data())?;
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let [grpc, http] = [grpc, http].map(|port| {
        let address = SocketAddr::new(project.settings.server_bind(), port);
        address.to_string()
    });
    let socket = state.server_socket();
    let own = project.settings.server.tls_cert.is_some();
    if own && socket.is_none() {
        return Err(Failure::new(
            format!(
                "the path {} is too long for the server's Unix socket, and with --tls-cert the programs on this machine reach the server through it",
                state.root().display()
            ),
            "move the state directory to a shorter path, or go back to the project's certificate: `xylem up --unset tls-cert`",
        ));
    }
    let mut args: Vec<OsString> = vec!["server".into()];
    let mut option = |name: &str, value: OsString| args.extend([name.into(), value]);
    option("--data-dir", state.server_data().into());
    option("--grpc-listen", grpc.clone().into());
    option("--http-listen", http.clone().into());
    if let Some(socket) = &socket {
        option("--compute-socket", socket.into());
    }
    option("--keys-dir", keys::dir(state).into());
    option("--tls-dir", state.certificates().into());
    option("--audit-log", state.audit_log().into());
    args.extend(project.settings.server_flags()?);
    if project.restore_wal {
        args.push("--restore-wal".into());
    }
    put_aside(&state.server_log());
    let log_from = files::length_of(&state.server_log());
    let process: Process = Detached {
        program: &me,
        args,
        // A log file is no terminal.
        envs: vec![("NO_COLOR".to_owned(), "1".into())],
        inherits: Inherits::All,
        user: None,
        log: &state.server_log(),
        cwd: state.root(),
    }
    .spawn()?;
    let record = ServerRecord {
        process,
        grpc,
        http,
        socket,
        authority: Some(Paths::in_dir(&state.certificates()).authority),
        stopped: false,
        log_from,
    };
    state.set_server_record(&record)?;
    Ok(record)
}

/// Waits until the server says it is ready. For `strangers`, an answer that the token is
/// refused is taken for another server's.
async fn wait_ready(
    app: &App,
    record: ServerRecord,
    strangers: Duration,
    progress: &Progress,
) -> Result<Running> {
    let timer = Timer::start(&app.clock);
    loop {
        let trouble = match Control::of(app, &record).await {
            // It listens before it is ready, and answers then.
            Ok(control) => match control.status_if_up().await? {
                Ok(status) if status.pid != record.process.pid => {
                    anyhow::anyhow!("another server answers at {}", record.grpc)
                }
                Ok(status) if status.state == "ready" => return Ok(Running { record, control }),
                Ok(status) => anyhow::anyhow!("the server says it is {:?}", status.state),
                Err(status)
                    if status.code() == Code::Unauthenticated && timer.elapsed() >= strangers =>
                {
                    return Err(control.no_status(&status));
                }
                Err(status) => anyhow::anyhow!("the server says {}", status.message()),
            },
            Err(error) => error,
        };
        if !record.process.is_alive() {
            return Err(log_file::died(
                "the server ended before it was ready",
                &app.state.server_log(),
                record.log_from,
            ));
        }
        if timer.elapsed() > READY_LIMIT {
            return Err(trouble.context(format!(
                "the server is not ready after {} s",
                READY_LIMIT.as_secs()
            )));
        }
        if timer.elapsed() > Duration::from_secs(2) {
            progress.say("waiting for the server".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

/// Stops the server. False when it did not run.
///
/// # Errors
/// When it cannot be signalled, or does not go.
pub async fn stop(state: &StateDir) -> Result<bool> {
    let Some(record) = state.server_record() else {
        return Ok(false);
    };
    let ran = record.process.is_alive();
    // Before the signal, so that a command that watches does not see a crash.
    state.set_server_record(&ServerRecord {
        stopped: true,
        ..record.clone()
    })?;
    let escalated = || {
        eprintln!(
            "the server (pid {}) did not end in {} s: killing it (its WALs are durable; the next start takes longer)",
            record.process.pid,
            STOP_LIMIT.as_secs()
        );
    };
    record
        .process
        .stop(STOP_LIMIT, escalated)
        .await
        .context("cannot stop the server")?;
    Ok(ran)
}
