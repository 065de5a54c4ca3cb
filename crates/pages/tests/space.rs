//! A long update-heavy run over a table larger than the memory budget: the
//! room that layers take, and the memory that merging them takes.
#![allow(clippy::unwrap_used)]
#![allow(unsafe_code, reason = "an allocator that counts")]

#[path = "it/common/mod.rs"]
#[allow(dead_code, reason = "it uses a part")]
mod common;

use common::redo::{MtrBuilder, after, mtr};
use common::{BRANCH, MemLog, catch_up, place};
use rand::{Rng, SeedableRng};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use xylem_ambient::Clock;
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{Lsn, PageId};
use xylem_wal::Wal;

const BUDGET: u64 = 16 << 20;
/// 64 MiB of pages, half of each random.
const PAGES: u32 = 4096;
const ROUNDS: u32 = 40;
/// Redo of a round, about.
const ROUND_BYTES: u64 = 3 << 20;
/// Rounds of history that are kept.
const KEPT: u32 = 5;
/// What docs/limits.md says.
const FACTOR: f64 = 1.5;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Writer {
    log: Arc<MemLog>,
    lsn: Lsn,
    frame: Vec<u8>,
}

impl Writer {
    fn mtr(&mut self, bytes: &[u8]) {
        self.frame.extend_from_slice(bytes);
        if self.frame.len() > 100_000 {
            self.send();
        }
    }

    fn send(&mut self) {
        self.log.redo(self.lsn, &self.frame);
        self.lsn = after(self.lsn, &self.frame);
        self.frame.clear();
    }
}

#[test]
fn space_and_memory_stay_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(1_800_000_000_000_000));
    let ticking = Arc::clone(&clock);
    let config = StoreConfig {
        memory_bytes: BUDGET,
        open_layer_bytes: 2 << 20,
        merged_layer_bytes: 8 << 20,
        history: Duration::from_secs(u64::from(KEPT)),
        clock: Clock::new(move || ticking.load(Ordering::Relaxed)),
        ..StoreConfig::default()
    };
    let store = Store::open(config, place(dir.path())).unwrap();
    store.start_ingest();
    store.start_upkeep().unwrap();
    let log = MemLog::with_clock(Arc::clone(&clock));
    log.epoch(Lsn::FIRST);
    let branch = Branch::open(
        Arc::clone(&store),
        BRANCH,
        log.clone() as Arc<dyn Wal>,
        None,
    );
    let branch = branch.unwrap();
    let mut writer = Writer {
        log: Arc::clone(&log),
        lsn: Lsn::FIRST,
        frame: Vec::new(),
    };
    let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
    writer.mtr(&mtr(|m| {
        m.create(5, "./db/big.ibd");
    }));
    writer.mtr(&mtr(|m| {
        m.header(5, PAGES, flags);
    }));
    let mut rng = rand::rngs::StdRng::seed_from_u64(3);
    let mut half = vec![0u8; 8192];
    for page in 1..PAGES {
        rng.fill(&mut half[..]);
        writer.mtr(&mtr(|m| {
            m.init(PageId::new(5, page))
                .write(PageId::new(5, page), 4096, &half);
        }));
        if page % 256 == 0 {
            writer.send();
            catch_up(&branch, &log);
        }
    }
    writer.send();
    let mut last: HashMap<u32, u64> = HashMap::new();
    let mut data = [0u8; 1000];
    for _ in 0..ROUNDS {
        let end = writer.lsn.0 + ROUND_BYTES;
        while writer.lsn.0 < end {
            clock.fetch_add(250, Ordering::Relaxed);
            let page = rng.random_range(1..PAGES);
            let value: u64 = rng.random();
            rng.fill(&mut data[..]);
            let id = PageId::new(5, page);
            let mut b = MtrBuilder::default();
            b.write(id, rng.random_range(4096..11_000), &data)
                .write(id, 100, &value.to_be_bytes());
            last.insert(page, value);
            writer.mtr(&b.finish());
        }
        writer.send();
        catch_up(&branch, &log);
        clock.fetch_add(200_000, Ordering::Relaxed);
    }
    branch.flush_now();
    let begin = Instant::now();
    let mut merges = branch.stats().merged_bytes;
    // Until nothing was merged for a while.
    let mut quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(2) && begin.elapsed() < Duration::from_secs(60) {
        std::thread::yield_now();
        let now = branch.stats().merged_bytes;
        if now != merges {
            (merges, quiet) = (now, Instant::now());
        }
    }
    // However slow the machine is.
    branch.compact_now().unwrap();
    let stats = branch.stats();
    let live = f64::from(PAGES) * 8192.0;
    let history = f64::from(KEPT) * ROUND_BYTES as f64;
    let factor = stats.layer_bytes as f64 / (live + history);
    let peak = PEAK.load(Ordering::Relaxed) as u64;
    println!(
        "{:.1} MB of layers for {:.1} MB of pages and {:.1} MB of history within the horizon: {factor:.2}; \
         {:.1} MB of redo, {:.1} MB merged; peak of all memory {:.1} MiB of a budget of {} MiB",
        stats.layer_bytes as f64 / 1e6,
        live / 1e6,
        history / 1e6,
        writer.lsn.0 as f64 / 1e6,
        stats.merged_bytes as f64 / 1e6,
        peak as f64 / f64::from(1 << 20),
        BUDGET >> 20,
    );
    assert_eq!(branch.failed(), None);
    // A long merge may make way and be taken up by another.
    assert!(
        stats.merges > 0 && stats.merged_bytes as f64 > live,
        "{stats:?}"
    );
    assert!(factor < FACTOR, "{factor}");
    assert!(branch.oldest().unwrap() > Lsn::FIRST);
    // The test's own: the log in memory, which keeps what is not in layers.
    assert!(peak < BUDGET + BUDGET / 2 + (2 << 20), "{peak}");
    for page in (1..PAGES).step_by(3) {
        let got = branch
            .get_page(PageId::new(5, page), ReadAt::Newest)
            .unwrap();
        let want = last.get(&page).copied().unwrap_or(0);
        assert_eq!(got.bytes[100..108], want.to_be_bytes(), "page {page}");
    }
}
