//! `xylem export`: a branch, as of a moment, as a stock data directory.

use crate::app::App;
use crate::args::transfer::ExportArgs;
use crate::control::Control;
use crate::export::fetch::{self, Written};
use crate::export::received::Received;
use crate::export::target::Target;
use crate::history;
use crate::home::Home;
use crate::meter::Meter;
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::session::Session;
use crate::timing::Timer;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use xylem_datadir::log_tables;
use xylem_datadir::own::{self, EXPORT_SETTINGS};
use xylem_types::Lsn;

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    branch: String,
    lsn: u64,
    dir: PathBuf,
    page_size: usize,
    undo_tablespaces: usize,
    tablespaces: usize,
    pages: u64,
    page_bytes: u64,
    side_files: usize,
    user: String,
    password_file: PathBuf,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// When there is no such branch or moment, or the directory cannot be written.
pub async fn run(app: &App, args: &ExportArgs) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    // An export that is dropped removes its directory.
    tokio::select! {
        done = export(app, args) => done,
        _ = interrupt.recv() => bail!("interrupted: nothing was exported"),
        _ = terminate.recv() => bail!("terminated: nothing was exported"),
    }
}

async fn export(app: &App, args: &ExportArgs) -> Result<()> {
    let timer = Timer::start(&app.clock);
    app.state.require_project()?;
    let at = app.moment(args.at)?;
    let progress = app.progress();
    let home = Home::find()?;
    home.check()?;
    // Before anything is started for it.
    let target = Target::begin(&args.target)?;
    let session = Session::open(app, &progress).await?;
    history::check(&session.project, &session.running.control, &args.branch, at).await?;
    let control = session.running.control.clone();
    drop(session);
    // The lease keeps the history there while it is fetched. If this command is
    // killed the server removes the lease when nobody has used it for a while.
    let lease = control.create_lease(&args.branch, at).await?;
    let lsn = lease.branch_point_lsn;
    let mut received = Received::new(target);
    progress.say(format!("fetching branch {} at LSN {lsn}", args.branch));
    let fetched = fetch(app, &control, &lease.name, lsn, &mut received, &progress).await;
    let released = control.remove_branch(&lease.name).await;
    let written = fetched?;
    released?;
    log_tables::empty(received.target.path())?;
    received.write_log(Lsn(lsn))?;
    progress.say("starting stock MariaDB on it".to_owned());
    received.settle(&home, &app.state.export_log()).await?;
    received.write_settings(&args.branch, lsn)?;
    progress.say("making it durable".to_owned());
    let report = Report {
        branch: args.branch.to_string(),
        lsn,
        page_size: received.page_size()?,
        undo_tablespaces: received.undo_tablespaces(),
        tablespaces: received.spaces.len(),
        pages: written.pages,
        page_bytes: written.bytes,
        side_files: received.side_files,
        user: received.user.unwrap_or_else(own::root),
        password_file: app.state.password_file(),
        dir: received.target.finish()?,
        seconds: timer.elapsed().as_secs_f64(),
    };
    drop(progress);
    print(app, &report)
}

/// Fetches everything that `branch` has at `lsn`.
async fn fetch(
    app: &App,
    control: &Control,
    branch: &str,
    lsn: u64,
    received: &mut Received,
    progress: &Progress,
) -> Result<Written> {
    control
        .everything(branch, lsn, |item| received.take(item))
        .await?;
    let meter = Meter::new(received.spaces.iter().map(|s| s.size).sum(), &app.clock);
    let from = control.pages(branch, lsn).await?;
    let fetching = fetch::fetch(&from, received.files()?, &meter);
    meter.show(progress, "exporting", fetching).await
}

fn print(app: &App, report: &Report) -> Result<()> {
    if app.json {
        return output::json(report);
    }
    output::text_line(&format!(
        "exported branch {} at LSN {} to {} ({} tablespaces, {} pages, {}, in {:.1} s)\n\n\
         \x20 settings  that MariaDB needs, in {}\n\
         \x20 accounts  as on the branch; the password of `{}` is in {}",
        report.branch,
        report.lsn,
        report.dir.display(),
        report.tablespaces,
        report.pages,
        bytes(report.page_bytes),
        report.seconds,
        report.dir.join(EXPORT_SETTINGS).display(),
        report.user,
        report.password_file.display(),
    ))
}
