//! The page store over object stores, behind a cache on local disk.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::model::Model;
use crate::common::objects::{bucket_of, config, place, settle};
use crate::common::{BRANCH, MemLog, catch_up, small};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_objects::testing::{Faulty, Rates, S3Server, memory};
use xylem_objects::{Bucket, DiskCache, Retry};
use xylem_pages::files::{FileReader, FileWriter, Files, ObjectPlace, Place, Put};
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_types::PageId;
use xylem_wal::Wal;

/// Reads must not all come from memory.
fn little_memory() -> StoreConfig {
    StoreConfig {
        memory_bytes: 1 << 20,
        open_layer_bytes: 16 << 10,
        trim_log: false,
        ..small()
    }
}

fn open(config: StoreConfig, place: ObjectPlace, log: &Arc<MemLog>) -> Arc<Branch> {
    let store = Store::open(config, Arc::new(place)).unwrap();
    store.start_ingest();
    Branch::open(store, BRANCH, Arc::clone(log) as Arc<dyn Wal>, None).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{what} did not happen"
        );
        std::thread::yield_now();
    }
}

/// What a place must do, whatever is behind it.
fn behaves(place: &dyn Place) {
    let files = place.folder("branches/ab").unwrap();
    assert_eq!(files.list().unwrap(), []);
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n * 7 / 3) as u8).collect();
    let mut writer = files.create("one.layer").unwrap();
    for part in bytes.chunks(30_000) {
        writer.write(part).unwrap();
    }
    assert!(
        files.open("one.layer").is_err(),
        "not before it is finished"
    );
    writer.finish().unwrap();
    let reader = files.open("one.layer").unwrap();
    for _ in 0..2 {
        for (at, len) in [(0, 10), (99_000, 70_000), (199_999, 1), (0, 200_000)] {
            let mut out = vec![0; len];
            reader.read_at(at as u64, &mut out).unwrap();
            assert!(out == bytes[at..at + len]);
        }
        assert!(reader.forget(50_000, 100_000), "reading again makes sense");
    }
    let mut out = [0; 2];
    let error = reader.read_at(199_999, &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);

    assert_eq!(files.put_new("manifest-1", b"first").unwrap(), Put::Done);
    assert_eq!(files.put_new("manifest-1", b"other").unwrap(), Put::Exists);
    assert_eq!(files.read("manifest-1").unwrap(), b"first");
    let mut list = files.list().unwrap();
    list.sort();
    assert_eq!(
        list,
        [
            ("manifest-1".to_owned(), 5),
            ("one.layer".to_owned(), 200_000)
        ]
    );
    // A name is given out once.
    let mut writer = files.create("one.layer").unwrap();
    writer.write(b"other").unwrap();
    let error = writer.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    // One that is dropped was never there.
    let mut writer = files.create("two.layer").unwrap();
    writer.write(&bytes).unwrap();
    drop(writer);
    assert_eq!(files.list().unwrap().len(), 2);

    let other = place.folder("branches/cd").unwrap();
    other.put_new("x", b"1").unwrap();
    let mut folders = place.folders("branches").unwrap();
    folders.sort();
    assert_eq!(folders, ["ab", "cd"]);
    files.remove("manifest-1").unwrap();
    files.remove("manifest-1").unwrap();
    for missing in [files.read("manifest-1"), files.read("none")] {
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    }
    place.remove_folder("branches/ab").unwrap();
    place.remove_folder("branches/ab").unwrap();
    assert_eq!(files.list().unwrap(), []);
    let gone = files.open("one.layer").map(|_| ()).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(other.read("x").unwrap(), b"1");
    assert!(!place.url().is_empty());
}

#[test]
fn a_place_behaves_on_every_store() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}/store", dir.path().display());
    for (n, url) in ["memory:///", "memory:///below/it", &url]
        .into_iter()
        .enumerate()
    {
        let bucket = Bucket::open(url, config()).unwrap();
        for max in [0, 1 << 20] {
            let cache = dir.path().join(format!("cache-{n}-{max}"));
            behaves(&place(bucket.clone(), &cache, max));
            bucket.delete_folder("").unwrap();
        }
    }
    for seed in 0..5 {
        let faulty = Faulty::in_memory(seed);
        // What is done late may come after the folder was removed.
        faulty.rates(Rates {
            late: 0,
            ..Rates::some()
        });
        let cache = dir.path().join(format!("faulty-{seed}"));
        behaves(&place(bucket_of(&faulty), &cache, 1 << 20));
        assert!(faulty.injected() > 0);
    }
    let server = S3Server::shared().unwrap();
    let bucket = server.open(&server.place(), Retry::default()).unwrap();
    behaves(&place(bucket, &dir.path().join("s3"), 1 << 20));
}

