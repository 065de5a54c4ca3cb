//! Recovery by `xylem-redo`: applies redo to data files, or to nothing.

use crate::files::DataFile;
use crate::log::Log;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap};
use xylem_redo::{FileEvent, Mtr, MtrItem, RecordKind, SpaceFlags, apply, page_lsn};
use xylem_types::{Lsn, PageId};

/// A page under replay.
#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    /// The page already includes mini-transactions that began before this.
    base: Lsn,
}

/// A tablespace under replay.
#[derive(Debug, Default)]
pub struct Space {
    /// From page 0 in the file or in the redo.
    pub flags: Option<SpaceFlags>,
    /// The size in pages, if the redo contains it.
    pub size: Option<u32>,
    /// The name of the file, if the redo contains it.
    pub name: Option<String>,
    /// Whether the redo contains a FILE_DELETE.
    pub deleted: bool,
    /// Whether the tablespace was truncated, so that the file's contents no longer
    /// matter.
    trimmed: bool,
    pages: HashMap<u32, Page>,
}

/// Statistics of a replay.
#[derive(Debug, Default)]
pub struct Stats {
    /// Mini-transactions read.
    pub mtrs: u64,
    /// Runs of records applied.
    pub runs: u64,
    /// Runs skipped, because the page included them or is overwritten later.
    pub skipped: u64,
    /// Records by kind.
    pub kinds: BTreeMap<RecordKind, u64>,
    /// The size in bytes of the largest mini-transaction.
    pub largest: usize,
}

/// Recovery in memory.
#[derive(Debug, Default)]
pub struct Replay<'a> {
    base: Option<&'a BTreeMap<u32, DataFile>>,
    /// For each page, the last mini-transaction that initialises or frees it. If a
    /// page was freed, InnoDB may never have written it, so that earlier records
    /// cannot be applied, and need not be (`mlog_init` in `log0recv.cc`).
    fresh: HashMap<PageId, Lsn>,
    /// For each tablespace, the last mini-transaction that truncates it.
    trims: HashMap<u32, Lsn>,
    /// The tablespaces that the redo mentions.
    pub spaces: BTreeMap<u32, Space>,
    /// Statistics.
    pub stats: Stats,
}

