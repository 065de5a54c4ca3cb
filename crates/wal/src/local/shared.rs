//! State that the callers, the writer, the preparer and the readers of one WAL
//! share.

use super::config::LocalWalConfig;
use super::recover::Recovered;
use super::segments::{Name, NextSegment, Segment, Segments};
use super::writer::Writer;
use crate::disk::Disk;
use crate::failure::Failure;
use crate::queue::Queue;
use crate::{Durable, Position, WalError};
use parking_lot::{Condvar, Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, watch};

/// Whether the WAL accepts entries.
#[derive(Clone, Debug)]
pub(crate) enum Health {
    /// It does.
    Running,
    /// It waits for room for the next segment. Nothing is lost.
    Stalled(Failure),
    /// It has failed until it is opened again.
    Failed(Failure),
    /// It has ended.
    Closed,
}

impl Health {
    /// The error of a WAL that does not go on now.
    pub fn check(&self) -> Result<(), WalError> {
        match self {
            Health::Running => Ok(()),
            Health::Stalled(f) | Health::Failed(f) => Err(f.error()),
            Health::Closed => Err(WalError::Closed),
        }
    }
}

/// Whether the WAL is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    No,
    /// After what is queued.
    Drain,
    /// At once.
    Abandon,
}

/// The next segment.
#[derive(Debug)]
pub(crate) enum Next {
    /// It is not being made.
    None,
    /// A thread is at it.
    Coming,
    /// Here it is.
    Ready(NextSegment),
}

/// State that changes with every append and every write.
#[derive(Debug)]
pub(crate) struct State {
    /// Entries that are accepted; `accepted` is the place after them.
    pub queue: Queue,
    /// How far the WAL is durable.
    pub durable: Durable,
    pub health: Health,
    pub closing: Closing,
    pub next: Next,
    /// The writer waits for the next segment.
    pub next_wanted: bool,
    /// A batch waits for room on the disk.
    pub room_wanted: bool,
    /// Why the next segment was not made at the last try.
    pub next_failure: Option<Failure>,
    /// The writer has ended and the directory is free.
    pub ended: bool,
}

impl State {
    /// Refuses when the WAL does not go on.
    pub fn check_open(&self) -> Result<(), WalError> {
        self.health.check()?;
        if self.closing == Closing::No {
            Ok(())
        } else {
            Err(WalError::Closed)
        }
    }

    /// The writer needs a segment and none can be made: callers that wait are
    /// told.
    pub fn stall(&mut self) {
        if self.next_wanted
            && let Some(failure) = &self.next_failure
            && matches!(self.health, Health::Running)
        {
            self.health = Health::Stalled(failure.clone());
        }
    }
}

/// Files that wait to become segments.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    pub files: Vec<(Name, u64)>,
}

impl Spares {
    /// Takes one of `bytes` bytes.
    pub fn take(&mut self, bytes: u64) -> Option<Name> {
        let at = self.files.iter().position(|(_, b)| *b == bytes)?;
        Some(self.files.swap_remove(at).0)
    }
}

/// The shared state of one WAL.
pub(crate) struct Shared {
    pub disk: Arc<dyn Disk>,
    pub config: LocalWalConfig,
    pub state: Mutex<State>,
    /// Its holder writes. Locked before `state`. `None` once the WAL has ended.
    pub pen: Mutex<Option<Writer>>,
    /// Wakes the writer: an entry is queued, the next segment is ready, or it
    /// is time to end.
    pub work: Condvar,
    /// Wakes the preparer: there may be room, or it is time to end.
    pub retry: Condvar,
    /// Wakes everyone else: more is durable, the queue has room, or the WAL is
    /// fenced, stalled, failed or closed.
    pub changed: Notify,
    /// Appends take turns.
    pub turn: tokio::sync::Mutex<()>,
    pub durable: watch::Receiver<Durable>,
    /// The position of `durable`, never behind the one that callers have seen. A
    /// caller that holds the watch's value may ask for something that needs it,
    /// while the writer waits to replace the value: looking at the watch would
    /// wait behind the writer, forever.
    position: AtomicU64,
    pub segments: RwLock<Segments>,
    /// Held while files are made, renamed or removed.
    pub spares: Mutex<Spares>,
    /// Bytes of all files.
    pub stored: AtomicU64,
}

