//! What a store does by itself where something fails or takes long: other
//! branches go on, and so does what can go on of the same one.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::writer::Writer;
use crate::common::{BRANCH, MemLog, catch_up, place, wait_until};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use xylem_ambient::Clock;
use xylem_pages::files::{FileReader, FileWriter, Files, LocalFiles, Place, Put, Step};
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{BranchId, PageId};
use xylem_wal::Wal;

/// What fails in a branch's folder.
#[derive(Clone, Default)]
struct Faults {
    reads: Arc<AtomicBool>,
    layers: Arc<AtomicBool>,
    manifests: Arc<AtomicBool>,
}

/// A directory in which some branches' folders fail.
struct Failing {
    dir: PathBuf,
    faults: HashMap<String, Faults>,
}

struct FailingFiles(LocalFiles, Faults);

fn unless(fault: &AtomicBool) -> io::Result<()> {
    match fault.load(Ordering::Acquire) {
        true => Err(io::Error::from_raw_os_error(5)),
        false => Ok(()),
    }
}

impl Failing {
    fn new(dir: &Path, ids: &[BranchId]) -> (Arc<Failing>, Vec<Faults>) {
        let all: Vec<Faults> = ids.iter().map(|_| Faults::default()).collect();
        let names = ids.iter().map(|id| format!("branches/{id}"));
        let place = Failing {
            dir: dir.to_owned(),
            faults: names.zip(all.iter().cloned()).collect(),
        };
        (Arc::new(place), all)
    }
}

impl Place for Failing {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        std::fs::create_dir_all(self.dir.join("branches"))?;
        let files = LocalFiles::open(&self.dir.join(name), None)?;
        let faults = self.faults.get(name).cloned().unwrap_or_default();
        Ok(Arc::new(FailingFiles(files, faults)))
    }
    fn folders(&self, _: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn remove_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn url(&self) -> String {
        "failing".into()
    }
}

impl Files for FailingFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.0.list()
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        unless(&self.1.layers)?;
        self.0.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        unless(&self.1.reads)?;
        self.0.open(name)
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.read(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        unless(&self.1.manifests)?;
        self.0.put_new(name, bytes)
    }
}

fn open(store: &Arc<Store>, id: BranchId, writer: &Writer) -> Arc<Branch> {
    let log = Arc::clone(&writer.log) as Arc<dyn Wal>;
    Branch::open(Arc::clone(store), id, log, None).unwrap()
}

fn config() -> StoreConfig {
    StoreConfig {
        memory_bytes: 16 << 20,
        open_layer_bytes: 512 << 10,
        merged_layer_bytes: 256 << 10,
        ..StoreConfig::default()
    }
}

/// The layers of one branch cannot be read: it goes on flushing, since a flush
/// needs none of them, and the other does not even notice.
#[test]
fn layers_that_cannot_be_read_keep_nobody_from_flushing() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (BranchId(1), BranchId(2));
    let (place, faults) = Failing::new(dir.path(), &[a, b]);
    let store = Store::open(config(), place).unwrap();
    store.start_ingest();
    store.start_upkeep().unwrap();
    let (mut wa, mut wb) = (Writer::new(), Writer::new());
    let (a, b) = (open(&store, a, &wa), open(&store, b, &wb));
    for (branch, writer) in [(&a, &mut wa), (&b, &mut wb)] {
        writer.table(64);
        catch_up(branch, &writer.log);
        branch.flush_now();
    }
    faults[0].reads.store(true, Ordering::Release);
    for _ in 0..4 {
        wa.write(8 << 20);
        wb.write(8 << 20);
        catch_up(&b, &wb.log);
        catch_up(&a, &wa.log);
    }
    wb.check(&b);
    assert_eq!((a.failed(), b.failed()), (None, None));
    let trouble = a.health().flush_trouble;
    assert_eq!(trouble, None);
    // And once they can be read again, it is as if nothing had been.
    faults[0].reads.store(false, Ordering::Release);
    wa.check(&a);
}

/// Branches one after the other whose layers cannot be written: each fills its
/// share of memory, and there is always some for the next.
#[test]
fn branches_that_cannot_flush_leave_memory_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<BranchId> = (1..=4).map(BranchId).collect();
    let (place, faults) = Failing::new(dir.path(), &ids);
    let store = Store::open(config(), place).unwrap();
    store.start_ingest();
    store.start_upkeep().unwrap();
    let mut writers: Vec<Writer> = ids.iter().map(|_| Writer::new()).collect();
    let branches: Vec<_> = ids
        .iter()
        .zip(&writers)
        .map(|(id, w)| open(&store, *id, w))
        .collect();
    for (branch, writer) in branches.iter().zip(&mut writers) {
        writer.table(64);
        catch_up(branch, &writer.log);
    }
    for bad in 0..3 {
        let waits = || branches[bad].stats().ingest_waits;
        let before = waits();
        faults[bad].layers.store(true, Ordering::Release);
        writers[bad].write(16 << 20);
        wait_until("it fills its share", || {
            waits() > before && branches[bad].stats().flush_failures > 0
        });
        // The others go on.
        for n in bad + 1..4 {
            writers[n].write(4 << 20);
            catch_up(&branches[n], &writers[n].log);
            writers[n].check(&branches[n]);
        }
        assert!(branches[bad].applied() < writers[bad].lsn);
        assert!(store.memory_used() <= store.config().memory_bytes);
    }
    // What heals goes on where it was.
    for fault in &faults {
        fault.layers.store(false, Ordering::Release);
    }
    for (branch, writer) in branches.iter().zip(&writers) {
        catch_up(branch, &writer.log);
        writer.check(branch);
        assert_eq!(branch.failed(), None);
    }
}

