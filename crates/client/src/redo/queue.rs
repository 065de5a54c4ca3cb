//! The redo queue: callers push frames, wait for room, and wait for durability.

use super::{COALESCE_MAX, State};
use crate::config::Limits;
use crate::pages::Waiter;
use crate::stats::Stats;
use crate::status::{Error, Status};
use crate::threads::lock;
use crate::wire::messages::WalAck;
use crate::wire::walframe::FileOp;
use bytes::Bytes;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

/// The frames that are not durable yet, at most `limit` bytes. An empty queue
/// accepts a frame of any size.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    room: Condvar,
    limit: usize,
}

#[derive(Debug)]
struct Inner {
    state: State,
    waiters: Vec<(u64, Arc<Waiter>)>,
    waker: Option<Waker>,
    failed: Option<Error>,
    stopped: bool,
    progress: Instant,
    /// Callers that wait for room.
    crowd: usize,
    /// When the longest wait for room or durability began.
    waiting: Instant,
}

impl Queue {
    /// An empty queue of at most `limit` bytes, whose frames follow `first`.
    pub fn new(first: &WalAck, limit: usize, now: Instant) -> Queue {
        Queue {
            inner: Mutex::new(Inner {
                state: State::new(first.durable_seq, first.durable_lsn),
                waiters: Vec::new(),
                waker: None,
                failed: None,
                stopped: false,
                progress: now,
                crowd: 0,
                waiting: now,
            }),
            room: Condvar::new(),
            limit,
        }
    }

    /// Queues redo that begins at `start_lsn`. Waits while the queue is full.
    ///
    /// # Errors
    /// When the redo does not follow the redo before it, when the queue is full
    /// and the server was silent for the retry limit, or when the stream has
    /// failed. A part of the redo may then be queued.
    pub fn push_redo(
        &self,
        start_lsn: u64,
        redo: &[u8],
        limits: &Limits,
        stats: &Stats,
    ) -> Result<(), Error> {
        let mut at = start_lsn;
        for piece in redo.chunks(COALESCE_MAX) {
            let mut inner = self.room_for(piece.len(), limits)?;
            inner.state.push_redo(at, piece)?;
            at = inner.state.next_lsn();
            stats.lsn_queued.set(at);
            wake(inner);
        }
        Ok(())
    }

    /// Queues a side-file operation and returns its frame number. Waits while the
    /// queue is full.
    ///
    /// # Errors
    /// Those of [`Queue::push_redo`].
    pub fn push_file(&self, op: &FileOp, limits: &Limits, stats: &Stats) -> Result<u64, Error> {
        let mut inner = self.room_for(op.cost(), limits)?;
        let seq = inner.state.push_file(op);
        stats.side_file_ops.add(1);
        wake(inner);
        Ok(seq)
    }

    fn room_for(&self, bytes: usize, limits: &Limits) -> Result<MutexGuard<'_, Inner>, Error> {
        let started = limits.now();
        let mut inner = lock(&self.inner);
        loop {
            inner.check()?;
            let used = inner.state.bytes();
            if used == 0 || used.saturating_add(bytes) <= self.limit {
                return Ok(inner);
            }
            // The limit counts from the server's last answer, so that a slow
            // server only slows the writer.
            let until = limits.gives_up(started.max(inner.progress));
            let now = limits.now();
            if now >= until {
                return Err(Error::new(
                    Status::Timeout,
                    format!(
                        "the redo queue is full: {used} bytes after LSN {} wait for an \
                         acknowledgement, and the page server has been silent for {} ms",
                        inner.state.durable_lsn(),
                        limits.retry_limit().as_millis()
                    ),
                ));
            }
            inner.begin_to_wait(now);
            inner.crowd += 1;
            inner = self
                .room
                .wait_timeout(inner, until - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            inner.crowd -= 1;
        }
    }

    /// The time since which a caller has waited without progress, and the
    /// durable LSN; `None` if no caller waits.
    pub fn waits(&self) -> Option<(Instant, u64)> {
        let inner = lock(&self.inner);
        let waits = inner.crowd > 0 || !inner.waiters.is_empty();
        waits.then(|| (inner.waiting.max(inner.progress), inner.state.durable_lsn()))
    }

    /// Waits until everything queued up to `lsn` is durable.
    ///
    /// # Errors
    /// When the server was silent for the retry limit, or the stream has failed.
    pub fn wait_lsn(&self, lsn: u64, limits: &Limits) -> Result<(), Error> {
        let inner = lock(&self.inner);
        let seq = inner.state.seq_for(lsn);
        self.wait(inner, seq, limits, None)
    }

    /// Waits until frame `seq` and all before it are durable.
    ///
    /// # Errors
    /// Those of [`Queue::wait_lsn`].
    pub fn wait_seq(&self, seq: u64, limits: &Limits) -> Result<(), Error> {
        self.wait(lock(&self.inner), seq, limits, None)
    }

    /// Waits until everything queued is durable, but at most for the retry limit,
    /// even if the server responds. The time of a shutdown is thus bounded.
    ///
    /// # Errors
    /// Those of [`Queue::wait_lsn`].
    pub fn wait_all(&self, limits: &Limits) -> Result<(), Error> {
        let inner = lock(&self.inner);
        let seq = inner.state.seq_for(u64::MAX);
        let until = limits.now() + limits.retry_limit();
        self.wait(inner, seq, limits, Some(until))
    }

