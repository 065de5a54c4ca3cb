//! The backup of the local log: what is restored is the line that was backed
//! up, no shorter than the interval allows, of the server that has the right.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

#[path = "backup/trouble.rs"]
mod trouble;

use crate::common;
use crate::common::net::{Net, Refusal, Weather};
use crate::common::objects::{block_on, fresh_prefix, place, real_store, runtime, seeds};
use crate::common::{Writer, read_all, segment};
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_ambient::Clock;
use xylem_objects::{GiveUp, Objects, Retry};
use xylem_types::{Epoch, Lsn};
use xylem_wal::backup::{Floor, Restored, restore, restore_on};
use xylem_wal::disk::model::{ModelDisk, Op};
use xylem_wal::{Backup, BackupConfig, Entry, LocalLog, LocalLogConfig, Log, LogError, Position};

/// A store, and a backup's place in it.
struct Site {
    store: Arc<dyn ObjectStore>,
    net: Arc<Net>,
    prefix: Path,
}

fn small() -> BackupConfig {
    BackupConfig {
        interval: Duration::from_millis(8),
        object_bytes: 3 << 10,
        retry: Retry {
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(5),
            give_up: GiveUp::Never,
            attempt_timeout: Duration::from_millis(100),
        },
        patience: Duration::from_secs(20),
        drain: Duration::from_secs(20),
        ..BackupConfig::new(runtime())
    }
}

impl Site {
    fn on(store: Arc<dyn ObjectStore>, seed: u64) -> Site {
        Site {
            net: Net::new(Arc::clone(&store), seed),
            store,
            prefix: fresh_prefix("backup"),
        }
    }

    fn new() -> Site {
        Site::on(Arc::new(InMemory::new()), 1)
    }

    fn start_with(&self, log: &LocalLog, generation: u64, config: BackupConfig) -> Backup {
        let place = place(self.net.wire(), &self.prefix);
        Backup::start(log, &place, generation, config).unwrap()
    }

    fn start(&self, log: &LocalLog, generation: u64) -> Backup {
        self.start_with(log, generation, small())
    }

    async fn restore(&self, disk: &ModelDisk, generation: u64) -> Result<Restored, LogError> {
        self.restore_behind(disk, generation, Floor::default())
            .await
    }

    async fn restore_behind(
        &self,
        disk: &ModelDisk,
        generation: u64,
        floor: Floor,
    ) -> Result<Restored, LogError> {
        let disk = Arc::new(disk.clone());
        let log = common::small();
        restore_on(&self.place(), generation, disk, floor, log, small()).await
    }

    /// What would be restored, from a copy of the store.
    async fn would_restore(&self, disk: &ModelDisk) -> Result<Restored, LogError> {
        let copy = Site::new();
        for (name, _) in self.names().await {
            copy.put(&name, self.get(&name).await).await;
        }
        let found = copy.restore(disk, 1000).await;
        // It is named after where it was.
        found.map_err(|e| match e {
            LogError::Corrupt(what) => {
                let (there, here) = (copy.prefix.to_string(), self.prefix.to_string());
                LogError::Corrupt(what.replace(&there, &here))
            }
            other => other,
        })
    }

    /// The log that would be restored, and what is said of it.
    async fn restored(&self) -> (LocalLog, Restored) {
        let disk = ModelDisk::new();
        let restored = self.would_restore(&disk).await.unwrap();
        let log = common::open(&disk).unwrap();
        let durable = *log.durable().borrow();
        assert_eq!(
            (
                log.first(),
                durable.position(),
                durable.epoch(),
                durable.lsn()
            ),
            (restored.first, restored.end, restored.epoch, restored.lsn)
        );
        (log, restored)
    }

    /// Its place in the store, with no wire between.
    fn place(&self) -> Objects {
        place(Arc::clone(&self.store), &self.prefix)
    }

    /// All names, below the prefix, and lengths.
    async fn names(&self) -> Vec<(String, u64)> {
        let listed: Vec<_> = self
            .store
            .list(Some(&self.prefix))
            .try_collect()
            .await
            .unwrap();
        let below = format!("{}/", self.prefix);
        let mut names: Vec<(String, u64)> = listed
            .into_iter()
            .map(|meta| {
                let name = meta.location.to_string();
                (name.strip_prefix(&below).unwrap().to_owned(), meta.size)
            })
            .collect();
        names.sort();
        names
    }