/// The manifest of one branch cannot be written, while it merges: the others'
/// layers are merged all the same.
#[test]
fn a_manifest_that_cannot_be_written_holds_no_other_branch() {
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<BranchId> = (1..=4).map(BranchId).collect();
    let (place, faults) = Failing::new(dir.path(), &ids);
    let config = StoreConfig {
        open_layer_bytes: 64 << 10,
        ..config()
    };
    let store = Store::open(config, place).unwrap();
    store.start_ingest();
    store.start_upkeep().unwrap();
    let mut writers: Vec<Writer> = ids.iter().map(|_| Writer::new()).collect();
    let branches: Vec<_> = ids
        .iter()
        .zip(&writers)
        .map(|(id, w)| open(&store, *id, w))
        .collect();
    for (branch, writer) in branches.iter().zip(&mut writers) {
        writer.table(64);
        catch_up(branch, &writer.log);
    }
    // More of them than there are threads for merges.
    for n in 0..3 {
        faults[n].manifests.store(true, Ordering::Release);
        writers[n].write(1 << 20);
    }
    wait_until("their manifests fail", || {
        branches[..3].iter().all(|b| b.stats().flush_failures > 0)
    });
    let merges = branches[3].stats().merges;
    writers[3].write(4 << 20);
    catch_up(&branches[3], &writers[3].log);
    wait_until("the other's layers are merged", || {
        branches[3].stats().merges > merges
    });
    // Whoever asks how the branch does hears so, and soon.
    assert!(branches[0].health().busy);
    for fault in &faults {
        fault.manifests.store(false, Ordering::Release);
    }
    for (branch, writer) in branches.iter().zip(&writers) {
        catch_up(branch, &writer.log);
        branch.flush_now();
        writer.check(branch);
    }
}

/// Pages whose redo cannot be applied stay as they are, each looked at once:
/// the fold goes on behind them.
#[test]
fn pages_that_cannot_be_built_do_not_restart_a_fold() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        memory_bytes: 64 << 20,
        open_layer_bytes: 256 << 10,
        image_after_bytes: 1 << 20,
        history: Duration::ZERO,
        ..StoreConfig::default()
    };
    let store = Store::open(config, place(dir.path())).unwrap();
    store.start_ingest();
    let mut w = Writer::new();
    w.log.clock.store(1_000_000, Ordering::Relaxed);
    let branch = open(&store, BRANCH, &w);
    let bad = 200;
    let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
    w.mtr(|m| {
        m.create(5, "./db/t.ibd");
    });
    w.mtr(|m| {
        m.header(5, 2 * bad + 1, flags);
    });
    let mut rng = StdRng::seed_from_u64(1);
    let mut data = [0u8; 3000];
    for round in 0..4 {
        for page in 1..=2 * bad {
            rng.fill(&mut data[..]);
            let page = PageId::new(5, page);
            let builds = page.page.0.is_multiple_of(2);
            w.mtr(|m| {
                if round == 0 && builds {
                    m.init(page);
                }
                m.write(page, 4096, &data);
            });
        }
    }
    w.send();
    catch_up(&branch, &w.log);
    branch.flush_now();
    let before = branch.stats();
    branch.compact_now().unwrap();
    let stats = branch.stats();
    assert!(stats.unfoldable_keys >= u64::from(bad), "{stats:?}");
    // It read every block of the layers a few times, not once for each page.
    let blocks = before.layer_bytes / 4096;
    let read = stats.blocks_read - before.blocks_read;
    assert!(read < 4 * blocks, "{read} of {blocks} blocks");
    assert_eq!(stats.runs, 1);
    assert!(stats.layer_bytes < before.layer_bytes * 3 / 4);
    let last = PageId::new(5, 2 * bad);
    let got = branch.get_page(last, ReadAt::Newest).unwrap();
    assert_eq!(got.bytes[4096..7096], data);
    assert!(branch.get_page(PageId::new(5, 1), ReadAt::Newest).is_err());
    assert_eq!(branch.health().unfoldable.len(), 20);
}