impl<'a> Replay<'a> {
    /// Replays from data files and the newest checkpoint, like InnoDB.
    ///
    /// # Errors
    /// When a record cannot be decoded or applied.
    pub fn from_files(base: &'a BTreeMap<u32, DataFile>, log: &Log) -> Result<Replay<'a>> {
        let mut replay = Replay {
            base: Some(base),
            ..Replay::default()
        };
        log.for_each(log.header.checkpoint_lsn, |mtr| {
            for item in mtr.items() {
                match item? {
                    MtrItem::Page {
                        page,
                        starts_fresh: true,
                        ..
                    } => {
                        replay.fresh.insert(page, mtr.start_lsn());
                    }
                    MtrItem::Trim { space, .. } => {
                        replay.trims.insert(space.0, mtr.start_lsn());
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
        log.for_each(log.header.checkpoint_lsn, |mtr| replay.apply(&mtr))?;
        Ok(replay)
    }

    /// Replays only redo, which must begin at the database's creation.
    ///
    /// # Errors
    /// When a record cannot be decoded or applied.
    pub fn from_nothing(log: &Log) -> Result<Replay<'static>> {
        let mut replay = Replay::default();
        log.for_each(log.start(), |mtr| replay.apply(&mtr))?;
        Ok(replay)
    }

    /// Applies one mini-transaction.
    ///
    /// # Errors
    /// When a record cannot be decoded or applied.
    pub fn apply(&mut self, mtr: &Mtr<'_>) -> Result<()> {
        self.stats.mtrs += 1;
        self.stats.largest = self.stats.largest.max(mtr.size());
        for record in mtr.records() {
            *self.stats.kinds.entry(record?.kind).or_default() += 1;
        }
        // The runs of one page need not be adjacent, so they are collected first.
        let mut pages: Vec<(PageId, Vec<u8>, bool)> = Vec::new();
        for item in mtr.items() {
            match item? {
                MtrItem::Page {
                    page,
                    records,
                    starts_fresh,
                    ..
                } => match pages.iter_mut().find(|p| p.0 == page) {
                    Some(p) if starts_fresh => (p.1, p.2) = (records.to_vec(), true),
                    Some(p) => p.1.extend_from_slice(records),
                    None => pages.push((page, records.to_vec(), starts_fresh)),
                },
                MtrItem::SpaceFlags { space, flags } => self.space(space.0).flags = Some(flags),
                MtrItem::SpaceSize { space, pages } => self.space(space.0).size = Some(pages),
                MtrItem::Trim { space, pages: size } => {
                    let s = self.space(space.0);
                    s.pages.clear();
                    s.trimmed = true;
                    s.size = Some(size);
                }
                MtrItem::File(event) => self.file_event(event),
            }
        }
        for (page, records, fresh) in pages {
            self.apply_page(mtr, page, &records, fresh)
                .with_context(|| format!("mini-transaction at {}", mtr.start_lsn()))?;
        }
        Ok(())
    }

    fn file_event(&mut self, event: FileEvent<'_>) {
        let (space, name) = match event {
            FileEvent::Create { space, name } | FileEvent::Modify { space, name } => (space, name),
            FileEvent::Rename { space, new, .. } => (space, new),
            FileEvent::Delete { space, .. } => {
                let s = self.space(space.0);
                s.deleted = true;
                s.pages.clear();
                return;
            }
            FileEvent::Checkpoint { .. } | FileEvent::Padding => return,
        };
        self.space(space.0).name = Some(String::from_utf8_lossy(name).into_owned());
    }

    fn space(&mut self, id: u32) -> &mut Space {
        let base = self.base;
        self.spaces.entry(id).or_insert_with(|| Space {
            flags: base.and_then(|b| b.get(&id)).map(|f| f.flags),
            ..Space::default()
        })
    }

    fn apply_page(&mut self, mtr: &Mtr<'_>, id: PageId, records: &[u8], fresh: bool) -> Result<()> {
        let base = self.base;
        let later = |l: Option<&Lsn>| l.is_some_and(|&l| mtr.start_lsn() < l);
        if later(self.fresh.get(&id)) || later(self.trims.get(&id.space.0)) {
            self.stats.skipped += 1;
            return Ok(());
        }
        let space = self.space(id.space.0);
        // Before a FILE_CREATE or FILE_MODIFY, and after a FILE_DELETE, the
        // tablespace may not exist.
        let Some(flags) = space.flags.filter(|_| !space.deleted) else {
            return Ok(());
        };
        if base.is_some() && flags.is_page_compressed() {
            // The pages in the file would have to be decompressed first.
            return Ok(());
        }
        if !space.pages.contains_key(&id.page.0) {
            let file = base
                .filter(|_| !space.trimmed)
                .and_then(|b| b.get(&id.space.0));
            let bytes = match file {
                Some(file) => file.page(id.page.0)?,
                None => vec![0; flags.physical_page_size()],
            };
            let base = page_lsn(&bytes).unwrap_or_default();
            space.pages.insert(id.page.0, Page { bytes, base });
        }
        let Some(page) = space.pages.get_mut(&id.page.0) else {
            return Ok(());
        };
        if fresh {
            page.base = Lsn::ZERO;
        }
        if mtr.start_lsn() < page.base {
            self.stats.skipped += 1;
            return Ok(());
        }
        apply(&mut page.bytes, id, flags, mtr.end_lsn(), records)?;
        self.stats.runs += 1;
        Ok(())
    }

    /// The recovered page: replayed, or from the file, or zeros.
    ///
    /// # Errors
    /// When reading the file fails.
    pub fn page(&self, space: u32, no: u32, size: usize) -> Result<Vec<u8>> {
        let s = self.spaces.get(&space);
        if let Some(page) = s.and_then(|s| s.pages.get(&no)) {
            return Ok(page.bytes.clone());
        }
        let trimmed = s.is_some_and(|s| s.trimmed);
        match self.base.filter(|_| !trimmed).and_then(|b| b.get(&space)) {
            Some(file) => file.page(no),
            None => Ok(vec![0; size]),
        }
    }

    /// Whether the replay began with data files.
    pub fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// The number of pages in memory.
    pub fn pages(&self) -> usize {
        self.spaces.values().map(|s| s.pages.len()).sum()
    }
}