    /// The ranges of a generation: position and end.
    async fn ranges(&self, generation: u64) -> Vec<(u64, u64)> {
        let folder = format!("{generation:016x}/");
        let range = |(name, bytes): &(String, u64)| {
            let position = u64::from_str_radix(name.strip_prefix(&folder)?, 16).ok()?;
            Some((position, position + bytes - 96))
        };
        self.names().await.iter().filter_map(range).collect()
    }

    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}/{name}", self.prefix))
    }

    async fn get(&self, name: &str) -> Vec<u8> {
        let found = self.store.get(&self.path(name)).await.unwrap();
        found.bytes().await.unwrap().to_vec()
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) {
        let path = self.path(name);
        self.store.put(&path, bytes.into()).await.unwrap();
    }
}

async fn copied(backup: &Backup, log: &LocalLog) {
    let end = log.durable().borrow().position();
    backup.reach(end).await.unwrap();
}

#[test]
fn a_lost_disk_is_restored() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        let log = common::open(&disk).unwrap();
        let backup = site.start(&log, 1);
        let mut writer = Writer::attach(&log).await.unwrap();
        for _ in 0..30 {
            writer.write(&log, &[700, 3, 120]).await.unwrap();
        }
        let mut second = Writer::attach(&log).await.unwrap();
        second.write(&log, &[1, 2000]).await.unwrap();
        copied(&backup, &log).await;
        let entries = read_all(&log).unwrap();
        drop(log);
        let (log, restored) = site.restored().await;
        assert_eq!(from_backup(&log), entries);
        let last = entries.last().unwrap();
        let seal = read_all(&log).unwrap().pop().unwrap();
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
        // The compute of the lost log does not go on: another one may.
        let refused = second.write(&log, &[55]).await;
        assert!(
            matches!(refused, Err(LogError::Fenced { .. })),
            "{refused:?}"
        );
        let next = log.seal().await.unwrap();
        assert_eq!(next.epoch(), Epoch((1001 << 20) + 1));
        let more = read_all(&log).unwrap();
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
        let log = LocalLog::open(&old, common::small()).unwrap();
        let backup = site.start(&log, 1);
        let mut writer = Writer::attach(&log).await.unwrap();
        for _ in 0..40 {
            writer.write(&log, &[1000, 9]).await.unwrap();
        }
        log.close().await.unwrap();
        backup.close().await.unwrap();
        assert!(matches!(
            backup.reach(Position(u64::MAX)).await,
            Err(LogError::Closed)
        ));
        let entries = read_all(&log).unwrap();
        let place = site.place();
        let into = |dir| restore(&place, 7, dir, Floor::default(), common::small(), small());
        // Where there is a log nothing is restored.
        let refused = into(&old).await;
        assert!(
            matches!(&refused, Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists || source.kind() == ErrorKind::WouldBlock),
            "{refused:?}"
        );
        drop(log);
        let refused = into(&old).await;
        assert!(
            matches!(&refused, Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists),
            "{refused:?}"
        );
        into(&new).await.unwrap();
        let log = LocalLog::open(&new, common::small()).unwrap();
        assert_eq!(from_backup(&log), entries);
        drop(log);
        let log = LocalLog::open(&old, common::small()).unwrap();
        assert_eq!(read_all(&log).unwrap(), entries);
        // Under any configuration.
        std::fs::remove_dir_all(&new).unwrap();
        let config = LocalLogConfig {
            segment_bytes: 6300,
            ..common::small()
        };
        restore(&place, 8, &new, Floor::default(), config, small())
            .await
            .unwrap();
        let log = LocalLog::open(&new, common::small()).unwrap();
        assert_eq!(from_backup(&log), entries);
    });
}

