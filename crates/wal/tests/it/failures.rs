//! The WAL on a disk that fails or is full.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::{Writer, block_on, frames, open, open_roomy, read_all};
use std::io::ErrorKind;
use std::time::Duration;
use xylem_types::{Frame, FrameSeq};
use xylem_wal::disk::model::{ModelDisk, Op};
use xylem_wal::{LocalWal, Wal, WalError};

/// The frames that a life of the WAL was given, and those that it reported
/// durable.
#[derive(Default)]
struct Told {
    sent: Vec<Frame>,
    durable: usize,
    epochs: u64,
}

/// Lives until something fails: attaches, writes through several segments,
/// trims, closes, opens, goes on.
async fn live(disk: &ModelDisk, told: &mut Told) -> Result<(), WalError> {
    let mut writer: Option<Writer> = None;
    for _ in 0..3 {
        let wal = open(disk)?;
        let mut compute = match writer.take() {
            Some(w) => w,
            None => {
                let w = Writer::attach(&wal).await?;
                told.epochs = w.epoch.0;
                w
            }
        };
        for round in 0..12 {
            let group: Vec<Frame> = [900, 40, 700]
                .iter()
                .map(|bytes| compute.redo(*bytes))
                .collect();
            told.sent.extend(group.iter().cloned());
            wal.append(compute.epoch, group).await?;
            compute.durable(&wal).await?;
            told.durable = told.sent.len();
            if round % 4 == 3 {
                wal.trim(wal.durable().borrow().position())?;
            }
        }
        read_all(&wal)?;
        wal.close().await?;
        writer = Some(compute);
    }
    Ok(())
}

/// The WAL holds the sent frames up to some frame at or after the last one that
/// was reported durable.
fn check(disk: &ModelDisk, told: &Told, what: &str) {
    let wal = open(disk).unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = frames(&read_all(&wal).unwrap_or_else(|e| panic!("{what}: {e}")));
    let durable = *wal.durable().borrow();
    assert!(
        durable.epoch().0 >= told.epochs,
        "{what}: an epoch is forgotten"
    );
    assert!(
        durable.seq() >= FrameSeq(told.durable as u64),
        "{what}: something durable is lost"
    );
    let Some(first) = found.first() else {
        assert_eq!(told.durable, 0, "{what}");
        return;
    };
    let from = first.seq.0 as usize - 1;
    assert_eq!(found, told.sent[from..durable.seq().0 as usize], "{what}");
}

#[test]
fn every_call_fails_once() {
    let ops = [
        Op::List,
        Op::Open,
        Op::Create,
        Op::Rename,
        Op::Remove,
        Op::SyncDir,
        Op::Allocate,
        Op::Read,
        Op::Write,
        Op::Sync,
    ];
    for op in ops {
        let mut failed = 0;
        for skip in 0.. {
            let disk = ModelDisk::new();
            disk.fail(op, skip, 1, ErrorKind::Other);
            let mut told = Told::default();
            let outcome = block_on(live(&disk, &mut told));
            let spared = disk.faults_pending();
            failed += u32::from(outcome.is_err());
            let what = format!("call {skip} of {op:?}: {outcome:?}");
            // Another process on the same machine, and one after a power cut.
            let copy = disk.copy();
            check(&disk.kill(), &told, &what);
            check(&disk.crash(u64::from(skip)), &told, &what);
            check(&copy, &told, &what);
            if spared {
                break;
            }
        }
        println!("{op:?}: {failed} failures that were told");
    }
}

