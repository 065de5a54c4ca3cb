//! Objects that travel together and arrive out of order, copies that are
//! damaged, copiers that do not go on: what is restored, and what is said.

use super::{Site, copied, from_backup, small, until};
use crate::common::net::{Refusal, Wire};
use crate::common::objects::{block_on, place};
use crate::common::{self, Writer, read_all, segment};
use object_store::ObjectStore;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_ambient::Clock;
use xylem_objects::Retry;
use xylem_wal::backup::end;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{Backup, BackupConfig, LocalWal, LocalWalConfig, Position, Wal, WalError};

/// Requests are not called back: a test holds them.
fn patient() -> BackupConfig {
    BackupConfig {
        object_bytes: 1 << 10,
        retry: Retry {
            attempt_timeout: Duration::from_secs(100),
            ..small().retry
        },
        ..small()
    }
}

fn start_on(site: &Site, wire: &Arc<Wire>, wal: &LocalWal, generation: u64) -> Backup {
    let place = place(Arc::clone(wire) as Arc<dyn ObjectStore>, &site.prefix);
    Backup::start(wal, &place, generation, patient()).unwrap()
}

fn end_of(wal: &LocalWal) -> Position {
    wal.durable().borrow().position()
}

/// Waits until generation 1 has so many objects of entries.
async fn until_ranges(site: &Site, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while site.ranges(1).await.len() < count {
        assert!(Instant::now() < deadline, "{:?}", site.ranges(1).await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// With one object in flight at a time the interval would be broken as soon as
/// more than one object's worth is written in a round trip. With several, the
/// first may be the last to arrive, and the server may die before:
///
///   sent      A  B  C  D        each says: before A all has arrived
///   arrived      B  C  D        the machine dies; A arrives later, or never
///
/// The line then ends before A: no caller was told of more. A server that goes
/// on with the same disk begins there, and a late A changes nothing.
#[test]
fn objects_travel_together_and_a_crash_leaves_no_damage() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        let wal = common::open(&disk).unwrap();
        let wire = site.net.wire();
        let backup = start_on(&site, &wire, &wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        copied(&backup, &wal).await;
        let before = end_of(&wal);
        let count = site.ranges(1).await.len();
        let held = format!("{:016x}/{:016x}", 1, before.0);
        site.net.hold_name(Some((&wire, &held)));
        for _ in 0..12 {
            writer.write(&wal, &[900]).await.unwrap();
        }
        until_ranges(&site, count + 3).await;
        // No more than the configuration allows are on their way, and none
        // counts as copied.
        let status = backup.status();
        assert_eq!(status.position, Some(before));
        assert!(status.age.is_some() && !status.failed);
        assert_eq!(site.ranges(1).await.len(), count + 3);
        let entries = read_all(&wal).unwrap();
        let whole = entries.iter().take_while(|e| e.next <= before).count();
        assert_eq!(from_backup(&site.restored().await.0), entries[..whole]);
        // Nothing is removed of what is on its way, or ahead of it.
        backup.trim(entries[0].next);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(site.ranges(1).await.len(), count + 3);
        // The machine dies, as far as anyone can see.
        let dead = (backup, wal);
        let wal = common::open(&disk.kill()).unwrap();
        let again = site.start(&wal, 2);
        copied(&again, &wal).await;
        assert_eq!(site.ranges(2).await[0].0, before.0);
        let entries = read_all(&wal).unwrap();
        let all = from_backup(&site.restored().await.0);
        assert!(entries.ends_with(&all) && all.len() > whole);
        // The objects that it had sent arrive.
        site.net.hold_name(None);
        until_ranges(&site, count + 4).await;
        assert_eq!(from_backup(&site.restored().await.0), all);
        until(|| site.net.flying() == 0).await;
        drop(dead);
        // Trimming removes them.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !site.ranges(1).await.is_empty() {
            assert!(Instant::now() < deadline);
            site.net.deliver().await;
            again.trim(end_of(&wal));
            writer.write(&wal, &[900]).await.unwrap();
            copied(&again, &wal).await;
        }
    });
}

