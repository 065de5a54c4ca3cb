//! The redo queue: callers push frames, wait for room, and wait for durability.
//!
//! A caller that pushes a frame also sends it, as far as the system has room. One of
//! the threads that wait, the leader, receives acknowledgements for all of them, until
//! its own redo is durable; then another one leads. A commit thus costs one message
//! each way, and no thread of this process wakes another one for it unless several
//! commits wait.

use super::frame::FileOp;
use super::link::{Link, Unsent};
use super::waiter::Waiter;
use super::{COALESCE_MAX, State};
use crate::config::Limits;
use crate::refusal::Closed;
use crate::shared::Shared;
use crate::status::{Error, Status};
use crate::threads::lock;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use xylem_wire::Ack;

/// Bytes of frames taken from the queue at once.
const TAKE_BYTES: usize = 4 << 20;

/// The frames that are not durable yet, at most `limit` bytes. An empty queue
/// accepts a frame of any size.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    /// Held while frames are sent, so that they go out in order. Locked before `inner`.
    unsent: Mutex<Unsent>,
    /// Wakes the keeper: the link was lost, or has no room, or the queue has ended.
    work: Condvar,
    limit: usize,
}

#[derive(Debug)]
struct Inner {
    state: State,
    link: Option<Arc<Link>>,
    links: u64,
    /// Why the last link ended.
    trouble: Option<Closed>,
    /// The keeper has not heard of `trouble` yet.
    lost: bool,
    /// The server has made redo durable since the last link began.
    worked: bool,
    /// The thread that receives acknowledgements.
    leader: Option<Arc<Waiter>>,
    /// The keeper receives acknowledgements.
    looking: bool,
    /// The system has no room for frames that wait to be sent.
    blocked: bool,
    waiters: Vec<(Wanted, Arc<Waiter>)>,
    failed: Option<Error>,
    stopped: bool,
    progress: Instant,
    /// When the longest wait for room or durability began.
    waiting: Instant,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    /// This frame is durable.
    Durable(u64),
    /// There is room for this many bytes.
    Room(usize),
}

/// When redo is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// At once.
    Now,
    /// With the next operation, which the same thread queues: both arrive together, and the
    /// server syncs them together.
    WithNext,
}

/// More redo than this is sent at once.
const WITH_NEXT_MAX: usize = 256 << 10;

/// What the keeper does next.
#[derive(Debug)]
pub enum Task {
    /// Connect, since the last link is gone for this reason. Also says whether that link
    /// was of use.
    Connect(Option<Closed>, bool),
    /// Wait until this link has room, then send.
    Send(Arc<Link>),
    /// Look whether this link, from which nobody receives, has something to say.
    Look(Arc<Link>),
    /// Nothing: the queue has ended.
    End,
}

impl Queue {
    /// An empty queue of at most `limit` bytes, whose frames follow `first`.
    pub fn new(first: &Ack, limit: usize, now: Instant) -> Queue {
        Queue {
            inner: Mutex::new(Inner {
                state: State::new(first.durable_seq, first.durable_lsn),
                link: None,
                links: 0,
                trouble: None,
                lost: false,
                worked: false,
                leader: None,
                looking: false,
                blocked: false,
                waiters: Vec::new(),
                failed: None,
                stopped: false,
                progress: now,
                waiting: now,
            }),
            unsent: Mutex::default(),
            work: Condvar::new(),
            limit,
        }
    }

    /// Queues redo that begins at `start_lsn`, and sends it. Waits while the queue is
    /// full. With [`Sending::WithNext`], little redo is sent with what is queued next.
    ///
    /// # Errors
    /// When the redo does not follow the redo before it, when the queue is full
    /// and the server was silent for the retry limit, or when the stream has
    /// failed. A part of the redo may then be queued.
    pub fn push_redo(
        &self,
        start_lsn: u64,
        redo: &[u8],
        sending: Sending,
        shared: &Shared,
    ) -> Result<(), Error> {
        let mut at = start_lsn;
        for piece in redo.chunks(COALESCE_MAX) {
            let mut inner = self.room_for(piece.len(), shared)?;
            inner.state.push_redo(at, piece)?;
            at = inner.state.next_lsn();
            shared.stats.lsn_queued.set(at);
            drop(inner);
            if sending == Sending::Now || redo.len() > WITH_NEXT_MAX {
                self.send(shared);
            }
        }
        Ok(())
    }

