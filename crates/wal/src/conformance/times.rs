//! The times of entries.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::store::Store;
use super::tools::{Compute, open, read, read_all};
use crate::Wal;

/// Writes a few frames, and says which times they have.
async fn times_of_more(compute: &mut Compute, wal: &dyn Wal) -> Vec<u64> {
    let before = wal.durable().borrow().position();
    compute.write(wal, 5).await;
    let entries = read(wal, before);
    assert_eq!(entries.len(), 5);
    entries.iter().map(|e| e.time_us).collect()
}

pub(super) async fn of_the_clock(store: &dyn Store) {
    let wal = open(store).await;
    store.clock().set(5_000_000);
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let marks: Vec<u64> = read_all(&*wal).iter().map(|e| e.time_us).collect();
    assert_eq!(marks, [5_000_000; 2], "a seal and a begin have theirs");
    for time in [5_000_000, 5_000_001, 1_700_000_000_123_456, u64::MAX] {
        store.clock().set(time);
        assert_eq!(times_of_more(&mut compute, &*wal).await, [time; 5]);
    }
}

pub(super) async fn never_back(store: &dyn Store) {
    let mut wal = open(store).await;
    store.clock().set(5_000_000);
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    store.clock().set(4_999_999);
    assert_eq!(times_of_more(&mut compute, &*wal).await, [5_000_000; 5]);
    for round in 0..6 {
        let newest = 6_000_000 + round;
        store.clock().set(newest);
        assert_eq!(times_of_more(&mut compute, &*wal).await, [newest; 5]);
        // The rest of the WAL still has the last time.
        if round >= 3 {
            wal.trim(wal.durable().borrow().position()).unwrap();
        }
        if round % 2 == 0 {
            wal.close().await.unwrap();
        }
        store.crash(round);
        drop(wal);
        store.clock().set(round);
        wal = open(store).await;
        assert_eq!(times_of_more(&mut compute, &*wal).await, [newest; 5]);
    }
    read_all(&*wal);
}

/// Writes more entries and returns their time, and whether the first is
/// `stepped`; the others never are.
async fn steps_of_more(compute: &mut Compute, wal: &dyn Wal) -> (u64, bool) {
    let before = wal.durable().borrow().position();
    compute.write(wal, 5).await;
    let entries = read(wal, before);
    let stepped = entries.iter().map(|e| e.stepped);
    assert!(!stepped.skip(1).any(|stepped| stepped));
    assert!(entries.iter().all(|e| e.time_us == entries[0].time_us));
    (entries[0].time_us, entries[0].stepped)
}

/// A clock that is set is followed, back and forth, and the WAL says so.
pub(super) async fn steps(store: &dyn Store) {
    const HOUR: u64 = 3_600_000_000;
    let clock = store.clock();
    let mut now = 1_700_000_000_000_000;
    clock.set(now);
    let mut wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    assert!(read_all(&*wal).iter().all(|e| !e.stepped));
    let mut more = async |wal: &dyn Wal| steps_of_more(&mut compute, wal).await;
    // However much time passes, the steady clock has seen it.
    now += 1000 * HOUR;
    clock.set(now);
    assert_eq!(more(&*wal).await, (now, false));
    // A little forth and back is no step, and times do not go back.
    clock.step(now + 4_000_000);
    assert_eq!(more(&*wal).await, (now + 4_000_000, false));
    clock.step(now);
    assert_eq!(more(&*wal).await, (now + 4_000_000, false));
    for by in [HOUR as i64, -2 * HOUR as i64, 60_000_000, -60_000_000] {
        now = now.saturating_add_signed(by);
        clock.step(now);
        assert_eq!(more(&*wal).await, (now, true), "by {by} \u{b5}s");
        now += 5_000_000;
        clock.set(now);
        assert_eq!(more(&*wal).await, (now, false));
    }
    // No clock tells what happened between a WAL's end and its opening.
    for (by, stepped) in [
        (5_000_000, false),
        (HOUR as i64, true),
        (-2 * HOUR as i64, true),
    ] {
        wal.close().await.unwrap();
        drop(wal);
        now = now.saturating_add_signed(by);
        clock.step(now);
        wal = open(store).await;
        assert_eq!(more(&*wal).await, (now, stepped), "by {by} \u{b5}s");
        assert_eq!(more(&*wal).await, (now, false));
    }
    store.crash(1);
    drop(wal);
    wal = open(store).await;
    let entries = read_all(&*wal);
    assert_eq!(entries.iter().filter(|e| e.stepped).count(), 6);
}
