//! The time of day, which may jump, and steady time, which does not.

use std::fmt;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

/// Where the system's steady clock begins to count.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that asks the system"
)]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

type Source = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Tells the time in microseconds since 1970, which may jump, and counts
/// microseconds on a steady clock, which does not. Clones are the same clock.
#[derive(Clone)]
pub struct Clock {
    now: Source,
    steady: Source,
}

impl Clock {
    /// A clock that says what `now` returns, and is steady as it is.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Clock {
        let now: Source = Arc::new(now);
        Clock {
            steady: Arc::clone(&now),
            now,
        }
    }

    /// A clock that says what `now` returns. `steady` counts microseconds from
    /// anywhere, in step with real time.
    pub fn with_steady(
        now: impl Fn() -> u64 + Send + Sync + 'static,
        steady: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Clock {
        Clock {
            now: Arc::new(now),
            steady: Arc::new(steady),
        }
    }

    /// The system's clocks.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place that asks the system"
    )]
    pub fn system() -> Clock {
        LazyLock::force(&START);
        Clock::with_steady(
            || {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                // Before 1970, or after the year 500000: the clock is not set.
                since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(0))
            },
            || u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX),
        )
    }

    /// Microseconds since 1970.
    pub fn now_us(&self) -> u64 {
        (self.now)()
    }

    /// Microseconds of the steady clock. Only differences within a process
    /// mean anything.
    pub fn steady_us(&self) -> u64 {
        (self.steady)()
    }

    /// How long ago `instant` was by the steady clock.
    pub fn since(&self, instant: Instant) -> Duration {
        self.instant().saturating_duration_since(instant)
    }

    /// The steady clock as an [`Instant`], for deadlines. With the system's
    /// clock this is the present instant, so that it can be waited for.
    pub fn instant(&self) -> Instant {
        *START + Duration::from_micros(self.steady_us())
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({} µs)", self.now_us())
    }
}
