//! Lives with crashes, lost disks, restarts and trims, drawn at random.

use super::Site;
use crate::common;
use crate::common::net::Weather;
use crate::common::objects::{block_on, real_store, seeds};
use crate::common::{Writer, read_all};
use object_store::memory::InMemory;
use std::sync::Arc;
use std::time::Duration;
use xylem_types::{Epoch, Lsn};
use xylem_wal::backup::Floor;
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{Backup, Entry, LocalWal, Position, Wal};

/// A life with crashes, lost disks, restarts and trims, against the list of
/// what the WAL said.
struct Life {
    site: Site,
    random: u64,
    disk: ModelDisk,
    wal: Option<LocalWal>,
    backup: Option<Backup>,
    generation: u64,
    writer: Option<Writer>,
    /// Everything that was durable, from the WAL's beginning.
    told: Vec<Entry>,
    /// Everything up to there is in the store.
    reached: Position,
    /// Nothing before is needed.
    trimmed: Position,
    /// The WAL's first position ever.
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

    fn wal(&self) -> &LocalWal {
        self.wal.as_ref().unwrap()
    }

    fn open(&mut self) {
        let wal = common::open(&self.disk).unwrap();
        self.generation += 1 + self.below(3);
        self.backup = Some(self.site.start(&wal, self.generation));
        self.wal = Some(wal);
    }

    async fn attach(&mut self) -> Writer {
        let writer = Writer::attach(self.wal()).await.unwrap();
        assert!(writer.epoch > self.newest, "an epoch was given twice");
        self.newest = writer.epoch;
        writer
    }

    /// Notes what is durable.
    fn learn(&mut self) {
        let from = self.told.last().map_or(self.begins, |e| e.next);
        let mut reader = self.wal().read_from(from).unwrap();
        while let Some(entry) = reader.next().unwrap() {
            self.told.push(entry);
        }
    }

    async fn step(&mut self) {
        match self.below(12) {
            0 => self.writer = Some(self.attach().await),
            1 => {
                let end = self.wal().durable().borrow().position();
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
                    self.wal().trim(before).unwrap();
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
                self.wal = None;
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
                writer.write(self.wal(), &sizes).await.unwrap();
                self.writer = Some(writer);
            }
        }
    }

    /// The disk is gone.
    async fn lose(&mut self) {
        self.learn();
        self.losses += 1;
        // Its server may live on for a while.
        let zombie = (self.wal.take(), self.backup.take());
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
        let entries = read_all(self.wal()).unwrap();
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
            // The page store has as much, or more: the WAL goes on behind it.
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
        let durable = *self.wal().durable().borrow();
        self.writer = self.writer.take().filter(|w| w.epoch == durable.epoch());
        if let Some(writer) = &mut self.writer {
            match self.wal.as_ref().unwrap().accepted(writer.epoch) {
                Ok((seq, lsn)) if lsn > Lsn(0) && durable.seq() == seq => {
                    (writer.seq, writer.lsn) = (seq.0, lsn.0);
                }
                _ => self.writer = None,
            }
        }
        // An epoch that was sealed and has not begun has no writer.
        if durable.seq().0 == 0 {
            self.writer = None;
        }
    }

    /// The WAL holds exactly the frames that were appended.
    fn check(&self) {
        let first = self.wal().first();
        let from = self
            .told
            .iter()
            .position(|e| e.next > first)
            .unwrap_or(self.told.len());
        let entries = read_all(self.wal()).unwrap();
        assert_eq!(entries, self.told[from..]);
    }
}

async fn life(site: Site, seed: u64, steps: usize) -> u32 {
    let mut life = Life {
        site,
        random: seed,
        disk: ModelDisk::new(),
        wal: None,
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
