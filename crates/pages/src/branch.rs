//! A branch: its state, its threads, and what others may ask of it.

use crate::api::{ReadError, StoreError};
use crate::files::Files;
use crate::flush;
use crate::fork::{Forks, SLOTS};
use crate::health::Health;
use crate::ingest;
use crate::layer_read::{LayerFile, Leaving, Source};
use crate::manifest::{Ancestor, Manifest, Resume};
use crate::map::{Frozen, Layers, Snapshot};
use crate::mem::{Batch, MemLayer};
use crate::stats::{BranchStats, Counters};
use crate::store::{Store, random};
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use tokio::sync::watch;
use tokio::time::Instant;
use xylem_types::{BranchId, Lsn, SpaceId};
use xylem_wal::backup::Floor;
use xylem_wal::{Log, Position};

/// Slots of tablespace generations.
const GENERATIONS: usize = 256;

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
    /// Why a part of that is gone.
    lost: OnceLock<String>,
}

impl Parent {
    fn behind(&self) -> Option<ReadError> {
        if let Some(why) = self.lost.get() {
            return Some(ReadError::Stopped(why.clone()));
        }
        let reached = self.shared.applied();
        // The LSN may lie behind that of the last mtr: see `fork`.
        if reached >= self.lsn || *self.shared.position_tx.borrow() >= self.position {
            return None;
        }
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
    pub(crate) log: Arc<dyn Log>,
    pub(crate) files: Arc<dyn Files>,
    /// For the caches' keys.
    pub(crate) cache_id: u64,
    layers: RwLock<Arc<Layers>>,
    pub(crate) applied: AtomicU64,
    /// As [`Progress::newest`].
    newest: AtomicU64,
    applied_tx: watch::Sender<Lsn>,
    position_tx: watch::Sender<Position>,
    progress: Mutex<Progress>,
    pub(crate) manifest: Mutex<Manifest>,
    failed: RwLock<Option<String>>,
    stop: AtomicBool,
    stop_tx: watch::Sender<bool>,
    /// What the flush thread waits on: frozen layers, a stop.
    flush_lock: Mutex<()>,
    flush_signal: Condvar,
    flushed_signal: Condvar,
    /// The flush thread has ended: nothing will be flushed any more.
    flusher_ended: AtomicBool,
    pub(crate) stats: Counters,
    /// Odd while a tablespace is changing; see [`crate::read`].
    generations: Vec<AtomicU64>,
    /// First LSN of the branch; `u64::MAX` until an epoch has begun.
    oldest: AtomicU64,
    /// Layer files that no manifest names and somebody may still read.
    pub(crate) leaving: Mutex<Vec<Leaving>>,
    /// Held while layers are merged.
    pub(crate) upkeep: Mutex<()>,
    pub(crate) parent: Option<Parent>,
    /// Where others left this one.
    pub(crate) forks: Forks,
    pub(crate) health: Health,
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

    /// The generation of what is known of a tablespace. Odd: it is changing.
    pub(crate) fn generation(&self, space: SpaceId) -> &AtomicU64 {
        // The modulo keeps it in range.
        &self.generations[space.0 as usize % GENERATIONS]
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
        if !batch.is_empty() {
            for s in spaces {
                self.generation(*s).fetch_add(1, Ordering::AcqRel);
            }
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
        self.newest.store(now.newest.0, Ordering::Release);
        *progress = now;
        if lsn > self.applied() {
            self.applied.store(lsn.0, Ordering::Release);
            self.applied_tx.send_replace(lsn);
        }
        if !batch.is_empty() {
            for s in spaces {
                self.generation(*s).fetch_add(1, Ordering::AcqRel);
            }
            let limit = store.open_limit();
            let open = Arc::clone(&self.layers.read().open);
            if open.record_bytes() >= limit || open.memory() >= store.config.memory_bytes / 4 {
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
            next.open = Arc::new(MemLayer::new(end, Arc::clone(&self.store.layer_memory)));
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

    /// Replaces the list of layer files by what `change` makes of it.
    pub(crate) fn change_files(
        &self,
        change: impl FnOnce(&[Arc<LayerFile>]) -> Vec<Arc<LayerFile>>,
    ) {
        let mut layers = self.layers.write();
        let mut next = Layers::clone(&layers);
        next.files = Arc::new(change(&layers.files));
        *layers = Arc::new(next);
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
        {
            let mut layers = self.layers.write();
            let mut next = Layers::clone(&layers);
            if !next.frozen.is_empty() {
                next.frozen.remove(0);
            }
            let mut all = Vec::clone(&next.files);
            all.extend(files);
            next.files = Arc::new(all);
            *layers = Arc::new(next);
        }
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
        log: Arc<dyn Log>,
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
        open_log: impl FnOnce(Floor) -> Result<Arc<dyn Log>, E>,
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
        let layers = Layers {
            open: Arc::new(MemLayer::new(end, Arc::clone(&store.layer_memory))),
            frozen: Vec::new(),
            files: Arc::new(
                manifest
                    .layers
                    .iter()
                    .map(|m| {
                        let files = Arc::clone(&files);
                        Arc::new(LayerFile::new(m.clone(), id, store.next_id(), files))
                    })
                    .collect(),
            ),
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
            applied: AtomicU64::new(end.0),
            applied_tx: watch::Sender::new(end),
            position_tx: watch::Sender::new(resume.position),
            progress: Mutex::new(Progress {
                resume,
                oldest: manifest.oldest,
                newest: layers_end.unwrap_or(end).max(end),
            }),
            oldest: AtomicU64::new(manifest.oldest.map_or(u64::MAX, |l| l.0)),
            manifest: Mutex::new(manifest),
            failed: RwLock::new(None),
            stop: AtomicBool::new(false),
            stop_tx: watch::Sender::new(false),
            flush_lock: Mutex::new(()),
            flush_signal: Condvar::new(),
            flushed_signal: Condvar::new(),
            flusher_ended: AtomicBool::new(false),
            stats: Counters::default(),
            generations: (0..GENERATIONS).map(|_| AtomicU64::new(0)).collect(),
            leaving: Mutex::new(Vec::new()),
            upkeep: Mutex::new(()),
            parent,
            forks: Forks::new(layers_end.unwrap_or(end)),
            health: Health::default(),
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
    /// is the end of that one's durable redo as its log was opened, before
    /// anything new was written. If neither that nor its layers reach where
    /// this one left, a log was lost in between; nothing can be read here then.
    pub fn check_ancestor(&self, log_end: Lsn) {
        let Some(parent) = &self.shared.parent else {
            return;
        };
        let reached = log_end.max(parent.shared.newest());
        if parent.lsn.bytes_since(reached) <= SLOTS {
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

    /// The first LSN that can be read; `None` before an epoch has begun.
    pub fn oldest(&self) -> Option<Lsn> {
        self.shared.oldest()
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
        // A merge of it ends soon.
        drop(self.shared.upkeep.lock());
    }
}

impl Drop for Branch {
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
