//! Measures the WAL in an object store beside the local one: commits a second
//! and how long each takes, for one committer and for 64 at a time.
//! `cargo run --release -p xylem-wal --example object_bench [DIR]`
//!
//! The store is that of `XYLEM_TEST_S3`, with its options in `AWS_…` variables;
//! or an S3 server that is started for it, if `XYLEM_TEST_WEED` says where
//! SeaweedFS's program is; or a directory with fsync.
#![allow(
    clippy::disallowed_methods,
    reason = "a measurement reads the system's clock"
)]

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_objects::testing::S3Server;
use xylem_objects::{BucketConfig, Objects};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{LocalWal, LocalWalConfig, ObjectWal, ObjectWalConfig, Wal, WalError};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The redo of a small transaction.
const COMMIT_BYTES: usize = 600;
const LASTS: Duration = Duration::from_secs(4);

fn main() -> Outcome {
    let base = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(format!("object_bench.{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (store, what) = store(&dir)?;
    let outcome = runtime.block_on(async {
        println!("{COMMIT_BYTES} bytes a commit; {what}");
        for committers in [1, 64] {
            let name = format!("local-{committers}");
            let wal = LocalWal::open(&dir.join(name), LocalWalConfig::default())?;
            let local = measure("local WAL", Arc::new(wal), committers).await?;
            for (what, linger, puts_max) in [
                ("object WAL", 0, 4),
                ("object WAL that lingers for 1 ms", 1, 4),
                ("object WAL, one put at a time", 0, 1),
            ] {
                let config = ObjectWalConfig {
                    linger: Duration::from_millis(linger),
                    puts_max,
                    ..ObjectWalConfig::new(tokio::runtime::Handle::current())
                };
                let run = std::process::id();
                let folder = format!("bench-{run}/{committers}-{linger}-{puts_max}");
                let runtime = tokio::runtime::Handle::current();
                let store = Arc::clone(&store);
                let all = Objects::on(runtime, store, "bench://", BucketConfig::default());
                let wal = ObjectWal::open(&all.folder(&folder), config).await?;
                let object = measure(what, Arc::new(wal), committers).await?;
                println!(
                    "    beside the local WAL: {:.2} of the commits, {:.1} times the latency",
                    object.per_second / local.per_second,
                    object.median.as_secs_f64() / local.median.as_secs_f64()
                );
            }
        }
        Ok(())
    });
    std::fs::remove_dir_all(&dir)?;
    outcome
}

fn store(dir: &std::path::Path) -> Outcome<(Arc<dyn ObjectStore>, String)> {
    let real = match std::env::var("XYLEM_TEST_S3") {
        Ok(url) => Some((url, std::env::vars().collect())),
        Err(_) if std::env::var_os("XYLEM_TEST_WEED").is_some() => {
            let server = S3Server::shared()?;
            Some((server.place(), server.env()))
        }
        Err(_) => None,
    };
    if let Some((url, settings)) = real {
        let settings: Vec<(String, String)> = settings;
        let options = settings
            .into_iter()
            .filter(|(name, _)| name.starts_with("AWS_"))
            .map(|(name, value)| (name.to_ascii_lowercase(), value));
        let (store, prefix) = object_store::parse_url_opts(&url.parse()?, options)?;
        let what = format!("objects in {url}");
        return Ok((Arc::new(PrefixStore::new(store, prefix)), what));
    }
    let objects = dir.join("objects");
    std::fs::create_dir_all(&objects)?;
    let store = LocalFileSystem::new_with_prefix(&objects)?.with_fsync(true);
    let what = format!("objects in {} with fsync", objects.display());
    Ok((Arc::new(store), what))
}

struct Measured {
    per_second: f64,
    median: Duration,
}

/// The state that the committers share: one compute.
struct Compute {
    epoch: Epoch,
    next: tokio::sync::Mutex<(u64, u64)>,
    payload: Arc<[u8]>,
}

impl Compute {
    /// One commit: its redo is appended and waited for.
    async fn commit(&self, wal: &dyn Wal) -> Outcome {
        let seq = {
            let mut next = self.next.lock().await;
            let frame = Frame {
                seq: FrameSeq(next.0),
                start: Lsn(next.1),
                body: FrameBody::Redo(Arc::clone(&self.payload)),
            };
            *next = (next.0 + 1, frame.end().0);
            let seq = frame.seq;
            wal.append(self.epoch, vec![frame]).await?;
            seq
        };
        wal.durable().wait_for(|d| d.seq() >= seq).await?;
        Ok(())
    }
}

async fn measure(what: &str, wal: Arc<dyn Wal>, committers: usize) -> Outcome<Measured> {
    let epoch = wal.seal().await?.epoch();
    wal.begin(epoch, Lsn::FIRST).await?;
    let compute = Arc::new(Compute {
        epoch,
        next: tokio::sync::Mutex::new((1, Lsn::FIRST.0)),
        payload: vec![0x5a; COMMIT_BYTES].into(),
    });
    let started = Instant::now();
    let tasks: Vec<_> = (0..committers)
        .map(|_| {
            let (wal, compute) = (Arc::clone(&wal), Arc::clone(&compute));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while started.elapsed() < LASTS {
                    let began = Instant::now();
                    compute.commit(&*wal).await?;
                    took.push(began.elapsed());
                }
                Outcome::Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    let seconds = started.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |part: usize| took[(took.len() * part / 1000).min(took.len() - 1)];
    let measured = Measured {
        per_second: took.len() as f64 / seconds,
        median: at(500),
    };
    println!(
        "{committers:>3} at a time, {what}: {:.0} commits/s, p50 {} us, p99 {} us, p99.9 {} us",
        measured.per_second,
        at(500).as_micros(),
        at(990).as_micros(),
        at(999).as_micros()
    );
    match wal.close().await {
        Ok(()) | Err(WalError::Closed) => Ok(measured),
        Err(e) => Err(e.into()),
    }
}