    /// Queues a side-file operation, sends it, and returns its frame number. Waits while
    /// the queue is full.
    ///
    /// # Errors
    /// Those of [`Queue::push_redo`].
    pub fn push_file(&self, op: &FileOp, shared: &Shared) -> Result<u64, Error> {
        let mut inner = self.room_for(op.cost(), shared)?;
        let seq = inner.state.push_file(op);
        shared.stats.side_file_ops.add(1);
        drop(inner);
        self.send(shared);
        Ok(seq)
    }

    /// Sends what waits to be sent, as far as the system has room.
    pub fn send(&self, shared: &Shared) {
        let mut unsent = lock(&self.unsent);
        loop {
            let mut inner = lock(&self.inner);
            let Some(link) = inner.link.clone() else {
                return;
            };
            unsent.belongs_to(link.number);
            if unsent.is_empty() {
                let (frames, redo) = inner.state.take(TAKE_BYTES);
                if frames.is_empty() {
                    inner.blocked = false;
                    return;
                }
                shared.stats.redo_bytes_sent.add(redo);
                shared.stats.lsn_sent.raise(inner.state.sent_lsn());
                unsent.add(frames);
            }
            drop(inner);
            match link.send(&mut unsent) {
                Ok(true) => {}
                Ok(false) => {
                    lock(&self.inner).blocked = true;
                    self.work.notify_all();
                    return;
                }
                Err(closed) => {
                    let (ack, closed) = link.last_words(closed);
                    if let Some(ack) = ack {
                        self.acknowledged(&ack, &link, shared);
                    }
                    return self.lost_link(&link, closed);
                }
            }
        }
    }

