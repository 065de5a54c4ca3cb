//! A branch: its state, its threads, and what others may ask of it.

use crate::api::{ReadError, StoreError};
use crate::compact::jobs::Jobs;
use crate::files::Files;
use crate::flush;
use crate::fork::{Forks, SLOTS};
use crate::generations::Generations;
use crate::health::Health;
use crate::ingest;
use crate::layer_list::LayerList;
use crate::layer_read::{LayerFile, Leaving, Source};
use crate::manifest::{Ancestor, Manifest, Resume};
use crate::map::{Frozen, Layers, Snapshot};
use crate::mem::{Batch, MemLayer};
use crate::stats::{BranchStats, Counters};
use crate::store::{Store, random};
use crate::time::{Horizon, Measured};
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use tokio::sync::watch;
use tokio::time::Instant;
use xylem_types::{BranchId, Lsn, SpaceId};
use xylem_wal::backup::Floor;
use xylem_wal::{Position, Wal};

/// Where ingest stands; held while a batch becomes visible.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) resume: Resume,
    pub(crate) oldest: Option<Lsn>,
    /// The newest LSN that anything visible counts from.
    pub(crate) newest: Lsn,
}

/// The branch that a branch left.
pub(crate) struct Parent {
    pub(crate) shared: Arc<Shared>,
    /// The last LSN they share.
    pub(crate) lsn: Lsn,
    /// Everything they share stands before this in its log.
    position: Position,
    /// Where its log ends, if that is before: the rest was lost.
    cut: OnceLock<Position>,
    /// Why a part of that is gone.
    lost: OnceLock<String>,
}

impl Parent {
    fn behind(&self) -> Option<ReadError> {
        if let Some(why) = self.lost.get() {
            return Some(ReadError::Stopped(why.clone()));
        }
        // Not by LSN: side-file operations at the very LSN stand behind the mtr
        // that ends there, and the LSN itself may lie behind that (see `fork`).
        let until = self.cut.get().copied().unwrap_or(self.position);
        if self.shared.ingested_operations() >= until {
            return None;
        }
        let reached = self.shared.applied();
        Some(match self.shared.failed() {
            Some(why) => ReadError::Stopped(format!("branch {}: {why}", self.shared.id)),
            None => ReadError::NotReached {
                wanted: self.lsn,
                reached,
                hop: "ingest of its ancestor",
            },
        })
    }
}

/// A branch as its threads see it.
pub(crate) struct Shared {
    pub(crate) id: BranchId,
    pub(crate) store: Arc<Store>,
    pub(crate) log: Arc<dyn Wal>,
    pub(crate) files: Arc<dyn Files>,
    /// For the caches' keys.
    pub(crate) cache_id: u64,
    layers: RwLock<Arc<Layers>>,
    pub(crate) applied: AtomicU64,
    /// As [`Progress::newest`].
    newest: AtomicU64,
    /// As [`Resume::operations`] of [`Progress::resume`].
    operations: AtomicU64,
    applied_tx: watch::Sender<Lsn>,
    position_tx: watch::Sender<Position>,
    progress: Mutex<Progress>,
    pub(crate) manifest: Mutex<Manifest>,
    /// The last attempt to write a manifest failed; the next one is to come.
    pub(crate) publish_fails: AtomicBool,
    /// The last layer file that was to be removed could not be.
    pub(crate) removal_fails: AtomicBool,
    /// Held while the list of layer files changes.
    files_change: Mutex<()>,
    /// See [`Shared::changes`].
    changes: AtomicU64,
    failed: RwLock<Option<String>>,
    stop: AtomicBool,
    stop_tx: watch::Sender<bool>,
    /// What the flush thread waits on: frozen layers, a stop.
    flush_lock: Mutex<()>,
    flush_signal: Condvar,
    flushed_signal: Condvar,
    /// The flush thread has ended: nothing will be flushed any more.
    pub(crate) flusher_ended: AtomicBool,
    pub(crate) stats: Counters,
    pub(crate) generations: Generations,
    /// First LSN of the branch; `u64::MAX` until an epoch has begun.
    oldest: AtomicU64,
    /// Layer files that no manifest names and somebody may still read.
    pub(crate) leaving: Mutex<Vec<Leaving>>,
    /// Held while such files are removed.
    pub(crate) removing: Mutex<()>,
    /// The merges under way, and who works at them.
    pub(crate) jobs: Jobs,
    /// All branches that left this one are known; see [`Store::start_ingest`].
    /// Until then upkeep merges nothing: it would forget what they need.
    pub(crate) is_begun: AtomicBool,
    pub(crate) parent: Option<Parent>,
    /// Where others left this one.
    pub(crate) forks: Forks,
    pub(crate) health: Health,
    pub(crate) measured: Measured,
    pub(crate) known_horizon: Horizon,
}

