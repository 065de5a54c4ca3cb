//! A connection for redo: sends frames without blocking, and receives acknowledgements.

use crate::refusal::Closed;
use crate::socket::{Progress, Socket};
use crate::threads::lock;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xylem_wire::{Ack, Fault, Invalid, Kind, Received};

/// The largest number of frames in one call of the system.
const FRAMES_AT_ONCE: usize = 64;
/// The largest number of reads while nobody waits.
const READS_AT_ONCE: usize = 64;

/// A connection for redo.
#[derive(Debug)]
pub struct Link {
    /// Tells this connection from earlier ones.
    pub number: u64,
    socket: Socket,
    incoming: Mutex<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    received: Received,
    /// Why the connection has ended, once that was received.
    closed: Option<Closed>,
}

/// Frames that a link could not send yet.
#[derive(Debug, Default)]
pub struct Unsent {
    /// The link that took the frames.
    pub link: u64,
    frames: VecDeque<Arc<Vec<u8>>>,
    /// Bytes of the first frame that were sent.
    sent: usize,
}

impl Unsent {
    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Forgets what another link than `link` left, and takes its place.
    pub fn belongs_to(&mut self, link: u64) {
        if self.link != link {
            *self = Unsent {
                link,
                ..Unsent::default()
            };
        }
    }

    /// Adds frames.
    pub fn add(&mut self, frames: Vec<Arc<Vec<u8>>>) {
        self.frames.extend(frames);
    }

    fn remove(&mut self, mut count: usize) {
        while let Some(first) = self.frames.front() {
            let left = first.len() - self.sent;
            if count < left {
                self.sent += count;
                return;
            }
            count -= left;
            self.sent = 0;
            self.frames.pop_front();
        }
    }
}

impl Link {
    /// A link on a connection that the server has welcomed.
    pub fn new(number: u64, socket: Socket, received: Received) -> Link {
        Link {
            number,
            socket,
            incoming: Mutex::new(Incoming {
                received,
                closed: None,
            }),
        }
    }

    /// Sends as much of `unsent` as the system has room for. Returns whether all was
    /// sent.
    ///
    /// # Errors
    /// When the connection has broken.
    pub fn send(&self, unsent: &mut Unsent) -> Result<bool, Closed> {
        while !unsent.frames.is_empty() {
            let mut skip = unsent.sent;
            let parts: Vec<IoSlice<'_>> = unsent
                .frames
                .iter()
                .take(FRAMES_AT_ONCE)
                .map(|frame| IoSlice::new(&frame[std::mem::take(&mut skip)..]))
                .collect();
            match self.socket.send_ready(&parts)? {
                Progress::Bytes(count) => unsent.remove(count),
                Progress::NotYet => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Waits until there is room to send, for at most `limit`.
    pub fn wait_for_room(&self, limit: Duration) {
        self.socket.wait_for_room(limit);
    }

    /// Waits for acknowledgements, for at most `tick`, and returns the last one.
    ///
    /// # Errors
    /// When the connection has ended, and no acknowledgement came before its end.
    pub fn receive(&self, tick: Duration) -> Result<Option<Ack>, Closed> {
        self.socket.set_tick(tick)?;
        let mut incoming = lock(&self.incoming);
        let mut last = None;
        if incoming.closed.is_none() {
            let progress = self.socket.receive(&mut incoming.received);
            last = incoming.read(progress);
        }
        incoming.outcome(last)
    }

    /// As [`Link::receive`], without waiting.
    ///
    /// # Errors
    /// Those of [`Link::receive`].
    pub fn receive_ready(&self) -> Result<Option<Ack>, Closed> {
        let mut incoming = lock(&self.incoming);
        let last = incoming.drain(&self.socket);
        incoming.outcome(last)
    }

    /// Ends the connection, because sending failed for the reason `why`. Returns the
    /// last acknowledgement, and the reason: the server may have told it.
    pub fn last_words(&self, why: Closed) -> (Option<Ack>, Closed) {
        // A thread that receives returns.
        self.socket.end();
        let mut incoming = lock(&self.incoming);
        let last = incoming.drain(&self.socket);
        match &incoming.closed {
            Some(said @ Closed::Refused(_)) => (last, said.clone()),
            _ => (last, why),
        }
    }

    /// Ends the connection.
    pub fn end(&self) {
        self.socket.end();
    }
}

impl Incoming {
    /// Reads what has arrived; returns the last acknowledgement.
    fn drain(&mut self, socket: &Socket) -> Option<Ack> {
        let mut last = None;
        for _ in 0..READS_AT_ONCE {
            if self.closed.is_some() {
                break;
            }
            let progress = socket.receive_ready(&mut self.received);
            if matches!(progress, Ok(Progress::NotYet)) {
                break;
            }
            last = self.read(progress).or(last);
        }
        last
    }

    /// Reads the messages that have arrived. Each acknowledgement says more than the one
    /// before.
    fn read(&mut self, progress: io::Result<Progress>) -> Option<Ack> {
        let mut last = None;
        self.closed = match progress {
            Ok(Progress::Bytes(0)) => Some(Closed::Broken(
                "the server closed the connection".to_owned(),
            )),
            Ok(_) => self.messages(&mut last).err(),
            Err(e) => Some(e.into()),
        };
        last
    }

    fn messages(&mut self, last: &mut Option<Ack>) -> Result<(), Closed> {
        while let Some(message) = self.received.next()? {
            match message.header.kind {
                Kind::Ack => *last = Some(Ack::decode(message.body)?),
                Kind::Fault => return Err(Closed::Refused(Fault::decode(message.body)?.into())),
                other => return Err(Invalid::Unexpected(other).into()),
            }
        }
        Ok(())
    }

    /// What was acknowledged before the end counts first. The next call reports the end.
    fn outcome(&self, last: Option<Ack>) -> Result<Option<Ack>, Closed> {
        match (last, &self.closed) {
            (None, Some(closed)) => Err(closed.clone()),
            (last, _) => Ok(last),
        }
    }
}
