//! Redo for tests: a recorded stream, and mini-transactions made by hand.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use xylem_redo::{Mtr, MtrItem, ParseStep, SpaceFlags, apply, parse_mtr, varint};
use xylem_types::{Lsn, PageId};

/// See `data/README.md`.
pub const GOLDEN: &[u8] = include_bytes!("../../data/mixed-4k.redo");

/// A record's bytes: `first` is type and same-page flag; `payload` is what
/// follows the length.
pub fn record(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if (1..=15).contains(&payload.len()) {
        out.push(first | payload.len() as u8);
    } else {
        // The length includes its own bytes.
        out.push(first);
        let n = [1, 2, 3]
            .into_iter()
            .find(|n| {
                let mut v = Vec::new();
                varint::encode(&mut v, (payload.len() + n - 15) as u32);
                v.len() == *n
            })
            .unwrap();
        varint::encode(&mut out, (payload.len() + n - 15) as u32);
    }
    out.extend_from_slice(payload);
    out
}

/// Integers as a payload has them.
pub fn ints(values: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for &v in values {
        varint::encode(&mut out, v);
    }
    out
}

/// A page's id followed by `rest`.
pub fn paged(page: PageId, rest: &[u8]) -> Vec<u8> {
    let mut out = ints(&[page.space.0, page.page.0]);
    out.extend_from_slice(rest);
    out
}

/// Makes a mini-transaction of records.
pub fn mtr(records: &[Vec<u8>]) -> Vec<u8> {
    let mut out = records.concat();
    let crc = crc32c::crc32c(&out);
    out.push(1);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

pub fn parse(bytes: &[u8]) -> Mtr<'_> {
    match parse_mtr(bytes, Lsn(20000)).unwrap() {
        ParseStep::Mtr(mtr) => mtr,
        ParseStep::NeedMore => panic!("not whole"),
    }
}

/// Calls `f` with each mini-transaction of a redo stream.
pub fn each_mtr(log: &[u8], start: Lsn, mut f: impl FnMut(Mtr<'_>)) {
    let (mut at, mut lsn) = (0, start);
    while at < log.len() {
        let ParseStep::Mtr(mtr) = parse_mtr(&log[at..], lsn).unwrap() else {
            panic!("cut at {lsn}")
        };
        at += mtr.size();
        lsn = mtr.end_lsn();
        f(mtr);
    }
}

/// Every page after redo that begins at a database's creation, and the flags of
/// each tablespace.
pub fn replay(log: &[u8]) -> (BTreeMap<PageId, Vec<u8>>, BTreeMap<u32, SpaceFlags>) {
    let mut pages: BTreeMap<PageId, Vec<u8>> = BTreeMap::new();
    let mut flags = BTreeMap::new();
    each_mtr(log, Lsn::FIRST, |mtr| {
        let mut runs: BTreeMap<PageId, Vec<u8>> = BTreeMap::new();
        for item in mtr.items() {
            match item.unwrap() {
                MtrItem::SpaceFlags { space, flags: f } => {
                    flags.insert(space.0, f);
                }
                MtrItem::Page { page, records, .. } => {
                    runs.entry(page).or_default().extend_from_slice(records);
                }
                _ => {}
            }
        }
        for (id, records) in runs {
            let flags = flags[&id.space.0];
            let page = pages
                .entry(id)
                .or_insert_with(|| vec![0; flags.physical_page_size()]);
            apply(page, id, flags, mtr.end_lsn(), &records).unwrap();
        }
    });
    (pages, flags)
}
