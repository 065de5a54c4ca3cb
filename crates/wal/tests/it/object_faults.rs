//! Several servers that each think a WAL in an object store is theirs, over
//! wires that lose, delay and repeat: every acknowledged frame is there, once
//! and in order, and no refused one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::line::Objects;
use crate::common::net::{Net, Weather, Wire};
use crate::common::objects::{block_on, fresh_prefix, place, real_store, seeds, small};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{Memory, ObjectWal, ObjectWalConfig, Record, Wal, WalError};

/// The answers to all servers, in one order.
#[derive(Default)]
struct Told {
    /// The newest epoch that a seal has returned.
    newest: u64,
    /// Every epoch that a seal has returned.
    sealed: BTreeSet<u64>,
    /// Sent frames by payload; no payload is sent twice.
    sent: BTreeMap<Vec<u8>, (u64, u64)>,
    acknowledged: BTreeSet<Vec<u8>>,
    /// The epoch and the number of the last frame that may have been trimmed.
    trimmed: (u64, u64),
    refused: BTreeSet<Vec<u8>>,
    lives: u64,
    superseded: u64,
}

struct Server {
    net: Arc<Net>,
    prefix: Path,
    told: Arc<Mutex<Told>>,
    trims: bool,
    random: u64,
    who: u64,
    nth: u64,
}

impl Server {
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    /// Opens the WAL, writes under one epoch or two, and dies or is superseded.
    async fn live(&mut self) {
        let wire = self.net.wire();
        let config = ObjectWalConfig {
            puts_max: 1 + self.below(5) as usize,
            ..small()
        };
        let config = match self.below(2) {
            0 => config,
            // As many at a time as there can be.
            _ => ObjectWalConfig {
                puts_max: 64,
                adaptive: true,
                hedge: true,
                ..config
            },
        };
        let config = ObjectWalConfig {
            object_bytes: 100 + self.below(2000),
            ..config
        };
        self.told.lock().lives += 1;
        let place = place(Arc::clone(&wire) as _, &self.prefix);
        match ObjectWal::open(&place, config).await {
            Ok(wal) => {
                let outcome = self.write(&wal).await;
                if let Err(WalError::Superseded { .. }) = outcome {
                    self.told.lock().superseded += 1;
                }
                match self.below(3) {
                    0 => {
                        let _ = wal.close().await;
                    }
                    1 => self.net.kill(&wire).await,
                    _ => {}
                }
            }
            Err(WalError::Superseded { .. }) => self.told.lock().superseded += 1,
            Err(e) => panic!("opening: {e}"),
        }
    }

    async fn write(&mut self, wal: &ObjectWal) -> Result<(), WalError> {
        for _ in 0..1 + self.below(2) {
            let sealed = wal.seal().await?;
            {
                let mut told = self.told.lock();
                assert!(
                    told.sealed.insert(sealed.epoch().0),
                    "epoch {} is given twice",
                    sealed.epoch()
                );
                told.newest = told.newest.max(sealed.epoch().0);
            }
            let mut lsn = sealed.lsn().0.max(100);
            match wal.begin(sealed.epoch(), Lsn(lsn)).await {
                Ok(_) => {}
                Err(WalError::Fenced { .. }) => continue,
                Err(e) => return Err(e),
            }
            let mut waiting: Vec<(u64, Vec<u8>, bool)> = Vec::new();
            for seq in 1..=self.below(30) {
                let payload = format!("{}-{}", self.who, self.nth).into_bytes();
                self.nth += 1;
                let frame = Frame {
                    seq: FrameSeq(seq),
                    start: Lsn(lsn),
                    body: FrameBody::Redo(payload.clone().into()),
                };
                lsn += payload.len() as u64;
                // A newer server gets its seal before this frame is sent.
                let late = {
                    let mut told = self.told.lock();
                    told.sent.insert(payload.clone(), (sealed.epoch().0, seq));
                    told.newest > sealed.epoch().0
                };
                // A single frame is taken whole or not at all.
                if let Err(e) = wal.append(sealed.epoch(), vec![frame]).await {
                    self.told.lock().refused.insert(payload);
                    self.acknowledged(wal, sealed.epoch(), &waiting);
                    return Err(e);
                }
                waiting.push((seq, payload, late));
                if self.below(4) == 0 {
                    let mut watch = wal.durable();
                    let reached = watch.wait_for(|d| {
                        d.epoch() > sealed.epoch()
                            || (d.epoch() == sealed.epoch() && d.seq().0 >= seq)
                    });
                    if reached.await.is_err() {
                        self.acknowledged(wal, sealed.epoch(), &waiting);
                        return Err(wal.seal().await.unwrap_err());
                    }
                }
                if self.below(10) == 0 {
                    tokio::time::sleep(Duration::from_micros(self.below(3000))).await;
                }
            }
            self.acknowledged(wal, sealed.epoch(), &waiting);
            if self.trims && self.below(2) == 0 {
                let durable = *wal.durable().borrow();
                {
                    let mut told = self.told.lock();
                    let last = (durable.epoch().0, durable.seq().0);
                    told.trimmed = told.trimmed.max(last);
                }
                wal.trim(durable.position())?;
            }
        }
        Ok(())
    }