/// A server's life: a way to the store, and a cache.
struct Life {
    faulty: Option<Faulty>,
    cache: Arc<DiskCache>,
    cache_dir: PathBuf,
    branch: Arc<Branch>,
}

/// Lives of one server on one store.
struct Lives<'a> {
    root: &'a Path,
    log: &'a Arc<MemLog>,
    connect: &'a dyn Fn() -> (Bucket, Option<Faulty>),
    count: u32,
    injected: u64,
    evictions: u64,
    fetches: u64,
}

/// Half of what the layers will take.
const CACHE: u64 = 256 << 10;

impl Lives<'_> {
    /// The next one, with a cache of its own, or an earlier one's.
    fn begin(&mut self, cache_dir: Option<PathBuf>) -> Life {
        self.count += 1;
        let (bucket, faulty) = (self.connect)();
        let new = || self.root.join(format!("cache-{}", self.count));
        let cache_dir = cache_dir.unwrap_or_else(new);
        let place = place(bucket, &cache_dir, CACHE);
        Life {
            faulty,
            cache: Arc::clone(place.cache()),
            cache_dir,
            branch: open(little_memory(), place, self.log),
        }
    }

    fn end(&mut self, life: Life) {
        let stats = life.cache.stats();
        assert!(stats.held_bytes <= CACHE, "{stats:?}");
        self.evictions += stats.evictions;
        self.fetches += stats.fetches;
        self.injected += life.faulty.as_ref().map_or(0, Faulty::injected);
        drop(life);
        settle();
    }
}

/// A random history with flushes, merges, restarts, sudden deaths and lost
/// local disks.
fn history(seed: u64, steps: usize, connect: &dyn Fn() -> (Bucket, Option<Faulty>)) {
    let root = tempfile::tempdir().unwrap();
    let log = MemLog::new();
    let mut model = Model::new(StdRng::seed_from_u64(seed), log.clone());
    let mut lives = Lives {
        root: root.path(),
        log: &log,
        connect,
        count: 0,
        injected: 0,
        evictions: 0,
        fetches: 0,
    };
    let mut now = lives.begin(None);
    for _ in 0..steps {
        model.step();
        match model.rng().random_range(0..300) {
            0..3 => now.branch.flush_now(),
            3 | 4 => {
                match &now.faulty {
                    Some(faulty) if model.rng().random_bool(0.6) => {
                        // Sudden death, at one of the next requests.
                        let at = faulty.changes() + model.rng().random_range(0..4);
                        faulty.die_at(at, model.rng().random_bool(0.5));
                        model.send_all();
                    }
                    _ => now.branch.shutdown(),
                }
                let keep = model.rng().random_bool(0.5);
                let dir = keep.then(|| now.cache_dir.clone());
                lives.end(now);
                now = lives.begin(dir);
            }
            5..20 => {
                catch_up(&now.branch, &log);
                model.check_random(&now.branch, 20);
            }
            20..23 => now.branch.compact_now().unwrap(),
            23..26 => {
                catch_up(&now.branch, &log);
                model.check_files(&now.branch, ReadAt::Newest);
                model.check_spaces(&now.branch, ReadAt::Newest);
            }
            _ => {}
        }
        assert_eq!(now.branch.failed(), None);
    }
    let stride = 1.max(steps / 100);
    model.check_all(&now.branch, stride);
    now.branch.flush_now();
    now.branch.compact_now().unwrap();
    model.check_all(&now.branch, stride);
    let faulty = now.faulty.is_some();
    lives.end(now);
    // With every local directory gone.
    let now = lives.begin(None);
    model.check_all(&now.branch, stride);
    lives.end(now);
    assert!(
        lives.evictions > 30 && lives.fetches > 30,
        "{} {}",
        lives.evictions,
        lives.fetches
    );
    assert!(!faulty || lives.injected > 50, "{}", lives.injected);
}

#[test]
fn every_page_at_every_lsn_from_a_store_that_fails() {
    for seed in 0..4 {
        let store = memory();
        let connect = || {
            let faulty = Faulty::new(Arc::clone(&store), seed);
            faulty.rates(Rates {
                hang: 0,
                ..Rates::some()
            });
            (bucket_of(&faulty), Some(faulty))
        };
        history(seed, 900, &connect);
    }
}

#[test]
fn every_page_at_every_lsn_from_a_real_s3_server() {
    let server = S3Server::shared().unwrap();
    let url = server.place();
    history(7, 900, &|| {
        (server.open(&url, Retry::default()).unwrap(), None)
    });
}

