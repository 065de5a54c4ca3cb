//! Merges of one branch side by side.
#![allow(clippy::unwrap_used)]

use crate::common::gate::Gate;
use crate::common::unreadable::Unreadable;
use crate::common::writer::Writer;
use crate::common::{BRANCH, MemLog, care, catch_up, copy_dir, hooked, merging, place, wait_until};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use xylem_ambient::Clock;
use xylem_pages::files::Place;
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_types::{BranchId, FileOp, Lsn, PageId};
use xylem_wal::Wal;

/// Where pages have what is checked.
const AT: usize = 8000;

/// A branch, and what is in it.
struct World {
    store: Arc<Store>,
    branch: Arc<Branch>,
    writer: Writer,
    clock: Arc<AtomicU64>,
    rng: StdRng,
    /// Of pages: what was written last.
    last: HashMap<u32, Vec<u8>>,
    /// The same at some LSNs.
    then: Vec<(Lsn, u32, Vec<u8>)>,
}

fn config(clock: &Arc<AtomicU64>) -> StoreConfig {
    let ticking = Arc::clone(clock);
    StoreConfig {
        memory_bytes: 64 << 20,
        open_layer_bytes: 256 << 10,
        merged_layer_bytes: 32 << 10,
        history: Duration::from_secs(1),
        clock: Clock::new(move || ticking.load(Ordering::Relaxed)),
        ..StoreConfig::default()
    }
}

fn open(store: &Arc<Store>, log: &Arc<MemLog>) -> Arc<Branch> {
    let log = Arc::clone(log) as Arc<dyn Wal>;
    Branch::open(Arc::clone(store), BRANCH, log, None).unwrap()
}

impl World {
    fn new(place: Arc<dyn Place>, configure: impl Fn(&mut StoreConfig)) -> World {
        let clock = Arc::new(AtomicU64::new(1_800_000_000_000_000));
        let mut config = config(&clock);
        configure(&mut config);
        let store = Store::open(config, place).unwrap();
        store.start_ingest();
        let mut writer = Writer::with(MemLog::with_clock(Arc::clone(&clock)));
        let branch = open(&store, &writer.log);
        writer.table(300);
        World {
            store,
            branch,
            writer,
            clock,
            rng: StdRng::seed_from_u64(3),
            last: HashMap::new(),
            then: Vec::new(),
        }
    }

    fn put(&mut self, page: u32, bytes: usize) {
        let mut data = vec![0; bytes];
        self.rng.fill(&mut data[..]);
        self.writer.mtr(|m| {
            m.write(PageId::new(5, page), AT as u32, &data);
        });
        self.last.insert(page, data);
    }

    fn flush(&mut self) {
        self.writer.send();
        catch_up(&self.branch, &self.writer.log);
        self.branch.flush_now();
    }

    /// What a merge folds in dozens of pieces.
    fn write_old(&mut self) {
        for _ in 0..2 {
            for page in 64..300 {
                self.put(page, 6000);
            }
            self.flush();
        }
        // The horizon passes it.
        self.clock.fetch_add(3_000_000, Ordering::Relaxed);
        self.writer.write(1000);
        self.flush();
        self.clock.fetch_add(3_000_000, Ordering::Relaxed);
    }

    /// Runs that are merged in a few pieces each.
    fn write_new(&mut self, runs: u32) {
        for run in 0..runs {
            for page in 1..9 {
                self.put(page, 2000);
            }
            self.put(100 + run, 2000);
            self.writer.write(1000);
            self.flush();
            let page = 1 + run % 8;
            let lsn = self.branch.applied();
            self.then.push((lsn, page, self.last[&page].clone()));
        }
    }

    fn check(&self, branch: &Branch) {
        for (page, data) in &self.last {
            let got = branch.get_page(PageId::new(5, *page), ReadAt::Newest);
            assert!(got.unwrap().bytes[AT..].starts_with(data), "page {page}");
        }
        for (lsn, page, data) in &self.then {
            if branch.oldest() <= Some(*lsn) {
                let got = branch.get_page(PageId::new(5, *page), ReadAt::Lsn(*lsn));
                let got = got.unwrap().bytes;
                assert!(got[AT..].starts_with(data), "page {page} at {lsn}");
            }
        }
        self.writer.check(branch);
    }

