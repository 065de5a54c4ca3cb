//! What goes to the server: tablespaces by id, side files by path.

use super::classify::{self, Dir, InDatabase};
use super::convert::USER;
use super::dictionary;
use super::pages;
use super::stopped;
use super::survey::{SideFile, Survey};
use super::tablespace::Tablespace;
use super::walk;
use super::{SYSTEM_DATABASES, classify::Top};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use xylem_types::Lsn;

/// The side file that says which account Xylem's own client uses.
pub use crate::compute::account::USER_FILE;

/// What is loaded.
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
    /// What is in the copy after MariaDB's tables were converted, and, where
    /// that does not have all, in the directory itself.
    ///
    /// # Errors
    /// When the copy is not what it should be.
    pub fn new(survey: Survey, copy: &Path, whole: bool) -> Result<Plan> {
        let stopped = stopped::look(copy).map_err(|r| {
            anyhow::anyhow!(
                "the copy was not left in order: {}: {}",
                r.subject,
                r.problem
            )
        })?;
        let mut plan = Plan {
            end: stopped.end,
            spaces: Vec::new(),
            side: Vec::new(),
        };
        let undo = plan.copied(copy)?;
        ensure!(
            undo == survey.undo.len(),
            "the copy has {undo} undo tablespaces, the directory {}",
            survey.undo.len()
        );
        if !whole {
            let own = |path: &str| {
                let database = path.split('/').next().unwrap_or_default();
                SYSTEM_DATABASES.contains(&database)
            };
            let tables = survey.tables.into_iter();
            plan.spaces.extend(tables.filter(|t| !own(&t.name)));
            let side = survey.side.into_iter();
            plan.side.extend(side.filter(|f| !own(&f.path)));
        }
        plan.spaces.sort_by_key(|s| s.id);
        plan.check_dictionary()?;
        let user = copy.with_file_name(USER_FILE);
        std::fs::write(&user, format!("{USER}\n"))
            .with_context(|| format!("cannot write {}", user.display()))?;
        plan.side.push(SideFile {
            path: USER_FILE.to_owned(),
            size: Some(USER.len() as u64 + 1),
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

    /// Takes what is in the copy; the number of undo tablespaces.
    fn copied(&mut self, copy: &Path) -> Result<usize> {
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
        let Some(system) = self.spaces.iter().find(|s| s.id == 0) else {
            bail!("the copy has no system tablespace");
        };
        ensure!(
            !pages::has_buffered_changes(system)?,
            "InnoDB did not empty its change buffer"
        );
        Ok(undo)
    }

    fn database(&mut self, database: &walk::Entry) -> Result<()> {
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

    fn space(&mut self, name: &str, path: &Path) -> Result<()> {
        let space = Tablespace::open(name, path).with_context(|| name.to_owned())?;
        self.spaces.push(space);
        Ok(())
    }

    /// Each table has its tablespace, and each tablespace its table.
    fn check_dictionary(&self) -> Result<()> {
        let Some(system) = self.spaces.iter().find(|s| s.id == 0) else {
            bail!("the copy has no system tablespace");
        };
        let reader = system.reader()?;
        let tables = dictionary::tables(|page| reader.page(page))
            .context("InnoDB's dictionary in the copy")?;
        let mut known: BTreeMap<String, u32> = tables
            .into_iter()
            .filter(|t| t.space != 0)
            .map(|t| (t.name + ".ibd", t.space))
            .collect();
        for space in self.spaces.iter().filter(|s| s.name.contains('/')) {
            match known.remove(&space.name) {
                Some(id) if id == space.id => {}
                other => bail!(
                    "{} is tablespace {}, and InnoDB's dictionary in the copy says {other:?}",
                    space.name,
                    space.id
                ),
            }
        }
        if let Some(name) = known.keys().next() {
            bail!("InnoDB's dictionary in the copy names {name}, which is not there");
        }
        Ok(())
    }
}
