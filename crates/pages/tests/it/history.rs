//! Branches, merges, folding, crashes, lost and failed writes, in random
//! order, against the naive model: every page at every LSN that is still kept,
//! on every branch.
#![allow(clippy::unwrap_used)]

use crate::common::model::Model;
use crate::common::objects::{self, settle};
use crate::common::{MemLog, care, catch_up, copy_place, place, small};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_ambient::Clock;
use xylem_objects::testing::{Faulty, Rates, S3Server, memory};
use xylem_objects::{Bucket, DiskCache, Retry};
use xylem_pages::files::{LocalPlace, Place};
use xylem_pages::{Branch, ForkError, ReadAt, ReadError, Store, StoreConfig};
use xylem_types::{BranchId, Lsn};
use xylem_wal::Wal;

const HISTORY: Duration = Duration::from_secs(3);

struct Line {
    model: Model,
    branch: Arc<Branch>,
    ancestor: Option<BranchId>,
}

struct World {
    rng: StdRng,
    home: Box<dyn Home>,
    clock: Arc<AtomicU64>,
    store: Arc<Store>,
    lines: BTreeMap<BranchId, Line>,
    next: u128,
    /// What was let go of, as far as it must have been.
    config: StoreConfig,
}

/// Where a world's store is, one server's life after the other.
trait Home {
    /// Opens it for the next life.
    fn open(&mut self, seed: u64) -> Arc<dyn Place>;
    /// The server dies: whatever it still does, the next one does not see.
    fn die(&mut self, rng: &mut StdRng);
    /// Whether what fails is seen by whoever asked.
    fn fails(&self) -> bool;
}

/// In a directory.
struct Dirs {
    root: tempfile::TempDir,
    count: u32,
    /// Of 1000 steps so many fail.
    failures: u32,
}

impl Dirs {
    fn new(failures: u32) -> Box<Dirs> {
        Box::new(Dirs {
            root: tempfile::tempdir().unwrap(),
            count: 0,
            failures,
        })
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(self.count.to_string())
    }
}

impl Home for Dirs {
    fn open(&mut self, seed: u64) -> Arc<dyn Place> {
        let (dir, failures) = (self.dir(), self.failures);
        // Whoever merges in the background lets go of it soon.
        let begin = Instant::now();
        while let Err(e) = LocalPlace::open(&dir) {
            assert!(begin.elapsed() < Duration::from_secs(60), "{e}");
            std::thread::yield_now();
        }
        if failures == 0 {
            return place(&dir);
        }
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        let hook = Arc::new(move |_: xylem_pages::files::Step<'_>| {
            match rng.lock().random_range(0..1000) < failures {
                true => Err(io::Error::other("made to fail")),
                false => Ok(()),
            }
        });
        Arc::new(LocalPlace::open_with(&dir, Some(hook)).unwrap())
    }

    fn die(&mut self, _: &mut StdRng) {
        let before = self.dir();
        self.count += 1;
        copy_place(&before, &self.dir());
    }

    fn fails(&self) -> bool {
        self.failures > 0
    }
}

/// In an object store, behind a cache that holds a part of it.
struct Objects {
    root: tempfile::TempDir,
    count: u32,
    connect: Box<dyn Fn(u64) -> (Bucket, Option<Faulty>)>,
    faulty: Option<Faulty>,
    cache: Option<Arc<DiskCache>>,
    evictions: Arc<AtomicU64>,
}

/// A part of what layers take.
const CACHE: u64 = 96 << 10;

impl Objects {
    fn new(
        evictions: &Arc<AtomicU64>,
        connect: impl Fn(u64) -> (Bucket, Option<Faulty>) + 'static,
    ) -> Box<Objects> {
        Box::new(Objects {
            root: tempfile::tempdir().unwrap(),
            count: 0,
            connect: Box::new(connect),
            faulty: None,
            cache: None,
            evictions: Arc::clone(evictions),
        })
    }

    fn end_life(&mut self) {
        if let Some(cache) = self.cache.take() {
            let stats = cache.stats();
            assert!(stats.held_bytes <= CACHE, "{stats:?}");
            self.evictions.fetch_add(stats.evictions, Ordering::Relaxed);
        }
        if self.faulty.take().is_some() {
            settle();
        }
    }
}

