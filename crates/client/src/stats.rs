//! Counters behind `xylem_get_stats`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter for statistics. It is not ordered with other memory accesses.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets the counter to `n`.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Raises the counter to `n` if `n` is larger.
    pub fn raise(&self, n: u64) {
        self.0.fetch_max(n, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters behind `xylem_stats`, under the same names.
#[derive(Debug, Default)]
#[allow(missing_docs)] // described in the C header
pub struct Stats {
    pub pages_read: Counter,
    pub pages_read_async: Counter,
    pub page_bytes: Counter,
    pub page_wait_us: Counter,
    pub page_retries: Counter,
    pub page_errors: Counter,
    pub redo_bytes_sent: Counter,
    pub lsn_queued: Counter,
    pub lsn_sent: Counter,
    pub lsn_durable: Counter,
    pub lsn_applied: Counter,
    pub durable_waits: Counter,
    pub durable_wait_us: Counter,
    pub side_file_ops: Counter,
    pub tablespace_waits: Counter,
    pub reconnects: Counter,
    pub connected: Counter,
}
