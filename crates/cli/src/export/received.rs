//! Writes what the server sends of a branch, but for the pages of tablespaces.

use super::fetch::Space;
use super::target::{Target, cannot_write};
use crate::home::Home;
use crate::stock::Stock;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xylem_datadir::log_tables;
use xylem_datadir::own::{self, EXPORT_SETTINGS};
use xylem_datadir::restore;
use xylem_datadir::stopped::LOG;
use xylem_datadir::working::LOG_BYTES;
use xylem_proto::control::Tablespace;
use xylem_proto::control::base_item::Item;
use xylem_redo::SpaceFlags;
use xylem_types::{BinlogFile, BranchName, Lsn, SpaceId};

/// The part of the branch received so far, and the directory that it is written to.
#[derive(Debug)]
pub struct Received {
    /// The directory.
    pub target: Target,
    /// The tablespaces, whose files are still holes.
    pub spaces: Vec<Tablespace>,
    /// Side files and directories that were written.
    pub side_files: usize,
    /// The file whose pieces are arriving.
    side_file: Option<(String, File)>,
    /// The account for people, if the branch names one.
    pub user: Option<String>,
}

impl Received {
    /// Nothing yet, to be written to `target`.
    pub fn new(target: Target) -> Received {
        Received {
            target,
            spaces: Vec::new(),
            side_files: 0,
            side_file: None,
            user: None,
        }
    }

