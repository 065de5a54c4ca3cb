//! Reads while ingest and flushes go on: never half an mtr, never the past.
#![allow(clippy::unwrap_used)]

use crate::common::redo::{after, mtr};
use crate::common::{BRANCH, MemWal, catch_up, open, place, small, wait_until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use xylem_pages::{Branch, Reach, ReadAt, ReadError, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{Lsn, PageId};
use xylem_wal::Wal;

const PAGES: u32 = 40;

fn value(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[100..104].try_into().unwrap())
}

/// Each mtr writes the next number into two pages.
fn pair(n: u32) -> (PageId, PageId) {
    (
        PageId::new(7, 1 + n % PAGES),
        PageId::new(7, 1 + (n * 7 + 3) % PAGES),
    )
}

fn read_for_ever(branch: &Branch, stop: &AtomicBool, seed: u32, reads: &AtomicU64) {
    let mut n = seed;
    let mut seen = [0u32; PAGES as usize + 1];
    while !stop.load(Ordering::Acquire) {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let a = PageId::new(7, 1 + (n >> 8) % PAGES);
        let first = match branch.get_page(a, ReadAt::Newest, Reach::Memory) {
            Ok(p) => p,
            Err(_) => branch.get_page(a, ReadAt::Newest, Reach::Files).unwrap(),
        };
        // Time does not run backwards for one reader and page.
        let v = value(&first.bytes);
        assert!(v >= seen[a.page.0 as usize]);
        seen[a.page.0 as usize] = v;
        // The mtr that wrote it wrote the other page, too.
        if v > 0 {
            let (x, y) = pair(v);
            let other = if x == a { y } else { x };
            let got = branch
                .get_page(other, ReadAt::Lsn(first.lsn), Reach::Files)
                .unwrap();
            assert!(
                value(&got.bytes) >= v,
                "page {other} at {} lacks mtr {v} of page {a}",
                first.lsn
            );
            let again = branch
                .get_page(a, ReadAt::Lsn(first.lsn), Reach::Files)
                .unwrap();
            assert_eq!(again.bytes, first.bytes, "page {a} at {}", first.lsn);
        }
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn readers_see_whole_mtrs_only() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut lsn = Lsn::FIRST;
    wal.epoch(lsn);
    let mut config = small();
    config.memory_bytes = 2 << 20;
    config.open_layer_bytes = 32 << 10;
    let branch = open(config, dir.path(), &wal);
    let mut send = |bytes: Vec<u8>| {
        wal.redo(lsn, &bytes);
        lsn = after(lsn, &bytes);
    };
    send(mtr(|m| {
        m.header(7, PAGES + 1, SpaceFlags::full_crc32_of(4096).unwrap().raw());
        for page in 1..=PAGES {
            m.init(PageId::new(7, page));
        }
    }));
    catch_up(&branch, &wal);
    let stop = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|s| {
        for seed in 0..3 {
            let (branch, stop, reads) = (&branch, &stop, &reads);
            s.spawn(move || read_for_ever(branch, stop, seed, reads));
        }
        let begin = std::time::Instant::now();
        let mut n = 0;
        while begin.elapsed().as_secs() < 3 || reads.load(Ordering::Relaxed) < 2000 {
            for _ in 0..50 {
                n += 1;
                let (x, y) = pair(n);
                send(mtr(|m| {
                    m.write(x, 100, &n.to_be_bytes())
                        .write(y, 100, &n.to_be_bytes());
                    m.write(y, 200, &[n as u8; 60]);
                }));
            }
            catch_up(&branch, &wal);
        }
        stop.store(true, Ordering::Release);
    });
    let stats = branch.stats();
    println!("{} reads, {stats:?}", reads.load(Ordering::Relaxed));
    assert_eq!(branch.failed(), None);
    assert!(stats.flushes > 5);
}

#[test]
fn a_dropped_tablespace_is_gone_at_once_and_there_before() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut lsn = Lsn::FIRST;
    wal.epoch(lsn);
    let branch = open(small(), dir.path(), &wal);
    let flags = SpaceFlags::full_crc32_of(4096).unwrap().raw();
    for round in 0..300 {
        let space = 10 + round;
        let name = format!("./db/t{round}.ibd");
        for bytes in [
            mtr(|m| {
                m.create(space, &name);
            }),
            mtr(|m| {
                m.header(space, 4, flags);
            }),
        ] {
            wal.redo(lsn, &bytes);
            lsn = after(lsn, &bytes);
        }
        catch_up(&branch, &wal);
        let id = PageId::new(space, 0);
        branch.get_page(id, ReadAt::Newest, Reach::Files).unwrap();
        assert!(branch.get_page(id, ReadAt::Newest, Reach::Memory).is_ok());
        let before = lsn;
        let bytes = mtr(|m| {
            m.delete(space, &name);
        });
        wal.redo(lsn, &bytes);
        lsn = after(lsn, &bytes);
        catch_up(&branch, &wal);
        assert!(branch.get_page(id, ReadAt::Newest, Reach::Memory).is_err());
        let gone = branch.get_page(id, ReadAt::Newest, Reach::Files);
        assert!(matches!(gone, Err(ReadError::NoSuchTablespace { .. })));
        branch
            .get_page(id, ReadAt::Lsn(before), Reach::Files)
            .unwrap();
    }
}

