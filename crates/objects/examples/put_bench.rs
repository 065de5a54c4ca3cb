//! How fast a store creates objects: `put_bench [URL [BYTES [SECONDS]]]`, by
//! default on a SeaweedFS of its own, which `XYLEM_TEST_WEED` names.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement reads the system's clock, and panics where it fails"
)]

use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_objects::testing::S3Server;
use xylem_objects::{Bucket, BucketConfig, Retry};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let bytes: usize = args.get(1).map_or(16 << 10, |n| n.parse().unwrap());
    let seconds: u64 = args.get(2).map_or(3, |n| n.parse().unwrap());
    let bucket = match args.first() {
        Some(url) => Bucket::open(url, BucketConfig::default()).unwrap(),
        None => {
            let begin = Instant::now();
            let server = S3Server::shared().unwrap();
            println!("started in {:.1} s", begin.elapsed().as_secs_f64());
            server.open(&server.place(), Retry::default()).unwrap()
        }
    };
    let begin = Instant::now();
    bucket.check().unwrap();
    println!("checked in {:.3} s", begin.elapsed().as_secs_f64());
    let next = AtomicU64::new(0);
    for writers in [1, 4, 16] {
        let begin = Instant::now();
        let mut times: Vec<Duration> = std::thread::scope(|s| {
            let writer = || {
                let mut times = Vec::new();
                let content = Bytes::from(vec![7; bytes]);
                while begin.elapsed() < Duration::from_secs(seconds) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let one = Instant::now();
                    bucket
                        .put_new(&format!("bench/{n:016x}"), content.clone())
                        .unwrap();
                    times.push(one.elapsed());
                }
                times
            };
            let writers: Vec<_> = (0..writers).map(|_| s.spawn(writer)).collect();
            writers
                .into_iter()
                .flat_map(|w| w.join().unwrap())
                .collect()
        });
        let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
        times.sort_unstable();
        let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "put_new of {bytes} bytes, {writers} at once: {rate:.0}/s; {:.2} ms median, {:.2} ms p99",
            at(0.5),
            at(0.99)
        );
    }
    bucket.delete_folder("bench").unwrap();
}