    /// Takes one item, and writes it.
    ///
    /// # Errors
    /// When its path leads elsewhere, or it cannot be written.
    pub fn take(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Directory(dir) => {
                self.side_files += 1;
                self.target.directory(&dir.path, dir.mode & 0o777 | 0o700)
            }
            // Only Xylem's own client has a use for it.
            Item::File(file) if file.path == own::USER_FILE => {
                self.user = Some(String::from_utf8_lossy(&file.data).trim().to_owned());
                Ok(())
            }
            // The exported database begins a log of its own.
            Item::File(file) if BinlogFile::at(&file.path).is_some() => Ok(()),
            // A stock server has no branches, and reads its own files.
            Item::File(file)
                if [own::BINLOG_OWNER_FILE, own::START_PAGES_FILE]
                    .contains(&file.path.as_str()) =>
            {
                Ok(())
            }
            // An imported branch may have them.
            Item::File(file) if log_tables::is_rows(&file.path) => Ok(()),
            Item::File(file) => {
                if file.offset == 0 {
                    self.side_files += 1;
                    let mode = file.mode & 0o777 | 0o600;
                    let out = self.target.create(&file.path, mode)?;
                    self.side_file = Some((file.path.clone(), out));
                }
                // The pieces of a large one follow one another.
                match &mut self.side_file {
                    Some((path, out)) if *path == file.path => out
                        .write_all_at(&file.data, file.offset)
                        .map_err(|e| cannot_write(Path::new(&file.path), e)),
                    _ => bail!(
                        "the server sent a piece of {} without its beginning",
                        file.path
                    ),
                }
            }
            Item::Tablespace(space) => {
                let out = self.target.create(&space.path, 0o660)?;
                let bytes = file_bytes(&space)?;
                out.set_len(bytes)
                    .map_err(|e| cannot_write(Path::new(&space.path), e))?;
                self.spaces.push(Tablespace {
                    pages: Vec::new(),
                    ..space
                });
                Ok(())
            }
            // That of a compute; the exported directory gets one of its own.
            Item::RedoLog(_) => Ok(()),
        }
    }

    /// The database's page size in bytes.
    ///
    /// # Errors
    /// When the system tablespace is missing.
    pub fn page_size(&self) -> Result<usize> {
        let system = self.spaces.iter().find(|s| s.space_id == 0);
        let system = system.context("the branch has no system tablespace")?;
        Ok(flags(system)?.logical_page_size())
    }

    /// How many undo tablespaces the database has.
    pub fn undo_tablespaces(&self) -> usize {
        let is_undo = |path: &str| path.starts_with("undo") && !path.contains('/');
        self.spaces.iter().filter(|s| is_undo(&s.path)).count()
    }

    /// The tablespaces, and the files that their pages go to.
    ///
    /// # Errors
    /// When the flags of a tablespace make no sense.
    pub fn files(&self) -> Result<Vec<Space>> {
        let mut files = Vec::new();
        for space in &self.spaces {
            let flags = flags(space)?;
            files.push(Space {
                id: space.space_id,
                flags,
                pages: u32::try_from(space.size / flags.physical_page_size() as u64)?,
                path: self.target.path().join(&space.path),
            });
        }
        Ok(files)
    }

    /// Writes the redo log, without which InnoDB does not start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_log(&mut self, lsn: Lsn) -> Result<()> {
        let names = self
            .spaces
            .iter()
            .filter(|s| s.path.ends_with(".ibd"))
            .map(|s| (SpaceId(s.space_id), s.path.as_str()));
        let head = xylem_redo::log_file_naming(lsn, names, LOG_BYTES)
            .context("the redo log is too small for the names of all tablespaces")?;
        let mut out = self.target.create(LOG, 0o660)?;
        out.write_all(&head)
            .and_then(|()| out.set_len(LOG_BYTES))
            .map_err(|e| cannot_write(Path::new(LOG), e))
    }

    /// Has stock MariaDB roll back DDL that was under way, convert its own tables
    /// back to Aria, and stop cleanly. That also proves that MariaDB starts on the
    /// directory.
    ///
    /// # Errors
    /// When MariaDB fails; `keep_log` then has its error log.
    pub async fn settle(&self, home: &Home, keep_log: &Path) -> Result<()> {
        let data = self.target.path();
        let sql = restore::sql(&home.share(), data)?;
        let work = tempfile::Builder::new()
            .prefix("xylem-export-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let stock = Stock {
            home,
            data,
            work: work.path(),
            keep_log,
            page_size: self.page_size()?,
            undo_tablespaces: self.undo_tablespaces(),
            force_recovery: 0,
            fast_shutdown: 1,
            // Transactions that were being committed at that moment: no binary
            // log is exported that would tell their outcome.
            roll_back_prepared: true,
        };
        stock
            .run("starting stock MariaDB on the exported directory", &sql)
            .await?;
        Ok(())
    }

    /// Writes the file with the settings that the directory needs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_settings(&mut self, branch: &BranchName, lsn: u64) -> Result<()> {
        let text = format!(
            "# Branch {branch} of a Xylem project at LSN {lsn}, for MariaDB 10.11.\n\
             # Start MariaDB with these settings in its own option file: it does not read\n\
             # this one. If MariaDB runs as another user, such as mysql, give that user the\n\
             # directory: chown -R mysql: DIR\n\
             [mariadbd]\n\
             innodb_page_size = {}\n\
             innodb_data_file_path = ibdata1:12M:autoextend\n\
             innodb_undo_tablespaces = {}\n",
            self.page_size()?,
            self.undo_tablespaces()
        );
        let mut out = self.target.create(EXPORT_SETTINGS, 0o644)?;
        out.write_all(text.as_bytes())
            .map_err(|e| cannot_write(Path::new(EXPORT_SETTINGS), e))
    }
}

/// The pages, of InnoDB's logical size, of a new file
/// (`FIL_IBD_FILE_INITIAL_SIZE` in `fil0fil.h`).
const FILE_PAGES_MIN: u64 = 4;

/// The size of a tablespace's file in bytes. The pages of
/// `ROW_FORMAT=COMPRESSED` are smaller than InnoDB's, so that a few of them would
/// make a file that InnoDB refuses as too small (`fil_node_t::read_page0()`).
fn file_bytes(space: &Tablespace) -> Result<u64> {
    let least = FILE_PAGES_MIN * flags(space)?.logical_page_size() as u64;
    Ok(space.size.max(least))
}

fn flags(space: &Tablespace) -> Result<SpaceFlags> {
    SpaceFlags::new(space.flags).with_context(|| space.path.clone())
}
