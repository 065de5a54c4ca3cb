//! Streams of answers that the server can end: because the server stops, the
//! branch is removed, or the caller takes no answers for too long.
//!
//! A stream whose caller does not read is not polled, so it cannot find that
//! out by itself. A task beside it looks whether an answer is ready that nobody
//! asks for, and in the end drops what the stream holds: answers that are ready,
//! reads that are under way, its count as a user of the branch. The stream's
//! next poll, if there is one, says why.

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

/// Looks at a stream within the time after which it counts as stalled.
const LOOKS: u32 = 4;

/// `answers`, ended by `ticket` and when none is taken for the ticket's
/// `stall` time.
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
    let watching = watch(Arc::downgrade(&held), stall);
    tokio::spawn(watching.instrument(branch.span()));
    Box::pin(Guarded {
        held,
        end,
        branch,
        stall,
        done: false,
    })
}

/// What a stream holds, shared with the task that looks after it.
struct Held<T> {
    /// None once the stream has ended or stalled.
    inner: Option<(Answers<T>, StreamTicket)>,
    polls: u64,
    /// The last poll returned an answer, or there is one by now, and nothing was
    /// asked for since: the caller has not taken it yet.
    untaken: bool,
    /// Whom the last poll that found nothing left waiting.
    waker: Option<Waker>,
    /// An answer, or the end, that was found since.
    ready: Option<Option<Result<T, Status>>>,
}

impl<T> Held<T> {
    /// Looks for an answer that came since the last poll. Waiting for room on
    /// the connection, its task does not ask for it.
    fn look(&mut self) {
        let (Some((answers, _)), Some(waker), None) = (&mut self.inner, &self.waker, &self.ready)
        else {
            return;
        };
        // With the waker of the stream's own task, which stays registered.
        if let Poll::Ready(item) = answers.as_mut().poll_next(&mut Context::from_waker(waker)) {
            self.ready = Some(item);
            self.untaken = true;
            waker.wake_by_ref();
        }
    }
}

/// Ends the stream once it has had an answer ready for `stall` and was not
/// polled.
async fn watch<T>(held: std::sync::Weak<Mutex<Held<T>>>, stall: Duration) {
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
                "a stream was ended: its caller took no answer for {} s",
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
    /// The last item.
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
