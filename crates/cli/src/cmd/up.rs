//! `xylem up`: the whole project on this machine.

mod revive;
mod settle;
mod watch;

use settle::Settled;
pub use settle::check_binary_log;

use super::down;
use crate::app::{App, LOCK_LIMIT, shell_word};
use crate::args::project::UpArgs;
use crate::compute::name::ComputeName;
use crate::compute::record::ComputeRecord;
use crate::compute::starter::Started;
use crate::home::Home;
use crate::output;
use crate::ports::Wanted;
use crate::progress::Progress;
use crate::project::Project;
use crate::report::StatusReport;
use crate::role::{self, Role};
use crate::run_as;
use crate::session::{Prepared, Session};
use crate::settings::Ports;
use crate::timing::Timer;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::time::Duration;
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
        all_dead = watch::watch(&app) => return all_dead,
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
    eprintln!("stopping; press Ctrl-C again to kill everything at once");
    tokio::select! {
        done = stop_all(app) => done,
        () = signals.next() => down::kill_all(&app.state).await,
    }
}

/// Stops everything once nobody else changes the project: an operation of the API may be
/// starting a compute.
async fn stop_all(app: &App) -> Result<()> {
    // It begins nothing more, so that the lock is free soon.
    role::tell_to_stop(&app.state, Role::Api)?;
    let _lock = app.state.lock(LOCK_LIMIT).await?;
    down::stop_all(app).await?;
    Ok(())
}

/// Starts what does not run.
async fn bring_up(app: &mut App, args: &UpArgs) -> Result<(Started, Duration)> {
    let timer = Timer::start(&app.clock);
    let progress = app.progress();
    let home = Home::find()?;
    home.check()?;
    app.state.create()?;
    let app = &*app;
    let lock = app.state.lock(LOCK_LIMIT).await?;
    let Settled {
        project,
        changed,
        server_changed,
        computes_changed,
        gateway_changed,
        api_changed,
    } = settle::settle(app, args)?;
    let server = app.state.server_record();
    let server_runs = server.is_some_and(|server| server.process.is_alive());
    check_port(app, &project, args)?;
    for role in Role::ALL {
        role::check_port(&app.state, role, &project, &args.ports)?;
    }
    if args.settings.compute.user.is_some() {
        // Before it is kept.
        run_as::of(&project).await?;
    }
    app.state.make_password(&app.entropy)?;
    let new = !app.state.has_project();
    if new || changed {
        project.save(&app.state)?;
    }
    let prepared = Prepared {
        home,
        project,
        ports: args.ports.server,
        lock,
    };
    let mut session: Session = match prepared.start(app, &progress).await {
        Ok(session) => session,
        Err(error) => {
            // Settings with which a new project never worked must not stick.
            if new && !xylem_server::project::is_used(&app.state.server_data()) {
                let _ = std::fs::remove_file(app.state.project_file());
            }
            return Err(error);
        }
    };
    if server_runs && server_changed {
        progress.note(&format!(
            "the server runs already: its new settings take effect when it is started again, by `{}` and `{}`",
            app.command("down"),
            app.command("up")
        ));
    }
    let port = args.ports.mysql_port;
    let started = session.compute(app, &main(), port, &progress).await?;
    if started.already && computes_changed {
        progress.note(
            "the compute of branch main runs already: new settings take effect at its next start",
        );
    }
    for (role, changed) in [(Role::Gateway, gateway_changed), (Role::Api, api_changed)] {
        let runs = settle_role(app, role, &mut session, &args.ports, &progress).await?;
        if runs && changed {
            progress.note(&format!(
                "{} runs already: its new settings take effect when it is started again, by `{}` and `{}`",
                role.described(),
                app.command(&format!("up --{} off", role.name())),
                app.command(&format!("up --{} on", role.name()))
            ));
        }
    }
    Ok((started, timer.elapsed()))
}

/// Starts a role, or stops it if the project is to have none. True when it ran already and
/// goes on.
async fn settle_role(
    app: &App,
    role: Role,
    session: &mut Session,
    given: &Ports,
    progress: &Progress,
) -> Result<bool> {
    let Session { home, project, .. } = session;
    let port = role.port(given);
    if role.is_wanted(project) {
        let started = role::ensure(app, role, home, project, port, progress).await?;
        return Ok(!started);
    }
    if port.is_some_and(|_| role.port(&project.ports) != port) {
        role.set_port(&mut project.ports, port);
        project.save(&app.state)?;
    }
    if role::running(&app.state, role).is_some() {
        progress.say(format!(
            "waiting for {}'s clients to finish",
            role.described()
        ));
    }
    if role::stop(&app.state, role).await? {
        progress.note(&format!("stopped {}", role.described()));
    }
    Ok(false)
}

fn main() -> ComputeName {
    ComputeName::from(BranchName::main())
}

/// Refuses a port that is taken before anything is started.
fn check_port(app: &App, project: &Project, args: &UpArgs) -> Result<()> {
    let main = ComputeRecord::load(&app.state.compute(&main()));
    if args.ports.mysql_port.is_none() || main.is_some_and(|r| r.process.is_alive()) {
        return Ok(());
    }
    let wanted = Wanted {
        what: "the compute of branch main",
        flag: "--mysql-port",
        address: project.settings.bind(),
        explicit: args.ports.mysql_port,
        preferred: 0,
    };
    wanted.choose(&[]).map(|_| ())
}

async fn announce(app: &App, started: &Started, took: Duration, detached: bool) -> Result<()> {
    if app.json {
        return output::json(&StatusReport::gather(app).await);
    }
    let record = &started.record;
    let how = if started.already {
        "was running already".to_owned()
    } else {
        format!("is ready ({:.2} s)", took.as_secs_f64())
    };
    let stop = if detached {
        app.command("down")
    } else {
        "Ctrl-C".to_owned()
    };
    let socket = record.socket.display().to_string();
    let mut lines = Vec::new();
    let client = match role::running(&app.state, Role::Gateway) {
        Some(gateway) => {
            let (host, port) = (gateway.address().ip(), gateway.address().port());
            lines.push(("host", host.to_string()));
            lines.push(("port", port.to_string()));
            let branches = "all, by the user: `root@dev` is root on branch dev";
            lines.push(("branches", branches.to_owned()));
            lines.push(("socket", format!("{socket} (branch main)")));
            // Also while the compute sleeps, when its socket is gone.
            format!(
                "--host={host} --port={port} --user={} --password",
                record.user
            )
        }
        None => {
            lines.push(("host", record.host.clone()));
            lines.push(("port", record.port.to_string()));
            lines.push(("socket", socket));
            let options = app.state.compute(&started.name).client_cnf();
            let options = shell_word(&options.to_string_lossy());
            format!("--defaults-file={options}")
        }
    };
    let password = app.state.password_file();
    lines.extend([
        ("user", record.user.clone()),
        ("password", format!("in {}", password.display())),
    ]);
    if let Some(api) = role::running(&app.state, Role::Api) {
        lines.push(("API", format!("https://{}", api.address())));
    }
    lines.extend([
        ("connect", app.command("sql")),
        ("or", format!("mariadb {client}")),
        ("stop", stop),
    ]);
    let mut text = format!("Xylem {how}.\n");
    for (name, value) in lines {
        let _ = write!(text, "\n  {name:<9} {value}");
    }
    output::text_line(&text)
}