impl Shared {
    pub(crate) fn applied(&self) -> Lsn {
        Lsn(self.applied.load(Ordering::Acquire))
    }

    pub(crate) fn layers(&self) -> Arc<Layers> {
        Arc::clone(&self.layers.read())
    }

    /// Its layers and its ancestors'.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut out = Snapshot::new(self.layers());
        for parent in self.ancestors() {
            out.push(parent.shared.layers(), parent.lsn);
        }
        out
    }

    /// The same without waiting for a lock.
    pub(crate) fn try_snapshot(&self) -> Option<Snapshot> {
        let own = |s: &Shared| s.layers.try_read().map(|l| Arc::clone(&l));
        let mut out = Snapshot::new(own(self)?);
        for parent in self.ancestors() {
            out.push(own(&parent.shared)?, parent.lsn);
        }
        Some(out)
    }

    /// The branch it left, the one that left, and so on.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &Parent> {
        std::iter::successors(self.parent.as_ref(), |p| p.shared.parent.as_ref())
    }

    /// After a start, an ancestor may not have ingested yet what is shared
    /// with it: then the error that says so.
    pub(crate) fn ancestor_behind(&self) -> Option<ReadError> {
        self.ancestors().find_map(Parent::behind)
    }

    /// Waits until what is shared with ancestors can be read, or never can.
    pub(crate) async fn ancestors_ready(&self) {
        for parent in self.ancestors() {
            let mut position = parent.shared.position_tx.subscribe();
            loop {
                position.borrow_and_update();
                match parent.behind() {
                    None | Some(ReadError::Stopped(_)) => break,
                    // The sender lives as long as the parent.
                    Some(_) => drop(position.changed().await),
                }
            }
        }
    }

    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            caches: &self.store.caches,
            stats: &self.stats,
        }
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn stop_watch(&self) -> watch::Receiver<bool> {
        self.stop_tx.subscribe()
    }

    /// The oldest LSN that can be read, its ancestors' part included.
    pub(crate) fn oldest(&self) -> Option<Lsn> {
        let own = self.own_oldest();
        match &self.parent {
            // Whatever an ancestor lets go of, it keeps the point where this
            // branch left it.
            Some(parent) if own.is_none_or(|own| own <= parent.lsn) => {
                Some(parent.shared.oldest()?.min(parent.lsn))
            }
            _ => own,
        }
    }

    /// Before this its own layers have no history.
    pub(crate) fn own_oldest(&self) -> Option<Lsn> {
        let v = self.oldest.load(Ordering::Acquire);
        (v != u64::MAX).then_some(Lsn(v))
    }

    /// History before `lsn` is let go of.
    pub(crate) fn set_oldest(&self, lsn: Lsn) {
        self.oldest.store(lsn.0, Ordering::Release);
    }

    pub(crate) fn list_memory(&self) -> u64 {
        self.layers().files.iter().map(|f| f.memory()).sum()
    }

    pub(crate) fn has_frozen(&self) -> bool {
        !self.layers.read().frozen.is_empty()
    }

    pub(crate) fn open_memory(&self) -> u64 {
        self.layers.read().open.memory()
    }

    pub(crate) fn fail(&self, why: String) {
        tracing::error!(branch = %self.id, error = %why, "ingest stopped");
        *self.failed.write() = Some(why);
        // Wakes those who wait for an LSN that will not come.
        self.applied_tx.send_modify(|_| {});
        self.position_tx.send_modify(|_| {});
    }

    pub(crate) fn failed(&self) -> Option<String> {
        self.failed.read().clone()
    }

    /// Makes a batch visible: whole mtrs up to `lsn`.
    pub(crate) fn publish(&self, batch: &Batch, spaces: &[SpaceId], lsn: Lsn, now: Progress) {
        let store = &self.store;
        let mut progress = self.progress.lock();
        let changing = self.generations.begin(spaces);
        if !batch.is_empty() {
            let mut open = Arc::clone(&self.layers.read().open);
            if !open.reaches(lsn) || !open.insert(batch, store.chunk_bytes()) {
                self.freeze_locked(&progress);
                open = Arc::clone(&self.layers.read().open);
                open.insert(batch, store.chunk_bytes());
            }
        }
        // Where history begins is ingest's to say once; then it moves on.
        if let (None, Some(oldest)) = (progress.oldest, now.oldest) {
            self.oldest.store(oldest.0, Ordering::Release);
        }
        // It never goes back: after a start, operations may be in layers whose
        // LSN no entry names that is read again.
        let newest = now.newest.max(progress.newest);
        let now = Progress { newest, ..now };
        self.newest.store(newest.0, Ordering::Release);
        *progress = now;
        let operations = now.resume.operations.0;
        if lsn > self.applied() {
            self.applied.store(lsn.0, Ordering::Release);
            self.applied_tx.send_replace(lsn);
        }
        // After the LSN: who sees this reads all redo that stands before it.
        self.operations.store(operations, Ordering::Release);
        self.generations.end(changing);
        if !batch.is_empty() {
            let limit = store.open_limit();
            let open = Arc::clone(&self.layers.read().open);
            if open.record_bytes() >= limit || open.memory() >= store.open_memory_limit() {
                self.freeze_locked(&progress);
            }
        }
        drop(progress);
    }

    /// The end of the last whole mtr, or where the newest side-file operation
    /// after it counts from.
    pub(crate) fn newest(&self) -> Lsn {
        self.applied().max(Lsn(self.newest.load(Ordering::Acquire)))
    }

    /// The place in the log before which all redo that is whole, and all
    /// side-file operations, can be read.
    fn ingested_operations(&self) -> Position {
        Position(self.operations.load(Ordering::Acquire))
    }

    /// What can be read: the end of the last whole mtr, and the place in the
    /// log before which all side-file operations are.
    pub(crate) fn visible(&self) -> (Lsn, Position) {
        let progress = self.progress.lock();
        (self.applied(), progress.resume.operations)
    }

    /// Everything before `position` was read and, where whole, is visible.
    pub(crate) fn publish_position(&self, position: Position) {
        self.position_tx.send_if_modified(|p| {
            let moved = *p < position;
            *p = position;
            moved
        });
    }

    /// Closes the open layer; the flush thread writes it.
    pub(crate) fn freeze(&self) {
        let progress = self.progress.lock();
        self.freeze_locked(&progress);
    }

    fn freeze_locked(&self, progress: &Progress) {
        {
            let mut layers = self.layers.write();
            if layers.open.is_empty() {
                return;
            }
            let end = progress.newest;
            let mut next = Layers::clone(&layers);
            next.frozen.push(Frozen {
                layer: Arc::clone(&layers.open),
                end,
                resume: progress.resume,
                oldest: progress.oldest,
            });
            next.open = Arc::new(MemLayer::new(
                end,
                Arc::clone(&self.store.layer_memory),
                self.store.config.long_chain_bytes,
            ));
            *layers = Arc::new(next);
        }
        let _guard = self.flush_lock.lock();
        self.flush_signal.notify_all();
    }

    /// Waits for a frozen layer. `None`: the branch stops.
    pub(crate) fn next_frozen(&self) -> Option<Frozen> {
        let mut guard = self.flush_lock.lock();
        loop {
            if self.stopped() {
                return None;
            }
            if let Some(f) = self.layers.read().frozen.first() {
                return Some(f.clone());
            }
            self.flush_signal.wait(&mut guard);
        }
    }

    /// Waits a while, less if the branch stops.
    pub(crate) fn flush_pause(&self, time: std::time::Duration) {
        let mut guard = self.flush_lock.lock();
        if !self.stopped() {
            self.flush_signal.wait_for(&mut guard, time);
        }
    }

    /// Replaces the list of layer files by what `change` makes of it, and lets
    /// go of the oldest frozen layer when that stands in it now.
    pub(crate) fn change_files(
        &self,
        flushed: bool,
        change: impl FnOnce(&[Arc<LayerFile>]) -> Vec<Arc<LayerFile>>,
    ) {
        // Reads and ingest do not wait while the list is arranged; another who
        // changes it does.
        let _one = self.files_change.lock();
        let now = self.layers();
        let files = Arc::new(LayerList::new(change(&now.files), &now.files));
        drop(now);
        {
            let mut layers = self.layers.write();
            let mut next = Layers::clone(&layers);
            next.files = files;
            if flushed && !next.frozen.is_empty() {
                next.frozen.remove(0);
            }
            *layers = Arc::new(next);
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Rises with every change of what there may be to merge.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// What merges may find has changed.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Freezes the open layer when it has been open for long, so that the log
    /// behind it can go.
    pub(crate) fn flush_when_old(&self) {
        let open = Arc::clone(&self.layers.read().open);
        if !open.is_empty() && open.age() >= self.store.config.flush_after {
            self.freeze();
        }
    }

    /// The oldest frozen layer now stands in `files`.
    pub(crate) fn flushed(&self, files: Vec<Arc<LayerFile>>) {
        self.change_files(true, |now| [now, files.as_slice()].concat());
        self.stats.flushes.add(1);
        {
            let _guard = self.flush_lock.lock();
            self.flushed_signal.notify_all();
        }
        self.store.room_made();
    }

    /// The flush thread ends.
    pub(crate) fn flusher_ends(&self) {
        self.flusher_ended.store(true, Ordering::Release);
        let _guard = self.flush_lock.lock();
        self.flushed_signal.notify_all();
    }

    fn signal_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.stop_tx.send_replace(true);
        let _guard = self.flush_lock.lock();
        self.flush_signal.notify_all();
        self.flushed_signal.notify_all();
    }

    /// The names of a layer file: its number and, so that no name is ever used
    /// twice even by a process that reads an old manifest, a random part.
    pub(crate) fn layer_name(number: u64) -> String {
        use std::hash::{BuildHasher, Hasher};
        let random = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        format!("{number:016x}-{random:016x}.layer")
    }
}

