//! StreamWAL: frames in, acknowledgements out.
//!
//! A task hands frames to the WAL and waits while the WAL's queue is full;
//! meanwhile the caller's frames wait in the connection's window. The answers
//! are made where they are polled, from what WAL and ingest say of themselves,
//! so that a commit waits for nothing but the WAL.

use super::call::Caller;
use super::{Answers, convert, stall, status};
use crate::branch::live::OpenBranch;
use crate::branch::pace::{self, Pace};
use crate::metrics::StreamKind;
use crate::node::Node;
use crate::ownership::{Ownership, Right};
use crate::project::catalog::Catalog;
use futures::stream::Fuse;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};
use tracing::Instrument;
use xylem_proto::pageserver::{WalAck, WalFrame};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{CheckedFrame, Durable, WalError};

/// Frames that go to the WAL together, when they are there already.
const GROUP_FRAMES: usize = 256;
/// And their payload, in bytes.
const GROUP_BYTES: usize = 1 << 20;
/// An acknowledgement that says only that reads see more may wait this long.
const APPLIED_DELAY: Duration = Duration::from_millis(10);
/// Merges may be so many flushed layers behind before writers are slowed.
const MERGE_LAYERS_SOFT: u64 = 4;
/// Groups whose time to durability is being measured.
const MEASURED_MAX: usize = 1024;

/// When groups were handed to the WAL, by their last frame.
type Pending = Arc<Mutex<VecDeque<(FrameSeq, Instant)>>>;

/// Takes a compute's frames.
pub(super) fn stream_wal(
    node: &Node,
    caller: Caller,
    frames: Streaming<WalFrame>,
) -> Result<Answers<WalAck>, Status> {
    let epoch = caller.required_epoch()?;
    caller.check_epoch()?;
    let branch = caller.branch;
    // Also refuses an epoch that was sealed but never begun.
    branch
        .wal
        .accepted(epoch)
        .map_err(|error| status::of_wal(&error, &branch.name()))?;
    let pending = Pending::default();
    let feeding = Feeding {
        branch: Arc::clone(&branch),
        epoch,
        lag_soft: node.config.ingest_lag_soft.0,
        merge_soft: MERGE_LAYERS_SOFT * node.config.open_layer_size.0,
        pending: Arc::clone(&pending),
        begun: Instant::now(),
    };
    let opened = node.opened().ok_or_else(status::stopping)?;
    let acks = Acks {
        ownership: Arc::clone(&opened.ownership),
        lost: opened.catalog.lost().clone(),
        catalog: Arc::clone(&opened.catalog),
        held: branch.watch_held(),
        replaced: branch.take_writer(epoch),
        durable: branch.wal.durable(),
        applied: branch.pages.watch_applied(),
        feeder: Some(Feeder(tokio::spawn(
            feeding.run(frames).instrument(branch.span()),
        ))),
        first: true,
        sent: Instant::now(),
        applied_due: None,
        applied_ended: false,
        accepted: None,
        pending,
        branch: Arc::clone(&branch),
        epoch,
    };
    let acks = futures::stream::unfold(Some(acks), |acks| async {
        let mut acks = acks?;
        match acks.next().await {
            Some(Ok(ack)) => Some((Ok(ack), Some(acks))),
            Some(Err(status)) => Some((Err(status), None)),
            None => None,
        }
    });
    let ticket = node.stream(StreamKind::wal, &branch);
    Ok(stall::guarded(Box::pin(acks), ticket, branch))
}

/// The task that hands frames to the WAL; it ends with its stream.
struct Feeder(JoinHandle<Result<FrameSeq, Status>>);

impl Drop for Feeder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Feeding {
    branch: Arc<OpenBranch>,
    epoch: Epoch,
    lag_soft: u64,
    merge_soft: u64,
    pending: Pending,
    begun: Instant,
}

impl Feeding {
    /// Returns the last frame taken, once the caller has closed its side.
    async fn run(self, frames: Streaming<WalFrame>) -> Result<FrameSeq, Status> {
        let mut frames = frames.fuse();
        let mut last = FrameSeq(0);
        let mut pace = Pace::default();
        while let Some(first) = frames.next().await {
            let (group, end) =
                gather(first?, &mut frames).inspect_err(|status| self.note_refused(status))?;
            if let Some(last_of_group) = group.last() {
                last = last_of_group.frame().seq;
            }
            let bytes = group
                .iter()
                .map(|frame| payload(frame.frame()) as u64)
                .sum();
            self.append(group).await?;
            if let Some(status) = end {
                self.note_refused(&status);
                return Err(status);
            }
            self.throttle(&mut pace, bytes).await;
        }
        Ok(last)
    }

