//! When a failed request is tried again: exponential backoff with jitter, and
//! the point at which a caller gives up.

#[cfg(test)]
mod tests;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use std::time::Duration;
use xylem_ambient::Entropy;

/// When a request that keeps failing is reported to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// A failure that an operator must mend (credentials, a missing bucket, a
    /// full disk) is reported at once. No attempt begins this long after the
    /// first.
    After(Duration),
    /// Only a failure that no later attempt can change is reported. The request
    /// waits for everything else, also for an operator.
    Never,
}

impl GiveUp {
    /// The time after which no attempt begins; `None` without such a limit.
    pub(crate) fn limit(self) -> Option<Duration> {
        match self {
            GiveUp::After(limit) => Some(limit),
            GiveUp::Never => None,
        }
    }
}

/// How failed requests are tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The longest that the first wait may be; each later limit is twice the
    /// one before. Waits are random, between half and all of their limit.
    pub first_wait: Duration,
    /// The most that this limit grows to.
    pub longest_wait: Duration,
    /// When a failure is reported.
    pub give_up: GiveUp,
    /// An attempt that has no answer by then counts as failed, and its outcome
    /// as unknown.
    pub attempt_timeout: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(5),
            give_up: GiveUp::After(Duration::from_secs(60)),
            attempt_timeout: Duration::from_secs(30),
        }
    }
}

impl Retry {
    /// The default waits, without an end.
    pub fn forever() -> Retry {
        Retry {
            give_up: GiveUp::Never,
            ..Retry::default()
        }
    }

    /// The waits of one request. The jitter keeps requests that failed together
    /// from coming back together; its seed comes from `entropy`.
    pub fn waits(&self, entropy: &Entropy) -> Waits {
        // Without randomness the waits still grow.
        let seed = entropy.next().unwrap_or_default() as u64;
        // `backon` adds up to as much again to each wait.
        Waits(
            ExponentialBuilder::new()
                .with_min_delay(self.first_wait / 2)
                .with_max_delay(self.longest_wait / 2)
                .without_max_times()
                .with_jitter()
                .with_jitter_seed(seed)
                .build(),
        )
    }
}

/// Growing random waits, without an end.
#[derive(Debug)]
pub struct Waits(ExponentialBackoff);

impl Waits {
    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        self.0.next().unwrap_or_default()
    }

    /// The wait behind `skipped` others.
    pub(crate) fn nth_wait(&mut self, skipped: usize) -> Duration {
        self.0.nth(skipped).unwrap_or_default()
    }
}
