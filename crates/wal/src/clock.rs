//! The clock that entries take their time from.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Tells the time in microseconds since 1970. It may go back; a log does not
/// follow it there. Clones are the same clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock that says what `now` returns.
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// The system's clock.
    pub fn system() -> Clock {
        Clock::new(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            // Before 1970, or after the year 500000: the clock is not set.
            since.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(0))
        })
    }

    /// What it says now.
    pub(crate) fn now(&self) -> u64 {
        (self.0)()
    }

    /// What it says now, but never less than `last`, which it replaces.
    pub(crate) fn after(&self, last: &mut u64) -> u64 {
        *last = (self.0)().max(*last);
        *last
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
