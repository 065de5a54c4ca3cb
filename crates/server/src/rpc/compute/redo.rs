//! A connection for redo: the frames of one compute, in order.

use super::super::feed::{Feed, GROUP_BYTES, GROUP_FRAMES, Pending, payload};
use super::super::permission::Permission;
use super::super::{convert, status};
use super::acks::Acks;
use super::connection::{Connection, End, Ender, receive, refuse, send_all};
use crate::metrics::StreamKind;
use crate::node::StreamTicket;
use std::sync::Arc;
use tonic::Status;
use xylem_types::FrameSeq;
use xylem_wal::{CheckedFrame, Writer};
use xylem_wire::{FrameHead, Invalid, Kind, Received, welcome};

/// Serves the connection until it ends.
pub(super) fn serve(mut connection: Connection) {
    let branch = Arc::clone(&connection.caller.branch);
    let _span = branch.span().entered();
    let ticket = connection.node.stream(StreamKind::wal, &branch);
    let end = match begin(&mut connection, &ticket) {
        Ok((mut serving, _task)) => {
            let end = serving.run(&connection);
            match serving.acks.why() {
                // What is sent now would pass for the rest of an acknowledgement.
                _ if !serving.acks.finish() => return,
                Some(why) => End::Refused(why.clone()),
                None => end,
            }
        }
        Err(end) => end,
    };
    match end {
        _ if ticket.end.is_cancelled() => refuse(&connection.channel, &connection.why_ended()),
        End::Refused(status) => refuse(&connection.channel, &status),
        End::Gone => {}
    }
}

struct Serving {
    feed: Feed,
    acks: Arc<Acks>,
    received: Received,
}

/// Takes the branch's line of redo over, and welcomes the compute. The welcome says what
/// is durable, not what is accepted. The compute may send the frames in between again;
/// the WAL ignores them.
fn begin(connection: &mut Connection, ticket: &StreamTicket) -> Result<(Serving, Ender), End> {
    let over = ticket.end.child_token();
    let node = &connection.node;
    let epoch = connection.caller.required_epoch()?;
    let branch = Arc::clone(&connection.caller.branch);
    // This also refuses an epoch that was sealed but never begun.
    branch
        .wal
        .accepted(epoch)
        .map_err(|error| status::of_wal(&error, &branch.name()))?;
    let opened = node.opened().ok_or_else(status::stopping)?;
    let mut permission = Permission::take(opened, Arc::clone(&branch), epoch);
    connection.runtime.block_on(async {
        let ready = async {
            branch.head_start().await;
            permission.wait().await
        };
        tokio::select! {
            biased;
            () = over.cancelled() => Err(connection.why_ended()),
            given = ready => given,
        }
    })?;
    let pending = Arc::<Pending>::default();
    let acks = Acks::new(
        (&branch, epoch),
        &connection.channel,
        permission,
        (Arc::clone(&pending), ticket.stall),
        over,
    );
    let acks = Arc::new(acks);
    let task = Ender::of(connection.runtime.spawn(Arc::clone(&acks).run()));
    send_all(&connection.channel, &welcome(&acks.standing()?))?;
    let serving = Serving {
        feed: Feed::new(node, branch, epoch, pending),
        acks,
        received: std::mem::take(&mut connection.received),
    };
    Ok((serving, task))
}

impl Serving {
    /// Feeds frames until the connection ends, and returns why it ended.
    fn run(&mut self, connection: &Connection) -> End {
        loop {
            if let Err(end) = self.step(connection) {
                return end;
            }
        }
    }

    /// Makes the frames that have arrived durable, then waits for more.
    fn step(&mut self, connection: &Connection) -> Result<(), End> {
        loop {
            let (group, wrong) = self.gather();
            if !group.is_empty() {
                self.append(group, connection)?;
            }
            match wrong {
                None => break,
                Some(Wrong::Full) => {}
                Some(Wrong::Frame(status)) => {
                    self.feed.note_refused(&status);
                    return Err(status.into());
                }
            }
        }
        receive(&connection.channel, &mut self.received)
    }

    fn append(&mut self, group: Vec<CheckedFrame>, connection: &Connection) -> Result<(), End> {
        let last = group.last().map_or(FrameSeq(0), |last| last.frame().seq);
        let appended = connection.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.acks.over() => Err(connection.why_ended()),
                appended = self.feed.append(group, Writer::Caller) => appended,
            }
        });
        // Also after a failure: the frames before a wrong one are accepted, and nobody
        // else writes them.
        connection.caller.branch.wal.write_queued();
        let bytes = appended?;
        self.acks.accepted(last)?;
        connection.runtime.block_on(async {
            tokio::select! {
                () = self.feed.throttle(bytes) => {}
                () = self.acks.over() => {}
            }
        });
        Ok(())
    }

    /// The frames that have arrived, up to the size of a group.
    fn gather(&mut self) -> (Vec<CheckedFrame>, Option<Wrong>) {
        let mut group = Vec::new();
        let mut bytes = 0;
        loop {
            if group.len() == GROUP_FRAMES || bytes >= GROUP_BYTES {
                return (group, Some(Wrong::Full));
            }
            match next(&mut self.received) {
                Ok(Some(frame)) => {
                    bytes += payload(frame.frame());
                    group.push(frame);
                }
                Ok(None) => return (group, None),
                Err(status) => return (group, Some(Wrong::Frame(status))),
            }
        }
    }
}

/// Why a group ends before the frames that have arrived do.
enum Wrong {
    /// It is large enough.
    Full,
    /// This is wrong with the next frame.
    Frame(Status),
}

fn next(received: &mut Received) -> Result<Option<CheckedFrame>, Status> {
    let invalid = |invalid: Invalid| Status::invalid_argument(invalid.to_string());
    let Some(message) = received.next().map_err(invalid)? else {
        return Ok(None);
    };
    if message.header.kind != Kind::Frame {
        return Err(invalid(Invalid::Unexpected(message.header.kind)));
    }
    let (head, payload) = FrameHead::decode(message.body).map_err(invalid)?;
    convert::compute_frame(message.header.id, &head, payload).map(Some)
}
