//! Measures the WAL in an object store: commits a second and how long each takes,
//! with 1 to 256 clients and a store that is near or far, beside what the store
//! itself can do.
//! `XYLEM_TEST_WEED=PATH cargo run --release -p xylem-wal --example object_bench`
//!
//! The store is an S3 server that is started for it; a proxy delays it. Objects
//! on their way are adaptive, or four at all times, by turns.
#![allow(
    clippy::disallowed_methods,
    reason = "a measurement reads the system's clock"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use xylem_objects::testing::{DelayProxy, Fault, Faulty, Op, S3Server};
use xylem_objects::{Bucket, BucketConfig, Objects};
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{ObjectWal, ObjectWalConfig, Wal, WalError};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The redo of a small transaction.
const COMMIT_BYTES: usize = 600;
const LASTS: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// Added round trips in milliseconds.
const DELAYS: [u64; 3] = [0, 5, 20];
const CLIENTS: [usize; 4] = [1, 16, 64, 256];
/// One put of so many is slower by `SLOWER`, where a part of them is.
const SLOW_ONE_OF: u32 = 100;
const SLOWER: Duration = Duration::from_millis(100);

/// A way to send objects.
struct Variant {
    what: &'static str,
    puts_max: usize,
    adaptive: bool,
    hedge: bool,
}

const FOUR: Variant = Variant {
    what: "four",
    puts_max: 4,
    adaptive: false,
    hedge: false,
};
const NOT_HEDGED: Variant = Variant {
    what: "adaptive, not hedged",
    puts_max: 16,
    adaptive: true,
    hedge: false,
};
const ADAPTIVE: Variant = Variant {
    what: "adaptive",
    hedge: true,
    ..NOT_HEDGED
};

fn main() -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let server = S3Server::shared()?;
    let near = SocketAddr::from((Ipv4Addr::LOCALHOST, server.s3_port()));
    runtime.block_on(async {
        for delay in DELAYS {
            let proxy = match delay {
                0 => None,
                ms => Some(DelayProxy::start(near, Duration::from_millis(ms))?),
            };
            let addr = proxy.as_ref().map_or(near, DelayProxy::addr);
            let store = open(server, addr)?;
            println!("\n{delay} ms of added round trip");
            let bare = alone(&store).await?;
            together(&store).await?;
            compare(&CLIENTS, &[FOUR, ADAPTIVE], bare, || store.clone()).await?;
            if delay == 5 {
                println!("\nthe same, with one put of {SLOW_ONE_OF} slower by {SLOWER:?}");
                let variants = [FOUR, NOT_HEDGED, ADAPTIVE];
                compare(&[16, 64], &variants, bare, || with_slow_puts(&store)).await?;
            }
        }
        Ok(())
    })
}

/// The store as it is reached at `addr`.
fn open(server: &S3Server, addr: SocketAddr) -> Outcome<Objects> {
    let mut settings = server.settings();
    settings.insert("endpoint".to_owned(), format!("http://{addr}"));
    let config = BucketConfig {
        settings,
        ..BucketConfig::default()
    };
    Ok(Bucket::open(&server.place(), config)?.objects().clone())
}

/// Puts one after the other: how long each takes.
async fn alone(store: &Objects) -> Outcome<Duration> {
    let took = puts(store, "alone", 1, LASTS).await?;
    let mean = took.iter().sum::<Duration>() / u32::try_from(took.len())?;
    println!(
        "bare puts of {COMMIT_BYTES} bytes, one after the other: mean {:.2} ms, median {:.2} ms",
        ms(mean),
        ms(part(&took, 500))
    );
    Ok(mean)
}

/// As many puts at a time as the store likes.
async fn together(store: &Objects) -> Outcome {
    for count in [4, 16, 64] {
        let took = puts(store, "together", count, LASTS).await?;
        println!(
            "bare puts, {count} at a time: {:.0}/s, median {:.2} ms",
            took.len() as f64 / LASTS.as_secs_f64(),
            ms(part(&took, 500))
        );
    }
    Ok(())
}

