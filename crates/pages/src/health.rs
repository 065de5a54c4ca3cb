//! How a branch does: what waits to be done, what failed last, how far its
//! history reaches and what holds it.

use crate::api::ReadAt;
use crate::branch::{Branch, Shared};
use crate::inspect::key_text;
use crate::key::{TAG_SPACE, space_of};
use crate::layer::LayerKind;
use crate::scrub::{LastScrub, Scrubbed};
use crate::stats::BranchStats;
use crate::time::{Sample, sample};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

/// How often the upkeep thread looks.
const EVERY: Duration = Duration::from_secs(10);
/// How often it adds up how large the database is.
const MEASURE_EVERY: Duration = Duration::from_secs(600);
/// Bytes of redo after which it does so sooner, and a quarter of that size.
const MEASURE_AFTER: u64 = 16 << 20;
/// How long somebody who asks waits for a branch that is publishing.
pub(crate) const PATIENCE: Duration = Duration::from_millis(200);
/// Keys that cannot be folded which are remembered.
const UNFOLDABLE_MAX: usize = 20;

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When, in microseconds since 1970.
    pub time_us: u64,
    /// What.
    pub message: String,
}

/// A branch that left this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// Which.
    pub branch: BranchId,
    /// Where.
    pub lsn: Lsn,
}

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
    /// ... and the log must be kept from here on.
    pub resume_position: Position,
    /// The first position that the log has.
    pub log_first: Position,
    /// The end of the durable log, as a position and as an LSN.
    pub log_end: Position,
    /// See `log_end`.
    pub log_lsn: Lsn,
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
    /// What the log says of its newest mtr; microseconds since 1970.
    pub newest_time_us: Option<u64>,
    /// The branches that left it, by LSN. What the branch was there is kept
    /// for them, however long ago that is.
    pub forks: Vec<Fork>,
    /// Flushes fail since some time, the last one so.
    pub flush_trouble: Option<Trouble>,
    /// Merges fail since some time, the last one so.
    pub merge_trouble: Option<Trouble>,
    /// Keys whose history cannot be folded and stays, at most 20, and why.
    pub unfoldable: Vec<Trouble>,
    /// The newest scrub.
    pub scrub: LastScrub,
}

/// What fails, until it succeeds again.
#[derive(Debug, Default)]
pub(crate) struct Failing(Mutex<Option<Trouble>>);

impl Failing {
    pub(crate) fn failed(&self, time_us: u64, why: &str) {
        *self.0.lock() = Some(Trouble {
            time_us,
            message: why.to_owned(),
        });
    }

    pub(crate) fn succeeded(&self) {
        self.0.lock().take();
    }

    /// It has failed and did not succeed since.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.lock().is_some()
    }

    fn last(&self) -> Option<Trouble> {
        self.0.lock().clone()
    }
}

/// What takes a look at layers to know.
#[derive(Clone, Copy, Debug, Default)]
struct Looked {
    at: Option<Instant>,
    debt_bytes: u64,
    folds: bool,
    horizon: Option<Lsn>,
    oldest: Option<Lsn>,
    oldest_sample: Option<Sample>,
    newest_sample: Option<Sample>,
}

/// What a branch remembers of how it does.
#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) flush: Failing,
    pub(crate) merge: Failing,
    unfoldable: Mutex<Vec<Trouble>>,
    pub(crate) scrubbed: Scrubbed,
    /// Bytes that the scrub under way in the background has still to read.
    pub(crate) scrub_left: AtomicU64,
    looked: Mutex<Looked>,
    database: Mutex<Database>,
}

/// How large the database is, and of which LSN that was found.
#[derive(Debug, Default)]
struct Database {
    at: Option<Instant>,
    lsn: Lsn,
    bytes: u64,
}

impl Health {
    /// A key cannot be folded. Answers whether that is news that people should
    /// have: of many such keys only the first.
    pub(crate) fn unfoldable(&self, time_us: u64, key: &[u8], why: &str) -> bool {
        let message = format!("{}: {why}", key_text(key));
        let mut all = self.unfoldable.lock();
        if let Some(known) = all.iter_mut().find(|t| t.message == message) {
            known.time_us = time_us;
            return false;
        }
        if all.len() < UNFOLDABLE_MAX {
            all.push(Trouble { time_us, message });
            return true;
        }
        false
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        self.store.config.clock.now_us()
    }

    /// Something of the branch's own work failed.
    pub(crate) fn flush_failed(&self, why: &str) {
        self.health.flush.failed(self.now_us(), why);
    }

    /// See [`Shared::flush_failed`].
    pub(crate) fn merge_failed(&self, why: &str) {
        self.health.merge.failed(self.now_us(), why);
    }

