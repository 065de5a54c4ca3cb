//! What is told of layers, manifests and pages is what is there.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::model::Model;
use crate::common::{BRANCH, MemWal, branch_dir, catch_up, open, small, wait_until};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use xylem_ambient::Clock;
use xylem_pages::inspect::{
    self, HistoryOptions, LayerKind, PageHistory, PageVersion, VersionKind, Whence,
};
use xylem_pages::place::{FileReader, Files, LocalFiles};
use xylem_pages::{Branch, ReadAt, ReadError, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{BranchId, Lsn, PageId};
use xylem_wal::Wal;

fn options(at: Option<Lsn>, versions_max: usize) -> HistoryOptions {
    HistoryOptions {
        at,
        from: None,
        versions_max,
        build: false,
    }
}

/// All versions, a few at a time.
fn all(branch: &Branch, page: PageId, few: usize) -> Vec<PageVersion> {
    let mut out: Vec<PageVersion> = Vec::new();
    let mut wanted = options(None, few);
    loop {
        let part = branch.page_history(page, &wanted).unwrap();
        assert!(part.versions.is_sorted_by(|a, b| a.lsn >= b.lsn));
        if let (Some(before), Some(next)) = (out.last(), part.versions.first()) {
            assert!(next.lsn < before.lsn, "an LSN was cut in two");
        }
        out.extend(part.versions);
        match part.next {
            Some(next) => wanted.from = Some(next),
            None => return out,
        }
    }
}

/// Applies the versions as they are listed and holds the page against the
/// model at every LSN from `from` on.
fn check(branch: &Branch, model: &Model, id: PageId, from: Lsn) -> usize {
    // A flush in between changes where versions are: then again.
    let same = (0..20).find_map(|_| {
        let whole = all(branch, id, 1_000_000);
        (all(branch, id, 3) == whole).then_some(whole)
    });
    let whole = same.unwrap_or_else(|| panic!("page {id}: in parts it is another history"));
    let mut page: Vec<u8> = Vec::new();
    let mut checked = 0;
    let mut versions = whole.iter().rev().peekable();
    while let Some(first) = versions.next() {
        let lsn = first.lsn;
        let mut same = vec![first];
        while let Some(next) = versions.next_if(|v| v.lsn == lsn) {
            same.push(next);
        }
        let Some(raw) = model.flags_at(id.space.0, lsn) else {
            continue;
        };
        let flags = SpaceFlags::new(raw).unwrap();
        page.resize(flags.physical_page_size(), 0);
        let mut records = Vec::new();
        for v in &same {
            match v.kind {
                VersionKind::Image => {
                    records.clear();
                    page.clone_from(&v.bytes);
                }
                VersionKind::Delta | VersionKind::Fresh => records.extend_from_slice(&v.bytes),
            }
        }
        if !records.is_empty() {
            xylem_redo::apply(&mut page, id, flags, lsn, &records).unwrap();
            xylem_redo::seal(&mut page, flags);
        }
        let expected = model.versions(id).iter().find(|(l, _)| *l == lsn);
        if lsn >= from {
            let (_, bytes) =
                expected.unwrap_or_else(|| panic!("page {id} did not change at {lsn}"));
            assert!(page == **bytes, "page {id} at LSN {lsn} is another");
            checked += 1;
        }
    }
    checked
}

#[test]
fn a_page_is_the_sum_of_its_versions() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut model = Model::new(StdRng::seed_from_u64(31), wal.clone());
    let branch = open(small(), dir.path(), &wal);
    for part in 0..8 {
        for _ in 0..150 {
            model.step();
        }
        model.send_all();
        catch_up(&branch, &wal);
        match part {
            3 => branch.compact_now().unwrap(),
            // The rest stays in memory.
            6 => branch.flush_now(),
            _ if part < 6 => branch.flush_now(),
            _ => {}
        }
        let mut checked = 0;
        for id in model.page_ids() {
            checked += check(&branch, &model, id, Lsn::ZERO);
        }
        assert!(checked > 50 * (part + 1), "{checked}");
    }
    let versions = all(&branch, PageId::new(0, 0), 10);
    let in_layers = |v: &&PageVersion| matches!(v.whence, Whence::Layer(..));
    let open = versions.iter().filter(|v| v.whence == Whence::Open).count();
    let stored = versions.iter().filter(in_layers).count();
    assert!(open > 0 && stored > 0);
    assert!(versions.iter().all(|v| v.branch == BRANCH));
}

