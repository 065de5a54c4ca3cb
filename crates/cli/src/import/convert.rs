//! Has stock MariaDB convert its own tables to InnoDB, on a working copy.

use super::check;
use super::scratch::Scratch;
use super::tally::BadFile;
use crate::failure::{Failure, Kind};
use crate::files;
use crate::home::Home;
use crate::log_file;
use crate::meter::{Meter, watched};
use crate::output;
use crate::progress::Progress;
use crate::stock::Stock;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_ambient::Clock;
use xylem_datadir::own::OWN_USER;
use xylem_datadir::plan::Plan;
use xylem_datadir::survey::Survey;
use xylem_datadir::walk::Entry;
use xylem_datadir::working::WorkingCopy;

/// How the error names the conversion.
const DOING: &str = "converting MariaDB's own tables to InnoDB";

/// The conversion of a directory.
#[derive(Debug)]
pub struct Conversion<'a> {
    /// The installation.
    pub home: &'a Home,
    /// The directory of the working copy.
    pub scratch: &'a Scratch,
    /// Keeps MariaDB's error log if MariaDB fails.
    pub keep_log: PathBuf,
    /// The password of the account that Xylem's own client gets.
    pub password: &'a str,
    /// That account can log in from all hosts.
    pub from_anywhere: bool,
    /// The time.
    pub clock: &'a Clock,
    /// Shows progress.
    pub progress: &'a Progress,
}

/// The outcome of a conversion.
#[derive(Debug)]
pub enum Converted {
    /// The directory can be loaded.
    Ready(Loadable),
    /// Bad pages stand in the way.
    Bad(Vec<BadFile>),
}

/// Everything to load.
#[derive(Debug)]
pub struct Loadable {
    /// The files to send.
    pub plan: Plan,
    /// Files that must not change until everything is sent.
    pub entries: Vec<Entry>,
    /// Notes for people.
    pub notes: Vec<String>,
}

impl Conversion<'_> {
    /// Converts the tables that `survey` names.
    ///
    /// # Errors
    /// When there is no room for the copy, or MariaDB fails.
    pub async fn run(&self, survey: Survey) -> Result<Converted> {
        let survey = Arc::new(survey);
        let whole = survey.buffered || survey.stopped.as_ref().is_some_and(|s| s.backup);
        let bad = check::before_conversion(&survey, whole, self.clock, self.progress).await?;
        if let Some(bad) = bad {
            return Ok(Converted::Bad(bad));
        }
        if !whole {
            let work = self.scratch.path().join("part");
            match self.try_with(&survey, &work, false).await {
                Ok(notes) => return self.loadable(survey, &work, false, notes).await,
                // MariaDB reads other tables after all: then with all of them.
                Err(Trouble::Conversion(_)) => files::remove_tree(&work)?,
                Err(Trouble::Copy(error)) => return Err(error),
            }
        }
        let work = self.scratch.path().join("whole");
        match self.try_with(&survey, &work, true).await {
            Ok(notes) => self.loadable(survey, &work, true, notes).await,
            Err(Trouble::Conversion(error) | Trouble::Copy(error)) => Err(error),
        }
    }

    /// Copies and converts; notes for people.
    async fn try_with(
        &self,
        survey: &Arc<Survey>,
        work: &Path,
        whole: bool,
    ) -> Result<Vec<String>, Trouble> {
        self.copy(survey, work, whole)
            .await
            .map_err(Trouble::Copy)?;
        let copy = WorkingCopy {
            survey,
            work,
            whole,
        };
        self.progress
            .say("converting MariaDB's own tables".to_owned());
        self.convert(&copy).await.map_err(Trouble::Conversion)?;
        // That of a first try.
        let _ = std::fs::remove_file(&self.keep_log);
        Ok(notes(&copy))
    }

    async fn copy(&self, survey: &Arc<Survey>, work: &Path, whole: bool) -> Result<()> {
        files::make_private_dir(work)?;
        let copy = WorkingCopy {
            survey,
            work,
            whole,
        };
        check_room(&copy)?;
        let meter = Meter::new(copy.bytes(), self.clock);
        let (survey, work) = (Arc::clone(survey), work.to_owned());
        let counted = Arc::clone(&meter);
        watched(self.progress, "copying", &meter, move || {
            let copy = WorkingCopy {
                survey: &survey,
                work: &work,
                whole,
            };
            Ok(copy.make(|bytes| counted.add(bytes))?)
        })
        .await
    }

    /// Runs MariaDB on the copy. Without a copy of all tables its complaints are
    /// errors as well.
    async fn convert(&self, copy: &WorkingCopy<'_>) -> Result<()> {
        // Purge everything and empty the change buffer, or touch nothing.
        let (force_recovery, fast_shutdown) = if copy.whole { (0, 0) } else { (3, 1) };
        let data = copy.data();
        let stock = Stock {
            home: self.home,
            data: &data,
            work: copy.work,
            keep_log: &self.keep_log,
            page_size: copy.survey.page_size(),
            undo_tablespaces: copy.survey.undo.len(),
            force_recovery,
            fast_shutdown,
            // MariaDB's binary log may have them; the branch gets them as they are.
            roll_back_prepared: false,
        };
        let sql = copy.sql(self.password, self.from_anywhere);
        let text = stock.run(DOING, &sql).await?;
        if !copy.whole && text.lines().any(log_file::is_error_line) {
            return Err(stock.failed(&format!("{DOING} failed")));
        }
        Ok(())
    }

    async fn loadable(
        &self,
        survey: Arc<Survey>,
        work: &Path,
        whole: bool,
        notes: Vec<String>,
    ) -> Result<Converted> {
        let entries = survey.entries.clone();
        let Ok(survey) = Arc::try_unwrap(survey) else {
            bail!("the survey is still in use");
        };
        let data = WorkingCopy {
            survey: &survey,
            work,
            whole,
        }
        .data();
        let plan = tokio::task::spawn_blocking(move || Plan::new(survey, &data, whole))
            .await
            .context("reading the copy ended early")??;
        Ok(Converted::Ready(Loadable {
            plan,
            entries,
            notes,
        }))
    }
}

/// At which step a try failed.
enum Trouble {
    Copy(anyhow::Error),
    Conversion(anyhow::Error),
}

/// Checks that there is room for the copy.
fn check_room(copy: &WorkingCopy<'_>) -> Result<()> {
    let found = rustix::fs::statvfs(copy.work)
        .with_context(|| format!("cannot ask for the free space of {}", copy.work.display()))?;
    let free = found.f_bavail * found.f_frsize;
    let needed = copy.needed_bytes();
    if free >= needed {
        return Ok(());
    }
    Err(Failure::of(
        Kind::Unavailable,
        format!(
            "the import needs {} for a copy of {}, and {} has {}",
            output::bytes(needed),
            if copy.whole {
                "the database"
            } else {
                "the system tablespace"
            },
            copy.work.display(),
            output::bytes(free),
        ),
        "free some space, or name a directory on another disk with --scratch",
    ))
}

fn notes(copy: &WorkingCopy<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let before = copy.accounts_before();
    if !before.is_empty() {
        notes.push(format!(
            "there was an account {OWN_USER} already (from {}): {OWN_USER} has another password now",
            before.join(", ")
        ));
    }
    let emptied = copy.emptied();
    if !emptied.is_empty() {
        notes.push(format!("emptied: mysql.{}", emptied.join(", mysql.")));
    }
    notes
}
