//! A WAL that was never written takes next to no room, whatever happens around
//! its first entry.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::{Writer, block_on, open, read_all, segment};
use std::os::unix::fs::MetadataExt;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{Durable, LocalWal, LocalWalConfig, Position, Wal};

/// The disk space of a directory and its files.
fn bytes_on_disk(dir: &std::path::Path) -> u64 {
    let files = std::fs::read_dir(dir).unwrap();
    let blocks: u64 = files.map(|f| f.unwrap().metadata().unwrap().blocks()).sum();
    512 * (blocks + dir.metadata().unwrap().blocks())
}

#[test]
fn a_wal_without_an_entry_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("WAL");
    block_on(async {
        for round in 0..3 {
            let wal = LocalWal::open(&path, LocalWalConfig::default()).unwrap();
            assert_eq!(*wal.durable().borrow(), Durable::default());
            assert_eq!((wal.first(), wal.stored_bytes()), (Position(0), 0));
            assert!(read_all(&wal).unwrap().is_empty());
            wal.trim(Position(0)).unwrap();
            if round == 1 {
                wal.close().await.unwrap();
            }
            drop(wal);
            let bytes = bytes_on_disk(&path);
            assert!(bytes <= 8 << 10, "{bytes} bytes");
        }
        let wal = LocalWal::open(&path, LocalWalConfig::default()).unwrap();
        let mut reader = wal.read_from(Position(0)).unwrap();
        Writer::attach(&wal).await.unwrap();
        assert!(reader.next().unwrap().is_some());
        assert!(wal.stored_bytes() > LocalWalConfig::default().max_frame_bytes);
    });
}

#[test]
fn a_crash_around_the_first_seal_leaves_that_or_nothing() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..60 {
        let disk = ModelDisk::new();
        let crashed = block_on(async {
            let wal = open(&disk).unwrap();
            disk.hold(seed % 3 == 0);
            // The seal is queued when it is first polled.
            let seal = tokio::time::timeout(std::time::Duration::ZERO, wal.seal());
            let _ = seal.await;
            for _ in 0..seed * 5 {
                std::thread::yield_now();
            }
            disk.crash(seed)
        });
        let wal = open(&crashed).unwrap();
        let entries = read_all(&wal).unwrap();
        assert_eq!(wal.stored_bytes(), crashed.used());
        if entries.is_empty() {
            lost += 1;
            assert_eq!(crashed.used(), 0, "a segment without an entry is left");
            assert!(crashed.contents(&segment(1)).is_none());
        } else {
            kept += 1;
            assert_eq!(entries.len(), 1);
        }
        // The WAL can be written either way.
        let epoch = block_on(async { Writer::attach(&wal).await.unwrap().epoch });
        assert_eq!(epoch.0, 1 + entries.len() as u64);
    }
    println!("the seal was there {kept} times, and not {lost} times");
}

#[test]
fn a_first_write_that_was_torn_is_forgotten() {
    let disk = ModelDisk::new();
    block_on(async {
        let wal = open(&disk).unwrap();
        wal.seal().await.unwrap();
        wal.close().await.unwrap();
    });
    for cut in 0..60 {
        let torn = disk.copy();
        torn.poke(&segment(1), 4096 + cut, &vec![0; 60 - cut]);
        if torn.contents(&segment(1)) == disk.contents(&segment(1)) {
            continue;
        }
        let wal = open(&torn).unwrap();
        assert_eq!(torn.used(), 0);
        assert_eq!(*wal.durable().borrow(), Durable::default());
        block_on(async {
            Writer::attach(&wal).await.unwrap();
            assert_eq!(read_all(&wal).unwrap().len(), 2);
        });
    }
}