async fn puts(
    store: &Objects,
    what: &str,
    count: usize,
    lasts: Duration,
) -> Outcome<Vec<Duration>> {
    let began = Instant::now();
    let tasks: Vec<_> = (0..count)
        .map(|task| {
            let folder = store.folder(&format!("{what}-{count}-{task}"));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while began.elapsed() < lasts {
                    let sent = Instant::now();
                    let bytes = vec![0x5a; COMMIT_BYTES].into();
                    folder.put_new(&took.len().to_string(), bytes).await?;
                    took.push(sent.elapsed());
                }
                Outcome::Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in tasks {
        took.extend(task.await??);
    }
    took.sort_unstable();
    Ok(took)
}

/// The same store, some of whose puts are slow.
fn with_slow_puts(store: &Objects) -> Objects {
    let faulty = Faulty::new(Arc::clone(store.store()), 1);
    for nth in 1..200 {
        faulty.script(Op::Put, "", nth * SLOW_ONE_OF, 1, Fault::Slow(SLOWER));
    }
    let run = store.stats().requests;
    let config = BucketConfig::default();
    Objects::on(Handle::current(), Arc::new(faulty), "slow://", config)
        .folder(&format!("slow-{}-{run}", std::process::id()))
}

/// The WAL with each variant, by turns.
async fn compare(
    clients: &[usize],
    variants: &[Variant],
    bare: Duration,
    store: impl Fn() -> Objects,
) -> Outcome {
    println!("| clients | | commits/s | to the limit | to four | p50 ms | p99 ms | puts/s |");
    println!("|---:|---|---:|---:|---:|---:|---:|---:|");
    for clients in clients.iter().copied() {
        let mut sums: Vec<_> = variants.iter().map(|_| Measured::default()).collect();
        for round in 0..ROUNDS {
            let mut order: Vec<usize> = (0..variants.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for which in order {
                let variant = &variants[which];
                let config = ObjectWalConfig {
                    puts_max: variant.puts_max,
                    adaptive: variant.adaptive,
                    hedge: variant.hedge,
                    ..ObjectWalConfig::new(Handle::current())
                };
                let place = store().folder(&format!("{clients}-{which}-{round}"));
                sums[which].add(measure(&place, config, clients).await?);
            }
        }
        let four = sums[0].per_second();
        for (variant, sum) in variants.iter().zip(&mut sums) {
            sum.took.sort_unstable();
            println!(
                "| {clients} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.0} |",
                variant.what,
                sum.per_second(),
                sum.per_second() * bare.as_secs_f64() / clients as f64,
                sum.per_second() / four,
                ms(part(&sum.took, 500)),
                ms(part(&sum.took, 990)),
                sum.requests as f64 / sum.lasted.as_secs_f64(),
            );
        }
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value below which so many of a thousand are.
fn part(sorted: &[Duration], thousandths: usize) -> Duration {
    sorted[(sorted.len() * thousandths / 1000).min(sorted.len() - 1)]
}

#[derive(Default)]
struct Measured {
    took: Vec<Duration>,
    lasted: Duration,
    requests: u64,
}

impl Measured {
    fn add(&mut self, more: Measured) {
        self.took.extend(more.took);
        self.lasted += more.lasted;
        self.requests += more.requests;
    }

    fn per_second(&self) -> f64 {
        self.took.len() as f64 / self.lasted.as_secs_f64()
    }
}

/// The state that the clients share: one compute.
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

async fn measure(place: &Objects, config: ObjectWalConfig, clients: usize) -> Outcome<Measured> {
    let wal = Arc::new(ObjectWal::open(place, config).await?);
    let epoch = wal.seal().await?.epoch();
    wal.begin(epoch, Lsn::FIRST).await?;
    let compute = Arc::new(Compute {
        epoch,
        next: tokio::sync::Mutex::new((1, Lsn::FIRST.0)),
        payload: vec![0x5a; COMMIT_BYTES].into(),
    });
    let before = place.stats().requests;
    let started = Instant::now();
    let tasks: Vec<_> = (0..clients)
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
    let measured = Measured {
        took,
        lasted: started.elapsed(),
        requests: place.stats().requests - before,
    };
    match wal.close().await {
        Ok(()) | Err(WalError::Closed) => Ok(measured),
        Err(e) => Err(e.into()),
    }
}
