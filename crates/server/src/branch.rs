//! An open branch: its log, its pages, and who may write it.

use crate::framing::Framing;
use crate::logs::{BackedLog, OpenedLog};
use crate::metrics::{BranchMetrics, BranchState, Metrics};
use crate::project::BranchMeta;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{MutexGuard, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use xylem_pages::{Branch, ReadAt, ReadError};
use xylem_types::{BranchId, Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{Durable, Wal, WalError};

/// How long an attach waits for others that attach.
const ATTACH_TURN: Duration = Duration::from_secs(10);
/// How long it waits for ingest before anybody is fenced.
const ATTACH_BEFORE: Duration = Duration::from_secs(20);
/// Ingest that has not moved for so long does not go on by itself.
const ATTACH_STALL: Duration = Duration::from_secs(5);
/// How long it waits for the log and for ingest once the compute before is
/// fenced. All together are less than a caller's patience: `ATTACH_LIMIT` of
/// the command line.
const ATTACH_PATIENCE: Duration = Duration::from_secs(25);

/// So much redo is soon ingested, whatever was measured.
const NEAR_BYTES: u64 = 4 << 20;

/// A branch that serves.
pub struct OpenBranch {
    /// As the project knows it.
    pub meta: BranchMeta,
    /// What its computes wrote.
    pub log: Arc<dyn Wal>,
    /// The same, if it is copied to the object store.
    pub backed: Option<Arc<BackedLog>>,
    /// What that made of its pages.
    pub pages: Arc<Branch>,
    /// Cancelled when its streams must end: the server stops, or the branch
    /// was removed.
    pub end: CancellationToken,
    /// Its name now, with what is counted under it.
    label: RwLock<Arc<Label>>,
    counted: Arc<Metrics>,
    removed: AtomicBool,
    /// Why its streams end, when it is not removed and the server goes on.
    why_ended: OnceLock<String>,
    /// How many changes are under way after which what is acknowledged now
    /// might be gone: commits wait, and no compute attaches.
    held: watch::Sender<u32>,
    /// The first time known of its history, and where that began then.
    pub oldest_time: Mutex<Option<(Lsn, Timestamp)>>,
    usage: Mutex<Usage>,
    durable: watch::Receiver<Durable>,
    /// Where the log was durable when the branch was opened.
    opened: Durable,
    /// Set once ingest has got there.
    caught_up: AtomicBool,
    /// How far its redo was checked before it went into the log.
    pub framing: Framing,
    attach: tokio::sync::Mutex<()>,
    writer: Mutex<Option<(Epoch, CancellationToken)>>,
}

/// A name, and what is counted under it.
pub struct Label {
    /// The name.
    pub name: String,
    /// The counters.
    pub metrics: BranchMetrics,
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

/// What a compute that attached begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its right to write.
    pub epoch: Epoch,
    /// Where its own redo begins.
    pub start_lsn: Lsn,
    /// There is no redo yet: it creates a new database.
    pub empty: bool,
}

/// An attach did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The log refused or failed.
    #[error(transparent)]
    Log(#[from] WalError),
    /// Ingest did not get there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The name means another branch by now.
    #[error("its name means another branch by now; retry")]
    Renamed,
    /// Others attach, and do not come to an end.
    #[error("another compute has been attaching for {} s; retry", ATTACH_TURN.as_secs())]
    Crowded,
    /// Ingest is not near enough to be waited for.
    #[error(
        "ingest is {bytes} bytes behind the log, and {why}: the compute that runs was not fenced; see the server's log and `xylem doctor`, and retry"
    )]
    Behind {
        /// How far.
        bytes: u64,
        /// Why it is not waited for.
        why: String,
    },
    /// It may be about to go, or to be another line.
    #[error("it is being changed, and the store has not said yet whether it was; retry")]
    Held,
    /// The log did not become durable in time.
    #[error("the log did not become durable within {} s: it stands at {reached}, {} bytes behind", ATTACH_PATIENCE.as_secs(), wanted.bytes_since(*reached))]
    NotDurable {
        /// What was waited for.
        wanted: Lsn,
        /// Where the log stands.
        reached: Lsn,
    },
}

