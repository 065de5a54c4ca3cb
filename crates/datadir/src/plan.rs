//! Everything to load into a branch: tablespaces by id, side files by path.

use crate::classify::{self, Dir, InDatabase, Top};
use crate::dictionary;
use crate::error::DatadirError;
use crate::own::{OWN_USER, USER_FILE};
use crate::pages;
use crate::stopped;
use crate::survey::{SideFile, Survey};
use crate::tablespace::{SpaceError, Tablespace};
use crate::walk;
use std::collections::BTreeMap;
use std::path::Path;
use xylem_types::Lsn;

/// Everything to load.
#[derive(Debug)]
pub struct Plan {
    /// The LSN that it is loaded at: no page is newer.
    pub end: Lsn,
    /// By id.
    pub spaces: Vec<Tablespace>,
    /// In the order in which the server takes them.
    pub side: Vec<SideFile>,
}

impl Plan {
    /// The files of the working copy `copy` after the conversion, and, unless it is
    /// `whole`, the other files of the directory itself.
    ///
    /// # Errors
    /// When the copy is not what it should be.
    pub fn new(survey: Survey, copy: &Path, whole: bool) -> Result<Plan, DatadirError> {
        let stopped = stopped::look(copy).map_err(|r| {
            inconsistent(format!(
                "MariaDB did not stop cleanly on the copy: {}: {}",
                r.subject, r.problem
            ))
        })?;
        let mut plan = Plan {
            end: stopped.end,
            spaces: Vec::new(),
            side: Vec::new(),
        };
        let undo = plan.copied(copy)?;
        if undo != survey.undo.len() {
            return Err(inconsistent(format!(
                "the copy has {undo} undo tablespaces, the directory has {}",
                survey.undo.len()
            )));
        }
        if !whole {
            let tables = survey.tables.into_iter();
            let tables = tables.filter(|t| !classify::is_system(&t.name));
            plan.spaces.extend(tables);
            let side = survey.side.into_iter();
            plan.side
                .extend(side.filter(|f| !classify::is_system(&f.path)));
        }
        plan.spaces.sort_by_key(|s| s.id);
        plan.check_dictionary()?;
        let user = copy.with_file_name(USER_FILE);
        std::fs::write(&user, format!("{OWN_USER}\n")).map_err(DatadirError::write(&user))?;
        plan.side.push(SideFile {
            path: USER_FILE.to_owned(),
            size: Some(OWN_USER.len() as u64 + 1),
            mode: 0o660,
            source: user,
        });
        plan.side
            .sort_by_cached_key(|f| [f.path.as_bytes(), &[0]].concat());
        Ok(plan)
    }

    /// Bytes of all tablespaces.
    pub fn bytes(&self) -> u64 {
        self.spaces.iter().map(Tablespace::bytes).sum()
    }

    /// Undo tablespaces.
    pub fn undo_tablespaces(&self) -> usize {
        let is_undo = |s: &&Tablespace| classify::top(&s.name) == Top::Undo;
        self.spaces.iter().filter(is_undo).count()
    }

    fn system(&self) -> Result<&Tablespace, DatadirError> {
        let system = self.spaces.iter().find(|s| s.id == 0);
        system.ok_or_else(|| inconsistent("the copy has no system tablespace".to_owned()))
    }

    /// Takes the files of the copy; returns the number of undo tablespaces.
    fn copied(&mut self, copy: &Path) -> Result<usize, DatadirError> {
        let mut undo = 0;
        for entry in walk::entries(copy)? {
            if entry.dir {
                if classify::dir(&entry.name) == Dir::Database {
                    self.database(&entry)?;
                }
                continue;
            }
            match classify::top(&entry.name) {
                Top::System(_) => self.space(&entry.name, &entry.path)?,
                Top::Undo => {
                    undo += 1;
                    self.space(&entry.name, &entry.path)?;
                }
                _ => {}
            }
        }
        let system = self.system()?;
        let buffered = pages::has_buffered_changes(system);
        if buffered.map_err(|source| space_error(system, source.into()))? {
            return Err(inconsistent(
                "InnoDB did not empty its change buffer".to_owned(),
            ));
        }
        Ok(undo)
    }

    fn database(&mut self, database: &walk::Entry) -> Result<(), DatadirError> {
        self.side.push(SideFile {
            path: database.name.clone(),
            source: database.path.clone(),
            mode: 0o700,
            size: None,
        });
        for entry in walk::entries(&database.path)? {
            let path = format!("{}/{}", database.name, entry.name);
            match classify::in_database(&entry.name) {
                InDatabase::Tablespace => self.space(&path, &entry.path)?,
                InDatabase::Definition | InDatabase::SideFile | InDatabase::Csv => {
                    self.side.push(SideFile {
                        path,
                        source: entry.path,
                        // As MariaDB makes them; the copy is more private.
                        mode: 0o660,
                        size: Some(entry.size),
                    });
                }
                // Made of one of these by ALTER TABLE it is no more.
                _ => {}
            }
        }
        Ok(())
    }

    fn space(&mut self, name: &str, path: &Path) -> Result<(), DatadirError> {
        let space = Tablespace::open(name, path).map_err(|source| DatadirError::Space {
            name: name.to_owned(),
            source,
        })?;
        self.spaces.push(space);
        Ok(())
    }

    /// Each table has its tablespace, and each tablespace its table.
    fn check_dictionary(&self) -> Result<(), DatadirError> {
        let system = self.system()?;
        let reader = system.reader();
        let reader = reader.map_err(|source| space_error(system, source.into()))?;
        let tables =
            dictionary::tables(|page| reader.page(page)).map_err(DatadirError::Dictionary)?;
        let mut known: BTreeMap<String, u32> = tables
            .into_iter()
            .filter(|t| t.space != 0)
            .map(|t| (t.name + ".ibd", t.space))
            .collect();
        for space in self.spaces.iter().filter(|s| s.name.contains('/')) {
            match known.remove(&space.name) {
                Some(id) if id == space.id => {}
                other => {
                    return Err(inconsistent(format!(
                        "{} is tablespace {}, and InnoDB's dictionary in the copy says {other:?}",
                        space.name, space.id
                    )));
                }
            }
        }
        if let Some(name) = known.keys().next() {
            return Err(inconsistent(format!(
                "InnoDB's dictionary in the copy names {name}, which is missing"
            )));
        }
        Ok(())
    }
}

fn inconsistent(what: String) -> DatadirError {
    DatadirError::Inconsistent(what)
}

fn space_error(space: &Tablespace, source: SpaceError) -> DatadirError {
    DatadirError::Space {
        name: space.name.clone(),
        source,
    }
}