/// A lost object differs from one that never arrived: objects that were sent
/// after its arrival say that it was there.
#[test]
fn what_was_there_and_is_gone_is_damage() {
    block_on(async {
        let site = Site::new();
        let wal = common::open(&ModelDisk::new()).unwrap();
        let backup = start_on(&site, &site.net.wire(), &wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        for _ in 0..12 {
            writer.write(&wal, &[900]).await.unwrap();
        }
        copied(&backup, &wal).await;
        let told = site.ranges(1).await;
        assert!(told.len() > 8);
        writer.write(&wal, &[9]).await.unwrap();
        copied(&backup, &wal).await;
        for (position, _) in told {
            let name = format!("{:016x}/{position:016x}", 1);
            let bytes = site.get(&name).await;
            object_store::ObjectStoreExt::delete(&*site.store, &site.path(&name))
                .await
                .unwrap();
            let what = super::corrupt(site.would_restore(&ModelDisk::new()).await);
            assert!(
                what.contains(&format!("from position {position}")),
                "{what}"
            );
            site.put(&name, bytes).await;
        }
    });
}

#[test]
fn a_damaged_copy_is_made_anew_of_a_wal_that_is_whole() {
    block_on(async {
        let site = Site::new();
        let wal = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        for _ in 0..4 {
            writer.write(&wal, &[700]).await.unwrap();
            copied(&backup, &wal).await;
        }
        backup.close().await.unwrap();
        for (generation, its_start) in [(1, true), (3, false)] {
            let last = site.ranges(generation).await.last().unwrap().0;
            let name = match its_start {
                true => format!("{generation:016x}/start"),
                false => format!("{generation:016x}/{last:016x}"),
            };
            let mut damaged = site.get(&name).await;
            damaged[50] ^= 1;
            site.put(&name, damaged).await;
            // [`end`] says how far the copy went, and what is wrong with it.
            let found = end(&site.place(), small()).await.unwrap();
            assert_eq!(found.position, end_of(&wal), "{name}");
            let damage = found.damage.expect("the damage is told");
            assert!(damage.contains(&name), "{damage}");
            assert!(site.would_restore(&ModelDisk::new()).await.is_err());
            // One whose right is not newer does not touch it.
            let late = site.start(&wal, generation);
            let error = late.reach(Position(u64::MAX)).await.unwrap_err();
            assert!(matches!(error, WalError::Superseded { .. }), "{error}");
            // The next one copies what there is.
            let again = site.start(&wal, generation + 2);
            writer.write(&wal, &[700]).await.unwrap();
            copied(&again, &wal).await;
            again.close().await.unwrap();
            let entries = read_all(&wal).unwrap();
            assert_eq!(from_backup(&site.restored().await.0), entries, "{name}");
        }
    });
}

struct Hand(Arc<AtomicU64>);

impl Hand {
    fn new() -> Hand {
        Hand(Arc::new(AtomicU64::new(5_000_000)))
    }

    fn clock(&self) -> Clock {
        let time = Arc::clone(&self.0);
        Clock::new(move || time.load(Ordering::SeqCst))
    }

    fn on(&self, by: Duration) {
        self.0.fetch_add(by.as_micros() as u64, Ordering::SeqCst);
    }

    fn wal(&self, disk: &ModelDisk) -> LocalWal {
        let config = LocalWalConfig {
            clock: self.clock(),
            ..common::small()
        };
        LocalWal::open_on(Arc::new(disk.clone()), config).unwrap()
    }

    fn backup(&self) -> BackupConfig {
        BackupConfig {
            clock: self.clock(),
            ..small()
        }
    }
}

const A_WHILE: Duration = Duration::from_secs(70);

/// The reported loss must not be nothing because the store could not be read.
#[test]
fn a_backup_that_does_not_go_on_is_not_young() {
    block_on(async {
        let site = Site::new();
        let hand = Hand::new();
        let wal = hand.wal(&ModelDisk::new());
        let mut writer = Writer::attach(&wal).await.unwrap();
        // It never reaches its store.
        site.net.refuse(Some(Refusal::Down));
        let first = site.start_with(&wal, 1, hand.backup());
        until(|| first.status().trouble.is_some()).await;
        hand.on(A_WHILE);
        assert!(first.status().age.unwrap() >= A_WHILE);
        assert!(!first.status().failed);
        site.net.refuse(None);
        copied(&first, &wal).await;
        until(|| first.status().age.is_none()).await;
        // It has ended, with everything copied, and the WAL goes on.
        let second = site.start_with(&wal, 2, hand.backup());
        writer.write(&wal, &[10]).await.unwrap();
        copied(&second, &wal).await;
        first.trim(end_of(&wal));
        until(|| first.status().failed).await;
        writer.write(&wal, &[10]).await.unwrap();
        hand.on(A_WHILE);
        let status = first.status();
        assert!(status.age.unwrap() >= A_WHILE, "{status:?}");
        assert!(matches!(status.trouble, Some(WalError::Superseded { .. })));
        assert!(!second.status().failed);
    });
}

/// The WAL is damaged where it was not copied yet. The copier waits there, and
/// says so, until the page store needs that no more.
#[test]
fn a_wal_that_cannot_be_read_is_told_and_passed_once_it_is_trimmed() {
    block_on(async {
        let site = Site::new();
        let hand = Hand::new();
        let disk = ModelDisk::new();
        let wal = hand.wal(&disk);
        let mut writer = Writer::attach(&wal).await.unwrap();
        site.net.refuse(Some(Refusal::Down));
        let backup = site.start_with(&wal, 1, hand.backup());
        writer.write(&wal, &[300]).await.unwrap();
        disk.poke(&segment(1), 4096 + end_of(&wal).0 as usize - 100, &[0; 50]);
        for _ in 0..60 {
            writer.write(&wal, &[1500]).await.unwrap();
        }
        site.net.refuse(None);
        until(|| {
            let trouble = backup.status().trouble.map(|e| e.to_string());
            trouble.is_some_and(|said| said.contains("read the WAL") && said.contains(&segment(1)))
        })
        .await;
        hand.on(A_WHILE);
        let status = backup.status();
        assert!(status.age.unwrap() >= A_WHILE && !status.failed);
        wal.trim(end_of(&wal)).unwrap();
        assert!(wal.first() > Position(400));
        backup.trim(end_of(&wal));
        writer.write(&wal, &[1]).await.unwrap();
        copied(&backup, &wal).await;
        until(|| backup.status().trouble.is_none() && backup.status().age.is_none()).await;
        let entries = read_all(&wal).unwrap();
        assert!(entries.ends_with(&from_backup(&site.restored().await.0)));
    });
}
