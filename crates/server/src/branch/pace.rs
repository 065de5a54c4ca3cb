//! How fast a branch's writer may go while ingest or merges lag behind it.
//!
//! The debt is what has been promised and not done yet: redo that is durable
//! and not ingested, against a soft limit, and layers that wait to be merged,
//! against a limit of their own. Below the limit nobody waits. Above it the
//! writer is given a rate: at the limit twice what ingest achieves, at twice
//! the limit what it achieves, then less and less, so that the debt settles
//! below three times the limit however slow ingest is.
//!
//! The rate is kept by a clock that runs ahead: each group of frames moves the
//! time before which the next may not be taken by its bytes over the rate. A
//! small commit therefore waits for about its own bytes, not for a fixed pause.

use std::time::Duration;

/// The rate never falls below this, in bytes a second: a writer is not stopped
/// for good by a figure that may be wrong. A day of it is 5.7 GB.
pub const RATE_MIN: f64 = 64.0 * 1024.0;
/// The rate that ingest is taken to have before it was measured.
const RATE_UNKNOWN: f64 = 16.0 * 1024.0 * 1024.0;
/// The measure of ingest's rate spans about this time.
const RATE_WINDOW: Duration = Duration::from_secs(2);
/// Waits shorter than this are saved up: a timer is no finer.
const WAIT_MIN: Duration = Duration::from_millis(2);
/// What merges owe slows writers no further than this: to a tenth of what
/// ingest achieves. Merges that are stuck owe more and more, whatever writers do.
const MERGE_PRESSURE_MAX: f64 = 2.9;
/// The longest single wait: the debt is looked at again behind it.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// What is owed, in units of the limit from which writers are slowed: below 1
/// nobody waits.
pub fn pressure(lag: u64, lag_limit: u64, merge_debt: u64, merge_limit: u64) -> f64 {
    let share = |debt: u64, limit: u64| debt as f64 / limit.max(1) as f64;
    let merges = share(merge_debt, merge_limit).min(MERGE_PRESSURE_MAX);
    share(lag, lag_limit).max(merges)
}

/// The writer's rate in bytes a second, where ingest achieves `ingest`; none
/// without a limit.
fn rate(pressure: f64, ingest: f64) -> Option<f64> {
    if pressure <= 1.0 {
        return None;
    }
    // 2 at 1, 1 at 2, 0 at 3.
    let share = (3.0 - pressure).max(0.0);
    Some((ingest * share).max(RATE_MIN))
}

/// One writer's clock. Times are since any fixed moment.
#[derive(Debug)]
pub struct Pace {
    /// The next group may not be taken before.
    free_at: Duration,
    /// Where ingest stood when it was last looked at.
    seen: Option<(Duration, u64)>,
    /// What ingest achieves, in bytes a second.
    ingest: f64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            free_at: Duration::ZERO,
            seen: None,
            ingest: RATE_UNKNOWN,
        }
    }
}

impl Pace {
    /// A group of `bytes` was taken at `now`, ingest stands at LSN `applied`:
    /// how long the next must wait.
    pub fn after(
        &mut self,
        now: Duration,
        bytes: u64,
        applied: u64,
        pressure: f64,
    ) -> Option<Duration> {
        let Some(rate) = rate(pressure, self.ingest) else {
            // Ingest that has nothing to do says nothing of what it can do.
            self.seen = None;
            self.free_at = now;
            return None;
        };
        self.measure(now, applied);
        let cost = Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(WAIT_MAX);
        self.free_at = self.free_at.max(now).saturating_add(cost);
        let wait = self.free_at.saturating_sub(now);
        if wait < WAIT_MIN {
            return None;
        }
        // What lies beyond is waited for in further steps, by debt as it is then.
        Some(wait.min(WAIT_MAX))
    }

    /// Whether more of the last group's cost is to be waited for at `now`.
    pub fn rest(&mut self, now: Duration, applied: u64, pressure: f64) -> Option<Duration> {
        self.after(now, 0, applied, pressure)
    }

    fn measure(&mut self, now: Duration, applied: u64) {
        let Some((then, from)) = self.seen else {
            self.seen = Some((now, applied));
            return;
        };
        let time = now.saturating_sub(then);
        if time < RATE_WINDOW / 8 {
            return;
        }
        let achieved = applied.saturating_sub(from) as f64 / time.as_secs_f64();
        let weight = (time.as_secs_f64() / RATE_WINDOW.as_secs_f64()).min(1.0);
        self.ingest += (achieved - self.ingest) * weight;
        self.seen = Some((now, applied));
    }
}

#[cfg(test)]
mod tests;
