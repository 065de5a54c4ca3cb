//! The objects of a backup as they were written once are still written so, and
//! still read: `tests/golden/backup-2`. `UPDATE_GOLDEN=1` writes them anew,
//! which is right only for a new version of the format, in a directory of its
//! own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::golden::{STEP_US, TIME_US, compare, entropy, groups, objects, record_groups};
use crate::common::objects::{block_on, place, runtime};
use crate::common::{read_all, small};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::path::PathBuf;
use std::sync::Arc;
use xylem_types::{Epoch, FrameSeq, Lsn};
use xylem_wal::backup::{Floor, restore_on};
use xylem_wal::conformance::HandClock;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{Backup, BackupConfig, LocalWal, LocalWalConfig, Position, Record, Wal};

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/backup-2")
}

fn prefix() -> Path {
    Path::from("log-backups/golden")
}

fn config(clock: &HandClock, writer: u64) -> BackupConfig {
    BackupConfig {
        clock: clock.clock(),
        entropy: entropy(writer),
        ..BackupConfig::new(runtime())
    }
}

/// Writes it all: two generations, the first of which has a range for each
/// group, and the second a seal.
async fn write() -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = HandClock::default();
    let mut times = (0..).map(|nth| TIME_US + nth * STEP_US);
    let mut tick = || clock.set(times.next().unwrap());
    let disk = ModelDisk::new();
    let open = || {
        let config = LocalWalConfig {
            clock: clock.clock(),
            ..small()
        };
        LocalWal::open_on(Arc::new(disk.clone()), config).unwrap()
    };
    let begin = |wal: &LocalWal, generation| {
        let config = config(&clock, generation << 8);
        let place = place(Arc::clone(&store), &prefix());
        Backup::start(wal, &place, generation, config).unwrap()
    };
    let wal = open();
    let backup = begin(&wal, 3);
    let all = || wal.durable().borrow().position();
    tick();
    let epoch = wal.seal().await.unwrap().epoch();
    backup.reach(all()).await.unwrap();
    tick();
    wal.begin(epoch, Lsn::FIRST).await.unwrap();
    backup.reach(all()).await.unwrap();
    for group in groups() {
        tick();
        let last = group.last().unwrap().seq;
        wal.append(epoch, group).await.unwrap();
        wal.durable().wait_for(|d| d.seq() >= last).await.unwrap();
        backup.reach(all()).await.unwrap();
    }
    wal.close().await.unwrap();
    backup.close().await.unwrap();
    drop(wal);
    let wal = open();
    let backup = begin(&wal, 5);
    tick();
    wal.seal().await.unwrap();
    let sealed = wal.durable().borrow().position();
    backup.reach(sealed).await.unwrap();
    wal.close().await.unwrap();
    backup.close().await.unwrap();
    store
}

#[test]
fn the_bytes_are_the_same() {
    block_on(async {
        let written = objects(&*write().await, &prefix()).await;
        // Two starts, a seal, a begin, the groups, a seal.
        assert_eq!(written.len(), 2 + 2 + groups().len() + 1);
        compare(&golden(), &written);
    });
}

#[test]
fn the_golden_objects_are_restored() {
    block_on(async {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        for folder in std::fs::read_dir(golden()).unwrap() {
            let folder = folder.unwrap();
            let generation = folder.file_name().into_string().unwrap();
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                let path = Path::from(format!("log-backups/golden/{generation}/{name}"));
                let bytes = std::fs::read(file.path()).unwrap();
                store.put(&path, bytes.into()).await.unwrap();
            }
        }
        let disk = ModelDisk::new();
        let clock = HandClock::default();
        let (config, floor) = (config(&clock, 0), Floor::default());
        let at = Arc::new(disk.clone());
        let restored = restore_on(&place(store, &prefix()), 8, at, floor, small(), config)
            .await
            .unwrap();
        assert_eq!(
            (restored.first, restored.epoch),
            (Position(0), Epoch(9 << 20))
        );
        assert_eq!(restored.lsn, groups().concat().last().unwrap().end());
        let wal = LocalWal::open_on(Arc::new(disk), small()).unwrap();
        assert_eq!(wal.durable().borrow().seq(), FrameSeq(0));
        let mut entries = read_all(&wal).unwrap().into_iter();
        for ((epoch, records), nth) in record_groups().into_iter().zip(0..) {
            for record in records {
                let entry = entries.next().unwrap();
                assert_eq!((entry.epoch, entry.record), (epoch, record));
                assert_eq!(entry.time_us, TIME_US + nth * STEP_US);
            }
        }
        let seal = entries.next().unwrap();
        assert_eq!(seal.record, Record::Seal);
        assert_eq!(entries.next(), None);
    });
}
