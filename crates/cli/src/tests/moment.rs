//! Moments as people write them.

use super::kit::now;
use crate::moment::When;
use jiff::tz::{Offset, TimeZone};

fn at(text: &str, zone: &TimeZone) -> Result<String, String> {
    let moment = When::parse(text)?.resolve(now(), zone)?;
    Ok(moment.to_string())
}

fn plus_two() -> TimeZone {
    TimeZone::fixed(Offset::constant(2))
}

#[test]
fn all_forms_are_understood() {
    let zone = plus_two();
    let cases = [
        ("123456", "LSN 123456"),
        (" 12288 ", "LSN 12288"),
        ("2026-11-22T14:05:00Z", "2026-11-22T14:05:00Z"),
        ("2026-11-22 14:05:00z", "2026-11-22T14:05:00Z"),
        ("2026-11-22T14:05:07.123456Z", "2026-11-22T14:05:07.123456Z"),
        ("2026-11-22T14:05+01:00", "2026-11-22T13:05:00Z"),
        ("2026-11-22 14:05:00-05:30", "2026-11-22T19:35:00Z"),
        ("2026-11-22 14:05", "2026-11-22T12:05:00Z"),
        ("2026-11-22T14:05", "2026-11-22T12:05:00Z"),
        ("2026-11-22 14:05:07", "2026-11-22T12:05:07Z"),
        ("2026-11-22 14:05:07.5", "2026-11-22T12:05:07.5Z"),
        ("14:05", "2026-11-22T12:05:00Z"),
        ("00:30:01", "2026-11-21T22:30:01Z"),
        ("9:05", "2026-11-22T07:05:00Z"),
        ("5 minutes ago", "2026-11-22T14:00:30.25Z"),
        ("2 hours ago", "2026-11-22T12:05:30.25Z"),
        ("an hour ago", "2026-11-22T13:05:30.25Z"),
        ("a minute ago", "2026-11-22T14:04:30.25Z"),
        ("90s ago", "2026-11-22T14:04:00.25Z"),
        ("1.5 hours ago", "2026-11-22T12:35:30.25Z"),
        ("1 hour and 30 minutes ago", "2026-11-22T12:35:30.25Z"),
        ("1h 30m ago", "2026-11-22T12:35:30.25Z"),
        ("1 day, 2 hours ago", "2026-11-21T12:05:30.25Z"),
        ("2 weeks ago", "2026-11-08T14:05:30.25Z"),
    ];
    for (text, expected) in cases {
        assert_eq!(at(text, &zone).as_deref(), Ok(expected), "{text:?}");
    }
    // Today is the zone's, not UTC's.
    let far = TimeZone::fixed(Offset::constant(11));
    assert_eq!(at("00:30", &far).unwrap(), "2026-11-22T13:30:00Z");
}

#[test]
fn what_is_not_understood_shows_the_forms() {
    for text in [
        "",
        "soon",
        "yesterday",
        "5 lightyears ago",
        "minutes ago",
        "ago",
        "-5 minutes ago",
        "5 minutes",
        "2026-11-22",
        "2026-13-22 14:05",
        "2026-11-22 25:05",
        "2026-11-22 14",
        "14",
        "14:5",
        "14:05 CET",
        "12 345",
        "0x10",
        "-1",
    ] {
        if text == "14" {
            assert_eq!(at(text, &TimeZone::UTC).unwrap(), "LSN 14");
            continue;
        }
        let error = at(text, &TimeZone::UTC).expect_err(text);
        for form in ["123456", "2026-11-22T14:05:00Z", "14:05", "5 minutes ago"] {
            assert!(error.contains(form), "{text:?}: {error}");
        }
    }
    let error = at("99999999999999999999", &TimeZone::UTC).unwrap_err();
    assert!(error.contains("larger than any LSN"), "{error}");
}

#[test]
fn a_local_time_that_was_there_twice_or_never_is_asked_about() {
    let Ok(berlin) = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3") else {
        panic!("the zone cannot be read");
    };
    assert_eq!(
        at("2026-07-01 12:00", &berlin).unwrap(),
        "2026-07-01T10:00:00Z"
    );
    let error = at("2026-10-25 02:30", &berlin).unwrap_err();
    assert!(
        error.contains("2026-10-25T00:30:00Z") && error.contains("2026-10-25T01:30:00Z"),
        "{error}"
    );
    assert!(at("2026-03-29 02:30", &berlin).is_err());
}

#[test]
fn a_command_goes_by_its_clock() {
    let dir = tempfile::tempdir().unwrap();
    let app = super::kit::app(dir.path());
    let ago = When::parse("5 minutes ago").unwrap();
    let moment = app.moment(Some(ago)).unwrap().unwrap();
    assert_eq!(moment.to_string(), "2026-11-22T14:00:30.25Z");
    assert_eq!(app.moment(None).unwrap(), None);
}