fn assert_io(result: Result<impl std::fmt::Debug, WalError>, kind: ErrorKind, what: &str) {
    match result {
        Err(WalError::Io { context, source }) => {
            assert_eq!(source.kind(), kind);
            assert!(context.contains(what), "{context}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_failed_sync_ends_the_wal_and_is_never_tried_again() {
    for seed in 0..40 {
        let disk = ModelDisk::new();
        let expected = block_on(async {
            let wal = open_roomy(&disk).unwrap();
            let mut writer = Writer::attach(&wal).await.unwrap();
            writer.write(&wal, &[100, 200]).await.unwrap();
            let durable = *wal.durable().borrow();
            let mut watch = wal.durable();
            watch.mark_unchanged();
            disk.fail(Op::Sync, 0, 1, ErrorKind::Other);
            let lost = [writer.redo(900), writer.redo(900)];
            wal.append(writer.epoch, lost.to_vec()).await.unwrap();
            assert!(watch.changed().await.is_err(), "the sender is dropped");
            assert_eq!(*watch.borrow(), durable);
            let syncs = disk.syncs();
            let more = writer.redo(10);
            assert_io(
                wal.append(writer.epoch, vec![more]).await,
                ErrorKind::Other,
                "000000000001.wal",
            );
            assert_io(wal.seal().await, ErrorKind::Other, "sync");
            assert_io(wal.trim(durable.position()), ErrorKind::Other, "sync");
            assert_eq!(
                frames(&read_all(&wal).unwrap()).len(),
                2,
                "what is durable can be read"
            );
            assert_io(wal.close().await, ErrorKind::Other, "sync");
            assert_eq!(disk.syncs(), syncs);
            drop(wal);
            // The process is opened again on the same machine: reads show what
            // the disk does not hold. Whatever is now said to be durable must
            // be so.
            let wal = open_roomy(&disk).unwrap();
            read_all(&wal).unwrap()
        });
        let wal = open_roomy(&disk.crash(seed)).unwrap();
        assert_eq!(read_all(&wal).unwrap(), expected);
    }
}

#[test]
fn a_failed_write_ends_the_wal() {
    let disk = ModelDisk::new();
    block_on(async {
        let wal = open_roomy(&disk).unwrap();
        let mut writer = Writer::attach(&wal).await.unwrap();
        writer.write(&wal, &[100]).await.unwrap();
        disk.fail(Op::Write, 0, 1, ErrorKind::PermissionDenied);
        let frame = writer.redo(900);
        wal.append(writer.epoch, vec![frame]).await.unwrap();
        assert!(writer.durable(&wal).await.is_err());
        assert_io(
            wal.close().await,
            ErrorKind::PermissionDenied,
            "write to model/000000000001.wal at byte",
        );
        drop(wal);
        let wal = open_roomy(&disk).unwrap();
        assert_eq!(
            frames(&read_all(&wal).unwrap()).len(),
            1,
            "half a frame is none"
        );
    });
}

/// Appends until the disk is full. Returns what was accepted.
async fn fill(wal: &LocalWal, writer: &mut Writer) -> Vec<Frame> {
    let mut accepted = Vec::new();
    loop {
        let frame = writer.redo(1000);
        match wal.append(writer.epoch, vec![frame.clone()]).await {
            Ok(()) => accepted.push(frame),
            Err(WalError::Io { source, .. }) => {
                assert_eq!(source.kind(), ErrorKind::StorageFull);
                let (seq, lsn) = wal.accepted(writer.epoch).unwrap();
                assert_eq!(accepted.last().map(|f| (f.seq, f.end())), Some((seq, lsn)));
                (writer.seq, writer.lsn) = (seq.0, lsn.0);
                return accepted;
            }
            Err(e) => panic!("{e}"),
        }
        tokio::task::yield_now().await;
    }
}

/// Appends when there is room again.
async fn append_soon(wal: &LocalWal, writer: &mut Writer, frames: &mut Vec<Frame>) {
    let frame = writer.redo(1000);
    while let Err(e) = wal.append(writer.epoch, vec![frame.clone()]).await {
        assert_io(Err::<(), _>(e), ErrorKind::StorageFull, "prepare");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    frames.push(frame);
}

#[test]
fn a_full_disk_stops_the_wal_until_there_is_room() {
    for by_trim in [false, true] {
        let disk = ModelDisk::new();
        disk.set_room(Some(100_000));
        let sent = block_on(async {
            let wal = open(&disk).unwrap();
            let mut writer = Writer::attach(&wal).await.unwrap();
            let mut sent = fill(&wal, &mut writer).await;
            assert_io(wal.seal().await, ErrorKind::StorageFull, "prepare");
            assert!(disk.used() <= 100_000);
            assert_eq!(wal.stored_bytes(), disk.used());
            if by_trim {
                wal.trim(wal.durable().borrow().position()).unwrap();
            } else {
                disk.set_room(None);
            }
            for _ in 0..10 {
                append_soon(&wal, &mut writer, &mut sent).await;
            }
            writer.durable(&wal).await.unwrap();
            wal.close().await.unwrap();
            sent
        });
        let wal = open(&disk.crash(9)).unwrap();
        let found = frames(&read_all(&wal).unwrap());
        assert!(!found.is_empty() && (by_trim || found.len() == sent.len()));
        assert_eq!(found, sent[sent.len() - found.len()..]);
    }
}

#[test]
fn a_full_disk_does_not_keep_the_wal_from_ending() {
    for close in [false, true] {
        let disk = ModelDisk::new();
        disk.set_room(Some(60_000));
        let durable = block_on(async {
            let wal = open(&disk).unwrap();
            let mut writer = Writer::attach(&wal).await.unwrap();
            fill(&wal, &mut writer).await;
            let durable = *wal.durable().borrow();
            if close {
                assert_io(wal.close().await, ErrorKind::StorageFull, "prepare");
            }
            durable
        });
        let wal = open(&disk).unwrap();
        assert_eq!(*wal.durable().borrow(), durable);
    }
}

#[test]
fn a_write_that_finds_no_room_is_written_again() {
    let disk = ModelDisk::new();
    let sent = block_on(async {
        let wal = open_roomy(&disk).unwrap();
        let mut writer = Writer::attach(&wal).await.unwrap();
        writer.write(&wal, &[100]).await.unwrap();
        disk.fail(Op::Write, 0, 3, ErrorKind::StorageFull);
        let frame = writer.redo(900);
        wal.append(writer.epoch, vec![frame]).await.unwrap();
        writer.durable(&wal).await.unwrap();
        writer.write(&wal, &[7]).await.unwrap();
        frames(&read_all(&wal).unwrap())
    });
    assert_eq!(sent.len(), 3);
    assert_eq!(
        frames(&read_all(&open_roomy(&disk.crash(2)).unwrap()).unwrap()),
        sent
    );
}

#[test]
fn a_seal_during_a_failure_is_told() {
    let disk = ModelDisk::new();
    block_on(async {
        let wal = open_roomy(&disk).unwrap();
        Writer::attach(&wal).await.unwrap();
        disk.fail(Op::Sync, 0, 1, ErrorKind::Other);
        assert_io(wal.seal().await, ErrorKind::Other, "sync");
        drop(wal);
        let wal = open_roomy(&disk).unwrap();
        let sealed = wal.seal().await.unwrap();
        assert!(sealed.epoch().0 >= 2);
    });
}

#[test]
fn the_first_seal_waits_for_room() {
    let disk = ModelDisk::new();
    disk.set_room(Some(100));
    block_on(async {
        let wal = open(&disk).unwrap();
        assert_io(
            wal.seal().await,
            ErrorKind::StorageFull,
            "prepare model/spare-000000000001",
        );
        assert_eq!((wal.stored_bytes(), disk.used()), (0, 0));
        disk.set_room(None);
        // The one that was told of the failure is still queued.
        let mut watch = wal.durable();
        let sealed = watch.wait_for(|d| d.epoch().0 == 1).await.map(|d| *d);
        assert_eq!(sealed.unwrap(), *wal.durable().borrow());
        assert_eq!(wal.seal().await.unwrap().epoch().0, 2);
        assert_eq!(wal.stored_bytes(), disk.used());
    });
}

/// An operator has made room or mended the disk: the WAL is opened again in its
/// place, in the same process.
#[test]
fn a_wal_that_has_failed_is_opened_again_in_its_place() {
    block_on(async {
        for op in [Op::Write, Op::Sync] {
            let disk = ModelDisk::new();
            let wal = open_roomy(&disk).unwrap();
            let mut writer = Writer::attach(&wal).await.unwrap();
            writer.write(&wal, &[100, 50]).await.unwrap();
            assert!(wal.failed().is_none());
            let durable = *wal.durable().borrow();
            disk.fail(op, 0, 1, ErrorKind::Other);
            let lost = writer.redo(10);
            wal.append(writer.epoch, vec![lost]).await.unwrap();
            let mut watch = wal.durable();
            while watch.changed().await.is_ok() {}
            assert_eq!(*watch.borrow(), durable);
            let error = wal.failed().unwrap();
            assert!(error.is_mended_by_opening(), "{error}");
            wal.close().await.unwrap_err();
            // It is still held, by readers say.
            let again = open_roomy(&disk).unwrap();
            assert_eq!(again.durable().borrow().epoch(), durable.epoch());
            assert!(again.durable().borrow().seq() >= durable.seq());
            let mut writer = Writer::attach(&again).await.unwrap();
            writer.write(&again, &[20]).await.unwrap();
            let entries = read_all(&again).unwrap();
            again.close().await.unwrap();
            assert!(matches!(again.failed(), Some(WalError::Closed)));
            drop(wal);
            assert_eq!(read_all(&open_roomy(&disk).unwrap()).unwrap(), entries);
        }
    });
}
