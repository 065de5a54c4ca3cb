//! A database and a log much larger than the memory budget.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::redo::{MtrBuilder, after, mtr};
use crate::common::{BRANCH, MemLog, catch_up};
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use xylem_ambient::Clock;
use xylem_pages::{Branch, Loader, ReadAt, Store, StoreConfig, Tablespace};
use xylem_redo::SpaceFlags;
use xylem_types::{BranchId, Lsn, PageId, SpaceId};
use xylem_wal::Wal;

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
            one.clone() as Arc<dyn Wal>,
            None,
        )
        .unwrap();
        let b = Branch::open(
            Arc::clone(&store),
            BranchId(2),
            two.clone() as Arc<dyn Wal>,
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

/// Branches that write little take little: many of them fit.
#[test]
fn branches_that_are_written_little_take_little_memory() {
    const BRANCHES: u64 = 100;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreConfig::default(), common::place(dir.path())).unwrap();
    store.start_ingest();
    let before = store.memory_used();
    let mut branches = Vec::new();
    for id in 1..=BRANCHES {
        let log = MemLog::new();
        let lsn = Lsn::FIRST;
        log.epoch(lsn);
        let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
        let redo = mtr(|m| {
            m.header(0, 10, flags).init(PageId::new(0, 3));
            m.write(PageId::new(0, 3), 100, &id.to_be_bytes());
        });
        log.redo(lsn, &redo);
        let as_log = Arc::clone(&log) as Arc<dyn Wal>;
        let branch = Branch::open(Arc::clone(&store), BranchId(id.into()), as_log, None);
        branches.push((branch.unwrap(), log));
    }
    for (branch, log) in &branches {
        catch_up(branch, log);
    }
    let each = (store.memory_used() - before) / BRANCHES;
    println!("{each} bytes for a branch that was written a little");
    assert!(each < 8 << 10, "{each} bytes");
}

/// The roots of layers come and go with what is read, like all else of them.
#[test]
fn thousands_of_layers_stay_within_the_budget() {
    const LAYERS: u32 = 2500;
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        memory_bytes: 4 << 20,
        ..StoreConfig::default()
    };
    let store = Store::open(config, common::place(dir.path())).unwrap();
    let lsn = Lsn(5_000_000);
    let flags = SpaceFlags::full_crc32_of(16384).unwrap();
    // Each page fills a layer.
    let mut loader = Loader::begin_with(&store, BRANCH, lsn, 1).unwrap();
    let space = |id: u32, path: &str, pages: u32| Tablespace {
        space: SpaceId(id),
        path: path.into(),
        flags: flags.raw(),
        pages,
        page_bytes: 16384,
    };
    let mut rng = rand::rngs::StdRng::seed_from_u64(3);
    let mut page = |loader: &mut Loader, id: PageId| {
        let mut bytes = vec![0; 16384];
        // A part of it does not compress, so that blocks are full.
        rng.fill(&mut bytes[200..4000]);
        bytes[4..8].copy_from_slice(&id.page.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&(lsn.0 - 7).to_be_bytes());
        bytes[34..38].copy_from_slice(&id.space.0.to_be_bytes());
        xylem_redo::seal(&mut bytes, flags);
        loader.page(id.page, &bytes).unwrap();
    };
    loader.tablespace(space(0, "ibdata1", 1)).unwrap();
    page(&mut loader, PageId::new(0, 0));
    loader.tablespace(space(5, "db/t.ibd", LAYERS)).unwrap();
    for no in 0..LAYERS {
        page(&mut loader, PageId::new(5, no));
    }
    loader.finish().unwrap();
    let branch = Branch::open(
        Arc::clone(&store),
        BRANCH,
        MemLog::new() as Arc<dyn Wal>,
        None,
    )
    .unwrap();
    assert!(branch.stats().layers >= u64::from(LAYERS));
    let lists = store.memory_used();
    for round in 0..2 {
        for no in 0..LAYERS {
            let id = PageId::new(5, no);
            let got = branch.get_page(id, ReadAt::Lsn(lsn)).unwrap();
            assert_eq!(got.bytes[4..8], no.to_be_bytes(), "round {round}");
        }
    }
    let used = store.memory_used() - lists;
    println!("{lists} bytes for {LAYERS} layers, {used} for what was read of them");
    // What caches may take.
    assert!(used <= (4 << 20) / 16 * 7, "{used} bytes");
    let layers = branch.stats().layers;
    assert!(
        branch.stats().blocks_read > 2 * layers,
        "all stayed in memory"
    );
}

/// A branch that nobody writes costs nothing to look at, and there may be many:
/// while nothing changes, the horizon is not looked for again.
#[test]
fn an_idle_branch_is_looked_at_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicU64::new(1_800_000_000_000_000));
    let ticking = Arc::clone(&time);
    let config = StoreConfig {
        history: std::time::Duration::from_secs(60),
        clock: Clock::new(move || ticking.load(Ordering::Relaxed)),
        ..StoreConfig::default()
    };
    let store = Store::open(config, common::place(dir.path())).unwrap();
    store.start_ingest();
    let log = MemLog::with_clock(Arc::clone(&time));
    let as_log = Arc::clone(&log) as Arc<dyn Wal>;
    let branch = Branch::open(Arc::clone(&store), BRANCH, as_log, None).unwrap();
    let mut lsn = Lsn::FIRST;
    log.epoch(lsn);
    let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
    let id = PageId::new(0, 3);
    let mut redo = mtr(|m| {
        m.header(0, 10, flags).init(id);
    });
    for n in 0..3000u32 {
        log.redo(lsn, &redo);
        lsn = after(lsn, &redo);
        time.fetch_add(20_000, Ordering::Relaxed);
        redo = mtr(|m| {
            m.write(id, 100, &n.to_be_bytes());
        });
        if n % 1000 == 999 {
            catch_up(&branch, &log);
            branch.flush_now();
        }
    }
    // Half of the history is passed; then much of it.
    for passed in [30, 15] {
        time.fetch_add(passed * 1_000_000, Ordering::Relaxed);
        branch.compact_now().unwrap();
        let horizon = branch.health().horizon;
        assert!(horizon >= branch.oldest() && horizon < Some(branch.applied()));
        let lookups = || {
            let stats = branch.stats();
            stats.block_cache_hits + stats.blocks_read
        };
        let before = lookups();
        let begin = std::time::Instant::now();
        branch.compact_now().unwrap();
        branch.health();
        let blocks = lookups() - before;
        println!("a look at it: {:?}, {blocks} blocks", begin.elapsed());
        // The first sample and the last; a search for the horizon takes twice that.
        assert!(blocks <= 24, "{blocks}: the horizon was looked for again");
    }
}
