//! The public face of a branch: opens it, starts its threads, and passes calls
//! on to its state and its workers.

use crate::api::{Page, Reach, ReadAt, SideFile, Tablespace};
use crate::branch::fork::ForkError;
use crate::branch::forks::{Fork, SLOTS};
use crate::branch::shared::{Opened, Parent, Shared};
use crate::branch::side_files::{SideCursor, SidePart, Wanted};
use crate::error::{ReadError, StoreError};
use crate::finding::LastScrub;
use crate::ingest;
use crate::inspect::{HistoryOptions, LayersInfo, PageHistory};
use crate::manifest::record::{BranchPoint, Resume};
use crate::manifest::version::Manifest;
use crate::place::branch_folder;
use crate::stats::BranchStats;
use crate::store::Store;
use crate::upkeep::flush;
use crate::upkeep::look::BranchHealth;
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::watch;
use tokio::time::Instant;
use xylem_types::{BranchId, Lsn, PageId, SpaceId};
use xylem_wal::backup::Floor;
use xylem_wal::{Position, Wal, WalReader};

/// One branch: ingests its WAL and answers reads.
pub struct Branch {
    shared: Arc<Shared>,
    store: Arc<Store>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Opening, closing, forking.
impl Branch {
    /// Opens the branch and takes it over from any other process: reads its
    /// newest manifest, then follows `wal` from where its layers end. A branch
    /// that has no manifest begins without a parent. `parent` is the branch that
    /// it left, which is open.
    ///
    /// # Errors
    /// When its manifest or a layer is missing or corrupt, its manifest names
    /// another parent, or the WAL was trimmed too far.
    pub fn open(
        store: Arc<Store>,
        id: BranchId,
        wal: Arc<dyn Wal>,
        parent: Option<Arc<Branch>>,
    ) -> Result<Arc<Branch>, StoreError> {
        Branch::open_with(store, id, parent, |_| Ok::<_, StoreError>(wal))
    }

    /// As [`Branch::open`], with a WAL that is opened once it is known how far
    /// layers have what it holds: a WAL that was lost goes on there.
    ///
    /// # Errors
    /// As [`Branch::open`], and the errors of `open_wal`.
    pub fn open_with<E: From<StoreError>>(
        store: Arc<Store>,
        id: BranchId,
        parent: Option<Arc<Branch>>,
        open_wal: impl FnOnce(Floor) -> Result<Arc<dyn Wal>, E>,
    ) -> Result<Arc<Branch>, E> {
        let resources = &store.resources;
        let folder = store.place().folder(&branch_folder(id));
        let files = folder.map_err(|source| StoreError::Io {
            context: format!("open branch {id} in {}", store.place().url()),
            source,
        })?;
        let manifest = Manifest::open(&*files, id, resources.random()?)?;
        let parent = parent_of(id, manifest.branch_point, parent)?;
        let resume = manifest.resume;
        let floor = Floor {
            position: resume.position.max(resume.operations),
            lsn: resume.lsn,
        };
        let wal = open_wal(floor)?;
        // A WAL that was lost and goes on there has nothing before.
        let position = match wal.first() == floor.position {
            true => floor.position,
            false => resume.position,
        };
        let resume = Resume { position, ..resume };
        let reader = wal.read_from(resume.position).map_err(StoreError::from)?;
        let opened = Opened {
            id,
            files,
            manifest,
            wal,
            resume,
            parent,
        };
        let shared = Arc::new(Shared::new(resources, opened));
        store.add_branch(&shared);
        // From here on dropping it stops its threads.
        let branch = Arc::new(Branch {
            shared,
            store,
            threads: Mutex::new(Vec::new()),
        });
        branch.start(resume, reader)?;
        Ok(branch)
    }