#[test]
fn a_log_that_nobody_writes_costs_nothing() {
    block_on(async {
        let site = Site::new();
        let log = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&log, 1);
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
        let log = common::open(&disk).unwrap();
        assert_eq!(log.durable().borrow().epoch(), Epoch(1001 << 20));
        assert_eq!(read_all(&log).unwrap().len(), 1);
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
            let log = common::open(&disk).unwrap();
            let backup = site.start(&log, generation);
            let mut writer = Writer::attach(&log).await.unwrap();
            for _ in 0..10 {
                writer.write(&log, &[500]).await.unwrap();
            }
            copied(&backup, &log).await;
            entries = read_all(&log).unwrap();
            puts.push(site.net.puts());
            disk = disk.crash(generation);
        }
        let (log, _) = site.restored().await;
        assert_eq!(from_backup(&log), entries);
        // Nothing is copied twice.
        let mut all = Vec::new();
        for generation in 1..6 {
            all.extend(site.ranges(generation).await);
        }
        assert!(all.windows(2).all(|w| w[0].1 == w[1].0), "{all:?}");
        println!("objects made by then: {puts:?}");
        // And with nothing new nothing is made.
        let log = common::open(&disk).unwrap();
        let before = site.names().await;
        let backup = site.start(&log, 6);
        copied(&backup, &log).await;
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
            let log = common::open(&ModelDisk::new()).unwrap();
            let backup = site.start_with(&log, 1, config);
            let mut writer = Writer::attach(&log).await.unwrap();
            let lasts = interval * 3 + Duration::from_millis(37 * round as u64);
            let started = Instant::now();
            let mut worst = Duration::ZERO;
            while started.elapsed() < lasts {
                writer.write(&log, &[100]).await.unwrap();
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
        let config = LocalLogConfig {
            clock: clock.clone(),
            ..common::small()
        };
        let log = LocalLog::open_on(Arc::new(ModelDisk::new()), config).unwrap();
        let config = BackupConfig { clock, ..small() };
        let backup = site.start_with(&log, 1, config);
        let mut writer = Writer::attach(&log).await.unwrap();
        copied(&backup, &log).await;
        until(|| backup.status().age.is_none()).await;
        let copied_to = log.durable().borrow().position();
        assert_eq!(backup.status().position, Some(copied_to));
        site.net.refuse(Some(Refusal::Down));
        writer.write(&log, &[10]).await.unwrap();
        until(|| backup.status().trouble.is_some()).await;
        time.store(9_500_000, std::sync::atomic::Ordering::SeqCst);
        writer.write(&log, &[10]).await.unwrap();
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
        copied(&backup, &log).await;
        until(|| backup.status().age.is_none()).await;
        let status = backup.status();
        assert!(status.trouble.is_none());
        let bytes: u64 = site.ranges(1).await.iter().map(|r| r.1 - r.0 + 96).sum();
        assert_eq!(status.stored_bytes, bytes);
    });
}

async fn until(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn closing_does_not_wait_for_ever() {
    block_on(async {
        let site = Site::new();
        let log = common::open(&ModelDisk::new()).unwrap();
        let config = BackupConfig {
            drain: Duration::from_millis(50),
            interval: Duration::from_secs(100),
            ..small()
        };
        let backup = site.start_with(&log, 1, config.clone());
        Writer::attach(&log).await.unwrap();
        // Closing does not wait for the interval.
        backup.close().await.unwrap();
        assert_eq!(site.restored().await.1.entries, 2);
        let backup = site.start_with(&log, 2, config);
        site.net.refuse(Some(Refusal::Down));
        Writer::attach(&log).await.unwrap();
        let error = backup.close().await.unwrap_err().to_string();
        assert!(error.contains("refused"), "{error}");
        let error = backup.status().trouble.unwrap().to_string();
        assert!(error.contains("refused"), "{error}");
    });
}

/// A log that was restored on another machine while its old server lives on:
/// both write, both copy. Returns the old one's log and backup, the new one's.
async fn torn_apart(site: &Site) -> ((LocalLog, Backup, Writer), (LocalLog, Backup, Writer)) {
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
        let (log, _) = site.restored().await;
        assert_eq!(from_backup(&log), entries);
        // What the old one trims and removes is not the new one's.
        zombie.trim(old.durable().borrow().position());
        lost.write(&old, &[5]).await.unwrap();
        let _ = zombie.reach(old.durable().borrow().position()).await;
        let fault = zombie.status().trouble.map(|e| e.to_string());
        if let Some(fault) = fault {
            assert!(fault.contains("taken"), "{fault}");
        }
        let (log, _) = site.restored().await;
        let left = from_backup(&log);
        assert!(entries.ends_with(&left));
        assert!(left.len() > 20, "the new one's own part is there");
        // The new one goes on as if nothing had been.
        writer.write(&new, &[5]).await.unwrap();
        copied(&backup, &new).await;
        let (log, _) = site.restored().await;
        assert_eq!(
            from_backup(&log).last().unwrap().next,
            new.durable().borrow().position()
        );
    });
}