#[test]
fn history_goes_on_in_the_branch_that_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(1_800_000_000_000_000));
    let ticking = Arc::clone(&clock);
    let config = StoreConfig {
        history: Duration::from_secs(1),
        clock: Clock::new(move || ticking.load(Ordering::Relaxed)),
        open_layer_bytes: 16 << 10,
        ..small()
    };
    let store = Store::open(config, common::place(dir.path())).unwrap();
    store.start_ingest();
    let open = |id: BranchId, wal: &Arc<MemWal>, of: Option<&Arc<Branch>>| {
        let wal = Arc::clone(wal) as Arc<dyn Wal>;
        Branch::open(Arc::clone(&store), id, wal, of.cloned()).unwrap()
    };
    let wal = MemWal::with_clock(Arc::clone(&clock));
    let main = open(BRANCH, &wal, None);
    let mut model = Model::new(StdRng::seed_from_u64(32), wal.clone());
    let run = |branch: &Branch, model: &mut Model| {
        for _ in 0..300 {
            clock.fetch_add(2_000, Ordering::Relaxed);
            model.step();
        }
        model.send_all();
        catch_up(branch, model.wal());
        branch.flush_now();
    };
    run(&main, &mut model);
    let left = main.fork(BranchId(2), ReadAt::Newest).unwrap();
    let second = MemWal::with_clock(Arc::clone(&clock));
    let mut other = model.fork(left, second.clone(), StdRng::seed_from_u64(33));
    let child = open(BranchId(2), &second, Some(&main));
    run(&main, &mut model);
    run(&child, &mut other);
    for id in other.page_ids() {
        check(&child, &other, id, Lsn::ZERO);
        for v in all(&child, id, 50) {
            let of = if v.lsn > left { BranchId(2) } else { BRANCH };
            assert_eq!(v.branch, of, "page {id} at {}", v.lsn);
        }
    }
    // Folded: what is left of what came before is right, and says the same.
    clock.fetch_add(10_000_000, Ordering::Relaxed);
    run(&main, &mut model);
    main.compact_now().unwrap();
    let oldest = main.oldest().unwrap();
    assert!(oldest > left, "nothing was folded");
    for id in model.page_ids() {
        check(&main, &model, id, oldest);
    }
    let health = main.health();
    assert_eq!(health.oldest, Some(oldest));
    assert_eq!(health.forks.len(), 1);
    assert_eq!(
        (health.forks[0].branch, health.forks[0].lsn),
        (BranchId(2), left)
    );
    assert!(health.newest_time_us >= health.oldest_time_us);
    assert!(health.horizon >= health.oldest);
}

#[test]
fn pages_are_built_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut model = Model::new(StdRng::seed_from_u64(34), wal.clone());
    let branch = open(small(), dir.path(), &wal);
    for _ in 0..300 {
        model.step();
    }
    model.send_all();
    catch_up(&branch, &wal);
    let id = PageId::new(0, 1);
    let build = HistoryOptions {
        build: true,
        ..options(None, 1000)
    };
    let history = branch.page_history(id, &build).unwrap();
    assert!(history.versions.len() > 5);
    assert_eq!(history.at, branch.applied());
    assert_eq!(history.tablespace.as_ref().unwrap().path, "ibdata1");
    for v in &history.versions {
        let built = v.built.as_ref().unwrap().as_ref().unwrap();
        let (_, bytes) = model
            .versions(id)
            .iter()
            .find(|(l, _)| *l == v.lsn)
            .unwrap();
        assert!(built.bytes == *bytes && built.fault.is_none());
    }
    // Up to an LSN.
    let middle = history.versions[3].lsn;
    let part = branch
        .page_history(id, &options(Some(middle), 1000))
        .unwrap();
    assert!(part.versions == branch_part(&history, middle));
    // Not of the future.
    let error = branch.page_history(id, &options(Some(Lsn(1 << 40)), 10));
    assert!(matches!(error, Err(ReadError::NotReached { .. })));
    // Of what is not there, nothing.
    let none = branch.page_history(PageId::new(4711, 0), &build).unwrap();
    assert_eq!((none.versions.len(), none.tablespace), (0, None));
}