/// One branch: ingests its log and answers reads.
pub struct Branch {
    pub(crate) shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Branch {
    /// Opens the branch and takes it over from any other process: reads its
    /// newest manifest, then follows `log` from where its layers end. One that
    /// has no manifest begins without an ancestor. `ancestor` is the branch it
    /// left, which is open.
    ///
    /// # Errors
    /// When its manifest or a layer is missing or corrupt, the ancestor is
    /// another, or the log was trimmed too far.
    pub fn open(
        store: Arc<Store>,
        id: BranchId,
        log: Arc<dyn Wal>,
        ancestor: Option<Arc<Branch>>,
    ) -> Result<Arc<Branch>, StoreError> {
        Branch::open_with(store, id, ancestor, |_| Ok::<_, StoreError>(log))
    }

    /// As [`Branch::open`], with a log that is opened once it is known how far
    /// layers have what it holds: a log that was lost goes on there.
    ///
    /// # Errors
    /// As [`Branch::open`]; what `open_log` says.
    pub fn open_with<E: From<StoreError>>(
        store: Arc<Store>,
        id: BranchId,
        ancestor: Option<Arc<Branch>>,
        open_log: impl FnOnce(Floor) -> Result<Arc<dyn Wal>, E>,
    ) -> Result<Arc<Branch>, E> {
        let files = store
            .place
            .folder(&folder(id))
            .map_err(|source| StoreError::Io {
                context: format!("open branch {id} in {}", store.place.url()),
                source,
            })?;
        let manifest = Manifest::open(&*files, id, random())?;
        let parent = parent(id, manifest.ancestor, ancestor)?;
        let resume = manifest.resume;
        let floor = Floor {
            position: resume.position.max(resume.operations),
            lsn: resume.lsn,
        };
        let log = open_log(floor)?;
        let end = resume.lsn;
        let listed = manifest.layers.iter().map(|m| {
            let files = Arc::clone(&files);
            Arc::new(LayerFile::new(m.clone(), id, store.next_id(), files))
        });
        let listed = listed.collect();
        let layers = Layers {
            open: Arc::new(MemLayer::new(
                end,
                Arc::clone(&store.layer_memory),
                store.config.long_chain_bytes,
            )),
            frozen: Vec::new(),
            files: Arc::new(LayerList::new(listed, &LayerList::default())),
        };
        let layers_end = layers.files.iter().map(|f| f.meta.end).max();
        // One that was lost and goes on there has nothing before.
        let resume = match log.first() == floor.position {
            true => Resume {
                position: floor.position,
                ..resume
            },
            false => resume,
        };
        let reader = log.read_from(resume.position).map_err(StoreError::from)?;
        let shared = Arc::new(Shared {
            id,
            cache_id: store.next_id(),
            log,
            files,
            layers: RwLock::new(Arc::new(layers)),
            newest: AtomicU64::new(layers_end.unwrap_or(end).max(end).0),
            operations: AtomicU64::new(resume.operations.0),
            applied: AtomicU64::new(end.0),
            applied_tx: watch::Sender::new(end),
            position_tx: watch::Sender::new(resume.position),
            progress: Mutex::new(Progress {
                resume,
                oldest: manifest.oldest,
                newest: layers_end.unwrap_or(end).max(end),
            }),
            oldest: AtomicU64::new(manifest.oldest.map_or(u64::MAX, |l| l.0)),
            jobs: Jobs::new(&manifest.merging),
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
            store: Arc::clone(&store),
        });
        store.add_branch(&shared);
        let branch = Arc::new(Branch {
            shared: Arc::clone(&shared),
            threads: Mutex::new(Vec::new()),
        });
        let flusher = Arc::clone(&shared);
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(run)
                .map_err(|source| StoreError::Io {
                    context: format!("start thread {name}"),
                    source,
                })
        };
        let flush = spawn("pages-flush", Box::new(move || flush::run(&flusher)))?;
        branch.threads.lock().push(flush);
        let ingest = spawn(
            "pages-ingest",
            Box::new(move || ingest::run(&shared, resume, reader)),
        )?;
        branch.threads.lock().push(ingest);
        Ok(branch)
    }

