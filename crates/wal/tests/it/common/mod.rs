//! Helpers that the tests share: a small configuration and a store on a model
//! disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

pub mod golden;
pub mod line;
pub mod net;
pub mod objects;

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::conformance::{HandClock, Store};
use xylem_wal::disk::model::ModelDisk;
use xylem_wal::{
    BoxFuture, Durable, Entry, LocalWal, LocalWalConfig, Memory, Record, Wal, WalError,
};

/// Small enough that every test crosses segments.
pub fn small() -> LocalWalConfig {
    LocalWalConfig {
        segment_bytes: 24 << 10,
        queue_bytes: 6 << 10,
        max_frame_bytes: 2 << 10,
        batch_bytes: 4 << 10,
        read_ahead_bytes: 1 << 10,
        spare_segments: 2,
        retry: Duration::from_millis(2),
        memory: Memory::default(),
        clock: Clock::system(),
        entropy: Entropy::system(),
    }
}

/// A first segment that is not soon half full: while it is not, the writer is
/// the only one to touch the disk.
pub fn roomy() -> LocalWalConfig {
    LocalWalConfig {
        segment_bytes: 100 << 10,
        max_frame_bytes: 64 << 10,
        ..small()
    }
}

/// A WAL on a model disk.
pub struct ModelStore {
    disk: Mutex<ModelDisk>,
    clock: HandClock,
}

impl ModelStore {
    pub fn new() -> ModelStore {
        ModelStore {
            disk: Mutex::new(ModelDisk::new()),
            clock: HandClock::default(),
        }
    }
}

impl Store for ModelStore {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Wal>, WalError>> {
        Box::pin(async {
            let disk = self.disk.lock().clone();
            let config = LocalWalConfig {
                clock: self.clock.clock(),
                ..small()
            };
            Ok(Arc::new(LocalWal::open_on(Arc::new(disk), config)?) as Arc<dyn Wal>)
        })
    }

    fn crash(&self, seed: u64) {
        let mut disk = self.disk.lock();
        // Now and then the process dies, and not the machine.
        *disk = if seed % 5 == 4 {
            disk.kill()
        } else {
            disk.crash(seed)
        };
    }

    fn hold(&self, held: bool) -> bool {
        self.disk.lock().hold(held);
        true
    }

    fn clock(&self) -> &HandClock {
        &self.clock
    }

    fn queue_bytes(&self) -> u64 {
        small().queue_bytes
    }

    fn frame_bytes_max(&self) -> u64 {
        small().max_frame_bytes
    }
}

/// Opens the WAL on a model disk.
pub fn open(disk: &ModelDisk) -> Result<LocalWal, WalError> {
    LocalWal::open_on(Arc::new(disk.clone()), small())
}

/// Opens it with a roomy first segment.
pub fn open_roomy(disk: &ModelDisk) -> Result<LocalWal, WalError> {
    LocalWal::open_on(Arc::new(disk.clone()), roomy())
}

/// A compute that writes redo of chosen sizes.
pub struct Writer {
    pub epoch: Epoch,
    pub seq: u64,
    pub lsn: u64,
}

impl Writer {
    pub async fn attach(wal: &LocalWal) -> Result<Writer, WalError> {
        let sealed = wal.seal().await?;
        let lsn = sealed.lsn().0.max(Lsn::FIRST.0);
        wal.begin(sealed.epoch(), Lsn(lsn)).await?;
        Ok(Writer {
            epoch: sealed.epoch(),
            seq: 0,
            lsn,
        })
    }

    pub fn redo(&mut self, bytes: usize) -> Frame {
        self.seq += 1;
        // No zeros: a byte that is lost shows.
        let body: Vec<u8> = (0..bytes)
            .map(|i| 1 + ((self.seq as usize * 31 + i * 7) % 255) as u8)
            .collect();
        let frame = Frame {
            seq: FrameSeq(self.seq),
            start: Lsn(self.lsn),
            body: FrameBody::Redo(body.into()),
        };
        self.lsn += bytes as u64;
        frame
    }

    /// Appends one group of these sizes and waits until it is durable.
    pub async fn write(&mut self, wal: &LocalWal, sizes: &[usize]) -> Result<Durable, WalError> {
        let frames = sizes.iter().map(|bytes| self.redo(*bytes)).collect();
        wal.append(self.epoch, frames).await?;
        self.durable(wal).await
    }

    pub async fn durable(&self, wal: &LocalWal) -> Result<Durable, WalError> {
        let mut watch = wal.durable();
        let (epoch, seq) = (self.epoch, FrameSeq(self.seq));
        let reached =
            watch.wait_for(|d| d.epoch() > epoch || (d.epoch() == epoch && d.seq() >= seq));
        match reached.await {
            Ok(durable) => Ok(*durable),
            Err(_) => Err(WalError::Closed),
        }
    }
}

pub fn read_all(wal: &LocalWal) -> Result<Vec<Entry>, WalError> {
    let mut reader = wal.read_from(wal.first())?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        entries.push(entry);
    }
    Ok(entries)
}

pub fn frames(entries: &[Entry]) -> Vec<Frame> {
    let frame = |e: &Entry| {
        if let Record::Frame(f) = &e.record {
            Some(f.clone())
        } else {
            None
        }
    };
    entries.iter().filter_map(frame).collect()
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let patience = Duration::from_secs(30);
    runtime.block_on(async {
        tokio::time::timeout(patience, future)
            .await
            .expect("the test hangs")
    })
}

/// The name of segment `number`.
pub fn segment(number: u64) -> String {
    format!("{number:012}.wal")
}
