//! The description of a backend for the suite.

use crate::{BoxFuture, Wal, WalError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xylem_ambient::Clock;

/// A clock that stands where it was set.
#[derive(Debug, Default)]
pub struct HandClock {
    wall: Arc<AtomicU64>,
    steady: Arc<AtomicU64>,
}

impl HandClock {
    /// Time passes, or the clock goes back, until it says this: microseconds
    /// since 1970.
    pub fn set(&self, time_us: u64) {
        let before = self.wall.swap(time_us, Ordering::SeqCst);
        let passed = time_us.saturating_sub(before);
        self.steady.fetch_add(passed, Ordering::SeqCst);
    }

    /// Sets the wall clock to `time_us`; no time passes.
    pub fn step(&self, time_us: u64) {
        self.wall.store(time_us, Ordering::SeqCst);
    }

    /// The clock to give to a WAL.
    pub fn clock(&self) -> Clock {
        let (wall, steady) = (Arc::clone(&self.wall), Arc::clone(&self.steady));
        Clock::with_steady(
            move || wall.load(Ordering::SeqCst),
            move || steady.load(Ordering::SeqCst),
        )
    }
}

/// The store of one WAL, which outlives the processes that use it.
pub trait Store: Send + Sync {
    /// Opens the WAL that is here.
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Wal>, WalError>>;

    /// The process that has the WAL open dies at once. Of the entries that were
    /// not reported durable, `seed` chooses the lost ones.
    fn crash(&self, seed: u64);

    /// Holds back durability until called with false. Returns whether the
    /// store can do that; the tests that need it are left out if not.
    fn hold(&self, held: bool) -> bool {
        let _ = held;
        false
    }

    /// Whether a second opener is refused while the first has the WAL open.
    fn exclusive(&self) -> bool {
        true
    }

    /// The clock of every WAL that is opened here.
    fn clock(&self) -> &HandClock;

    /// Bytes of frames that the backend was told to accept ahead of
    /// durability.
    fn queue_bytes(&self) -> u64;

    /// The largest payload of a frame.
    fn frame_bytes_max(&self) -> u64;
}
