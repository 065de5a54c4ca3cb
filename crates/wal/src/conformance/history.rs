//! A random life of a WAL, with crashes, against a list of what it was told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::store::Store;
use super::tools::{Compute, Random, assert_one_line, block_on, durable, open, read};
use crate::{Durable, Entry, Position, Record, Wal};
use std::sync::Arc;
use xylem_types::{Epoch, FrameSeq, Lsn};

/// Lives `steps` steps that `seed` chooses, and checks after each opening that
/// what is there is a prefix of what was accepted and no shorter than what was
/// durable.
///
/// # Panics
/// When it is not.
pub fn history(store: &dyn Store, seed: u64, steps: usize) {
    block_on(async {
        let mut life = Life {
            store,
            wal: Some(open(store).await),
            random: Random(seed),
            told: Vec::new(),
            ends: Vec::new(),
            times: Vec::new(),
            durable: Durable::default(),
            compute: None,
            time_us: 0,
        };
        for _ in 0..steps {
            life.step().await;
        }
        life.crash().await;
    });
}

struct Life<'a> {
    store: &'a dyn Store,
    /// None while it is opened again.
    wal: Option<Arc<dyn Wal>>,
    random: Random,
    /// Everything accepted that is not known to be lost.
    told: Vec<(Epoch, Record)>,
    /// The places after the entries that were read, from the WAL's beginning.
    ends: Vec<Position>,
    /// Their times.
    times: Vec<u64>,
    /// The newest word of the WAL.
    durable: Durable,
    compute: Option<Compute>,
    time_us: u64,
}

impl Life<'_> {
    fn wal(&self) -> Arc<dyn Wal> {
        Arc::clone(self.wal.as_ref().expect("open"))
    }

    async fn step(&mut self) {
        // On, and now and then back.
        self.time_us += 500;
        let time = self.time_us + self.random.below(1000);
        self.store.clock().set(time);
        match self.random.below(16) {
            0 => self.attach().await,
            1 => {
                // Sealed, and nothing more comes of it.
                let sealed = self.wal().seal().await.unwrap();
                self.told.push((sealed.epoch(), Record::Seal));
                self.heard(sealed);
                self.compute = None;
            }
            2 | 3 => self.crash().await,
            4 => self.reopen().await,
            5 => self.trim(),
            6..=8 => {
                if let Some(compute) = &self.compute {
                    let now = durable(&*self.wal(), compute.epoch, compute.seq).await;
                    self.heard(now);
                }
            }
            _ => {
                if self.compute.is_none() {
                    self.attach().await;
                }
                let count = 1 + self.random.below(12) as usize;
                let wal = self.wal();
                if let Some(compute) = &mut self.compute {
                    let frames = compute.frames(count);
                    wal.append(compute.epoch, frames.clone()).await.unwrap();
                    self.told.extend(
                        frames
                            .into_iter()
                            .map(|f| (compute.epoch, Record::Frame(f))),
                    );
                }
            }
        }
        let now = *self.wal().durable().borrow();
        self.heard(now);
    }

    fn heard(&mut self, now: Durable) {
        if now.position() > self.durable.position() {
            self.durable = now;
        }
    }

    async fn attach(&mut self) {
        let lsn = self
            .compute
            .as_ref()
            .map_or(self.durable.lsn().0, |c| c.lsn);
        let compute = Compute::attach(self.store, &*self.wal(), lsn).await;
        self.told.push((compute.epoch, Record::Seal));
        self.told
            .push((compute.epoch, Record::Begin { start: Lsn(lsn) }));
        self.compute = Some(compute);
    }

    fn trim(&mut self) {
        self.learn();
        let Some(before) = self
            .ends
            .get(self.random.below(self.ends.len() as u64 + 1) as usize)
        else {
            return;
        };
        let first = self.wal().first();
        self.wal().trim(*before).unwrap();
        assert!(self.wal().first() <= first.max(*before));
    }

    /// Reads on from the last known place.
    fn learn(&mut self) {
        let from = self.ends.last().copied().unwrap_or_default();
        let entries = read(&*self.wal(), from);
        self.compare(self.ends.len(), &entries);
        self.ends.extend(entries.iter().map(|e| e.next));
        self.times.extend(entries.iter().map(|e| e.time_us));
    }

    fn compare(&self, at: usize, entries: &[Entry]) {
        for (told, entry) in self.told[at..].iter().zip(entries) {
            assert_eq!(told, &(entry.epoch, entry.record.clone()));
        }
        if let Some(known) = self.times.get(at..) {
            for (time, entry) in known.iter().zip(entries) {
                assert_eq!(*time, entry.time_us, "a time is as it was");
            }
        }
        assert!(
            self.told.len() >= at + entries.len(),
            "more than was accepted"
        );
    }

    async fn crash(&mut self) {
        self.learn();
        self.store.crash(self.random.next());
        self.open_again().await;
    }

    async fn reopen(&mut self) {
        self.learn();
        self.wal().close().await.unwrap();
        let now = *self.wal().durable().borrow();
        self.heard(now);
        self.open_again().await;
        assert_eq!(*self.wal().durable().borrow(), now);
        assert_eq!(self.ends.len(), self.told.len(), "closing drains");
    }

    async fn open_again(&mut self) {
        // The last owner must have closed it.
        self.wal = None;
        self.wal = Some(open(self.store).await);
        let now = *self.wal().durable().borrow();
        assert!(
            now.position() >= self.durable.position(),
            "something durable is lost"
        );
        // Trimmed entries may be back; the entries after them are unchanged.
        let first = self.wal().first();
        let at = match first {
            Position(0) => 0,
            _ => {
                1 + self
                    .ends
                    .iter()
                    .position(|e| *e == first)
                    .expect("a place between entries")
            }
        };
        let entries = read(&*self.wal(), first);
        self.compare(at, &entries);
        self.ends.truncate(at);
        self.ends.extend(entries.iter().map(|e| e.next));
        self.times.truncate(at);
        self.times.extend(entries.iter().map(|e| e.time_us));
        self.told.truncate(self.ends.len());
        if at == 0 {
            assert_one_line(&entries);
        }
        if now.position() == self.durable.position() {
            assert_eq!(now, self.durable);
        }
        self.durable = now;
        self.resume(now);
    }

    /// The compute goes on where the WAL has been told it is, if it is its own
    /// still.
    fn resume(&mut self, now: Durable) {
        let begun = self
            .told
            .iter()
            .any(|t| t.0 == now.epoch() && t.1 != Record::Seal);
        let wal = self.wal();
        let Some(compute) = &mut self.compute else {
            return;
        };
        if compute.epoch != now.epoch() || !begun {
            self.compute = None;
            return;
        }
        let (seq, lsn) = wal.accepted(compute.epoch).unwrap();
        assert_eq!((seq, lsn), (now.seq(), now.lsn()));
        assert_ne!(seq, FrameSeq(u64::MAX));
        (compute.seq, compute.lsn) = (seq.0, lsn.0);
    }
}
