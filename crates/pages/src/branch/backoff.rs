//! The pause after a failure, which doubles with each further one.

use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause. Work that makes little sense to try again waits so long.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The last pause and when it ends; none after a success. The caller says what
/// time it is, by the clock that paces its thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff(Option<(Duration, Instant)>);

impl Backoff {
    /// Begins a pause twice as long as the one before.
    pub(crate) fn failed(&mut self, now: Instant) {
        let pause = self.0.map_or(PAUSE_MIN, |(p, _)| (p * 2).min(PAUSE_MAX));
        self.0 = Some((pause, now + pause));
    }

    /// Begins the longest pause: to try again makes little sense.
    pub(crate) fn failed_for_long(&mut self, now: Instant) {
        self.0 = Some((PAUSE_MAX, now + PAUSE_MAX));
    }

    pub(crate) fn succeeded(&mut self) {
        self.0 = None;
    }

    /// Whether the last attempt failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it may be tried again.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.0.is_none_or(|(_, until)| now >= until)
    }
}
