//! The backup of the local WAL: what is restored is the line that was backed
//! up, no shorter than the interval allows, of the server that has the right.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

mod copying;
mod damage;
mod life;
mod restoring;
mod rights;
mod trimming;
mod trouble;

use crate::common;
use crate::common::net::Net;
use crate::common::objects::{fresh_prefix, place, runtime};
use crate::common::read_all;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_objects::{GiveUp, Objects, Retry};
use xylem_wal::backup::{Floor, Restored, restore_on};
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{Backup, BackupConfig, Entry, LocalWal, Wal, WalError};

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

    fn start_with(&self, wal: &LocalWal, generation: u64, config: BackupConfig) -> Backup {
        let place = place(self.net.wire(), &self.prefix);
        Backup::start(wal, &place, generation, config).unwrap()
    }

    fn start(&self, wal: &LocalWal, generation: u64) -> Backup {
        self.start_with(wal, generation, small())
    }

    async fn restore(&self, disk: &ModelDisk, generation: u64) -> Result<Restored, WalError> {
        self.restore_behind(disk, generation, Floor::default())
            .await
    }

    async fn restore_behind(
        &self,
        disk: &ModelDisk,
        generation: u64,
        floor: Floor,
    ) -> Result<Restored, WalError> {
        let disk = Arc::new(disk.clone());
        let wal = common::small();
        restore_on(&self.place(), generation, disk, floor, wal, small()).await
    }

    /// Restores from a copy of the store.
    async fn would_restore(&self, disk: &ModelDisk) -> Result<Restored, WalError> {
        let copy = Site::new();
        for (name, _) in self.names().await {
            copy.put(&name, self.get(&name).await).await;
        }
        let found = copy.restore(disk, 1000).await;
        // It is named after where it was.
        found.map_err(|e| match e {
            WalError::Corrupt(what) => {
                let (there, here) = (copy.prefix.to_string(), self.prefix.to_string());
                WalError::Corrupt(what.replace(&there, &here))
            }
            other => other,
        })
    }

    /// The WAL that would be restored, and what is said of it.
    async fn restored(&self) -> (LocalWal, Restored) {
        let disk = ModelDisk::new();
        let restored = self.would_restore(&disk).await.unwrap();
        let wal = common::open(&disk).unwrap();
        let durable = *wal.durable().borrow();
        assert_eq!(
            (
                wal.first(),
                durable.position(),
                durable.epoch(),
                durable.lsn()
            ),
            (restored.first, restored.end, restored.epoch, restored.lsn)
        );
        (wal, restored)
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

async fn copied(backup: &Backup, wal: &LocalWal) {
    let end = wal.durable().borrow().position();
    backup.reach(end).await.unwrap();
}

async fn until(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The entries of a restored WAL that came from the backup.
fn from_backup(wal: &LocalWal) -> Vec<Entry> {
    let mut entries = read_all(wal).unwrap();
    let seal = entries.pop().expect("a seal");
    assert!(matches!(seal.record, xylem_wal::Record::Seal));
    assert_eq!(seal.epoch, wal.durable().borrow().epoch());
    entries
}

fn corrupt(result: Result<Restored, WalError>) -> String {
    match result {
        Err(WalError::Corrupt(what)) => what,
        other => panic!("not refused: {other:?}"),
    }
}
