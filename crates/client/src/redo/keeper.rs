//! The thread of the redo stream: connects, sends what the system had no room for, and
//! receives what nobody waits for.

use super::link::Link;
use super::queue::{Queue, Task};
use crate::backoff::Jitter;
use crate::log::{self, Level};
use crate::refusal::{Closed, Code};
use crate::shared::{Shared, remember};
use crate::socket::Socket;
use crate::status::{Error, Status};
use std::sync::Arc;
use std::time::Instant;
use xylem_wire::{Ack, Role};

/// Opens the stream, and makes the queue from what the server has. The numbering of
/// frames continues after it, and its LSN must be the one at which this compute's redo
/// begins.
///
/// # Errors
/// When the server refuses the stream, or at `until`.
pub fn begin(shared: &Shared, until: Instant) -> Result<Arc<Queue>, Error> {
    let mut jitter = Jitter::from(&shared.config.entropy);
    let mut failures = 0;
    let (socket, received, standing) = loop {
        let closed = match Socket::connect(shared, Role::Redo) {
            Ok(connected) => break connected,
            Err(closed) => closed,
        };
        if let Some(error) = refusal(shared, &closed) {
            return Err(error);
        }
        failures += 1;
        let wait = jitter.wait(failures);
        if shared.limits.now() + wait >= until {
            let message = format!("redo stream: {closed}");
            return Err(Error::new(Status::Timeout, message));
        }
        // The thread that starts InnoDB has nothing else to do.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(wait);
    };
    shared.stands(&standing);
    if shared.is_fenced() {
        return Err(shared.fenced_error());
    }
    let (first, start_lsn) = (standing.ack, shared.config.start_lsn);
    if first.durable_lsn != start_lsn {
        return Err(Error::new(
            Status::Invalid,
            format!(
                "the redo of branch {} ends at LSN {} on page server {}, but this compute begins at LSN \
                 {start_lsn}; hint: attach again",
                shared.config.branch,
                first.durable_lsn,
                shared.config.server()
            ),
        ));
    }
    let limit = usize::try_from(shared.config.queue_bytes).unwrap_or(usize::MAX);
    let queue = Arc::new(Queue::new(&first, limit, shared.limits.now()));
    let stats = &shared.stats;
    stats.lsn_queued.set(first.durable_lsn);
    stats.lsn_sent.raise(first.durable_lsn);
    let link = Link::new(queue.next_link(), socket, received);
    queue.resume(link, &first, shared)?;
    stats.connected.set(1);
    // Fencing finds the queue here.
    let _ = shared.redo.set(queue.clone());
    Ok(queue)
}

/// Keeps the stream going until it fails or is stopped.
pub fn run(shared: &Shared, queue: &Queue) {
    let _end = Closing(queue);
    let mut jitter = Jitter::from(&shared.config.entropy);
    let mut failures = 0;
    loop {
        match queue.task(shared.limits.tick()) {
            Task::End => break,
            Task::Look(link) => {
                failures = 0;
                queue.look(&link, shared);
            }
            Task::Send(link) => {
                link.wait_for_room(shared.limits.tick());
                queue.send(shared);
            }
            Task::Connect(why, worked) => {
                shared.stats.connected.set(0);
                // A server that welcomes and then fails is not asked at once.
                if worked {
                    failures = 0;
                }
                if let Some(why) = why
                    && !goes_on(shared, queue, &why)
                {
                    break;
                }
                if failures > 0 && queue.nap(jitter.wait(failures)) {
                    break;
                }
                failures += 1;
                match Socket::connect(shared, Role::Redo) {
                    Ok((socket, received, standing)) => {
                        let link = Link::new(queue.next_link(), socket, received);
                        shared.stands(&standing);
                        resume(shared, queue, link, &standing.ack);
                    }
                    Err(closed) => {
                        if !goes_on(shared, queue, &closed) {
                            break;
                        }
                    }
                }
            }
        }
    }
    shared.stats.connected.set(0);
}

fn resume(shared: &Shared, queue: &Queue, link: Link, first: &Ack) {
    shared.stats.reconnects.add(1);
    shared.reach.back(shared.limits.now());
    match queue.resume(link, first, shared) {
        Ok(()) => shared.stats.connected.set(1),
        Err(error) => failed(shared, queue, error),
    }
}

/// Fails the queue when the thread ends for any reason, so that no caller waits
/// for it. An earlier error is kept.
struct Closing<'a>(&'a Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let error = Error::new(Status::Cancelled, "the redo stream has ended");
        self.0.fail(error);
    }
}

/// Whether to connect again after `closed`. If not, the queue has failed.
fn goes_on(shared: &Shared, queue: &Queue, closed: &Closed) -> bool {
    let server = shared.config.server();
    if let Closed::Refused(refusal) = closed
        && refusal.code == Code::DataLoss
        && queue.refused()
    {
        log::write(
            Level::Warning,
            &format!("page server {server} refused redo; sending it once more: {refusal}"),
        );
        return true;
    }
    if let Some(mut error) = refusal(shared, closed) {
        if error.status == Status::Corrupt {
            error.message.push_str(" (the redo was sent twice)");
        }
        failed(shared, queue, error);
        return false;
    }
    let now = shared.limits.now();
    shared
        .reach
        .lost(&closed.to_string(), shared.limits.retry_limit(), now);
    true
}

/// The error if the server refuses the stream for good.
fn refusal(shared: &Shared, closed: &Closed) -> Option<Error> {
    let Closed::Refused(refusal) = closed else {
        return None;
    };
    if refusal.code.retry_connection() {
        return None;
    }
    let mut error = shared.refused(refusal, "redo stream");
    if error.status == Status::NotFound {
        // The branch is missing, not a page.
        error.status = Status::Error;
    }
    Some(error)
}

/// Fails the queue, and logs the error.
fn failed(shared: &Shared, queue: &Queue, error: Error) {
    remember(&error);
    // Fencing was logged, and a shutdown is no failure.
    if !matches!(error.status, Status::Fenced | Status::Cancelled) {
        let server = shared.config.server();
        log::write(
            Level::Error,
            &format!("redo stream to {server} ended: {error}"),
        );
    }
    queue.fail(error);
}
