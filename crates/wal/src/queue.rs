//! The queue of entries that are accepted and not yet durable, the same in
//! every backend.

use crate::entry::ENTRY_HEADER_BYTES;
use crate::entry::payload::Payload;
use crate::line::{Line, Taken};
use crate::memory::{Memory, Part};
use crate::{CheckedFrame, WalError};
use std::collections::VecDeque;
use xylem_types::{Epoch, Frame, FrameSeq, Lsn};

/// An entry on its way to the store.
#[derive(Debug)]
pub(crate) struct Queued {
    pub kind: u8,
    pub epoch: Epoch,
    pub seq: FrameSeq,
    /// The fields of the header.
    pub lsn: Lsn,
    /// The end of the redo after it.
    pub lsn_after: Lsn,
    pub payload: Payload,
    pub payload_crc: u32,
}

impl Queued {
    /// A seal or begin.
    pub fn mark(kind: u8, epoch: Epoch, lsn: Lsn) -> Queued {
        let payload = Payload::default();
        let payload_crc = payload.crc();
        Queued {
            kind,
            epoch,
            seq: FrameSeq(0),
            lsn,
            lsn_after: lsn,
            payload,
            payload_crc,
        }
    }

    /// A frame.
    pub fn frame(epoch: Epoch, checked: CheckedFrame) -> (Frame, Queued) {
        let CheckedFrame {
            frame,
            kind,
            payload,
            payload_crc,
        } = checked;
        let queued = Queued {
            kind,
            epoch,
            seq: frame.seq,
            lsn: frame.start,
            lsn_after: frame.end(),
            payload,
            payload_crc,
        };
        (frame, queued)
    }

    /// Bytes that the entry takes in the store; memory counts the same.
    pub fn bytes(&self) -> u64 {
        ENTRY_HEADER_BYTES as u64 + self.payload.length()
    }
}

/// Frames with their encodings.
pub(crate) type Encoded = VecDeque<(Frame, Queued)>;

/// Encodes frames of `epoch`, whose payloads may have `limit` bytes.
pub(crate) fn encode(
    epoch: Epoch,
    frames: Vec<CheckedFrame>,
    limit: u64,
) -> Result<Encoded, WalError> {
    let mut out = VecDeque::with_capacity(frames.len());
    for checked in frames {
        let bytes = checked.payload_bytes();
        if bytes > limit {
            return Err(WalError::TooLarge {
                seq: checked.frame.seq,
                bytes,
                limit,
            });
        }
        out.push_back(Queued::frame(epoch, checked));
    }
    Ok(out)
}

/// The entries that are accepted, and the line they make.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Where the line of accepted entries stands.
    pub line: Line,
    /// Accepted, and not yet taken by the writer.
    pub entries: VecDeque<Queued>,
    /// Bytes accepted and not yet durable.
    pub bytes: u64,
    /// The same of the budget that all WALs share.
    part: Part,
    /// Bytes accepted so far, on top of the backend's first value.
    pub accepted: u64,
}

impl Queue {
    /// An empty queue behind entries that make `line`. The bytes that it holds
    /// count in `memory`.
    pub fn new(line: Line, accepted: u64, memory: &Memory) -> Queue {
        Queue {
            line,
            entries: VecDeque::new(),
            bytes: 0,
            part: memory.part(),
            accepted,
        }
    }

    /// Adds an entry that the line has taken.
    pub fn push(&mut self, queued: Queued) {
        self.accepted += queued.bytes();
        self.bytes += queued.bytes();
        self.part.set(self.bytes);
        self.entries.push_back(queued);
    }

    /// Notes that this many bytes of accepted entries are durable.
    pub fn written(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.part.set(self.bytes);
    }

    /// Whether all of `frames` would be accepted if there were room.
    pub fn check(&self, epoch: Epoch, frames: &Encoded) -> Result<(), WalError> {
        // A group is accepted as a whole: a wrong frame late in it changes
        // nothing.
        let mut line = self.line;
        for (frame, _) in frames {
            line.frame(epoch, frame)?;
        }
        line.owns(epoch)
    }

    /// Moves frames from the front of `frames` into the queue while it has
    /// less than `limit` bytes. True when none is left.
    pub fn accept(
        &mut self,
        limit: u64,
        epoch: Epoch,
        frames: &mut Encoded,
    ) -> Result<bool, WalError> {
        self.line.owns(epoch)?;
        while let Some((frame, queued)) = frames.pop_front() {
            // A single entry is always taken, so that no WAL waits for another.
            let bytes = queued.bytes();
            let fits = self.bytes + bytes <= limit && self.part.has_room(bytes);
            let room = self.bytes == 0 || fits;
            if !room && frame.seq > self.line.seq {
                frames.push_front((frame, queued));
                return Ok(false);
            }
            if self.line.frame(epoch, &frame)? == Taken::Next {
                self.push(queued);
            }
        }
        Ok(true)
    }

    /// Forgets what is not yet taken by the writer.
    pub fn clear(&mut self) {
        self.entries = VecDeque::new();
        self.written(self.bytes);
    }
}
