//! Durations with units: `7d`, `36h`, `500ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration that is parsed and displayed with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration: write a whole number with a unit, such as 500ms, 90s, 15m, 36h or 7d"
)]
pub struct SpanError(String);

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Span, SpanError> {
        // `M` would be months: no setting is so long, and people mean minutes.
        humantime::parse_duration(&text.trim().to_ascii_lowercase())
            .map(Span)
            .map_err(|_| SpanError(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}
