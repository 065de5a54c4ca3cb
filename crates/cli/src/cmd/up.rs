//! `xylem up`: everything on this machine.

use super::down;
use super::revive::Revive;
use crate::app::{App, LOCK_LIMIT, shell_word};
use crate::args::{Setting, UpArgs};
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord, ComputeState, Phase};
use crate::compute::start::Started;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::output;
use crate::ports;
use crate::proc;
use crate::progress::Progress;
use crate::project::{self, Project};
use crate::report::StatusReport;
use crate::server::{self, WantedPorts};
use crate::state::StateDir;
use crate::user;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use xylem_types::BranchName;

/// Runs the command.
///
/// # Errors
/// When something does not start; in the foreground also when everything has
/// died.
pub async fn run(mut app: App, args: &UpArgs) -> Result<()> {
    if args.detach {
        let (started, took) = bring_up(&mut app, args).await?;
        return announce(&app, &started, took, true).await;
    }
    let mut signals = Signals::new()?;
    let brought = tokio::select! {
        brought = bring_up(&mut app, args) => Some(brought),
        () = signals.next() => None,
    };
    let Some(brought) = brought else {
        return bring_down(&app, signals).await;
    };
    let (started, took) = brought?;
    announce(&app, &started, took, false).await?;
    tokio::select! {
        all_dead = watch(&app) => return all_dead,
        () = signals.next() => {}
    }
    bring_down(&app, signals).await
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

async fn bring_down(app: &App, mut signals: Signals) -> Result<()> {
    eprintln!("stopping; press Ctrl-C again to end everything at once");
    tokio::select! {
        done = down::stop_all(&app.state) => done.map(|_| ()),
        () = signals.next() => down::kill_all(&app.state).await,
    }
}

/// Starts what does not run.
async fn bring_up(app: &mut App, args: &UpArgs) -> Result<(Started, Duration)> {
    let begin = Instant::now();
    let progress = app.progress();
    let home = Home::find()?;
    home.check()?;
    app.state.create()?;
    let _lock = app.state.lock(LOCK_LIMIT).await?;
    let (mut project, changed) = settle(app, args)?;
    let wanted = WantedPorts {
        grpc: args.grpc_port,
        http: args.http_port,
    };
    check_port(app, &project, args)?;
    if args.user.is_some() {
        // Before it is kept.
        user::of(&project).await?;
    }
    app.state.make_password()?;
    let new = !app.state.has_project();
    if new || changed {
        project.save(&app.state)?;
    }
    let running = match server::ensure(&app.state, &home, &mut project, wanted, &progress).await {
        Ok(running) => running,
        Err(error) => {
            // Settings that a new project never worked with must not stick.
            if new && !xylem_server::project::is_used(&app.state.server_data()) {
                let _ = std::fs::remove_file(app.state.project_file());
            }
            return Err(error);
        }
    };
    let main = ComputeName::from(BranchName::main());
    let started = app
        .compute(
            &home,
            &mut project,
            &running,
            &main,
            args.mysql_port,
            &progress,
        )
        .await?;
    if started.already && changed {
        progress.note("the compute of branch main runs already: new settings take effect when it is started again");
    }
    Ok((started, begin.elapsed()))
}

/// Refuses a port that is taken before anything is started.
fn check_port(app: &App, project: &Project, args: &UpArgs) -> Result<()> {
    let main = ComputeName::from(BranchName::main());
    let main = ComputeRecord::load(&app.state.compute(&main));
    if args.mysql_port.is_none() || main.is_some_and(|r| r.process.is_alive()) {
        return Ok(());
    }
    let what = "the compute of branch main";
    ports::choose(what, "--mysql-port", project.bind, args.mysql_port, 0, &[]).map(|_| ())
}

/// Where logs go when nobody says otherwise.
const LOCAL: &str = "local";

/// The project's settings with those given now; true when they changed.
fn settle(app: &App, args: &UpArgs) -> Result<(Project, bool)> {
    let old = if app.state.has_project() {
        Some(Project::load(&app.state)?)
    } else {
        None
    };
    let mut project = old.clone().unwrap_or_default();
    for setting in &args.unset {
        unset(app, &mut project, *setting)?;
    }
    if let Some(url) = &args.object_store {
        if let Some(old) = &old
            && old.object_store.as_ref() != Some(url)
        {
            let place = old
                .object_store
                .clone()
                .unwrap_or_else(|| xylem_server::place::default_url(&app.state.server_data()));
            return Err(Failure::new(
                format!("this project lives in {place}, which cannot be changed to {url}"),
                "leave --object-store out, or make another project with --dir",
            ));
        }
        project.object_store = Some(url.clone());
    }
    if let Some(wanted) = &args.wal_store {
        let kept = project.wal_store.as_deref().unwrap_or(LOCAL);
        if old.is_some() && kept != wanted {
            return Err(Failure::new(
                format!("this project's logs are in the {kept} store, which cannot be changed"),
                "leave --wal-store out, or make another project with --dir",
            ));
        }
        project.wal_store = Some(wanted.clone()).filter(|wanted| wanted != LOCAL);
    }
    if let Some(page_size) = args.page_size {
        let kept = project.page_size.unwrap_or(project::PAGE_SIZE);
        if old.is_some() && kept != page_size {
            return Err(Failure::new(
                format!(
                    "this project's database has pages of {kept} bytes, which cannot be changed to {page_size}"
                ),
                "leave --page-size out, or make another project with --dir",
            ));
        }
        project.page_size = Some(page_size).filter(|size| *size != project::PAGE_SIZE);
    }
    if let Some(bind) = args.bind {
        project.bind = bind;
    }
    if args.memory.is_some() {
        project.memory.clone_from(&args.memory);
    }
    if args.wal_backup.is_some() {
        project.wal_backup.clone_from(&args.wal_backup);
    }
    if args.history.is_some() {
        project.history.clone_from(&args.history);
    }
    if args.buffer_pool.is_some() {
        project.buffer_pool.clone_from(&args.buffer_pool);
    }
    if args.user.is_some() {
        project.user.clone_from(&args.user);
    }
    if !args.mariadbd_args.is_empty() {
        check_binary_log(&args.mariadbd_args, &app.state)?;
        project.mariadbd_args.clone_from(&args.mariadbd_args);
    }
    let changed = old.as_ref() != Some(&project);
    project.restore_wal = args.restore_wal;
    Ok((project, changed))
}

/// Gives a setting its default again.
fn unset(app: &App, project: &mut Project, setting: Setting) -> Result<()> {
    match setting {
        Setting::Bind => project.bind = Project::new().bind,
        Setting::BufferPool => project.buffer_pool = None,
        Setting::History => project.history = None,
        Setting::HttpPort => project.ports.http = None,
        Setting::WalBackup => project.wal_backup = None,
        Setting::MariadbdArgs => project.mariadbd_args.clear(),
        Setting::Memory => project.memory = None,
        Setting::MysqlPort => project.ports.mysql = None,
        Setting::User => project.user = None,
        Setting::GrpcPort => {
            let computes = record::list(&app.state);
            if let Some((name, _)) = computes.iter().find(|(_, r)| r.process.is_alive()) {
                return Err(Failure::new(
                    format!(
                        "{} runs and waits for its server on its port",
                        name.described()
                    ),
                    format!("stop it first: `{}`", app.command("down")),
                ));
            }
            project.ports.grpc = None;
        }
    }
    Ok(())
}

/// A binary log in a compute's directory would go with it. Commits that are
/// only in the binary log yet would be lost, and MariaDB, which finds them
/// prepared, would not start.
///
/// # Errors
/// When an argument puts it there.
pub fn check_binary_log(args: &[String], state: &StateDir) -> Result<()> {
    let computes = files::resolved(&state.computes());
    let inside = args.iter().find(|arg| {
        let place = arg.split_once('=').map(|(_, place)| Path::new(place));
        project::is_binary_log(arg)
            && !place.is_some_and(|place| {
                place.is_absolute() && !files::resolved(place).starts_with(&computes)
            })
    });
    match inside {
        None => Ok(()),
        Some(arg) => Err(Failure::usage(
            format!(
                "{arg} puts the binary log into the compute's directory, which may go at any moment, and commits with it"
            ),
            "put it on a disk of its own, which outlives the compute: --log-bin=/path/name",
        )),
    }
}

async fn announce(app: &App, started: &Started, took: Duration, detached: bool) -> Result<()> {
    if app.json {
        return output::json(&StatusReport::gather(&app.state).await);
    }
    let record = &started.record;
    let verb = if started.already {
        "was running already"
    } else {
        "is ready"
    };
    let time = if started.already {
        String::new()
    } else {
        format!(" ({:.2} s)", took.as_secs_f64())
    };
    let stop = if detached {
        app.command("down")
    } else {
        "Ctrl-C".to_owned()
    };
    let word = |path: &std::path::Path| shell_word(&path.to_string_lossy());
    output::text_line(&format!(
        "Xylem {verb}{time}.\n\n\
         \x20 host      {}\n\
         \x20 port      {}\n\
         \x20 socket    {}\n\
         \x20 user      {}\n\
         \x20 password  in {}\n\
         \x20 connect   {}\n\
         \x20 or        mariadb --defaults-file={}\n\
         \x20 stop      {stop}",
        record.host,
        record.port,
        record.socket.display(),
        record.user,
        app.state.password_file().display(),
        app.command("sql"),
        word(&app.state.compute(&started.name).client_cnf()),
    ))
}

/// Says when a process dies, and starts computes again that ended because of
/// their page server. Others may start the rest, so it goes on until nothing
/// runs any more.
async fn watch(app: &App) -> Result<()> {
    let state = &app.state;
    let progress = Progress::new(false);
    let mut server = state.server_record().map(|r| r.process);
    let mut seen: HashMap<ComputeName, u32> = HashMap::new();
    let mut revive = Revive::default();
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // While this command runs, what it started are its children.
        proc::reap_children();
        let now = state.server_record();
        let alive = now.as_ref().is_some_and(|r| r.process.is_alive());
        match (&now, server) {
            (Some(record), Some(_)) if !alive => {
                let how = if record.stopped {
                    "was stopped"
                } else {
                    "died"
                };
                progress.note(&format!(
                    "the server (pid {}) {how}; start it with `{}`",
                    record.process.pid,
                    app.command("up")
                ));
                if !record.stopped {
                    progress.note(&files::last_errors(&state.server_log(), record.log_from));
                }
                server = None;
            }
            (Some(record), None) if alive => {
                progress.note(&format!(
                    "the server runs again (pid {})",
                    record.process.pid
                ));
                server = Some(record.process);
            }
            _ => {}
        }
        let mut computes = 0;
        for (name, record) in record::list(state) {
            let known = seen.get(&name).copied();
            if record.process.is_alive() {
                computes += 1;
                seen.insert(name, record.process.pid);
            } else if known == Some(record.process.pid) {
                seen.remove(&name);
                let how = if record.phase == Phase::Stopped {
                    "was stopped"
                } else {
                    "died"
                };
                let what_next = if revive.died(app, &name, &record) {
                    "it is started again when the server answers".to_owned()
                } else {
                    format!(
                        "start it with `{}`",
                        app.command(&format!("compute start {name}"))
                    )
                };
                progress.note(&format!(
                    "{} (pid {}) {how}; {what_next}",
                    name.described(),
                    record.process.pid,
                ));
                if record.state() == ComputeState::Crashed {
                    let log = state.compute(&name).log();
                    progress.note(&files::last_errors(&log, record.log_from));
                }
            }
        }
        revive.start_due(app, alive, &progress).await;
        if !alive && computes == 0 {
            let on_purpose = now.is_none_or(|r| r.stopped);
            if on_purpose {
                return Ok(());
            }
            return Err(Failure::new(
                "nothing runs any more",
                format!(
                    "see {} and `{}`",
                    state.server_log().display(),
                    app.command("doctor")
                ),
            ));
        }
    }
}
