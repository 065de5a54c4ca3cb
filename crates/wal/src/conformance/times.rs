//! The times of entries.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::Store;
use super::tools::{Compute, open, read, read_all};
use crate::{Clock, Log};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock that stands where it was set.
#[derive(Debug, Default)]
pub struct HandClock(Arc<AtomicU64>);

impl HandClock {
    /// Sets it, in microseconds since 1970.
    pub fn set(&self, time_us: u64) {
        self.0.store(time_us, Ordering::SeqCst);
    }

    /// The clock to give to a log.
    pub fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Clock::new(move || time.load(Ordering::SeqCst))
    }
}

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
