//! A fresh data directory from a base backup.

use super::old::{OldFiles, Wanted};
use crate::account::User;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};
use xylem_datadir::log_tables;
use xylem_proto::control::BaseItem;
use xylem_proto::control::base_item::Item;
use xylem_types::BinlogFile;

/// Writes base backup items under a data directory that was just made.
#[derive(Debug)]
pub struct Materialise<'a> {
    datadir: &'a Path,
    owner: Option<&'a User>,
    directories: HashSet<PathBuf>,
    old: Option<OldFiles>,
    log_bytes: Option<u64>,
    /// The files of the binary log that have events, and when each was begun.
    binlog: BTreeMap<u32, (PathBuf, SystemTime)>,
}

impl<'a> Materialise<'a> {
    /// Into the directory `datadir`, which must be closed to others. What is made in it
    /// is `owner`'s, or else the caller's.
    pub fn new(datadir: &'a Path, owner: Option<&'a User>) -> Materialise<'a> {
        Materialise {
            datadir,
            owner,
            directories: HashSet::new(),
            old: None,
            log_bytes: None,
            binlog: BTreeMap::new(),
        }
    }

    /// Takes files over from the directory `old`, as it was after an earlier start and is now
    /// the caller's, where they would be made in the same way.
    #[must_use]
    pub fn reuse(self, old: &Path) -> Materialise<'a> {
        Materialise {
            old: OldFiles::in_directory(old),
            ..self
        }
    }

    /// Writes one item.
    ///
    /// # Errors
    /// When its path leads elsewhere, or it cannot be written.
    pub fn take(&mut self, item: BaseItem) -> Result<()> {
        match item.item {
            Some(Item::Directory(dir)) => {
                let path = self.resolve(&dir.path)?;
                self.directory(&path, mode_or(dir.mode, 0o700))
            }
            Some(Item::File(file)) => {
                let path = self.resolve(&file.path)?;
                if file.offset > 0 {
                    return more(&path, &file.data, file.offset);
                }
                let length = match BinlogFile::at(&file.path) {
                    // The client library fetches the rest when it is read.
                    Some(BinlogFile::Events(number)) => {
                        self.note(number, &path, &file.data);
                        file.size
                    }
                    _ => file.data.len() as u64,
                };
                let content = [(0, &file.data[..])];
                self.content(&path, mode_or(file.mode, 0o660), length, &content)
            }
            Some(Item::Tablespace(space)) => {
                let path = self.resolve(&space.path)?;
                let pages = space.pages.iter().map(|page| (page.offset, &page.data[..]));
                self.content(&path, 0o660, space.size, &pages.collect::<Vec<_>>())
            }
            Some(Item::RedoLog(log)) => {
                let path = self.datadir.join("ib_logfile0");
                self.log_bytes = Some(log.size);
                self.file(&path, 0o660, |out| {
                    out.write_all_at(&log.data, 0)?;
                    out.set_len(log.size)
                })
            }
            // A newer server's: what it is for cannot be guessed.
            None => bail!(
                "the server sent an item that this version does not know: restart the server with this version"
            ),
        }
    }

    /// Adds what no backup has, after the last item. Returns the size of the redo log
    /// file, if one came.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn finish(self) -> Result<Option<u64>> {
        for path in log_tables::empty(self.datadir)? {
            if let Some(owner) = self.owner {
                owner.give(&path)?;
            }
        }
        // MariaDB removes those that were last changed long ago: when the next one was begun.
        for ((path, _), (_, changed)) in self.binlog.values().zip(self.binlog.values().skip(1)) {
            std::fs::OpenOptions::new()
                .write(true)
                .open(path)
                .and_then(|file| file.set_modified(*changed))
                .with_context(|| format!("cannot set the time of {}", path.display()))?;
        }
        Ok(self.log_bytes)
    }

    /// Notes file `number` of the binary log, of which `data` is the beginning.
    fn note(&mut self, number: u32, path: &Path, data: &[u8]) {
        if let Some(seconds) = xylem_binlog::begun(data) {
            let since_1970 = Duration::from_secs(seconds.into());
            let begun = SystemTime::UNIX_EPOCH + since_1970;
            self.binlog.insert(number, (path.to_owned(), begun));
        }
    }

    /// The place of a relative path; refuses what would lead out of the data
    /// directory.
    fn resolve(&self, path: &str) -> Result<PathBuf> {
        let relative = Path::new(path);
        let inside = relative
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if path.is_empty() || !inside {
            bail!("the server sent a file named {path:?}, which is not inside the data directory");
        }
        Ok(self.datadir.join(relative))
    }

    fn directory(&mut self, path: &Path, mode: u32) -> Result<()> {
        if path == self.datadir || self.directories.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent, 0o700)?;
        }
        let made = std::fs::DirBuilder::new().mode(mode).create(path);
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(error).with_context(|| format!("cannot make the directory {}", path.display()))
            }
            _ => {
                if let Some(owner) = self.owner {
                    owner.give(path)?;
                }
                self.directories.insert(path.to_owned());
                Ok(())
            }
        }
    }

    /// A file of `length` bytes with these pieces, and zeros between them.
    fn content(
        &mut self,
        path: &Path,
        mode: u32,
        length: u64,
        pieces: &[(u64, &[u8])],
    ) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.directory(parent, 0o700)?;
        }
        let me = || rustix::process::geteuid().as_raw();
        let owner = self.owner.map_or_else(me, |owner| owner.uid);
        let wanted = Wanted {
            length,
            pieces,
            mode,
            owner,
        };
        if let Some(old) = &mut self.old
            && let Ok(relative) = path.strip_prefix(self.datadir)
            && old.take(relative, &wanted, path)
        {
            return Ok(());
        }
        self.file(path, mode, |out| {
            out.set_len(length)?;
            for (offset, piece) in pieces {
                out.write_all_at(piece, *offset)?;
            }
            Ok(())
        })
    }

    /// A new file in a directory that exists.
    fn file(
        &self,
        path: &Path,
        mode: u32,
        fill: impl FnOnce(&std::fs::File) -> std::io::Result<()>,
    ) -> Result<()> {
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .and_then(|file| {
                fill(&file)?;
                match self.owner {
                    Some(owner) => owner.give_open(&file),
                    None => Ok(()),
                }
            })
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Writes a further piece of a file whose first one was written.
fn more(path: &Path, data: &[u8], offset: u64) -> Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|out| out.write_all_at(data, offset))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn mode_or(mode: u32, otherwise: u32) -> u32 {
    if mode & 0o777 == 0 {
        otherwise
    } else {
        mode & 0o777
    }
}
