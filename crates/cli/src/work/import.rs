//! Work on imports: a stock data directory, or a prepared backup, becomes a branch.

use crate::app::App;
use crate::control::Control;
use crate::failure::{Failure, Kind};
use crate::home::Home;
use crate::import::check;
use crate::import::convert::{Conversion, Converted};
use crate::import::scratch::Scratch;
use crate::import::send;
use crate::import::tally::{Tally, refusals};
use crate::progress::Progress;
use crate::project::Project;
use crate::report::transfer::ImportReport;
use crate::session::Prepared;
use crate::settings::{PAGE_SIZE, ServerPorts};
use crate::timing::Timer;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_datadir::own::OWN_USER;
use xylem_datadir::refusal;
use xylem_datadir::survey::{self, Survey};
use xylem_proto::control::{Branch, ImportResponse};
use xylem_types::{BranchName, Lsn};

/// A directory to be imported.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The data directory.
    pub datadir: PathBuf,
    /// The new branch.
    pub branch: BranchName,
    /// Only look whether it can be imported.
    pub check: bool,
    /// Leave out unknown files, instead of refusing the directory.
    pub leave_out_unknown: bool,
    /// Directory for the working copy; `None`: the state directory.
    pub scratch: Option<PathBuf>,
    /// Object store of a new project.
    pub object_store: Option<String>,
    /// Ports of the server.
    pub ports: ServerPorts,
}

/// Imports a directory, or only checks it. Sets `new_project` while there is a project that
/// was created for the import, and that has to go if the import fails or is dropped.
///
/// The report has the faults of the directory, see [`refused`].
///
/// # Errors
/// When something fails.
pub async fn import(
    app: &mut App,
    wanted: &Wanted,
    new_project: &mut bool,
) -> Result<ImportReport> {
    let mut import = Import {
        progress: app.progress(),
        app,
        wanted,
        new_project,
    };
    import.run().await
}

/// The error that the directory cannot be imported, with all obstacles; `None` if there are
/// none.
pub fn refused(report: &ImportReport) -> Option<anyhow::Error> {
    if report.refused.is_empty() {
        return None;
    }
    let count = report.refused.len();
    let things = if count == 1 { "reason" } else { "reasons" };
    let what = format!(
        "{} cannot be imported, for {count} {things}:\n{}",
        report.datadir.display(),
        refusal::text(&report.refused)
    );
    Some(Failure::of(Kind::Invalid, what, ""))
}

/// An import under way.
struct Import<'a> {
    app: &'a mut App,
    wanted: &'a Wanted,
    progress: Progress,
    /// A project was created for the import, and is removed again unless the branch
    /// comes to be.
    new_project: &'a mut bool,
}

impl Import<'_> {
    async fn run(&mut self) -> Result<ImportReport> {
        let timer = Timer::start(&self.app.clock);
        let datadir = data_directory(&self.wanted.datadir)?;
        self.progress
            .say(format!("looking at {}", datadir.display()));
        let survey = {
            let (dir, leave_out) = (datadir.clone(), self.wanted.leave_out_unknown);
            tokio::task::spawn_blocking(move || survey::survey(&dir, leave_out))
                .await
                .context("looking at the directory ended early")??
        };
        let mut report = ImportReport {
            datadir,
            branch: self.wanted.branch.to_string(),
            page_size: survey.system.as_ref().map(|_| survey.page_size()),
            undo_tablespaces: Some(survey.undo.len()),
            notes: survey.notes.clone(),
            refused: survey.refusals.clone(),
            ..ImportReport::default()
        };
        if self.wanted.check {
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
    async fn load(&mut self, survey: Survey, report: &mut ImportReport) -> Result<()> {
        let home = Home::find()?;
        home.check()?;
        let empty = self.check_branch(&survey).await?;
        self.app.state.create()?;
        let app = &*self.app;
        let scratch = self.wanted.scratch.as_deref();
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
        let branch = &self.wanted.branch;
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
        let (app, wanted) = (&*self.app, self.wanted);
        if !app.state.has_project() {
            return Ok(true);
        }
        let mut prepared = Prepared::load(app).await?;
        prepared.ports = wanted.ports;
        let store = &prepared.project.settings.store.object_store;
        if wanted.object_store.is_some() && wanted.object_store != *store {
            return Err(Failure::new(
                "the object store of a project cannot be changed",
                "leave --object-store out, or create another project with --dir",
            ));
        }
        let session = prepared.start(app, &self.progress).await?;
        let branches = session.running.control.branches(false).await?;
        if branches
            .iter()
            .any(|b| b.name == wanted.branch.as_str() && is_used(b))
        {
            return Err(Failure::of(
                Kind::Conflict,
                format!("there is a branch {} already", wanted.branch),
                "name another branch with --branch",
            ));
        }
        // A killed import may have left an empty project.
        let empty = !branches.iter().any(is_used);
        let have = session.project.settings.page_size();
        if survey.page_size() as u64 != u64::from(have) && !empty {
            return Err(Failure::of(
                Kind::Invalid,
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
        let (app, wanted) = (&*self.app, self.wanted);
        let lock = app.lock().await?;
        let project = if app.state.has_project() {
            Project::load(&app.state)?
        } else {
            let mut project = Project::new(app.now()?);
            let store = &mut project.settings.store;
            store.object_store.clone_from(&wanted.object_store);
            *self.new_project = true;
            project.save(&app.state)?;
            project
        };
        let prepared = Prepared {
            // A template's branch main is not empty.
            home: home.clone().without_template(),
            project,
            ports: wanted.ports,
            lock,
        };
        let mut session = prepared.start(app, &self.progress).await?;
        let project = &mut session.project;
        if empty {
            let format = &mut project.settings.format;
            format.page_size = Some(page_size).filter(|size| *size != PAGE_SIZE);
        }
        if wanted.branch == BranchName::main() {
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
        .map_err(|e| Failure::of(Kind::Invalid, format!("{}: {e}", path.display()), HINT))?;
    if !datadir.is_dir() {
        let what = format!("{} is not a directory", datadir.display());
        return Err(Failure::of(Kind::Invalid, what, HINT));
    }
    Ok(datadir)
}

/// Whether a branch has a database.
fn is_used(branch: &Branch) -> bool {
    branch.epoch > 0 || branch.applied_lsn > Lsn::FIRST.0
}

impl ImportReport {
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
        self.user = Some(OWN_USER.to_owned());
        self.password_file = Some(app.state.password_file());
    }
}
