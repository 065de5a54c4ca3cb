//! A database and a log much larger than the memory budget.
#![allow(clippy::unwrap_used)]

mod common;

use common::redo::{MtrBuilder, after, mtr};
use common::{BRANCH, MemLog, catch_up};
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{BranchId, Lsn, PageId};
use xylem_wal::Log;

const BUDGET: u64 = 16 << 20;
/// 96 MiB of pages.
const PAGES: u32 = 6000;

/// Redo of `mib` MiB; answers the last value written to each page.
fn fill(log: &MemLog, mib: u64, seed: u64) -> (Lsn, HashMap<u32, u64>) {
    let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
    let mut lsn = Lsn::FIRST;
    log.epoch(lsn);
    let mut last = HashMap::new();
    let mut frame = Vec::new();
    let mut start = lsn;
    let mut push = |bytes: Vec<u8>, end: bool| {
        lsn = after(lsn, &bytes);
        frame.extend_from_slice(&bytes);
        if frame.len() > 100_000 || end {
            log.redo(start, &frame);
            frame.clear();
            start = lsn;
        }
        lsn
    };
    push(
        mtr(|m| {
            m.create(5, "./db/big.ibd");
        }),
        false,
    );
    push(
        mtr(|m| {
            m.header(5, PAGES, SpaceFlags::full_crc32_of(16384).unwrap().raw());
        }),
        false,
    );
    for page in 1..PAGES {
        push(
            mtr(|m| {
                m.init(PageId::new(5, page));
            }),
            false,
        );
    }
    let mut data = [0u8; 1000];
    loop {
        let page = rng.random_range(1..PAGES);
        let value: u64 = rng.random();
        rng.fill(&mut data[..]);
        let mut b = MtrBuilder::default();
        let id = PageId::new(5, page);
        b.write(id, rng.random_range(200..15000), &data)
            .write(id, 100, &value.to_be_bytes());
        last.insert(page, value);
        let end = lsn_reached(push(b.finish(), false), mib);
        if end {
            break;
        }
    }
    let end = push(
        mtr(|m| {
            m.write(PageId::new(5, 1), 150, b"end");
        }),
        true,
    );
    (end, last)
}

fn lsn_reached(lsn: Lsn, mib: u64) -> bool {
    lsn.0 >= mib << 20
}

fn check(branch: &Branch, last: &HashMap<u32, u64>, stride: u32) {
    for page in (1..PAGES).step_by(stride as usize) {
        let got = branch
            .get_page(PageId::new(5, page), ReadAt::Newest)
            .unwrap();
        assert_eq!(
            got.bytes[100..108],
            last.get(&page).copied().unwrap_or(0).to_be_bytes(),
            "page {page}"
        );
    }
}

#[test]
fn memory_stays_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        memory_bytes: BUDGET,
        ..StoreConfig::default()
    };
    let store = Store::open(config.clone(), common::place(dir.path())).unwrap();
    store.start_ingest();
    let (one, two) = (MemLog::new(), MemLog::new());
    let (end, last) = fill(&one, 64, 1);
    let (_, last_two) = fill(&two, 32, 2);
    let done = AtomicBool::new(false);
    let peak = AtomicU64::new(0);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Ordering::Acquire) {
                peak.fetch_max(store.memory_used(), Ordering::AcqRel);
                std::thread::yield_now();
            }
        });
        let a = Branch::open(
            Arc::clone(&store),
            BRANCH,
            one.clone() as Arc<dyn Log>,
            None,
        )
        .unwrap();
        let b = Branch::open(
            Arc::clone(&store),
            BranchId(2),
            two.clone() as Arc<dyn Log>,
            None,
        )
        .unwrap();
        catch_up(&a, &one);
        check(&a, &last, 7);
        catch_up(&b, &two);
        check(&b, &last_two, 3);
        check(&a, &last, 1);
        assert_eq!(a.applied(), end);
        // History in the middle, which no cache holds.
        for page in 1..50 {
            a.get_page(PageId::new(5, page), ReadAt::Lsn(Lsn(end.0 / 2)))
                .unwrap();
        }
        a.flush_now();
        check(&a, &last, 5);
        println!("{:?}", a.stats());
        done.store(true, Ordering::Release);
    });
    let peak = peak.load(Ordering::Acquire);
    println!("peak {peak}");
    assert!(peak <= BUDGET, "{peak} bytes of {BUDGET}");
    assert!(peak > BUDGET / 4);
}
