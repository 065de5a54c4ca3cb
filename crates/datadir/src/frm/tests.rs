//! Definitions made by hand, as MariaDB lays them out.

use super::{Definition, definition};

/// A `.frm` of an engine's number and, behind connection string and default
/// row, its name; `extra2` stands behind the header.
fn frm(number: u8, part: u8, extra2: &[u8], name: &str) -> Vec<u8> {
    let keys = 64 + extra2.len() + 10;
    let (defaults, row) = (20, 30);
    let mut out = vec![0; keys + defaults + row];
    out[..2].copy_from_slice(&[0xfe, 1]);
    out[3] = number;
    out[4..6].copy_from_slice(&(extra2.len() as u16).to_le_bytes());
    out[6..8].copy_from_slice(&(keys as u16).to_le_bytes());
    out[14..16].copy_from_slice(&(defaults as u16).to_le_bytes());
    out[16..18].copy_from_slice(&(row as u16).to_le_bytes());
    out[61] = part;
    out[64..64 + extra2.len()].copy_from_slice(extra2);
    let mut segment = vec![3, 0, b'x', b'y', b'z'];
    segment.extend_from_slice(&(name.len() as u16).to_le_bytes());
    segment.extend_from_slice(name.as_bytes());
    segment.extend_from_slice(&[0; 4]);
    out[55..59].copy_from_slice(&(segment.len() as u32).to_le_bytes());
    out.extend_from_slice(&segment);
    out
}

fn table(engine: &str) -> Definition {
    Definition::Table(engine.to_owned())
}

#[test]
fn engines() {
    assert_eq!(definition(b"TYPE=VIEW\nquery=select 1"), Definition::View);
    assert_eq!(definition(&frm(12, 0, &[], "InnoDB")), table("InnoDB"));
    assert_eq!(definition(&frm(42, 0, &[], "Aria")), table("Aria"));
    // The number alone.
    assert_eq!(definition(&frm(9, 0, &[], "")), table("MyISAM"));
    // A dynamic number says nothing, the name does.
    assert_eq!(definition(&frm(47, 0, &[], "ROCKSDB")), table("ROCKSDB"));
    assert_eq!(definition(&frm(47, 0, &[], "")), Definition::Unknown);
    assert_eq!(definition(&frm(31, 0, &[], "")), table("engine number 31"));
}

#[test]
fn engines_of_partitions() {
    assert_eq!(definition(&frm(20, 12, &[], "partition")), table("InnoDB"));
    assert_eq!(definition(&frm(20, 9, &[], "partition")), table("MyISAM"));
    // A name among the extra values, behind one with a long length.
    let mut extra = vec![0, 0, 44, 1];
    extra.extend_from_slice(&[7; 300]);
    extra.extend_from_slice(&[1, 7]);
    extra.extend_from_slice(b"ROCKSDB");
    assert_eq!(
        definition(&frm(20, 47, &extra, "partition")),
        table("ROCKSDB")
    );
}

#[test]
fn garbage_is_unknown_and_does_not_panic() {
    assert_eq!(definition(b""), Definition::Unknown);
    assert_eq!(definition(b"some text"), Definition::Unknown);
    let good = frm(47, 0, &[1, 200, 3], "x");
    for len in 0..good.len() {
        let _ = definition(&good[..len]);
    }
    for at in 0..good.len() {
        for value in [0, 0x7f, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = definition(&bad);
        }
    }
}