#[test]
fn a_right_that_is_older_or_used_is_refused() {
    block_on(async {
        let site = Site::new();
        let ((old, ..), (new, backup, _)) = torn_apart(&site).await;
        for (log, generation) in [(&old, 5), (&old, 6), (&old, 4), (&new, 7)] {
            let late = site.start(log, generation);
            let error = late.reach(Position(u64::MAX)).await.unwrap_err();
            assert!(
                matches!(error, LogError::Superseded { generation: 7, .. }),
                "{generation}: {error}"
            );
            let trouble = late.status().trouble;
            assert!(matches!(trouble, Some(LogError::Superseded { .. })));
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
        let logs = [ModelDisk::new(), ModelDisk::new()].map(|disk| common::open(&disk).unwrap());
        let config = BackupConfig {
            interval: Duration::from_millis(60),
            ..small()
        };
        // Both look at the store before either has something to copy.
        let backups = logs
            .each_ref()
            .map(|log| site.start_with(log, 3, config.clone()));
        for (log, bytes) in logs.iter().zip([100, 90]) {
            Writer::attach(log)
                .await
                .unwrap()
                .write(log, &[bytes, bytes])
                .await
                .unwrap();
        }
        let mut good = Vec::new();
        for (log, backup) in logs.iter().zip(&backups) {
            if backup
                .reach(log.durable().borrow().position())
                .await
                .is_ok()
            {
                good.push(read_all(log).unwrap());
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
        // Somebody decides for the old disk.
        let again = site.start(&old, 8);
        lost.write(&old, &[12, 13]).await.unwrap();
        copied(&again, &old).await;
        let entries = read_all(&old).unwrap();
        assert_eq!(from_backup(&site.restored().await.0), entries);
        // What both have in common is not copied again.
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
        let (log, restored) = site.restored().await;
        assert!(restored.entries >= 2);
        assert!(entries.len() + 2 > from_backup(&log).len());
    });
}

#[test]
fn what_is_trimmed_goes_and_the_rest_is_restored() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        let log = common::open(&disk).unwrap();
        let backup = site.start(&log, 1);
        let mut writer = Writer::attach(&log).await.unwrap();
        let mut most = 0;
        for round in 0..20 {
            for _ in 0..10 {
                writer.write(&log, &[600]).await.unwrap();
            }
            copied(&backup, &log).await;
            let entries = read_all(&log).unwrap();
            let before = entries[entries.len() - 12].next;
            log.trim(before).unwrap();
            backup.trim(before);
            writer.write(&log, &[1]).await.unwrap();
            copied(&backup, &log).await;
            until(|| backup.status().stored_bytes < 30_000).await;
            most = most.max(backup.status().stored_bytes);
            let (restored, _) = site.restored().await;
            let whole = read_all(&log).unwrap();
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
        let log = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&log, 1);
        let mut writer = Writer::attach(&log).await.unwrap();
        for _ in 0..30 {
            writer.write(&log, &[900]).await.unwrap();
            copied(&backup, &log).await;
        }
        let entries = read_all(&log).unwrap();
        let ranges = site.ranges(1).await;
        assert!(ranges.len() >= 15);
        let before = entries[20].next;
        // With the mark and any of what may go missing, in any order.
        backup.trim(before);
        writer.write(&log, &[1]).await.unwrap();
        copied(&backup, &log).await;
        until(|| backup.status().stored_bytes < 20_000).await;
        let entries = read_all(&log).unwrap();
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
            let (log, _) = copy.restored().await;
            let left = from_backup(&log);
            assert!(
                entries.ends_with(&left) && log.first() <= before,
                "seed {seed}"
            );
        }
    });
}

#[test]
fn a_log_that_is_trimmed_ahead_of_its_backup_can_be_restored() {
    block_on(async {
        let site = Site::new();
        let log = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&log, 1);
        let mut writer = Writer::attach(&log).await.unwrap();
        writer.write(&log, &[100]).await.unwrap();
        copied(&backup, &log).await;
        site.net.refuse(Some(Refusal::Down));
        for _ in 0..60 {
            writer.write(&log, &[1500]).await.unwrap();
        }
        log.trim(log.durable().borrow().position()).unwrap();
        assert!(log.first() > backup.status().position.unwrap());
        site.net.refuse(None);
        writer.write(&log, &[5]).await.unwrap();
        copied(&backup, &log).await;
        let (restored, _) = site.restored().await;
        let (left, whole) = (from_backup(&restored), read_all(&log).unwrap());
        assert!(whole.ends_with(&left) && !left.is_empty() || left.ends_with(&whole));
    });
}

