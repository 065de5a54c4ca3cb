//! An open branch: its log, its pages, and who may write it.

use crate::framing::Framing;
use crate::logs::{BackedLog, OpenedLog};
use crate::metrics::{BranchMetrics, BranchState, Metrics};
use crate::project::BranchMeta;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{MutexGuard, OnceCell, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use xylem_pages::{Branch, ReadAt, ReadError};
use xylem_types::{BranchId, Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{Durable, Log, LogError};

/// How long an attach waits for the log and for ingest.
const ATTACH_PATIENCE: Duration = Duration::from_secs(60);

/// A branch that serves.
pub struct OpenBranch {
    /// As the project knows it.
    pub meta: BranchMeta,
    /// What its computes wrote.
    pub log: Arc<dyn Log>,
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
    /// The first time known of its history, and where that began then.
    pub oldest_time: Mutex<Option<(Lsn, Timestamp)>>,
    usage: Mutex<Usage>,
    durable: watch::Receiver<Durable>,
    /// Where the log was durable when the branch was opened.
    opened: Durable,
    /// Set once ingest has got there.
    caught_up: OnceCell<()>,
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
    Log(#[from] LogError),
    /// Ingest did not get there.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The name means another branch by now.
    #[error("its name means another branch by now; retry")]
    Renamed,
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
            caught_up: OnceCell::new(),
            durable: log.durable(),
            log,
            backed,
            pages,
            end,
            label: RwLock::new(Arc::new(label)),
            counted: Arc::clone(metrics),
            removed: AtomicBool::new(false),
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

    /// Whether it is no more.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
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
        let _one_at_a_time = self.attach.lock().await;
        if !meant() {
            return Err(AttachError::Renamed);
        }
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

    /// Takes the right to write from whoever has it. Nobody is given it while
    /// the guard lives.
    ///
    /// # Errors
    /// When the log refuses or fails.
    pub async fn fence(&self) -> Result<MutexGuard<'_, ()>, LogError> {
        let guard = self.attach.lock().await;
        // Without an epoch there is nobody to take it from.
        if self.epoch() > Epoch(0) {
            self.log.seal().await?;
        }
        Ok(guard)
    }

    /// Whether [`OpenBranch::caught_up`] has nothing to wait for.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up.initialized()
    }

    /// Waits until reads can see everything that was durable when the branch
    /// was opened: what was acknowledged before a restart is not hidden from
    /// the first who ask for the newest version after it.
    ///
    /// # Errors
    /// [`ReadError::NotReached`] at the deadline, [`ReadError::Stopped`].
    pub async fn caught_up(&self, until: Instant) -> Result<(), ReadError> {
        let position = self.opened.position();
        // One waits, the others wait for it.
        let wait = self
            .caught_up
            .get_or_try_init(|| self.pages.wait_ingested(position, until));
        match tokio::time::timeout_at(until, wait).await {
            Ok(reached) => reached.copied(),
            Err(_) => Err(ReadError::NotReached {
                wanted: self.opened.lsn(),
                reached: self.pages.applied(),
                hop: "ingest",
            }),
        }
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
            Ok(Ok(now)) if now.epoch() > epoch => Err(LogError::Fenced {
                given: epoch,
                current: now.epoch(),
            }
            .into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self
                .log
                .accepted(epoch)
                .err()
                .unwrap_or(LogError::Closed)
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
