//! The server process: starting, waiting, stopping.

use crate::compute::ready::died;
use crate::compute::record;
use crate::compute::start::put_aside;
use crate::control::Control;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::ports;
use crate::proc::{Detached, Inherits, Process};
use crate::progress::Progress;
use crate::project::{self, Ports, Project};
use crate::state::{ServerRecord, StateDir};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Where the server listens: computes on this machine reach it, others must
/// not without a token. `xylem server` by itself can do otherwise.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How long the server may take to open its branches.
const READY_LIMIT: Duration = Duration::from_secs(600);

/// How long the server may take to stop by itself.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// How often other ports are tried when those chosen are taken meanwhile.
const PORT_TRIES: usize = 20;

/// What the system says of a port that is taken (`EADDRINUSE`).
const IN_USE: &str = "os error 98";

/// Ports given on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct WantedPorts {
    /// gRPC.
    pub grpc: Option<u16>,
    /// HTTP.
    pub http: Option<u16>,
}

/// A server that is ready.
#[derive(Debug)]
pub struct Running {
    /// Where it is.
    pub record: ServerRecord,
    /// A connection to it.
    pub control: Control,
}

/// Starts the server unless it runs, and waits until it is ready. The caller
/// holds the lock.
///
/// # Errors
/// When a given port is taken, or the server ends.
pub async fn ensure(
    state: &StateDir,
    home: &Home,
    project: &mut Project,
    wanted: WantedPorts,
    progress: &Progress,
) -> Result<Running> {
    if let Some(record) = state.server_record().filter(|r| r.process.is_alive()) {
        check_wanted(&record, wanted)?;
        let process = record.process;
        match wait_ready(state, record, progress).await {
            // It was dying already, of a kill from outside: that one is gone now.
            Err(_) if !process.is_alive() => {}
            ready_or_not => return ready_or_not,
        }
    }
    prepare(state, home, project, progress).await?;
    let kept = project.ports;
    // A compute that runs waits for its server where that was.
    let expected = kept.grpc.filter(|_| {
        record::list(state)
            .iter()
            .any(|(_, compute)| compute.process.is_alive())
    });
    if let (Some(expected), Some(wanted)) = (expected, wanted.grpc)
        && expected != wanted
    {
        return Err(Failure::new(
            format!("a compute runs and waits for its server on port {expected}, not {wanted}"),
            "leave --grpc-port out, or stop the compute first: `xylem compute stop main`",
        ));
    }
    let asked = Asked {
        kept,
        grpc: expected.or(wanted.grpc),
        http: wanted.http,
    };
    let mut taken = Vec::new();
    let (grpc, http, running) = loop {
        let (grpc, http) = asked.choose(&taken)?;
        progress.say("starting the server".to_owned());
        let record = spawn(state, project, grpc.port, http.port)?;
        let log_from = record.log_from;
        let error = match wait_ready(state, record, progress).await {
            Ok(running) => break (grpc, http, running),
            Err(error) => error,
        };
        // Somebody took a port between the look and the server's own.
        let log = files::read_log(&state.server_log(), log_from);
        let lost = asked.lost(&log, grpc.port, http.port);
        match lost.filter(|_| taken.len() < PORT_TRIES) {
            Some(port) => taken.push(port),
            None => return Err(error),
        }
    };
    for (what, choice) in [("gRPC", grpc), ("HTTP", http)] {
        if let Some(taken) = choice.instead_of {
            progress.note(&format!(
                "port {taken} is taken: the server's {what} uses {}",
                choice.port
            ));
        }
    }
    if project.ports.grpc != Some(grpc.port) || project.ports.http != Some(http.port) {
        project.ports.grpc = Some(grpc.port);
        project.ports.http = Some(http.port);
        project.save(state)?;
    }
    Ok(running)
}

/// The ports that a start asks for.
pub(crate) struct Asked {
    /// Those of last time.
    pub kept: Ports,
    /// What gRPC must have.
    pub grpc: Option<u16>,
    /// What HTTP must have.
    pub http: Option<u16>,
}

impl Asked {
    /// Ports that are free now, and not among `taken`.
    ///
    /// # Errors
    /// When one that was asked for is taken, or none is free.
    pub fn choose(&self, taken: &[u16]) -> Result<(ports::Choice, ports::Choice)> {
        let kept = self.kept;
        let avoid = |others: [Option<u16>; 4]| {
            let others = others.into_iter().flatten();
            others.chain(taken.iter().copied()).collect::<Vec<_>>()
        };
        let grpc = ports::choose(
            "the server's gRPC",
            "--grpc-port",
            ADDRESS,
            self.grpc,
            kept.grpc.unwrap_or(project::GRPC_PORT),
            &avoid([
                Some(project::HTTP_PORT).filter(|_| kept.grpc.is_none()),
                kept.http,
                kept.mysql,
                self.http,
            ]),
        )?;
        let http = ports::choose(
            "the server's HTTP",
            "--http-port",
            ADDRESS,
            self.http,
            kept.http.unwrap_or(project::HTTP_PORT),
            &avoid([Some(grpc.port), kept.mysql, None, None]),
        )?;
        if grpc.port == http.port {
            return Err(Failure::usage(
                format!("gRPC and HTTP cannot both have port {}", grpc.port),
                "give --grpc-port and --http-port different ports",
            ));
        }
        Ok((grpc, http))
    }