    /// Notes what the WAL says is durable.
    fn acknowledged(&self, wal: &ObjectWal, epoch: Epoch, waiting: &[(u64, Vec<u8>, bool)]) {
        let durable = *wal.durable().borrow();
        if durable.epoch() != epoch {
            return;
        }
        let mut told = self.told.lock();
        for (seq, payload, late) in waiting {
            if *seq <= durable.seq().0 {
                assert!(!late, "a fenced server acknowledges a frame");
                told.acknowledged.insert(payload.clone());
            }
        }
    }
}

async fn race(
    store: Arc<dyn ObjectStore>,
    seed: u64,
    servers: u64,
    weather: Weather,
    trims: bool,
) -> Told {
    let net = Net::new(Arc::clone(&store), seed);
    net.set_weather(weather);
    let prefix = fresh_prefix("race");
    let told = Arc::new(Mutex::new(Told::default()));
    let lives: Vec<_> = (0..servers)
        .map(|who| {
            let mut server = Server {
                net: Arc::clone(&net),
                prefix: prefix.clone(),
                told: Arc::clone(&told),
                trims,
                random: seed * 1000 + who,
                who,
                nth: 0,
            };
            tokio::spawn(async move {
                for _ in 0..8 {
                    server.live().await;
                }
            })
        })
        .collect();
    for life in lives {
        life.await.unwrap();
    }
    net.set_weather(Weather::calm());
    let before = read(&net.wire(), &prefix).await;
    // Late requests are done now, and change nothing.
    net.deliver().await;
    let objects = Objects::read(&store, &prefix).await;
    let entries = read(&net.wire(), &prefix).await;
    // The last owner of all may have been removing objects still, and what it removed
    // may come back.
    assert!(
        before.ends_with(&entries) || trims && entries.ends_with(&before),
        "something late has joined the line"
    );
    let told = Arc::into_inner(told).unwrap().into_inner();
    check(&told, &entries);
    if !trims {
        let line = objects.entries();
        let frames = line.iter().filter(|e| e.1 == 3).map(|e| Some(&e.4));
        let read = entries.iter().filter(|e| e.2.is_some());
        assert!(frames.eq(read.map(|e| e.2.as_ref())));
    }
    println!(
        "seed {seed}: {} lives, {} superseded, {} epochs, {} sent, {} acknowledged, {} refused, {} objects, {} void, {} claims",
        told.lives,
        told.superseded,
        told.sealed.len(),
        told.sent.len(),
        told.acknowledged.len(),
        told.refused.len(),
        objects.all.len(),
        objects.void().len(),
        objects.claims(),
    );
    told
}

/// An entry: its epoch, its record, and the payload of a frame.
type Found = (u64, Record, Option<Vec<u8>>);

async fn read(wire: &Arc<Wire>, prefix: &Path) -> Vec<Found> {
    let place = place(Arc::clone(wire) as _, prefix);
    let wal = ObjectWal::open(&place, small()).await.unwrap();
    // Readers block.
    let reading = tokio::task::spawn_blocking(move || read_all(&wal));
    reading.await.unwrap()
}

fn read_all(wal: &ObjectWal) -> Vec<Found> {
    loop {
        match try_read_all(wal) {
            Ok(entries) => return entries,
            // An owner that was dropped was still removing objects.
            Err(WalError::NoSuchPosition(at)) => assert!(at < wal.first(), "{at:?}"),
            Err(e) => panic!("{e}"),
        }
    }
}

fn try_read_all(wal: &ObjectWal) -> Result<Vec<Found>, WalError> {
    let mut reader = wal.read_from(wal.first())?;
    let mut out = Vec::new();
    while let Some(entry) = reader.next()? {
        let payload = match &entry.record {
            Record::Frame(Frame {
                body: FrameBody::Redo(bytes),
                ..
            }) => Some(bytes.to_vec()),
            _ => None,
        };
        out.push((entry.epoch.0, entry.record, payload));
    }
    Ok(out)
}

