//! `xylem compute start|stop|kill|ls`.

use crate::app::{App, LOCK_LIMIT};
use crate::args::compute::{ComputeCommand, ComputeStartArgs};
use crate::compute::name::ComputeName;
use crate::compute::record::ComputeRecord;
use crate::compute::starter::Started;
use crate::compute::stop;
use crate::control::near;
use crate::failure::Failure;
use crate::history;
use crate::output;
use crate::report::{self, ComputeReport, seen};
use crate::session::Session;
use anyhow::Result;

/// Runs the command.
///
/// # Errors
/// When it fails.
pub async fn run(app: &App, command: &ComputeCommand) -> Result<()> {
    match command {
        ComputeCommand::Start(args) => start(app, args).await,
        ComputeCommand::Stop(args) => {
            app.state.require_project()?;
            let _lock = app.state.lock(LOCK_LIMIT).await?;
            let ran = stop::stop(&app.state, &args.compute).await?;
            ended(app, &args.compute, ran, "stopped").await
        }
        ComputeCommand::Kill(args) => {
            app.state.require_project()?;
            // No lock: killing must not wait for a start that hangs.
            let ran = stop::kill(&app.state, &args.compute).await?;
            ended(app, &args.compute, ran, "killed").await
        }
        ComputeCommand::Ls => ls(app).await,
    }
}

async fn start(app: &App, args: &ComputeStartArgs) -> Result<()> {
    if args.read_only && args.compute.is_reader() {
        return Err(Failure::usage(
            format!("{} is a read-only compute already", args.compute),
            format!(
                "to start another, name the branch: `{}`",
                app.command(&format!(
                    "compute start {} --read-only",
                    args.compute.branch()
                ))
            ),
        ));
    }
    let progress = app.progress();
    app.state.require_project()?;
    let at = app.moment(args.at)?;
    let mut session = Session::open(app, &progress).await?;
    let started = if args.read_only {
        let branch = args.compute.branch();
        history::check(&session, branch, at).await?;
        let mut starter = session.starter(app, &progress);
        starter.start_reader(branch, at, args.port).await?
    } else {
        session
            .compute(app, &args.compute, args.port, &progress)
            .await?
    };
    drop(session);
    drop(progress);
    if app.json {
        return one(app, &started.name).await;
    }
    output::text_line(&said(app, &started))
}

/// The result of a start, for people.
pub fn said(app: &App, started: &Started) -> String {
    let (name, record) = (&started.name, &started.record);
    let how = if started.already {
        "was running already".to_owned()
    } else {
        format!("is ready ({} ms)", started.took.as_millis())
    };
    let shows = match record.at_lsn {
        Some(lsn) => format!(
            "\nit shows branch {} as of LSN {lsn}; connect with `{}`",
            record.branch,
            app.command(&format!("sql {name}"))
        ),
        None => String::new(),
    };
    format!(
        "{} {how}: {}:{}, socket {}, pid {}{shows}",
        name.described(),
        record.host,
        record.port,
        record.socket.display(),
        record.process.pid
    )
}

/// Prints one compute as a document.
async fn one(app: &App, name: &ComputeName) -> Result<()> {
    let seen = seen::look(app).await;
    match ComputeRecord::load(&app.state.compute(name)) {
        Some(record) => output::json(&ComputeReport::new(
            &app.state,
            name,
            &record,
            &seen.branches,
        )),
        None => Err(no_compute(app, name)),
    }
}

async fn ended(app: &App, name: &ComputeName, ran: bool, how: &str) -> Result<()> {
    let Some(record) = ComputeRecord::load(&app.state.compute(name)) else {
        return Err(no_compute(app, name));
    };
    let seen = seen::look(app).await;
    let report = ComputeReport::new(&app.state, name, &record, &seen.branches);
    if name.is_reader() {
        stop::forget_reader(app, name).await?;
    }
    if app.json {
        return output::json(&report);
    }
    let how = if ran { how } else { "was not running" };
    let be = if ran { "is " } else { "" };
    output::text_line(&format!("{} {be}{how}", name.described()))
}

fn no_compute(app: &App, name: &ComputeName) -> anyhow::Error {
    let all = crate::compute::record::list(&app.state);
    let names: Vec<String> = all.iter().map(|(name, _)| name.to_string()).collect();
    let hint = match near(&name.to_string(), names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None if name.is_reader() => {
            format!("`{}` lists the computes", app.command("compute ls"))
        }
        None => format!(
            "start one with `{}`",
            app.command(&format!("compute start {name}"))
        ),
    };
    let what = if name.is_reader() {
        format!("there is no read-only compute {name}")
    } else {
        format!("there is no compute of branch {name}")
    };
    Failure::new(format!("{what} in {}", app.state.root().display()), hint)
}

async fn ls(app: &App) -> Result<()> {
    app.state.require_project()?;
    let seen = seen::look(app).await;
    let rows = report::computes(&app.state, &seen.branches);
    if app.json {
        return output::json(&rows);
    }
    output::text_line(&super::status::computes(&rows))
}
