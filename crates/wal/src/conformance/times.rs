//! The times of entries.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::store::Store;
use super::tools::{Compute, open, read, read_all};
use crate::Log;

/// Writes a few frames, and says which times they have.
async fn times_of_more(compute: &mut Compute, log: &dyn Log) -> Vec<u64> {
    let before = log.durable().borrow().position();
    compute.write(log, 5).await;
    let entries = read(log, before);
    assert_eq!(entries.len(), 5);
    entries.iter().map(|e| e.time_us).collect()
}

pub(super) async fn of_the_clock(store: &dyn Store) {
    let log = open(store).await;
    store.clock().set(5_000_000);
    let mut compute = Compute::attach(store, &*log, 12288).await;
    let marks: Vec<u64> = read_all(&*log).iter().map(|e| e.time_us).collect();
    assert_eq!(marks, [5_000_000; 2], "a seal and a begin have theirs");
    for time in [5_000_000, 5_000_001, 1_700_000_000_123_456, u64::MAX] {
        store.clock().set(time);
        assert_eq!(times_of_more(&mut compute, &*log).await, [time; 5]);
    }
}

pub(super) async fn never_back(store: &dyn Store) {
    let mut log = open(store).await;
    store.clock().set(5_000_000);
    let mut compute = Compute::attach(store, &*log, 12288).await;
    store.clock().set(4_999_999);
    assert_eq!(times_of_more(&mut compute, &*log).await, [5_000_000; 5]);
    for round in 0..6 {
        let newest = 6_000_000 + round;
        store.clock().set(newest);
        assert_eq!(times_of_more(&mut compute, &*log).await, [newest; 5]);
        // What is left of the log still says how late it was.
        if round >= 3 {
            log.trim(log.durable().borrow().position()).unwrap();
        }
        if round % 2 == 0 {
            log.close().await.unwrap();
        }
        store.crash(round);
        drop(log);
        store.clock().set(round);
        log = open(store).await;
        assert_eq!(times_of_more(&mut compute, &*log).await, [newest; 5]);
    }
    read_all(&*log);
}

/// What the times of more entries are, and whether the first is `stepped`; the
/// others never are.
async fn steps_of_more(compute: &mut Compute, log: &dyn Log) -> (u64, bool) {
    let before = log.durable().borrow().position();
    compute.write(log, 5).await;
    let entries = read(log, before);
    let stepped = entries.iter().map(|e| e.stepped);
    assert!(!stepped.skip(1).any(|stepped| stepped));
    assert!(entries.iter().all(|e| e.time_us == entries[0].time_us));
    (entries[0].time_us, entries[0].stepped)
}

/// A clock that is set is followed, back and forth, and the log says so.
pub(super) async fn steps(store: &dyn Store) {
    const HOUR: u64 = 3_600_000_000;
    let clock = store.clock();
    let mut now = 1_700_000_000_000_000;
    clock.set(now);
    let mut log = open(store).await;
    let mut compute = Compute::attach(store, &*log, 12288).await;
    assert!(read_all(&*log).iter().all(|e| !e.stepped));
    let mut more = async |log: &dyn Log| steps_of_more(&mut compute, log).await;
    // However much time passes, the steady clock has seen it.
    now += 1000 * HOUR;
    clock.set(now);
    assert_eq!(more(&*log).await, (now, false));
    // A little forth and back is no step, and times do not go back.
    clock.step(now + 4_000_000);
    assert_eq!(more(&*log).await, (now + 4_000_000, false));
    clock.step(now);
    assert_eq!(more(&*log).await, (now + 4_000_000, false));
    for by in [HOUR as i64, -2 * HOUR as i64, 60_000_000, -60_000_000] {
        now = now.saturating_add_signed(by);
        clock.step(now);
        assert_eq!(more(&*log).await, (now, true), "by {by} \u{b5}s");
        now += 5_000_000;
        clock.set(now);
        assert_eq!(more(&*log).await, (now, false));
    }
    // No clock tells what happened between a log's end and its opening.
    for (by, stepped) in [
        (5_000_000, false),
        (HOUR as i64, true),
        (-2 * HOUR as i64, true),
    ] {
        log.close().await.unwrap();
        drop(log);
        now = now.saturating_add_signed(by);
        clock.step(now);
        log = open(store).await;
        assert_eq!(more(&*log).await, (now, stepped), "by {by} \u{b5}s");
        assert_eq!(more(&*log).await, (now, false));
    }
    store.crash(1);
    drop(log);
    log = open(store).await;
    let entries = read_all(&*log);
    assert_eq!(entries.iter().filter(|e| e.stepped).count(), 6);
}
