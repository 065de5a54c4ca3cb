//! A log that is made late keeps every promise of one that is there.

use super::late::LateLog;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use xylem_types::{Epoch, Lsn};
use xylem_wal::conformance::{self, Store};
use xylem_wal::disk::Disk;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{BoxFuture, LocalLog, LocalLogConfig, Log, LogError, Position};

fn small() -> LocalLogConfig {
    LocalLogConfig {
        segment_bytes: 24 << 10,
        queue_bytes: 6 << 10,
        max_frame_bytes: 2 << 10,
        batch_bytes: 4 << 10,
        read_ahead_bytes: 1 << 10,
        spare_segments: 2,
        retry: Duration::from_millis(2),
    }
}

/// On a model disk; late as long as nothing is there.
struct LateStore(Mutex<ModelDisk>);

impl Store for LateStore {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Log>, LogError>> {
        Box::pin(async {
            let disk = self.0.lock().clone();
            let make = move || {
                let log = LocalLog::open_on(Arc::new(disk.clone()), small())?;
                Ok(Arc::new(log) as Arc<dyn Log>)
            };
            let empty = self.0.lock().list().is_ok_and(|names| names.is_empty());
            if empty {
                return Ok(Arc::new(LateLog::new(make)) as Arc<dyn Log>);
            }
            make()
        })
    }

    fn crash(&self, seed: u64) {
        let mut disk = self.0.lock();
        *disk = disk.crash(seed);
    }

    fn hold(&self, held: bool) -> bool {
        self.0.lock().hold(held);
        true
    }

    fn exclusive(&self) -> bool {
        false
    }

    fn queue_bytes(&self) -> u64 {
        small().queue_bytes
    }

    fn frame_bytes_max(&self) -> u64 {
        small().max_frame_bytes
    }
}

#[test]
fn it_passes_the_suite() {
    conformance::run(|| LateStore(Mutex::new(ModelDisk::new())));
}

#[tokio::test]
async fn nothing_is_made_before_an_epoch_is() {
    let made = Arc::new(Mutex::new(0));
    let count = Arc::clone(&made);
    let disk = ModelDisk::new();
    let log = LateLog::new(move || {
        *count.lock() += 1;
        Ok(Arc::new(LocalLog::open_on(
            Arc::new(disk.clone()),
            small(),
        )?))
    });
    let mut reader = log.read_from(Position::default()).unwrap();
    assert!(reader.next().unwrap().is_none());
    assert_eq!((log.stored_bytes(), log.first()), (0, Position::default()));
    log.trim(Position::default()).unwrap();
    assert!(matches!(
        log.accepted(Epoch(1)),
        Err(LogError::Fenced { .. })
    ));
    assert!(log.begin(Epoch(1), Lsn::FIRST).await.is_err());
    assert!(log.read_from(Position(1)).is_err());
    assert_eq!(*made.lock(), 0);
    let (one, two) = tokio::join!(log.seal(), log.seal());
    assert_ne!(one.unwrap().epoch(), two.unwrap().epoch());
    assert_eq!(*made.lock(), 1);
    assert_eq!(log.durable().borrow().epoch(), Epoch(2));
    assert!(reader.next().unwrap().is_some());
}

#[tokio::test]
async fn closed_before_it_was_made_it_says_so() {
    let log = LateLog::new(|| Err(LogError::Closed));
    let mut durable = log.durable();
    log.close().await.unwrap();
    assert!(durable.changed().await.is_err());
    assert!(matches!(log.seal().await, Err(LogError::Closed)));
}

#[tokio::test]
async fn a_log_that_could_not_be_made_is_made_by_the_next_attempt() {
    let tries = Mutex::new(0);
    let disk = ModelDisk::new();
    let log = LateLog::new(move || {
        *tries.lock() += 1;
        if *tries.lock() == 1 {
            return Err(LogError::Io {
                context: "make it".to_owned(),
                source: std::io::ErrorKind::StorageFull.into(),
            });
        }
        Ok(Arc::new(LocalLog::open_on(
            Arc::new(disk.clone()),
            small(),
        )?))
    });
    assert!(matches!(log.seal().await, Err(LogError::Io { .. })));
    assert_eq!(log.seal().await.unwrap().epoch(), Epoch(1));
}
