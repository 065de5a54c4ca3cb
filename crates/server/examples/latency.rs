//! Measures the latency of page reads and commits against a server in this process, over
//! loopback. `cargo run --release -p xylem-server --example latency`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a measurement, not a service"
)]

#[path = "../tests/it/common/mod.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it uses a part")]
mod common;

use common::redo::mark;
use common::{Server, Writer, args, config, page, with_database};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use xylem_proto::pageserver::{GetPageRequest, PageStreamRequest};

/// The pages of the hot set, and of the set that does not fit in the cache.
const HOT: u32 = 1000;
const COLD: u32 = 12_000;
const READS: u32 = 20_000;
const IN_FLIGHT: usize = 64;
const COMMITS: u32 = 2_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.wal_segment_size = None;
    let server = Server::with(config(&args)).unwrap();
    let (_, mut writer) = with_database(&server).await;
    let started = Instant::now();
    writer
        .redo(common::redo::tablespace(6, "./test/t2.ibd", COLD + 100))
        .await;
    for number in 3..COLD {
        writer.redo(mark(6, number, number)).await;
    }
    writer.durable().await;
    let took = started.elapsed();
    println!("load: {COLD} mtrs as frames of their own, durable in {took:.2?}");
    let get = page(0, 0);
    let wait = GetPageRequest {
        min_lsn: writer.lsn,
        timeout_ms: 60_000,
        ..get
    };
    server.pages().await.get_page(wait).await.unwrap();
    println!("      applied {:.2?} later", started.elapsed() - took);

    commits(&mut writer).await;
    let hot = |i: u32| page(6, 3 + i.wrapping_mul(7919) % HOT);
    let cold = |i: u32| page(6, 3 + i.wrapping_mul(7919) % (COLD - 3));
    for i in 0..READS {
        if i < HOT {
            server.pages().await.get_page(page(6, 3 + i)).await.unwrap();
        }
    }
    unary("unary, hot", &server, READS, &hot).await;
    stream("stream, hot, one at a time", &server, READS, 1, &hot).await;
    stream("stream, hot", &server, READS * 5, IN_FLIGHT, &hot).await;
    stream("stream, all pages, one at a time", &server, READS, 1, &cold).await;
    stream("stream, all pages", &server, READS, IN_FLIGHT, &cold).await;
    server.stop();
}

async fn commits(writer: &mut Writer) {
    let mut times = Vec::new();
    for i in 0..COMMITS {
        let started = Instant::now();
        writer.redo(mark(6, 3 + i % HOT, i)).await;
        writer.durable().await;
        times.push(started.elapsed());
    }
    report(
        "commit (frame to durable ack), one at a time",
        &mut times,
        None,
    );
}

async fn unary(name: &str, server: &Server, reads: u32, which: &dyn Fn(u32) -> GetPageRequest) {
    let mut client = server.pages().await;
    let mut times = Vec::new();
    let started = Instant::now();
    for i in 0..reads {
        let began = Instant::now();
        client.get_page(which(i)).await.unwrap();
        times.push(began.elapsed());
    }
    report(name, &mut times, Some(started.elapsed()));
}

async fn stream(
    name: &str,
    server: &Server,
    reads: u32,
    in_flight: usize,
    which: &dyn Fn(u32) -> GetPageRequest,
) {
    let (requests, receiver) = mpsc::channel(in_flight);
    let mut answers = server
        .pages()
        .await
        .page_stream(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut began = vec![Instant::now(); reads as usize];
    let mut times = Vec::new();
    let (mut next, started) = (0, Instant::now());
    while times.len() < reads as usize {
        while next < reads && (next as usize) < times.len() + in_flight {
            began[next as usize] = Instant::now();
            let request = PageStreamRequest {
                id: u64::from(next),
                get: Some(which(next)),
            };
            requests.send(request).await.unwrap();
            next += 1;
        }
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.status, 0, "{}", answer.message);
        times.push(began[usize::try_from(answer.id).unwrap()].elapsed());
    }
    report(
        &format!("{name}, {in_flight} in flight"),
        &mut times,
        Some(started.elapsed()),
    );
}

fn report(name: &str, times: &mut [Duration], total: Option<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let rate = total.map_or(String::new(), |total| {
        format!(", {:.0} pages/s", times.len() as f64 / total.as_secs_f64())
    });
    println!(
        "{name}: p50 {:.1?}, p99 {:.1?}, max {:.1?}{rate}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