/// The versions up to `at`, not built.
fn branch_part(history: &PageHistory, at: Lsn) -> Vec<PageVersion> {
    let versions = history.versions.iter().filter(|v| v.lsn <= at);
    versions
        .map(|v| PageVersion {
            built: None,
            ..v.clone()
        })
        .collect()
}

#[test]
fn layers_are_told_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut model = Model::new(StdRng::seed_from_u64(35), wal.clone());
    // Only what is flushed here is.
    let config = StoreConfig {
        open_layer_bytes: 1 << 20,
        ..small()
    };
    let branch = open(config, dir.path(), &wal);
    for flush in 0..5 {
        for _ in 0..100 {
            model.step();
        }
        model.send_all();
        catch_up(&branch, &wal);
        if flush < 4 {
            branch.flush_now();
        }
    }
    let info = branch.layers_info();
    let stats = branch.stats();
    assert_eq!(info.files.len() as u64, stats.layers);
    let sum = |kind| {
        let of = info.files.iter().filter(|l| l.kind == kind);
        of.map(|l| l.bytes).sum::<u64>()
    };
    assert_eq!(sum(LayerKind::Delta), stats.delta_bytes);
    assert_eq!(sum(LayerKind::Image), stats.image_bytes);
    let mut runs: Vec<u64> = info.files.iter().map(|l| l.run).collect();
    runs.dedup();
    assert_eq!(stats.runs, runs.len() as u64);
    assert_eq!(stats.flushed_bytes, stats.layer_bytes);
    // One that is full may wait to be flushed before the open one.
    let open = info.memory.last().unwrap();
    assert!(open.bytes > 0 && !open.frozen);
    let dir = branch_dir(dir.path());
    let files = LocalFiles::open(&dir, None).unwrap();
    let mut pages: BTreeMap<PageId, usize> = BTreeMap::new();
    for layer in &info.files {
        let reader = files.open(&layer.name).unwrap();
        let mut keys = 0;
        let mut last = String::new();
        let file = inspect::layer_file(reader, layer.bytes, &mut |v| {
            assert!(v.lsn >= layer.start && v.lsn <= layer.end);
            let key = v.key_text();
            if key != last {
                keys += 1;
                last = key;
            }
            if let Some(page) = v.page() {
                *pages.entry(page).or_default() += 1;
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(file.faults, Vec::<String>::new());
        assert!(file.complete);
        assert_eq!((file.branch, file.number), (BRANCH, layer.number));
        assert_eq!((file.keys, keys), (layer.keys, layer.keys));
        assert_eq!(file.keys_by_kind.iter().sum::<u64>(), layer.keys);
        assert_eq!(
            (&file.first_key, &file.last_key),
            (&layer.first_key, &layer.last_key)
        );
        assert_eq!(file.kind, layer.kind);
        let stored: u64 = file.blocks.iter().map(|b| b.stored).sum();
        assert_eq!(stored + 128, layer.bytes);
    }
    // Each version of a page that its history lists is in some layer.
    for (page, count) in pages {
        let listed = all(&branch, page, 1_000_000);
        let stored = listed
            .iter()
            .filter(|v| matches!(v.whence, Whence::Layer(..)));
        assert_eq!(stored.count(), count, "page {page}");
    }
    // The manifests come to the same layers.
    let list = files.list().unwrap();
    let manifests = list.iter().filter(|(n, _)| n.starts_with("manifest-"));
    let raws: Vec<Vec<u8>> = manifests.map(|(n, _)| files.read(n).unwrap()).collect();
    assert_eq!(inspect::replay(&raws).unwrap(), info.files);
    let mut numbers: Vec<u64> = raws
        .iter()
        .map(|raw| inspect::manifest(raw).unwrap().number)
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=raws.len() as u64).collect::<Vec<_>>());
    assert_eq!(branch.health().manifest, raws.len() as u64);
}

struct Bytes(Vec<u8>);

