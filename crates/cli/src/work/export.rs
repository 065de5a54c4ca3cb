//! Work on exports: a branch, as of a moment, becomes a stock data directory.

use crate::app::App;
use crate::control::Control;
use crate::export::fetch::{self, Written};
use crate::export::received::Received;
use crate::export::target::Target;
use crate::failure::Failure;
use crate::history;
use crate::home::Home;
use crate::meter::Meter;
use crate::moment::Moment;
use crate::progress::Progress;
use crate::report::transfer::ExportReport;
use crate::session::Session;
use crate::timing::Timer;
use anyhow::Result;
use std::path::PathBuf;
use xylem_datadir::log_tables;
use xylem_datadir::own;
use xylem_types::{BranchName, Lsn};

/// A branch to be exported.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The branch.
    pub branch: BranchName,
    /// The data directory to be written.
    pub target: PathBuf,
    /// The moment; `None`: now.
    pub at: Option<Moment>,
}

/// Exports a branch. An export that is dropped removes its directory.
///
/// # Errors
/// When there is no such branch or moment, or the directory cannot be written.
pub async fn export(app: &App, wanted: &Wanted) -> Result<ExportReport> {
    let timer = Timer::start(&app.clock);
    app.state.require_project()?;
    if let Some(at @ Moment::Gtid(_)) = wanted.at {
        return Err(Failure::usage(
            format!("{at} is no moment of an export, which rolls back what was being committed"),
            "make a branch there, start its compute once, and export that branch",
        ));
    }
    let progress = app.progress();
    let home = Home::find()?;
    home.check()?;
    // Before anything is started for it.
    let target = Target::begin(&wanted.target)?;
    let session = app.unless_cancelled(Session::open(app, &progress)).await?;
    history::check(
        &session.project,
        &session.running.control,
        &wanted.branch,
        wanted.at,
    )
    .await?;
    let control = session.running.control.clone();
    drop(session);
    // The lease keeps the history there while it is fetched. If this process is
    // killed the server removes the lease when nobody has used it for a while.
    let lease = control.create_lease(&wanted.branch, wanted.at).await?;
    let lsn = lease.branch_point_lsn;
    let mut received = Received::new(target);
    progress.say(format!("fetching branch {} at LSN {lsn}", wanted.branch));
    let fetching = fetch(app, &control, &lease.name, lsn, &mut received, &progress);
    let fetched = app.unless_cancelled(fetching).await;
    let released = control.remove_branch(&lease.name).await;
    let written = fetched?;
    released?;
    let finished = async {
        log_tables::empty(received.target.path())?;
        received.write_log(Lsn(lsn))?;
        progress.say("starting stock MariaDB on it".to_owned());
        received.settle(&home, &app.state.export_log()).await?;
        received.write_settings(&wanted.branch, lsn)?;
        progress.say("making it durable".to_owned());
        anyhow::Ok(ExportReport {
            branch: wanted.branch.to_string(),
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
        })
    };
    app.unless_cancelled(finished).await
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
