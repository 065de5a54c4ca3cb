//! Files made of events, cut off and damaged.

use crate::{Error, Group, Gtid, Item, Position, Summary, scan};
use proptest::prelude::*;
use std::ops::ControlFlow;

/// A file under construction.
struct File {
    bytes: Vec<u8>,
    checksum: bool,
}

impl File {
    fn new(checksum: bool) -> File {
        let mut file = File {
            bytes: b"\xfebin".to_vec(),
            checksum,
        };
        let mut body = vec![4, 0];
        body.extend_from_slice(&[b'v'; 50]);
        body.extend_from_slice(&[0, 0, 0, 0, 19, 56, 13]);
        body.push(u8::from(checksum));
        // A format description has room for a checksum in any case.
        file.checksum = true;
        file.event(15, 1, &body);
        file.checksum = checksum;
        file
    }

    fn event(&mut self, kind: u8, flags: u16, body: &[u8]) -> u64 {
        let length = 19 + body.len() + if self.checksum { 4 } else { 0 };
        self.bytes
            .extend_from_slice(&1_700_000_000_u32.to_le_bytes());
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&7_u32.to_le_bytes());
        self.bytes.extend_from_slice(&(length as u32).to_le_bytes());
        // The header up to here has 13 bytes.
        let end = (self.bytes.len() - 13 + length) as u32;
        self.bytes.extend_from_slice(&end.to_le_bytes());
        self.bytes.extend_from_slice(&flags.to_le_bytes());
        self.bytes.extend_from_slice(body);
        if self.checksum {
            self.bytes.extend_from_slice(b"CRC.");
        }
        assert_eq!(end as usize, self.bytes.len());
        self.bytes.len() as u64
    }

    fn gtid(&mut self, seq: u64, alone: bool) {
        let mut body = seq.to_le_bytes().to_vec();
        body.extend_from_slice(&3_u32.to_le_bytes());
        body.push(u8::from(alone));
        body.extend_from_slice(&[0; 6]);
        self.event(162, 0, &body);
    }

    fn query(&mut self, text: &str) -> u64 {
        let mut body = vec![0; 8];
        body.push(2);
        body.extend_from_slice(&[0, 0, 5, 0]);
        body.extend_from_slice(b"statsdb\0");
        body.extend_from_slice(text.as_bytes());
        self.event(2, 0, &body)
    }

    fn scan(&self) -> (Vec<Item>, Result<Summary, Error<()>>) {
        let mut items = Vec::new();
        let summary = scan(
            self.bytes.len() as u64,
            &mut |at, len| Ok(self.bytes[at as usize..at as usize + len].to_vec()),
            &mut |item| {
                items.push(item);
                ControlFlow::Continue(())
            },
        );
        (items, summary)
    }
}

fn gtid(seq: u64) -> Gtid {
    Gtid {
        domain: 3,
        server: 7,
        seq,
    }
}

/// A file with a group of each form; the groups' ends.
fn sample(checksum: bool) -> (File, Vec<(u64, u64, Option<u64>)>) {
    let mut file = File::new(checksum);
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (domain, server, seq) in [(1_u32, 2_u32, 9_u64), (3, 7, 40)] {
        list.extend_from_slice(&domain.to_le_bytes());
        list.extend_from_slice(&server.to_le_bytes());
        list.extend_from_slice(&seq.to_le_bytes());
    }
    file.event(163, 0, &list);
    let mut name = 13_u32.to_le_bytes().to_vec();
    name.extend_from_slice(b"binlog.000004");
    file.event(161, 0, &name);
    let mut ends = Vec::new();
    // A transaction with rows that are longer than what is read at a time.
    file.gtid(41, false);
    file.event(19, 0, b"table");
    file.event(23, 0, &[b'x'; 600 << 10]);
    file.query("SAVEPOINT s");
    let mut xid = 99_u64.to_le_bytes().to_vec();
    ends.push((41, file.event(16, 0, &xid), Some(99)));
    // A statement.
    file.gtid(42, true);
    file.event(5, 0, &[0; 9]);
    ends.push((42, file.query("INSERT INTO t VALUES (1)"), None));
    // One that ends without a transaction's number.
    file.gtid(43, false);
    file.query("INSERT INTO m VALUES (1)");
    ends.push((43, file.query("COMMIT"), None));
    file.gtid(44, false);
    file.query("INSERT INTO m VALUES (1)");
    xid[0] = 98;
    ends.push((44, file.event(38, 0, b"an XA transaction"), None));
    file.gtid(45, false);
    file.query("CREATE TABLE t (a INT)");
    ends.push((45, file.event(16, 0, &xid), Some(98)));
    (file, ends)
}

