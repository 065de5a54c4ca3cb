//! Times of the WAL as timestamps.

use jiff::Timestamp;
use xylem_ambient::Clock;

/// Converts microseconds since 1970; `None` if out of range.
pub fn timestamp(time_us: u64) -> Option<Timestamp> {
    Timestamp::from_microsecond(i64::try_from(time_us).ok()?).ok()
}

/// The present time of `clock`; 1970 if the clock is out of range.
pub fn now(clock: &Clock) -> Timestamp {
    timestamp(clock.now_us()).unwrap_or(Timestamp::UNIX_EPOCH)
}