/// Feeds one history to a server that dies at the change `n` of the store.
/// Answers whether it died.
fn live_and_die(n: u64, done: bool) -> bool {
    let root = tempfile::tempdir().unwrap();
    let log = MemLog::new();
    let mut model = Model::new(StdRng::seed_from_u64(9), log.clone());
    let store = memory();
    let faulty = Faulty::new(Arc::clone(&store), 1);
    faulty.die_at(n, done);
    let first = place(bucket_of(&faulty), &root.path().join("first"), CACHE);
    let pages = Store::open(little_memory(), Arc::new(first)).unwrap();
    pages.start_ingest();
    let opened = Branch::open(pages, BRANCH, log.clone() as Arc<dyn Wal>, None);
    for _ in 0..5 {
        for _ in 0..60 {
            model.step();
        }
        let Ok(branch) = &opened else { break };
        if branch.stats().flush_failures > 0 {
            break;
        }
        catch_up(branch, &log);
        // flush_now would wait for ever for a flush that cannot succeed.
        std::thread::scope(|s| {
            let flushing = s.spawn(|| branch.flush_now());
            until("a flush or the end", || {
                flushing.is_finished() || branch.stats().flush_failures > 0
            });
            if branch.stats().flush_failures > 0 {
                branch.shutdown();
            }
        });
        if branch.compact_now().is_err() {
            break;
        }
    }
    let died = faulty.changes() > n;
    drop(opened);
    let bucket = bucket_of(&Faulty::new(store, 1));
    let second = place(bucket.clone(), &root.path().join("second"), CACHE);
    common::care::undamaged_in(&second, None);
    let branch = open(little_memory(), second, &log);
    model.check_all(&branch, 20);
    branch.flush_now();
    model.check_all(&branch, 50);
    drop(branch);
    for (name, _) in bucket.list(&format!("branches/{BRANCH}")).unwrap() {
        assert!(
            name.starts_with("manifest-") || name.ends_with(".layer"),
            "{name}"
        );
    }
    died
}

#[test]
fn a_crash_at_every_request_leaves_a_store_that_opens() {
    for done in [false, true] {
        let mut n = 0;
        while live_and_die(n, done) {
            n += 1;
        }
        assert!(n > 12, "only {n} requests");
    }
}

#[test]
fn a_store_that_is_away_pauses_flushes_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let log = MemLog::new();
    let mut model = Model::new(StdRng::seed_from_u64(3), log.clone());
    let faulty = Faulty::in_memory(3);
    let mut config = config();
    config.retry.give_up_after = Duration::from_millis(50);
    let bucket = Bucket::with_store(Arc::new(faulty.clone()), "test://", config).unwrap();
    let place = place(bucket, root.path(), 4 << 20);
    let branch = open(little_memory(), place, &log);
    for _ in 0..300 {
        model.step();
    }
    model.send_all();
    catch_up(&branch, &log);
    branch.flush_now();
    let flushed = model.lsns.clone();
    faulty.away(true);
    for _ in 0..5000 {
        model.step();
    }
    model.send_all();
    until("a flush that fails", || branch.stats().flush_failures > 1);
    // What is on local disk is read all the same.
    for page in 0..4 {
        let page = xylem_types::PageId::new(0, page);
        model.check_page(&branch, page, ReadAt::Lsn(flushed[flushed.len() / 2]));
    }
    assert_eq!(branch.failed(), None);
    faulty.heal();
    model.check_all(&branch, 200);
    branch.flush_now();
    model.check_all(&branch, 200);
}