    async fn append(&self, group: Vec<CheckedFrame>) -> Result<(), Status> {
        let label = self.branch.label();
        let metrics = &label.metrics;
        metrics.wal_appends.inc();
        metrics.wal_frames.inc_by(group.len() as u64);
        metrics.wal_received.inc_by(
            group
                .iter()
                .map(|frame| payload(frame.frame()) as u64)
                .sum(),
        );
        if let Some(last) = group.last() {
            let mut pending = self.pending.lock();
            if pending.len() < MEASURED_MAX {
                pending.push_back((last.frame().seq, Instant::now()));
            }
        }
        self.branch
            .framing
            .append(self.epoch, group)
            .await
            .map_err(|error| status::of_append(&error, &self.branch.name()))
            .inspect_err(|status| self.note_refused(status))
    }

    /// Counts a frame that was damaged, or whose redo is wrong.
    fn note_refused(&self, status: &Status) {
        if status.code() == Code::DataLoss {
            self.branch.label().metrics.wal_refused.inc();
            let (branch, epoch) = (self.branch.name(), self.epoch);
            tracing::error!(branch, %epoch, why = status.message(), "redo is refused");
        }
    }

    /// Slows the writer by what ingest owes.
    async fn throttle(&self, pace: &mut Pace, bytes: u64) {
        let look = || {
            let applied = self.branch.pages.applied();
            let lag = self.branch.durable().lsn().bytes_since(applied);
            let merges = self.branch.pages.merge_debt();
            let pressure = pace::pressure(lag, self.lag_soft, merges, self.merge_soft);
            (applied.0, pressure)
        };
        let (applied, pressure) = look();
        let mut wait = pace.after(self.begun.elapsed(), bytes, applied, pressure);
        while let Some(time) = wait {
            self.branch
                .label()
                .metrics
                .wal_throttled_seconds
                .inc_by(time.as_secs_f64());
            tokio::time::sleep(time).await;
            let (applied, pressure) = look();
            wait = pace.rest(self.begun.elapsed(), applied, pressure);
        }
    }
}

/// `first` and what else is there without waiting, and how the stream ended,
/// if it did with an error.
fn gather(
    first: WalFrame,
    frames: &mut Fuse<Streaming<WalFrame>>,
) -> Result<(Vec<CheckedFrame>, Option<Status>), Status> {
    let first = convert::frame(first)?;
    let mut bytes = payload(first.frame());
    let mut group = vec![first];
    while group.len() < GROUP_FRAMES && bytes < GROUP_BYTES {
        match frames.next().now_or_never() {
            // The end is found again by the next call, which waits for it.
            None | Some(None) => break,
            Some(Some(Err(status))) => return Ok((group, Some(status))),
            Some(Some(Ok(frame))) => match convert::frame(frame) {
                Ok(frame) => {
                    bytes += payload(frame.frame());
                    group.push(frame);
                }
                Err(status) => return Ok((group, Some(status))),
            },
        }
    }
    Ok((group, None))
}

fn payload(frame: &Frame) -> usize {
    match &frame.body {
        FrameBody::Redo(bytes) => bytes.len(),
        FrameBody::File(xylem_types::FileOp::Write { data, .. }) => data.len(),
        FrameBody::File(_) => 0,
    }
}

struct Acks {
    branch: Arc<OpenBranch>,
    catalog: Arc<Catalog>,
    ownership: Arc<Ownership>,
    /// Another server has the project.
    lost: CancellationToken,
    /// Above zero: what is acknowledged now might be gone.
    held: watch::Receiver<u32>,
    epoch: Epoch,
    durable: watch::Receiver<Durable>,
    applied: watch::Receiver<Lsn>,
    replaced: CancellationToken,
    /// None once the caller has closed its side.
    feeder: Option<Feeder>,
    /// The last frame taken, once the caller has closed its side.
    accepted: Option<FrameSeq>,
    first: bool,
    sent: Instant,
    /// When to say that reads see more.
    applied_due: Option<Instant>,
    applied_ended: bool,
    pending: Pending,
}

