//! Measures the local WAL: how long from append to durable, how many bytes a
//! second. `cargo run --release -p xylem-wal --example wal_bench [DIR]`
#![allow(
    clippy::disallowed_methods,
    reason = "a measurement reads the system's clock"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{LocalWal, LocalWalConfig, Wal, WalError};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let base = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(format!("wal_bench.{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()?;
    let outcome = runtime.block_on(async {
        latency(&dir.join("small"), 512, 5000).await?;
        latency(&dir.join("medium"), 16 << 10, 5000).await?;
        throughput(&dir.join("chunks"), 64 << 10, 1 << 30).await?;
        throughput(&dir.join("tiny"), 200, 128 << 20).await?;
        read(&dir.join("chunks"))?;
        read(&dir.join("tiny"))?;
        reopen(&dir.join("reused")).await
    });
    std::fs::remove_dir_all(&dir)?;
    outcome
}

/// A line of redo frames.
struct Source {
    wal: LocalWal,
    epoch: Epoch,
    seq: u64,
    lsn: u64,
}

impl Source {
    async fn new(dir: &std::path::Path) -> Result<Source, WalError> {
        let wal = LocalWal::open(dir, LocalWalConfig::default())?;
        let epoch = wal.seal().await?.epoch();
        wal.begin(epoch, Lsn::FIRST).await?;
        Ok(Source {
            wal,
            epoch,
            seq: 0,
            lsn: Lsn::FIRST.0,
        })
    }

    async fn append(&mut self, payload: &Arc<[u8]>, count: usize) -> Result<(), WalError> {
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            self.seq += 1;
            let body = FrameBody::Redo(Arc::clone(payload));
            frames.push(Frame {
                seq: FrameSeq(self.seq),
                start: Lsn(self.lsn),
                body,
            });
            self.lsn += payload.len() as u64;
        }
        self.wal.append(self.epoch, frames).await
    }

    async fn durable(&self) -> Outcome {
        self.wal
            .durable()
            .wait_for(|d| d.seq() >= FrameSeq(self.seq))
            .await?;
        Ok(())
    }
}

async fn latency(dir: &std::path::Path, bytes: usize, times: usize) -> Outcome {
    let mut source = Source::new(dir).await?;
    let payload: Arc<[u8]> = vec![0x5a; bytes].into();
    let mut took: Vec<Duration> = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        source.append(&payload, 1).await?;
        source.durable().await?;
        took.push(start.elapsed());
    }
    took.sort_unstable();
    let at = |part: usize| took[(times * part / 1000).min(times - 1)].as_micros();
    println!(
        "append to durable, {bytes} bytes: p50 {} us, p90 {} us, p99 {} us, p99.9 {} us, worst {} us",
        at(500),
        at(900),
        at(990),
        at(999),
        at(1000)
    );
    source.wal.close().await?;
    Ok(())
}

async fn throughput(dir: &std::path::Path, bytes: usize, total: usize) -> Outcome {
    let mut source = Source::new(dir).await?;
    let payload: Arc<[u8]> = vec![0x5a; bytes].into();
    let group = (1 << 20) / bytes;
    let start = Instant::now();
    for _ in 0..total / bytes / group {
        source.append(&payload, group).await?;
    }
    source.durable().await?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "throughput, frames of {bytes} bytes: {:.0} MB/s, {:.0} frames/s",
        total as f64 / 1e6 / seconds,
        (total / bytes) as f64 / seconds
    );
    source.wal.close().await?;
    Ok(())
}

fn read(dir: &std::path::Path) -> Outcome {
    let start = Instant::now();
    let wal = LocalWal::open(dir, LocalWalConfig::default())?;
    let opened = start.elapsed();
    let mut reader = wal.read_from(wal.first())?;
    let start = Instant::now();
    let mut bytes = 0u64;
    let mut entries = 0u64;
    while let Some(entry) = reader.next()? {
        entries += 1;
        if let xylem_wal::Record::Frame(frame) = entry.record {
            bytes += frame.end().bytes_since(frame.start);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "open {} ms; read {:.0} MB/s, {:.0} entries/s",
        opened.as_millis(),
        bytes as f64 / 1e6 / seconds,
        entries as f64 / seconds
    );
    Ok(())
}

/// Opening a WAL whose last two segments held others before, and are searched whole for
/// what a crash may have left.
async fn reopen(dir: &std::path::Path) -> Outcome {
    let mut source = Source::new(dir).await?;
    let segment = LocalWalConfig::default().segment_bytes as usize;
    let payload: Arc<[u8]> = (0..64 << 10).map(|n: u32| (n % 251) as u8).collect();
    for _ in 0..8 * segment / payload.len() {
        source.append(&payload, 1).await?;
        source.durable().await?;
        source.wal.trim(source.wal.durable().borrow().position())?;
    }
    source.wal.close().await?;
    drop(source);
    let mut took = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let wal = LocalWal::open(dir, LocalWalConfig::default())?;
        took.push(start.elapsed().as_millis());
        drop(wal);
    }
    println!("open with reused segments: {took:?} ms");
    Ok(())
}