/// The entries of a restored log that came from the backup.
fn from_backup(log: &LocalLog) -> Vec<Entry> {
    let mut entries = read_all(log).unwrap();
    let seal = entries.pop().expect("a seal");
    assert!(matches!(seal.record, xylem_wal::Record::Seal));
    assert_eq!(seal.epoch, log.durable().borrow().epoch());
    entries
}

fn corrupt(result: Result<Restored, LogError>) -> String {
    match result {
        Err(LogError::Corrupt(what)) => what,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn what_is_missing_is_named() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        for generation in [1, 2] {
            let log = common::open(&disk).unwrap();
            let backup = site.start(&log, generation);
            let mut writer = Writer::attach(&log).await.unwrap();
            for _ in 0..4 {
                writer.write(&log, &[400]).await.unwrap();
                copied(&backup, &log).await;
            }
            log.close().await.unwrap();
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
        let log = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&log, 1);
        let mut writer = Writer::attach(&log).await.unwrap();
        for _ in 0..3 {
            writer.write(&log, &[20, 30]).await.unwrap();
            copied(&backup, &log).await;
        }
        drop(backup);
        for (name, _) in site.names().await {
            let whole = site.get(&name).await;
            for at in 0..whole.len() {
                // Bytes that nothing covers and nobody reads.
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
                // What is there by then is no log.
                if disk.used() > 0 {
                    assert!(matches!(common::open(&disk), Err(LogError::Corrupt(_))));
                }
            }
            site.put(&name, whole[..whole.len() - 1].to_vec()).await;
            let what = corrupt(site.would_restore(&ModelDisk::new()).await);
            assert!(what.contains(&name) || what.contains("missing"), "{what}");
            site.put(&name, whole).await;
        }
        // And a directory where that went wrong can be restored into again.
        let disk = ModelDisk::new();
        let last = site.ranges(1).await.pop().unwrap().0;
        let name = format!("{:016x}/{last:016x}", 1);
        let whole = site.get(&name).await;
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        site.put(&name, damaged).await;
        corrupt(site.would_restore(&disk).await);
        let error = common::open(&disk).unwrap_err().to_string();
        assert!(error.contains("do it again"), "{error}");
        site.put(&name, whole).await;
        site.would_restore(&disk).await.unwrap();
        let entries = read_all(&log).unwrap();
        assert_eq!(from_backup(&common::open(&disk).unwrap()), entries);
    });
}