impl FileReader for Bytes {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let from = offset as usize;
        let found = self.0.get(from..from + out.len());
        out.copy_from_slice(found.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[test]
fn what_is_no_layer_and_no_manifest_is_refused() {
    let look = |bytes: Vec<u8>| {
        let len = bytes.len() as u64;
        inspect::layer_file(Arc::new(Bytes(bytes)), len, &mut |_| {
            ControlFlow::Continue(())
        })
    };
    for bytes in [
        vec![],
        vec![0; 100],
        vec![0; 1000],
        b"XYLAYER\x01\x02\0".repeat(50),
    ] {
        look(bytes.clone()).unwrap_err();
        inspect::manifest(&bytes).unwrap_err();
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v3");
    for entry in std::fs::read_dir(branch_dir(&golden)).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if path.extension().is_none() {
            inspect::manifest(&bytes).unwrap();
            for at in 0..bytes.len() {
                let mut bad = bytes.clone();
                bad[at] ^= 1;
                inspect::manifest(&bad).unwrap_err();
            }
            continue;
        }
        assert_eq!(look(bytes.clone()).unwrap().faults, Vec::<String>::new());
        // It never panics, and tells of whatever is wrong.
        for at in (0..bytes.len()).step_by(23) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            if let Ok(info) = look(bad) {
                assert!(!info.faults.is_empty(), "{} byte {at}", path.display());
            }
        }
    }
}

#[test]
fn failures_and_debts_are_known() {
    use crate::common::hooked;
    use xylem_pages::place::Step;
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let fail = Arc::clone(&full);
    let hook = Arc::new(move |step: Step<'_>| match step {
        Step::Create(name) if name.ends_with(".layer") && fail.load(Ordering::Relaxed) => {
            Err(std::io::Error::from_raw_os_error(28))
        }
        _ => Ok(()),
    });
    let store = Store::open(small(), hooked(dir.path(), hook)).unwrap();
    store.start_ingest();
    let wal = MemWal::new();
    let mut model = Model::new(StdRng::seed_from_u64(36), wal.clone());
    let branch = Branch::open(store, BRANCH, wal.clone() as Arc<dyn Wal>, None).unwrap();
    let mut run = |branch: &Branch| {
        for _ in 0..60 {
            model.step();
        }
        model.send_all();
        catch_up(branch, &wal);
    };
    for _ in 0..9 {
        run(&branch);
        branch.flush_now();
    }
    let health = branch.health();
    let before = health.runs;
    assert!(before >= 9);
    assert!(health.merge_debt_bytes > 0 && !health.busy, "{health:?}");
    branch.compact_now().unwrap();
    let health = branch.health();
    assert!(health.runs < before);
    assert_eq!((health.merge_debt_bytes, health.flush_trouble), (0, None));
    assert_eq!(branch.stats().merge_debt_bytes, 0);
    full.store(true, Ordering::Relaxed);
    run(&branch);
    std::thread::scope(|s| {
        s.spawn(|| branch.flush_now());
        while branch.health().flush_trouble.is_none() {
            std::thread::yield_now();
        }
        let trouble = branch.health().flush_trouble.unwrap();
        assert!(trouble.message.contains("space"), "{trouble:?}");
        full.store(false, Ordering::Relaxed);
    });
    assert_eq!(branch.health().flush_trouble, None);
}

#[test]
fn the_size_of_the_database_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut model = Model::new(StdRng::seed_from_u64(37), wal.clone());
    let store = Store::open(small(), common::place(dir.path())).unwrap();
    store.start_ingest();
    let open = Arc::clone(&wal) as Arc<dyn Wal>;
    let branch = Branch::open(Arc::clone(&store), BRANCH, open, None).unwrap();
    for _ in 0..200 {
        model.step();
    }
    model.send_all();
    catch_up(&branch, &wal);
    store.start_upkeep().unwrap();
    let measured = || branch.stats().database_bytes > 0;
    wait_until("the database was measured", measured);
    let spaces = branch.tablespaces(ReadAt::Newest).unwrap();
    let sizes = spaces
        .iter()
        .map(|t| u64::from(t.pages) * u64::from(t.page_bytes));
    assert_eq!(branch.stats().database_bytes, sizes.sum::<u64>());
}
