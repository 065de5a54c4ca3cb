//! Objects that are missing or damaged are named, and nothing is restored.

use super::{Site, copied, corrupt, from_backup};
use crate::common;
use crate::common::objects::block_on;
use crate::common::{Writer, read_all};
use object_store::ObjectStoreExt;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{Wal, WalError};

#[test]
fn what_is_missing_is_named() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        for generation in [1, 2] {
            let wal = common::open(&disk).unwrap();
            let backup = site.start(&wal, generation);
            let mut writer = Writer::attach(&wal).await.unwrap();
            for _ in 0..4 {
                writer.write(&wal, &[400]).await.unwrap();
                copied(&backup, &wal).await;
            }
            wal.close().await.unwrap();
            backup.close().await.unwrap();
        }
        let names = site.names().await;
        let last = site.ranges(2).await.last().unwrap().0;
        let last = format!("{:016x}/{last:016x}", 2);
        for (name, _) in &names {
            let bytes = site.get(name).await;
            site.store.delete(&site.path(name)).await.unwrap();
            let fresh = ModelDisk::new();
            let result = site.would_restore(&fresh).await;
            if *name == last {
                // It cannot be told from one that was never made.
                assert!(result.unwrap().entries > 0);
            } else if name == "0000000000000002/start" {
                // Nor can that of a generation which nothing follows.
                assert!(result.unwrap().entries > 0);
            } else if name.ends_with("start") {
                assert!(corrupt(result).contains("0000000000000001/start"));
            } else {
                let (_, digits) = name.split_once('/').unwrap();
                let what = corrupt(result);
                let position = u64::from_str_radix(digits, 16).unwrap();
                assert!(
                    what.contains(digits) && what.contains(&format!("from position {position}")),
                    "{what}"
                );
            }
            site.put(name, bytes).await;
        }
    });
}

#[test]
fn what_is_damaged_is_named() {
    block_on(async {
        let site = Site::new();
        let wal = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&wal, 1);
        let mut writer = Writer::attach(&wal).await.unwrap();
        for _ in 0..3 {
            writer.write(&wal, &[20, 30]).await.unwrap();
            copied(&backup, &wal).await;
        }
        drop(backup);
        for (name, _) in site.names().await {
            let whole = site.get(&name).await;
            for at in 0..whole.len() {
                // Bytes that no checksum covers and no code reads.
                if (92..96).contains(&at) {
                    continue;
                }
                let mut damaged = whole.clone();
                damaged[at] ^= 0x41;
                site.put(&name, damaged).await;
                let disk = ModelDisk::new();
                let result = site.would_restore(&disk).await;
                assert!(result.is_err(), "{name} byte {at}");
                let what = corrupt(result);
                assert!(what.contains(&name), "{name} byte {at}: {what}");
                if (8..12).contains(&at) {
                    assert!(what.contains("format version"), "{what}");
                }
                // The directory is no WAL at this point.
                if disk.used() > 0 {
                    assert!(matches!(common::open(&disk), Err(WalError::Corrupt(_))));
                }
            }
            site.put(&name, whole[..whole.len() - 1].to_vec()).await;
            let what = corrupt(site.would_restore(&ModelDisk::new()).await);
            assert!(what.contains(&name) || what.contains("missing"), "{what}");
            site.put(&name, whole).await;
        }
        // A restore that failed can be repeated in the same directory.
        let disk = ModelDisk::new();
        let last = site.ranges(1).await.pop().unwrap().0;
        let name = format!("{:016x}/{last:016x}", 1);
        let whole = site.get(&name).await;
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        site.put(&name, damaged).await;
        corrupt(site.would_restore(&disk).await);
        let error = common::open(&disk).unwrap_err().to_string();
        assert!(error.contains("restore it again"), "{error}");
        site.put(&name, whole).await;
        site.would_restore(&disk).await.unwrap();
        let entries = read_all(&wal).unwrap();
        assert_eq!(from_backup(&common::open(&disk).unwrap()), entries);
    });
}