    fn room_for(&self, bytes: usize, shared: &Shared) -> Result<MutexGuard<'_, Inner>, Error> {
        let inner = lock(&self.inner);
        inner.check()?;
        if inner.has_room(bytes, self.limit) {
            return Ok(inner);
        }
        // The limit counts from the server's last answer, so that a slow server only
        // slows the writer.
        match self.wait(inner, Wanted::Room(bytes), shared, None) {
            Ok(inner) => Ok(inner),
            Err(error) if error.status == Status::Timeout => Err(Error::new(
                Status::Timeout,
                format!("the redo queue is full: {}", error.message),
            )),
            Err(error) => Err(error),
        }
    }

    /// The time since which a caller has waited without progress, and the
    /// durable LSN; `None` if no caller waits.
    pub fn waits(&self) -> Option<(Instant, u64)> {
        let inner = lock(&self.inner);
        let waits = !inner.waiters.is_empty();
        waits.then(|| (inner.waiting.max(inner.progress), inner.state.durable_lsn()))
    }

    /// Waits until everything queued up to `lsn` is durable.
    ///
    /// # Errors
    /// When the server was silent for the retry limit, or the stream has failed.
    pub fn wait_lsn(&self, lsn: u64, shared: &Shared) -> Result<(), Error> {
        let inner = lock(&self.inner);
        let seq = inner.state.seq_for(lsn);
        self.wait_durable(inner, seq, shared, None)
    }

    /// Waits until frame `seq` and all before it are durable.
    ///
    /// # Errors
    /// Those of [`Queue::wait_lsn`].
    pub fn wait_seq(&self, seq: u64, shared: &Shared) -> Result<(), Error> {
        self.wait_durable(lock(&self.inner), seq, shared, None)
    }

    /// Waits until everything queued is durable, but at most for the retry limit,
    /// even if the server responds. The time of a shutdown is thus bounded.
    ///
    /// # Errors
    /// Those of [`Queue::wait_lsn`].
    pub fn wait_all(&self, shared: &Shared) -> Result<(), Error> {
        let inner = lock(&self.inner);
        let seq = inner.state.seq_for(u64::MAX);
        let until = shared.limits.now() + shared.limits.retry_limit();
        self.wait_durable(inner, seq, shared, Some(until))
    }

    fn wait_durable(
        &self,
        inner: MutexGuard<'_, Inner>,
        seq: u64,
        shared: &Shared,
        last: Option<Instant>,
    ) -> Result<(), Error> {
        if inner.state.durable_seq() >= seq {
            // Durable frames stay durable after a failure.
            return Ok(());
        }
        self.wait(inner, Wanted::Durable(seq), shared, last)
            .map(drop)
    }

    /// Waits for `wanted`: receives acknowledgements, unless another thread does.
    fn wait<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        wanted: Wanted,
        shared: &Shared,
        last: Option<Instant>,
    ) -> Result<MutexGuard<'a, Inner>, Error> {
        inner.check()?;
        let limits = &shared.limits;
        let waiter = Waiter::new();
        let started = limits.now();
        if inner.waiters.is_empty() {
            inner.waiting = started;
        }
        inner.waiters.push((wanted, Arc::clone(&waiter)));
        let result = loop {
            if inner.is_reached(wanted, self.limit) {
                break Ok(());
            }
            if let Some(error) = &inner.failed {
                break Err(error.clone());
            }
            let until = limits.gives_up(started.max(inner.progress));
            let until = last.map_or(until, |last| last.min(until));
            let now = limits.now();
            if now >= until {
                break Err(inner.silent(limits));
            }
            let link = inner.lead(&waiter);
            drop(inner);
            match link {
                Some(link) => {
                    let guard = Leading(self, &waiter);
                    self.receive(&link, limits.tick().min(until - now), shared);
                    std::mem::forget(guard);
                }
                None => std::thread::park_timeout(until - now),
            }
            inner = lock(&self.inner);
        };
        inner.leave(&waiter);
        result.map(|()| inner)
    }

    /// Receives acknowledgements from `link`, for at most `tick`.
    fn receive(&self, link: &Arc<Link>, tick: Duration, shared: &Shared) {
        match link.receive(tick) {
            Ok(Some(ack)) => self.acknowledged(&ack, link, shared),
            Ok(None) => {}
            Err(closed) => self.lost_link(link, closed),
        }
    }

    /// Looks for acknowledgements that nobody waits for.
    pub fn look(&self, link: &Arc<Link>, shared: &Shared) {
        let mut inner = lock(&self.inner);
        if inner.leader.is_some() {
            return;
        }
        inner.looking = true;
        drop(inner);
        loop {
            match link.receive_ready() {
                Ok(Some(ack)) => self.acknowledged(&ack, link, shared),
                Ok(None) => break,
                Err(closed) => {
                    self.lost_link(link, closed);
                    break;
                }
            }
        }
        let mut inner = lock(&self.inner);
        inner.looking = false;
        inner.appoint();
    }

    fn acknowledged(&self, ack: &Ack, link: &Link, shared: &Shared) {
        let now = shared.limits.now();
        shared.limits.heard(now);
        shared.stats.lsn_applied.raise(ack.applied_lsn);
        let mut inner = lock(&self.inner);
        if inner
            .link
            .as_ref()
            .is_none_or(|current| current.number != link.number)
        {
            // The next link begins with a newer acknowledgement.
            return;
        }
        match inner.state.acknowledge(ack) {
            Ok(news) => {
                if news {
                    inner.worked = true;
                    inner.progress = now;
                    shared.stats.lsn_durable.set(inner.state.durable_lsn());
                    inner.end_waits(self.limit);
                }
            }
            Err(error) => {
                drop(inner);
                self.fail(error);
            }
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

    /// The number for the next link.
    pub fn next_link(&self) -> u64 {
        let mut inner = lock(&self.inner);
        inner.links += 1;
        inner.links
    }

    /// Continues on `link`, whose server has what `first` says.
    ///
    /// # Errors
    /// When that contradicts the frames that were sent. The stream has then failed.
    pub fn resume(&self, link: Link, first: &Ack, shared: &Shared) -> Result<(), Error> {
        let now = shared.limits.now();
        let mut inner = lock(&self.inner);
        inner.check()?;
        if let Err(error) = inner.state.resume(first) {
            drop(inner);
            self.fail(error.clone());
            return Err(error);
        }
        shared.stats.lsn_durable.set(inner.state.durable_lsn());
        shared.stats.lsn_applied.raise(first.applied_lsn);
        inner.progress = now;
        inner.link = Some(Arc::new(link));
        inner.trouble = None;
        inner.blocked = false;
        inner.end_waits(self.limit);
        inner.appoint();
        drop(inner);
        self.send(shared);
        Ok(())
    }

    /// Notes that the connection has ended, because the server is silent.
    pub fn lost(&self, why: &Closed) {
        let link = lock(&self.inner).link.clone();
        if let Some(link) = link {
            self.lost_link(&link, why.clone());
        }
    }

    fn lost_link(&self, link: &Link, why: Closed) {
        link.end();
        let mut inner = lock(&self.inner);
        if inner
            .link
            .as_ref()
            .is_some_and(|current| current.number == link.number)
        {
            inner.link = None;
            inner.trouble = Some(why);
            inner.lost = true;
            self.work.notify_all();
        }
    }

    /// Waits for work of the keeper, for at most `tick`.
    pub fn task(&self, tick: Duration) -> Task {
        let inner = lock(&self.inner);
        let idle = |inner: &mut Inner| {
            !inner.stopped && inner.failed.is_none() && inner.link.is_some() && !inner.blocked
        };
        let mut inner = self
            .work
            .wait_timeout_while(inner, tick, idle)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if inner.stopped || inner.failed.is_some() {
            return Task::End;
        }
        match &inner.link {
            None => {
                let lost = std::mem::take(&mut inner.lost);
                let worked = std::mem::take(&mut inner.worked);
                Task::Connect(inner.trouble.clone().filter(|_| lost), worked)
            }
            Some(link) if inner.blocked => Task::Send(Arc::clone(link)),
            Some(link) => Task::Look(Arc::clone(link)),
        }
    }

    /// Fails the stream: all current and later callers get `error`. Only the
    /// first error is kept.
    pub fn fail(&self, error: Error) {
        let mut inner = lock(&self.inner);
        inner.failed.get_or_insert(error);
        let waiters: Vec<_> = inner.waiters.clone();
        let link = inner.link.take();
        drop(inner);
        if let Some(link) = link {
            link.end();
        }
        for (_, waiter) in waiters {
            waiter.wake();
        }
        self.work.notify_all();
    }

    /// Ends the thread and all waits.
    pub fn stop(&self) {
        lock(&self.inner).stopped = true;
        self.fail(Error::new(
            Status::Cancelled,
            "the library is being shut down",
        ));
    }

    /// Waits for `wait`, or until the queue has ended. Returns whether it has.
    pub fn nap(&self, wait: Duration) -> bool {
        let inner = lock(&self.inner);
        let goes_on = |inner: &mut Inner| !inner.stopped && inner.failed.is_none();
        let (inner, _) = self
            .work
            .wait_timeout_while(inner, wait, goes_on)
            .unwrap_or_else(PoisonError::into_inner);
        inner.stopped || inner.failed.is_some()
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

/// Has another thread lead if the leader panics.
struct Leading<'a>(&'a Queue, &'a Arc<Waiter>);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        lock(&self.0.inner).leave(self.1);
    }
}

impl Inner {
    fn check(&self) -> Result<(), Error> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    fn has_room(&self, bytes: usize, limit: usize) -> bool {
        let used = self.state.bytes();
        used == 0 || used.saturating_add(bytes) <= limit
    }

    fn is_reached(&self, wanted: Wanted, limit: usize) -> bool {
        match wanted {
            Wanted::Durable(seq) => self.state.durable_seq() >= seq,
            Wanted::Room(bytes) => self.has_room(bytes, limit),
        }
    }

    /// Wakes the threads that have what they wait for.
    fn end_waits(&self, limit: usize) {
        for (wanted, waiter) in &self.waiters {
            if self.is_reached(*wanted, limit) {
                waiter.wake();
            }
        }
    }

    fn is_led_by(&self, waiter: &Arc<Waiter>) -> bool {
        let leader = self.leader.as_ref();
        leader.is_some_and(|leader| Arc::ptr_eq(leader, waiter))
    }

    /// Makes `waiter` the leader if there is none. Returns the link from which it
    /// receives if it leads.
    fn lead(&mut self, waiter: &Arc<Waiter>) -> Option<Arc<Link>> {
        if self.leader.is_none() && !self.looking && self.link.is_some() {
            self.leader = Some(Arc::clone(waiter));
        }
        if !self.is_led_by(waiter) {
            return None;
        }
        if self.link.is_none() {
            // The next link appoints a leader.
            self.leader = None;
        }
        self.link.clone()
    }

    /// Removes `waiter`. Has the next thread lead if it does.
    fn leave(&mut self, waiter: &Arc<Waiter>) {
        self.waiters
            .retain(|(_, other)| !Arc::ptr_eq(other, waiter));
        if self.is_led_by(waiter) {
            self.leader = None;
            self.appoint();
        }
    }

    /// Appoints a leader if there is a link and nobody receives from it.
    fn appoint(&mut self) {
        if self.leader.is_none() && !self.looking && self.link.is_some() {
            self.leader = self.waiters.first().map(|(_, next)| Arc::clone(next));
            if let Some(leader) = &self.leader {
                leader.wake();
            }
        }
    }

    fn silent(&self, limits: &Limits) -> Error {
        let trouble = self.trouble.as_ref();
        let trouble = trouble.map_or(String::new(), |closed| format!(" ({closed})"));
        Error::new(
            Status::Timeout,
            format!(
                "redo after LSN {} is not durable: the page server acknowledged nothing for {} ms{trouble}",
                self.state.durable_lsn(),
                limits.retry_limit().as_millis(),
            ),
        )
    }
}
