//! Times of the WAL as timestamps.

use jiff::Timestamp;
use xylem_ambient::Clock;

/// A time in microseconds since 1970, if there is such a one.
pub fn timestamp(time_us: u64) -> Option<Timestamp> {
    Timestamp::from_microsecond(i64::try_from(time_us).ok()?).ok()
}

/// The present time of `clock`; 1970 when it is not set.
pub fn now(clock: &Clock) -> Timestamp {
    timestamp(clock.now_us()).unwrap_or(Timestamp::UNIX_EPOCH)
}
