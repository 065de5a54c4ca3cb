//! The scrub of branches that are open and work meanwhile.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::care::{clean, collect, scrub_store};
use crate::common::model::Model;
use crate::common::{BRANCH, MemLog, branch_dir, catch_up, small};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xylem_pages::files::{FileReader, FileWriter, Files, LocalPlace, Place, Put};
use xylem_pages::scrub::{FindingKind, ScrubOptions};
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_types::BranchId;
use xylem_wal::Wal;

/// What a file's reads give: its bytes, or an error.
type Reads = Arc<Mutex<HashMap<String, Result<Vec<u8>, io::ErrorKind>>>>;

/// A directory where what comes from the store itself can be made another
/// than what a cache has.
struct Twofold {
    place: LocalPlace,
    store: Reads,
}

struct TwofoldFiles {
    files: Arc<dyn Files>,
    store: Reads,
}

struct Bytes(Result<Vec<u8>, io::ErrorKind>);

impl FileReader for Bytes {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.as_ref().map_err(|kind| io::Error::from(*kind))?;
        let from = offset as usize;
        let found = bytes.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Place for Twofold {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        Ok(Arc::new(TwofoldFiles {
            files: self.place.folder(name)?,
            store: Arc::clone(&self.store),
        }))
    }
    fn folders(&self, within: &str) -> io::Result<Vec<String>> {
        self.place.folders(within)
    }
    fn remove_folder(&self, name: &str) -> io::Result<()> {
        self.place.remove_folder(name)
    }
    fn url(&self) -> String {
        self.place.url()
    }
}

impl Files for TwofoldFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.files.list()
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        self.files.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        self.files.open(name)
    }
    fn open_uncached(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        match self.store.lock().get(name) {
            Some(bytes) => Ok(Arc::new(Bytes(bytes.clone()))),
            None => self.files.open(name),
        }
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.files.read(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        self.files.put_new(name, bytes)
    }
}

struct One {
    store: Arc<Store>,
    branch: Arc<Branch>,
    model: Model,
    reads: Reads,
}

fn one(dir: &Path, config: StoreConfig) -> One {
    let reads = Reads::default();
    let place = Twofold {
        place: LocalPlace::open(dir).unwrap(),
        store: Arc::clone(&reads),
    };
    let store = Store::open(config, Arc::new(place)).unwrap();
    store.start_ingest();
    let log = MemLog::new();
    let model = Model::new(StdRng::seed_from_u64(5), log.clone());
    let branch = Branch::open(Arc::clone(&store), BRANCH, log as Arc<dyn Wal>, None).unwrap();
    One {
        store,
        branch,
        model,
        reads,
    }
}

impl One {
    fn flush(&mut self) {
        for _ in 0..60 {
            self.model.step();
        }
        self.model.send_all();
        catch_up(&self.branch, self.model.log());
        self.branch.flush_now();
    }

