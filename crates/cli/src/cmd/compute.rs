//! `xylem compute start|stop|kill|ls`.

use crate::api::request::{StartCompute, at_text};
use crate::app::App;
use crate::args::compute::{ComputeCommand, ComputeStartArgs};
use crate::compute::name::ComputeName;
use crate::output;
use crate::remote::path;
use crate::report::change::{Ended, Started};
use crate::report::{self, ComputeReport, seen};
use crate::session::Session;
use crate::work::compute as work;
use anyhow::{Context, Result};
use reqwest::Method;

/// Runs the command.
///
/// # Errors
/// When it fails.
pub async fn run(app: &App, command: &ComputeCommand) -> Result<()> {
    match command {
        ComputeCommand::Start(args) => start(app, args).await,
        ComputeCommand::Stop(args) => {
            let ended = match &app.remote {
                Some(_) => end_there(app, &args.compute, "stop").await?,
                None => work::stop(app, &args.compute).await?,
            };
            print_ended(app, &args.compute, &ended, "stopped")
        }
        ComputeCommand::Kill(args) => {
            let ended = match &app.remote {
                Some(_) => end_there(app, &args.compute, "kill").await?,
                None => work::kill(app, &args.compute).await?,
            };
            print_ended(app, &args.compute, &ended, "killed")
        }
        ComputeCommand::Ls => ls(app).await,
    }
}

async fn end_there(app: &App, name: &ComputeName, how: &str) -> Result<Ended> {
    let remote = app.remote.as_ref().context("no server")?;
    let path = path(&["computes", &name.to_string(), how]);
    remote.change(app, Method::POST, &path, None::<&()>).await
}

async fn start(app: &App, args: &ComputeStartArgs) -> Result<()> {
    work::check(app, &args.compute, args.read_only)?;
    let at = app.moment(args.at)?;
    let started: Started = match &app.remote {
        Some(remote) => {
            let path = path(&["computes", &args.compute.to_string(), "start"]);
            let body = StartCompute {
                read_only: args.read_only,
                at: at.map(at_text),
                port: args.port,
            };
            remote.change(app, Method::POST, &path, Some(&body)).await?
        }
        None => {
            let progress = app.progress();
            let mut session = Session::share(app, &progress).await?;
            let wanted = work::Wanted {
                name: args.compute.clone(),
                port: args.port,
                read_only: args.read_only,
                at,
            };
            let started = work::start(app, &mut session, &progress, &wanted).await?;
            drop(session);
            let report = work::report_of(app, Some(&started)).await;
            report.context("no report")?
        }
    };
    output::print(app, &started, || said(app, &started))
}

/// The result of a start, for people.
pub fn said(app: &App, started: &Started) -> String {
    let compute = &started.compute;
    let how = if started.already {
        "was running already".to_owned()
    } else {
        format!("is ready ({} ms)", started.took_ms)
    };
    let shows = match compute.lsn.filter(|_| compute.read_only) {
        Some(lsn) => format!(
            "\nit shows branch {} as of LSN {lsn}{}",
            compute.branch,
            match app.remote {
                // Clients have to reach its port there.
                Some(_) => String::new(),
                None => format!(
                    "; connect with `{}`",
                    app.command(&format!("sql {}", compute.name))
                ),
            }
        ),
        None => String::new(),
    };
    let pid = compute
        .pid
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    format!(
        "{} {how}: {}:{}, socket {}, pid {pid}{shows}",
        described(&compute.name),
        compute.host,
        compute.port,
        compute.socket.display(),
    )
}

fn described(name: &str) -> String {
    ComputeName::parse(name).map_or_else(|_| name.to_owned(), |name| name.described())
}

fn print_ended(app: &App, name: &ComputeName, ended: &Ended, how: &str) -> Result<()> {
    output::print(app, ended, || {
        let how = if ended.ran { how } else { "was not running" };
        let be = if ended.ran { "is " } else { "" };
        format!("{} {be}{how}", name.described())
    })
}

async fn ls(app: &App) -> Result<()> {
    let rows: Vec<ComputeReport> = match &app.remote {
        Some(remote) => remote.get(&path(&["computes"])).await?,
        None => {
            app.state.require_project()?;
            let seen = seen::look(app).await;
            report::computes(&app.state, &seen.branches)
        }
    };
    output::print(app, &rows, || super::status::computes(&rows))
}
