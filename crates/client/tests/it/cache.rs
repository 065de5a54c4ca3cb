//! The page cache against a model, a scan, damage, a failing file, restarts, and many
//! threads.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use proptest::prelude::*;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;
use xylem_client::cache::{Cache, Found, PageId, Settings, Ticket};

const PAGE: usize = 4096;

fn settings(dir: &Path, slots: u64) -> Settings {
    Settings {
        path: dir.join("pages"),
        bytes: slots * PAGE as u64,
        page_size: PAGE as u32,
        branch: "id:b".to_owned(),
        epoch: 7,
        start_lsn: 1000,
    }
}

/// A page whose bytes tell its identifier and version.
fn content(page: (u32, u32), version: u64) -> Vec<u8> {
    let seed = u64::from(page.0) << 40 ^ u64::from(page.1) << 8 ^ version << 20;
    (0..PAGE as u64)
        .map(|at| (seed ^ at).wrapping_mul(0x9e37_79b9) as u8)
        .collect()
}

fn id(page: (u32, u32)) -> PageId {
    PageId::new(page.0, page.1)
}

fn get(cache: &Cache, page: (u32, u32)) -> Option<Vec<u8>> {
    let mut buf = vec![0; PAGE];
    match cache.get(id(page), &mut buf, true) {
        Found::Hit => Some(buf),
        Found::Miss => None,
        Found::Busy => panic!("busy although it may wait"),
    }
}

fn put(cache: &Cache, page: (u32, u32), version: u64) {
    cache.put(id(page), &content(page, version), cache.ticket());
}