/// A long merge makes way for short ones when layers come in meanwhile: the
/// number of runs stays small, and it comes to its end.
#[test]
fn a_long_merge_makes_way_for_new_layers() {
    let dir = tempfile::tempdir().unwrap();
    type Busy = Arc<Mutex<Option<(Writer, Arc<Branch>)>>>;
    let busy: Busy = Arc::default();
    let (most, left) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let hook = {
        let (busy, most, left) = (Arc::clone(&busy), Arc::clone(&most), Arc::clone(&left));
        // With every layer that a merge begins, another is flushed, while
        // there are some left to flush.
        move |step: Step<'_>| {
            if let Step::Create(name) = step
                && name.ends_with(".layer")
                && let Some(mut busy) = busy.try_lock()
                && let Some((writer, branch)) = busy.as_mut()
                && left.load(Ordering::Acquire) > 0
            {
                left.fetch_sub(1, Ordering::AcqRel);
                writer.write(20_000);
                catch_up(branch, &writer.log);
                branch.flush_now();
                most.fetch_max(branch.stats().runs, Ordering::AcqRel);
            }
            Ok(())
        }
    };
    let config = StoreConfig {
        memory_bytes: 64 << 20,
        open_layer_bytes: 256 << 10,
        merged_layer_bytes: 32 << 10,
        history: Duration::ZERO,
        ..StoreConfig::default()
    };
    let store = Store::open(config, common::hooked(dir.path(), Arc::new(hook))).unwrap();
    store.start_ingest();
    let mut w = Writer::new();
    w.log.clock.store(1_000_000, Ordering::Relaxed);
    let branch = open(&store, BRANCH, &w);
    w.table(300);
    let mut rng = StdRng::seed_from_u64(2);
    let mut data = [0u8; 6000];
    // What is merged into about 80 pieces.
    for _ in 0..2 {
        for page in 64..300 {
            rng.fill(&mut data[..]);
            w.mtr(|m| {
                m.write(PageId::new(5, page), 4096, &data);
            });
        }
        w.send();
        catch_up(&branch, &w.log);
        branch.flush_now();
    }
    let before = branch.stats();
    *busy.lock() = Some((w, Arc::clone(&branch)));
    left.store(200, Ordering::Release);
    branch.compact_now().unwrap();
    left.store(0, Ordering::Release);
    let flushed = branch.stats().flushes - before.flushes;
    assert!(flushed >= 50, "{flushed} flushes meanwhile");
    let (w, _) = busy.lock().take().unwrap();
    let most = most.load(Ordering::Acquire);
    assert!(most < 45, "{most} runs");
    assert_eq!(branch.merge_debt(), 0);
    w.check(&branch);
    let got = branch
        .get_page(PageId::new(5, 299), ReadAt::Newest)
        .unwrap();
    assert_eq!(got.bytes[4096..10_096], data);
    catch_up(&branch, &w.log);
    common::care::undamaged(dir.path());
}

/// History kept for branches goes when they go, not when half of all that is
/// left has been written anew.
#[test]
fn removing_branches_gives_their_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(1_800_000_000_000_000));
    let ticking = Arc::clone(&clock);
    let config = StoreConfig {
        memory_bytes: 32 << 20,
        open_layer_bytes: 256 << 10,
        merged_layer_bytes: 1 << 20,
        history: Duration::from_secs(1),
        clock: Clock::new(move || ticking.load(Ordering::Relaxed)),
        ..StoreConfig::default()
    };
    let store = Store::open(config, place(dir.path())).unwrap();
    store.start_ingest();
    let mut w = Writer::with(MemLog::with_clock(Arc::clone(&clock)));
    let branch = open(&store, BRANCH, &w);
    w.table(512);
    let mut rng = StdRng::seed_from_u64(4);
    let mut half = vec![0u8; 8192];
    let forks: Vec<BranchId> = (10..16).map(BranchId).collect();
    let mut round = |w: &mut Writer, from: u32| {
        for page in (from..512).step_by(2) {
            rng.fill(&mut half[..]);
            w.mtr(|m| {
                m.write(PageId::new(5, page), 4096, &half);
            });
        }
        w.send();
        catch_up(&branch, &w.log);
        // The horizon passes it.
        clock.fetch_add(3_000_000, Ordering::Relaxed);
        w.write(1000);
        catch_up(&branch, &w.log);
        branch.flush_now();
        clock.fetch_add(3_000_000, Ordering::Relaxed);
        branch.compact_now().unwrap();
    };
    round(&mut w, 1);
    for (n, fork) in (0..).zip(&forks) {
        branch.fork(*fork, ReadAt::Newest).unwrap();
        round(&mut w, n % 2 + 1);
    }
    let live = 511.0 * 8192.0;
    let with_forks = branch.layer_bytes() as f64 / live;
    // Half of the pages for each that left.
    assert!(with_forks > 3.0, "{with_forks}");
    for fork in &forks {
        store.remove_branch(*fork).unwrap();
    }
    branch.compact_now().unwrap();
    let without = branch.layer_bytes() as f64 / live;
    println!("{with_forks:.2} of the live pages with branches, {without:.2} without");
    assert!(without < 1.5, "{without}");
    common::care::undamaged(dir.path());
}
