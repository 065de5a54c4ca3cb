//! When a failed request is tried again: exponential backoff with jitter.

use rand::Rng;
use std::time::Duration;
use tokio::time::Instant;

/// How long to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The first wait, about; each later one is twice as long.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// No attempt begins this long after the first.
    pub give_up_after: Duration,
    /// An attempt that has no answer by then counts as failed.
    pub attempt_timeout: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(5),
            give_up_after: Duration::from_secs(60),
            attempt_timeout: Duration::from_secs(30),
        }
    }
}

/// One request's attempts.
pub(crate) struct Backoff {
    retry: Retry,
    began: Instant,
    next: Duration,
    pub(crate) attempts: u32,
}

impl Backoff {
    pub(crate) fn new(retry: Retry) -> Backoff {
        Backoff {
            retry,
            began: Instant::now(),
            next: retry.first_wait,
            attempts: 0,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How long to wait before the next attempt; `None` when the time is over.
    pub(crate) fn next_wait(&mut self) -> Option<Duration> {
        let most = self.next;
        self.next = (most * 2).min(self.retry.longest_wait);
        // Between half and all of it, so that those who failed together do not
        // come back together.
        let wait = most.mul_f64(rand::rng().random_range(0.5..=1.0));
        (self.elapsed() + wait < self.retry.give_up_after).then_some(wait)
    }
}