    /// The branch's identity.
    pub fn id(&self) -> BranchId {
        self.shared.id
    }

    /// The end of the last whole mtr ingested.
    pub fn applied(&self) -> Lsn {
        self.shared.applied()
    }

    /// Looks whether what it shares with the branch it left is there: `log_end`
    /// and `log_position` are the end of that one's durable redo and the place
    /// after its last entry as its log was opened, before anything new was
    /// written. If neither that nor its layers reach where this one left, a log
    /// was lost in between; nothing can be read here then. If redo does, and
    /// what stood behind it is gone, that is not waited for: it is gone in the
    /// ancestor as well.
    pub fn check_ancestor(&self, log_end: Lsn, log_position: Position) {
        let Some(parent) = &self.shared.parent else {
            return;
        };
        let reached = log_end.max(parent.shared.newest());
        if parent.lsn.bytes_since(reached) <= SLOTS {
            if log_position < parent.position {
                let _ = parent.cut.set(log_position);
            }
            return;
        }
        let why = format!(
            "it left branch {} at LSN {}, and what is left of that one's log and layers ends at LSN {reached}: the log was lost; remove this branch",
            parent.shared.id, parent.lsn
        );
        parent.shared.forks.remove(self.shared.id);
        let _ = parent.lost.set(why.clone());
        self.shared.fail(why);
    }

