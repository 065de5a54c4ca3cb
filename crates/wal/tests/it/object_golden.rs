//! The objects as they were written once are still written so, and still
//! read: `tests/golden/object-1.1`. Those of `object-1`, without the generation
//! of the object before, are still read. `UPDATE_GOLDEN=1` writes them anew,
//! which is right only for a new version of the format, in a directory of its
//! own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::golden::{STEP_US, TIME_US, compare, entropy, groups, objects, record_groups};
use crate::common::objects::{block_on, place, read_from, runtime};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use xylem_types::{Epoch, FrameSeq, Lsn};
use xylem_wal::conformance::HandClock;
use xylem_wal::{ObjectWal, ObjectWalConfig, Position, Wal};

fn golden(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/object-{version}"))
}

fn prefix() -> Path {
    Path::from("logs/golden")
}

fn config(clock: &HandClock, owner: u64) -> ObjectWalConfig {
    ObjectWalConfig {
        linger: Duration::ZERO,
        clock: clock.clock(),
        entropy: entropy(owner),
        ..ObjectWalConfig::new(runtime())
    }
}

/// Writes everything, as two owners; the second one only seals.
async fn write() -> Arc<dyn ObjectStore> {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = HandClock::default();
    let mut times = (0..).map(|nth| TIME_US + nth * STEP_US);
    let mut tick = || clock.set(times.next().unwrap());
    let place = place(Arc::clone(&store), &prefix());
    let open = |owner| ObjectWal::open(&place, config(&clock, owner));
    let wal = open(0).await.unwrap();
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
    wal.close().await.unwrap();
    let wal = open(0x80).await.unwrap();
    tick();
    wal.seal().await.unwrap();
    wal.close().await.unwrap();
    store
}

#[test]
fn the_bytes_are_the_same() {
    block_on(async {
        let written = objects(&*write().await, &prefix()).await;
        // A claim, nine objects, a claim, an object.
        let names: Vec<&str> = written.keys().map(String::as_str).collect();
        assert_eq!(names.len(), groups().len() + 2 + 3);
        assert_eq!(names[0], "0000000000/000000000000-00000000");
        assert_eq!(names[1], "0000000000/000000000000-00000001");
        compare(&golden("1.1"), &written);
    });
}

#[test]
fn the_golden_objects_are_read() {
    block_on(are_read("1.1"));
}

#[test]
fn those_of_earlier_programs_are_read() {
    block_on(are_read("1"));
}

async fn are_read(version: &str) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let folder = golden(version).join("0000000000");
    for file in std::fs::read_dir(&folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let bytes = std::fs::read(folder.join(&name)).unwrap();
        let path = Path::from(format!("logs/golden/0000000000/{name}"));
        store.put(&path, bytes.into()).await.unwrap();
    }
    let place = place(store, &prefix());
    let wal = ObjectWal::open(&place, config(&HandClock::default(), 0));
    let wal = wal.await.unwrap();
    let durable = *wal.durable().borrow();
    assert_eq!((durable.epoch(), durable.seq()), (Epoch(2), FrameSeq(0)));
    assert_eq!(durable.lsn(), groups().concat().last().unwrap().end());
    let mut entries = read_from(wal, Position(0)).await.into_iter();
    for ((epoch, records), nth) in record_groups().into_iter().zip(0..) {
        for record in records {
            let entry = entries.next().unwrap();
            assert_eq!((entry.epoch, entry.record), (epoch, record));
            assert_eq!(entry.time_us, TIME_US + nth * STEP_US);
        }
    }
    assert_eq!(entries.next(), None);
}