/// Sends mtrs from `lsn` on, each of which writes its number into a page, in frames of
/// about `frame_bytes`. Calls `made` with each number, the LSN after it, and whether it was
/// sent, with those before it. Returns the LSN after all.
fn send_changes(
    wal: &MemWal,
    mut lsn: Lsn,
    (page, changes): (PageId, u32),
    frame_bytes: usize,
    mut made: impl FnMut(u32, Lsn, bool),
) -> Lsn {
    let mut frame = Vec::new();
    let mut start = lsn;
    for n in 1..=changes {
        let bytes = mtr(|m| {
            m.write(page, 100, &n.to_be_bytes());
        });
        lsn = after(lsn, &bytes);
        frame.extend(bytes);
        let sent = frame.len() > frame_bytes || n == changes;
        if sent {
            wal.redo(start, &std::mem::take(&mut frame));
            start = lsn;
        }
        made(n, lsn, sent);
    }
    lsn
}

/// A counter that many mtrs have raised, all of them in the open layer: a read
/// of it must not apply them all, least of all one that must not block.
#[test]
fn a_page_that_changes_all_the_time_is_short_to_read() {
    const CHANGES: u32 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let store = Store::open(StoreConfig::default(), place(dir.path())).unwrap();
    store.start_ingest();
    let as_wal = Arc::clone(&wal) as Arc<dyn Wal>;
    let branch = Branch::open(Arc::clone(&store), BRANCH, as_wal, None).unwrap();
    let (hot, quiet) = (PageId::new(7, 1), PageId::new(7, 2));
    let mut lsn = Lsn::FIRST;
    wal.epoch(lsn);
    let mut middle = Lsn::ZERO;
    let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
    let begin = [
        mtr(|m| {
            m.create(7, "./db/t.ibd");
        }),
        mtr(|m| {
            m.header(7, 10, flags).init(hot).init(quiet);
        }),
    ];
    wal.redo(lsn, &begin.concat());
    lsn = begin.iter().fold(lsn, |lsn, mtr| after(lsn, mtr));
    let lsn = send_changes(&wal, lsn, (hot, CHANGES), 100_000, |n, at, _| {
        if n == CHANGES / 2 {
            middle = at;
        }
    });
    catch_up(&branch, &wal);
    // What is known of the tablespace is remembered.
    branch
        .get_page(quiet, ReadAt::Newest, Reach::Files)
        .unwrap();
    assert!(
        branch
            .get_page(quiet, ReadAt::Newest, Reach::Memory)
            .is_ok()
    );
    assert!(
        branch.get_page(hot, ReadAt::Newest, Reach::Memory).is_err(),
        "too much for a read in memory"
    );
    let applied = || {
        let before = branch.stats().records_applied;
        let page = branch
            .get_page(hot, ReadAt::Lsn(lsn), Reach::Files)
            .unwrap();
        assert_eq!(value(&page.bytes), CHANGES);
        branch.stats().records_applied - before
    };
    assert!(applied() >= u64::from(CHANGES));
    store.start_upkeep().unwrap();
    let short = || applied() <= u64::from(CHANGES) / 5;
    wait_until("reads apply few changes", short);
    println!("a read applies {} of {CHANGES} changes", applied());
    // The past is what it was, and so is what reaches disk.
    for flushed in [false, true] {
        for at in [lsn, middle, Lsn(middle.0 + 1)] {
            let page = branch.get_page(hot, ReadAt::Lsn(at), Reach::Files).unwrap();
            let expected = if at == lsn { CHANGES } else { CHANGES / 2 };
            assert_eq!(value(&page.bytes), expected, "flushed: {flushed}");
        }
        assert_eq!(
            value(
                &branch
                    .get_page(hot, ReadAt::Newest, Reach::Files)
                    .unwrap()
                    .bytes
            ),
            CHANGES
        );
        branch.flush_now();
    }
}

/// A page gets more versions while it is built for readers than one look at a layer
/// passes: it must not stand for the newest version of the layer before, of which
/// the flush makes an image.
#[test]
fn images_are_of_their_lsn_however_fast_the_page_changes() {
    const CHANGES: u32 = 200_000;
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut config = small();
    config.open_layer_bytes = 256 << 10;
    config.long_chain_bytes = 64 << 10;
    let branch = open(config, dir.path(), &wal);
    let hot = PageId::new(7, 1);
    let mut lsn = Lsn::FIRST;
    wal.epoch(lsn);
    let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
    let begin = mtr(|m| {
        m.header(7, 10, flags).init(hot);
    });
    wal.redo(lsn, &begin);
    lsn = after(lsn, &begin);
    catch_up(&branch, &wal);
    let mut moments = Vec::new();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(Ordering::Acquire) {
                    branch.get_page(hot, ReadAt::Newest, Reach::Files).unwrap();
                }
            });
        }
        send_changes(&wal, lsn, (hot, CHANGES), 60_000, |n, at, sent| {
            if n % 500 == 0 {
                moments.push((at, n));
            }
            // The readers get far behind, and then a turn.
            if sent && n % 4 == 0 {
                catch_up(&branch, &wal);
            }
        });
        catch_up(&branch, &wal);
        stop.store(true, Ordering::Release);
    });
    assert_eq!(branch.failed(), None);
    branch.flush_now();
    let stats = branch.stats();
    assert!(stats.flushes > 3, "{stats:?}");
    assert_eq!(stats.images_written, stats.flushes, "{stats:?}");
    for (at, n) in moments {
        let page = branch.get_page(hot, ReadAt::Lsn(at), Reach::Files);
        assert_eq!(value(&page.unwrap().bytes), n, "at {at}");
    }
}