    /// The newest LSN that shows anything: the end of the last whole mtr
    /// ingested, or up to 5 bytes behind it, from where side-file operations
    /// after it may count.
    pub fn newest(&self) -> Lsn {
        self.shared.newest()
    }

    /// [`Branch::newest`] for somebody who may come back for it: what is
    /// ingested later is not part of that LSN. That holds while at most three
    /// such LSNs and pauses come between two mini-transactions, and of what is
    /// read from the log again after a restart as far as there was a pause.
    pub fn tell(&self) -> Lsn {
        let lsn = self.shared.newest();
        self.shared.forks.tell(lsn);
        lsn
    }

    /// Whether `lsn` is one from where operations on side files behind the last
    /// whole mtr may count: no mtr ends there.
    pub fn is_behind_last(&self, lsn: Lsn) -> bool {
        let applied = self.applied();
        lsn > applied && lsn.bytes_since(applied) <= SLOTS
    }

    /// The first LSN that can be read; `None` before an epoch has begun.
    pub fn oldest(&self) -> Option<Lsn> {
        self.shared.oldest()
    }

    /// Whether what it shares with the branches it left is there: after a start
    /// they have to ingest that first. [`Branch::wait_applied`] waits for it.
    pub fn is_readable(&self) -> bool {
        self.shared.ancestor_behind().is_none()
    }

