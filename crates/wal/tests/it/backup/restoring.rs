//! Restoring: from a lost disk, into a real directory, behind what the page
//! store has, with a disk that fails.

use super::{Site, copied, from_backup, small};
use crate::common;
use crate::common::objects::block_on;
use crate::common::{Writer, read_all, segment};
use std::io::ErrorKind;
use xylem_types::{Epoch, Lsn};
use xylem_wal::backup::{Floor, Restored, restore};
use xylem_wal::disk::model::{ModelDisk, Op};
use xylem_wal::{LocalWal, LocalWalConfig, Position, Wal, WalError};

#[test]
fn a_lost_disk_is_restored() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        let wal = common::open(&disk).unwrap();
        let backup = site.start(&wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        for _ in 0..30 {
            writer.write(&wal, &[700, 3, 120]).await.unwrap();
        }
        let mut second = Writer::attach(&wal).await.unwrap();
        second.write(&wal, &[1, 2000]).await.unwrap();
        copied(&backup, &wal).await;
        let entries = read_all(&wal).unwrap();
        drop(wal);
        let (wal, restored) = site.restored().await;
        assert_eq!(from_backup(&wal), entries);
        let last = entries.last().unwrap();
        let seal = read_all(&wal).unwrap().pop().unwrap();
        assert_eq!(
            restored,
            Restored {
                first: Position(0),
                end: seal.next,
                epoch: Epoch(1001 << 20),
                lsn: Lsn(second.lsn),
                time_us: last.time_us,
                entries: entries.len() as u64,
            }
        );
        assert!(seal.time_us >= last.time_us);
        // The compute of the lost WAL does not go on: another one may.
        let refused = second.write(&wal, &[55]).await;
        assert!(
            matches!(refused, Err(WalError::Fenced { .. })),
            "{refused:?}"
        );
        let next = wal.seal().await.unwrap();
        assert_eq!(next.epoch(), Epoch((1001 << 20) + 1));
        let more = read_all(&wal).unwrap();
        assert_eq!(more[..entries.len()], entries);
        assert_eq!(more.len(), entries.len() + 2);
    });
}

