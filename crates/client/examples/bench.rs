//! Measures the client alone, on the loopback interface, with a server that
//! answers at once: page latency with 1 and 16 threads, batches, commits, redo
//! throughput.
//!
//! `cargo run --release -p xylem-client --example bench`

// A failure may end this command-line tool.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use xylem_client::client::{Client, PageWanted};
use xylem_client::config::Config;
use xylem_client::grpc::Deframer;
use xylem_client::pages::Target;
use xylem_client::status::Status;
use xylem_client::wire::{Reader, WireError, Writer};

const PAGE: usize = 16384;
const START: u64 = 12288;

fn main() {
    let (port_out, port_in) = sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            port_out
                .send(listener.local_addr().unwrap().port())
                .unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(connection(stream));
            }
        });
    });
    let mut config = Config::new("127.0.0.1", port_in.recv().unwrap());
    config.epoch = 1;
    config.start_lsn = START;
    let client = Client::start(config).unwrap();
    for threads in [1, 2, 4, 16] {
        pages(&client, threads);
    }
    batches(&client);
    let at = commits(&client, START);
    redo(&client, at);
    client.shutdown();
}

/// Synchronous reads by `threads` threads.
fn pages(client: &Client, threads: u32) {
    let each = 40_000 / threads;
    let started = Instant::now();
    let mut all: Vec<Duration> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|space| {
                scope.spawn(move || {
                    let mut buf = vec![0u8; PAGE];
                    (0..each)
                        .map(|no| {
                            let started = Instant::now();
                            let status = client.get_page(wanted(space, no, &mut buf));
                            assert_eq!(status, Status::Ok);
                            started.elapsed()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        handles
            .into_iter()
            .flat_map(|handle| handle.join().unwrap())
            .collect()
    });
    let took = started.elapsed();
    println!(
        "get_page, {threads:2} threads: {}; {:.0} pages/s, {:.0} MB/s",
        percentiles(&mut all),
        all.len() as f64 / took.as_secs_f64(),
        (all.len() * PAGE) as f64 / took.as_secs_f64() / 1e6
    );
}

fn batches(client: &Client) {
    let mut bufs = vec![vec![0u8; PAGE]; 64];
    let started = Instant::now();
    for _ in 0..500 {
        let all: Vec<_> = bufs
            .iter_mut()
            .zip(0..)
            .map(|(buf, no)| wanted(1, no, buf))
            .collect();
        assert!(
            client
                .get_pages(&all)
                .iter()
                .all(|status| *status == Status::Ok)
        );
    }
    let took = started.elapsed();
    println!(
        "batches of 64: {:.0} us each; {:.0} pages/s, {:.0} MB/s",
        took.as_micros() as f64 / 500.0,
        500.0 * 64.0 / took.as_secs_f64(),
        500.0 * 64.0 * PAGE as f64 / took.as_secs_f64() / 1e6
    );
}

/// 500 bytes of redo and the wait for them, one after the other.
fn commits(client: &Client, mut at: u64) -> u64 {
    let data = vec![7u8; 500];
    let mut all = Vec::new();
    for _ in 0..20_000 {
        let started = Instant::now();
        client.stream_wal(at, &data).unwrap();
        at += data.len() as u64;
        client.wait_durable(at).unwrap();
        all.push(started.elapsed());
    }
    println!("commit of 500 bytes: {}", percentiles(&mut all));
    at
}

fn redo(client: &Client, mut at: u64) {
    for (size, count) in [(500, 1_000_000), (64 << 10, 16_384)] {
        let data = vec![7u8; size];
        let started = Instant::now();
        for _ in 0..count {
            client.stream_wal(at, &data).unwrap();
            at += size as u64;
        }
        client.wait_durable(at).unwrap();
        let took = started.elapsed();
        println!(
            "stream_wal in pieces of {size} bytes: {:.0} MB/s",
            (size * count) as f64 / took.as_secs_f64() / 1e6
        );
    }
}

fn wanted(space_id: u32, page_no: u32, buf: &mut [u8]) -> PageWanted {
    // SAFETY: every caller waits for the page before it frees the buffer.
    let target = unsafe { Target::new(buf.as_mut_ptr(), buf.len()) };
    PageWanted {
        space_id,
        page_no,
        min_lsn: 0,
        target,
    }
}

fn percentiles(all: &mut [Duration]) -> String {
    all.sort();
    let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1e3;
    format!(
        "p50 {:.1} us, p99 {:.1} us, max {:.0} us",
        at(0.5),
        at(0.99),
        at(1.0)
    )
}

async fn connection(stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut connection = h2::server::Builder::new()
        .initial_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(1 << 20)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(call(request, respond));
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Option<()> {
    let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let mut body = request.into_body();
    let head = Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let mut send = respond.send_response(head, false).ok()?;
    let page = vec![42u8; PAGE];
    let mut received = Deframer::new(4 << 20);
    let (mut seq, mut lsn) = (0, START);
    if method == "StreamWAL" {
        put(&mut send, ack(seq, lsn))?;
    }
    while let Some(Ok(chunk)) = body.data().await {
        body.flow_control().release_capacity(chunk.len()).ok()?;
        received.push(chunk);
        while let Some((id, bytes)) = received.next(frame).unwrap() {
            match method.as_str() {
                "PageStream" => {
                    let mut got = Writer::inner();
                    got.bytes(1, &page);
                    let mut answer = Writer::message(PAGE + 64);
                    answer.uint(1, id);
                    answer.nested(4, got);
                    put(&mut send, answer.finish())?;
                }
                "StreamWAL" => {
                    seq = id;
                    lsn += bytes as u64;
                }
                _ => {
                    put(&mut send, Writer::message(0).finish())?;
                }
            }
        }
        if method == "StreamWAL" {
            put(&mut send, ack(seq, lsn))?;
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    send.send_trailers(trailers).ok()
}

fn put(send: &mut SendStream<Bytes>, message: Vec<u8>) -> Option<()> {
    send.send_data(message.into(), false).ok()
}

fn ack(seq: u64, lsn: u64) -> Vec<u8> {
    let mut out = Writer::message(32);
    out.uint(1, seq);
    out.uint(2, lsn);
    out.finish()
}

/// The first field, and the length of the third.
fn frame(reader: &mut Reader<'_, Deframer>) -> Result<(u64, usize), WireError> {
    let (mut id, mut bytes) = (0, 0);
    while let Some((field, wire)) = reader.field()? {
        match field {
            1 => id = reader.uint64(wire)?,
            3 => bytes = reader.nested(wire, |inner| Ok(inner.left()))?,
            _ => reader.skip(wire)?,
        }
    }
    Ok((id, bytes))
}
