//! The destination of side-file operations: memory before `xylem_init`, the redo
//! stream after it, none for a reader.

use super::fds::Files;
use crate::redo::{FileOp, Queue};
use crate::shared::{Shared, remember};
use crate::status::{Error, Status};

use std::ffi::c_int;
use std::sync::Arc;

/// The largest size of the operations kept before `xylem_init`, in bytes.
const EARLY_MAX: usize = 64 << 20;

/// The state of side-file operations, under the mutex of [`super::ops`].
#[derive(Debug)]
pub struct Ops {
    /// The open side files.
    pub files: Files,
    sink: Sink,
    /// The frame number of the last operation; 0 for none.
    last_seq: u64,
}

#[derive(Debug)]
enum Sink {
    Early {
        ops: Vec<FileOp>,
        bytes: usize,
    },
    Writer {
        queue: Arc<Queue>,
        shared: Arc<Shared>,
    },
    Reader,
}

impl Sink {
    const fn early() -> Sink {
        Sink::Early {
            ops: Vec::new(),
            bytes: 0,
        }
    }
}

/// A wait for the durability of an operation. The caller releases the mutex before
/// it waits.
#[must_use]
pub struct Ticket(Option<(u64, Arc<Queue>, Arc<Shared>)>);

impl Ticket {
    /// Nothing to wait for.
    pub const NONE: Ticket = Ticket(None);

    /// Waits until the operation is durable.
    ///
    /// # Errors
    /// The `errno` of the server's call if the operation does not become durable.
    pub fn wait(self) -> Result<(), c_int> {
        match self.0 {
            None => Ok(()),
            Some((seq, queue, shared)) => queue.wait_seq(seq, &shared).map_err(|e| errno_of(&e)),
        }
    }
}

fn errno_of(error: &Error) -> c_int {
    remember(error);
    if error.status == Status::Fenced {
        libc::EROFS
    } else {
        libc::EIO
    }
}

impl Ops {
    /// No open files and no kept operations.
    pub fn new() -> Ops {
        Ops {
            files: Files::default(),
            sink: Sink::early(),
            last_seq: 0,
        }
    }

    /// See [`super::attach`].
    pub fn attach(&mut self, queue: Arc<Queue>, shared: Arc<Shared>) -> Result<(), Error> {
        let early = std::mem::replace(&mut self.sink, Sink::early());
        if let Sink::Early { ops, .. } = early {
            for op in &ops {
                self.last_seq = queue.push_file(op, &shared)?;
            }
        }
        self.files.set_all_seqs(self.last_seq);
        self.sink = Sink::Writer { queue, shared };
        Ok(())
    }

    /// See [`super::attach_reader`].
    pub fn attach_reader(&mut self) {
        self.sink = Sink::Reader;
    }

    /// See [`super::detach`].
    pub fn detach(&mut self) {
        self.sink = Sink::early();
        self.last_seq = 0;
        // Their numbers belong to a stream that has ended.
        self.files.set_all_seqs(0);
    }

    /// Queues `op`, which was just performed locally. Returns its frame number, or
    /// 0 if it has none.
    ///
    /// # Errors
    /// The `errno` of the server's call.
    pub fn push(&mut self, op: FileOp) -> Result<u64, c_int> {
        // The page server would refuse the frame, and all frames after it.
        if !op.has_short_paths() {
            return Err(libc::ENAMETOOLONG);
        }
        match &mut self.sink {
            Sink::Reader => Ok(0),
            Sink::Early { ops, bytes } => {
                let cost = op.cost();
                if bytes.saturating_add(cost) > EARLY_MAX {
                    return Err(libc::EIO);
                }
                *bytes += cost;
                ops.push(op);
                Ok(0)
            }
            Sink::Writer { queue, shared } => {
                let result = queue.push_file(&op, shared);
                self.last_seq = result.map_err(|e| errno_of(&e))?;
                Ok(self.last_seq)
            }
        }
    }

    /// Sends what waits to be sent.
    pub fn send(&self) {
        if let Sink::Writer { queue, shared } = &self.sink {
            queue.send(shared);
        }
    }

    /// The wait for operation `seq`.
    pub fn ticket(&self, seq: u64) -> Ticket {
        match &self.sink {
            Sink::Writer { queue, shared } if seq != 0 => {
                Ticket(Some((seq, queue.clone(), shared.clone())))
            }
            _ => Ticket::NONE,
        }
    }

    /// The wait for all operations so far.
    pub fn ticket_for_all(&self) -> Ticket {
        self.ticket(self.last_seq)
    }

    /// Whether operations reach the WAL, so that the local disk need not be synced.
    pub fn is_connected(&self) -> bool {
        matches!(self.sink, Sink::Writer { .. })
    }
}