    /// Merges all in a thread of this name.
    fn merge(&self, name: &str) -> JoinHandle<Result<(), String>> {
        let branch = Arc::clone(&self.branch);
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || branch.compact_now()).unwrap()
    }

    fn merges(&self) -> u64 {
        self.branch.stats().merges
    }
}

/// A fold of what is old is held up. What is new is merged meanwhile; branches
/// leave, and have later what they left with.
#[test]
fn new_layers_are_merged_beside_a_long_fold() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let mut world = World::new(hooked(dir.path(), gate.hook()), |_| {});
    // Gone before the branch, which waits for its merges.
    let gate = gate;
    world.write_old();
    gate.close("long", 1);
    let long = world.merge("long");
    wait_until("the fold has begun", || gate.holds("long"));
    let before = world.branch.oldest().unwrap();
    assert!(before > Lsn::FIRST, "nothing is folded");
    world.write_new(16);
    assert_eq!(world.merges(), 0);
    let short = world.merge("short");
    wait_until("a merge beside it has ended", || world.merges() > 0);
    assert!(gate.holds("long") && !long.is_finished());
    world.check(&world.branch);
    let (fork, late) = (BranchId(9), BranchId(10));
    let left = world.branch.fork(fork, ReadAt::Newest).unwrap();
    let gone = ReadAt::Lsn(Lsn(before.0 - 1));
    assert!(world.branch.fork(late, gone).is_err());
    let shared = world.last.clone();
    world.write_new(8);
    gate.open();
    long.join().unwrap().unwrap();
    short.join().unwrap().unwrap();
    world.branch.compact_now().unwrap();
    assert_eq!(world.branch.merge_debt(), 0);
    assert_eq!(world.branch.health().merge_debt_bytes, 0);
    world.check(&world.branch);
    // All but what the fork has is folded.
    world.clock.fetch_add(3_000_000, Ordering::Relaxed);
    world.write_new(8);
    world.clock.fetch_add(3_000_000, Ordering::Relaxed);
    world.branch.compact_now().unwrap();
    assert!(world.branch.oldest() > Some(left));
    world.check(&world.branch);
    let parent = Some(Arc::clone(&world.branch));
    let log = MemLog::with_clock(Arc::clone(&world.clock));
    let forked = Branch::open(Arc::clone(&world.store), fork, log, parent).unwrap();
    for (page, data) in &shared {
        let got = forked.get_page(PageId::new(5, *page), ReadAt::Newest);
        assert!(got.unwrap().bytes[AT..].starts_with(data), "page {page}");
    }
    care::undamaged(dir.path());
}

/// A merge above a fold drops nothing, though the horizon has passed what it
/// reads: what that takes the place of stands below, where it is not read.
#[test]
fn only_the_oldest_layers_are_folded() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let mut world = World::new(hooked(dir.path(), gate.hook()), |_| {});
    // Gone before the branch, which waits for its merges.
    let gate = gate;
    let path = || "old.frm".to_owned();
    let create = FileOp::Create {
        path: path(),
        mode: 0o660,
    };
    world.writer.send();
    world.writer.log.file(world.writer.lsn, create);
    world.write_old();
    gate.close("long", 1);
    let long = world.merge("long");
    wait_until("the fold has begun", || gate.holds("long"));
    // The cheapest to merge, by far.
    world.writer.send();
    let unlink = FileOp::Unlink { path: path() };
    world.writer.log.file(world.writer.lsn, unlink);
    for run in 0..4 {
        world.put(70 + run, 1500);
        world.flush();
    }
    let tiny = world.branch.layers_info().files;
    let unlinked = tiny.iter().rev().nth(3).unwrap().name.clone();
    world.write_new(24);
    world.clock.fetch_add(3_000_000, Ordering::Relaxed);
    world.put(64, 100);
    world.flush();
    world.clock.fetch_add(3_000_000, Ordering::Relaxed);
    let short = world.merge("short");
    wait_until("a merge beside it has ended", || world.merges() > 0);
    assert!(gate.holds("long"));
    let left = world.branch.layers_info().files;
    assert!(
        !left.iter().any(|l| l.name == unlinked),
        "it was not merged"
    );
    let mut seen = Vec::new();
    let read = world.branch.side_files(ReadAt::Newest, &mut |file| {
        seen.push(file.path);
        ControlFlow::Continue(())
    });
    read.unwrap();
    assert_eq!(seen, Vec::<String>::new());
    world.check(&world.branch);
    assert_eq!(world.branch.stats().unfoldable_keys, 0);
    gate.open();
    long.join().unwrap().unwrap();
    short.join().unwrap().unwrap();
    world.check(&world.branch);
    care::undamaged(dir.path());
}

