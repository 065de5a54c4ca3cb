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

/// A branch that serves.
pub struct OpenBranch {
    /// As the project knows it.
    pub meta: BranchMeta,
    /// What its computes wrote.
    pub wal: Arc<dyn Wal>,
    /// The same, if it is copied to the object store.
    pub backed: Option<Arc<BackedWal>>,
    /// What that made of its pages.
    pub pages: Arc<Branch>,
    /// Cancelled when its streams must end: the server stops, or the branch
    /// was removed.
    pub end: CancellationToken,
    /// Its name now, with what is counted under it.
    label: RwLock<Arc<Label>>,
    counted: Arc<Metrics>,
    clock: Clock,
    removed: AtomicBool,
    /// Why its streams end, when it is not removed and the server goes on.
    why_ended: OnceLock<String>,
    /// How many changes are under way after which what is acknowledged now
    /// might be gone: commits wait, and no compute attaches.
    held: watch::Sender<u32>,
    /// The first time known of its history, and where that began then.
    pub oldest_time: Mutex<Option<(Lsn, Timestamp)>>,
    usage: Mutex<Usage>,
    pub(super) durable: watch::Receiver<Durable>,
    /// Where the WAL was durable when the branch was opened.
    opened: Durable,
    /// Set once ingest has got there.
    caught_up: AtomicBool,
    /// How far its redo was checked before it went into the WAL.
    pub framing: Framing,
    /// Held by the one that attaches.
    pub(super) attach_turn: tokio::sync::Mutex<()>,
    writer: Mutex<Option<(Epoch, CancellationToken)>>,
}

/// A name, and what is counted under it.
pub struct Label {
    /// The name.
    pub name: String,
    /// The counters.
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

/// Who uses a branch, and when somebody last did.
struct Usage {
    streams: usize,
    last: Instant,
}

/// A stream on a branch, while it lives.
pub struct InUse(Arc<OpenBranch>);

impl Drop for InUse {
    fn drop(&mut self) {
        let mut usage = self.0.usage.lock();
        usage.streams = usage.streams.saturating_sub(1);
        usage.last = Instant::now();
    }
}

/// Keeps a branch from acknowledging commits and from giving out epochs.
pub struct Held(Option<Arc<OpenBranch>>);

impl Held {
    /// Leaves the branch held until the server ends: nobody knows whether
    /// what it would acknowledge stays.
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
    /// A branch whose parts are open.
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

    /// What it is called for ever.
    pub fn id(&self) -> BranchId {
        self.meta.id
    }

    /// What it is called now.
    pub fn label(&self) -> Arc<Label> {
        Arc::clone(&self.label.read())
    }

    /// The span of work on this branch: log lines within carry its name and its
    /// id.
    pub fn span(&self) -> tracing::Span {
        tracing::info_span!("branch", branch = self.name(), branch_id = %self.id())
    }

    /// Its name now.
    pub fn name(&self) -> String {
        self.label.read().name.clone()
    }

    /// Gives it another name. What was counted under the old one is forgotten.
    pub fn set_name(&self, name: &str) {
        let mut label = self.label.write();
        self.counted.forget_branch(&label.name);
        *label = Arc::new(Label {
            name: name.to_owned(),
            metrics: self.counted.branch(name),
        });
    }

    /// Notes that it is no more. Streams end; what it is asked is refused.
    pub fn set_removed(&self) {
        self.removed.store(true, Ordering::Release);
        self.end.cancel();
        self.counted.forget_branch(&self.label.read().name);
    }

    /// Ends its streams, and says why.
    pub fn end_because(&self, why: String) {
        // The first reason counts: streams end once.
        let _ = self.why_ended.set(why);
        self.end.cancel();
    }

    /// Why its streams end, if somebody said.
    pub fn why_ended(&self) -> Option<&str> {
        self.why_ended.get().map(String::as_str)
    }

    /// Whether it is no more.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Lets commits wait and refuses computes while the guard lives.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.held.send_modify(|held| *held += 1);
        Held(Some(Arc::clone(self)))
    }

    /// Watches how many hold it.
    pub fn watch_held(&self) -> watch::Receiver<u32> {
        self.held.subscribe()
    }

    /// Whether commits wait.
    pub fn is_held(&self) -> bool {
        *self.held.borrow() > 0
    }

    /// Notes that somebody calls.
    pub fn touch(&self) {
        self.usage.lock().last = Instant::now();
    }

    /// Counts a stream while the guard lives.
    pub fn in_use(self: &Arc<Self>) -> InUse {
        self.usage.lock().streams += 1;
        InUse(Arc::clone(self))
    }

    /// How long nobody has used it.
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

    /// The end of its history: of its own WAL, or where it left its parent.
    pub fn last_lsn(&self) -> Lsn {
        self.durable().lsn().max(Lsn(self.meta.branch_point_lsn))
    }

    /// Whether `lsn` may have been told as the end of this branch before the
    /// server was started: what is behind the last mini-transaction may count
    /// from another place since.
    pub fn may_have_been_end(&self, lsn: Lsn) -> bool {
        self.opened.lsn() >= self.pages.applied() && self.pages.is_behind_last(lsn)
    }

    /// The newest epoch.
    pub fn epoch(&self) -> Epoch {
        self.durable.borrow().epoch()
    }

    /// How far the WAL is durable.
    pub fn durable(&self) -> Durable {
        *self.durable.borrow()
    }

    /// Why the branch does not work; none when it does.
    pub fn broken(&self) -> Option<String> {
        if let Some(reason) = self.pages.failed() {
            return Some(format!("ingest: {reason}"));
        }
        let error = self.wal.failed()?;
        Some(format!("WAL: {error}"))
    }

    /// What a scrape wants to know.
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

    /// Registers the stream that writes `epoch`; the one before it ends. The
    /// token is cancelled when a newer one takes over.
    pub fn take_writer(&self, epoch: Epoch) -> CancellationToken {
        let token = CancellationToken::new();
        let mut writer = self.writer.lock();
        match &*writer {
            // It was checked before a newer compute attached: the WAL refuses
            // it, and the newer one's stream is none of its business.
            Some((of, _)) if *of > epoch => return token,
            Some((of, older)) if *of == epoch => older.cancel(),
            _ => {}
        }
        *writer = Some((epoch, token.clone()));
        token
    }

    /// Whether [`OpenBranch::caught_up`] has nothing to wait for.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.load(Ordering::Acquire)
    }

    /// Waits until reads can see everything that was durable when the branch
    /// was opened: what was acknowledged before a restart is not hidden from
    /// the first who ask for the newest version after it.
    ///
    /// # Errors
    /// [`ReadError::NotReached`] at the deadline, [`ReadError::Stopped`].
    pub async fn caught_up(&self, until: Instant) -> Result<(), ReadError> {
        if self.is_caught_up() {
            return Ok(());
        }
        // Each for itself: one that waited for all would hold them up when its
        // stream is not polled.
        let position = self.opened.position();
        self.pages.wait_ingested(position, until).await?;
        self.caught_up.store(true, Ordering::Release);
        Ok(())
    }

    /// The version a read without an LSN of its own is pinned to.
    pub fn newest(&self) -> ReadAt {
        ReadAt::Lsn(self.pages.newest())
    }
}