    /// The largest layer file.
    fn layer(&self) -> String {
        let info = self.branch.layers_info();
        let largest = info.files.iter().max_by_key(|l| l.bytes);
        largest.unwrap().name.clone()
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_branch_is_scrubbed_while_it_works() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        open_layer_bytes: 16 << 10,
        merged_layer_bytes: 16 << 10,
        history: Duration::ZERO,
        scrub_bytes_per_second: 0,
        ..small()
    };
    let store = Store::open(config, common::place(dir.path())).unwrap();
    store.start_ingest();
    let open = |id: BranchId, log: &Arc<MemLog>, of: Option<&Arc<Branch>>| {
        let log = Arc::clone(log) as Arc<dyn Wal>;
        Branch::open(Arc::clone(&store), id, log, of.cloned()).unwrap()
    };
    let clock = Arc::new(std::sync::atomic::AtomicU64::new(1_800_000_000_000_000));
    let log = MemLog::with_clock(Arc::clone(&clock));
    let main = open(BRANCH, &log, None);
    let mut model = Model::new(StdRng::seed_from_u64(7), log.clone());
    for _ in 0..50 {
        model.step();
    }
    model.send_all();
    catch_up(&main, &log);
    let left = main.fork(BranchId(2), ReadAt::Newest).unwrap();
    let second = MemLog::with_clock(Arc::clone(&clock));
    let mut other = model.fork(left, second.clone(), StdRng::seed_from_u64(8));
    let child = open(BranchId(2), &second, Some(&main));
    store.start_upkeep().unwrap();
    let done = AtomicBool::new(false);
    let (mut scrubs, mut layers) = (0, 0);
    std::thread::scope(|s| {
        s.spawn(|| {
            for round in 0..80 {
                for _ in 0..60 {
                    model.step();
                    other.step();
                }
                clock.fetch_add(1_000_000, Ordering::Relaxed);
                catch_up(&main, &log);
                if round % 3 == 0 {
                    main.compact_now().unwrap();
                }
            }
            done.store(true, Ordering::Release);
        });
        s.spawn(|| {
            while !done.load(Ordering::Acquire) {
                child.flush_now();
                child.compact_now().unwrap();
                std::thread::yield_now();
            }
        });
        while !done.load(Ordering::Acquire) || scrubs < 20 {
            let (report, findings) = scrub_store(&store);
            assert!(report.is_clean() && findings.is_empty(), "{findings:?}");
            assert_eq!(report.progress.branches_done, 2);
            scrubs += 1;
            layers += report.progress.layers_done;
            // Another process may look, too.
            if scrubs % 4 == 0 {
                common::care::undamaged(dir.path());
            }
        }
    });
    let stats = main.stats();
    println!("{scrubs} scrubs, {layers} layers, {} merges", stats.merges);
    assert!(stats.merges > 5 && stats.scrubs == scrubs);
    model.check_all(&main, 101);
    other.check_all(&child, 101);
    main.flush_now();
    child.flush_now();
    assert_eq!(scrub_store(&store).1, []);
    // Removes what was still being read when it was merged.
    main.compact_now().unwrap();
    child.compact_now().unwrap();
    drop((main, child, store));
    clean(dir.path());
}

#[test]
fn reads_go_to_the_store_not_to_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = one(dir.path(), small());
    one.flush();
    one.flush();
    assert_eq!(scrub_store(&one.store).1, []);
    let name = one.layer();
    let mut bytes = std::fs::read(branch_dir(dir.path()).join(&name)).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let at = rng.random_range(64..bytes.len());
    bytes[at] ^= 4;
    one.reads.lock().insert(name.clone(), Ok(bytes));
    let (report, findings) = scrub_store(&one.store);
    assert_eq!((report.damage, findings.len()), (1, 1), "{findings:?}");
    assert_eq!(findings[0].file, name);
    // What was found stays known, and what reads see is good.
    let health = one.branch.health();
    assert_eq!(health.scrub.findings, findings);
    assert!(health.scrub.ended_us.is_some());
    assert_eq!(one.branch.stats().scrub_damaged, 1);
    one.model.check_all(&one.branch, 31);
    one.reads.lock().clear();
    assert_eq!(scrub_store(&one.store).1, []);
    assert_eq!(one.branch.stats().scrub_damaged, 0);
    assert_eq!(one.branch.stats().scrub_damage, 1);
}

#[test]
fn what_cannot_be_read_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = one(dir.path(), small());
    one.flush();
    let name = one.layer();
    let set = |kind| one.reads.lock().insert(name.clone(), Err(kind));
    set(io::ErrorKind::TimedOut);
    let (report, findings) = scrub_store(&one.store);
    assert_eq!((report.damage, report.unreadable), (0, 1), "{findings:?}");
    assert!(!report.is_clean());
    assert_eq!(findings[0].kind, FindingKind::Unreadable);
    set(io::ErrorKind::NotFound);
    let (report, findings) = scrub_store(&one.store);
    assert_eq!(report.damage, 1);
    assert_eq!(findings[0].kind, FindingKind::Missing);
}

