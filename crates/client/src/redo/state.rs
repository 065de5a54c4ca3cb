//! The order of frames, and which of them are known to be durable. Pure: no
//! locks, no clock, no I/O.
//!
//! Frames are numbered 1, 2, 3, … within an epoch. A sealed frame keeps its
//! number and its bytes until it is acknowledged, however often it is sent,
//! because the server skips a number that it has already received.

use super::frame::{FileOp, RedoBuilder, file_frame};
use crate::status::{Error, Status};
use std::collections::VecDeque;
use std::sync::Arc;
use xylem_wire::Ack;

/// The largest number of redo bytes in a frame.
pub const COALESCE_MAX: usize = 1 << 20;
/// The smallest capacity of a new frame, in bytes. Small pieces of redo come in
/// groups.
const BUILDER_MIN: usize = 4 << 10;

#[derive(Debug)]
struct Entry {
    seq: u64,
    /// The LSN after the frame's redo.
    end_lsn: u64,
    message: Arc<Vec<u8>>,
    redo: bool,
}

/// Frames that are not known to be durable, in order.
#[derive(Debug)]
pub struct State {
    entries: VecDeque<Entry>,
    /// The number of entries, from the front, that were passed to the current
    /// stream.
    sent: usize,
    open: Option<RedoBuilder>,
    next_seq: u64,
    next_lsn: u64,
    bytes: usize,
    durable_seq: u64,
    durable_lsn: u64,
    /// The highest frame number ever passed to a stream.
    sent_seq: u64,
    sent_lsn: u64,
    /// `sent_seq` when the server last refused a frame as damaged.
    refused: Option<u64>,
}

impl State {
    /// The state after a first acknowledgement. The next frame is number
    /// `durable_seq + 1` at `durable_lsn`.
    pub fn new(durable_seq: u64, durable_lsn: u64) -> State {
        State {
            entries: VecDeque::new(),
            sent: 0,
            open: None,
            next_seq: durable_seq.saturating_add(1),
            next_lsn: durable_lsn,
            bytes: 0,
            durable_seq,
            durable_lsn,
            sent_seq: durable_seq,
            sent_lsn: durable_lsn,
            refused: None,
        }
    }

    /// The size in bytes of the frames that are not known to be durable.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The LSN after everything queued.
    pub fn next_lsn(&self) -> u64 {
        self.next_lsn
    }

    /// The LSN after the last frame ever passed to a stream.
    pub fn sent_lsn(&self) -> u64 {
        self.sent_lsn
    }

    /// The end of the redo that is known to be durable.
    pub fn durable_lsn(&self) -> u64 {
        self.durable_lsn
    }

    /// The number of the last frame that is known to be durable.
    pub fn durable_seq(&self) -> u64 {
        self.durable_seq
    }

    /// The number of the last frame queued, including one that still grows.
    pub fn last_seq(&self) -> u64 {
        if self.open.is_some() {
            self.next_seq
        } else {
            self.next_seq - 1
        }
    }

    /// The number of the frame that must become durable for everything queued up
    /// to `lsn` to be durable.
    pub fn seq_for(&self, lsn: u64) -> u64 {
        if lsn >= self.next_lsn {
            return self.last_seq();
        }
        let at = self.entries.partition_point(|entry| entry.end_lsn < lsn);
        match self.entries.get(at) {
            Some(entry) if lsn > self.durable_lsn => entry.seq,
            Some(_) => self.durable_seq,
            None if self.open.is_some() && lsn > self.durable_lsn => self.next_seq,
            None => self.durable_seq,
        }
    }