#[test]
fn any_call_to_the_disk_may_fail_while_restoring() {
    block_on(async {
        let site = Site::new();
        let log = common::open(&ModelDisk::new()).unwrap();
        let backup = site.start(&log, 1);
        let mut writer = Writer::attach(&log).await.unwrap();
        for _ in 0..12 {
            writer.write(&log, &[1000, 700]).await.unwrap();
        }
        copied(&backup, &log).await;
        let entries = read_all(&log).unwrap();
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
                        Ok(log) => {
                            let found = read_all(&log).unwrap();
                            let none = found.is_empty() && outcome.is_err();
                            let whole = !none && from_backup(&log) == entries;
                            assert!(none || whole, "{what}: {} entries", found.len());
                        }
                        Err(LogError::Corrupt(why)) => {
                            assert!(
                                outcome.is_err() && why.contains("do it again"),
                                "{what}: {why}"
                            );
                            site.would_restore(&lives).await.unwrap();
                            let log = common::open(&lives).unwrap();
                            assert_eq!(from_backup(&log), entries, "{what}");
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
fn a_log_goes_on_behind_what_the_page_store_has() {
    block_on(async {
        let site = Site::new();
        let disk = ModelDisk::new();
        let floor = Floor {
            position: Position(5_000_000),
            lsn: Lsn(777_000),
        };
        let restored = site.restore_behind(&disk, 3, floor).await.unwrap();
        let log = common::open(&disk).unwrap();
        let durable = *log.durable().borrow();
        let epoch = Epoch(4 << 20);
        assert_eq!((durable.epoch(), durable.lsn()), (epoch, Lsn(777_000)));
        assert_eq!((restored.entries, restored.end), (0, durable.position()));
        assert_eq!(log.first(), floor.position);
        assert!(matches!(
            log.read_from(Position(0)),
            Err(LogError::NoSuchPosition(_))
        ));
        // A compute goes on from there.
        let backup = site.start(&log, 4);
        let mut writer = Writer::attach(&log).await.unwrap();
        assert_eq!(writer.epoch, Epoch((4 << 20) + 1));
        for _ in 0..30 {
            writer.write(&log, &[1000, 40]).await.unwrap();
        }
        let entries = read_all(&log).unwrap();
        copied(&backup, &log).await;
        drop((backup, log));
        let log = common::open(&disk.crash(1)).unwrap();
        assert_eq!(read_all(&log).unwrap(), entries);
        drop(log);
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
            let log = common::open(&disk).unwrap();
            assert_eq!(restored.entries > 0, kept);
            assert_eq!(restored.epoch, Epoch((generation + 1) << 20));
            match kept {
                true => assert_eq!(from_backup(&log), entries),
                false => assert_eq!((log.first(), restored.lsn), (position, lsn)),
            }
        }
        // Its first entry is not forgotten when it is damaged.
        let disk = ModelDisk::new();
        site.restore_behind(
            &disk,
            10,
            Floor {
                position: Position(9_000_000),
                ..floor
            },
        )
        .await
        .unwrap();
        let name = [1, 2]
            .map(segment)
            .into_iter()
            .find(|n| disk.contents(n).is_some());
        disk.poke(&name.unwrap(), 4096 + 20, &[0xFF; 8]);
        assert!(matches!(common::open(&disk), Err(LogError::Corrupt(_))));
        let floor = Floor {
            position: Position(u64::MAX),
            lsn: Lsn(0),
        };
        let refused = site.restore_behind(&ModelDisk::new(), 11, floor).await;
        assert!(
            matches!(&refused, Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::InvalidInput),
            "{refused:?}"
        );
    });
}

/// A life with crashes, lost disks, restarts and trims, against the list of
/// what the log said.
struct Life {
    site: Site,
    random: u64,
    disk: ModelDisk,
    log: Option<LocalLog>,
    backup: Option<Backup>,
    generation: u64,
    writer: Option<Writer>,
    /// Everything that was durable, from the log's beginning.
    told: Vec<Entry>,
    /// Everything up to there is in the store.
    reached: Position,
    /// Nothing before is needed.
    trimmed: Position,
    /// The log's first position ever.
    begins: Position,
    losses: u32,
    /// The newest epoch given out.
    newest: Epoch,
}

impl Life {
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn log(&self) -> &LocalLog {
        self.log.as_ref().unwrap()
    }

    fn open(&mut self) {
        let log = common::open(&self.disk).unwrap();
        self.generation += 1 + self.below(3);
        self.backup = Some(self.site.start(&log, self.generation));
        self.log = Some(log);
    }

    async fn attach(&mut self) -> Writer {
        let writer = Writer::attach(self.log()).await.unwrap();
        assert!(writer.epoch > self.newest, "an epoch was given twice");
        self.newest = writer.epoch;
        writer
    }

    /// Notes what is durable.
    fn learn(&mut self) {
        let from = self.told.last().map_or(self.begins, |e| e.next);
        let mut reader = self.log().read_from(from).unwrap();
        while let Some(entry) = reader.next().unwrap() {
            self.told.push(entry);
        }
    }

    async fn step(&mut self) {
        match self.below(12) {
            0 => self.writer = Some(self.attach().await),
            1 => {
                let end = self.log().durable().borrow().position();
                self.backup.as_ref().unwrap().reach(end).await.unwrap();
                self.reached = end;
            }
            2 => {
                self.learn();
                let count = self.told.len() as u64 + 1;
                let at = self.below(count) as usize;
                if let Some(entry) = self.told.get(at) {
                    let before = entry.next;
                    self.trimmed = self.trimmed.max(before);
                    self.log().trim(before).unwrap();
                    self.backup.as_ref().unwrap().trim(before);
                }
            }
            // The process or the machine dies, and the disk is there.
            3 => {
                self.learn();
                self.backup = None;
                let seed = self.below(100);
                self.disk = if seed.is_multiple_of(3) {
                    self.disk.kill()
                } else {
                    self.disk.crash(seed)
                };
                self.log = None;
                self.open();
                self.resume();
            }
            4 if self.below(3) == 0 => self.lose().await,
            5 => tokio::time::sleep(Duration::from_millis(self.below(12))).await,
            _ => {
                let mut writer = match self.writer.take() {
                    Some(writer) => writer,
                    None => self.attach().await,
                };
                let sizes = [self.below(1500) as usize, self.below(40) as usize];
                writer.write(self.log(), &sizes).await.unwrap();
                self.writer = Some(writer);
            }
        }
    }

    /// The disk is gone.
    async fn lose(&mut self) {
        self.learn();
        self.losses += 1;
        // Its server may live on for a while.
        let zombie = (self.log.take(), self.backup.take());
        if self.below(2) == 0 {
            drop(zombie);
        } else {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                drop(zombie);
            });
        }
        self.disk = ModelDisk::new();
        self.generation += 1;
        let lsn = Lsn(self.random >> 40);
        let position = self.trimmed;
        let floor = Floor { position, lsn };
        let restored = self
            .site
            .restore_behind(&self.disk, self.generation, floor)
            .await
            .unwrap();
        assert!(restored.epoch > self.newest);
        self.open();
        let entries = read_all(self.log()).unwrap();
        let seal = entries.last().expect("a seal");
        assert_eq!((seal.next, seal.epoch), (restored.end, restored.epoch));
        let kept = entries.len() - 1;
        assert_eq!(kept as u64, restored.entries);
        let end = match kept.checked_sub(1).and_then(|n| entries.get(n)) {
            Some(last) => last.next,
            None => restored.first,
        };
        assert!(end >= self.reached.max(self.trimmed) || self.reached <= self.trimmed);
        assert!(end >= self.trimmed && restored.first <= end);
        if kept == 0 {
            // The page store has as much, or more: the log goes on behind it.
            assert_eq!(restored.first, self.trimmed);
            self.told.clear();
            self.begins = self.trimmed;
        } else {
            assert!(restored.first <= self.trimmed);
            let last = self.told.iter().rposition(|e| e.next == end);
            let last = last.expect("a place between entries");
            self.told.truncate(1 + last);
        }
        self.told.push(seal.clone());
        self.reached = end;
        self.check();
        self.resume();
    }

    fn resume(&mut self) {
        let durable = *self.log().durable().borrow();
        self.writer = self.writer.take().filter(|w| w.epoch == durable.epoch());
        if let Some(writer) = &mut self.writer {
            match self.log.as_ref().unwrap().accepted(writer.epoch) {
                Ok((seq, lsn)) if lsn > Lsn(0) && durable.seq() == seq => {
                    (writer.seq, writer.lsn) = (seq.0, lsn.0);
                }
                _ => self.writer = None,
            }
        }
        // An epoch that was sealed and has not begun is nobody's.
        if durable.seq().0 == 0 {
            self.writer = None;
        }
    }

    /// What the log holds is what it was told to.
    fn check(&self) {
        let first = self.log().first();
        let from = self
            .told
            .iter()
            .position(|e| e.next > first)
            .unwrap_or(self.told.len());
        let entries = read_all(self.log()).unwrap();
        assert_eq!(entries, self.told[from..]);
    }
}

async fn life(site: Site, seed: u64, steps: usize) -> u32 {
    let mut life = Life {
        site,
        random: seed,
        disk: ModelDisk::new(),
        log: None,
        backup: None,
        generation: 0,
        writer: None,
        told: Vec::new(),
        reached: Position(0),
        trimmed: Position(0),
        begins: Position(0),
        losses: 0,
        newest: Epoch(0),
    };
    life.open();
    for _ in 0..steps {
        life.step().await;
    }
    life.lose().await;
    life.losses
}

#[test]
fn a_life_in_a_real_store() {
    let store = real_store();
    for seed in 0..3 {
        let site = Site::on(Arc::clone(&store), seed);
        site.net.set_weather(Weather::wind());
        block_on(life(site, seed, 80));
    }
}

#[test]
fn lives_with_crashes_and_lost_disks() {
    // More of them with XYLEM_TEST_SEEDS=FROM..TO.
    for seed in seeds(0..24) {
        let site = Site::on(Arc::new(InMemory::new()), seed);
        let weather = match seed % 3 {
            0 => Weather::wind(),
            1 => Weather::storm(),
            _ => Weather::calm(),
        };
        site.net.set_weather(weather);
        let losses = block_on(life(site, seed, 20 + seed as usize * 37 % 100));
        println!("seed {seed}: {losses} disks lost");
    }
}
