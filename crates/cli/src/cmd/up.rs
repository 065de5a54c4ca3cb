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
use crate::project::Project;
use crate::report::StatusReport;
use crate::run_as;
use crate::session::{Prepared, Session};
use crate::timing::Timer;
use anyhow::{Context, Result};
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
        done = down::stop_all(app) => done.map(|_| ()),
        () = signals.next() => down::kill_all(&app.state).await,
    }
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
    } = settle::settle(app, args)?;
    let server = app.state.server_record();
    let server_runs = server.is_some_and(|server| server.process.is_alive());
    check_port(app, &project, args)?;
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
    if started.already && changed {
        progress.note(
            "the compute of branch main runs already: new settings take effect at its next start",
        );
    }
    Ok((started, timer.elapsed()))
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
    let word = |path: &std::path::Path| shell_word(&path.to_string_lossy());
    output::text_line(&format!(
        "Xylem {how}.\n\n\
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