    /// Starts the branch's threads.
    fn start(&self, resume: Resume, reader: Box<dyn WalReader>) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.shared);
        self.spawn("pages-flush", move || flush::run(&shared))?;
        let (shared, store) = (Arc::clone(&self.shared), Arc::clone(&self.store));
        self.spawn("pages-ingest", move || {
            ingest::run(store, &shared, resume, reader);
        })
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(run).map_err(|source| StoreError::Io {
            context: format!("start thread {name}"),
            source,
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Stops ingest and flushing and waits for them. Nothing is lost: what is
    /// not in layers is read from the WAL again. Reads go on. Blocking.
    pub fn shutdown(&self) {
        self.shared.signal_stop();
        let threads: Vec<JoinHandle<()>> = std::mem::take(&mut *self.threads.lock());
        for t in threads {
            if t.join().is_err() {
                tracing::error!(branch_id = %self.shared.id, "a thread of the branch panicked");
            }
        }
        // Merges of it end soon.
        self.shared.jobs.wait_for_all();
    }

    /// Looks whether what it shares with its parent is there: `wal_end` and
    /// `wal_position` are the end of the parent's durable redo and the place
    /// after its last entry as its WAL was opened, before anything new was
    /// written.
    ///
    /// If neither that nor the parent's layers reach the branch point, a WAL was
    /// lost in between; nothing can be read here then. If redo does, and the
    /// side-file operations behind it are gone, nobody waits for them: they are
    /// gone in the parent as well.
    pub fn check_parent(&self, wal_end: Lsn, wal_position: Position) {
        self.shared.check_parent(wal_end, wal_position);
    }

    /// Makes the branch `id`, a fork of this one or of the ancestor that this
    /// one shares `at` with, and returns the LSN of its branch point. Durable on
    /// return; the fork is not open yet. Blocking: writes one small file.
    ///
    /// `ReadAt::Newest` is all that is ingested. A caller that wants all that
    /// was acknowledged waits for that first ([`Branch::wait_ingested`]).
    ///
    /// # Errors
    /// See [`ForkError`].
    pub fn fork(&self, id: BranchId, at: ReadAt) -> Result<Lsn, ForkError> {
        self.shared.fork(id, at)
    }

    /// Keeps the history that the fork `id`, which left at `lsn` and does not
    /// open now, shares with this branch. Called before
    /// [`Store::start_ingest`].
    pub fn keep_for(&self, id: BranchId, lsn: Lsn) {
        self.shared.forks.keep(id, lsn);
    }
}

impl Drop for Branch {
    /// Waits for its threads unless [`Branch::shutdown`] did, which a server
    /// calls where it may block.
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// How far ingest is.
impl Branch {
    /// The branch's id.
    pub fn id(&self) -> BranchId {
        self.shared.id
    }

    /// The end of the last whole mtr ingested.
    pub fn applied(&self) -> Lsn {
        self.shared.applied()
    }

    /// Watches [`Branch::applied`]. It also wakes when ingest fails.
    pub fn watch_applied(&self) -> watch::Receiver<Lsn> {
        self.shared.watch_applied()
    }

    /// The newest LSN that shows anything: the end of the last whole mtr
    /// ingested, or up to 5 bytes behind it, from where side-file operations
    /// after it may count.
    pub fn newest(&self) -> Lsn {
        self.shared.newest()
    }

    /// [`Branch::newest`] for a caller that may come back for it: what is
    /// ingested later is not part of that LSN. That holds while at most three
    /// such LSNs and pauses come between two mini-transactions, and, of what is
    /// read from the WAL again after a restart, as far as there was a pause.
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

    /// Whether what it shares with its ancestors is there: after a start they
    /// have to ingest that first. [`Branch::wait_applied`] waits for it.
    pub fn is_readable(&self) -> bool {
        self.shared.ancestors_behind().is_none()
    }

    /// Everything before this place was read from the WAL, a torn mtr's bytes
    /// too.
    pub fn ingested_position(&self) -> Position {
        self.shared.ingested_position()
    }

    /// The place from which on the WAL has bytes that are not in whole mtrs yet,
    /// and the LSN at which the first such mtr begins, or would. The entry at
    /// that place may begin before it. No LSN where no epoch has begun.
    pub fn unfinished(&self) -> (Position, Option<Lsn>) {
        self.shared.unfinished()
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
        self.shared.wait_ingested(position, deadline).await
    }

    /// Waits until `lsn` is ingested.
    ///
    /// # Errors
    /// As for [`Branch::wait_ingested`].
    pub async fn wait_applied(&self, lsn: Lsn, deadline: Instant) -> Result<(), ReadError> {
        self.shared.wait_applied(lsn, deadline).await
    }

    /// Why ingest has stopped, if it has.
    pub fn failed(&self) -> Option<String> {
        self.shared.failed()
    }
}

/// Reads.
impl Branch {
    /// A page. All zeros when it lies within its tablespace and was never
    /// written, or was freed. Blocking with [`Reach::Files`].
    ///
    /// # Errors
    /// See [`ReadError`]; `NoSuchTablespace` and `BeyondEnd` are answers.
    pub fn get_page(&self, page: PageId, at: ReadAt, reach: Reach) -> Result<Page, ReadError> {
        self.shared.get_page(page, at, reach)
    }

    /// All tablespaces, by id. One whose first page is not written yet is left
    /// out. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn tablespaces(&self, at: ReadAt) -> Result<Vec<Tablespace>, ReadError> {
        self.shared.tablespaces(at)
    }

    /// The tablespace whose file is `path`. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn tablespace_by_path(
        &self,
        path: &str,
        at: ReadAt,
    ) -> Result<Option<Tablespace>, ReadError> {
        self.shared.tablespace_by_path(path, at)
    }

    /// One tablespace by its id. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn tablespace_by_id(
        &self,
        space: SpaceId,
        at: ReadAt,
    ) -> Result<Option<Tablespace>, ReadError> {
        self.shared.tablespace_by_id(space, at)
    }

