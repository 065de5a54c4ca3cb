//! How long something takes, by a clock that a test can hold.

use std::time::{Duration, Instant};
use xylem_ambient::Clock;

/// A timer that runs.
#[derive(Clone, Debug)]
pub struct Timer {
    clock: Clock,
    began: Instant,
}

impl Timer {
    /// Begins to count.
    pub fn start(clock: &Clock) -> Timer {
        Timer {
            clock: clock.clone(),
            began: clock.instant(),
        }
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.clock.instant().saturating_duration_since(self.began)
    }
}
