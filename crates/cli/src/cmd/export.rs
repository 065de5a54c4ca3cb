//! `xylem export`: a branch, as of a moment, as a stock data directory.

use super::interrupted;
use crate::api::request::{ExportBranch, at_text};
use crate::app::App;
use crate::args::transfer::ExportArgs;
use crate::output::{self, bytes};
use crate::remote::{self, path};
use crate::report::transfer::ExportReport;
use crate::work::export as work;
use anyhow::{Result, bail};
use xylem_datadir::own::EXPORT_SETTINGS;

/// Runs the command.
///
/// # Errors
/// When there is no such branch or moment, or the directory cannot be written.
pub async fn run(app: &App, args: &ExportArgs) -> Result<()> {
    let at = app.moment(args.at)?;
    if let Some(remote) = &app.remote {
        let body = ExportBranch {
            dir: remote::place("DIR", &args.target)?,
            at: at.map(at_text),
        };
        let path = path(&["branches", args.branch.as_str(), "exports"]);
        return match remote.long(app, &path, &body).await? {
            remote::Ended::Done(report) => print(app, &report),
            remote::Ended::Interrupted(how) => bail!("{how}: nothing was exported"),
        };
    }
    let wanted = work::Wanted {
        branch: args.branch.clone(),
        target: args.target.clone(),
        at,
    };
    let interrupted = interrupted()?;
    // An export that is dropped removes its directory.
    let report = tokio::select! {
        done = work::export(app, &wanted) => done?,
        how = interrupted => bail!("{how}: nothing was exported"),
    };
    print(app, &report)
}

fn print(app: &App, report: &ExportReport) -> Result<()> {
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