impl Home for Objects {
    fn open(&mut self, seed: u64) -> Arc<dyn Place> {
        self.end_life();
        let (bucket, faulty) = (self.connect)(seed);
        // A life in three begins without anything on local disk.
        self.count += u32::from(seed.is_multiple_of(3));
        let dir = self.root.path().join(self.count.to_string());
        let place = objects::place(bucket, &dir, CACHE);
        self.cache = Some(Arc::clone(place.cache()));
        self.faulty = faulty;
        Arc::new(place)
    }

    fn die(&mut self, rng: &mut StdRng) {
        if let Some(faulty) = &self.faulty {
            let at = faulty.changes() + rng.random_range(0..4);
            faulty.die_at(at, rng.random_bool(0.5));
        }
    }

    fn fails(&self) -> bool {
        false
    }
}

impl World {
    fn new(seed: u64, mut home: Box<dyn Home>, configure: impl Fn(&mut StoreConfig)) -> World {
        let mut rng = StdRng::seed_from_u64(seed);
        let clock = Arc::new(AtomicU64::new(1_800_000_000_000_000));
        let ticking = Arc::clone(&clock);
        let mut config = StoreConfig {
            history: HISTORY,
            clock: Clock::new(move || ticking.load(Ordering::Relaxed)),
            trim_log: false,
            // Little is worth folding, so that much is folded.
            open_layer_bytes: 16 << 10,
            ..small()
        };
        configure(&mut config);
        let store = Store::open(config.clone(), home.open(seed)).unwrap();
        let log = MemLog::with_clock(Arc::clone(&clock));
        let model = Model::new(StdRng::seed_from_u64(rng.random()), Arc::clone(&log));
        let id = BranchId(1);
        let mut world = World {
            rng,
            home,
            clock,
            store,
            lines: BTreeMap::new(),
            next: 2,
            config,
        };
        world.store.start_ingest();
        let branch = world.open(id, log, None);
        let line = Line {
            model,
            branch,
            ancestor: None,
        };
        world.lines.insert(id, line);
        world
    }

    fn open(&self, id: BranchId, log: Arc<MemLog>, ancestor: Option<&Arc<Branch>>) -> Arc<Branch> {
        // A failure made on purpose may hit the first manifests.
        for _ in 0..100 {
            let log = Arc::clone(&log) as Arc<dyn Wal>;
            match Branch::open(Arc::clone(&self.store), id, log, ancestor.cloned()) {
                Ok(branch) => return branch,
                Err(e) if self.home.fails() => assert!(e.to_string().contains("fail"), "{e}"),
                Err(e) => panic!("{e}"),
            }
        }
        panic!("branch {id} cannot be opened");
    }

    fn any(&mut self) -> BranchId {
        let n = self.rng.random_range(0..self.lines.len());
        *self.lines.keys().nth(n).unwrap()
    }

    fn step(&mut self) {
        self.clock
            .fetch_add(self.rng.random_range(0..20_000), Ordering::Relaxed);
        let id = self.any();
        match self.rng.random_range(0..1000) {
            0..12 if self.lines.len() < 7 => self.fork(id),
            12..15 => self.remove(id),
            15..30 => self.line(id).branch.flush_now(),
            30..45 => self.compact(id),
            45..47 => self.restart(),
            47..50 => self.kill(),
            50..80 => self.check_some(id),
            80..90 => self.check_times(id),
            _ => self.lines.get_mut(&id).unwrap().model.step(),
        }
        for line in self.lines.values() {
            assert_eq!(line.branch.failed(), None);
        }
    }

    fn line(&self, id: BranchId) -> &Line {
        &self.lines[&id]
    }

