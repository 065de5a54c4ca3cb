//! The local backend passes the suite: on a model disk that loses power, and
//! on a real directory.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use crate::common::{ModelStore, small};
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::Arc;
use xylem_wal::conformance::{self, HandClock, Store};
use xylem_wal::{BoxFuture, LocalWal, LocalWalConfig, Wal, WalError};

/// A WAL in a real directory; a crash ends the process that had it open.
struct DirStore {
    dir: tempfile::TempDir,
    clock: HandClock,
}

impl DirStore {
    fn path(&self) -> PathBuf {
        // A directory below that is not there yet.
        self.dir.path().join("some").join("WAL")
    }
}

impl Store for DirStore {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Wal>, WalError>> {
        Box::pin(async {
            // The last owner may be about to go.
            for _ in 0..100 {
                let config = LocalWalConfig {
                    clock: self.clock.clock(),
                    ..small()
                };
                match LocalWal::open(&self.path(), config) {
                    Err(WalError::Io { source, .. })
                        if source.kind() == std::io::ErrorKind::WouldBlock =>
                    {
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                    }
                    other => return other.map(|wal| Arc::new(wal) as Arc<dyn Wal>),
                }
            }
            Err(WalError::Closed)
        })
    }

    // There is no way to kill a thread; the test drops its WAL, which ends
    // without waiting for what is queued.
    fn crash(&self, _seed: u64) {}

    fn clock(&self) -> &HandClock {
        &self.clock
    }

    fn queue_bytes(&self) -> u64 {
        small().queue_bytes
    }

    fn frame_bytes_max(&self) -> u64 {
        small().max_frame_bytes
    }
}

#[test]
fn on_a_model_disk() {
    conformance::run(ModelStore::new);
}

#[test]
fn in_a_directory() {
    conformance::run(|| DirStore {
        dir: tempfile::tempdir().unwrap(),
        clock: HandClock::default(),
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_on_a_model_disk(seed in any::<u64>(), steps in 1usize..150) {
        conformance::history(&ModelStore::new(), seed, steps);
    }
}
