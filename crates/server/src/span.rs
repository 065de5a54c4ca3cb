//! Spans of time as people write them: `7d`, `36h`, `90s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of time, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Text that is not a span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a span of time: write a whole number with a unit, such as 90s, 15m, 36h or 7d"
)]
pub struct SpanError(String);

/// Unit and milliseconds; longer names first where one ends like another.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Span, SpanError> {
        let bad = || SpanError(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| lower.strip_suffix(name).map(|n| (n, *unit)))
            .ok_or_else(bad)?;
        let number: u64 = number.trim().parse().map_err(|_| bad())?;
        let millis = number.checked_mul(unit).ok_or_else(bad)?;
        Ok(Span(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let units = UNITS.iter().rev();
        for (name, unit) in units.filter(|(_, unit)| millis >= *unit) {
            if millis.is_multiple_of(*unit) {
                return write!(f, "{}{name}", millis / unit);
            }
        }
        write!(f, "{millis}ms")
    }
}
