//! Measures ingest and page reads of the page store by itself: redo comes
//! from a log in memory, layers go to a directory.
//!
//! `cargo run --release -p xylem-pages --example ingest_bench [MiB of redo [MiB of memory [DIR]]]`
#![allow(clippy::unwrap_used)]

#[path = "../tests/it/common/mod.rs"]
#[allow(dead_code, reason = "it uses a part")]
mod common;

use common::redo::{MtrBuilder, after};
use common::{BRANCH, MemLog, catch_up};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_pages::files::LocalPlace;
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{Lsn, PageId};
use xylem_wal::Wal;

const SPACE: u32 = 5;
const PAGES: u32 = 50_000;

fn report(what: &str, mut times: Vec<Duration>, total: Duration) {
    times.sort_unstable();
    let at = |p: usize| {
        times
            .get(times.len() * p / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{what:<34} {:>9.0} pages/s   p50 {:>9.1?}   p99 {:>9.1?}",
        times.len() as f64 / total.as_secs_f64(),
        at(50),
        at(99)
    );
}

fn read(branch: &Branch, what: &str, pages: impl Iterator<Item = u32>) {
    let mut times = Vec::new();
    let begin = Instant::now();
    for p in pages {
        let one = Instant::now();
        branch
            .get_page(PageId::new(SPACE, p), ReadAt::Newest)
            .unwrap();
        times.push(one.elapsed());
    }
    report(what, times, begin.elapsed());
}

/// Bytes of this process in memory, now or at most so far.
fn resident(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        << 10
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().and_then(|a| a.parse().ok()).unwrap_or(512);
    let budget: u64 = args.next().and_then(|a| a.parse().ok()).unwrap_or(512);
    let temp = tempfile::tempdir().unwrap();
    let dir = args
        .next()
        .map_or_else(|| temp.path().to_owned(), Into::into);
    let mut rng = StdRng::seed_from_u64(1);

    // Redo like that of an OLTP load: mtrs of about 100 bytes on 1 to 3 pages,
    // some pages far hotter than others.
    let log = MemLog::new();
    log.epoch(Lsn::FIRST);
    let mut lsn = Lsn::FIRST;
    let mut frame = Vec::new();
    let mut start = lsn;
    let (mut mtrs, mut runs) = (0u64, 0u64);
    let mut push = |lsn: &mut Lsn, b: &MtrBuilder, last: bool| {
        let bytes = b.finish();
        *lsn = after(*lsn, &bytes);
        frame.extend_from_slice(&bytes);
        if frame.len() >= 128 << 10 || last {
            log.redo(start, &frame);
            frame.clear();
            start = *lsn;
        }
    };
    let mut b = MtrBuilder::default();
    b.create(SPACE, "./db/t.ibd");
    push(&mut lsn, &b, false);
    let mut b = MtrBuilder::default();
    b.header(
        SPACE,
        PAGES,
        SpaceFlags::full_crc32_of(16384).unwrap().raw(),
    );
    push(&mut lsn, &b, false);
    for p in 1..PAGES {
        let mut b = MtrBuilder::default();
        b.init(PageId::new(SPACE, p))
            .write(PageId::new(SPACE, p), 200, b"a new page");
        push(&mut lsn, &b, false);
    }
    while lsn.0 < mib << 20 {
        let mut b = MtrBuilder::default();
        for _ in 0..rng.random_range(2..=3) {
            let r: f64 = rng.random();
            let page = 1 + (r * r * r * f64::from(PAGES - 1)) as u32;
            let id = PageId::new(SPACE, page.min(PAGES - 1));
            let len = rng.random_range(10..50);
            let mut data = [0u8; 50];
            rng.fill(&mut data[..]);
            b.write(id, rng.random_range(100..16000), &data[..len]);
            runs += 1;
        }
        push(&mut lsn, &b, false);
        mtrs += 1;
    }
    push(
        &mut lsn,
        MtrBuilder::default().write(PageId::new(SPACE, 1), 100, b"end"),
        true,
    );
    let bytes = lsn.0 - Lsn::FIRST.0;
    println!(
        "{} MiB of redo, {mtrs} mtrs of {:.0} bytes, {:.1} pages each",
        bytes >> 20,
        bytes as f64 / mtrs as f64,
        runs as f64 / mtrs as f64
    );

    let config = StoreConfig {
        trim_log: false,
        memory_bytes: budget << 20,
        ..StoreConfig::default()
    };
    for (what, layer) in [
        ("ingest, no flush", 2 << 30),
        ("ingest with flushes and images", 64 << 20),
    ] {
        let sub = dir.join(what.replace(' ', "-"));
        let memory = if layer > 1 << 30 {
            8 << 30
        } else {
            config.memory_bytes
        };
        let c = StoreConfig {
            open_layer_bytes: layer,
            memory_bytes: memory,
            ..config.clone()
        };
        let store = Store::open(c, Arc::new(LocalPlace::open(&sub).unwrap())).unwrap();
        let resident_before = resident("VmRSS:");
        let begin = Instant::now();
        store.start_ingest();
        let branch = Branch::open(
            Arc::clone(&store),
            BRANCH,
            log.clone() as Arc<dyn Wal>,
            None,
        )
        .unwrap();
        catch_up(&branch, &log);
        let time = begin.elapsed();
        println!(
            "{what:<34} {:>6.0} MB/s   memory {} MiB",
            bytes as f64 / 1e6 / time.as_secs_f64(),
            store.memory_used() >> 20
        );
        if layer > 1 << 30 {
            read(
                &branch,
                "GetPage, open layer, cold cache",
                (0..20_000).map(|i| i * 7919 % (PAGES - 1) + 1),
            );
            continue;
        }
        branch.flush_now();
        println!(
            "{:<34} {:>6.0} MB/s",
            "  until all is in layers",
            bytes as f64 / 1e6 / begin.elapsed().as_secs_f64()
        );
        println!(
            "  resident {} MiB more than before, of a budget of {} MiB",
            resident("VmRSS:").saturating_sub(resident_before) >> 20,
            store.config().memory_bytes >> 20
        );
        println!("  {:?}", branch.stats());
        read(
            &branch,
            "GetPage, page cache (warming)",
            (0..4000).map(|i| i * 17 % (PAGES - 1) + 1),
        );
        read(
            &branch,
            "GetPage, page cache",
            (0..4000).map(|i| i * 17 % (PAGES - 1) + 1),
        );
        drop(branch);
        drop(store);
        let c = config.clone();
        let begin = Instant::now();
        let store = Store::open(c, Arc::new(LocalPlace::open(&sub).unwrap())).unwrap();
        store.start_ingest();
        let branch = Branch::open(store, BRANCH, log.clone() as Arc<dyn Wal>, None).unwrap();
        println!("{:<34} {:>9.1?}", "open", begin.elapsed());
        read(
            &branch,
            "GetPage, layers, cold caches",
            (0..20_000).map(|i| i * 7919 % (PAGES - 1) + 1),
        );
        println!("  {:?}", branch.stats());
        let layers_read = branch.stats();
        println!(
            "  layers looked into per page {:.2}, passed by {:.2}",
            layers_read.layers_visited as f64 / layers_read.get_pages.max(1) as f64,
            layers_read.layers_skipped as f64 / layers_read.get_pages.max(1) as f64
        );
    }
}