#[test]
fn a_real_directory_is_restored() {
    block_on(async {
        let site = Site::new();
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old/log"), dir.path().join("new/log"));
        let wal = LocalWal::open(&old, common::small()).unwrap();
        let backup = site.start(&wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        for _ in 0..40 {
            writer.write(&wal, &[1000, 9]).await.unwrap();
        }
        wal.close().await.unwrap();
        backup.close().await.unwrap();
        assert!(matches!(
            backup.reach(Position(u64::MAX)).await,
            Err(WalError::Closed)
        ));
        let entries = read_all(&wal).unwrap();
        let place = site.place();
        let into = |dir| restore(&place, 7, dir, Floor::default(), common::small(), small());
        // Where there is a WAL nothing is restored.
        let refused = into(&old).await;
        assert!(
            matches!(&refused, Err(WalError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists || source.kind() == ErrorKind::WouldBlock),
            "{refused:?}"
        );
        drop(wal);
        let refused = into(&old).await;
        assert!(
            matches!(&refused, Err(WalError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists),
            "{refused:?}"
        );
        into(&new).await.unwrap();
        let wal = LocalWal::open(&new, common::small()).unwrap();
        assert_eq!(from_backup(&wal), entries);
        drop(wal);
        let wal = LocalWal::open(&old, common::small()).unwrap();
        assert_eq!(read_all(&wal).unwrap(), entries);
        // Under any configuration.
        std::fs::remove_dir_all(&new).unwrap();
        let config = LocalWalConfig {
            segment_bytes: 6300,
            ..common::small()
        };
        restore(&place, 8, &new, Floor::default(), config, small())
            .await
            .unwrap();
        let wal = LocalWal::open(&new, common::small()).unwrap();
        assert_eq!(from_backup(&wal), entries);
    });
}

#[test]
fn any_call_to_the_disk_may_fail_while_restoring() {
    block_on(async {
        let site = Site::new();
        let wal = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        for _ in 0..12 {
            writer.write(&wal, &[1000, 700]).await.unwrap();
        }
        copied(&backup, &wal).await;
        let entries = read_all(&wal).unwrap();
        let mut failures = 0;
        for op in [
            Op::List,
            Op::Create,
            Op::Rename,
            Op::Remove,
            Op::SyncDir,
            Op::Allocate,
            Op::Write,
            Op::Sync,
        ] {
            for skip in 0.. {
                let disk = ModelDisk::new();
                disk.fail(op, skip, 1, ErrorKind::Other);
                let outcome = site.would_restore(&disk).await;
                let spared = disk.faults_pending();
                assert_eq!(outcome.is_ok(), spared, "call {skip} of {op:?}");
                failures += u32::from(!spared);
                for seed in 0..4 {
                    let copy = disk.copy();
                    let lives = if seed == 0 {
                        copy.kill()
                    } else {
                        copy.crash(seed)
                    };
                    let what = format!("call {skip} of {op:?}, seed {seed}");
                    match common::open(&lives) {
                        // All of it, or nothing at all.
                        Ok(wal) => {
                            let found = read_all(&wal).unwrap();
                            let none = found.is_empty() && outcome.is_err();
                            let whole = !none && from_backup(&wal) == entries;
                            assert!(none || whole, "{what}: {} entries", found.len());
                        }
                        Err(WalError::Corrupt(why)) => {
                            assert!(
                                outcome.is_err() && why.contains("restore it again"),
                                "{what}: {why}"
                            );
                            site.would_restore(&lives).await.unwrap();
                            let wal = common::open(&lives).unwrap();
                            assert_eq!(from_backup(&wal), entries, "{what}");
                        }
                        Err(e) => panic!("{what}: {e}"),
                    }
                }
                if spared {
                    break;
                }
            }
        }
        assert!(failures > 20, "{failures}");
    });
}

#[test]
fn a_wal_goes_on_behind_what_the_page_store_has() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        let floor = Floor {
            position: Position(5_000_000),
            lsn: Lsn(777_000),
        };
        let restored = site.restore_behind(&disk, 3, floor).await.unwrap();
        let wal = common::open(&disk).unwrap();
        let durable = *wal.durable().borrow();
        let epoch = Epoch(4 << 20);
        assert_eq!((durable.epoch(), durable.lsn()), (epoch, Lsn(777_000)));
        assert_eq!((restored.entries, restored.end), (0, durable.position()));
        assert_eq!(wal.first(), floor.position);
        assert!(matches!(
            wal.read_from(Position(0)),
            Err(WalError::NoSuchPosition(_))
        ));
        // A compute goes on from there.
        let backup = site.start(&wal, 4);
        let mut writer = Writer::attach(&wal).await.unwrap();
        assert_eq!(writer.epoch, Epoch((4 << 20) + 1));
        for _ in 0..30 {
            writer.write(&wal, &[1000, 40]).await.unwrap();
        }
        let entries = read_all(&wal).unwrap();
        copied(&backup, &wal).await;
        drop((backup, wal));
        let wal = common::open(&disk.crash(1)).unwrap();
        assert_eq!(read_all(&wal).unwrap(), entries);
        drop(wal);
        // It is restored like any other, by a page store that has less of it
        // than the backup; by one that has more the backup is not needed.
        let (restored, _) = site.restored().await;
        assert_eq!(from_backup(&restored), entries);
        let end = entries.last().unwrap().next;
        for (position, kept) in [(end, true), (Position(end.0 + 1), false)] {
            let disk = ModelDisk::new();
            let lsn = Lsn(writer.lsn + 9);
            let floor = Floor { position, lsn };
            let generation = if kept { 8 } else { 9 };
            let restored = site.restore_behind(&disk, generation, floor).await.unwrap();
            let wal = common::open(&disk).unwrap();
            assert_eq!(restored.entries > 0, kept);
            assert_eq!(restored.epoch, Epoch((generation + 1) << 20));
            match kept {
                true => assert_eq!(from_backup(&wal), entries),
                false => assert_eq!((wal.first(), restored.lsn), (position, lsn)),
            }
        }
    });
}

#[test]
fn a_damaged_first_entry_of_a_restored_wal_is_no_empty_wal() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        let floor = Floor {
            position: Position(9_000_000),
            lsn: Lsn(777_000),
        };
        site.restore_behind(&disk, 10, floor).await.unwrap();
        let name = [1, 2]
            .map(segment)
            .into_iter()
            .find(|n| disk.contents(n).is_some());
        disk.poke(&name.unwrap(), 4096 + 20, &[0xFF; 8]);
        assert!(matches!(common::open(&disk), Err(WalError::Corrupt(_))));
    });
}

#[test]
fn a_wal_cannot_begin_where_it_could_not_go_on() {
    block_on(async {
        let site = Site::new();
        let floor = Floor {
            position: Position(u64::MAX),
            lsn: Lsn(0),
        };
        let refused = site.restore_behind(&ModelDisk::new(), 11, floor).await;
        assert!(
            matches!(&refused, Err(WalError::Io { source, .. }) if source.kind() == ErrorKind::InvalidInput),
            "{refused:?}"
        );
    });
}