    /// Everything before it was read from the log, a torn mtr's bytes too.
    pub fn ingested_position(&self) -> Position {
        *self.shared.position_tx.borrow()
    }

    /// From where on the log shows what is not in whole mtrs yet: a place, and
    /// the LSN at which the first such mtr begins, or would. The entry at that
    /// place may begin before it. No LSN where no epoch has begun before.
    pub fn unfinished(&self) -> (Position, Option<Lsn>) {
        let resume = self.shared.progress.lock().resume;
        (resume.position, resume.begun.then_some(resume.lsn))
    }

    /// Watches [`Branch::applied`]. It also wakes when ingest fails.
    pub fn watch_applied(&self) -> watch::Receiver<Lsn> {
        self.shared.applied_tx.subscribe()
    }

    /// Waits until everything before `position` was ingested.
    ///
    /// # Errors
    /// [`ReadError::Stopped`] when ingest has stopped, [`ReadError::NotReached`]
    /// at the deadline.
    pub async fn wait_ingested(
        &self,
        position: Position,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let s = &self.shared;
        // By itself: in the call below, the watch would stay locked until the
        // wait is over, and the log could not say that anything is durable.
        let durable = s.log.durable().borrow().lsn();
        wait(
            s,
            s.position_tx.subscribe(),
            deadline,
            |p| *p >= position,
            durable,
        )
        .await
    }

    /// Waits until `lsn` is ingested.
    ///
    /// # Errors
    /// As for [`Branch::wait_ingested`].
    pub async fn wait_applied(&self, lsn: Lsn, deadline: Instant) -> Result<(), ReadError> {
        let s = &self.shared;
        wait(s, s.applied_tx.subscribe(), deadline, |l| *l >= lsn, lsn).await
    }

    /// Bytes of all layer files.
    pub fn layer_bytes(&self) -> u64 {
        self.shared
            .layers()
            .files
            .iter()
            .map(|f| f.meta.bytes)
            .sum()
    }

