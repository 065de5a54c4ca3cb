//! Looks at a branch now and then: how much waits to be merged, how far its
//! history reaches, how large the database is.

use crate::api::ReadAt;
use crate::branch::forks::Fork;
use crate::branch::health::{Looked, Trouble};
use crate::branch::shared::Shared;
use crate::finding::LastScrub;
use crate::layer::key::{TAG_SPACE, space_of};
use std::time::Duration;
use xylem_types::Lsn;
use xylem_wal::Position;

/// How often the upkeep thread looks.
const EVERY: Duration = Duration::from_secs(10);
/// How often it adds up how large the database is.
const MEASURE_EVERY: Duration = Duration::from_secs(600);
/// Bytes of redo after which it does so sooner, and a quarter of that size.
const MEASURE_AFTER: u64 = 16 << 20;
/// How long a caller waits for a branch that is publishing.
const PATIENCE: Duration = Duration::from_millis(200);
/// How a branch does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BranchHealth {
    /// Why ingest has stopped, if it has.
    pub stopped: Option<String>,
    /// Its manifest was being published, so what comes from that is not known:
    /// then these are the default values.
    pub busy: bool,
    /// The newest manifest's number.
    pub manifest: u64,
    /// Layers hold everything before this LSN ...
    pub resume_lsn: Lsn,
    /// ... and the WAL must be kept from here on.
    pub resume_position: Position,
    /// The first position that the WAL has.
    pub wal_first: Position,
    /// The end of the durable WAL, as a position and as an LSN.
    pub wal_end: Position,
    /// See `wal_end`.
    pub wal_lsn: Lsn,
    /// Runs of layers: what a read may have to look into.
    pub runs: u64,
    /// Bytes that wait to be merged.
    pub merge_debt_bytes: u64,
    /// A merge that is under way, or the next one, folds history.
    pub merge_folds: bool,
    /// Where the history kept begins, and when that was.
    pub oldest: Option<Lsn>,
    /// See `oldest`; microseconds since 1970.
    pub oldest_time_us: Option<u64>,
    /// Before this nothing is kept for its age.
    pub horizon: Option<Lsn>,
    /// The time of its newest mtr, as the WAL says; microseconds since 1970.
    pub newest_time_us: Option<u64>,
    /// Its forks, by LSN. The history at their branch points is kept, however
    /// long ago that is.
    pub forks: Vec<Fork>,
    /// Flushes fail since some time, the last one so.
    pub flush_trouble: Option<Trouble>,
    /// Merges fail since some time, the last one so.
    pub merge_trouble: Option<Trouble>,
    /// Keys whose history cannot be folded and stays, at most 20, and why.
    pub unfoldable: Vec<Trouble>,
    /// Pages that their versions do not make, as reads found them: at most 20, and
    /// why.
    pub unreadable: Vec<Trouble>,
    /// The newest scrub.
    pub scrub: LastScrub,
}

impl Shared {
    /// Looks at what waits to be done, now and then.
    pub(crate) fn look(&self) {
        let now = self.resources.pace.instant();
        let at = self.health.looked.lock().at;
        if at.is_none_or(|at| now.saturating_duration_since(at) >= EVERY) {
            self.look_now();
            self.measure();
        }
    }

    /// Adds up the sizes of all tablespaces, seldom.
    fn measure(&self) {
        let lsn = self.applied();
        let now = self.resources.pace.instant();
        {
            let mut known = self.health.database.lock();
            // Sooner after so much redo that it may have grown a lot.
            let much = lsn.bytes_since(known.lsn) > known.bytes / 4 + MEASURE_AFTER;
            let since = known.at.map(|at| now.saturating_duration_since(at));
            let due = since.is_none_or(|since| since >= MEASURE_EVERY);
            if known.lsn == lsn || !(due || much) {
                return;
            }
            known.at = Some(now);
        }
        if let Some(bytes) = self.database_bytes(lsn) {
            let mut known = self.health.database.lock();
            (known.lsn, known.bytes) = (lsn, bytes);
        }
    }

    fn database_bytes(&self, lsn: Lsn) -> Option<u64> {
        self.resolve(ReadAt::Lsn(lsn)).ok()?;
        let layers = self.snapshot_at(lsn).ok()?;
        let view = layers.view(self.source());
        let (mut after, end) = (vec![TAG_SPACE], [TAG_SPACE + 1]);
        let mut bytes = 0u64;
        loop {
            let keys = view.keys(&after, &end, lsn).ok()?;
            let Some(last) = keys.last().filter(|_| !self.stopped()) else {
                return (!self.stopped()).then_some(bytes);
            };
            after.clone_from(last);
            for space in keys.iter().filter_map(|k| space_of(k)) {
                let found = view.space(space, lsn).ok()?;
                let Some((_, info)) = found.filter(|(_, info)| info.exists) else {
                    continue;
                };
                if let Ok(page) = self.resources.engine.page_bytes(info.flags) {
                    bytes += u64::from(info.pages) * page as u64;
                }
            }
        }
    }

    fn look_now(&self) -> Looked {
        let sample_of = |lsn: Lsn| Some(self.sample(lsn).ok()??.1);
        let debt = self.debt();
        let oldest = self.oldest();
        let ready = self.ancestors_behind().is_none();
        let looked = Looked {
            at: Some(self.resources.pace.instant()),
            debt_bytes: debt.bytes,
            folds: debt.folds,
            horizon: if ready { self.horizon_now() } else { None },
            oldest,
            oldest_sample: oldest.filter(|_| ready).and_then(sample_of),
            newest_sample: ready.then(|| sample_of(self.applied())).flatten(),
        };
        *self.health.looked.lock() = looked;
        looked
    }

    /// How it does. Blocking: it looks into layers.
    pub(crate) fn health_report(&self) -> BranchHealth {
        let looked = self.look_now();
        let manifest = self.manifest.try_lock_for(PATIENCE);
        let known = manifest.as_ref().map(|m| (m.number(), m.resume));
        drop(manifest);
        let (number, resume) = known.unwrap_or_default();
        let durable = *self.wal.durable().borrow();
        BranchHealth {
            stopped: self.failed(),
            busy: known.is_none(),
            manifest: number,
            resume_lsn: resume.lsn,
            resume_position: resume.position,
            wal_first: self.wal.first(),
            wal_end: durable.position(),
            wal_lsn: durable.lsn(),
            runs: self.layers().files.runs(),
            merge_debt_bytes: looked.debt_bytes,
            merge_folds: looked.folds,
            oldest: looked.oldest,
            oldest_time_us: looked.oldest_sample.map(|s| s.wall_us),
            horizon: looked.horizon,
            newest_time_us: looked.newest_sample.map(|s| s.wall_us),
            forks: self.forks.all(),
            flush_trouble: self.health.flush.last(),
            merge_trouble: self.health.merge.last(),
            unfoldable: self.health.unfoldable.all(),
            unreadable: self.health.unreadable.all(),
            scrub: self.health.scrubbed.last(),
        }
    }
}