/// The same by the store's own threads: where no other branch waits, one has
/// several.
#[test]
fn a_branch_has_a_second_thread_when_no_other_waits() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let mut world = World::new(hooked(dir.path(), gate.hook()), |_| {});
    let gate = gate;
    world.write_old();
    gate.close("pages-merge", 1);
    world.store.start_upkeep().unwrap();
    wait_until("the fold has begun", || gate.holds("pages-merge"));
    world.write_new(16);
    wait_until("a merge beside it has ended", || world.merges() > 0);
    assert!(gate.holds("pages-merge"));
    world.check(&world.branch);
    gate.open();
    world.branch.compact_now().unwrap();
    world.check(&world.branch);
    world.branch.shutdown();
    care::undamaged(dir.path());
}

#[test]
fn a_merge_that_cannot_read_its_layers_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let bad: Arc<Mutex<HashSet<String>>> = Arc::default();
    let picky = Unreadable {
        place: place(dir.path()),
        is_bad: {
            let bad = Arc::clone(&bad);
            Arc::new(move |name| bad.lock().contains(name))
        },
    };
    // Nothing is folded.
    let mut world = World::new(Arc::new(picky), |c| c.history = Duration::from_secs(3600));
    world.write_new(16);
    let newest = world.branch.layers_info().files.pop().unwrap();
    bad.lock().insert(newest.name.clone());
    let error = world.branch.compact_now().unwrap_err();
    assert!(error.contains(&newest.name), "{error}");
    assert_eq!(world.merges(), 0);
    // Called again, it merges what came since before it fails again.
    world.write_new(16);
    assert!(world.branch.compact_now().is_err());
    let merges = world.merges();
    assert!(merges > 0);
    // And so does the store by itself.
    let failures = world.branch.stats().merge_failures;
    world.store.start_upkeep().unwrap();
    wait_until("the merge fails again", || {
        world.branch.stats().merge_failures > failures + 1
    });
    world.write_new(16);
    wait_until("others are merged", || world.merges() > merges);
    let still =
        |info: &[xylem_pages::inspect::LayerInfo]| info.iter().any(|l| l.name == newest.name);
    assert!(still(&world.branch.layers_info().files));
    assert!(world.branch.health().merge_trouble.is_some());
    bad.lock().clear();
    world.branch.compact_now().unwrap();
    assert!(!still(&world.branch.layers_info().files));
    wait_until("the trouble is over", || {
        world.branch.health().merge_trouble.is_none()
    });
    assert_eq!(world.branch.failed(), None);
    world.check(&world.branch);
    world.branch.shutdown();
    care::undamaged(dir.path());
}

/// Two merges under way, of which pieces were published, as a crash leaves
/// them: in the directory `to`.
fn two_under_way(to: &Path) -> World {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let mut world = World::new(hooked(dir.path(), gate.hook()), |_| {});
    let gate = gate;
    world.write_old();
    gate.close("long", 2);
    let long = world.merge("long");
    wait_until("the fold is under way", || gate.holds("long"));
    world.write_new(16);
    gate.close("short", 1);
    let short = world.merge("short");
    wait_until("the other, too", || gate.holds("short"));
    copy_dir(dir.path(), to);
    let info = world.branch.layers_info().files;
    let read: Vec<u64> = info
        .iter()
        .filter(|l| l.merging)
        .map(|l| l.number)
        .collect();
    let (version, inputs) = merging(to);
    assert_eq!((version, inputs.len()), (4, read.len()));
    assert!(read.iter().all(|n| inputs.contains(n)));
    // What stands between the two, and behind them, is nobody's.
    assert!(read.len() < info.len());
    gate.open();
    long.join().unwrap().unwrap();
    short.join().unwrap().unwrap();
    world.check(&world.branch);
    world.branch.shutdown();
    world
}