    fn wait(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        seq: u64,
        limits: &Limits,
        last: Option<Instant>,
    ) -> Result<(), Error> {
        if inner.state.durable_seq() >= seq {
            // Durable frames stay durable after a failure.
            return Ok(());
        }
        inner.check()?;
        let waiter = Waiter::new();
        let started = limits.now();
        inner.begin_to_wait(started);
        inner.waiters.push((seq, waiter.clone()));
        drop(inner);
        loop {
            if let Some(status) = waiter.told() {
                if status == Status::Ok {
                    return Ok(());
                }
                let inner = lock(&self.inner);
                return Err(inner
                    .failed
                    .clone()
                    .unwrap_or_else(|| Error::new(status, "the redo stream has ended")));
            }
            let inner = lock(&self.inner);
            let until = limits.gives_up(started.max(inner.progress));
            let until = last.map_or(until, |last| last.min(until));
            drop(inner);
            let now = limits.now();
            if now < until {
                std::thread::park_timeout(until - now);
                continue;
            }
            let mut inner = lock(&self.inner);
            inner
                .waiters
                .retain(|(_, other)| !Arc::ptr_eq(other, &waiter));
            if waiter.told().is_some() {
                continue;
            }
            return Err(Error::new(
                Status::Timeout,
                format!(
                    "redo after LSN {} is not durable: the page server acknowledged nothing for {} ms",
                    inner.state.durable_lsn(),
                    limits.retry_limit().as_millis()
                ),
            ));
        }
    }

    /// The end of the redo that is known to be durable.
    pub fn durable_lsn(&self) -> u64 {
        lock(&self.inner).state.durable_lsn()
    }

    /// The number of the last frame queued.
    pub fn last_seq(&self) -> u64 {
        lock(&self.inner).state.last_seq()
    }

    /// Takes the next frames to send, up to about `limit` bytes. Registers `waker`
    /// for more frames.
    pub fn take(&self, waker: &Waker, limit: usize, stats: &Stats) -> Vec<Bytes> {
        let mut inner = lock(&self.inner);
        let (frames, redo) = inner.state.take(limit);
        stats.redo_bytes_sent.add(redo);
        stats.lsn_sent.raise(inner.state.sent_lsn());
        if inner.waker.as_ref().is_none_or(|old| !old.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        frames
    }

    /// Processes an acknowledgement. `first` says that it is the first one of a
    /// stream.
    ///
    /// # Errors
    /// When it contradicts the frames that were sent. The stream then fails.
    pub fn acknowledge(
        &self,
        ack: &WalAck,
        first: bool,
        now: Instant,
        stats: &Stats,
    ) -> Result<(), Error> {
        let mut inner = lock(&self.inner);
        let result = if first {
            inner.state.resume(ack)
        } else {
            inner.state.acknowledge(ack)
        };
        match result {
            Ok(news) => {
                stats.lsn_applied.raise(ack.applied_lsn);
                if news || first {
                    inner.progress = now;
                }
                if !news {
                    return Ok(());
                }
                let durable_seq = inner.state.durable_seq();
                stats.lsn_durable.set(inner.state.durable_lsn());
                let mut done = Vec::new();
                inner.waiters.retain(|(seq, waiter)| {
                    let over = *seq <= durable_seq;
                    if over {
                        done.push(waiter.clone());
                    }
                    !over
                });
                drop(inner);
                // Unlocked, so that the woken threads find the lock free.
                for waiter in done {
                    waiter.tell(Status::Ok);
                }
                self.room.notify_all();
                Ok(())
            }
            Err(error) => {
                drop(inner);
                self.fail(error.clone());
                Err(error)
            }
        }
    }

    /// Fails the stream: all current and later callers get `error`. Only the
    /// first error is kept.
    pub fn fail(&self, error: Error) {
        let mut inner = lock(&self.inner);
        let status = error.status;
        inner.failed.get_or_insert(error);
        let waiters = std::mem::take(&mut inner.waiters);
        let waker = inner.waker.take();
        drop(inner);
        for (_, waiter) in waiters {
            waiter.tell(status);
        }
        self.room.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the thread and all waits.
    pub fn stop(&self) {
        lock(&self.inner).stopped = true;
        self.fail(Error::new(
            Status::Cancelled,
            "the library is being shut down",
        ));
    }

    /// Whether the thread must end. Registers `waker` for that event.
    pub fn stopped(&self, waker: &Waker) -> bool {
        let mut inner = lock(&self.inner);
        if inner.waker.as_ref().is_none_or(|old| !old.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        inner.stopped
    }

    /// Notes that the server refused a frame as damaged. Returns whether to send
    /// it again.
    pub fn refused(&self) -> bool {
        lock(&self.inner).state.refused()
    }

    /// The error that the stream failed with, if any.
    pub fn failure(&self) -> Option<Error> {
        lock(&self.inner).failed.clone()
    }
}

impl Inner {
    fn begin_to_wait(&mut self, now: Instant) {
        if self.crowd == 0 && self.waiters.is_empty() {
            self.waiting = now;
        }
    }

    fn check(&self) -> Result<(), Error> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

/// Wakes the thread after something was pushed.
fn wake(mut inner: MutexGuard<'_, Inner>) {
    let waker = inner.waker.take();
    drop(inner);
    if let Some(waker) = waker {
        waker.wake();
    }
}
