//! The time of day, which can jump, and steady time, which cannot.

use std::fmt;
use std::sync::Arc;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

/// The zero of the system's steady clock.
#[allow(
    clippy::disallowed_methods,
    reason = "the only place that asks the system"
)]
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

type Source = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The time of day in microseconds since 1970, which can jump, and a steady
/// count of microseconds, which cannot. Clones share one clock.
#[derive(Clone)]
pub struct Clock {
    now: Source,
    steady: Source,
}

impl Clock {
    /// A clock whose time of day and steady time are both what `now` returns.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Clock {
        let now: Source = Arc::new(now);
        Clock {
            steady: Arc::clone(&now),
            now,
        }
    }

    /// A clock whose time of day is what `now` returns. `steady` counts
    /// microseconds from an arbitrary start, at the rate of real time.
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
        reason = "the only place that asks the system"
    )]
    pub fn system() -> Clock {
        LazyLock::force(&START);
        Clock::with_steady(
            || {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                // Outside 1970 to about 500000 the clock is not set.
                since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(0))
            },
            || u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX),
        )
    }

    /// The time of day in microseconds since 1970.
    pub fn now_us(&self) -> u64 {
        (self.now)()
    }

    /// Steady time in microseconds. Only differences within one process have a
    /// meaning.
    pub fn steady_us(&self) -> u64 {
        (self.steady)()
    }

    /// Steady time since `instant`; zero if `instant` is in the future.
    pub fn since(&self, instant: Instant) -> Duration {
        self.instant().saturating_duration_since(instant)
    }

    /// Steady time as an [`Instant`], for deadlines. With the system's clock
    /// this is the present instant, so a thread can sleep until it.
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