    fn fork(&mut self, from: BranchId) {
        let id = BranchId(self.next);
        self.next += 1;
        let line = self.lines.get_mut(&from).unwrap();
        catch_up(&line.branch, line.model.log());
        let oldest = line.branch.oldest();
        let kept = line.model.lsns.iter().copied();
        let kept: Vec<Lsn> = kept
            .filter(|l| Some(*l) >= oldest && *l <= line.model.whole())
            .collect();
        let at = match self.rng.random_range(0..3) {
            // With all operations behind the mtr, wherever pauses put them.
            0 if !kept.is_empty() => {
                let nth = self.rng.random_range(0..kept.len());
                let next = line.model.lsns.iter().filter(|l| **l > kept[nth]).min();
                let until = next.map_or(Lsn::MAX, |next| Lsn(next.0 - 1));
                ReadAt::Lsn(until.min(line.branch.newest()))
            }
            // In the middle of an mtr.
            1 if kept.len() > 1 => {
                let lsn = kept[self.rng.random_range(1..kept.len())];
                ReadAt::Lsn(Lsn(lsn.0 - 1)).max_of(oldest)
            }
            _ => ReadAt::Newest,
        };
        let lsn = match line.branch.fork(id, at) {
            Ok(lsn) => lsn,
            Err(ForkError::Crowded { .. }) => return,
            Err(e) if self.home.fails() => {
                assert!(e.to_string().contains("fail"), "{e}");
                return;
            }
            Err(e) => panic!("{at:?}: {e}"),
        };
        if let ReadAt::Lsn(asked) = at {
            assert_eq!(lsn, asked);
        } else {
            assert!(lsn >= line.branch.applied());
        }
        let log = MemLog::with_clock(Arc::clone(&self.clock));
        let rng = StdRng::seed_from_u64(self.rng.random());
        // It may have left an ancestor of the branch it was asked of.
        let mut ancestor = from;
        while let Some(of) = self.lines[&ancestor].ancestor
            && self.lines[&ancestor].model.begins() >= lsn
            && at != ReadAt::Newest
        {
            ancestor = of;
        }
        let parent = Arc::clone(&self.lines[&ancestor].branch);
        let left = self.lines.get_mut(&ancestor).unwrap();
        let model = left.model.fork(lsn, Arc::clone(&log), rng);
        let branch = self.open(id, log, Some(&parent));
        let line = Line {
            model,
            branch,
            ancestor: Some(ancestor),
        };
        self.lines.insert(id, line);
    }

    fn remove(&mut self, id: BranchId) {
        if self.lines.values().any(|l| l.ancestor == Some(id)) {
            assert!(self.store.remove_branch(id).is_err());
            return;
        }
        if self.lines.len() < 3 || self.lines[&id].ancestor.is_none() {
            return;
        }
        let line = self.lines.remove(&id).unwrap();
        for other in self.lines.values_mut() {
            other.model.blurred.push(line.model.begins());
        }
        line.branch.shutdown();
        self.store.remove_branch(id).unwrap();
    }

    fn compact(&self, id: BranchId) {
        let line = self.line(id);
        let result = line.branch.compact_now();
        assert!(result.is_ok() || self.home.fails(), "{result:?}");
        // Nothing within the promised time was let go of.
        if let Some(oldest) = line.branch.oldest() {
            let since = self.clock.load(Ordering::Relaxed) - HISTORY.as_micros() as u64;
            let early = line.model.times.iter().find(|(_, t)| *t > since);
            if let Some((lsn, _)) = early {
                assert!(oldest <= *lsn, "{oldest} is kept, {lsn} is younger");
            }
        }
    }

    fn check_some(&mut self, id: BranchId) {
        let line = self.lines.get_mut(&id).unwrap();
        catch_up(&line.branch, line.model.log());
        line.model.check_random(&line.branch, 20);
        line.model.check_files(&line.branch, ReadAt::Newest);
        line.model.check_spaces(&line.branch, ReadAt::Newest);
    }

