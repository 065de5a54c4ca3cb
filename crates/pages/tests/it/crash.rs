//! Crashes and failures at every step of writing files.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::model::Model;
use crate::common::{BRANCH, MemLog, block_on, branch_dir, catch_up, hooked, open, small};
use parking_lot::Mutex;
use rand::SeedableRng;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_pages::files::{Hook, Step};
use xylem_pages::{Branch, ReadAt, Store};
use xylem_wal::Wal;

fn seeded(log: &Arc<MemLog>, seed: u64) -> Model {
    Model::new(rand::rngs::StdRng::seed_from_u64(seed), log.clone())
}

/// Fails step `n` and all after it, as if the process had died there.
fn die_at(n: u64, steps: Arc<AtomicU64>) -> Hook {
    Arc::new(move |_| {
        if steps.fetch_add(1, Ordering::SeqCst) >= n {
            return Err(io::Error::other("dead"));
        }
        Ok(())
    })
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "{what} did not happen"
        );
        std::thread::yield_now();
    }
}

/// Feeds one history; dies at step `n`. Answers whether it died.
fn live_and_die(dir: &std::path::Path, n: u64) -> bool {
    let log = MemLog::new();
    let mut model = seeded(&log, 9);
    let steps = Arc::new(AtomicU64::new(0));
    let place = hooked(dir, die_at(n, Arc::clone(&steps)));
    let store = Store::open(small(), place).unwrap();
    store.start_ingest();
    let opened = Branch::open(store, BRANCH, log.clone() as Arc<dyn Wal>, None);
    for _ in 0..3 {
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
    }
    let died = steps.load(Ordering::SeqCst) > n;
    drop(opened);
    common::care::undamaged(dir);
    let branch = open(small(), dir, &log);
    model.check_all(&branch, 20);
    branch.flush_now();
    model.check_all(&branch, 50);
    drop(branch);
    // Nothing is left over but what the manifest names, and it names no less.
    let names: Vec<String> = std::fs::read_dir(branch_dir(dir))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!names.iter().any(|n| n.ends_with(".tmp")), "{names:?}");
    common::care::clean(dir);
    died
}

#[test]
fn a_crash_at_every_step_leaves_a_store_that_opens() {
    let mut n = 0;
    loop {
        let dir = tempfile::tempdir().unwrap();
        if !live_and_die(dir.path(), n) {
            break;
        }
        n += 1;
    }
    assert!(n > 30, "only {n} steps");
}

#[test]
fn one_failure_at_any_step_is_tried_again() {
    for n in 0..40u64 {
        let dir = tempfile::tempdir().unwrap();
        let log = MemLog::new();
        let mut model = seeded(&log, 11);
        let steps = AtomicU64::new(0);
        let hook: Hook = Arc::new(move |_| {
            // The first steps make two manifests: opening reports those.
            match steps.fetch_add(1, Ordering::SeqCst) == n + 16 {
                true => Err(io::Error::from_raw_os_error(28)),
                false => Ok(()),
            }
        });
        let store = Store::open(small(), hooked(dir.path(), hook)).unwrap();
        store.start_ingest();
        let branch = Branch::open(store, BRANCH, log.clone() as Arc<dyn Wal>, None).unwrap();
        for _ in 0..3 {
            for _ in 0..40 {
                model.step();
            }
            catch_up(&branch, &log);
            branch.flush_now();
        }
        assert_eq!(branch.failed(), None);
        model.check_all(&branch, 10);
        drop(branch);
        let branch = open(small(), dir.path(), &log);
        model.check_all(&branch, 30);
    }
}

#[test]
fn a_full_disk_pauses_ingest_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = MemLog::new();
    let mut model = seeded(&log, 13);
    let room = Arc::new(Mutex::new(true));
    let hook: Hook = {
        let room = Arc::clone(&room);
        Arc::new(move |step| match (step, *room.lock()) {
            (Step::Create(_) | Step::Write(..), false) => Err(io::Error::from_raw_os_error(28)),
            _ => Ok(()),
        })
    };
    let mut config = small();
    config.memory_bytes = 2 << 20;
    let store = Store::open(config, hooked(dir.path(), hook)).unwrap();
    store.start_ingest();
    let branch = Branch::open(
        Arc::clone(&store),
        BRANCH,
        log.clone() as Arc<dyn Wal>,
        None,
    )
    .unwrap();
    for _ in 0..100 {
        model.step();
    }
    model.send_all();
    catch_up(&branch, &log);
    *room.lock() = false;
    let before = branch.applied();
    for _ in 0..20_000 {
        model.step();
    }
    model.send_all();
    until("back-pressure", || {
        branch.stats().ingest_waits > 0 && branch.stats().flush_failures > 1
    });
    assert!(branch.applied() >= before && branch.applied() < model.lsn);
    assert!(store.memory_used() <= 2 << 20, "{}", store.memory_used());
    assert_eq!(branch.failed(), None);
    // Reads go on.
    for page in 0..4 {
        let page = xylem_types::PageId::new(0, page);
        let lsn = model
            .lsns
            .iter()
            .copied()
            .filter(|l| *l <= before)
            .max()
            .unwrap();
        model.check_page(&branch, page, ReadAt::Lsn(lsn));
    }
    let error = block_on(async {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(20);
        branch
            .wait_applied(model.lsn, deadline)
            .await
            .unwrap_err()
            .to_string()
    });
    assert!(error.contains("was not reached in time"), "{error}");
    *room.lock() = true;
    catch_up(&branch, &log);
    model.check_all(&branch, 400);
}