    /// Directories and side files from `from` on, until about `bytes_max`
    /// bytes of content and paths are gathered. `wanted` says by path how much
    /// of a file is read. Holds nothing between two calls. Blocking.
    ///
    /// An operation counts from the end of the last whole mtr that stands
    /// before it in the WAL: were the redo after that void, the operation
    /// would still have happened.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn side_part(
        &self,
        at: ReadAt,
        from: SideCursor,
        bytes_max: usize,
        wanted: &dyn Fn(&str) -> Wanted,
    ) -> Result<SidePart, ReadError> {
        self.shared.side_part(at, from, bytes_max, wanted)
    }

    /// Bytes of the side file `path` from `offset` on: `length`, or as many as there are.
    /// `None` if there is no such file. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn side_file(
        &self,
        at: ReadAt,
        path: &str,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        self.shared.side_file(at, path, offset, length)
    }

    /// The size of the side file `path` in bytes. `None` if there is no such file. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn side_file_size(&self, at: ReadAt, path: &str) -> Result<Option<u64>, ReadError> {
        self.shared.side_file_size(at, path)
    }

    /// Calls `each` with every directory and whole side file, a directory
    /// before what is in it, until it breaks. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn side_files(
        &self,
        at: ReadAt,
        each: &mut dyn FnMut(SideFile) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        self.shared.side_files(at, each)
    }

    /// The LSN that shows everything that was durable at `time_us` but perhaps
    /// its last 10 ms, and nothing later; microseconds since 1970, by the
    /// server's clock. Blocking.
    ///
    /// # Errors
    /// [`ReadError::TimeOutside`] when the time is before the history kept,
    /// [`ReadError::TimeUnclear`] when the clock was set so that it showed the
    /// time twice or never, and as for any read.
    pub fn lsn_at(&self, time_us: u64) -> Result<Lsn, ReadError> {
        self.shared.lsn_at(time_us)
    }

    /// When everything up to `lsn` was durable, about, as the server's clock
    /// said then, in microseconds since 1970; none when that is not known.
    /// Blocking.
    ///
    /// # Errors
    /// As for any read.
    pub fn time_at(&self, lsn: Lsn) -> Result<Option<u64>, ReadError> {
        self.shared.time_at(lsn)
    }
}

/// Upkeep, and what people ask.
impl Branch {
    /// Freezes what is in memory and waits until it is in layer files, however
    /// long the disk is full, or until the branch stops. Blocking.
    pub fn flush_now(&self) {
        self.shared.flush_now();
    }

    /// Merges and folds until nothing is left to do, and removes files that
    /// nobody needs any more. It waits for merges that upkeep, or another
    /// caller, is at. Blocking.
    ///
    /// # Errors
    /// The failure in words; nothing is lost.
    pub fn compact_now(&self) -> Result<(), String> {
        self.shared.compact_now()
    }

    /// How far merges are behind: bytes of the newest layers, by whose runs
    /// there are more than merges let come. 0 as long as they keep up. It grows
    /// by what is flushed, so by about as many bytes as redo is ingested, and
    /// cold reads and folding become dearer with it: code that paces writers
    /// counts it as ingest lag. Cheap: a walk over the runs.
    pub fn merge_debt(&self) -> u64 {
        self.shared.merge_debt()
    }

    /// Bytes of all layer files.
    pub fn layer_bytes(&self) -> u64 {
        let layers = self.shared.layers();
        layers.files.iter().map(|f| f.meta.bytes).sum()
    }

    /// The counters since it was opened, and what it holds now.
    pub fn stats(&self) -> BranchStats {
        self.shared.branch_stats()
    }

    /// How it does. Blocking: it looks into layers.
    pub fn health(&self) -> BranchHealth {
        self.shared.health_report()
    }

    /// The findings of its newest scrub.
    pub fn last_scrub(&self) -> LastScrub {
        self.shared.health.scrubbed.last()
    }

    /// The branches that left it, by LSN.
    pub fn forks(&self) -> Vec<Fork> {
        self.shared.forks.all()
    }

    /// Its layers, and those in memory.
    pub fn layers_info(&self) -> LayersInfo {
        self.shared.layers_info()
    }

    /// The versions of `page` that the branch has, from memory and layers, its
    /// own and those of its ancestors. Blocking.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn page_history(
        &self,
        page: PageId,
        options: &HistoryOptions,
    ) -> Result<PageHistory, ReadError> {
        self.shared.page_history(page, options)
    }
}

/// The parent of `id`, which its manifest names.
fn parent_of(
    id: BranchId,
    named: Option<BranchPoint>,
    given: Option<Arc<Branch>>,
) -> Result<Option<Parent>, StoreError> {
    match (named, given) {
        (None, None) => Ok(None),
        (Some(point), Some(given)) if point.parent == given.id() => {
            let shared = Arc::clone(&given.shared);
            shared.forks.add(id, point.lsn, point.position);
            Ok(Some(Parent::new(shared, point)))
        }
        (named, given) => {
            let text = |b: Option<BranchId>| b.map_or("none".to_owned(), |b| b.to_string());
            Err(StoreError::Corrupt(format!(
                "branch {id}: its manifest says that it left branch {}, and it was opened as leaving {}",
                text(named.map(|p| p.parent)),
                text(given.map(|b| b.id()))
            )))
        }
    }
}
