//! A connection for redo: sends frames without blocking, and receives acknowledgements.

use crate::refusal::Closed;
use crate::socket::{Progress, Socket};
use crate::threads::lock;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xylem_wire::{Ack, Fault, Invalid, Kind, Received};

/// The largest number of frames in one call of the system.
const FRAMES_AT_ONCE: usize = 64;

/// A connection for redo.
#[derive(Debug)]
pub struct Link {
    /// Tells this connection from earlier ones.
    pub number: u64,
    socket: Socket,
    received: Mutex<Received>,
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
            received: Mutex::new(received),
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
    /// When the connection has ended.
    pub fn receive(&self, tick: Duration) -> Result<Option<Ack>, Closed> {
        self.socket.set_tick(tick)?;
        let mut received = lock(&self.received);
        let progress = self.socket.receive(&mut received)?;
        acks(progress, &mut received)
    }

    /// As [`Link::receive`], without waiting.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn receive_ready(&self) -> Result<Option<Ack>, Closed> {
        let mut received = lock(&self.received);
        let progress = self.socket.receive_ready(&mut received)?;
        acks(progress, &mut received)
    }

    /// Ends the connection.
    pub fn end(&self) {
        self.socket.end();
    }
}

fn acks(progress: Progress, received: &mut Received) -> Result<Option<Ack>, Closed> {
    if progress == Progress::Bytes(0) {
        return Err(Closed::Broken(
            "the server closed the connection".to_owned(),
        ));
    }
    let mut last = None;
    while let Some(message) = received.next()? {
        match message.header.kind {
            // Each says more than the one before.
            Kind::Ack => last = Some(Ack::decode(message.body)?),
            // What was acknowledged before the end counts, but is acknowledged again
            // by the next connection.
            Kind::Fault => return Err(Closed::Refused(Fault::decode(message.body)?.into())),
            other => return Err(Invalid::Unexpected(other).into()),
        }
    }
    Ok(last)
}
