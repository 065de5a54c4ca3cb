//! An open branch: its WAL, its pages, its name and its users.

use super::framing::Framing;
use crate::metrics::{BranchMetrics, BranchState, Metrics};
use crate::project::BranchMeta;
use crate::time;
use crate::wals::{BackedWal, OpenedWal};
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use xylem_ambient::Clock;
use xylem_pages::{Branch, ReadAt, ReadError};
use xylem_types::{BranchId, Epoch, Lsn};
use xylem_wal::{Durable, Wal};

/// How long commits wait for ingest after a branch was opened. Ingest reads about 100 MB
/// of WAL in this time if it has the processor for itself.
const HEAD_START: Duration = Duration::from_millis(250);

/// A branch that is open.
pub struct OpenBranch {
    /// The branch's record in the catalogue.
    pub meta: BranchMeta,
    /// The branch's WAL.
    pub wal: Arc<dyn Wal>,
    /// The same WAL, if it is copied to the object store.
    pub backed: Option<Arc<BackedWal>>,
    /// The branch's pages, which ingest fills from the WAL.
    pub pages: Arc<Branch>,
    /// Cancelled when the branch's streams must end: the server stops, or the
    /// branch is removed or reopened.
    pub end: CancellationToken,
    /// The branch's present name with its counters.
    label: RwLock<Arc<Label>>,
    counted: Arc<Metrics>,
    clock: Clock,
    removed: AtomicBool,
    /// Why the branch's streams end, when neither removal nor shutdown ends them.
    why_ended: OnceLock<String>,
    /// The number of changes under way that could discard what is acknowledged now.
    /// Above 0, commits wait and no compute attaches.
    held: watch::Sender<u32>,
    /// The first known time of the history, and the oldest LSN for which it was found.
    pub oldest_time: Mutex<Option<(Lsn, Timestamp)>>,
    usage: Mutex<Usage>,
    pub(super) durable: watch::Receiver<Durable>,
    /// The end of the WAL when the branch was opened.
    opened: Durable,
    /// Set once ingest has reached `opened`.
    caught_up: AtomicBool,
    /// When the head start of ingest ends at the latest.
    head_start_ends: OnceLock<Instant>,
    /// The check of redo before it enters the WAL.
    pub framing: Framing,
    /// Held during an attach.
    pub(super) attach_turn: tokio::sync::Mutex<()>,
    writer: Mutex<Option<(Epoch, CancellationToken)>>,
}

/// A name with the counters that carry it as their label.
pub struct Label {
    /// The branch's name.
    pub name: String,
    /// The branch's counters.
    pub metrics: BranchMetrics,
}

/// The parts of a server that its branches use.
pub struct Surroundings {
    /// The server's counters.
    pub metrics: Arc<Metrics>,
    /// Ends the branch's streams.
    pub end: CancellationToken,
    /// The server's clock.
    pub clock: Clock,
}

/// The number of streams on a branch, and the time of its last use.
struct Usage {
    streams: usize,
    last: Instant,
}

/// Counts as a stream on a branch until it is dropped.
pub struct InUse(Arc<OpenBranch>);

impl Drop for InUse {
    fn drop(&mut self) {
        let mut usage = self.0.usage.lock();
        usage.streams = usage.streams.saturating_sub(1);
        usage.last = Instant::now();
    }
}

/// Keeps a branch from acknowledging commits and from creating epochs.
pub struct Held(Option<Arc<OpenBranch>>);

impl Held {
    /// Leaves the branch held until the server ends: it is unknown whether what the
    /// branch acknowledges would last.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(branch) = self.0.take() {
            branch
                .held
                .send_modify(|held| *held = held.saturating_sub(1));
        }
    }
}

