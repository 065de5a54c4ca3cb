//! The history of one page: every version that there is, newest first.

use super::kinds::VersionKind;
use crate::api::{Reach, ReadAt, Tablespace};
use crate::branch::shared::Shared;
use crate::branch::view::read_error;
use crate::error::ReadError;
use crate::layer::chain::{Budget, Chain, Want};
use crate::layer::filter;
use crate::layer::key::Key;
use std::sync::Arc;
use xylem_redo::SpaceFlags;
use xylem_types::{BranchId, Lsn, PageId};

/// Bytes of versions that are told at once, about.
const BYTES_MAX: usize = 4 << 20;

/// The wanted part of a history.
#[derive(Clone, Copy, Debug)]
pub struct HistoryOptions {
    /// The page as of this LSN: no version after it; none: the newest.
    pub at: Option<Lsn>,
    /// Goes on where a part of the history has ended: [`PageHistory::next`].
    pub from: Option<Lsn>,
    /// About so many of them, and not more than some MiB.
    pub versions_max: usize,
    /// The page as of each version is built, too.
    pub build: bool,
}

/// Where a version lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whence {
    /// In the layer that ingest fills.
    Open,
    /// In one that waits to be flushed.
    Frozen,
    /// In a layer file: its number and name.
    Layer(u64, String),
}

/// A page as of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltPage {
    /// The page.
    pub bytes: Arc<[u8]>,
    /// The fault that InnoDB would find with it.
    pub fault: Option<String>,
}

/// A version of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageVersion {
    /// The end of the mtr that made it.
    pub lsn: Lsn,
    /// Delta, fresh or image.
    pub kind: VersionKind,
    /// Redo records, or the page.
    pub bytes: Vec<u8>,
    /// Where it lies.
    pub whence: Whence,
    /// The branch that has it: the one asked, or an ancestor.
    pub branch: BranchId,
    /// Its tablespace was made or cut after it and before the LSN asked for: a
    /// read at that LSN does not see it.
    pub void: bool,
    /// The page as of then, or why it cannot be had.
    pub built: Option<Result<BuiltPage, String>>,
}

/// The history of a page, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageHistory {
    /// The page.
    pub page: PageId,
    /// The LSN asked for.
    pub at: Lsn,
    /// Its tablespace as of then.
    pub tablespace: Option<Tablespace>,
    /// Newest first; all of an LSN or none of it.
    pub versions: Vec<PageVersion>,
    /// Where to go on; none: there is no more.
    pub next: Option<Lsn>,
}

impl Shared {
    /// The versions of `page` that the branch has, from memory and layers, its
    /// own and those of the branches it comes from. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn page_history(
        &self,
        page: PageId,
        options: &HistoryOptions,
    ) -> Result<PageHistory, ReadError> {
        let newest = self.resolve(ReadAt::Newest)?;
        let at = options.at.unwrap_or(newest);
        if at > newest {
            self.resolve(ReadAt::Lsn(at))?;
        }
        let from = options.from.map_or(at, |from| from.min(at));
        let layers = self.snapshot();
        let view = layers.view(self.source());
        let info = view.space(page.space, at)?;
        let floor = info.map_or(Lsn::ZERO, |(_, info)| info.floor);
        let ids = std::iter::once(self.id).chain(self.ancestors().map(|p| p.shared.id));
        let mut found = Found {
            versions: Vec::new(),
            floor,
            budget: Budget {
                versions: options.versions_max.max(1),
                bytes: BYTES_MAX,
                last: None,
                spent: false,
            },
        };
        let key = Key::Page(page);
        let raw = key.encode();
        let hash = filter::hash(&raw);
        for (level, id) in view.levels.iter().zip(ids) {
            let want = Want::at(from.min(level.cap));
            for (n, (mem, _)) in level.mems.iter().enumerate() {
                if mem.start() > want.at || found.budget.spent {
                    continue;
                }
                let mut chain = Chain::history(found.budget);
                // It waits for the writer, so it always answers.
                let _ = mem.collect(&key, &want, true, &mut chain);
                let whence = if n == 0 { Whence::Open } else { Whence::Frozen };
                found.take(chain, &whence, id);
            }
            for row in level.files.rows().iter().rev() {
                let Some(file) = row.find(&raw) else {
                    continue;
                };
                let meta = &file.meta;
                if meta.start > want.at || found.budget.spent {
                    continue;
                }
                let mut chain = Chain::history(found.budget);
                let read = file.collect(&view.source, &raw, hash, &want, &mut chain);
                read.map_err(|e| read_error(e, &key, want.at))?;
                let whence = Whence::Layer(meta.number, meta.name.clone());
                found.take(chain, &whence, id);
            }
        }
        if options.build {
            self.build(page, &mut found.versions);
        }
        let last = found.versions.last().map(|v| v.lsn);
        let more = last.filter(|lsn| found.budget.spent && *lsn > Lsn::ZERO);
        Ok(PageHistory {
            page,
            at,
            tablespace: self
                .tablespace_by_id(page.space, ReadAt::Lsn(at))
                .ok()
                .flatten(),
            versions: found.versions,
            next: more.map(|lsn| Lsn(lsn.0 - 1)),
        })
    }

    /// Builds the page as of each version, the last one of each LSN.
    fn build(&self, page: PageId, versions: &mut [PageVersion]) {
        let mut before = None;
        for v in versions {
            if before.replace(v.lsn) != Some(v.lsn) {
                let built = self.built(page, v.lsn);
                v.built = Some(built.map_err(|e| e.to_string()));
            }
        }
    }

    fn built(&self, page: PageId, lsn: Lsn) -> Result<BuiltPage, ReadError> {
        let bytes = self.get_page(page, ReadAt::Lsn(lsn), Reach::Files)?.bytes;
        let space = self.tablespace_by_id(page.space, ReadAt::Lsn(lsn))?;
        let flags = space.and_then(|s| SpaceFlags::new(s.flags).ok());
        let checked = flags.map(|flags| xylem_redo::verify(&bytes, page, flags));
        let fault = match checked {
            Some(Err(e)) => Some(e.to_string()),
            _ => None,
        };
        Ok(BuiltPage { bytes, fault })
    }
}

/// The versions found so far.
struct Found {
    versions: Vec<PageVersion>,
    floor: Lsn,
    budget: Budget,
}

impl Found {
    fn take(&mut self, chain: Chain, whence: &Whence, branch: BranchId) {
        for (lsn, kind, bytes) in chain.backward() {
            self.versions.push(PageVersion {
                lsn,
                kind: VersionKind::of(kind),
                bytes: bytes.to_vec(),
                whence: whence.clone(),
                branch,
                void: lsn < self.floor,
                built: None,
            });
        }
        if let Some(budget) = chain.budget() {
            self.budget = budget;
        }
    }
}
