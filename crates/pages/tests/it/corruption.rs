//! Any byte of any file may change on disk: an answer is then right or an
//! error, never wrong.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::model::Model;
use crate::common::redo::mtr;
use crate::common::unreadable::Unreadable;
use crate::common::{BRANCH, MemWal, branch_dir, catch_up, copy_dir, place, small};
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use xylem_pages::place::LocalPlace;
use xylem_pages::scrub::FindingKind;
use xylem_pages::{Branch, Reach, ReadAt, ReadError, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{Lsn, PageId};
use xylem_wal::Wal;

fn try_open(dir: &std::path::Path, wal: &Arc<MemWal>) -> Option<Arc<Branch>> {
    let store = Store::open(small(), place(dir)).ok()?;
    store.start_ingest();
    Branch::open(store, BRANCH, wal.clone() as Arc<dyn Wal>, None).ok()
}

/// What the branch says of every page at some LSNs, and of its other things.
fn answers(branch: &Branch, lsns: &[Lsn]) -> Vec<Option<Result<Vec<u8>, &'static str>>> {
    let mut out = Vec::new();
    let known = |e: ReadError| match e {
        ReadError::NoSuchTablespace { .. } => Some(Err("none")),
        ReadError::BeyondEnd { .. } => Some(Err("beyond")),
        _ => None,
    };
    for lsn in lsns {
        for space in [0, 1, 10, 11] {
            for page in 0..8 {
                let got =
                    branch.get_page(PageId::new(space, page), ReadAt::Lsn(*lsn), Reach::Files);
                out.push(got.map_or_else(known, |p| Some(Ok(p.bytes.to_vec()))));
            }
        }
        let spaces = branch.tablespaces(ReadAt::Lsn(*lsn)).ok();
        out.push(spaces.map(|s| Ok(format!("{s:?}").into_bytes())));
        let mut files = Vec::new();
        let whole = branch.side_files(ReadAt::Lsn(*lsn), &mut |f| {
            files.extend_from_slice(format!("{f:?}").as_bytes());
            std::ops::ControlFlow::Continue(())
        });
        out.push(whole.ok().map(|()| Ok(files)));
    }
    out
}

#[test]
fn a_changed_byte_never_gives_a_wrong_answer() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("good");
    let wal = MemWal::new();
    let mut model = Model::new(rand::rngs::StdRng::seed_from_u64(21), wal.clone());
    let branch = try_open(&dir, &wal).unwrap();
    for step in 0..240 {
        model.step();
        if step % 80 == 79 {
            model.send_all();
            catch_up(&branch, &wal);
            branch.flush_now();
        }
    }
    drop(branch);
    let lsns: Vec<Lsn> = model
        .lsns
        .iter()
        .copied()
        .step_by(60)
        .skip(1)
        .chain([model.lsn])
        .collect();
    let branch = try_open(&dir, &wal).unwrap();
    catch_up(&branch, &wal);
    let good = answers(&branch, &lsns);
    drop(branch);
    assert!(good.iter().all(Option::is_some));

    let files: Vec<_> = std::fs::read_dir(branch_dir(&dir))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    let mut rng = rand::rngs::StdRng::seed_from_u64(22);
    let (mut errors, mut refused, mut cases) = (0, 0, 0);
    for path in &files {
        let bytes = std::fs::read(path).unwrap();
        let n = bytes.len();
        // Both ends, where everything is anchored, and places in between.
        let places = (0..n.min(96))
            .step_by(5)
            .chain((n.saturating_sub(96)..n).step_by(5));
        let mut places: Vec<usize> = places.collect();
        places.extend((0..25).map(|_| rng.random_range(0..n)));
        for at in places {
            cases += 1;
            let mut bad = bytes.clone();
            bad[at] ^= 1 << rng.random_range(0..8);
            if rng.random_bool(0.05) {
                bad.truncate(at);
            }
            // A copy: opening writes a manifest.
            let case = root.path().join("case");
            copy_dir(&dir, &case);
            let name = path.file_name().unwrap();
            std::fs::write(branch_dir(&case).join(name), &bad).unwrap();
            match try_open(&case, &wal) {
                None => refused += 1,
                Some(branch) => {
                    catch_up_or_fail(&branch, &wal);
                    for (got, want) in answers(&branch, &lsns).iter().zip(&good) {
                        match got {
                            Some(_) => assert!(got == want, "{} byte {at}", path.display()),
                            None => errors += 1,
                        }
                    }
                }
            }
            std::fs::remove_dir_all(&case).unwrap();
        }
    }
    println!("{cases} cases: {refused} not opened, {errors} errors");
    assert!(errors > 0 && refused > 0);
}

fn catch_up_or_fail(branch: &Branch, wal: &MemWal) {
    let p = wal.end();
    while branch.ingested_position() < p && branch.failed().is_none() {
        std::thread::yield_now();
    }
}

