//! The state of a branch that its threads share.

use super::forks::Forks;
use super::generations::Generations;
use super::health::Health;
use super::jobs::Jobs;
use super::layers::Layers;
use super::samples::{Horizon, Measured};
use crate::layer::list::LayerList;
use crate::layer::read::{LayerFile, Leaving, Source};
use crate::manifest::record::{BranchPoint, Resume};
use crate::manifest::version::Manifest;
use crate::place::Files;
use crate::resources::Resources;
use crate::stats::Counters;
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use xylem_types::{BranchId, Lsn};
use xylem_wal::{Position, Wal};

/// Where ingest stands; held while a batch becomes visible.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) resume: Resume,
    pub(crate) oldest: Option<Lsn>,
    /// The newest LSN that anything visible counts from.
    pub(crate) newest: Lsn,
}

/// The parent of a branch: the branch that it left.
pub(crate) struct Parent {
    pub(crate) shared: Arc<Shared>,
    pub(crate) branch_point: BranchPoint,
    /// Where the parent's WAL ends, if that is before the branch point: the
    /// rest was lost.
    pub(super) cut: OnceLock<Position>,
    /// Why a part of what the two share is gone.
    pub(super) lost: OnceLock<String>,
}

impl Parent {
    pub(crate) fn new(shared: Arc<Shared>, branch_point: BranchPoint) -> Parent {
        Parent {
            shared,
            branch_point,
            cut: OnceLock::new(),
            lost: OnceLock::new(),
        }
    }
}

/// A branch as its threads see it.
pub(crate) struct Shared {
    pub(crate) id: BranchId,
    pub(crate) resources: Arc<Resources>,
    pub(crate) wal: Arc<dyn Wal>,
    pub(crate) files: Arc<dyn Files>,
    /// For the caches' keys.
    pub(crate) cache_id: u64,
    pub(super) layers: RwLock<Arc<Layers>>,
    pub(super) applied: AtomicU64,
    /// As [`Progress::newest`].
    pub(super) newest: AtomicU64,
    /// As [`Resume::operations`] of [`Progress::resume`].
    pub(super) operations: AtomicU64,
    pub(super) applied_tx: watch::Sender<Lsn>,
    pub(super) position_tx: watch::Sender<Position>,
    pub(super) progress: Mutex<Progress>,
    pub(crate) manifest: Mutex<Manifest>,
    /// The last attempt to write a manifest failed; the next one is to come.
    pub(crate) publish_fails: AtomicBool,
    /// The last layer file that was to be removed could not be.
    pub(crate) removal_fails: AtomicBool,
    /// Held while the list of layer files changes.
    pub(super) files_change: Mutex<()>,
    /// See [`Shared::changes`].
    changes: AtomicU64,
    failed: RwLock<Option<String>>,
    stop: AtomicBool,
    stop_tx: watch::Sender<bool>,
    /// Guards what the flush thread waits for: frozen layers, a stop.
    pub(super) flush_lock: Mutex<()>,
    pub(super) flush_signal: Condvar,
    pub(super) flushed_signal: Condvar,
    /// The flush thread has ended: nothing will be flushed any more.
    pub(super) flusher_ended: AtomicBool,
    pub(crate) stats: Counters,
    pub(crate) generations: Generations,
    /// First LSN of the branch; `u64::MAX` until an epoch has begun.
    pub(super) oldest: AtomicU64,
    /// Layer files that no manifest names and somebody may still read.
    pub(crate) leaving: Mutex<Vec<Leaving>>,
    /// Held while such files are removed.
    pub(crate) removing: Mutex<()>,
    /// The merges under way, and the threads at work on them.
    pub(crate) jobs: Jobs,
    /// All forks of the branch are known; see [`crate::Store::start_ingest`].
    /// Until then upkeep merges nothing: it would forget what they need.
    pub(crate) is_begun: AtomicBool,
    pub(crate) parent: Option<Parent>,
    pub(crate) forks: Forks,
    pub(crate) health: Health,
    pub(crate) measured: Measured,
    pub(crate) known_horizon: Horizon,
}

/// The parts that a branch is opened from.
pub(crate) struct Opened {
    pub(crate) id: BranchId,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) manifest: Manifest,
    pub(crate) wal: Arc<dyn Wal>,
    /// Where ingest goes on.
    pub(crate) resume: Resume,
    pub(crate) parent: Option<Parent>,
}

