//! Trimming: what is needed stays, also when the server dies amid it.

use super::{Site, copied, from_backup, until};
use crate::common;
use crate::common::net::Refusal;
use crate::common::objects::block_on;
use crate::common::{Writer, read_all};
use xylem_wal::Wal;
use xylem_wal::disk::model::ModelDisk;

#[test]
fn what_is_trimmed_goes_and_the_rest_is_restored() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        let wal = common::open(&disk).unwrap();
        let backup = site.start(&wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        let mut most = 0;
        for round in 0..20 {
            for _ in 0..10 {
                writer.write(&wal, &[600]).await.unwrap();
            }
            copied(&backup, &wal).await;
            let entries = read_all(&wal).unwrap();
            let before = entries[entries.len() - 12].next;
            wal.trim(before).unwrap();
            backup.trim(before);
            writer.write(&wal, &[1]).await.unwrap();
            copied(&backup, &wal).await;
            until(|| backup.status().stored_bytes < 30_000).await;
            most = most.max(backup.status().stored_bytes);
            let (restored, _) = site.restored().await;
            let whole = read_all(&wal).unwrap();
            let left = from_backup(&restored);
            assert!(
                restored.first() <= before && left.len() >= 12,
                "round {round}"
            );
            let both = left.len().min(whole.len());
            assert_eq!(left[left.len() - both..], whole[whole.len() - both..]);
        }
        let names = site.names().await;
        assert!(names.len() < 15, "{names:?}");
        assert!(site.ranges(1).await[0].0 > 50_000);
        println!("{most} bytes at most");
    });
}

#[test]
fn a_crash_amid_trimming_leaves_what_is_needed() {
    block_on(async {
        let site = Site::new();
        let wal = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        for _ in 0..30 {
            writer.write(&wal, &[900]).await.unwrap();
            copied(&backup, &wal).await;
        }
        let entries = read_all(&wal).unwrap();
        let ranges = site.ranges(1).await;
        assert!(ranges.len() >= 15);
        let before = entries[20].next;
        // With the mark and any of what may go missing, in any order.
        backup.trim(before);
        writer.write(&wal, &[1]).await.unwrap();
        copied(&backup, &wal).await;
        until(|| backup.status().stored_bytes < 20_000).await;
        let entries = read_all(&wal).unwrap();
        let mark = format!("{:016x}/trimmed-{:016x}", 1, before.0);
        assert!(site.names().await.iter().any(|n| n.0 == mark));
        for seed in 0..20u64 {
            let copy = Site::new();
            for (name, _) in site.names().await {
                copy.put(&name, site.get(&name).await).await;
            }
            for (nth, range) in ranges.iter().enumerate() {
                if range.1 <= before.0 && (seed * 31 + nth as u64 * 17).is_multiple_of(3) {
                    copy.put(&format!("{:016x}/{:016x}", 1, range.0), vec![9; 100])
                        .await;
                }
            }
            let (wal, _) = copy.restored().await;
            let left = from_backup(&wal);
            assert!(
                entries.ends_with(&left) && wal.first() <= before,
                "seed {seed}"
            );
        }
    });
}

#[test]
fn a_wal_that_is_trimmed_ahead_of_its_backup_can_be_restored() {
    block_on(async {
        let site = Site::new();
        let wal = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        writer.write(&wal, &[100]).await.unwrap();
        copied(&backup, &wal).await;
        site.net.refuse(Some(Refusal::Down));
        for _ in 0..60 {
            writer.write(&wal, &[1500]).await.unwrap();
        }
        wal.trim(wal.durable().borrow().position()).unwrap();
        assert!(wal.first() > backup.status().position.unwrap());
        site.net.refuse(None);
        writer.write(&wal, &[5]).await.unwrap();
        copied(&backup, &wal).await;
        let (restored, _) = site.restored().await;
        let (left, whole) = (from_backup(&restored), read_all(&wal).unwrap());
        assert!(whole.ends_with(&left) && !left.is_empty() || left.ends_with(&whole));
    });
}
