//! StreamWAL: receives frames and sends acknowledgements.
//!
//! A task hands frames to the WAL. While the WAL's queue is full the task waits, and the
//! caller's frames wait in the connection's window. Acknowledgements are made when the
//! stream is polled, from the state of the WAL and of ingest, so that a commit waits
//! only for the WAL.

use super::call::Caller;
use super::feed::{Feed, GROUP_BYTES, GROUP_FRAMES, Pending, payload};
use super::permission::Permission;
use super::{Answers, convert, stall, status};
use crate::branch::live::OpenBranch;
use crate::metrics::StreamKind;
use crate::node::Node;
use futures::stream::Fuse;
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Status, Streaming};
use tracing::Instrument;
use xylem_proto::pageserver::{WalAck, WalFrame};
use xylem_types::{Epoch, FrameSeq, Lsn};
use xylem_wal::{CheckedFrame, Durable, WalError, Writer};

/// The delay of an acknowledgement that reports only a new applied LSN.
const APPLIED_DELAY: Duration = Duration::from_millis(10);

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
    let pending = Arc::<Pending>::default();
    let opened = node.opened().ok_or_else(status::stopping)?;
    let permission = Permission::take(opened, Arc::clone(&branch), epoch);
    let feed = Feed::new(node, Arc::clone(&branch), epoch, Arc::clone(&pending));
    let acks = Acks {
        permission,
        durable: branch.wal.durable(),
        applied: branch.pages.watch_applied(),
        feeder: Some(Feeder(tokio::spawn(
            run(feed, frames).instrument(branch.span()),
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

/// Feeds all frames. Returns the number of the last one, once the caller has closed its
/// side.
async fn run(mut feed: Feed, frames: Streaming<WalFrame>) -> Result<FrameSeq, Status> {
    let mut frames = frames.fuse();
    let mut last = FrameSeq(0);
    while let Some(first) = frames.next().await {
        let (group, end) =
            gather(first?, &mut frames).inspect_err(|status| feed.note_refused(status))?;
        if let Some(last_of_group) = group.last() {
            last = last_of_group.frame().seq;
        }
        let bytes = feed.append(group, Writer::Wake).await?;
        if let Some(status) = end {
            feed.note_refused(&status);
            return Err(status);
        }
        feed.throttle(bytes).await;
    }
    Ok(last)
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

struct Acks {
    branch: Arc<OpenBranch>,
    permission: Permission,
    epoch: Epoch,
    durable: watch::Receiver<Durable>,
    applied: watch::Receiver<Lsn>,
    /// `None` once the caller has closed its side.
    feeder: Option<Feeder>,
    /// The last frame, once the caller has closed its side.
    accepted: Option<FrameSeq>,
    first: bool,
    sent: Instant,
    /// When to report a new applied LSN.
    applied_due: Option<Instant>,
    applied_ended: bool,
    pending: Arc<Pending>,
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
            ready => match (self.permission.wait().await, ready) {
                (Err(status), _) => Some(Err(status)),
                (Ok(()), Some(_)) => Some(self.ack()),
                (Ok(()), None) => None,
            },
        }
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
                ended = self.permission.ended() => return Some(Err(ended)),
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
        self.pending.end(durable.seq(), &self.branch, self.sent);
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
