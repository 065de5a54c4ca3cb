//! A connection for page reads that several threads share. One of the threads that wait
//! for an answer, the leader, receives for all of them. It passes the others their
//! answers, and leads until its own has come; then one of the others leads. With one
//! request at a time, no thread wakes another one in this process.
//!
//! A request is taken out of [`State::sent`] by the thread that completes it, and
//! completed after that. So its buffer has one user at any time.

use super::call::{Outcome, PageCall, Request, Turn, Waiter};
use crate::config::Limits;
use crate::refusal::{Closed, Refusal};
use crate::socket::{Progress, Socket};
use crate::threads::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use xylem_wire::{
    Fault, GET_PAGE_BYTES, Invalid, Kind, Message, PageHead, Received, Space, Standing,
};

/// A connection for page reads.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    /// Held while a message is sent, so that messages do not mix.
    sending: Mutex<()>,
    state: Mutex<State>,
    /// Used by the leader alone.
    received: Mutex<Received>,
    load: AtomicUsize,
    over: AtomicBool,
}

#[derive(Debug)]
struct State {
    sent: HashMap<u64, Attempt>,
    next_id: u64,
    /// Whether a thread receives.
    led: bool,
    closed: Option<Closed>,
    /// When bytes were last received.
    heard: Instant,
    /// When the deadlines were last checked.
    looked: Instant,
    /// Requests of the background thread that are over.
    ended: Vec<Ended>,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Attempt {
    request: Request,
    started: Instant,
    deadline: Instant,
    by: By,
}

/// The receiver of a request's outcome.
#[derive(Debug)]
pub enum By {
    /// A thread that waits, and the request's index among its requests.
    Thread(Arc<Waiter>, usize),
    /// The background thread, which made the request for a call that nobody waits for,
    /// or for itself.
    Background(Option<PageCall>),
}

/// A request of the background thread that is over.
pub type Ended = (Option<PageCall>, Outcome);

impl Link {
    /// A link on a connection that the server has welcomed.
    pub fn new(socket: Socket, received: Received, now: Instant) -> Link {
        Link {
            socket,
            sending: Mutex::new(()),
            state: Mutex::new(State {
                sent: HashMap::new(),
                next_id: 1,
                led: false,
                closed: None,
                heard: now,
                looked: now,
                ended: Vec::new(),
            }),
            received: Mutex::new(received),
            load: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// The number of requests in flight.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether the link has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Why the link has ended, if it has.
    pub fn closed(&self) -> Option<Closed> {
        lock(&self.state).closed.clone()
    }

    /// The start of the oldest request of a thread or a call, if there is one.
    pub fn oldest(&self) -> Option<Instant> {
        let state = lock(&self.state);
        let waits = |attempt: &&Attempt| !matches!(attempt.by, By::Background(None));
        let started = |attempt: &Attempt| attempt.started;
        state.sent.values().filter(waits).map(started).min()
    }

    /// Makes the requests, which began at `started`, and waits for their outcomes.
    /// They are in the order of the requests.
    pub fn call(&self, requests: &[Request], started: Instant, limits: &Limits) -> Vec<Outcome> {
        let waiter = Waiter::new(requests.len());
        let deadline = limits.now() + limits.request_timeout();
        let mut messages = Vec::with_capacity(requests.len() * GET_PAGE_BYTES);
        let mut state = lock(&self.state);
        if let Some(closed) = &state.closed {
            let ended = |_| Outcome::Closed(closed.clone());
            return requests.iter().map(ended).collect();
        }
        for (index, request) in requests.iter().enumerate() {
            let attempt = Attempt {
                request: *request,
                started,
                deadline,
                by: By::Thread(Arc::clone(&waiter), index),
            };
            state.enter(attempt, &mut messages);
        }
        let leads = !std::mem::replace(&mut state.led, true);
        self.load.store(state.sent.len(), Ordering::Relaxed);
        drop(state);
        self.send(&messages, limits);
        if leads {
            return self.lead(&waiter, limits);
        }
        match waiter.wait() {
            Turn::Done(outcomes) => outcomes,
            Turn::Lead => self.lead(&waiter, limits),
        }
    }

    /// Makes a request of the background thread. If the link has ended, returns the
    /// call.
    #[must_use]
    pub fn submit_background(
        &self,
        request: Request,
        call: Option<PageCall>,
        limits: &Limits,
    ) -> Option<PageCall> {
        let now = limits.now();
        let mut message = Vec::with_capacity(GET_PAGE_BYTES);
        let mut state = lock(&self.state);
        if state.closed.is_some() {
            // The background thread may have looked at what has ended for the last time.
            return call;
        }
        let attempt = Attempt {
            request,
            started: call.as_ref().map_or(now, |call| call.started),
            deadline: now + limits.request_timeout(),
            by: By::Background(call),
        };
        state.enter(attempt, &mut message);
        self.load.store(state.sent.len(), Ordering::Relaxed);
        drop(state);
        self.send(&message, limits);
        None
    }

    fn send(&self, messages: &[u8], limits: &Limits) {
        let turn = lock(&self.sending);
        let sent = self.socket.send_all(messages, limits);
        drop(turn);
        if let Err(closed) = sent {
            self.close(closed);
        }
    }

    /// Receives until all outcomes of this thread are there, then hands over.
    fn lead(&self, waiter: &Waiter, limits: &Limits) -> Vec<Outcome> {
        let mut received = lock(&self.received);
        let guard = Leading(self);
        let outcomes = loop {
            if let Some(outcomes) = waiter.take() {
                break outcomes;
            }
            self.receive(&mut received, limits);
        };
        std::mem::forget(guard);
        drop(received);
        self.hand_over();
        outcomes
    }

    /// Makes the calling thread the only one that ever receives.
    pub fn lead_for_good(&self) {
        lock(&self.state).led = true;
    }

    /// Receives once, for at most `tick`. For the thread of [`Link::lead_for_good`].
    pub fn receive_for(&self, tick: Duration, limits: &Limits) -> Vec<Ended> {
        // An error means that the connection has ended, which receiving finds, too.
        let _ = self.socket.set_tick(tick);
        self.receive(&mut lock(&self.received), limits);
        self.take_ended()
    }

    /// Requests of the background thread that are over.
    pub fn take_ended(&self) -> Vec<Ended> {
        std::mem::take(&mut lock(&self.state).ended)
    }

    fn hand_over(&self) {
        let mut state = lock(&self.state);
        let next = state.sent.values().find_map(|attempt| match &attempt.by {
            By::Thread(waiter, _) => Some(Arc::clone(waiter)),
            By::Background(_) => None,
        });
        match next {
            Some(next) => next.lead(),
            None => state.led = false,
        }
    }

    fn receive(&self, received: &mut Received, limits: &Limits) {
        let failed = match self.socket.receive(received) {
            Ok(Progress::Bytes(0)) => Closed::Broken("the server closed the connection".to_owned()),
            Ok(Progress::Bytes(_)) => {
                let now = limits.now();
                limits.heard(now);
                let answered = self.answers(received, now);
                // The leader's own answer may be overdue while others' arrive.
                match answered.and_then(|()| self.look_at_clock(limits, limits.tick())) {
                    Ok(()) => return,
                    Err(closed) => closed,
                }
            }
            Ok(Progress::NotYet) => {
                // An error means that the connection has ended, which the next receive
                // finds.
                let _ = self.socket.set_tick(limits.tick());
                match self.look_at_clock(limits, Duration::ZERO) {
                    Ok(()) => return,
                    Err(closed) => closed,
                }
            }
            Err(e) => e.into(),
        };
        self.close(failed);
    }

    fn answers(&self, received: &mut Received, now: Instant) -> Result<(), Closed> {
        lock(&self.state).heard = now;
        while let Some(message) = received.next()? {
            let id = message.header.id;
            if id == 0 && message.header.kind == Kind::Fault {
                return Err(Closed::Refused(Fault::decode(message.body)?.into()));
            }
            let mut state = lock(&self.state);
            let attempt = state.sent.remove(&id);
            self.load.store(state.sent.len(), Ordering::Relaxed);
            drop(state);
            // The answer to a request that was given up is dropped.
            if let Some(mut attempt) = attempt {
                match outcome(&mut attempt.request, &message) {
                    Ok(outcome) => self.finish(attempt, outcome),
                    Err(invalid) => {
                        let closed = Closed::from(invalid);
                        self.finish(attempt, Outcome::Closed(closed.clone()));
                        return Err(closed);
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends requests without an answer in time. Without a byte from the server in that
    /// time, the link ends. Does nothing if it did its work less than `pause` ago.
    fn look_at_clock(&self, limits: &Limits, pause: Duration) -> Result<(), Closed> {
        let now = limits.now();
        let timeout = limits.request_timeout();
        let mut state = lock(&self.state);
        if now.saturating_duration_since(state.looked) < pause {
            return Ok(());
        }
        state.looked = now;
        let late: Vec<u64> = state
            .sent
            .iter()
            .filter(|(_, attempt)| attempt.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        if late.is_empty() {
            return Ok(());
        }
        if now.saturating_duration_since(state.heard) >= timeout {
            return Err(Closed::Silent(timeout.as_millis()));
        }
        let late: Vec<Attempt> = late.iter().filter_map(|id| state.sent.remove(id)).collect();
        self.load.store(state.sent.len(), Ordering::Relaxed);
        drop(state);
        for attempt in late {
            self.finish(attempt, Outcome::Late);
        }
        Ok(())
    }

    /// Ends the link and all its requests. The first reason counts.
    pub fn close(&self, why: Closed) {
        let mut state = lock(&self.state);
        let why = state.closed.get_or_insert(why).clone();
        let sent = std::mem::take(&mut state.sent);
        self.load.store(0, Ordering::Relaxed);
        self.over.store(true, Ordering::Release);
        let mut waiters = Vec::new();
        for attempt in sent.into_values() {
            match attempt.by {
                By::Thread(waiter, index) => waiters.push((waiter, index)),
                // Under the lock: the background thread takes what has ended once it
                // sees that the link has.
                By::Background(call) => state.ended.push((call, Outcome::Closed(why.clone()))),
            }
        }
        drop(state);
        self.socket.end();
        for (waiter, index) in waiters {
            waiter.tell(index, Outcome::Closed(why.clone()));
        }
    }

    fn finish(&self, attempt: Attempt, outcome: Outcome) {
        match attempt.by {
            By::Thread(waiter, index) => waiter.tell(index, outcome),
            By::Background(call) => lock(&self.state).ended.push((call, outcome)),
        }
    }
}

impl State {
    /// Numbers the request, and appends its message to `out`.
    fn enter(&mut self, attempt: Attempt, out: &mut Vec<u8>) {
        let id = self.next_id;
        self.next_id += 1;
        attempt.request.put(id, out);
        self.sent.insert(id, attempt);
    }
}

/// Ends the link if its leader panics, since nobody would receive any more.
struct Leading<'a>(&'a Link);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.0.close(Closed::Broken(
            "a thread that read pages panicked".to_owned(),
        ));
    }
}

/// What `message` says about `request`.
fn outcome(request: &mut Request, message: &Message<'_>) -> Result<Outcome, Invalid> {
    Ok(match (message.header.kind, request) {
        (Kind::Fault, _) => Outcome::Refused(Refusal::from(Fault::decode(message.body)?)),
        (Kind::Page, Request::Page(_, target)) => {
            let (PageHead { .. }, page) = PageHead::decode(message.body)?;
            match target.put(page) {
                true => Outcome::Page,
                false => Outcome::WrongSize(page.len()),
            }
        }
        (Kind::Space, Request::Space(_)) => Outcome::Space(Space::decode(message.body)?),
        (Kind::Log, Request::Log(_)) => Outcome::Log(message.body.to_vec()),
        (Kind::Pong, Request::Ping) => Outcome::Pong(Standing::decode(message.body)?),
        (other, _) => return Err(Invalid::Unexpected(other)),
    })
}