#[test]
fn a_missing_layer_or_manifest_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut model = Model::new(rand::rngs::StdRng::seed_from_u64(23), wal.clone());
    let branch = try_open(root.path(), &wal).unwrap();
    for _ in 0..3 {
        for _ in 0..50 {
            model.step();
        }
        catch_up(&branch, &wal);
        branch.flush_now();
    }
    drop(branch);
    let dir = branch_dir(root.path());
    let names: Vec<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let newest = names
        .iter()
        .filter(|n| n.starts_with("manifest-"))
        .max()
        .unwrap();
    for name in names.iter().filter(|n| *n != newest) {
        let away = root.path().join("away");
        std::fs::rename(dir.join(name), &away).unwrap();
        assert!(
            try_open(root.path(), &wal).is_none(),
            "opened without {name}"
        );
        std::fs::rename(&away, dir.join(name)).unwrap();
    }
    assert!(try_open(root.path(), &wal).is_some());
}

#[test]
fn two_processes_cannot_have_a_place_open() {
    let root = tempfile::tempdir().unwrap();
    let first = LocalPlace::open(root.path());
    assert!(first.is_ok());
    assert!(LocalPlace::open(root.path()).is_err());
    drop(first);
    assert!(LocalPlace::open(root.path()).is_ok());
}

/// While the disk cannot be read, answers are right or an error that says so;
/// what comes in meanwhile waits; afterwards everything is there.
#[test]
fn a_disk_that_cannot_be_read_for_a_while_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut model = Model::new(rand::rngs::StdRng::seed_from_u64(31), wal.clone());
    let config = || StoreConfig {
        trim_wal: false,
        ..small()
    };
    let bad = Arc::new(AtomicBool::new(false));
    let open = || {
        let bad = Arc::clone(&bad);
        let place = Unreadable {
            place: Arc::new(LocalPlace::open(root.path()).unwrap()),
            is_bad: Arc::new(move |_| bad.load(Ordering::Acquire)),
        };
        let store = Store::open(config(), Arc::new(place)).unwrap();
        store.start_ingest();
        let wal = wal.clone() as Arc<dyn Wal>;
        let branch = Branch::open(Arc::clone(&store), BRANCH, wal, None).unwrap();
        (store, branch)
    };
    let (store, branch) = open();
    for _ in 0..9 {
        for _ in 0..60 {
            model.step();
        }
        model.send_all();
        catch_up(&branch, &wal);
        branch.flush_now();
    }
    let lsns: Vec<Lsn> = model.lsns.iter().copied().step_by(40).collect();
    let before = answers(&branch, &lsns);
    branch.shutdown();
    drop((store, branch));

    // Nothing is in memory but what the WAL still had.
    let (store, branch) = open();
    catch_up(&branch, &wal);
    bad.store(true, Ordering::Release);
    let during = answers(&branch, &lsns);
    let mut errors = 0;
    for (n, (now, want)) in during.iter().zip(&before).enumerate() {
        match now {
            None => errors += 1,
            now => assert!(now == want, "answer {n} is wrong"),
        }
    }
    assert!(errors > during.len() / 2, "{errors} of {}", during.len());
    // Which pages are in the cache depends on how far ingest, which looks into
    // layers when it begins, was when the disk went bad.
    let read = |page| branch.get_page(PageId::new(0, page), ReadAt::Lsn(lsns[1]), Reach::Files);
    let error = (0..20).find_map(|page| read(page).err()).unwrap();
    assert!(matches!(error, ReadError::Io { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(".layer") && text.contains("os error 5"),
        "{text}"
    );
    let merged = branch.compact_now().unwrap_err();
    assert!(merged.contains("os error 5"), "{merged}");
    let (_, findings) = common::care::scrub_store(&store);
    assert!(
        findings.iter().any(|f| f.kind == FindingKind::Unreadable),
        "{findings:?}"
    );
    // Redo comes in meanwhile, and a flush that cannot look at what is there.
    for _ in 0..100 {
        model.step();
    }
    model.send_all();
    assert_eq!(branch.failed(), None);
    std::thread::scope(|s| {
        let flushing = s.spawn(|| branch.flush_now());
        bad.store(false, Ordering::Release);
        flushing.join().unwrap();
    });
    catch_up(&branch, &wal);
    assert!(answers(&branch, &lsns) == before);
    branch.flush_now();
    branch.compact_now().unwrap();
    model.check_all(&branch, 20);
    assert_eq!(branch.failed(), None);
}

/// Redo of a page that was never made.
#[test]
fn a_page_that_its_versions_do_not_make_is_counted_and_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let branch = common::open(small(), dir.path(), &wal);
    let lsn = Lsn::FIRST;
    wal.epoch(lsn);
    let page = PageId::new(7, 3);
    let flags = SpaceFlags::full_crc32_of(4096).unwrap().raw();
    wal.redo(
        lsn,
        &mtr(|m| {
            m.header(7, 10, flags).write(page, 100, &[1]);
        }),
    );
    catch_up(&branch, &wal);
    for _ in 0..3 {
        let found = branch.get_page(page, ReadAt::Newest, Reach::Files);
        assert!(matches!(found, Err(ReadError::Corrupt { .. })), "{found:?}");
    }
    assert_eq!(branch.stats().unreadable_pages, 3);
    let told = branch.health().unreadable;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].message.contains("page 7:3"), "{told:?}");
}
