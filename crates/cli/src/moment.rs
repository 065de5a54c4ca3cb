//! Moments as people write them: an LSN, a time, so long ago.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Unit};

/// A moment of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This LSN.
    Lsn(u64),
    /// This time.
    Time(Timestamp),
}

/// The forms that are understood, for errors.
const FORMS: &str = "write an LSN (123456), a time as RFC 3339 has it (2026-11-22T14:05:00Z), a local time ('2026-11-22 14:05', '2026-11-22 14:05:07.5', 14:05 today), or how long ago ('5 minutes ago', '2 hours ago')";

impl Moment {
    /// Reads `text` as of now, in this machine's time zone.
    ///
    /// # Errors
    /// Shows the forms that are understood.
    pub fn parse(text: &str) -> Result<Moment, String> {
        parse(text, Timestamp::now(), &TimeZone::system())
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Moment::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Moment::Time(time) => write!(f, "{time}"),
        }
    }
}

/// Reads `text` as of `now`, where local times are those of `zone`.
///
/// # Errors
/// As for [`Moment::parse`]; a local time that was there twice, or not at all.
pub fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Moment, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(lsn) => Ok(Moment::Lsn(lsn)),
            Err(_) => Err(format!("{text} is larger than any LSN")),
        };
    }
    if let Some(span) = text.strip_suffix("ago") {
        let span = so_long(span).ok_or_else(|| not_understood(text))?;
        // Nobody means it to the nanosecond.
        let then = now
            .checked_sub(span)
            .and_then(|then| then.round(Unit::Millisecond));
        return then
            .map(Moment::Time)
            .map_err(|_| format!("{text:?} is before time began"));
    }
    // With an offset from UTC, or `Z` for none.
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Moment::Time(time));
    }
    let today = || zone.to_datetime(now).date();
    let local = local(text, today).ok_or_else(|| not_understood(text))?;
    let there = zone.to_ambiguous_timestamp(local);
    if there.is_ambiguous() {
        let one = |time: Result<Timestamp, jiff::Error>| {
            time.map_or_else(
                |_| "a time out of range".to_owned(),
                |time| time.to_string(),
            )
        };
        let (earlier, later) = (one(there.earlier()), one(there.later()));
        return Err(format!(
            "{text:?} is not one moment, as clocks were changed then: write {earlier} or {later}"
        ));
    }
    let time = there.unambiguous().map_err(|error| error.to_string())?;
    Ok(Moment::Time(time))
}

fn not_understood(text: &str) -> String {
    format!("{text:?} is neither an LSN nor a time: {FORMS}")
}

/// `2026-11-22 14:05`, or `14:05` on the day that `today` says, with seconds
/// and fractions of them or without.
fn local(text: &str, today: impl Fn() -> Date) -> Option<DateTime> {
    let (date, time) = match text.split_once([' ', 'T']) {
        Some((date, time)) => (date.parse().ok()?, time.trim_start()),
        None => (today(), text),
    };
    // What jiff would also take: a time without minutes, a name of a zone.
    let plain = |byte: u8| byte.is_ascii_digit() || b":.".contains(&byte);
    if !time.contains(':') || !time.bytes().all(plain) {
        return None;
    }
    let padded = if time.find(':') == Some(1) { "0" } else { "" };
    let time: Time = format!("{padded}{time}").parse().ok()?;
    Some(DateTime::from_parts(date, time))
}

/// `5 minutes`, `1h 30m`, `an hour`, `2.5 days`.
fn so_long(text: &str) -> Option<SignedDuration> {
    let mut rest = text.trim();
    let mut sum = SignedDuration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let after = after.trim_start();
        let (number, after) = match number {
            "" => (1.0, after.strip_prefix("an ").or(after.strip_prefix("a "))?),
            digits => (digits.parse::<f64>().ok()?, after),
        };
        let after = after.trim_start();
        let unit_end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let part = SignedDuration::try_from_secs_f64(number * seconds(unit)?).ok()?;
        sum = sum.checked_add(part)?;
        rest = after.trim_start_matches([',', ' ']);
        rest = rest.strip_prefix("and ").unwrap_or(rest).trim_start();
    }
    Some(sum)
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "week" | "weeks" => 604_800.0,
        _ => return None,
    })
}