fn check(told: &Told, entries: &[Found]) {
    let mut found = BTreeSet::new();
    // A trimmed WAL may begin with any entry.
    let (mut epoch, mut next) = match entries.first() {
        Some((of, Record::Seal, _)) => (of - 1, None),
        Some((of, Record::Begin { .. }, _)) => (*of, None),
        Some((of, Record::Frame(frame), _)) => (*of, Some((frame.seq.0, frame.start))),
        None => (0, None),
    };
    let first = (epoch, next.map_or(0, |(seq, _)| seq));
    for (of, record, payload) in entries {
        match record {
            Record::Seal => {
                assert_eq!(*of, epoch + 1, "epochs follow each other");
                (epoch, next) = (*of, None);
            }
            Record::Begin { start } => {
                assert_eq!((*of, next), (epoch, None));
                next = Some((1, *start));
            }
            Record::Frame(frame) => {
                assert_eq!(*of, epoch);
                assert_eq!(next, Some((frame.seq.0, frame.start)), "frames join");
                next = Some((frame.seq.0 + 1, frame.end()));
                let payload = payload.clone().unwrap();
                assert_eq!(told.sent.get(&payload), Some(&(*of, frame.seq.0)));
                assert!(!told.refused.contains(&payload), "a refused frame is there");
                assert!(found.insert(payload), "a frame is there twice");
            }
        }
    }
    for epoch in told.sealed.iter().filter(|epoch| **epoch > first.0) {
        assert!(entries.iter().any(|e| e.0 == *epoch && e.1 == Record::Seal));
    }
    for lost in told.acknowledged.difference(&found) {
        let at = told.sent[lost];
        assert!(
            at < first && at <= told.trimmed,
            "an acknowledged frame is lost"
        );
    }
}

#[test]
fn servers_that_do_not_know_of_each_other() {
    let mut all = (0, 0, 0);
    // More of them with XYLEM_TEST_SEEDS=FROM..TO; and where machines are fast
    // or slow, until each thing has happened often enough.
    let wanted = seeds(0..12);
    let count = wanted.clone().count();
    for (n, seed) in wanted.chain(1000..1100).enumerate() {
        if n >= count && all.0 > 100 && all.1 > 2 && all.2 > 20 {
            break;
        }
        let weather = match seed % 4 {
            0 => Weather::wind(),
            1 => Weather::storm(),
            2 => Weather::gale(),
            _ => Weather::calm(),
        };
        let store = Arc::new(InMemory::new());
        let told = block_on(race(store, seed, 2 + seed % 2, weather, seed % 3 == 2));
        all.0 += told.acknowledged.len();
        all.1 += told.refused.len();
        all.2 += told.superseded;
    }
    println!("{all:?}");
    assert!(all.0 > 100 && all.1 > 2 && all.2 > 20, "{all:?}");
}

#[test]
fn in_a_real_store() {
    let store = real_store();
    for seed in seeds(0..6) {
        let weather = match seed % 2 {
            0 => Weather::gale(),
            _ => Weather::storm(),
        };
        let store = Arc::clone(&store);
        let told = block_on(race(store, seed, 3, weather, seed % 3 == 2));
        assert!(!told.acknowledged.is_empty());
    }
}

/// Many WALs that are each written a little more than their share of the
/// memory: together they stay within the budget, and release objects that are
/// no longer needed.
#[test]
fn all_wals_together_hold_what_they_may() {
    const WALS: u64 = 20;
    const LIMIT: u64 = 64 << 10;
    let memory = Memory::new(LIMIT);
    let config = || ObjectWalConfig {
        cache_bytes: 1 << 20,
        memory: memory.clone(),
        ..small()
    };
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    block_on(async {
        let mut wals = Vec::new();
        for n in 0..WALS {
            let prefix = Path::from(format!("log-{n}"));
            let place = place(Arc::clone(&store), &prefix);
            let wal = ObjectWal::open(&place, config()).await.unwrap();
            let epoch = wal.seal().await.unwrap().epoch();
            wal.begin(epoch, Lsn(100)).await.unwrap();
            let mut start = Lsn(100);
            for seq in 1..=50 {
                let frame = Frame {
                    seq: FrameSeq(seq),
                    start,
                    body: FrameBody::Redo(vec![n as u8; 1000].into()),
                };
                start = frame.end();
                wal.append(epoch, vec![frame]).await.unwrap();
            }
            let mut durable = wal.durable();
            durable.wait_for(|d| d.seq() == FrameSeq(50)).await.unwrap();
            wals.push(wal);
        }
        let each = config().object_bytes + 200;
        let used = memory.used();
        println!("{used} bytes in {WALS} WALs");
        assert!(used > LIMIT / 2, "{used}");
        assert!(used <= LIMIT + WALS * each, "{used}");
        for wal in &wals {
            wal.trim(wal.durable().borrow().position()).unwrap();
        }
        assert!(memory.used() <= WALS * each, "{}", memory.used());
        for wal in wals {
            wal.close().await.unwrap();
        }
    });
    // Memory that waited for the last request is released with it.
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while memory.used() > 0 {
        assert!(std::time::Instant::now() < until, "{}", memory.used());
        std::thread::yield_now();
    }
}