    /// What it has done since it was opened, and what it holds.
    pub fn stats(&self) -> BranchStats {
        let layers = self.shared.layers();
        let mut out = self.shared.stats.snapshot();
        out.layers = layers.files.len() as u64;
        out.layer_bytes = layers.files.iter().map(|f| f.meta.bytes).sum();
        out.open_layer_bytes = layers.open.memory();
        out.frozen_layer_bytes = layers.frozen.iter().map(|f| f.layer.memory()).sum();
        out.frozen_layers = layers.frozen.len() as u64;
        self.shared.fill(&mut out);
        out
    }

    /// Why ingest has stopped, if it has.
    pub fn failed(&self) -> Option<String> {
        self.shared.failed()
    }

    /// Freezes what is in memory and waits until it is in layer files, however
    /// long the disk is full, or until the branch stops. Blocking.
    pub fn flush_now(&self) {
        let s = &self.shared;
        s.freeze();
        let mut guard = s.flush_lock.lock();
        while s.has_frozen() && !s.stopped() && !s.flusher_ended.load(Ordering::Acquire) {
            s.flushed_signal.wait(&mut guard);
        }
    }

    /// Stops ingest and flushing and waits for them. Nothing is lost: what is
    /// not in layers is read from the log again. Reads go on. Blocking.
    pub fn shutdown(&self) {
        self.shared.signal_stop();
        let threads: Vec<JoinHandle<()>> = std::mem::take(&mut *self.threads.lock());
        for t in threads {
            if t.join().is_err() {
                tracing::error!(branch = %self.shared.id, "a thread of the branch panicked");
            }
        }
        // Merges of it end soon.
        self.shared.jobs.wait_for_all();
    }
}

impl Drop for Branch {
    /// Waits for its threads unless [`Branch::shutdown`] did, which a server
    /// calls where it may block.
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The branch that `id` left, which its manifest names.
fn parent(
    id: BranchId,
    named: Option<Ancestor>,
    given: Option<Arc<Branch>>,
) -> Result<Option<Parent>, StoreError> {
    match (named, given) {
        (None, None) => Ok(None),
        (Some(named), Some(given)) if named.branch == given.id() => {
            let shared = Arc::clone(&given.shared);
            shared.forks.add(id, named.lsn, named.position);
            Ok(Some(Parent {
                shared,
                lsn: named.lsn,
                position: named.position,
                cut: OnceLock::new(),
                lost: OnceLock::new(),
            }))
        }
        (named, given) => {
            let text = |b: Option<BranchId>| b.map_or("none".to_owned(), |b| b.to_string());
            Err(StoreError::Corrupt(format!(
                "branch {id}: its manifest says that it left branch {}, and it was opened as leaving {}",
                text(named.map(|a| a.branch)),
                text(given.map(|b| b.id()))
            )))
        }
    }
}

async fn wait<T>(
    s: &Shared,
    mut rx: watch::Receiver<T>,
    deadline: Instant,
    reached: impl Fn(&T) -> bool,
    wanted: Lsn,
) -> Result<(), ReadError> {
    if tokio::time::timeout_at(deadline, s.ancestors_ready())
        .await
        .is_err()
        && let Some(behind) = s.ancestor_behind()
    {
        return Err(behind);
    }
    loop {
        if reached(&rx.borrow_and_update()) {
            return Ok(());
        }
        if let Some(why) = s.failed() {
            return Err(ReadError::Stopped(why));
        }
        if !matches!(
            tokio::time::timeout_at(deadline, rx.changed()).await,
            Ok(Ok(()))
        ) {
            if reached(&rx.borrow()) {
                return Ok(());
            }
            let durable = s.log.durable().borrow().lsn();
            let (hop, reached) = if durable < wanted {
                ("log", durable)
            } else {
                ("ingest", s.applied())
            };
            return Err(ReadError::NotReached {
                wanted,
                reached,
                hop,
            });
        }
    }
}

/// The folder of a branch's layers and manifests.
pub(crate) fn folder(id: BranchId) -> String {
    format!("branches/{id}")
}
