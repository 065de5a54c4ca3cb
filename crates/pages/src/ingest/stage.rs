//! The batch of versions that ingest has read and not made visible yet, and the
//! tablespaces as of its end.

use super::retry::{Step, Stop};
use crate::branch::samples::{Times, time_key};
use crate::branch::shared::Shared;
use crate::layer::batch::Batch;
use crate::layer::catalog::{SpaceInfo, UndoState};
use crate::layer::chain::Kind;
use std::collections::{BTreeMap, HashMap};
use xylem_redo::{MtrItem, ParseStep, parse_mtr};
use xylem_types::{Lsn, SpaceId};

/// Tablespaces that ingest remembers.
const SPACES_MAX: usize = 4096;

/// See the module.
#[derive(Default)]
pub(crate) struct Stage {
    pub(crate) batch: Batch,
    /// End of the last whole mtr in it or before it.
    pub(crate) lsn: Lsn,
    /// The LSN that the side-file operation on its way counts from.
    pub(crate) side_lsn: Lsn,
    pub(super) times: Times,
    /// Tablespaces as of here; at least all that the batch changes.
    pub(super) spaces: HashMap<SpaceId, Option<SpaceInfo>>,
    pub(super) touched: Vec<SpaceId>,
    /// Owners of paths that the batch changes.
    pub(super) paths: BTreeMap<String, Option<SpaceId>>,
    pub(super) undo: Option<UndoState>,
    mtrs: u64,
    redo_bytes: u64,
    clock_steps: u64,
}

impl Stage {
    /// An empty one, where whole mtrs end at `lsn`.
    pub(super) fn at(lsn: Lsn) -> Stage {
        Stage {
            lsn,
            ..Stage::default()
        }
    }

    pub(super) fn count(&mut self, shared: &Shared) {
        shared.stats.mtrs.add(self.mtrs);
        shared.stats.redo_bytes.add(self.redo_bytes);
        shared.stats.clock_steps.add(self.clock_steps);
        (self.mtrs, self.redo_bytes, self.clock_steps) = (0, 0, 0);
    }

    /// For the next batch.
    pub(super) fn clear(&mut self) {
        self.batch.clear();
        self.touched.clear();
        self.paths.clear();
        if self.spaces.len() > SPACES_MAX {
            self.spaces.clear();
        }
    }

    /// Takes in a whole mtr of `size` bytes that ends at `lsn`. Its runs are
    /// elsewhere.
    pub(super) fn mtr(&mut self, lsn: Lsn, size: u64) {
        self.sample(lsn);
        self.lsn = lsn;
        self.mtrs += 1;
        self.redo_bytes += size;
    }

    /// Takes in what the mtr of these bytes, which begins at `start`, says about
    /// tablespaces and their files.
    pub(super) fn events(&mut self, shared: &Shared, start: Lsn, bytes: &[u8]) -> Step<()> {
        let failed = |e: xylem_redo::RedoError| Stop::Failed(e.to_string());
        let ParseStep::Mtr(mtr) = parse_mtr(bytes, start).map_err(failed)? else {
            return Ok(());
        };
        let lsn = mtr.end_lsn();
        for item in mtr.items() {
            match item.map_err(failed)? {
                MtrItem::Page { .. } => {}
                MtrItem::SpaceSize { space, pages } => {
                    let mut info = self.space_or_new(shared, space, lsn)?;
                    if info.pages != pages {
                        info.pages = pages;
                        self.set_space(space, info, lsn);
                    }
                }
                MtrItem::SpaceFlags { space, flags } => {
                    let mut info = self.space_or_new(shared, space, lsn)?;
                    if info.flags != flags.raw() {
                        info.flags = flags.raw();
                        self.set_space(space, info, lsn);
                    }
                }
                MtrItem::Trim { space, pages } => {
                    let mut info = self.space_or_new(shared, space, lsn)?;
                    info.floor = lsn;
                    info.pages = pages;
                    self.set_space(space, info, lsn);
                }
                MtrItem::File(event) => self.file_event(shared, event, lsn)?,
            }
        }
        Ok(())
    }

    /// Notes from time to time when the branch was where.
    pub(super) fn sample(&mut self, lsn: Lsn) {
        let begins = self.times.begins() && !self.times.is_first();
        if let Some(sample) = self.times.sample(lsn) {
            self.clock_steps += u64::from(begins);
            self.batch
                .other(time_key(), lsn, Kind::Image, &sample.encode());
        }
    }
}
