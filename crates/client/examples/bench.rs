//! Measures the client alone, over TCP on the loopback interface and over a Unix socket,
//! with a server that answers at once: page latency with 1 to 16 threads, batches,
//! commits, redo throughput.
//!
//! `cargo run --release -p xylem-client --example bench`

// A failure may end this command-line tool.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{IoSlice, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use xylem_client::client::{Client, PageWanted};
use xylem_client::config::Config;
use xylem_client::pages::Target;
use xylem_client::status::Status;
use xylem_wire::{
    Ack, Fault, FrameHead, Hello, Kind, PREFACE_BYTES, Received, Role, Standing, ack,
    check_preface, fault, page_head, pong, welcome,
};

const PAGE: usize = 16384;
const START: u64 = 12288;

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    listen(Domain::UNIX, &SockAddr::unix(&path).unwrap());
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let addr = listen(Domain::IPV4, &any.into()).as_socket().unwrap();
    let mut config = Config::new("127.0.0.1", addr.port());
    config.epoch = 1;
    config.start_lsn = START;
    let tcp = Client::start(config.clone()).unwrap();
    config.socket = Some(path);
    let unix = Client::start(config).unwrap();
    let both = [("tcp ", &tcp), ("unix", &unix)];
    for threads in [1, 2, 4, 16] {
        for (name, client) in both {
            print!("{name} ");
            pages(client, threads);
        }
    }
    for (name, client) in both {
        print!("{name} ");
        batches(client);
    }
    let ends = both.map(|(name, client)| {
        print!("{name} ");
        commits(client, START)
    });
    for (size, count) in [(500, 1_000_000), (64 << 10, 16_384)] {
        for ((name, client), end) in both.into_iter().zip(ends) {
            print!("{name} ");
            // Redo continues where the last part ended.
            let at = client.shared().stats.lsn_queued.get().max(end);
            redo(client, at, size, count);
        }
    }
    tcp.shutdown();
    unix.shutdown();
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

/// Redo in pieces of `size` bytes, and one wait at the end.
fn redo(client: &Client, mut at: u64, size: usize, count: usize) {
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

/// Listens at `addr`, with a thread for each connection. Returns the actual address.
fn listen(domain: Domain, addr: &SockAddr) -> SockAddr {
    let listener = Socket::new(domain, Type::STREAM, None).unwrap();
    listener.bind(addr).unwrap();
    listener.listen(16).unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            if domain != Domain::UNIX {
                socket.set_tcp_nodelay(true).unwrap();
            }
            // The buffers of the real server.
            socket.set_send_buffer_size(1 << 20).unwrap();
            socket.set_recv_buffer_size(1 << 20).unwrap();
            // An error means that the client is gone.
            std::thread::spawn(move || serve(socket).ok());
        }
    });
    addr
}

fn serve(mut socket: Socket) -> std::io::Result<()> {
    let mut received = Received::default();
    while received.rest().len() < PREFACE_BYTES {
        receive(&mut socket, &mut received)?;
    }
    check_preface(received.rest().first_chunk().unwrap()).unwrap();
    received.skip(PREFACE_BYTES);
    let role = loop {
        if let Some(message) = received.next().unwrap() {
            break Hello::decode(message.body).unwrap().role;
        }
        receive(&mut socket, &mut received)?;
    };
    let mut standing = Standing {
        epoch: 1,
        ack: Ack {
            durable_seq: 0,
            durable_lsn: START,
            applied_lsn: START,
        },
    };
    socket.write_all(&welcome(&standing))?;
    match role {
        Role::Pages => serve_pages(socket, received, &standing),
        Role::Redo => serve_redo(socket, received, &mut standing.ack),
    }
}

fn receive(socket: &mut Socket, received: &mut Received) -> std::io::Result<()> {
    match socket.read(received.room())? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        count => {
            received.filled(count);
            Ok(())
        }
    }
}

fn serve_pages(
    mut socket: Socket,
    mut received: Received,
    standing: &Standing,
) -> std::io::Result<()> {
    let page = vec![42u8; PAGE];
    loop {
        while let Some(message) = received.next().unwrap() {
            let id = message.header.id;
            match message.header.kind {
                Kind::GetPage => {
                    let head = page_head(id, START, PAGE);
                    let parts = [IoSlice::new(&head), IoSlice::new(&page)];
                    let sent = socket.send_vectored(&parts)?;
                    let rest = sent.saturating_sub(head.len());
                    socket.write_all(&head[sent.min(head.len())..])?;
                    socket.write_all(&page[rest..])?;
                }
                Kind::Ping => socket.write_all(&pong(id, standing))?,
                _ => {
                    let unknown = Fault {
                        code: 12,
                        message: "only pages and pings",
                    };
                    socket.write_all(&fault(id, &unknown))?;
                }
            }
        }
        receive(&mut socket, &mut received)?;
    }
}

fn serve_redo(
    mut socket: Socket,
    mut received: Received,
    durable: &mut Ack,
) -> std::io::Result<()> {
    loop {
        let before = durable.durable_seq;
        while let Some(message) = received.next().unwrap() {
            let (_, payload) = FrameHead::decode(message.body).unwrap();
            durable.durable_seq = message.header.id;
            durable.durable_lsn += payload.len() as u64;
        }
        if durable.durable_seq > before {
            socket.write_all(&ack(durable))?;
        }
        receive(&mut socket, &mut received)?;
    }
}
