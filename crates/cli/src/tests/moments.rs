//! Moments in place of branches, as clients of the gateway name them.

use super::kit::{me, now};
use super::report::record;
use crate::compute::record::Phase;
use crate::gateway::moments::{At, parse, resolve};
use crate::moment::{Moment, When};
use jiff::tz::TimeZone;

fn at(text: &str) -> Moment {
    resolve(parse(text).unwrap(), now(), &TimeZone::UTC).unwrap()
}

fn time(text: &str) -> Moment {
    Moment::Time(text.parse().unwrap())
}

#[test]
fn a_span_is_so_long_ago_in_steps_that_a_pool_fits_in() {
    // Now is 14:05:30.25.
    assert_eq!(at("5min"), time("2026-11-22T14:00:30Z"));
    assert_eq!(at("5m"), at("5min"));
    assert_eq!(at("300s"), at("5min"));
    assert_eq!(at("5min3s"), time("2026-11-22T14:00:20Z"));
    assert_eq!(at("2s"), time("2026-11-22T14:05:28Z"));
    assert_eq!(at("1d"), time("2026-11-21T14:05:30Z"));
}

#[test]
fn other_moments_are_those_of_the_command_line() {
    assert_eq!(at("123456"), Moment::Lsn(123_456));
    assert_eq!(at("2026-11-22T14:05"), time("2026-11-22T14:05:00Z"));
    assert_eq!(at("2026-11-22T14:05:07.5"), time("2026-11-22T14:05:07.5Z"));
    assert_eq!(at("2026-11-22T14:05+02:00"), time("2026-11-22T12:05:00Z"));
    assert_eq!(parse("5 minutes ago"), parse("5min"));
    for wrong in ["", "ago", "5", "x", "5parsecs", "-5min", "1e3s"] {
        let read = parse(wrong);
        assert!(
            read.is_err() || read == Ok(When::Lsn(5)),
            "{wrong}: {read:?}"
        );
    }
}

#[test]
fn a_settled_name_is_one_way_to_write_it() {
    let at = At::parse("feature/x~77").unwrap();
    assert_eq!((at.branch.as_str(), at.lsn), ("feature/x", 77));
    assert_eq!(at.to_string(), "feature/x~77");
    for other in ["main", "main~", "main~077", "main~5min", "~7", "main~7~7"] {
        assert_eq!(At::parse(other), None, "{other}");
    }
}

#[test]
fn only_computes_that_the_gateway_has_started_are_found_by_moments() {
    let mut record = record(me(), Phase::Running);
    record.at_lsn = Some(77);
    assert_eq!(At::of(&record), None);
    record.moment_of = Some("an id".to_owned());
    assert_eq!(At::of(&record).unwrap().to_string(), "main~77");
    record.at_lsn = None;
    assert_eq!(At::of(&record), None);
}