    /// A key's history cannot be folded.
    pub(crate) fn note_unfoldable(&self, key: &[u8], why: &str) {
        self.stats.unfoldable_keys.add(1);
        if self.health.unfoldable(self.now_us(), key, why) {
            tracing::error!(branch = %self.id, key = %key_text(key), error = %why, "a key cannot be folded: all its history stays");
        }
    }

    /// Looks at what waits to be done, now and then.
    pub(crate) fn look(&self) {
        let at = self.health.looked.lock().at;
        if at.is_none_or(|at| at.elapsed() >= EVERY) {
            self.look_now();
            self.measure();
        }
    }

    /// Adds up the sizes of all tablespaces, seldom.
    fn measure(&self) {
        let lsn = self.applied();
        {
            let mut known = self.health.database.lock();
            // Sooner after so much redo that it may have grown a lot.
            let much = lsn.bytes_since(known.lsn) > known.bytes / 4 + MEASURE_AFTER;
            let due = known.at.is_none_or(|at| at.elapsed() >= MEASURE_EVERY);
            if known.lsn == lsn || !(due || much) {
                return;
            }
            known.at = Some(Instant::now());
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
                if let Ok(page) = self.store.engine.page_bytes(info.flags) {
                    bytes += u64::from(info.pages) * page as u64;
                }
            }
        }
    }

    fn look_now(&self) -> Looked {
        let sample_of = |lsn: Lsn| Some(sample(self, lsn).ok()??.1);
        let debt = self.debt();
        let oldest = self.oldest();
        let ready = self.ancestor_behind().is_none();
        let looked = Looked {
            at: Some(Instant::now()),
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

    /// Fills in what is held now.
    pub(crate) fn fill(&self, out: &mut BranchStats) {
        let layers = self.layers();
        for f in layers.files.iter() {
            match f.meta.kind {
                LayerKind::Delta => out.delta_bytes += f.meta.bytes,
                LayerKind::Image => out.image_bytes += f.meta.bytes,
            }
            out.old_bytes += f.meta.old_bytes;
        }
        out.runs = self.runs();
        out.database_bytes = self.health.database.lock().bytes;
        out.forks = self.forks.branches().len() as u64;
        out.oldest_lsn = self.oldest().unwrap_or_default().0;
        let looked = *self.health.looked.lock();
        out.merge_debt_bytes = looked.debt_bytes;
        let age = looked.oldest_sample.and_then(|s| self.age_us(&s));
        out.history_us = age.unwrap_or(0);
        out.scrub_left_bytes = self.health.scrub_left.load(Ordering::Relaxed);
        let scrub = self.health.scrubbed.last();
        let damage = scrub.findings.iter().filter(|f| f.is_damage()).count();
        out.scrub_damaged = damage as u64;
        out.scrub_ended_us = scrub.ended_us.unwrap_or(0);
    }
}

impl Branch {
    /// How it does. Blocking: it looks into layers.
    pub fn health(&self) -> BranchHealth {
        let s = &*self.shared;
        let looked = s.look_now();
        let manifest = s.manifest.try_lock_for(PATIENCE);
        let known = manifest.as_ref().map(|m| (m.number(), m.resume));
        drop(manifest);
        let (number, resume) = known.unwrap_or_default();
        let durable = *s.log.durable().borrow();
        BranchHealth {
            stopped: s.failed(),
            busy: known.is_none(),
            manifest: number,
            resume_lsn: resume.lsn,
            resume_position: resume.position,
            log_first: s.log.first(),
            log_end: durable.position(),
            log_lsn: durable.lsn(),
            runs: s.runs(),
            merge_debt_bytes: looked.debt_bytes,
            merge_folds: looked.folds,
            oldest: looked.oldest,
            oldest_time_us: looked.oldest_sample.map(|s| s.wall_us),
            horizon: looked.horizon,
            newest_time_us: looked.newest_sample.map(|s| s.wall_us),
            forks: self.forks(),
            flush_trouble: s.health.flush.last(),
            merge_trouble: s.health.merge.last(),
            unfoldable: s.health.unfoldable.lock().clone(),
            scrub: s.health.scrubbed.last(),
        }
    }

    /// What its newest scrub found.
    pub fn last_scrub(&self) -> LastScrub {
        self.shared.health.scrubbed.last()
    }

    /// The branches that left it, by LSN.
    pub fn forks(&self) -> Vec<Fork> {
        let mut all: Vec<Fork> = self
            .shared
            .forks
            .all()
            .into_iter()
            .map(|(branch, lsn)| Fork { branch, lsn })
            .collect();
        all.sort_by_key(|f| (f.lsn, f.branch));
        all
    }
}