#[test]
fn groups_of_all_forms_are_found() {
    for checksum in [false, true] {
        let (mut file, ends) = sample(checksum);
        let (items, summary) = file.scan();
        let size = file.bytes.len() as u64;
        assert_eq!(
            summary,
            Ok(Summary {
                in_use: true,
                whole: size
            })
        );
        assert_eq!(items.len(), 2 + ends.len());
        assert!(matches!(&items[0], Item::List(list) if list[1] == gtid(40)));
        assert_eq!(items[1], Item::Checkpoint("binlog.000004".into()));
        for (item, (seq, end, xid)) in items[2..].iter().zip(&ends) {
            let Item::Group(group) = item else {
                panic!("{item:?}")
            };
            let found = (group.gtid, group.end, group.xid, group.seconds);
            assert_eq!(found, (gtid(*seq), *end, *xid, 1_700_000_000));
        }
        assert_eq!(crate::begun(&file.bytes), Some(1_700_000_000));
        assert_eq!(crate::begun(b"no binary log, but long enough"), None);
        // A file that was closed.
        assert!(crate::is_in_use(&file.bytes[..23]) && !crate::is_in_use(&file.bytes[..22]));
        file.bytes[4 + 17] = 0;
        assert!(!file.scan().1.unwrap().in_use && !crate::is_in_use(&file.bytes));
    }
}

#[test]
fn a_file_that_is_cut_off_ends_with_its_last_whole_group() {
    let (file, ends) = sample(true);
    let first_begins = {
        let (items, _) = file.scan();
        let begins = |item: &Item| match item {
            Item::Group(Group { begin, .. }) => Some(*begin),
            _ => None,
        };
        items.iter().find_map(begins).unwrap()
    };
    let places = (first_begins as usize..file.bytes.len()).filter(|at| {
        // The rows of the first transaction are long.
        *at < 4000 || *at > (600 << 10)
    });
    for size in places {
        let cut = File {
            bytes: file.bytes[..size].to_vec(),
            checksum: true,
        };
        let (items, summary) = cut.scan();
        let whole = ends.iter().map(|(_, end, _)| *end);
        let expected = whole.filter(|end| *end <= size as u64).max();
        assert_eq!(summary.unwrap().whole, expected.unwrap_or(first_begins));
        let groups = items.iter().filter(|item| matches!(item, Item::Group(_)));
        let there = ends.iter().filter(|(_, end, _)| *end <= size as u64);
        assert_eq!(groups.count(), there.count());
    }
}

#[test]
fn damage_and_encryption_are_errors() {
    let (file, _) = sample(true);
    let mut damaged = File {
        bytes: file.bytes.clone(),
        checksum: true,
    };
    damaged.bytes[4 + 13] ^= 1;
    assert!(matches!(
        damaged.scan().1,
        Err(Error::Invalid { at: 4, .. })
    ));
    let mut other = File::new(true);
    other.event(164, 0, &[0; 17]);
    assert_eq!(other.scan().1, Err(Error::Encrypted));
    let no_log = File {
        bytes: b"no binary log".to_vec(),
        checksum: true,
    };
    assert!(matches!(no_log.scan().1, Err(Error::Invalid { at: 0, .. })));
}

#[test]
fn a_position_is_the_newest_of_each_domain() {
    let mut position = Position::default();
    assert!(position.is_empty());
    for (domain, server, seq) in [(3, 7, 5), (0, 1, 9), (3, 8, 6), (3, 7, 7), (0, 2, 8)] {
        position.add(Gtid {
            domain,
            server,
            seq,
        });
    }
    assert_eq!(position.to_string(), "0-2-8,3-7-7");
    assert!(position.contains("0-1-9".parse().unwrap()));
    assert!(position.contains("3-8-6".parse().unwrap()));
    for not in ["3-8-7", "0-2-9", "1-1-1", "3-9-1"] {
        assert!(!position.contains(not.parse().unwrap()), "{not}");
    }
}

#[test]
fn a_gtid_is_three_numbers() {
    let largest = "4294967295-4294967295-18446744073709551615";
    assert_eq!(largest.parse::<Gtid>().unwrap().to_string(), largest);
    for bad in [
        "",
        "1-2",
        "1-2-3-4",
        "1-2-x",
        "4294967296-1-1",
        "+1-2-3",
        " 1-2-3",
        "1-2-3,2-3-4",
    ] {
        let error = bad.parse::<Gtid>().unwrap_err();
        assert!(error.to_string().contains("0-1-42"), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic: bool) {
        if magic && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(b"\xfebin");
        }
        let _ = File { bytes, checksum: true }.scan();
    }

    #[test]
    fn no_change_makes_it_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut file = File::new(true);
        file.gtid(1, false);
        file.query("INSERT");
        file.event(16, 0, &[1; 8]);
        file.gtid(2, true);
        file.query("DROP TABLE t");
        for (at, byte) in changes {
            let at = at.index(file.bytes.len());
            file.bytes[at] = byte;
        }
        let size = file.bytes.len() as u64;
        if let Ok(summary) = file.scan().1 {
            prop_assert!(summary.whole <= size);
        }
    }
}