impl Shared {
    /// The state of a branch as its manifest says.
    pub(crate) fn new(resources: &Arc<Resources>, opened: Opened) -> Shared {
        let Opened {
            id,
            files,
            manifest,
            wal,
            resume,
            parent,
        } = opened;
        let end = resume.lsn;
        let listed = manifest.layers.iter().map(|m| {
            let files = Arc::clone(&files);
            Arc::new(LayerFile::new(m.clone(), id, resources.next_id(), files))
        });
        let listed = listed.collect();
        let layers = Layers {
            open: Arc::new(resources.memory_layer(end)),
            frozen: Vec::new(),
            files: Arc::new(LayerList::new(listed, &LayerList::default())),
        };
        let layers_end = layers.files.iter().map(|f| f.meta.end).max();
        let newest = layers_end.unwrap_or(end).max(end);
        Shared {
            id,
            cache_id: resources.next_id(),
            wal,
            files,
            layers: RwLock::new(Arc::new(layers)),
            newest: AtomicU64::new(newest.0),
            operations: AtomicU64::new(resume.operations.0),
            applied: AtomicU64::new(end.0),
            applied_tx: watch::Sender::new(end),
            position_tx: watch::Sender::new(resume.position),
            progress: Mutex::new(Progress {
                resume,
                oldest: manifest.oldest,
                newest,
            }),
            oldest: AtomicU64::new(manifest.oldest.map_or(u64::MAX, |l| l.0)),
            jobs: Jobs::new(&manifest.merging, resources.pace.clone()),
            is_begun: AtomicBool::new(false),
            manifest: Mutex::new(manifest),
            publish_fails: AtomicBool::new(false),
            removal_fails: AtomicBool::new(false),
            files_change: Mutex::new(()),
            changes: AtomicU64::new(1),
            failed: RwLock::new(None),
            stop: AtomicBool::new(false),
            stop_tx: watch::Sender::new(false),
            flush_lock: Mutex::new(()),
            flush_signal: Condvar::new(),
            flushed_signal: Condvar::new(),
            flusher_ended: AtomicBool::new(false),
            stats: Counters::default(),
            generations: Generations::new(),
            leaving: Mutex::new(Vec::new()),
            removing: Mutex::new(()),
            parent,
            forks: Forks::new(layers_end.unwrap_or(end)),
            health: Health::default(),
            measured: Measured::default(),
            known_horizon: Horizon::default(),
            resources: Arc::clone(resources),
        }
    }

    /// The end of the last whole mtr ingested.
    pub(crate) fn applied(&self) -> Lsn {
        Lsn(self.applied.load(Ordering::Acquire))
    }

    /// Watches [`Shared::applied`]. It also wakes when ingest fails.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<Lsn> {
        self.applied_tx.subscribe()
    }

    /// Its own layers, without those of its ancestors.
    pub(crate) fn layers(&self) -> Arc<Layers> {
        Arc::clone(&self.layers.read())
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            caches: &self.resources.caches,
            stats: &self.stats,
        }
    }

    /// Microseconds since 1970.
    pub(crate) fn now_us(&self) -> u64 {
        self.resources.config.clock.now_us()
    }

    /// Before this its own layers have no history.
    pub(crate) fn own_oldest(&self) -> Option<Lsn> {
        let v = self.oldest.load(Ordering::Acquire);
        (v != u64::MAX).then_some(Lsn(v))
    }

    /// Lets go of the history before `lsn`.
    pub(crate) fn set_oldest(&self, lsn: Lsn) {
        self.oldest.store(lsn.0, Ordering::Release);
    }

    /// Memory of the list of layer files, in bytes.
    pub(crate) fn list_memory(&self) -> u64 {
        self.layers().files.iter().map(|f| f.memory()).sum()
    }

    /// Rises with every change of what there may be to merge.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Tells upkeep that there may be something else to merge.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The fork `id` needs nothing of this branch any more. History may have
    /// been kept for it alone.
    pub(crate) fn forget_fork(&self, id: BranchId) {
        self.forks.remove(id);
        self.changed();
    }

    /// Stops ingest, and wakes everyone who waits for an LSN that will not come.
    pub(crate) fn fail(&self, why: String) {
        tracing::error!(branch_id = %self.id, error = %why, "ingest stopped");
        *self.failed.write() = Some(why);
        self.applied_tx.send_modify(|_| {});
        self.position_tx.send_modify(|_| {});
    }

    /// Why ingest has stopped, if it has.
    pub(crate) fn failed(&self) -> Option<String> {
        self.failed.read().clone()
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn stop_watch(&self) -> watch::Receiver<bool> {
        self.stop_tx.subscribe()
    }

    /// Asks the branch's threads to end.
    pub(crate) fn signal_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.stop_tx.send_replace(true);
        let _guard = self.flush_lock.lock();
        self.flush_signal.notify_all();
        self.flushed_signal.notify_all();
    }
}