impl OpenBranch {
    /// A branch whose parts are open.
    pub fn new(
        name: &str,
        meta: BranchMeta,
        OpenedLog { log, backed }: OpenedLog,
        pages: Arc<Branch>,
        metrics: &Arc<Metrics>,
        end: CancellationToken,
    ) -> OpenBranch {
        let label = Label {
            name: name.to_owned(),
            metrics: metrics.branch(name),
        };
        OpenBranch {
            meta,
            opened: *log.durable().borrow(),
            caught_up: AtomicBool::new(false),
            durable: log.durable(),
            log,
            backed,
            pages,
            end,
            label: RwLock::new(Arc::new(label)),
            counted: Arc::clone(metrics),
            removed: AtomicBool::new(false),
            why_ended: OnceLock::new(),
            held: watch::Sender::new(0),
            oldest_time: Mutex::new(None),
            usage: Mutex::new(Usage {
                streams: 0,
                last: Instant::now(),
            }),
            framing: Framing::default(),
            attach: tokio::sync::Mutex::new(()),
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

    /// The end of its history: of its own log, or where it left its ancestor.
    pub fn last_lsn(&self) -> Lsn {
        self.durable().lsn().max(Lsn(self.meta.ancestor_lsn))
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

    /// How far the log is durable.
    pub fn durable(&self) -> Durable {
        *self.durable.borrow()
    }

    /// Why the branch does not work; none when it does.
    pub fn broken(&self) -> Option<String> {
        if let Some(reason) = self.pages.failed() {
            return Some(format!("ingest: {reason}"));
        }
        let error = self.log.failed()?;
        Some(format!("log: {error}"))
    }

    /// What a scrape wants to know.
    pub fn state(&self) -> BranchState {
        let durable = self.durable();
        let stats = self.pages.stats();
        BranchState {
            durable_lsn: self.last_lsn().0,
            applied_lsn: self.pages.applied().0,
            epoch: durable.epoch().0,
            log_bytes: self.log.stored_bytes(),
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
            // It was checked before a newer compute attached: the log refuses
            // it, and the newer one's stream is none of its business.
            Some((of, _)) if *of > epoch => return token,
            Some((of, older)) if *of == epoch => older.cancel(),
            _ => {}
        }
        *writer = Some((epoch, token.clone()));
        token
    }

    /// Gives the caller the right to write: a new epoch, whose line begins at
    /// the end of the last whole mtr. On return the checkpoint that its
    /// compute starts on is durable and applied. `meant` says whether this is
    /// still the branch that the caller means: names change.
    ///
    /// # Errors
    /// [`AttachError`]; a further attach begins afresh.
    pub async fn attach(&self, meant: impl Fn() -> bool) -> Result<Attached, AttachError> {
        if self.is_held() {
            return Err(AttachError::Held);
        }
        let turn = tokio::time::timeout(ATTACH_TURN, self.attach.lock()).await;
        let _one_at_a_time = turn.map_err(|_| AttachError::Crowded)?;
        if self.is_held() {
            return Err(AttachError::Held);
        }
        if !meant() {
            return Err(AttachError::Renamed);
        }
        // A compute that runs is not fenced for one that could not begin.
        self.ingest_is_near().await?;
        let until = Instant::now() + ATTACH_PATIENCE;
        let sealed = self.log.seal().await?;
        // Older epochs write no more; what they wrote is read to its end, and
        // the last whole mtr of it is where history is cut.
        self.pages.wait_ingested(sealed.position(), until).await?;
        let cut = self.pages.applied();
        let epoch = sealed.epoch();
        self.label().metrics.attaches.inc();
        if cut <= Lsn::FIRST {
            let begun = self.log.begin(epoch, Lsn::FIRST).await?;
            self.pages.wait_ingested(begun.position(), until).await?;
            tracing::info!(branch = self.name(), %epoch, "attached, the branch is empty");
            return Ok(Attached {
                epoch,
                start_lsn: Lsn::FIRST,
                empty: true,
            });
        }
        self.log.begin(epoch, cut).await?;
        let checkpoint = Frame {
            seq: FrameSeq(1),
            start: cut,
            body: FrameBody::Redo(Arc::from(xylem_redo::checkpoint_mtr(cut).as_slice())),
        };
        let start_lsn = checkpoint.end();
        self.log.append(epoch, vec![checkpoint]).await?;
        self.wait_durable(epoch, FrameSeq(1), start_lsn, until)
            .await?;
        self.pages.wait_applied(start_lsn, until).await?;
        tracing::info!(branch = self.name(), %epoch, %start_lsn, "attached");
        Ok(Attached {
            epoch,
            start_lsn,
            empty: false,
        })
    }

    /// Waits until ingest has got to where the log is durable now, and looks
    /// whether it will soon get to where it is then.
    async fn ingest_is_near(&self) -> Result<(), AttachError> {
        let began = Instant::now();
        let (until, end) = (began + ATTACH_BEFORE, self.durable());
        let lag = |end: Durable| end.lsn().bytes_since(self.pages.applied());
        let first = lag(end);
        let behind = |why: String| AttachError::Behind {
            bytes: lag(self.durable()),
            why,
        };
        let mut reached = self.pages.ingested_position();
        while reached < end.position() {
            let look = until.min(Instant::now() + ATTACH_STALL);
            match self.pages.wait_ingested(end.position(), look).await {
                Ok(()) => break,
                Err(ReadError::NotReached { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            let now = self.pages.ingested_position();
            if now == reached {
                return Err(behind(format!(
                    "has not moved for {} s",
                    ATTACH_STALL.as_secs()
                )));
            }
            reached = now;
            if Instant::now() >= until {
                return Err(behind(format!(
                    "was not there after {} s",
                    ATTACH_BEFORE.as_secs()
                )));
            }
        }
        // What was written meanwhile is read at the same rate.
        let (took, left) = (began.elapsed().as_secs_f64(), lag(self.durable()));
        let needed = took * left as f64 / first.max(1) as f64;
        if left > NEAR_BYTES && needed > ATTACH_PATIENCE.as_secs_f64() / 2.0 {
            return Err(behind(format!("would need {needed:.0} s more")));
        }
        Ok(())
    }

    /// Takes the right to write from whoever has it. Nobody is given it while
    /// the guard lives.
    ///
    /// # Errors
    /// When the log refuses or fails.
    pub async fn fence(&self) -> Result<MutexGuard<'_, ()>, WalError> {
        let guard = self.attach.lock().await;
        // Without an epoch there is nobody to take it from.
        if self.epoch() > Epoch(0) {
            self.log.seal().await?;
        }
        Ok(guard)
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

    async fn wait_durable(
        &self,
        epoch: Epoch,
        seq: FrameSeq,
        wanted: Lsn,
        until: Instant,
    ) -> Result<(), AttachError> {
        let mut durable = self.durable.clone();
        let reached = |durable: &Durable| durable.epoch() > epoch || durable.seq() >= seq;
        // Copied out: the guard that `wait_for` returns must not stay.
        let waited = tokio::time::timeout_at(until, durable.wait_for(reached))
            .await
            .map(|now| now.map(|now| *now));
        match waited {
            Ok(Ok(now)) if now.epoch() > epoch => Err(WalError::Fenced {
                given: epoch,
                current: now.epoch(),
            }
            .into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self
                .log
                .accepted(epoch)
                .err()
                .unwrap_or(WalError::Closed)
                .into()),
            Err(_) => Err(AttachError::NotDurable {
                wanted,
                reached: self.durable().lsn(),
            }),
        }
    }

    /// The version a read without an LSN of its own is pinned to.
    pub fn newest(&self) -> ReadAt {
        ReadAt::Lsn(self.pages.newest())
    }
}
