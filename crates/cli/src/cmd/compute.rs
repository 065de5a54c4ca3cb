//! `xylem compute start|stop|kill|ls`.

use crate::app::{App, LOCK_LIMIT};
use crate::args::{ComputeCommand, ComputeStartArgs};
use crate::compute::record::ComputeRecord;
use crate::compute::stop;
use crate::failure::Failure;
use crate::output;
use crate::report::{self, ComputeReport};
use anyhow::Result;
use xylem_types::BranchName;

/// Runs the command.
///
/// # Errors
/// When it fails.
pub async fn run(app: &App, command: &ComputeCommand) -> Result<()> {
    match command {
        ComputeCommand::Start(args) => start(app, args).await,
        ComputeCommand::Stop(args) => {
            app.state.require_project()?;
            let lock = app.state.lock(LOCK_LIMIT).await?;
            let ran = stop::stop(&app.state, &args.branch).await?;
            drop(lock);
            ended(app, &args.branch, ran, "stopped").await
        }
        ComputeCommand::Kill(args) => {
            app.state.require_project()?;
            // No lock: killing must not wait for a start that hangs.
            let ran = stop::kill(&app.state, &args.branch).await?;
            ended(app, &args.branch, ran, "killed").await
        }
        ComputeCommand::Ls => ls(app).await,
    }
}

async fn start(app: &App, args: &ComputeStartArgs) -> Result<()> {
    if args.read_only || args.at.is_some() {
        let flag = if args.read_only {
            "--read-only"
        } else {
            "--at"
        };
        return Err(Failure::new(
            format!("{flag} is not supported in this version"),
            "start the compute without it: it shows the newest state and takes writes",
        ));
    }
    let progress = app.progress();
    let started = app
        .start_compute(&args.branch, args.port, &progress)
        .await?;
    drop(progress);
    if app.json {
        return one(app, &args.branch).await;
    }
    let record = &started.record;
    let how = if started.already {
        "was running already".to_owned()
    } else {
        format!("is ready ({} ms)", started.took.as_millis())
    };
    output::text_line(&format!(
        "the compute of branch {} {how}: {}:{}, socket {}, pid {}",
        args.branch,
        record.host,
        record.port,
        record.socket.display(),
        record.process.pid
    ))
}

/// The row of one compute as a document.
async fn one(app: &App, branch: &BranchName) -> Result<()> {
    let seen = report::look(&app.state).await;
    match ComputeRecord::load(&app.state.compute(branch)) {
        Some(record) => output::json(&ComputeReport::new(
            &app.state,
            branch,
            &record,
            &seen.branches,
        )),
        None => Err(no_compute(app, branch)),
    }
}

async fn ended(app: &App, branch: &BranchName, ran: bool, how: &str) -> Result<()> {
    if ComputeRecord::load(&app.state.compute(branch)).is_none() {
        return Err(no_compute(app, branch));
    }
    if app.json {
        return one(app, branch).await;
    }
    let how = if ran { how } else { "was not running" };
    let be = if ran { "is " } else { "" };
    output::text_line(&format!("the compute of branch {branch} {be}{how}"))
}

fn no_compute(app: &App, branch: &BranchName) -> anyhow::Error {
    Failure::new(
        format!(
            "there is no compute of branch {branch} in {}",
            app.state.root().display()
        ),
        format!(
            "start one with `{}`",
            app.command(&format!("compute start {branch}"))
        ),
    )
}

async fn ls(app: &App) -> Result<()> {
    app.state.require_project()?;
    let seen = report::look(&app.state).await;
    let rows = report::computes(&app.state, &seen.branches);
    if app.json {
        return output::json(&rows);
    }
    output::text_line(&super::status::computes(&rows))
}