#[derive(Clone, Debug)]
enum Step {
    /// The page becomes dirty, and later clean.
    Change((u32, u32)),
    /// The page becomes dirty, and leaves the buffer pool otherwise.
    Drop((u32, u32)),
    Read((u32, u32)),
    ForgetSpace(u32),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let page = (0..3u32, 0..60u32);
    prop_oneof![
        6 => page.clone().prop_map(Step::Change),
        2 => page.clone().prop_map(Step::Drop),
        12 => page.prop_map(Step::Read),
        1 => (0..3u32).prop_map(Step::ForgetSpace),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A page that is found is the newest version, whatever happened.
    #[test]
    fn only_the_newest_version_is_found(
        slots in 1..40u64,
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let dir = TempDir::new().unwrap();
        let mut settings = settings(dir.path(), slots);
        let mut cache = Cache::open(settings.clone()).unwrap();
        let mut newest: HashMap<(u32, u32), u64> = HashMap::new();
        let mut version = 0;
        for step in steps {
            version += 1;
            match step {
                Step::Change(page) => {
                    cache.forget(id(page));
                    prop_assert_eq!(get(&cache, page), None);
                    newest.insert(page, version);
                    put(&cache, page, version);
                }
                Step::Drop(page) => {
                    cache.forget(id(page));
                    newest.insert(page, version);
                }
                Step::Read(page) => {
                    let of = newest.get(&page).copied().unwrap_or(0);
                    match get(&cache, page) {
                        Some(bytes) => {
                            prop_assert_eq!(bytes, content(page, of));
                        }
                        None => put(&cache, page, of),
                    }
                }
                Step::ForgetSpace(space) => {
                    cache.forget_space(space);
                    for no in 0..60 {
                        prop_assert_eq!(get(&cache, (space, no)), None);
                        newest.insert((space, no), version);
                    }
                }
                Step::Reopen => {
                    let before = cache.pages();
                    cache.close(Some(settings.start_lsn + 10));
                    settings.epoch += 1;
                    settings.start_lsn += 20;
                    cache = Cache::open(settings.clone()).unwrap();
                    prop_assert_eq!(cache.pages(), before);
                }
            }
            prop_assert!(cache.pages() <= slots);
        }
        prop_assert_eq!(cache.counters().damaged.get(), 0);
    }
}

#[test]
fn pages_of_all_sizes_up_to_a_slot_are_kept() {
    let dir = TempDir::new().unwrap();
    let cache = Cache::open(settings(dir.path(), 100)).unwrap();
    let small = vec![7; 1024];
    cache.put(PageId::new(1, 1), &small, cache.ticket());
    let mut buf = vec![0; 1024];
    assert_eq!(cache.get(PageId::new(1, 1), &mut buf, true), Found::Hit);
    assert_eq!(buf, small);
    // A tablespace of another page size has the identifier now.
    assert_eq!(get(&cache, (1, 1)), None);
    cache.put(PageId::new(1, 2), &vec![0; PAGE + 1], cache.ticket());
    assert_eq!(cache.pages(), 1);
}

#[test]
fn a_scan_does_not_displace_what_is_read_often() {
    let dir = TempDir::new().unwrap();
    let cache = Cache::open(settings(dir.path(), 1000)).unwrap();
    let hot: Vec<_> = (0..500).map(|no| (1, no)).collect();
    for _ in 0..3 {
        for page in &hot {
            if get(&cache, *page).is_none() {
                put(&cache, *page, 0);
            }
        }
    }
    for no in 0..10_000 {
        assert_eq!(get(&cache, (2, no)), None);
        put(&cache, (2, no), 0);
    }
    let left = hot
        .iter()
        .filter(|page| get(&cache, **page).is_some())
        .count();
    assert!(left >= 450, "{left} of 500 hot pages survived a scan");
    assert!(cache.counters().evictions.get() >= 9000);
}

#[test]
fn a_put_whose_read_began_before_a_tablespace_was_forgotten_does_nothing() {
    let dir = TempDir::new().unwrap();
    let cache = Cache::open(settings(dir.path(), 100)).unwrap();
    let ticket = cache.ticket();
    assert_eq!(Ticket::from_number(ticket.number()), ticket);
    cache.forget_space(5);
    cache.put(PageId::new(5, 1), &content((5, 1), 1), ticket);
    assert_eq!(get(&cache, (5, 1)), None);
    put(&cache, (5, 1), 2);
    assert_eq!(get(&cache, (5, 1)), Some(content((5, 1), 2)));
}

#[test]
fn a_damaged_page_is_a_miss() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path(), 1);
    let cache = Cache::open(settings.clone()).unwrap();
    put(&cache, (1, 1), 1);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&settings.path)
        .unwrap();
    file.write_all_at(b"x", 100).unwrap();
    assert_eq!(get(&cache, (1, 1)), None);
    assert_eq!(cache.counters().damaged.get(), 1);
    assert_eq!(cache.pages(), 0);
    put(&cache, (1, 1), 1);
    assert_eq!(get(&cache, (1, 1)), Some(content((1, 1), 1)));
}

/// A file that ends too early fails as a disk does: the read returns an error.
#[test]
fn a_failing_file_turns_the_cache_off() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path(), 10);
    let cache = Cache::open(settings.clone()).unwrap();
    put(&cache, (1, 1), 1);
    put(&cache, (1, 2), 1);
    assert_ne!(cache.size(), 0);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&settings.path)
        .unwrap();
    file.set_len(0).unwrap();
    assert_eq!(get(&cache, (1, 1)), None);
    assert_eq!(cache.size(), 0);
    // It stays off, because it does not follow what happens meanwhile.
    put(&cache, (1, 1), 2);
    assert_eq!(get(&cache, (1, 1)), None);
    assert_eq!(get(&cache, (1, 2)), None);
    cache.close(Some(2000));
    assert!(!settings.path.exists());
    assert!(!dir.path().join("pages.index").exists());
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_that_names_it() {
    let dir = TempDir::new().unwrap();
    let mut settings = settings(dir.path(), 10);
    settings.path = dir.path().join("missing/pages");
    let error = Cache::open(settings.clone()).unwrap_err();
    let path = settings.path.display().to_string();
    assert!(error.message.contains(&path), "{error}");
}