    fn check_times(&mut self, id: BranchId) {
        let line = self.lines.get_mut(&id).unwrap();
        catch_up(&line.branch, line.model.log());
        let now = self.clock.load(Ordering::Relaxed);
        let time = now - self.rng.random_range(0..2 * HISTORY.as_micros() as u64);
        let oldest = line.branch.oldest().unwrap();
        let by = |t: u64| {
            let times = line.model.times.iter();
            times.filter(|(_, at)| *at <= t).map(|(l, _)| *l).max()
        };
        match line.branch.lsn_at(time) {
            Ok(lsn) => {
                assert!(lsn >= oldest);
                // Nothing later, and all but the last 10 ms.
                let latest = by(time).unwrap_or_default().max(oldest);
                let surely = by(time - 10_001).unwrap_or_default();
                let shown = line.model.lsns.iter().filter(|l| **l <= lsn).max();
                assert!(shown <= Some(&latest), "{lsn} {shown:?} {latest}");
                assert!(lsn >= surely, "{lsn} {surely}");
            }
            Err(ReadError::TimeOutside { .. }) => {
                let since = now - HISTORY.as_micros() as u64;
                let first = line.model.times.first().unwrap().1;
                assert!(time < since.max(first) + 20_000, "{time} {since} {first}");
            }
            Err(e) => panic!("{e}"),
        }
    }

    fn reopen(&mut self, shut: bool) {
        let mut old = std::mem::take(&mut self.lines);
        if shut {
            for line in old.values() {
                line.branch.shutdown();
            }
        }
        let lines: Vec<(BranchId, Model, Option<BranchId>)> = std::mem::take(&mut old)
            .into_iter()
            .map(|(id, l)| (id, l.model, l.ancestor))
            .collect();
        let seed = self.rng.random();
        // The old store goes first: it holds the place.
        let nowhere = tempfile::tempdir().unwrap();
        let empty = Store::open(self.config.clone(), place(nowhere.path()));
        self.store = empty.unwrap();
        let place = self.home.open(seed);
        if !self.home.fails() {
            // Of one that was removed something may appear late.
            let ids = lines.iter().map(|(id, ..)| *id).collect();
            care::undamaged_in(&*place, Some(ids));
        }
        self.store = Store::open(self.config.clone(), place).unwrap();
        let mut rest = lines;
        while !rest.is_empty() {
            let ready = |a: &Option<BranchId>| a.is_none_or(|a| self.lines.contains_key(&a));
            let n = rest.iter().position(|(_, _, a)| ready(a)).unwrap();
            let (id, model, ancestor) = rest.remove(n);
            let parent = ancestor.map(|a| Arc::clone(&self.lines[&a].branch));
            let branch = self.open(id, Arc::clone(model.log()), parent.as_ref());
            let line = Line {
                model,
                branch,
                ancestor,
            };
            self.lines.insert(id, line);
        }
        self.store.start_ingest();
    }

    fn restart(&mut self) {
        self.reopen(true);
    }

    /// The store as it is now, threads running.
    fn kill(&mut self) {
        self.home.die(&mut self.rng);
        for line in self.lines.values() {
            line.branch.shutdown();
        }
        self.reopen(false);
    }

    fn check_all(&mut self, stride: usize) {
        for line in self.lines.values_mut() {
            line.model.check_all(&line.branch, stride);
        }
    }
}

trait MaxOf {
    fn max_of(self, oldest: Option<Lsn>) -> Self;
}

impl MaxOf for ReadAt {
    fn max_of(self, oldest: Option<Lsn>) -> ReadAt {
        match self {
            ReadAt::Lsn(lsn) => ReadAt::Lsn(Some(lsn).max(oldest).unwrap_or(lsn)),
            ReadAt::Newest => ReadAt::Newest,
        }
    }
}

fn run(seed: u64, steps: usize, home: Box<dyn Home>, configure: impl Fn(&mut StoreConfig)) {
    let mut world = World::new(seed, home, configure);
    for _ in 0..steps {
        world.step();
    }
    world.check_all(7);
    for id in world.lines.keys().copied().collect::<Vec<_>>() {
        world.line(id).branch.flush_now();
        world.compact(id);
    }
    world.check_all(11);
    world.restart();
    world.check_all(13);
    let merged: u64 = world.lines.values().map(|l| l.branch.stats().merges).sum();
    let moved = world
        .lines
        .values()
        .filter(|l| l.branch.oldest() > Some(Lsn::FIRST));
    println!(
        "seed {seed}: {} branches, {} with less than all history, {merged} merges since the restart",
        world.lines.len(),
        moved.count(),
    );
}