#[test]
fn the_store_must_say_what_the_server_published() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = one(dir.path(), small());
    one.flush();
    one.flush();
    let folder = branch_dir(dir.path());
    let manifest = |n: u64| format!("manifest-{n:016x}");
    let newest = one.branch.health().manifest;
    // The newest is gone: the one before it is whole and says less.
    let away = dir.path().join("away");
    std::fs::rename(folder.join(manifest(newest)), &away).unwrap();
    let (report, findings) = scrub_store(&one.store);
    assert_eq!(report.damage, 1, "{findings:?}");
    assert_eq!(findings[0].file, manifest(newest));
    assert_eq!(findings[0].kind, FindingKind::Missing);
    // All layers were looked at all the same.
    assert_eq!(report.progress.layers_done, one.branch.stats().layers);
    std::fs::rename(&away, folder.join(manifest(newest))).unwrap();
    // A layer is gone, one has another size.
    let files = one.branch.layers_info().files;
    std::fs::remove_file(folder.join(&files[0].name)).unwrap();
    let cut = std::fs::File::options()
        .write(true)
        .open(folder.join(&files[1].name))
        .unwrap();
    cut.set_len(100).unwrap();
    let (_, findings) = scrub_store(&one.store);
    let mut kinds: Vec<_> = findings.iter().map(|f| (&f.file, f.kind)).collect();
    kinds.sort_by_key(|(file, _)| *file);
    assert_eq!(
        kinds,
        [
            (&files[0].name, FindingKind::Missing),
            (&files[1].name, FindingKind::Damaged)
        ]
    );
    // Another server has taken the branch: what it does is its own affair.
    std::fs::write(folder.join(manifest(newest + 1)), "another's").unwrap();
    let (report, findings) = scrub_store(&one.store);
    assert_eq!((report.damage, report.unreadable), (0, 1), "{findings:?}");
    assert!(findings[0].message.contains("another server"));
}

#[test]
fn a_store_scrubs_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        scrub_bytes_per_second: 64 << 20,
        scrub_pause: Duration::from_millis(1),
        ..small()
    };
    let mut one = one(dir.path(), config);
    one.flush();
    one.flush();
    one.store.start_upkeep().unwrap();
    let scrubs = |n: u64| {
        let before = one.branch.stats().scrubs;
        until("the branch was scrubbed", || {
            one.branch.stats().scrubs >= before + n
        });
    };
    scrubs(2);
    let health = one.branch.health();
    assert_eq!(health.scrub.findings, []);
    assert!(health.scrub.bytes > 10_000 && health.scrub.layers > 0);
    let name = one.layer();
    let mut bytes = std::fs::read(branch_dir(dir.path()).join(&name)).unwrap();
    bytes[1000] ^= 1;
    one.reads.lock().insert(name.clone(), Ok(bytes));
    scrubs(2);
    let health = one.branch.health();
    assert_eq!(health.scrub.findings.len(), 1);
    assert_eq!(health.scrub.findings[0].file, name);
    one.reads.lock().clear();
    scrubs(2);
    assert_eq!(one.branch.health().scrub.findings, []);
    // A branch that is closed is let go of.
    one.branch.shutdown();
    let weak = Arc::downgrade(&one.branch);
    drop(one.branch);
    until("the branch was dropped", || weak.strong_count() == 0);
    let removed = one.store.remove_branch(BRANCH);
    removed.unwrap();
}

#[test]
fn the_background_keeps_to_its_rate() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        scrub_bytes_per_second: 200 << 10,
        scrub_pause: Duration::ZERO,
        ..small()
    };
    let mut one = one(dir.path(), config);
    for _ in 0..4 {
        one.flush();
    }
    one.store.start_upkeep().unwrap();
    let begin = Instant::now();
    until("something was read", || {
        one.branch.stats().scrubbed_bytes > 600 << 10
    });
    // A turn may read one window more than it may.
    let took = begin.elapsed().as_secs_f64();
    assert!(took > 1.5, "{took} s");
}

#[test]
fn only_what_was_asked_for_is_scrubbed() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = one(dir.path(), small());
    one.flush();
    let options = |id| ScrubOptions {
        branches: Some(vec![id]),
        ..ScrubOptions::default()
    };
    let (report, _) = collect(|tell| one.store.scrub(&options(BRANCH), tell));
    assert_eq!(report.progress.branches_done, 1);
    let (report, _) = collect(|tell| one.store.scrub(&options(BranchId(3)), tell));
    assert_eq!(report.progress.branches, 0);
}