/// A cache with one page, closed by the compute of epoch 7 at LSN 2000.
fn closed(dir: &Path) -> Settings {
    let settings = settings(dir, 10);
    let cache = Cache::open(settings.clone()).unwrap();
    put(&cache, (1, 1), 1);
    cache.close(Some(2000));
    Settings {
        epoch: 8,
        start_lsn: 2016,
        ..settings
    }
}

#[test]
fn the_next_compute_finds_the_pages_and_no_other() {
    let found = |change: &dyn Fn(&mut Settings)| {
        let dir = TempDir::new().unwrap();
        let mut settings = closed(dir.path());
        change(&mut settings);
        let cache = Cache::open(settings).unwrap();
        assert!(!dir.path().join("pages.index").exists());
        match get(&cache, (1, 1)) {
            Some(bytes) => {
                assert_eq!(bytes, content((1, 1), 1));
                true
            }
            None => false,
        }
    };
    assert!(found(&|_| ()));
    // Another compute wrote in between.
    assert!(!found(&|s| s.epoch = 9));
    assert!(!found(&|s| s.epoch = 7));
    assert!(!found(&|s| s.epoch = 0));
    assert!(!found(&|s| s.start_lsn = 1999));
    assert!(!found(&|s| s.branch = "id:c".to_owned()));
    assert!(!found(&|s| s.bytes *= 2));
    assert!(!found(&|s| s.page_size = 8192));
}

#[test]
fn an_index_is_used_once_and_only_whole() {
    let dir = TempDir::new().unwrap();
    let settings = closed(dir.path());
    let index = dir.path().join("pages.index");
    let bytes = std::fs::read(&index).unwrap();
    for cut in 0..bytes.len() {
        std::fs::write(&index, &bytes[..cut]).unwrap();
        assert_eq!(Cache::open(settings.clone()).unwrap().pages(), 0);
    }
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&index, damaged).unwrap();
        assert_eq!(Cache::open(settings.clone()).unwrap().pages(), 0);
    }
    // A compute that dies leaves no index.
    let settings = closed(dir.path());
    drop(Cache::open(settings.clone()).unwrap());
    assert_eq!(Cache::open(settings).unwrap().pages(), 0);
}

#[test]
fn a_reader_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let mut settings = settings(dir.path(), 10);
    settings.epoch = 0;
    let cache = Cache::open(settings.clone()).unwrap();
    put(&cache, (1, 1), 1);
    assert!(get(&cache, (1, 1)).is_some());
    cache.close(Some(2000));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Each thread has pages of its own, as each page has one reader or writer at a time in
/// the buffer pool. All compete for slots, and one forgets tablespaces.
#[test]
fn many_threads_find_only_newest_versions() {
    let dir = TempDir::new().unwrap();
    let cache = Cache::open(settings(dir.path(), 600)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4u32)
            .map(|thread| {
                let cache = &cache;
                scope.spawn(move || {
                    let mut versions: HashMap<u32, u64> = HashMap::new();
                    let (mut x, mut hits) = (u64::from(thread) + 1, 0);
                    for version in 1..20_000u64 {
                        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let no = (x >> 33) as u32 % 300 * 4 + thread;
                        let of = versions.entry(no).or_default();
                        let page = (1 + no % 2, no);
                        if x >> 60 == 0 {
                            cache.forget(id(page));
                            *of = version;
                            put(cache, page, version);
                            continue;
                        }
                        let ticket = cache.ticket();
                        match get(cache, page) {
                            Some(bytes) => {
                                assert_eq!(bytes, content(page, *of));
                                hits += 1;
                            }
                            None => cache.put(id(page), &content(page, *of), ticket),
                        }
                    }
                    hits
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                cache.forget_space(2);
                std::thread::yield_now();
            }
        });
        let hits: u64 = workers.into_iter().map(|w| w.join().unwrap()).sum();
        done.store(true, Ordering::Relaxed);
        assert!(hits > 1000, "{hits} hits");
    });
    assert_eq!(cache.counters().damaged.get(), 0);
}