impl OpenBranch {
    /// Puts a branch together from its open parts.
    pub fn new(
        name: &str,
        meta: BranchMeta,
        OpenedWal { wal, backed }: OpenedWal,
        pages: Arc<Branch>,
        Surroundings {
            metrics,
            end,
            clock,
        }: Surroundings,
    ) -> OpenBranch {
        let label = Label {
            name: name.to_owned(),
            metrics: metrics.branch(name),
        };
        OpenBranch {
            meta,
            framing: Framing::new(Arc::clone(&wal), Arc::clone(&pages)),
            opened: *wal.durable().borrow(),
            caught_up: AtomicBool::new(false),
            head_start_ends: OnceLock::new(),
            durable: wal.durable(),
            wal,
            backed,
            pages,
            end,
            label: RwLock::new(Arc::new(label)),
            counted: metrics,
            clock,
            removed: AtomicBool::new(false),
            why_ended: OnceLock::new(),
            held: watch::Sender::new(0),
            oldest_time: Mutex::new(None),
            usage: Mutex::new(Usage {
                streams: 0,
                last: Instant::now(),
            }),
            attach_turn: tokio::sync::Mutex::new(()),
            writer: Mutex::new(None),
        }
    }

    /// The permanent id.
    pub fn id(&self) -> BranchId {
        self.meta.id
    }

    /// The branch's present name with its counters.
    pub fn label(&self) -> Arc<Label> {
        Arc::clone(&self.label.read())
    }

    /// A span for work on this branch: log lines within it, of any level, carry the
    /// branch's id. The branch's name may change meanwhile: log lines ask for it.
    pub fn span(&self) -> tracing::Span {
        tracing::error_span!("branch", branch_id = %self.id())
    }

    /// The branch's present name.
    pub fn name(&self) -> String {
        self.label.read().name.clone()
    }

    /// Renames the branch. The counters under the old name are dropped.
    pub fn set_name(&self, name: &str) {
        let mut label = self.label.write();
        self.counted.forget_branch(&label.name);
        *label = Arc::new(Label {
            name: name.to_owned(),
            metrics: self.counted.branch(name),
        });
    }

    /// Marks the branch as removed. Its streams end, and it rejects all calls.
    pub fn set_removed(&self) {
        self.removed.store(true, Ordering::Release);
        self.end.cancel();
        self.counted.forget_branch(&self.label.read().name);
    }

    /// Ends the branch's streams and tells them why.
    pub fn end_because(&self, why: String) {
        // The first reason counts: streams end once.
        let _ = self.why_ended.set(why);
        self.end.cancel();
    }

    /// The reason given to [`OpenBranch::end_because`].
    pub fn why_ended(&self) -> Option<&str> {
        self.why_ended.get().map(String::as_str)
    }