impl Acks {
    /// The next acknowledgement; none when the caller has closed its side and
    /// everything it sent is durable.
    async fn next(&mut self) -> Option<Result<WalAck, Status>> {
        match self.ready().await {
            Some(Err(status)) => Some(Err(status)),
            // A stream that ends well says that all of it is durable, as an
            // acknowledgement does. What is durable is looked up after it is
            // known that it may be told.
            ready => match (self.allowed().await, ready) {
                (Err(status), _) => Some(Err(status)),
                (Ok(()), Some(_)) => Some(self.ack()),
                (Ok(()), None) => None,
            },
        }
    }

    /// Waits until a commit may be acknowledged.
    async fn allowed(&mut self) -> Result<(), Status> {
        let mut renewals = self.ownership.changes();
        loop {
            renewals.borrow_and_update();
            let held = *self.held.borrow_and_update() > 0;
            match self.ownership.right() {
                Right::Lost => return Err(self.lost()),
                Right::Yes if !held => return Ok(()),
                Right::Yes | Right::Doubtful => {}
            }
            tokio::select! {
                biased;
                () = self.lost.cancelled() => return Err(self.lost()),
                () = self.replaced.cancelled() => return Err(self.replaced()),
                // The senders live as long as the branch and the catalogue.
                _ = self.held.changed() => {}
                _ = renewals.changed() => {}
            }
        }
    }

    fn lost(&self) -> Status {
        match self.catalog.why_lost() {
            Some(why) => status::lost(&why),
            None => status::stopping(),
        }
    }

    fn replaced(&self) -> Status {
        Status::aborted(format!(
            "a newer stream of epoch {} on branch {} has replaced this one",
            self.epoch,
            self.branch.name()
        ))
    }

    /// Waits until there is something to acknowledge; none when there never
    /// will be.
    async fn ready(&mut self) -> Option<Result<(), Status>> {
        // What is durable, not what is accepted: the caller may resend what
        // lies between, the WAL ignores it.
        if std::mem::take(&mut self.first) {
            return Some(Ok(()));
        }
        loop {
            if self
                .accepted
                .is_some_and(|accepted| self.durable.borrow().seq() >= accepted)
            {
                return None;
            }
            let due = self.applied_due;
            tokio::select! {
                biased;
                () = self.lost.cancelled() => return Some(Err(self.lost())),
                () = self.replaced.cancelled() => {
                    return Some(Err(self.replaced()));
                }
                moved = self.durable.changed() => {
                    return Some(match moved {
                        Ok(()) => Ok(()),
                        Err(_) => Err(self.wal_ended()),
                    });
                }
                ended = feeder_ended(&mut self.feeder) => match ended {
                    Ok(last) => {
                        self.feeder = None;
                        self.accepted = Some(last);
                    }
                    Err(status) => return Some(Err(status)),
                },
                () = tokio::time::sleep_until(due.unwrap_or(self.sent)), if due.is_some() => return Some(Ok(())),
                moved = self.applied.changed(), if due.is_none() && !self.applied_ended => match moved {
                    Ok(()) => self.applied_due = Some(self.sent + APPLIED_DELAY),
                    // Ingest has stopped; the WAL goes on without it.
                    Err(_) => self.applied_ended = true,
                },
            }
        }
    }

    fn ack(&mut self) -> Result<WalAck, Status> {
        let durable = *self.durable.borrow_and_update();
        let applied = *self.applied.borrow_and_update();
        if durable.epoch() != self.epoch {
            return Err(status::wrong_epoch(
                self.epoch,
                durable.epoch(),
                &self.branch.name(),
            ));
        }
        self.applied_due = None;
        self.sent = Instant::now();
        let label = self.branch.label();
        let mut pending = self.pending.lock();
        while let Some(&(_, since)) = pending.front().filter(|(seq, _)| *seq <= durable.seq()) {
            label
                .metrics
                .wal_durable_seconds
                .observe((self.sent - since).as_secs_f64());
            pending.pop_front();
        }
        Ok(WalAck {
            durable_seq: durable.seq().0,
            durable_lsn: durable.lsn().0,
            applied_lsn: applied.0,
        })
    }

    fn wal_ended(&self) -> Status {
        let error = self.branch.wal.failed().unwrap_or(WalError::Closed);
        status::of_wal(&error, &self.branch.name())
    }
}

/// How the feeder ended; never, when it is known already.
async fn feeder_ended(feeder: &mut Option<Feeder>) -> Result<FrameSeq, Status> {
    match feeder {
        None => std::future::pending().await,
        Some(Feeder(task)) => match task.await {
            Ok(ended) => ended,
            Err(error) => Err(Status::internal(format!(
                "the stream's task ended early: {error}"
            ))),
        },
    }
}
