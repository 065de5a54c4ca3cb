//! Several servers that copy to one place: the one with the right counts.

use super::{Site, copied, from_backup, small};
use crate::common;
use crate::common::objects::block_on;
use crate::common::{Writer, read_all};
use std::time::Duration;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{Backup, BackupConfig, LocalWal, Position, Wal, WalError};

/// A WAL that was restored on another machine while its old server lives on:
/// both write, both copy. Returns the old one's WAL and backup, the new one's.
async fn torn_apart(site: &Site) -> ((LocalWal, Backup, Writer), (LocalWal, Backup, Writer)) {
    let old = common::open(&ModelDisk::new()).unwrap();
    let zombie = site.start(&old, 5);
    let mut lost = Writer::attach(&old).await.unwrap();
    for _ in 0..10 {
        lost.write(&old, &[300, 7]).await.unwrap();
    }
    copied(&zombie, &old).await;
    let disk = ModelDisk::new();
    site.restore(&disk, 6).await.unwrap();
    let new = common::open(&disk).unwrap();
    let backup = site.start(&new, 7);
    let mut writer = Writer::attach(&new).await.unwrap();
    for _ in 0..10 {
        lost.write(&old, &[301, 8]).await.unwrap();
        writer.write(&new, &[310, 2, 4]).await.unwrap();
        copied(&zombie, &old).await;
        copied(&backup, &new).await;
    }
    ((old, zombie, lost), (new, backup, writer))
}

#[test]
fn of_two_writers_the_one_with_the_right_counts() {
    block_on(async {
        let site = Site::new();
        let ((old, zombie, mut lost), (new, backup, mut writer)) = torn_apart(&site).await;
        let entries = read_all(&new).unwrap();
        let (wal, _) = site.restored().await;
        assert_eq!(from_backup(&wal), entries);
        // The old server trims and removes only its own objects.
        zombie.trim(old.durable().borrow().position());
        lost.write(&old, &[5]).await.unwrap();
        let _ = zombie.reach(old.durable().borrow().position()).await;
        let fault = zombie.status().trouble.map(|e| e.to_string());
        if let Some(fault) = fault {
            assert!(fault.contains("taken"), "{fault}");
        }
        let (wal, _) = site.restored().await;
        let left = from_backup(&wal);
        assert!(entries.ends_with(&left));
        assert!(left.len() > 20, "the new one's own part is there");
        // The new one goes on as if nothing had been.
        writer.write(&new, &[5]).await.unwrap();
        copied(&backup, &new).await;
        let (wal, _) = site.restored().await;
        assert_eq!(
            from_backup(&wal).last().unwrap().next,
            new.durable().borrow().position()
        );
    });
}

#[test]
fn a_right_that_is_older_or_used_is_refused() {
    block_on(async {
        let site = Site::new();
        let ((old, ..), (new, backup, _)) = torn_apart(&site).await;
        for (wal, generation) in [(&old, 5), (&old, 6), (&old, 4), (&new, 7)] {
            let late = site.start(wal, generation);
            let error = late.reach(Position(u64::MAX)).await.unwrap_err();
            assert!(
                matches!(error, WalError::Superseded { generation: 7, .. }),
                "{generation}: {error}"
            );
            let trouble = late.status().trouble;
            assert!(matches!(trouble, Some(WalError::Superseded { .. })));
        }
        assert!(backup.status().trouble.is_none());
        let entries = read_all(&new).unwrap();
        assert_eq!(from_backup(&site.restored().await.0), entries);
    });
}

#[test]
fn two_that_begin_with_one_right_do_not_mix() {
    block_on(async {
        let site = Site::new();
        let wals = [ModelDisk::new(), ModelDisk::new()].map(|disk| common::open(&disk).unwrap());
        let config = BackupConfig {
            interval: Duration::from_millis(60),
            ..small()
        };
        // Both look at the store before either has something to copy.
        let backups = wals
            .each_ref()
            .map(|wal| site.start_with(wal, 3, config.clone()));
        for (wal, bytes) in wals.iter().zip([100, 90]) {
            Writer::attach(wal)
                .await
                .unwrap()
                .write(wal, &[bytes, bytes])
                .await
                .unwrap();
        }
        let mut good = Vec::new();
        for (wal, backup) in wals.iter().zip(&backups) {
            if backup
                .reach(wal.durable().borrow().position())
                .await
                .is_ok()
            {
                good.push(read_all(wal).unwrap());
            }
        }
        assert_eq!(good.len(), 1, "one of them has it");
        assert_eq!(from_backup(&site.restored().await.0), good[0]);
    });
}

#[test]
fn a_server_that_comes_back_with_another_line_begins_anew() {
    block_on(async {
        let site = Site::new();
        let ((old, zombie, mut lost), (new, backup, _)) = torn_apart(&site).await;
        drop((zombie, backup, new));
        // An operator decides for the old disk.
        let again = site.start(&old, 8);
        lost.write(&old, &[12, 13]).await.unwrap();
        copied(&again, &old).await;
        let entries = read_all(&old).unwrap();
        assert_eq!(from_backup(&site.restored().await.0), entries);
        // Entries that both have are not copied again.
        let common = site.ranges(5).await[0];
        assert!(site.ranges(8).await[0].0 >= common.1);
        again.trim(old.durable().borrow().position());
        lost.write(&old, &[12, 13]).await.unwrap();
        copied(&again, &old).await;
        for _ in 0..1000 {
            if site.ranges(5).await.is_empty() && site.ranges(7).await.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let names = site.names().await;
        let of_old = |n: &&(String, u64)| !n.0.starts_with("0000000000000008/");
        assert_eq!(names.iter().filter(of_old).count(), 0, "{names:?}");
        let (wal, restored) = site.restored().await;
        assert!(restored.entries >= 2);
        assert!(entries.len() + 2 > from_backup(&wal).len());
    });
}