#[test]
fn a_bad_copy_is_replaced_and_a_bad_original_never_served() {
    let root = tempfile::tempdir().unwrap();
    let log = MemLog::new();
    let mut model = Model::new(StdRng::seed_from_u64(5), log.clone());
    let bucket = bucket_of(&Faulty::in_memory(5));
    let cache_dir = root.path().join("cache");
    let first = place(bucket.clone(), &cache_dir, 4 << 20);
    let branch = open(little_memory(), first, &log);
    for _ in 0..500 {
        model.step();
    }
    model.send_all();
    catch_up(&branch, &log);
    branch.flush_now();
    drop(branch);

    // A bit here and there in the blocks; the last 200 bytes are the footer's.
    let spoil = |bytes: &mut Vec<u8>| {
        for at in (100..bytes.len() - 200).step_by(3000) {
            bytes[at] ^= 0x10;
        }
    };
    let mut spoiled = 0;
    for entry in std::fs::read_dir(cache_dir.join("objects")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        spoil(&mut bytes);
        spoiled += 1;
        std::fs::write(path, bytes).unwrap();
    }
    assert!(spoiled > 3);
    let second = place(bucket.clone(), &cache_dir, 4 << 20);
    let cache = Arc::clone(second.cache());
    let branch = open(little_memory(), second, &log);
    model.check_all(&branch, 20);
    assert!(cache.stats().forgotten > 3, "{:?}", cache.stats());
    drop((branch, cache));

    // The same in the store.
    let folder = format!("branches/{BRANCH}");
    for (name, _) in bucket.list(&folder).unwrap() {
        if !name.ends_with(".layer") {
            continue;
        }
        let name = format!("{folder}/{name}");
        let mut bytes = bucket.get(&name).unwrap().to_vec();
        spoil(&mut bytes);
        bucket.delete(&name).unwrap();
        bucket.put_new(&name, bytes).unwrap();
    }
    let third = place(bucket, &root.path().join("third"), 4 << 20);
    let branch = open(little_memory(), third, &log);
    let first = model.lsns[model.lsns.len() / 3];
    let (mut right, mut refused) = (0, 0);
    for page in 0..20 {
        let page = xylem_types::PageId::new(0, page);
        match branch.get_page(page, ReadAt::Lsn(first)) {
            Ok(_) => {
                model.check_page(&branch, page, ReadAt::Lsn(first));
                right += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "{right} right");
}

/// What happens while a file is read, once.
type During = Arc<parking_lot::Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A place where something happens during a read.
struct Held {
    place: ObjectPlace,
    during: During,
}

struct HeldFiles {
    files: Arc<dyn Files>,
    during: During,
}

struct HeldReader {
    file: Arc<dyn FileReader>,
    during: During,
}

impl FileReader for HeldReader {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let during = self.during.lock().take();
        if let Some(during) = during {
            during();
        }
        self.file.read_at(offset, out)
    }
}

impl Place for Held {
    fn folder(&self, name: &str) -> std::io::Result<Arc<dyn Files>> {
        Ok(Arc::new(HeldFiles {
            files: self.place.folder(name)?,
            during: Arc::clone(&self.during),
        }))
    }
    fn folders(&self, within: &str) -> std::io::Result<Vec<String>> {
        self.place.folders(within)
    }
    fn remove_folder(&self, name: &str) -> std::io::Result<()> {
        self.place.remove_folder(name)
    }
    fn url(&self) -> String {
        self.place.url()
    }
}

impl Files for HeldFiles {
    fn list(&self) -> std::io::Result<Vec<(String, u64)>> {
        self.files.list()
    }
    fn create(&self, name: &str) -> std::io::Result<Box<dyn FileWriter>> {
        self.files.create(name)
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn FileReader>> {
        Ok(Arc::new(HeldReader {
            file: self.files.open(name)?,
            during: Arc::clone(&self.during),
        }))
    }
    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        self.files.read(name)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.files.remove(name)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> std::io::Result<Put> {
        self.files.put_new(name, bytes)
    }
}

/// A merge takes layers away while a reader on a thread of a runtime has them:
/// that thread lets go of them last, and must not wait for the store there,
/// which ends the process. Upkeep removes them.
#[test]
fn the_last_reader_on_an_async_thread_waits_for_no_store() {
    let root = tempfile::tempdir().unwrap();
    let log = MemLog::new();
    let mut model = Model::new(StdRng::seed_from_u64(3), log.clone());
    let bucket = bucket_of(&Faulty::in_memory(1));
    let during = During::default();
    let held = Held {
        place: place(bucket.clone(), root.path(), 64 << 20),
        during: Arc::clone(&during),
    };
    let config = StoreConfig {
        trim_log: false,
        ..small()
    };
    let store = Store::open(config, Arc::new(held)).unwrap();
    store.start_ingest();
    let branch = Branch::open(store, BRANCH, log.clone() as Arc<dyn Wal>, None).unwrap();
    for _ in 0..9 {
        for _ in 0..60 {
            model.step();
        }
        model.send_all();
        catch_up(&branch, &log);
        branch.flush_now();
    }
    let layers = move |bucket: &Bucket| {
        let all = bucket.list(&format!("branches/{BRANCH}")).unwrap();
        let layers = all.into_iter().map(|(name, _)| name);
        layers.filter(|n| n.ends_with(".layer")).count() as u64
    };
    assert_eq!(layers(&bucket), branch.stats().layers);
    let (merging, store) = (Arc::clone(&branch), bucket.clone());
    let merge = move || {
        let merge = move || {
            merging.compact_now().unwrap();
            let left = merging.stats();
            assert!(left.merges > 0 && layers(&store) > left.layers, "{left:?}");
        };
        std::thread::spawn(merge).join().unwrap();
    };
    *during.lock() = Some(Box::new(merge));
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.build().unwrap();
    runtime.block_on(async {
        // All that it reads lies in the cache on disk.
        let page = PageId::new(0, 1);
        for lsn in model.lsns.iter().step_by(20) {
            let _ = branch.get_page(page, ReadAt::Lsn(*lsn));
        }
        // As a scrape does, and whoever looks at layers.
        let _ = (branch.stats(), branch.layers_info());
    });
    assert!(during.lock().is_none(), "nothing was read");
    branch.compact_now().unwrap();
    assert_eq!(layers(&bucket), branch.stats().layers);
    model.check_all(&branch, 50);
}