#[test]
fn two_merges_go_on_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let world = two_under_way(dir.path());
    care::undamaged(dir.path());
    let store = Store::open(config(&world.clock), place(dir.path())).unwrap();
    store.start_ingest();
    let branch = open(&store, &world.writer.log);
    world.check(&branch);
    // Opened and taken over, both are still there.
    assert_eq!(merging(dir.path()).0, 4);
    branch.compact_now().unwrap();
    assert!(branch.stats().merges >= 2);
    assert_eq!(branch.merge_debt(), 0);
    world.check(&branch);
    assert_eq!(merging(dir.path()), (3, Vec::new()));
    drop(branch);
    drop(store);
    care::clean(dir.path());
}

/// Two threads go on with them; the server dies at any step of theirs.
#[test]
fn a_crash_at_every_step_of_two_merges_loses_nothing() {
    let base = tempfile::tempdir().unwrap();
    let world = two_under_way(base.path());
    let mut at = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(base.path(), dir.path());
        let steps = Arc::new(AtomicU64::new(0));
        let hook = {
            let steps = Arc::clone(&steps);
            move |_: xylem_pages::files::Step<'_>| match steps.fetch_add(1, Ordering::SeqCst) >= at
            {
                true => Err(std::io::Error::other("dead")),
                false => Ok(()),
            }
        };
        let store = Store::open(config(&world.clock), hooked(dir.path(), Arc::new(hook))).unwrap();
        store.start_ingest();
        let log = Arc::clone(&world.writer.log) as Arc<dyn Wal>;
        let opened = Branch::open(Arc::clone(&store), BRANCH, log, None);
        let died = || steps.load(Ordering::SeqCst) > at;
        if let Ok(branch) = &opened {
            std::thread::scope(|s| {
                let threads = [0, 1].map(|_| s.spawn(|| branch.compact_now()));
                wait_until("an end", || {
                    died() || threads.iter().all(|t| t.is_finished())
                });
                branch.shutdown();
            });
        }
        let died = died();
        drop(opened);
        drop(store);
        care::undamaged(dir.path());
        let store = Store::open(config(&world.clock), place(dir.path())).unwrap();
        store.start_ingest();
        let branch = open(&store, &world.writer.log);
        world.check(&branch);
        branch.compact_now().unwrap();
        world.check(&branch);
        drop(branch);
        drop(store);
        care::clean(dir.path());
        if !died {
            break;
        }
        // Not all of them, of which most are alike.
        at += 13;
    }
    assert!(at > 100, "only {at} steps");
}

/// A branch is opened again while upkeep works, and after it the one that left
/// it: until then nobody knows what must be kept for that one, so nothing is
/// forgotten.
#[test]
fn nothing_is_merged_before_those_that_left_are_open_again() {
    const CHILD: BranchId = BranchId(2);
    let dir = tempfile::tempdir().unwrap();
    let mut w = World::new(place(dir.path()), |_| {});
    w.write_old();
    let log = MemLog::with_clock(Arc::clone(&w.clock));
    let open_child = |w: &World, branch: &Arc<Branch>| {
        let log = Arc::clone(&log) as Arc<dyn Wal>;
        Branch::open(Arc::clone(&w.store), CHILD, log, Some(Arc::clone(branch))).unwrap()
    };
    let left = w.branch.fork(CHILD, ReadAt::Newest).unwrap();
    log.epoch(left);
    let child = open_child(&w, &w.branch);
    let then = w.last.clone();
    // All that the child needs is history, and older than what is kept.
    w.write_old();
    w.branch.compact_now().unwrap();
    assert!(w.branch.oldest() > Some(left));
    child.shutdown();
    w.branch.shutdown();
    drop(child);
    w.store.start_upkeep().unwrap();
    w.store.hold_ingest();
    w.branch = open(&w.store, &w.writer.log);
    // Upkeep looks every half second.
    #[allow(clippy::disallowed_methods, reason = "nothing is to happen")]
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(w.branch.stats().merged_bytes, 0);
    let child = open_child(&w, &w.branch);
    w.store.start_ingest();
    for (page, data) in &then {
        let got = child.get_page(PageId::new(5, *page), ReadAt::Newest);
        assert!(got.unwrap().bytes[AT..].starts_with(data), "page {page}");
    }
    // And upkeep has not been forgotten.
    w.write_new(30);
    wait_until("something to be merged", || w.branch.stats().merges > 0);
    w.check(&w.branch);
}