#[test]
fn branches_and_history() {
    for seed in 0..4 {
        run(seed, 3000, Dirs::new(0), |_| {});
    }
}

#[test]
fn everything_is_folded_at_once() {
    for seed in 10..12 {
        run(seed, 3000, Dirs::new(0), |c| {
            c.open_layer_bytes = 4 << 10;
            c.merged_layer_bytes = 8 << 10;
        });
    }
}

/// No version is an image before folding makes one, and every chain that is
/// folded is longer than what is left as it is.
#[test]
fn long_chains_without_images_are_folded() {
    for seed in 60..62 {
        let mut world = World::new(seed, Dirs::new(0), |c| {
            c.open_layer_bytes = 8 << 10;
            c.image_after_bytes = u64::MAX;
            c.image_after_mtrs = u32::MAX;
        });
        world.lines.get_mut(&BranchId(1)).unwrap().model.large = true;
        for _ in 0..2000 {
            world.step();
        }
        world.check_all(7);
        for id in world.lines.keys().copied().collect::<Vec<_>>() {
            world.line(id).branch.flush_now();
            world.compact(id);
        }
        world.check_all(5);
        world.restart();
        world.check_all(9);
        assert!(world.lines.len() > 1, "no branch was made");
    }
}

struct Done(AtomicBool);

/// Says so even when the test fails.
struct Ended<'a>(&'a Done);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

/// Merges go on all the time, beside everything else.
fn in_the_background(seed: u64, threads: usize, configure: impl Fn(&mut StoreConfig)) {
    let mut world = World::new(seed, Dirs::new(0), configure);
    // To each thread.
    let shown: Vec<Mutex<Vec<Arc<Branch>>>> = (0..threads).map(|_| Mutex::default()).collect();
    let done = Done(AtomicBool::new(false));
    std::thread::scope(|s| {
        for shown in &shown {
            let done = &done;
            s.spawn(move || {
                while !done.0.load(Ordering::Acquire) {
                    let branches = std::mem::take(&mut *shown.lock());
                    for branch in branches {
                        branch.compact_now().unwrap();
                    }
                    std::thread::yield_now();
                }
            });
        }
        let ended = Ended(&done);
        for step in 0..3000 {
            if step % 10 == 0 {
                for shown in &shown {
                    let branches = world.lines.values().map(|l| Arc::clone(&l.branch));
                    *shown.lock() = branches.collect();
                }
            }
            // A restart or removal waits for its branches.
            world.step();
        }
        drop(ended);
    });
    world.check_all(5);
}

#[test]
fn merges_in_the_background() {
    for seed in 30..32 {
        in_the_background(seed, 1, |c| c.open_layer_bytes = 8 << 10);
    }
}

/// Several of one branch at a time.
#[test]
fn merges_side_by_side_in_the_background() {
    for seed in 32..35 {
        in_the_background(seed, 3, |c| {
            c.open_layer_bytes = 8 << 10;
            c.merged_layer_bytes = 8 << 10;
        });
    }
}

#[test]
fn failing_disks() {
    for seed in 20..22 {
        run(seed, 1500, Dirs::new(5), |_| {});
    }
}

/// The same in an object store that loses, delays, repeats and refuses
/// requests, with a server that dies at any of them, and a cache that lets go.
#[test]
fn failing_object_stores() {
    let evictions = Arc::default();
    for seed in 40..44 {
        let store = memory();
        let home = Objects::new(&evictions, move |seed| {
            let faulty = Faulty::new(Arc::clone(&store), seed);
            faulty.rates(Rates {
                hang: 0,
                ..Rates::some()
            });
            (objects::bucket_of(&faulty), Some(faulty))
        });
        run(seed, 1200, home, |_| {});
    }
    assert!(evictions.load(Ordering::Relaxed) > 30, "{evictions:?}");
}

#[test]
fn a_real_object_store() {
    let server = S3Server::shared().unwrap();
    let url = server.place();
    let evictions = Arc::default();
    let home = Objects::new(&evictions, move |_| {
        (server.open(&url, Retry::default()).unwrap(), None)
    });
    run(50, 800, home, |_| {});
    assert!(evictions.load(Ordering::Relaxed) > 10, "{evictions:?}");
}