    /// Whether the branch has been removed.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Makes commits wait and rejects attaches until the guard is dropped.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.held.send_modify(|held| *held += 1);
        Held(Some(Arc::clone(self)))
    }

    /// Watches the number of [`Held`] guards; commits wait while it is above 0.
    pub fn watch_held(&self) -> watch::Receiver<u32> {
        self.held.subscribe()
    }

    /// Whether commits wait for a change of branches.
    pub fn is_held(&self) -> bool {
        *self.held.borrow() > 0
    }

    /// Records a use of the branch now.
    pub fn touch(&self) {
        self.usage.lock().last = Instant::now();
    }

    /// Counts a stream until the guard is dropped.
    pub fn in_use(self: &Arc<Self>) -> InUse {
        self.usage.lock().streams += 1;
        InUse(Arc::clone(self))
    }

    /// The time since the branch was last used; zero while it has streams.
    pub fn idle(&self) -> Duration {
        let usage = self.usage.lock();
        if usage.streams > 0 {
            return Duration::ZERO;
        }
        usage.last.elapsed()
    }

    /// The present time, by the server's clock.
    pub fn now(&self) -> Timestamp {
        time::now(&self.clock)
    }

    /// The end of the branch's history: the durable LSN of its own WAL, or the
    /// branch point if that is later.
    pub fn last_lsn(&self) -> Lsn {
        self.durable().lsn().max(Lsn(self.meta.branch_point_lsn))
    }

    /// Whether an earlier server process may have reported `lsn` as the end of this
    /// branch. Since the restart, side-file operations after the last
    /// mini-transaction may have other LSNs.
    pub fn may_have_been_end(&self, lsn: Lsn) -> bool {
        self.opened.lsn() >= self.pages.applied() && self.pages.is_behind_last(lsn)
    }

    /// The newest epoch.
    pub fn epoch(&self) -> Epoch {
        self.durable.borrow().epoch()
    }

    /// The durable end of the WAL.
    pub fn durable(&self) -> Durable {
        *self.durable.borrow()
    }

    /// Why ingest or the WAL has failed; `None` while both work.
    pub fn broken(&self) -> Option<String> {
        if let Some(reason) = self.pages.failed() {
            return Some(format!("ingest: {reason}"));
        }
        let error = self.wal.failed()?;
        Some(format!("WAL: {error}"))
    }

    /// The values that a scrape of the metrics reports.
    pub fn state(&self) -> BranchState {
        let durable = self.durable();
        let stats = self.pages.stats();
        BranchState {
            durable_lsn: self.last_lsn().0,
            applied_lsn: self.pages.applied().0,
            epoch: durable.epoch().0,
            wal_bytes: self.wal.stored_bytes(),
            backup: self.backed.as_ref().map(|backed| backed.backup()),
            layer_bytes: stats.layer_bytes,
            up: self.broken().is_none(),
            stats,
        }
    }

    /// Registers a stream that writes `epoch`, and ends the previous stream of that
    /// epoch or an older one. The returned token is cancelled when a newer stream takes
    /// over, or a newer epoch was created.
    pub fn take_writer(&self, epoch: Epoch) -> CancellationToken {
        let token = CancellationToken::new();
        let mut writer = self.writer.lock();
        match &*writer {
            // A newer compute attached after this stream's epoch was checked. The newer
            // compute's stream must go on.
            Some((of, _)) if *of > epoch => token.cancel(),
            older => {
                if let Some((_, older)) = older {
                    older.cancel();
                }
                *writer = Some((epoch, token.clone()));
            }
        }
        token
    }

    /// Ends the stream that writes an epoch before `epoch`, which may be idle and would
    /// not notice.
    pub(super) fn end_older_writer(&self, epoch: Epoch) {
        let mut writer = self.writer.lock();
        if let Some((_, older)) = writer.take_if(|(of, _)| *of < epoch) {
            older.cancel();
        }
    }

    /// Whether [`OpenBranch::caught_up`] would return at once.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    /// Waits until reads can see everything that was durable when the branch was
    /// opened. Without this wait, the first reads of the newest version after a
    /// restart could miss commits that were acknowledged before it.
    ///
    /// # Errors
    /// [`ReadError::NotReached`] at the deadline, [`ReadError::Stopped`].
    pub async fn caught_up(&self, until: Instant) -> Result<(), ReadError> {
        if self.is_caught_up() {
            return Ok(());
        }
        // Every caller waits by itself: a shared wait would block all of them while
        // its owner's stream is not polled.
        let position = self.opened.position();
        self.pages.wait_ingested(position, until).await?;
        self.caught_up.store(true, Ordering::Release);
        Ok(())
    }

    /// Waits until ingest has reached what was durable when the branch was opened, but no
    /// longer than [`HEAD_START`] after the first such wait. Commits would compete with
    /// ingest for the processor, and reads of the same computes wait for ingest.
    pub async fn head_start(&self) {
        let until = *self
            .head_start_ends
            .get_or_init(|| Instant::now() + HEAD_START);
        // Commits do not depend on the outcome.
        let _ = self.caught_up(until).await;
    }

    /// The version to which a read without an LSN is pinned.
    pub fn newest(&self) -> ReadAt {
        ReadAt::Lsn(self.pages.newest())
    }
}
