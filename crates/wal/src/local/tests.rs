//! Headers and names go back and forth; nothing that is read panics.

use super::format::SegmentHeader;
use super::segments::Name;
use proptest::prelude::*;

proptest! {
    #[test]
    fn any_name_is_read_or_refused(name in "(spare-)?[0-9+]{0,14}(\\.wal)?") {
        if let Some(parsed) = Name::parse(&name) {
            prop_assert_eq!(parsed.to_string(), name);
        }
    }
}

#[test]
fn segment_headers_go_back_and_forth() {
    let header = SegmentHeader {
        number: 1,
        bytes: 2,
        salt: 3,
    };
    let bytes = header.encode();
    assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
    for at in 0..bytes.len() {
        let mut damaged = bytes;
        damaged[at] ^= 0x10;
        assert!(SegmentHeader::decode(&damaged).is_err(), "byte {at}");
    }
}

#[test]
fn names_are_one_to_one() {
    for name in [Name::Segment(1), Name::Segment(u64::MAX), Name::Spare(12)] {
        assert_eq!(Name::parse(&name.to_string()), Some(name));
    }
    for name in [
        "",
        "1.wal",
        ".wal",
        "0000000000001.wal",
        "LOCK",
        "spare-",
        "spare-1",
        "+00000000001.wal",
    ] {
        assert_eq!(Name::parse(name), None, "{name}");
    }
}