    /// Which of its ports a server found taken, as its log says, if another one
    /// will do.
    pub fn lost(&self, log: &str, grpc: u16, http: u16) -> Option<u16> {
        let says = |port: u16| {
            let address = format!("cannot listen on {ADDRESS}:{port}:");
            log.lines()
                .any(|line| line.contains(&address) && line.contains(IN_USE))
        };
        let grpc = Some(grpc).filter(|port| self.grpc.is_none() && says(*port));
        grpc.or_else(|| Some(http).filter(|port| self.http.is_none() && says(*port)))
    }
}

fn check_wanted(record: &ServerRecord, wanted: WantedPorts) -> Result<()> {
    for (what, address, port) in [
        ("gRPC", &record.grpc, wanted.grpc),
        ("HTTP", &record.http, wanted.http),
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
async fn prepare(
    state: &StateDir,
    home: &Home,
    project: &mut Project,
    progress: &Progress,
) -> Result<()> {
    let data = state.server_data();
    if project.half_made {
        // A bootstrap was cut short: nobody has used this project yet.
        progress
            .note("an earlier start was cut short before the project was ready: making it anew");
        if project.object_store.is_some() {
            return Err(Failure::new(
                "the project was only half made, and part of it is in the object store",
                format!(
                    "begin anew: remove {} and what is in the object store",
                    state.root().display()
                ),
            ));
        }
        files::remove_tree(&data)?;
        files::remove_tree(&state.computes())?;
        project.half_made = false;
        project.save(state)?;
    }
    // A template's pages have the default size, and its log is a local one.
    let fits = project.page_size.is_none() && project.wal_store.is_none();
    let Some(template) = home.template().filter(|_| fits) else {
        return Ok(());
    };
    let url = match &project.object_store {
        Some(url) => url.clone(),
        None => xylem_server::place::default_url(&data),
    };
    // With a store elsewhere there may be a project without there being
    // anything here.
    progress.say("making the project from the template".to_owned());
    let now = jiff::Timestamp::now();
    tokio::task::spawn_blocking(move || {
        use xylem_server::project::{create_from_template_in, exists};
        if exists(&data, &url)? {
            return Ok(());
        }
        create_from_template_in(
            &template,
            &data,
            &url,
            now,
            &xylem_ambient::Entropy::system(),
        )
        .map(|_| ())
    })
    .await
    .context("making the project from the template")?
    .context("cannot make the project from the template")
}

fn spawn(state: &StateDir, project: &Project, grpc: u16, http: u16) -> Result<ServerRecord> {
    // One made from a template has the template's mode.
    files::make_private_dir(&state.server_data())?;
    files::close(&state.server_data())?;
    let me = std::env::current_exe().context("cannot find this program's own file")?;
    let grpc = format!("{ADDRESS}:{grpc}");
    let http = format!("{ADDRESS}:{http}");
    let mut args: Vec<OsString> = vec!["server".into()];
    let mut option = |name: &str, value: OsString| args.extend([name.into(), value]);
    option("--data-dir", state.server_data().into());
    option("--grpc-listen", grpc.clone().into());
    option("--http-listen", http.clone().into());
    if let Some(url) = &project.object_store {
        option("--object-store", url.into());
    }
    if let Some(wal_store) = &project.wal_store {
        option("--wal-store", wal_store.into());
    }
    if let Some(wal_backup) = &project.wal_backup {
        option("--wal-backup", wal_backup.into());
    }
    if let Some(memory) = &project.memory {
        option("--memory", memory.into());
    }
    if let Some(history) = &project.history {
        option("--history", history.into());
    }
    if state.token_file().exists() {
        option("--token-file", state.token_file().into());
    }
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
        stopped: false,
        log_from,
    };
    state.set_server_record(&record)?;
    Ok(record)
}

/// Waits until the server says it is ready.
async fn wait_ready(
    state: &StateDir,
    record: ServerRecord,
    progress: &Progress,
) -> Result<Running> {
    let begin = Instant::now();
    let token = state.token()?;
    loop {
        let trouble = match Control::connect(&record.grpc, token.as_deref()).await {
            // It listens before it is ready, and answers then.
            Ok(control) => match control.status_if_up().await? {
                Ok(status) if status.state == "ready" => return Ok(Running { record, control }),
                Ok(status) => anyhow::anyhow!("the server says it is {:?}", status.state),
                Err(status) => anyhow::anyhow!("the server says {}", status.message()),
            },
            Err(error) => error,
        };
        if !record.process.is_alive() {
            return Err(died(
                "the server ended before it was ready",
                &state.server_log(),
                record.log_from,
            ));
        }
        if begin.elapsed() > READY_LIMIT {
            return Err(trouble.context(format!(
                "the server is not ready after {} s",
                READY_LIMIT.as_secs()
            )));
        }
        if begin.elapsed() > Duration::from_secs(2) {
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
    // Before the signal, so that who watches does not take it for a crash.
    state.set_server_record(&ServerRecord {
        stopped: true,
        ..record.clone()
    })?;
    let escalated = || {
        eprintln!(
            "the server (pid {}) did not end in {} s: ending it by force (its log is durable; the next start takes longer)",
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
