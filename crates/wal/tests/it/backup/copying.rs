//! Copying: what it costs, how far behind it may be, what the status says.

use super::{Site, copied, from_backup, small, until};
use crate::common;
use crate::common::net::{Refusal, Weather};
use crate::common::objects::block_on;
use crate::common::{Writer, read_all};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_ambient::Clock;
use xylem_types::Epoch;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{BackupConfig, LocalWal, LocalWalConfig, Position, Wal};

#[test]
fn a_wal_that_nobody_writes_costs_nothing() {
    block_on(async {
        let site = Site::new();
        let wal = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&wal, 1);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let status = backup.status();
        assert!(status.position.is_none() && status.age.is_none() && status.trouble.is_none());
        backup.trim(Position(0));
        backup.close().await.unwrap();
        assert_eq!(site.net.requests(), 0);
        let disk = ModelDisk::new();
        // Its epochs may be known to computes all the same.
        let restored = site.would_restore(&disk).await.unwrap();
        assert_eq!((restored.entries, restored.first), (0, Position(0)));
        let wal = common::open(&disk).unwrap();
        assert_eq!(wal.durable().borrow().epoch(), Epoch(1001 << 20));
        assert_eq!(read_all(&wal).unwrap().len(), 1);
    });
}

#[test]
fn opening_again_goes_on_where_the_backup_is() {
    block_on(async {
        let site = Site::new();
        let mut disk = ModelDisk::new();
        let mut entries = Vec::new();
        let mut puts = Vec::new();
        for generation in 1..6 {
            let wal = common::open(&disk).unwrap();
            let backup = site.start(&wal, generation);
            let mut writer = Writer::attach(&wal).await.unwrap();
            for _ in 0..10 {
                writer.write(&wal, &[500]).await.unwrap();
            }
            copied(&backup, &wal).await;
            entries = read_all(&wal).unwrap();
            puts.push(site.net.puts());
            disk = disk.crash(generation);
        }
        let (wal, _) = site.restored().await;
        assert_eq!(from_backup(&wal), entries);
        // Nothing is copied twice.
        let mut all = Vec::new();
        for generation in 1..6 {
            all.extend(site.ranges(generation).await);
        }
        assert!(all.windows(2).all(|w| w[0].1 == w[1].0), "{all:?}");
        println!("objects made by then: {puts:?}");
        // Without new entries no object is made.
        let wal = common::open(&disk).unwrap();
        let before = site.names().await;
        let backup = site.start(&wal, 6);
        copied(&backup, &wal).await;
        backup.close().await.unwrap();
        assert_eq!(site.names().await, before);
    });
}

#[test]
fn the_loss_is_at_most_the_interval() {
    block_on(async {
        for (round, interval) in [60, 120, 200, 400].into_iter().enumerate() {
            let site = Site::new();
            site.net.set_weather(Weather::wind());
            let interval = Duration::from_millis(interval);
            let config = BackupConfig {
                interval,
                object_bytes: 1 << 20,
                ..small()
            };
            let wal = common::open(&ModelDisk::new()).unwrap();
            let backup = site.start_with(&wal, 1, config);
            let mut writer = Writer::attach(&wal).await.unwrap();
            let lasts = interval * 3 + Duration::from_millis(37 * round as u64);
            let started = Instant::now();
            let mut worst = Duration::ZERO;
            while started.elapsed() < lasts {
                writer.write(&wal, &[100]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                worst = worst.max(backup.status().age.unwrap_or_default());
            }
            // The disk is lost at this moment.
            let lost_us = std::time::SystemTime::UNIX_EPOCH
                .elapsed()
                .unwrap()
                .as_micros() as u64;
            drop(backup);
            let (_, restored) = site.restored().await;
            let lost = Duration::from_micros(lost_us - restored.time_us);
            println!("interval {interval:?}: {lost:?} lost, {worst:?} behind at worst");
            assert!(
                lost <= interval + Duration::from_millis(20),
                "{lost:?} of {interval:?}"
            );
            assert!(
                worst <= interval + Duration::from_millis(20),
                "{worst:?} of {interval:?}"
            );
            // It is not as good as one that copies everything at once.
            let objects = site.ranges(1).await.len() as u32;
            assert!(objects <= 3 + 2 * lasts.as_millis() as u32 / interval.as_millis() as u32);
        }
    });
}

#[test]
fn the_status_says_how_far_it_is() {
    block_on(async {
        let site = Site::new();
        let time = Arc::new(std::sync::atomic::AtomicU64::new(5_000_000));
        let clock = {
            let time = Arc::clone(&time);
            Clock::new(move || time.load(std::sync::atomic::Ordering::SeqCst))
        };
        let config = LocalWalConfig {
            clock: clock.clone(),
            ..common::small()
        };
        let wal = LocalWal::open_on(Arc::new(ModelDisk::new()), config).unwrap();
        let config = BackupConfig { clock, ..small() };
        let backup = site.start_with(&wal, 1, config);
        let mut writer = Writer::attach(&wal).await.unwrap();
        copied(&backup, &wal).await;
        until(|| backup.status().age.is_none()).await;
        let copied_to = wal.durable().borrow().position();
        assert_eq!(backup.status().position, Some(copied_to));
        site.net.refuse(Some(Refusal::Down));
        writer.write(&wal, &[10]).await.unwrap();
        until(|| backup.status().trouble.is_some()).await;
        time.store(9_500_000, std::sync::atomic::Ordering::SeqCst);
        writer.write(&wal, &[10]).await.unwrap();
        let status = backup.status();
        assert_eq!(status.position, Some(copied_to));
        assert_eq!(status.age, Some(Duration::from_micros(4_500_000)));
        let trouble = status.trouble.unwrap().to_string();
        assert!(
            trouble.contains("refused") && trouble.contains(site.prefix.as_ref()),
            "{trouble}"
        );
        // One that is not allowed is tried again, too.
        site.net.refuse(Some(Refusal::Denied));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(backup.status().trouble.is_some());
        site.net.refuse(None);
        copied(&backup, &wal).await;
        until(|| backup.status().age.is_none()).await;
        let status = backup.status();
        assert!(status.trouble.is_none());
        let bytes: u64 = site.ranges(1).await.iter().map(|r| r.1 - r.0 + 96).sum();
        assert_eq!(status.stored_bytes, bytes);
    });
}

#[test]
fn closing_does_not_wait_for_ever() {
    block_on(async {
        let site = Site::new();
        let wal = common::open(&ModelDisk::new()).unwrap();
        let config = BackupConfig {
            drain: Duration::from_millis(50),
            interval: Duration::from_secs(100),
            ..small()
        };
        let backup = site.start_with(&wal, 1, config.clone());
        Writer::attach(&wal).await.unwrap();
        // Closing does not wait for the interval.
        backup.close().await.unwrap();
        assert_eq!(site.restored().await.1.entries, 2);
        let backup = site.start_with(&wal, 2, config);
        site.net.refuse(Some(Refusal::Down));
        Writer::attach(&wal).await.unwrap();
        let error = backup.close().await.unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
        let error = backup.status().trouble.unwrap().to_string();
        assert!(error.contains("refused"), "{error}");
    });
}
