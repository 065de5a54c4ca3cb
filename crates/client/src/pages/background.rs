//! The background thread: receives the pages that no thread waits for, tries failed
//! reads again, and pings a server that is silent while something waits for it.

use super::call::{Outcome, Request};
use super::link::Link;
use super::pool::Pool;
use crate::backoff::Jitter;
use crate::log::LONG;
use crate::refusal::{Closed, Code};
use crate::shared::Shared;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_wire::Role;

/// The limit of reads under way at which the thread repeats no more of them.
const UNDER_WAY_MAX: usize = 128;

/// Runs until the pool is stopped.
pub fn run(shared: &Arc<Shared>, pool: &Pool) {
    let _end = Closing(pool);
    let mut jitter = Jitter::from(&shared.config.entropy);
    let mut failures = 0;
    while !pool.is_stopped() {
        let dialed = match shared.is_fenced() {
            true => Err(Closed::Broken(shared.fenced_error().message)),
            false => pool.dial(Role::Pages),
        };
        let why = match dialed {
            Ok(link) => {
                failures = 0;
                let link = Arc::new(link);
                link.lead_for_good();
                pool.set_background(Some(Arc::clone(&link)));
                let why = serve(shared, pool, &link);
                pool.set_background(None);
                finish(pool, &link);
                why
            }
            Err(why) => why,
        };
        if pool.is_stopped() {
            break;
        }
        fail_what_is_late(shared, pool, &why);
        failures += 1;
        pool.nap(jitter.wait(failures));
    }
}

/// Cancels what is left when the thread ends for any reason.
struct Closing<'a>(&'a Pool);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.stop();
        // The drop completes the calls.
        drop(self.0.rest_of_calls());
    }
}

/// Serves one link until it ends; says why it did.
fn serve(shared: &Shared, pool: &Pool, link: &Link) -> Closed {
    let limits = &shared.limits;
    let mut probe = Probe {
        sent: limits.now(),
        waits: false,
    };
    loop {
        if pool.is_stopped() {
            link.close(Closed::Broken("the library is being shut down".to_owned()));
        }
        if let Some(why) = link.closed() {
            return why;
        }
        if shared.is_fenced() {
            let why = Closed::Broken(shared.fenced_error().message);
            pool.lost(&why);
            link.close(why);
            continue;
        }
        let now = limits.now();
        // While this thread sends, nobody receives, and a server whose answers nobody
        // takes reads no requests.
        let (due, next) = pool.due(now, UNDER_WAY_MAX.saturating_sub(link.load()));
        for call in due {
            let request = Request::Page(call.get, call.target);
            if let Some(call) = link.submit_background(request, Some(call), limits) {
                pool.again(now, call);
            }
        }
        let tick = limits.tick();
        let tick = next.map_or(tick, |at| {
            at.saturating_duration_since(now)
                .clamp(Duration::from_millis(1), tick)
        });
        for (call, outcome) in link.receive_for(tick, limits) {
            match call {
                Some(call) => pool.ended(call, outcome),
                None => probe.answered(shared, outcome),
            }
        }
        probe.look(shared, pool, link);
    }
}

/// Passes on the outcomes of a link that has ended.
fn finish(pool: &Pool, link: &Link) {
    for (call, outcome) in link.take_ended() {
        if let Some(call) = call {
            pool.ended(call, outcome);
        }
    }
}

/// Fails reads that have waited too long for a link, or that a newer compute forbids.
fn fail_what_is_late(shared: &Shared, pool: &Pool, why: &Closed) {
    if let Closed::Refused(refusal) = why
        && refusal.code == Code::FailedPrecondition
    {
        shared.fence(&refusal.message);
    }
    if matches!(why, Closed::Silent(_)) {
        // The server answers no ping, so the other connections are of no use either.
        pool.lost(why);
        if let Some(queue) = shared.redo.get() {
            queue.lost(why);
        }
    }
    let (due, _) = pool.due(shared.limits.now(), usize::MAX);
    for call in due {
        pool.ended(call, Outcome::Closed(why.clone()));
    }
}

/// The pings. While something waits and the server is silent, its answer to a ping lets
/// the wait go on: see [`crate::config::Limits::gives_up`].
struct Probe {
    sent: Instant,
    waits: bool,
}

impl Probe {
    fn answered(&mut self, shared: &Shared, outcome: Outcome) {
        self.waits = false;
        if let Outcome::Pong(standing) = outcome {
            shared.stands(&standing);
        }
    }

    fn look(&mut self, shared: &Shared, pool: &Pool, link: &Link) {
        let limits = &shared.limits;
        let now = limits.now();
        let redo = shared.redo.get().and_then(|queue| queue.waits());
        let since = [redo.map(|(since, _)| since), pool.oldest()]
            .into_iter()
            .flatten()
            .min();
        let Some(since) = since else {
            return shared.stalls.over(now);
        };
        if now.saturating_duration_since(since) < LONG {
            shared.stalls.over(now);
        }
        let heard = limits.last_heard();
        if let (Some((since, lsn)), Some(heard)) = (redo, heard)
            && heard > since
        {
            let why = format!("redo after LSN {lsn} is not durable yet");
            shared.stalls.waits(since, &why, now);
        }
        let silent = |at: Instant| now.saturating_duration_since(at) >= limits.silence();
        if !self.waits && silent(self.sent) && heard.is_none_or(silent) {
            self.sent = now;
            self.waits = true;
            // It belongs to no call.
            let _ = link.submit_background(Request::Ping, None, limits);
        }
    }
}