    /// Queues redo of at most [`COALESCE_MAX`] bytes that begins at `start_lsn`.
    /// It joins the last frame if that one was not sent yet.
    ///
    /// # Errors
    /// When `start_lsn` is not the end of the redo before it.
    pub fn push_redo(&mut self, start_lsn: u64, redo: &[u8]) -> Result<(), Error> {
        if start_lsn != self.next_lsn {
            return Err(Error::new(
                Status::Invalid,
                format!(
                    "redo from LSN {start_lsn} does not follow the redo before it, which ends at {}",
                    self.next_lsn
                ),
            ));
        }
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.len() + redo.len() > COALESCE_MAX)
        {
            self.seal();
        }
        let open = self
            .open
            .get_or_insert_with(|| RedoBuilder::new(start_lsn, redo.len().max(BUILDER_MIN)));
        open.push(redo);
        self.next_lsn = open.end_lsn();
        self.bytes += redo.len();
        Ok(())
    }

    /// Queues a side-file operation at the end of the redo so far. Returns its
    /// frame number.
    pub fn push_file(&mut self, op: &FileOp) -> u64 {
        self.seal();
        let seq = self.next_seq;
        self.next_seq += 1;
        let message = file_frame(seq, self.next_lsn, op);
        self.bytes += message.len();
        self.entries.push_back(Entry {
            seq,
            end_lsn: self.next_lsn,
            message,
            redo: false,
        });
        seq
    }

    fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            let seq = self.next_seq;
            self.next_seq += 1;
            let (redo, end_lsn) = (open.len(), open.end_lsn());
            let message = open.seal(seq);
            // Sealing added the head of the message.
            self.bytes += message.len() - redo;
            self.entries.push_back(Entry {
                seq,
                end_lsn,
                message,
                redo: true,
            });
        }
    }

    /// Takes the next frames to send, up to about `limit` bytes; none if all were
    /// sent. Also returns the size of those that hold redo, for statistics.
    pub fn take(&mut self, limit: usize) -> (Vec<Arc<Vec<u8>>>, u64) {
        if self.sent == self.entries.len() {
            self.seal();
        }
        let (mut out, mut total, mut redo) = (Vec::new(), 0, 0);
        while total < limit {
            if self.sent == self.entries.len() {
                self.seal();
            }
            let Some(entry) = self.entries.get(self.sent) else {
                break;
            };
            out.push(entry.message.clone());
            total += entry.message.len();
            if entry.redo {
                redo += entry.message.len() as u64;
            }
            self.sent += 1;
            self.sent_seq = self.sent_seq.max(entry.seq);
            self.sent_lsn = self.sent_lsn.max(entry.end_lsn);
        }
        (out, redo)
    }

    /// Whether frames wait to be sent.
    pub fn has_unsent(&self) -> bool {
        self.sent < self.entries.len() || self.open.is_some()
    }

    /// Removes the frames up to `ack.durable_seq`, which are durable. Returns
    /// whether there were any.
    ///
    /// # Errors
    /// When the acknowledgement contradicts the frames that were sent. The client
    /// and the server then disagree about the branch's history, and nothing more
    /// may be reported as durable.
    pub fn acknowledge(&mut self, ack: &Ack) -> Result<bool, Error> {
        let wrong = |what: String| Err(Error::new(Status::Error, what));
        if ack.durable_seq > self.sent_seq {
            return wrong(format!(
                "the page server acknowledged frame {}, but only frames up to {} were sent",
                ack.durable_seq, self.sent_seq
            ));
        }
        let mut news = false;
        while let Some(entry) = self.entries.front() {
            if entry.seq > ack.durable_seq {
                break;
            }
            if entry.end_lsn > ack.durable_lsn {
                return wrong(format!(
                    "the page server acknowledged frame {} at LSN {}, but that frame ends at {}",
                    ack.durable_seq, ack.durable_lsn, entry.end_lsn
                ));
            }
            self.durable_seq = entry.seq;
            self.durable_lsn = entry.end_lsn;
            self.bytes = self.bytes.saturating_sub(entry.message.len());
            self.sent = self.sent.saturating_sub(1);
            self.entries.pop_front();
            news = true;
        }
        Ok(news)
    }

    /// Notes that the server refused a frame as damaged. Returns whether to send
    /// it again. A frame is sent again once: damage on the network is then gone,
    /// and damage in this process is not. After everything sent so far is durable,
    /// another refusal allows another attempt.
    pub fn refused(&mut self) -> bool {
        let again = self.refused.is_none_or(|sent| self.durable_seq >= sent);
        if again {
            self.refused = Some(self.sent_seq);
        }
        again
    }

    /// Processes the first acknowledgement of a new stream: removes the frames
    /// that the server has, and marks all others as unsent.
    ///
    /// # Errors
    /// When the server has less than it once acknowledged, or more than was ever
    /// sent.
    pub fn resume(&mut self, ack: &Ack) -> Result<bool, Error> {
        if ack.durable_seq < self.durable_seq || ack.durable_lsn < self.durable_lsn {
            return Err(Error::new(
                Status::Error,
                format!(
                    "the page server lost acknowledged redo: it has frame {} at LSN {}, but acknowledged \
                     frame {} at LSN {}",
                    ack.durable_seq, ack.durable_lsn, self.durable_seq, self.durable_lsn
                ),
            ));
        }
        let news = self.acknowledge(ack)?;
        self.sent = 0;
        Ok(news)
    }
}
