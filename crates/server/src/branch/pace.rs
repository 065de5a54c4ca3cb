//! Pacing: the rate of a branch's writer while ingest or merges lag behind it.
//!
//! Debt is work that waits: durable redo that is not ingested, relative to a soft
//! limit, and layers that wait to be merged, relative to a limit of their own. Below
//! the limit the writer does not wait. Above the limit the writer gets a rate: twice
//! the rate of ingest at the limit, the rate of ingest at twice the limit, and less
//! beyond that. The debt therefore settles below three times the limit, however slow
//! ingest is.
//!
//! A clock that runs ahead enforces the rate: each group of frames moves the time of
//! the next group forward by its bytes divided by the rate. A small commit therefore
//! waits in proportion to its own bytes, not for a fixed pause.

use std::time::Duration;

/// The lowest rate, in bytes per second: a figure that may be wrong must not stop a
/// writer for good. A day at this rate is 5.7 GB.
pub const RATE_MIN: f64 = 64.0 * 1024.0;
/// The assumed rate of ingest before the first measurement, in bytes per second.
const RATE_UNKNOWN: f64 = 16.0 * 1024.0 * 1024.0;
/// The approximate time over which the rate of ingest is averaged.
const RATE_WINDOW: Duration = Duration::from_secs(2);
/// Shorter waits accumulate: a timer is not finer than this.
const WAIT_MIN: Duration = Duration::from_millis(2);
/// The limit of pressure from merges: it slows writers to a tenth of the rate of
/// ingest. The debt of merges that are stuck grows whatever writers do.
const MERGE_PRESSURE_MAX: f64 = 2.9;
/// The longest single wait; after it the debt is read again.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// The debt relative to the limit. Writers are slowed above 1.
pub fn pressure(lag: u64, lag_limit: u64, merge_debt: u64, merge_limit: u64) -> f64 {
    let share = |debt: u64, limit: u64| debt as f64 / limit.max(1) as f64;
    let merges = share(merge_debt, merge_limit).min(MERGE_PRESSURE_MAX);
    share(lag, lag_limit).max(merges)
}

/// The writer's rate in bytes per second, given the rate of ingest; `None`: no limit.
fn rate(pressure: f64, ingest: f64) -> Option<f64> {
    if pressure <= 1.0 {
        return None;
    }
    // Pressure 1 gives 2, pressure 2 gives 1, pressure 3 gives 0.
    let share = (3.0 - pressure).max(0.0);
    Some((ingest * share).max(RATE_MIN))
}

/// The clock of one writer. Times are relative to any fixed moment.
#[derive(Debug)]
pub struct Pace {
    /// The next group may not be taken before this time.
    free_at: Duration,
    /// The time and the applied LSN of the last measurement.
    seen: Option<(Duration, u64)>,
    /// The measured rate of ingest, in bytes per second.
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
    /// Accounts for a group of `bytes` taken at `now`, with ingest at LSN `applied`,
    /// and returns how long the next group must wait.
    pub fn after(
        &mut self,
        now: Duration,
        bytes: u64,
        applied: u64,
        pressure: f64,
    ) -> Option<Duration> {
        let Some(rate) = rate(pressure, self.ingest) else {
            // The rate of an idle ingest says nothing about what it can achieve.
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
        // `rest` returns the remainder, recomputed from the debt at that time.
        Some(wait.min(WAIT_MAX))
    }

    /// How much of the last group's cost remains to wait for at `now`.
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
