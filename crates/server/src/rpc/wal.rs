//! StreamWAL: receives frames and sends acknowledgements.
//!
//! A task hands frames to the WAL. While the WAL's queue is full the task waits, and the
//! caller's frames wait in the connection's window. Acknowledgements are made when the
//! stream is polled, from the state of the WAL and of ingest, so that a commit waits
//! only for the WAL.

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

/// The largest number of frames in a group. A group contains only frames that have
/// already arrived.
const GROUP_FRAMES: usize = 256;
/// The largest payload of a group, in bytes.
const GROUP_BYTES: usize = 1 << 20;
/// The delay of an acknowledgement that reports only a new applied LSN.
const APPLIED_DELAY: Duration = Duration::from_millis(10);
/// The merge debt at which writers are slowed, in flushed layers.
const MERGE_LAYERS_SOFT: u64 = 4;
/// Limit of groups whose time to durability is measured at once.
const MEASURED_MAX: usize = 1024;

/// When groups were handed to the WAL, by the number of their last frame.
type Pending = Arc<Mutex<VecDeque<(FrameSeq, Instant)>>>;

/// Starts the call StreamWAL.
pub(super) fn stream_wal(
    node: &Node,
    caller: Caller,
    frames: Streaming<WalFrame>,
) -> Result<Answers<WalAck>, Status> {
    let epoch = caller.required_epoch()?;
    caller.check_epoch()?;
    let branch = caller.branch;
    // This also refuses an epoch that was sealed but never begun.
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

/// The task that hands frames to the WAL; it is aborted with its stream.
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
    /// Returns the number of the last frame, once the caller has closed its side.
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

    /// Counts and logs a frame that is damaged or whose redo is invalid.
    fn note_refused(&self, status: &Status) {
        if status.code() == Code::DataLoss {
            self.branch.label().metrics.wal_refused.inc();
            let (branch, epoch) = (self.branch.name(), self.epoch);
            tracing::error!(branch, %epoch, why = status.message(), "frame rejected");
        }
    }

    /// Delays the writer in proportion to debt.
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

/// Groups `first` with the frames that have already arrived. Also returns the error with
/// which the stream ended, if any.
fn gather(
    first: WalFrame,
    frames: &mut Fuse<Streaming<WalFrame>>,
) -> Result<(Vec<CheckedFrame>, Option<Status>), Status> {
    let first = convert::frame(first)?;
    let mut bytes = payload(first.frame());
    let mut group = vec![first];
    while group.len() < GROUP_FRAMES && bytes < GROUP_BYTES {
        match frames.next().now_or_never() {
            // The next call sees the end again.
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
    /// Cancelled when another server owns the project.
    lost: CancellationToken,
    /// Above zero: commits must wait; see [`OpenBranch::hold`].
    held: watch::Receiver<u32>,
    epoch: Epoch,
    durable: watch::Receiver<Durable>,
    applied: watch::Receiver<Lsn>,
    replaced: CancellationToken,
    /// `None` once the caller has closed its side.
    feeder: Option<Feeder>,
    /// The last frame, once the caller has closed its side.
    accepted: Option<FrameSeq>,
    first: bool,
    sent: Instant,
    /// When to report a new applied LSN.
    applied_due: Option<Instant>,
    applied_ended: bool,
    pending: Pending,
}

impl Acks {
    /// The next acknowledgement; `None` when the caller has closed its side and
    /// everything that it sent is durable.
    async fn next(&mut self) -> Option<Result<WalAck, Status>> {
        match self.ready().await {
            Some(Err(status)) => Some(Err(status)),
            // A stream that ends without an error acknowledges all of its frames, so its
            // end also needs permission. The durable LSN is read after permission is
            // given.
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

    /// Waits until there is something to acknowledge; `None` when everything is
    /// acknowledged and the caller has closed its side.
    async fn ready(&mut self) -> Option<Result<(), Status>> {
        // The first acknowledgement reports what is durable, not what is accepted. The
        // caller may resend the frames in between; the WAL ignores them.
        if std::mem::take(&mut self.first) {
            return Some(Ok(()));
        }
        loop {
            if self
                .accepted
                .is_some_and(|accepted| self.durable.borrow().seq() >= accepted)
            {
                // An answer tells it first, if none has: the caller's frames became
                // durable while its side was found closed.
                return match self.durable.has_changed() {
                    Ok(true) => Some(Ok(())),
                    Ok(false) | Err(_) => None,
                };
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
                    // Ingest has stopped; the WAL continues without it.
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

/// The result of the feeder. Never completes if the feeder has ended before.
async fn feeder_ended(feeder: &mut Option<Feeder>) -> Result<FrameSeq, Status> {
    match feeder {
        None => std::future::pending().await,
        Some(Feeder(task)) => match task.await {
            Ok(ended) => ended,
            Err(error) => Err(Status::internal(format!(
                "the stream's task failed: {error}"
            ))),
        },
    }
}
