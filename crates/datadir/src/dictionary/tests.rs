//! SYS_TABLES made by hand. That InnoDB's own reads right is tested with whole
//! systems (`crates/e2e/tests/it/import.rs`).

use super::{DictionaryError, Table, tables};
use std::collections::BTreeMap;
use std::io;

const SIZE: usize = 16384;
const NONE: u32 = u32::MAX;

/// An index page of REDUNDANT records; each a list of fields, `None` for NULL.
fn page(level: u16, next: u32, records: &[(Vec<Option<Vec<u8>>>, bool)]) -> Vec<u8> {
    let mut p = vec![0; SIZE];
    p[12..16].copy_from_slice(&next.to_be_bytes());
    p[24..26].copy_from_slice(&17855u16.to_be_bytes());
    p[64..66].copy_from_slice(&level.to_be_bytes());
    let mut at = 130;
    let mut before = 101;
    for (fields, deleted) in records {
        let total: usize = fields.iter().flatten().map(Vec::len).sum();
        let short = total < 128;
        at += 6 + fields.len() * if short { 1 } else { 2 };
        let origin = at;
        let mut end = 0;
        for (n, field) in fields.iter().enumerate() {
            if let Some(bytes) = field {
                p[origin + end..origin + end + bytes.len()].copy_from_slice(bytes);
                end += bytes.len();
            }
            let null = field.is_none();
            if short {
                p[origin - 7 - n] = end as u8 | u8::from(null) << 7;
            } else {
                let v = end as u16 | u16::from(null) << 15;
                p[origin - 8 - 2 * n..origin - 6 - 2 * n].copy_from_slice(&v.to_be_bytes());
            }
        }
        p[origin - 6] = u8::from(*deleted) << 5;
        let bits = (fields.len() as u16) << 1 | u16::from(short);
        p[origin - 4..origin - 2].copy_from_slice(&bits.to_be_bytes());
        p[before - 2..before].copy_from_slice(&(origin as u16).to_be_bytes());
        before = origin;
        at = origin + end;
    }
    p[before - 2..before].copy_from_slice(&116u16.to_be_bytes());
    p
}

fn row(name: &str, space: u32) -> Vec<Option<Vec<u8>>> {
    let mut fields = vec![
        Some(name.as_bytes().to_vec()),
        Some(vec![0; 6]),
        Some(vec![0; 7]),
        Some(vec![0; 8]),
    ];
    fields.extend([4, 4, 8, 4].map(|n| Some(vec![0; n])));
    fields.push(None);
    fields.push(Some(space.to_be_bytes().to_vec()));
    fields
}

fn pointer(name: &str, child: u32) -> Vec<Option<Vec<u8>>> {
    vec![
        Some(name.as_bytes().to_vec()),
        Some(child.to_be_bytes().to_vec()),
    ]
}

fn header(root: u32) -> Vec<u8> {
    let mut p = vec![0; SIZE];
    p[70..74].copy_from_slice(&root.to_be_bytes());
    p
}

fn read(pages: &BTreeMap<u32, Vec<u8>>) -> Result<Vec<Table>, DictionaryError> {
    tables(|no| {
        pages
            .get(&no)
            .cloned()
            .ok_or_else(|| io::Error::other("no such page"))
    })
}

#[test]
fn one_page() {
    let long = "d/".to_owned() + &"@0020".repeat(60);
    let leaf = page(
        0,
        NONE,
        &[
            (row("d/b", 7), false),
            (row("d/gone", 8), true),
            (row(&long, 70_000), false),
            (row("d/a", 0), false),
        ],
    );
    let pages = BTreeMap::from([(7, header(8)), (8, leaf)]);
    let found = read(&pages).unwrap();
    let found: Vec<_> = found.iter().map(|t| (t.name.as_str(), t.space)).collect();
    assert_eq!(found, [(&long[..], 70_000), ("d/a", 0), ("d/b", 7)]);
}

#[test]
fn a_tree() {
    let pages = BTreeMap::from([
        (7, header(8)),
        (8, page(2, NONE, &[(pointer("d/a", 20), false)])),
        (
            20,
            page(
                1,
                NONE,
                &[(pointer("d/a", 31), false), (pointer("d/b", 30), false)],
            ),
        ),
        (31, page(0, 30, &[(row("d/a", 1), false)])),
        (30, page(0, NONE, &[(row("d/b", 2), false)])),
    ]);
    let found = read(&pages).unwrap();
    let found: Vec<_> = found.iter().map(|t| (t.name.as_str(), t.space)).collect();
    assert_eq!(found, [("d/a", 1), ("d/b", 2)]);
}

#[test]
fn nonsense_is_an_error() {
    let empty = BTreeMap::new();
    assert!(read(&empty).is_err());
    let not_index = BTreeMap::from([(7, header(8)), (8, vec![0; SIZE])]);
    assert!(read(&not_index).is_err());
    let circle = BTreeMap::from([(7, header(8)), (8, page(0, 8, &[(row("d/a", 1), false)]))]);
    assert!(read(&circle).is_err());
    let deep = BTreeMap::from([
        (7, header(8)),
        (8, page(1, NONE, &[(pointer("a", 8), false)])),
    ]);
    assert!(read(&deep).is_err());
    let few = BTreeMap::from([
        (7, header(8)),
        (8, page(0, NONE, &[(pointer("a", 8), false)])),
    ]);
    assert!(read(&few).is_err());
}

#[test]
fn no_damage_panics() {
    let good = page(0, NONE, &[(row("d/a", 1), false), (row("d/b", 2), false)]);
    for at in 0..300 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] = value;
            let _ = read(&BTreeMap::from([(7, header(8)), (8, bad)]));
        }
    }
    for len in 0..200 {
        let short = good[..len].to_vec();
        assert!(read(&BTreeMap::from([(7, header(8)), (8, short)])).is_err());
    }
}
