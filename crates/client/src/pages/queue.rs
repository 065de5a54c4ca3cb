//! The state that callers share with the thread of a page connection.

use super::PageCall;
use crate::config::Limits;
use crate::status::{Error, Status};
use crate::threads::{is_library_thread, lock};
use bytes::Bytes;
use h2::client::SendRequest;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::task::Waker;
use std::time::Instant;

/// The largest number of calls in flight per connection: queued, sent, or waiting
/// for a retry. Callers wait beyond that. 64 MiB of 64 KiB pages.
pub const UNDER_WAY_MAX: usize = 1024;

/// The shared half of a page connection.
#[derive(Debug, Default)]
pub struct Conn {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<PageCall>,
    under_way: usize,
    stopped: bool,
    waker: Option<Waker>,
    up: Option<Up>,
    /// Why the connection is not established.
    trouble: Option<Error>,
}

/// An established connection, for unary calls.
#[derive(Clone)]
pub struct Up {
    /// Opens calls.
    pub requests: SendRequest<Bytes>,
    /// The runtime that drives the connection.
    pub runtime: tokio::runtime::Handle,
}

impl std::fmt::Debug for Up {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Up")
    }
}

impl Conn {
    /// Whether the connection is down, and the number of calls in flight. The
    /// connection with the least load gets the next call.
    pub fn load(&self) -> (bool, usize) {
        let state = lock(&self.state);
        (state.up.is_none(), state.under_way)
    }

    /// Queues `call`. Waits while too many calls are in flight.
    ///
    /// # Errors
    /// When the library is being shut down, or when a thread of the library would
    /// have to wait. The call is then dropped without a completion.
    pub fn push(&self, mut call: PageCall) -> Result<(), Error> {
        let mut state = lock(&self.state);
        while state.under_way >= UNDER_WAY_MAX && !state.stopped {
            if is_library_thread() {
                call.done = None;
                let message = "too many page reads in flight for a call from a page callback";
                return Err(Error::new(Status::Error, message));
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopped {
            call.done = None;
            return Err(Error::new(
                Status::Cancelled,
                "the library is being shut down",
            ));
        }
        state.under_way += 1;
        state.queue.push_back(call);
        // The thread takes all queued calls, so only the first one must wake it.
        let waker = if state.queue.len() == 1 {
            state.waker.take()
        } else {
            None
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Takes all queued calls; registers `waker` for the next one.
    pub fn take(&self, waker: &Waker, into: &mut VecDeque<PageCall>) {
        let mut state = lock(&self.state);
        into.append(&mut state.queue);
        register(&mut state.waker, waker);
    }

    /// Notes that `n` calls are no longer in flight.
    pub fn completed(&self, n: usize) {
        if n > 0 {
            let mut state = lock(&self.state);
            let was_full = state.under_way >= UNDER_WAY_MAX;
            state.under_way = state.under_way.saturating_sub(n);
            drop(state);
            if was_full {
                self.changed.notify_all();
            }
        }
    }

    /// Whether the thread must end. Registers `waker` for that event.
    pub fn stopped(&self, waker: &Waker) -> bool {
        let mut state = lock(&self.state);
        register(&mut state.waker, waker);
        state.stopped
    }

    /// Ends the thread.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopped = true;
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Cancels all queued calls when the thread ends, normally or in a panic, so
    /// that no caller waits for it.
    pub fn close(&self) {
        self.stop();
        let queue = std::mem::take(&mut lock(&self.state).queue);
        // The drop completes the calls, so it must happen unlocked.
        drop(queue);
    }

    /// Notes that the connection is established.
    pub fn set_up(&self, up: Up) {
        let mut state = lock(&self.state);
        state.up = Some(up);
        state.trouble = None;
        drop(state);
        self.changed.notify_all();
    }

    /// Notes that the connection failed, or could not be established.
    pub fn set_down(&self, why: Error) {
        let mut state = lock(&self.state);
        state.up = None;
        state.trouble = Some(why);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until the connection is established.
    ///
    /// # Errors
    /// At once when the server refuses the connection's stream or the library is
    /// shut down. At `until`, with the last failure, in all other cases.
    pub fn wait_up(&self, until: Instant, limits: &Limits) -> Result<Up, Error> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return Err(Error::new(
                    Status::Cancelled,
                    "the library is being shut down",
                ));
            }
            if let Some(up) = &state.up {
                return Ok(up.clone());
            }
            let now = limits.now();
            match &state.trouble {
                Some(error) if error.status != Status::Timeout || now >= until => {
                    return Err(error.clone());
                }
                None if now >= until => {
                    return Err(Error::new(Status::Timeout, "no connection in time"));
                }
                _ => {}
            }
            state = self
                .changed
                .wait_timeout(state, until - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn register(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|old| old.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}
