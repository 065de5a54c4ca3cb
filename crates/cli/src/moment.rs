//! Moments as people write them: an LSN, a time, how long ago, or a GTID.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Unit};
use xylem_binlog::{BadGtid, Gtid};

/// A moment of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This LSN.
    Lsn(u64),
    /// This time.
    Time(Timestamp),
    /// Right after this transaction, in the branch's own binary log.
    Gtid(Gtid),
}

/// A moment as it was written. What it means may depend on the present time and
/// the time zone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// An LSN.
    Lsn(u64),
    /// A time with its offset from UTC.
    Time(Timestamp),
    /// A duration before now.
    Ago(SignedDuration),
    /// A local date and time.
    Local(DateTime),
    /// A local time of today.
    Today(Time),
    /// A transaction of the branch's own binary log.
    Gtid(Gtid),
}

/// The forms that are understood, for errors.
const FORMS: &str = "write an LSN (123456), a time as RFC 3339 has it (2026-11-22T14:05:00Z), a local time ('2026-11-22 14:05', '2026-11-22 14:05:07.5', 14:05 today), how long ago ('5 minutes ago', '2 hours ago'), or a transaction of the branch's own binary log (gtid:0-1-42)";

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Moment::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Moment::Time(time) => write!(f, "{time}"),
            Moment::Gtid(gtid) => write!(f, "GTID {gtid}"),
        }
    }
}

impl When {
    /// Reads `text`.
    ///
    /// # Errors
    /// Shows the forms that are understood.
    pub fn parse(text: &str) -> Result<When, String> {
        let text = text.trim();
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(lsn) => Ok(When::Lsn(lsn)),
                Err(_) => Err(format!("{text} is larger than any LSN")),
            };
        }
        if let Some(gtid) = text.strip_prefix("gtid:") {
            return When::parse_gtid(gtid);
        }
        let parsed = match text.strip_suffix("ago") {
            Some(span) => so_long(span).map(When::Ago),
            // With an offset from UTC, or `Z` for none.
            None => match text.parse::<Timestamp>() {
                Ok(time) => Some(When::Time(time)),
                Err(_) => local(text),
            },
        };
        parsed.ok_or_else(|| format!("{text:?} is neither an LSN nor a time: {FORMS}"))
    }

    /// Reads a GTID.
    ///
    /// # Errors
    /// Shows the form of one.
    pub fn parse_gtid(text: &str) -> Result<When, String> {
        let gtid = text.trim().parse().map(When::Gtid);
        gtid.map_err(|error: BadGtid| error.to_string())
    }

    /// The moment's meaning at `now`, where local times are those of `zone`.
    ///
    /// # Errors
    /// When the clocks of `zone` skipped that local time or showed it twice.
    pub fn resolve(self, now: Timestamp, zone: &TimeZone) -> Result<Moment, String> {
        let local = match self {
            When::Lsn(lsn) => return Ok(Moment::Lsn(lsn)),
            When::Time(time) => return Ok(Moment::Time(time)),
            When::Gtid(gtid) => return Ok(Moment::Gtid(gtid)),
            When::Ago(span) => {
                // Nobody means it to the nanosecond.
                let then = now.checked_sub(span);
                let then = then.and_then(|then| then.round(Unit::Millisecond));
                return then
                    .map(Moment::Time)
                    .map_err(|_| "that long ago is before time began".to_owned());
            }
            When::Local(local) => local,
            When::Today(time) => {
                let today: Date = zone.to_datetime(now).date();
                DateTime::from_parts(today, time)
            }
        };
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
                "{local} is not one moment, since clocks were changed then: write {earlier} or {later}"
            ));
        }
        let time = there.unambiguous().map_err(|error| error.to_string())?;
        Ok(Moment::Time(time))
    }
}

/// `2026-11-22 14:05` or `14:05`, with seconds and fractions of them or without.
fn local(text: &str) -> Option<When> {
    let (date, time) = match text.split_once([' ', 'T']) {
        Some((date, time)) => (Some(date.parse::<Date>().ok()?), time.trim_start()),
        None => (None, text),
    };
    // What jiff would also take: a time without minutes, a name of a zone.
    let plain = |byte: u8| byte.is_ascii_digit() || b":.".contains(&byte);
    if !time.contains(':') || !time.bytes().all(plain) {
        return None;
    }
    let padded = if time.find(':') == Some(1) { "0" } else { "" };
    let time: Time = format!("{padded}{time}").parse().ok()?;
    Some(match date {
        Some(date) => When::Local(DateTime::from_parts(date, time)),
        None => When::Today(time),
    })
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
