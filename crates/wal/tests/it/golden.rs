//! The format as it was written once is still written so, and still read:
//! `tests/golden/wal-2`. `UPDATE_GOLDEN=1` writes the files anew, which is
//! right only for a new version of the format, in a directory of its own. One
//! file of version 1, which had no times, is left: it is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::golden::{STEP_US, TIME_US, groups, record_groups};
use crate::common::{block_on, segment};
use std::path::PathBuf;
use std::sync::Arc;
use xylem_types::{Epoch, FrameSeq, Lsn};
use xylem_wal::conformance::HandClock;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{LocalWal, LocalWalConfig, Position, Wal, WalError};

const SEGMENTS: u64 = 3;

fn golden(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/wal-{version}"))
}

fn config(clock: &HandClock) -> LocalWalConfig {
    LocalWalConfig {
        max_frame_bytes: 256,
        segment_bytes: 4096 + 600,
        clock: clock.clock(),
        ..LocalWalConfig::default()
    }
}

/// Writes it all to a model disk, whose salts are always the same.
fn write() -> ModelDisk {
    let disk = ModelDisk::new();
    let clock = HandClock::default();
    let mut times = (0..).map(|nth| TIME_US + nth * STEP_US);
    let mut tick = || clock.set(times.next().unwrap());
    block_on(async {
        let wal = LocalWal::open_on(Arc::new(disk.clone()), config(&clock)).unwrap();
        tick();
        let epoch = wal.seal().await.unwrap().epoch();
        tick();
        wal.begin(epoch, Lsn::FIRST).await.unwrap();
        for group in groups() {
            tick();
            let last = group.last().unwrap().seq;
            wal.append(epoch, group).await.unwrap();
            wal.durable().wait_for(|d| d.seq() >= last).await.unwrap();
        }
        tick();
        wal.seal().await.unwrap();
        wal.close().await.unwrap();
    });
    disk
}

#[test]
fn the_bytes_are_the_same() {
    let disk = write();
    for number in 1..=SEGMENTS {
        let path = golden(2).join(segment(number));
        let bytes = disk.contents(&segment(number)).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(golden(2)).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&path).unwrap() == bytes,
            "segment {number} differs"
        );
    }
}

#[test]
fn the_golden_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for number in 1..=SEGMENTS {
        std::fs::copy(
            golden(2).join(segment(number)),
            dir.path().join(segment(number)),
        )
        .unwrap();
    }
    let wal = LocalWal::open(dir.path(), config(&HandClock::default())).unwrap();
    let durable = *wal.durable().borrow();
    assert_eq!((durable.epoch(), durable.seq()), (Epoch(2), FrameSeq(0)));
    assert_eq!(durable.lsn(), groups().concat().last().unwrap().end());
    let mut reader = wal.read_from(Position(0)).unwrap();
    for ((epoch, records), nth) in record_groups().into_iter().zip(0..) {
        for record in records {
            let entry = reader.next().unwrap().unwrap();
            assert_eq!((entry.epoch, entry.record), (epoch, record));
            assert_eq!(entry.time_us, TIME_US + nth * STEP_US);
        }
    }
    assert_eq!(reader.next().unwrap(), None);
}

#[test]
fn version_1_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let name = segment(1);
    std::fs::copy(golden(1).join(&name), dir.path().join(&name)).unwrap();
    match LocalWal::open(dir.path(), config(&HandClock::default())) {
        Err(WalError::Corrupt(what)) => {
            assert!(what.contains(&name), "{what}");
            assert!(
                what.contains("format version 1, this program reads 2"),
                "{what}"
            );
        }
        other => panic!("not refused: {other:?}"),
    }
}
