//! Ends streams of answers when the server stops, the branch is removed, or the caller
//! takes no answers for too long.
//!
//! A stream whose caller does not read is not polled, so it cannot detect the stall
//! itself. A separate task checks whether an answer is ready that the caller does not
//! take. After the stall time the task drops what the stream holds: ready answers, reads
//! under way, and its count as a user of the branch. The next poll of the stream, if
//! any, returns the reason.

use super::{Answers, status};
use crate::branch::live::OpenBranch;
use crate::node::StreamTicket;
use futures::Stream;
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;
use tracing::Instrument;

/// The number of checks of a stream within its stall time.
const LOOKS: u32 = 4;

/// `answers`, which end when `ticket` says so, or when no answer is taken for the
/// ticket's `stall` time.
pub(super) fn guarded<T: Send + 'static>(
    answers: Answers<T>,
    ticket: StreamTicket,
    branch: Arc<OpenBranch>,
) -> Answers<T> {
    let stall = ticket.stall;
    let end = Box::pin(ticket.end.clone().cancelled_owned());
    let held = Arc::new(Mutex::new(Held {
        inner: Some((answers, ticket)),
        polls: 0,
        untaken: false,
        waker: None,
        ready: None,
    }));
    let watching = watch(Arc::downgrade(&held), stall, Arc::clone(&branch));
    tokio::spawn(watching.instrument(branch.span()));
    Box::pin(Guarded {
        held,
        end,
        branch,
        stall,
        done: false,
    })
}

/// The state of a stream, shared with the task that watches it.
struct Held<T> {
    /// `None` once the stream has ended or stalled.
    inner: Option<(Answers<T>, StreamTicket)>,
    polls: u64,
    /// An answer is ready or was returned by the last poll, and the stream was not polled
    /// since: the caller has not taken the answer yet.
    untaken: bool,
    /// The waker of the last poll that returned `Pending`.
    waker: Option<Waker>,
    /// An answer, or the end, that `look` found.
    ready: Option<Option<Result<T, Status>>>,
}

impl<T> Held<T> {
    /// Polls for an answer that became ready since the last poll. The stream's task does
    /// not poll while it waits for room on the connection.
    fn look(&mut self) {
        let (Some((answers, _)), Some(waker), None) = (&mut self.inner, &self.waker, &self.ready)
        else {
            return;
        };
        // Uses the waker of the stream's own task, which thereby stays registered.
        if let Poll::Ready(item) = answers.as_mut().poll_next(&mut Context::from_waker(waker)) {
            self.ready = Some(item);
            self.untaken = true;
            waker.wake_by_ref();
        }
    }
}

/// Ends the stream once an answer has been ready for `stall` without a poll.
async fn watch<T>(held: std::sync::Weak<Mutex<Held<T>>>, stall: Duration, branch: Arc<OpenBranch>) {
    let mut seen = 0;
    let mut still = 0;
    loop {
        tokio::time::sleep(stall / LOOKS).await;
        let Some(held) = held.upgrade() else {
            return;
        };
        let mut now = held.lock();
        if now.inner.is_none() {
            return;
        }
        if now.polls == seen && !now.untaken {
            now.look();
        }
        still = match now.untaken && now.polls == seen {
            true => still + 1,
            false => 0,
        };
        seen = now.polls;
        if still >= LOOKS {
            let inner = now.inner.take();
            drop(now);
            drop(inner);
            tracing::warn!(
                branch = branch.name(),
                "ended a stream: its caller took no answer for {} s",
                stall.as_secs_f64()
            );
            return;
        }
    }
}

struct Guarded<T> {
    held: Arc<Mutex<Held<T>>>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
    branch: Arc<OpenBranch>,
    stall: Duration,
    done: bool,
}

impl<T> Guarded<T> {
    /// Ends the stream with an error.
    fn ended(&mut self, why: Status) -> Poll<Option<Result<T, Status>>> {
        self.done = true;
        let inner = self.held.lock().inner.take();
        drop(inner);
        Poll::Ready(Some(Err(why)))
    }
}

impl<T> Stream for Guarded<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        let mut guard = this.held.lock();
        let held = &mut *guard;
        held.polls = held.polls.wrapping_add(1);
        held.untaken = false;
        let Some((answers, ticket)) = &mut held.inner else {
            drop(guard);
            let stall = this.stall;
            return this.ended(Status::aborted(format!(
                "the stream was ended: no answer was taken for {} s; open another",
                stall.as_secs_f64()
            )));
        };
        if ticket.end.is_cancelled() {
            drop(guard);
            let why = status::ended(&this.branch);
            return this.ended(why);
        }
        let polled = match held.ready.take() {
            Some(item) => Poll::Ready(item),
            None => answers.as_mut().poll_next(cx),
        };
        match polled {
            Poll::Ready(Some(item)) => {
                held.untaken = true;
                return Poll::Ready(Some(item));
            }
            Poll::Ready(None) => {
                this.done = true;
                let inner = held.inner.take();
                drop(guard);
                drop(inner);
                return Poll::Ready(None);
            }
            Poll::Pending => {
                let known = held.waker.as_ref();
                if !known.is_some_and(|waker| waker.will_wake(cx.waker())) {
                    held.waker = Some(cx.waker().clone());
                }
                drop(guard);
            }
        }
        if this.end.as_mut().poll(cx).is_ready() {
            let why = status::ended(&this.branch);
            return this.ended(why);
        }
        Poll::Pending
    }
}