impl Shared {
    pub fn new(
        disk: Arc<dyn Disk>,
        config: LocalWalConfig,
        recovered: &Recovered,
        durable: watch::Receiver<Durable>,
    ) -> Shared {
        let state = State {
            queue: Queue::new(recovered.line, recovered.durable.position.0, &config.memory),
            durable: recovered.durable,
            health: Health::Running,
            closing: Closing::No,
            next: recovered.next.clone().map_or(Next::None, Next::Ready),
            next_wanted: false,
            room_wanted: false,
            next_failure: None,
            ended: false,
        };
        Shared {
            disk,
            config,
            state: Mutex::new(state),
            pen: Mutex::new(None),
            work: Condvar::new(),
            retry: Condvar::new(),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            durable,
            position: AtomicU64::new(recovered.durable.position.0),
            segments: RwLock::new(Segments {
                rows: recovered.segments.clone(),
            }),
            spares: Mutex::new(Spares {
                files: recovered.spares.clone(),
            }),
            stored: AtomicU64::new(recovered.stored),
        }
    }

    /// Tells writer and preparer to end. [`Closing::Abandon`] wins over
    /// [`Closing::Drain`].
    pub fn stop(&self, how: Closing) {
        let mut state = self.state.lock();
        if state.closing != Closing::Abandon {
            state.closing = how;
        }
        drop(state);
        self.work.notify_all();
        self.retry.notify_all();
        self.changed.notify_waiters();
    }

    /// Ends all writing until the WAL is opened again.
    pub fn fail(&self, failure: Failure) {
        let mut state = self.state.lock();
        if !matches!(state.health, Health::Failed(_) | Health::Closed) {
            tracing::error!(
                dir = %self.disk.path().display(),
                error = %failure.source,
                "the WAL has failed and accepts nothing until it is opened again: {}",
                failure.context
            );
            state.health = Health::Failed(failure);
        }
        drop(state);
        self.work.notify_all();
        self.retry.notify_all();
        self.changed.notify_waiters();
    }

    /// A file's path, for messages.
    pub fn path(&self, name: Name) -> String {
        self.disk
            .path()
            .join(name.to_string())
            .display()
            .to_string()
    }

    /// See [`crate::Wal::trim`].
    pub fn trim(&self, before: Position) -> Result<(), WalError> {
        // Holding this lock keeps the writer from ending, so the directory
        // stays ours.
        let mut spares = self.spares.lock();
        match &self.state.lock().health {
            // A full disk is the best reason to trim.
            Health::Running | Health::Stalled(_) => {}
            ended => return ended.check(),
        }
        let durable = self.durable_now();
        if before > durable {
            return Err(WalError::NoSuchPosition(before));
        }
        let mut trimmed = false;
        while let Some(segment) = self.take_oldest(before, durable) {
            self.let_go(&mut spares, segment)?;
            trimmed = true;
        }
        drop(spares);
        if trimmed {
            self.retry.notify_all();
        }
        Ok(())
    }

    /// Publishes how far the WAL is durable. Not called under a lock that a caller
    /// may need while it holds the watch's value.
    pub fn tell(&self, sender: &watch::Sender<Durable>, durable: Durable) {
        self.position.store(durable.position.0, Ordering::SeqCst);
        sender.send_replace(durable);
    }

    /// The place after the last durable entry; a moment ahead of `state`.
    pub fn durable_now(&self) -> Position {
        Position(self.position.load(Ordering::SeqCst))
    }

    /// Takes the oldest segment off the table if all of it is before `before`
    /// and the one after it holds a durable entry: one segment must remain,
    /// because it records the newest epoch.
    fn take_oldest(&self, before: Position, durable: Position) -> Option<Segment> {
        let mut segments = self.segments.write();
        match segments.rows.as_slice() {
            [_, second, ..] if second.first <= before && second.first < durable => {
                Some(segments.rows.remove(0))
            }
            _ => None,
        }
    }

    /// Removes a segment's file, or keeps it as a spare. Durable on return:
    /// were two removals durable in the wrong order, a crash between them
    /// would look like a lost segment.
    fn let_go(&self, spares: &mut Spares, segment: Segment) -> Result<(), WalError> {
        let name = Name::Segment(segment.number);
        let spare = Name::Spare(segment.number);
        let keep = segment.bytes == self.config.segment_bytes
            && spares.files.len() < self.config.spare_segments;
        let done = if keep {
            self.disk.rename(&name.to_string(), &spare.to_string())
        } else {
            self.disk.remove(&name.to_string())
        };
        if let Err(source) = done {
            // The file is still there.
            self.segments.write().rows.insert(0, segment);
            return Err(WalError::Io {
                context: format!("trim {}", self.path(name)),
                source,
            });
        }
        if let Err(source) = self.disk.sync_dir() {
            let failure = Failure::new(
                format!("sync the directory after trimming {}", self.path(name)),
                source,
            );
            let error = failure.error();
            self.fail(failure);
            return Err(error);
        }
        if keep {
            spares.files.push((spare, segment.bytes));
        } else {
            self.stored.fetch_sub(segment.bytes, Ordering::Relaxed);
        }
        Ok(())
    }
}
