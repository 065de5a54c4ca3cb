//! `xylem import`: a stock data directory, or a prepared backup, as a branch.

use crate::app::{App, LOCK_LIMIT};
use crate::args::transfer::ImportArgs;
use crate::control::Control;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::import::check;
use crate::import::convert::{Conversion, Converted};
use crate::import::scratch::Scratch;
use crate::import::send;
use crate::import::tally::{Tally, refusals};
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::project::Project;
use crate::session::Prepared;
use crate::settings::PAGE_SIZE;
use crate::timing::Timer;
use anyhow::{Context, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use xylem_datadir::own::OWN_USER;
use xylem_datadir::refusal::{self, Refusal};
use xylem_datadir::survey::{self, Survey};
use xylem_proto::control::{Branch, ImportResponse};
use xylem_types::{BranchName, Lsn};

/// The document that `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    datadir: PathBuf,
    branch: String,
    /// The branch's id, once it exists.
    id: Option<String>,
    lsn: Option<u64>,
    page_size: Option<usize>,
    undo_tablespaces: Option<usize>,
    tablespaces: Option<u64>,
    pages: Option<u64>,
    page_bytes: Option<u64>,
    side_files: Option<u64>,
    layers: Option<u64>,
    layer_bytes: Option<u64>,
    user: Option<&'static str>,
    password_file: Option<PathBuf>,
    seconds: f64,
    notes: Vec<String>,
    refused: Vec<Refusal>,
}

/// Runs the command.
///
/// # Errors
/// When the directory is refused, or something fails.
pub async fn run(mut app: App, args: &ImportArgs) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut new_project = false;
    let mut import = Import {
        progress: app.progress(),
        app: &mut app,
        args,
        new_project: &mut new_project,
    };
    let done = tokio::select! {
        done = import.run() => done,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted: nothing was imported")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated: nothing was imported")),
    };
    drop(import);
    if new_project {
        remove_project(&app).await;
    }
    done.and_then(|report| finish(&app, &report, args.check))
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

/// An import under way.
struct Import<'a> {
    app: &'a mut App,
    args: &'a ImportArgs,
    progress: Progress,
    /// A project was created for the import, and is removed again unless the branch
    /// comes to be.
    new_project: &'a mut bool,
}

