//! `xylem import`: a stock data directory, or a prepared backup, as a branch.

use super::interrupted;
use crate::api::request::NewImport;
use crate::app::App;
use crate::args::transfer::ImportArgs;
use crate::failure::Failure;
use crate::files;
use crate::output::{self, bytes};
use crate::remote::{self, Remote, path};
use crate::report::transfer::ImportReport;
use crate::settings::ServerPorts;
use crate::work::import as work;
use anyhow::{Result, bail};
use std::path::Path;
use xylem_datadir::own::OWN_USER;

/// Runs the command.
///
/// # Errors
/// When the directory is refused, or something fails.
pub async fn run(mut app: App, args: &ImportArgs) -> Result<()> {
    if let Some(remote) = app.remote.clone() {
        let report = there(&app, &remote, args).await?;
        return finish(&app, &report, args.check);
    }
    let wanted = work::Wanted {
        datadir: args.datadir.clone(),
        branch: args.branch.clone(),
        check: args.check,
        leave_out_unknown: args.leave_out_unknown,
        scratch: args.scratch.clone(),
        object_store: args.object_store.clone(),
        ports: args.ports,
    };
    let mut new_project = false;
    let interrupted = interrupted()?;
    let done = tokio::select! {
        done = work::import(&mut app, &wanted, &mut new_project) => done,
        how = interrupted => Err(anyhow::anyhow!("{how}: nothing was imported")),
    };
    if new_project {
        remove_project(&app).await;
    }
    done.and_then(|report| finish(&app, &report, args.check))
}

/// Has the API of a server elsewhere import a directory there.
async fn there(app: &App, remote: &Remote, args: &ImportArgs) -> Result<ImportReport> {
    if args.object_store.is_some() || args.ports != ServerPorts::default() {
        return Err(Failure::usage(
            "--object-store, --grpc-port and --http-port are for a new project, and --server has one already",
            "leave them out",
        ));
    }
    let body = NewImport {
        datadir: remote::place("DATADIR", &args.datadir)?,
        branch: Some(args.branch.to_string()),
        check: args.check,
        leave_out_unknown: args.leave_out_unknown,
        scratch: match &args.scratch {
            Some(dir) => Some(remote::place("--scratch", dir)?),
            None => None,
        },
    };
    match remote.long(app, &path(&["imports"]), &body).await? {
        remote::Ended::Done(report) => Ok(report),
        remote::Ended::Interrupted(how) => bail!("{how}: nothing was imported"),
    }
}

/// Removes the project that was created for an import that failed.
async fn remove_project(app: &App) {
    let removed = async {
        super::down::stop_all(app).await?;
        files::remove_tree(&app.state.server_data())?;
        std::fs::remove_file(app.state.project_file())?;
        anyhow::Ok(())
    };
    if let Err(error) = removed.await {
        eprintln!("the project that was created for the import cannot be removed: {error:#}");
    }
}

/// Prints the report. A refusal is an error.
fn finish(app: &App, report: &ImportReport, only_checked: bool) -> Result<()> {
    if app.json {
        output::json(report)?;
    }
    if let Some(error) = work::refused(report) {
        return Err(error);
    }
    if app.json {
        return Ok(());
    }
    let count = |n: Option<u64>| n.unwrap_or_default();
    let size = format!(
        "{} tablespaces, {} pages, {}, in {:.1} s",
        count(report.tablespaces),
        count(report.pages),
        bytes(count(report.page_bytes)),
        report.seconds
    );
    let mut lines = Vec::new();
    if only_checked {
        lines.push(format!(
            "{} can be imported: every page is sound ({size})",
            report.datadir.display()
        ));
    } else {
        let start = if report.branch == "main" {
            app.command("up")
        } else {
            app.command(&format!("compute start {}", report.branch))
        };
        lines.push(format!(
            "imported {} as branch {} ({size})\n\n\
             \x20 LSN       {}\n\
             \x20 accounts  as they were; xylem's own client uses `{OWN_USER}`\n\
             \x20 password  of `{OWN_USER}`, in {}\n\
             \x20 start     {start}",
            report.datadir.display(),
            report.branch,
            count(report.lsn),
            report
                .password_file
                .as_deref()
                .unwrap_or(Path::new(""))
                .display(),
        ));
    }
    if !report.notes.is_empty() {
        lines.push(String::new());
        lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    }
    output::text_line(&lines.join("\n"))
}
