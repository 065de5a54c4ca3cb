//! The line of a WAL in an object store, step by step: gaps, voids, claims
//! that come late, what trimming leaves, what opening costs, what a store that
//! refuses does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

mod claims;
mod cost;
mod crashes;
mod owners;
mod pace;
mod trimming;
mod trouble;

use crate::common::line::{HEADER, Objects};
use crate::common::net::{Net, Wire};
use crate::common::objects::{fresh_prefix, place, small};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{Durable, Entry, ObjectWal, ObjectWalConfig, Record, Wal, WalError};

/// A store, and a WAL's place in it.
struct Site {
    store: Arc<dyn ObjectStore>,
    net: Arc<Net>,
    prefix: Path,
}

impl Site {
    fn new() -> Site {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Site {
            net: Net::new(Arc::clone(&store), 1),
            store,
            prefix: fresh_prefix("line"),
        }
    }

    async fn open_on(
        &self,
        wire: &Arc<Wire>,
        config: ObjectWalConfig,
    ) -> Result<ObjectWal, WalError> {
        ObjectWal::open(&place(Arc::clone(wire) as _, &self.prefix), config).await
    }

    async fn open(&self) -> ObjectWal {
        self.open_on(&self.net.wire(), small()).await.unwrap()
    }

    async fn objects(&self) -> Objects {
        Objects::read(&self.store, &self.prefix).await
    }

    fn path(&self, number: u64, generation: u64) -> Path {
        let name = format!("{:010x}/{number:012x}-{generation:08x}", number / 512);
        Path::from(format!("{}/{name}", self.prefix))
    }

    async fn get(&self, number: u64, generation: u64) -> Vec<u8> {
        let found = self
            .store
            .get(&self.path(number, generation))
            .await
            .unwrap();
        found.bytes().await.unwrap().to_vec()
    }

    async fn put(&self, number: u64, generation: u64, bytes: Vec<u8>) {
        let path = self.path(number, generation);
        self.store.put(&path, bytes.into()).await.unwrap();
    }
}

/// A compute whose every frame makes an object of its own, with `one_each`.
struct Compute {
    epoch: Epoch,
    seq: u64,
    lsn: u64,
}

fn one_each() -> ObjectWalConfig {
    ObjectWalConfig {
        object_bytes: 1,
        queue_bytes: 1 << 20,
        puts_max: 4,
        ..small()
    }
}

/// As [`one_each`], with as many objects on their way as there can be.
fn many() -> ObjectWalConfig {
    ObjectWalConfig {
        puts_max: 64,
        ..one_each()
    }
}

impl Compute {
    async fn attach(wal: &ObjectWal) -> Compute {
        let sealed = wal.seal().await.unwrap();
        let lsn = sealed.lsn().0.max(100);
        wal.begin(sealed.epoch(), Lsn(lsn)).await.unwrap();
        Compute {
            epoch: sealed.epoch(),
            seq: 0,
            lsn,
        }
    }

    fn frame(&mut self) -> Frame {
        self.seq += 1;
        let frame = Frame {
            seq: FrameSeq(self.seq),
            start: Lsn(self.lsn),
            body: FrameBody::Redo(format!("{}:{}", self.epoch, self.seq).into_bytes().into()),
        };
        self.lsn = frame.end().0;
        frame
    }

    async fn append(&mut self, wal: &ObjectWal, count: usize) {
        for _ in 0..count {
            let frame = self.frame();
            wal.append(self.epoch, vec![frame]).await.unwrap();
        }
    }

    async fn durable(&self, wal: &ObjectWal) -> Durable {
        let (epoch, seq) = (self.epoch, self.seq);
        let mut watch = wal.durable();
        let reached = watch.wait_for(|d| d.epoch() == epoch && d.seq().0 >= seq);
        *reached.await.unwrap()
    }

    async fn write(&mut self, wal: &ObjectWal, count: usize) -> Durable {
        self.append(wal, count).await;
        self.durable(wal).await
    }
}

async fn until(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn frames(entries: &[Entry]) -> Vec<(u64, u64)> {
    let frame = |e: &Entry| match &e.record {
        Record::Frame(frame) => Some((e.epoch.0, frame.seq.0)),
        _ => None,
    };
    entries.iter().filter_map(frame).collect()
}

/// A WAL whose object 4 is still on its way while 5 and 6 are there: 0 to 3
/// hold a seal, a begin and two frames. The writer's wire, too.
async fn with_a_gap(site: &Site) -> (ObjectWal, Arc<Wire>, Compute) {
    let wire = site.net.wire();
    let wal = site.open_on(&wire, one_each()).await.unwrap();
    let mut compute = Compute::attach(&wal).await;
    compute.write(&wal, 2).await;
    site.net.hold_name(Some((&wire, "000000000004-")));
    compute.append(&wal, 3).await;
    until(|| site.net.flying() == 1).await;
    assert_eq!(site.objects().await.void(), [(5, 1), (6, 1)]);
    assert_eq!(wal.durable().borrow().seq(), FrameSeq(2));
    (wal, wire, compute)
}

/// Waits until there are no objects of entries before `first`.
async fn until_removed(site: &Site, first: u64) {
    for _ in 0..2000 {
        let objects = site.objects().await;
        let old = |(name, bytes): (&(u64, u64), &Vec<u8>)| name.0 < first && bytes.len() > HEADER;
        if !objects.all.iter().any(old) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("trimmed objects stay");
}