impl Import<'_> {
    async fn run(&mut self) -> Result<Report> {
        let timer = Timer::start(&self.app.clock);
        let datadir = data_directory(&self.args.datadir)?;
        self.progress
            .say(format!("looking at {}", datadir.display()));
        let survey = {
            let (dir, leave_out) = (datadir.clone(), self.args.leave_out_unknown);
            tokio::task::spawn_blocking(move || survey::survey(&dir, leave_out))
                .await
                .context("looking at the directory ended early")??
        };
        let mut report = Report {
            datadir,
            branch: self.args.branch.to_string(),
            page_size: survey.system.as_ref().map(|_| survey.page_size()),
            undo_tablespaces: Some(survey.undo.len()),
            notes: survey.notes.clone(),
            refused: survey.refusals.clone(),
            ..Report::default()
        };
        if self.args.check {
            let survey = Arc::new(survey);
            let tally = check::all(&survey, &self.app.clock, &self.progress).await?;
            report.lsn = survey.stopped.as_ref().map(|s| s.end.0);
            report.count(tally);
        } else if report.refused.is_empty() {
            self.load(survey, &mut report).await?;
        }
        report.seconds = timer.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Converts and loads the directory, unless pages are bad.
    async fn load(&mut self, survey: Survey, report: &mut Report) -> Result<()> {
        let home = Home::find()?;
        home.check()?;
        let empty = self.check_branch(&survey).await?;
        self.app.state.create()?;
        let app = &*self.app;
        let scratch = self.args.scratch.as_deref();
        let scratch = Scratch::make(scratch.unwrap_or(app.state.root()))?;
        let conversion = Conversion {
            home: &home,
            scratch: &scratch,
            keep_log: app.state.import_log(),
            password: &app.state.make_password(&app.entropy)?,
            from_anywhere: self.is_open_to_all()?,
            clock: &app.clock,
            progress: &self.progress,
        };
        let mut loadable = match conversion.run(survey).await? {
            Converted::Bad(bad) => {
                report.refused = refusals(&bad);
                return Ok(());
            }
            Converted::Ready(loadable) => loadable,
        };
        report.notes.append(&mut loadable.notes);
        let system = loadable.plan.spaces.first();
        let page_size = system.map_or(0, |s| s.flags.logical_page_size());
        let control = self
            .connect(&home, u32::try_from(page_size)?, empty)
            .await?;
        let app = &*self.app;
        let branch = &self.args.branch;
        let (tally, answer) =
            send::load(loadable, branch, &control, &app.clock, &self.progress).await?;
        report.count(tally);
        if let Some(answer) = answer {
            report.loaded(answer, app);
            // From here on the branch exists, whatever happens to the report.
            *self.new_project = false;
        }
        Ok(())
    }

    /// Whether computes of the project listen to other machines.
    fn is_open_to_all(&self) -> Result<bool> {
        if !self.app.state.has_project() {
            return Ok(false);
        }
        let project = Project::load(&self.app.state)?;
        Ok(!project.settings.bind().is_loopback())
    }

    /// Refuses what the server would refuse in the end, before the work is done.
    /// True when the project is empty.
    async fn check_branch(&self, survey: &Survey) -> Result<bool> {
        let (app, args) = (&*self.app, self.args);
        if !app.state.has_project() {
            return Ok(true);
        }
        let mut prepared = Prepared::load(app).await?;
        prepared.ports = args.ports;
        let store = &prepared.project.settings.store.object_store;
        if args.object_store.is_some() && args.object_store != *store {
            return Err(Failure::new(
                "the object store of a project cannot be changed",
                "leave --object-store out, or create another project with --dir",
            ));
        }
        let session = prepared.start(app, &self.progress).await?;
        let branches = session.running.control.branches(false).await?;
        if branches
            .iter()
            .any(|b| b.name == args.branch.as_str() && is_used(b))
        {
            return Err(Failure::new(
                format!("there is a branch {} already", args.branch),
                "name another branch with --branch",
            ));
        }
        // A killed import may have left an empty project.
        let empty = !branches.iter().any(is_used);
        let have = session.project.settings.page_size();
        if survey.page_size() as u64 != u64::from(have) && !empty {
            return Err(Failure::new(
                format!(
                    "the directory's pages have {} bytes (innodb_page_size), those of this project {have}",
                    survey.page_size()
                ),
                "import it as another project, with --dir",
            ));
        }
        Ok(empty)
    }

    /// The server, of a project that is created for the import if there is none.
    async fn connect(&mut self, home: &Home, page_size: u32, empty: bool) -> Result<Control> {
        let (app, args) = (&*self.app, self.args);
        let lock = app.state.lock(LOCK_LIMIT).await?;
        let project = if app.state.has_project() {
            Project::load(&app.state)?
        } else {
            let mut project = Project::new(app.now()?);
            let store = &mut project.settings.store;
            store.object_store.clone_from(&args.object_store);
            *self.new_project = true;
            project.save(&app.state)?;
            project
        };
        let prepared = Prepared {
            // A template's branch main is not empty.
            home: home.clone().without_template(),
            project,
            ports: args.ports,
            lock,
        };
        let mut session = prepared.start(app, &self.progress).await?;
        let project = &mut session.project;
        if empty {
            let format = &mut project.settings.format;
            format.page_size = Some(page_size).filter(|size| *size != PAGE_SIZE);
        }
        if args.branch == BranchName::main() {
            // The conversion has created the account.
            project.accounts = project.accounts_wanted();
        }
        project.save(&app.state)?;
        Ok(session.running.control)
    }
}

fn data_directory(path: &Path) -> Result<PathBuf> {
    const HINT: &str = "name the data directory of a stopped MariaDB";
    let datadir = std::fs::canonicalize(path)
        .map_err(|e| Failure::new(format!("{}: {e}", path.display()), HINT))?;
    if !datadir.is_dir() {
        let what = format!("{} is not a directory", datadir.display());
        return Err(Failure::new(what, HINT));
    }
    Ok(datadir)
}

/// Whether a branch has a database.
fn is_used(branch: &Branch) -> bool {
    branch.epoch > 0 || branch.applied_lsn > Lsn::FIRST.0
}

impl Report {
    fn count(&mut self, tally: Tally) {
        self.tablespaces = Some(tally.tablespaces);
        self.pages = Some(tally.pages);
        self.page_bytes = Some(tally.page_bytes);
        self.side_files = Some(tally.side_files).filter(|_| tally.side_files > 0);
        self.notes.extend(tally.notes);
        self.refused.extend(refusals(&tally.bad));
    }

    fn loaded(&mut self, answer: ImportResponse, app: &App) {
        self.id = Some(answer.id);
        self.lsn = Some(answer.lsn);
        self.layers = Some(answer.layers);
        self.layer_bytes = Some(answer.layer_bytes);
        self.user = Some(OWN_USER);
        self.password_file = Some(app.state.password_file());
    }
}

/// Prints the report. A refusal is an error.
fn finish(app: &App, report: &Report, only_checked: bool) -> Result<()> {
    if app.json {
        output::json(report)?;
    }
    if !report.refused.is_empty() {
        let count = report.refused.len();
        let things = if count == 1 { "reason" } else { "reasons" };
        let what = format!(
            "{} cannot be imported, for {count} {things}:\n{}",
            report.datadir.display(),
            refusal::text(&report.refused)
        );
        return Err(Failure::new(what, ""));
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
            app.state.password_file().display(),
        ));
    }
    if !report.notes.is_empty() {
        lines.push(String::new());
        lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    }
    output::text_line(&lines.join("\n"))
}
