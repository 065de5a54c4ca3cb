//! The redo stream against a scripted server.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common;
use crate::common::{START, Server, bytes, code, eventually};
use std::time::{Duration, Instant};
use xylem_client::client::Client;
use xylem_client::status::Status;
use xylem_wire::Role;

/// Streams redo in pieces of different sizes; returns all of it.
fn stream(client: &Client, from: u64, pieces: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for n in 0..pieces {
        let piece = bytes(1 + (n * 977) % 5000, n);
        client.stream_wal(from + all.len() as u64, &piece).unwrap();
        all.extend_from_slice(&piece);
    }
    all
}

#[test]
fn redo_becomes_durable() {
    let server = Server::start();
    let client = server.client();
    // With nothing queued, the wait returns at once.
    client.wait_durable(START).unwrap();
    client.wait_durable(u64::MAX).unwrap();
    let all = stream(&client, START, 1000);
    let end = START + all.len() as u64;
    client.wait_durable(end).unwrap();
    assert_eq!(client.redo().unwrap().durable_lsn(), end);
    {
        let script = server.script();
        assert_eq!(script.problems, Vec::<String>::new());
        assert!(script.redo() == all);
        let roles: Vec<_> = script.hellos.iter().map(|hello| hello.role).collect();
        assert!(roles.contains(&Role::Pages) && roles.contains(&Role::Redo));
        for hello in &script.hellos {
            assert_eq!(hello.epoch, 1);
            assert_eq!((hello.branch.as_str(), hello.token.as_str()), ("main", ""));
        }
    }
    // A gap is refused and changes nothing.
    let gap = client.stream_wal(end + 1, b"x").unwrap_err();
    assert_eq!(gap.status, Status::Invalid);
    assert!(gap.message.contains(&end.to_string()), "{gap}");
    // Larger than a frame.
    let large = bytes(5_000_000, 3);
    client.stream_wal(end, &large).unwrap();
    client.wait_durable(end + 1).unwrap();
    client.wait_durable(end + large.len() as u64).unwrap();
    let script = server.script();
    assert!(script.redo().len() == all.len() + large.len());
    assert!(script.frames.len() > 5);
    let stats = &client.shared().stats;
    assert_eq!(stats.lsn_durable.get(), stats.lsn_queued.get());
    drop(script);
    client.shutdown();
}

#[test]
fn numbering_goes_on_where_the_epoch_stands() {
    let server = Server::start();
    server.script().first_seq = 41;
    let client = server.client();
    client.stream_wal(START, b"hello").unwrap();
    client.wait_durable(START + 5).unwrap();
    assert_eq!(server.script().frames[0].seq, 42);
    client.shutdown();
}

#[test]
fn reconnecting_resumes_at_the_right_frame() {
    let server = Server::start();
    server.script().drop_wal_after = vec![3, 10, 11, 40];
    let client = server.client();
    let mut all = Vec::new();
    for n in 0..60 {
        let piece = bytes(2000 + n, n);
        client.stream_wal(START + all.len() as u64, &piece).unwrap();
        all.extend_from_slice(&piece);
        if n % 3 == 0 {
            client.wait_durable(START + all.len() as u64).unwrap();
        }
    }
    client.wait_durable(START + all.len() as u64).unwrap();
    let script = server.script();
    assert_eq!(script.problems, Vec::<String>::new());
    assert!(script.redo() == all);
    assert!(script.streams >= 4, "{}", script.streams);
    drop(script);
    client.shutdown();
}

#[test]
fn cut_connections_lose_and_double_nothing() {
    let server = Server::start();
    let client = server.client();
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut all = Vec::new();
            for n in 0..2000 {
                let piece = bytes(1 + (n * 7919) % 9000, n);
                client.stream_wal(START + all.len() as u64, &piece).unwrap();
                all.extend_from_slice(&piece);
                if n % 20 == 0 {
                    client.wait_durable(START + all.len() as u64).unwrap();
                }
            }
            client.wait_durable(START + all.len() as u64).unwrap();
            all
        });
        while !writer.is_finished() {
            std::thread::sleep(Duration::from_millis(15));
            server.cut();
        }
        all = writer.join().unwrap();
    });
    let script = server.script();
    assert_eq!(script.problems, Vec::<String>::new());
    assert!(script.redo() == all);
    assert!(script.streams > 1);
    drop(script);
    client.shutdown();
}

#[test]
fn shutdown_waits_for_what_is_queued() {
    let server = Server::start();
    let client = server.client();
    let all = stream(&client, START, 500);
    client.shutdown();
    assert!(server.script().redo() == all);
    assert_eq!(
        client.stream_wal(START, b"x").unwrap_err().status,
        Status::Cancelled
    );
}

#[test]
fn a_full_queue_waits_and_then_fails() {
    let server = Server::start();
    let mut config = server.config();
    config.queue_bytes = 100_000;
    let client = Client::start(config).unwrap();
    server.script().away = true;
    client.shared().limits.set(0, 300);
    let mut at = START;
    let started = Instant::now();
    let error = loop {
        match client.stream_wal(at, &bytes(10_000, 1)) {
            Ok(()) => at += 10_000,
            Err(error) => break error,
        }
    };
    assert_eq!(error.status, Status::Timeout);
    assert!(
        at - START <= 100_000 && at - START >= 80_000,
        "{}",
        at - START
    );
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(client.wait_durable(at).unwrap_err().status, Status::Timeout);
    // Acknowledgements make room, and the writer continues.
    client.shared().limits.set(0, 30_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            server.script().away = false;
        });
        client.stream_wal(at, &bytes(10_000, 1)).unwrap();
    });
    client.wait_durable(at + 10_000).unwrap();
    client.shutdown();
}

/// A server whose disk is full, or whose store is unavailable, accepts redo and
/// makes it durable later. It counts as responding because it answers pings.
#[test]
fn commits_wait_for_a_server_that_is_there() {
    let server = Server::start();
    let mut config = server.config();
    config.queue_bytes = 100_000;
    let client = Client::start(config).unwrap();
    server.script().hold_acks = true;
    client.shared().limits.set(200, 2000);
    client.stream_wal(START, b"abc").unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| client.wait_durable(START + 3));
        while begin.elapsed() < Duration::from_secs(5) {
            assert!(!commit.is_finished(), "a commit must wait");
            std::thread::sleep(Duration::from_millis(20));
        }
        server.script().hold_acks = false;
        commit.join().unwrap().unwrap();
    });
    client.shutdown();
}

#[test]
fn fencing_reaches_all_waiters() {
    let server = Server::start();
    let client = server.client();
    server.script().hold_acks = true;
    client.stream_wal(START, b"abc").unwrap();
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn({
                    let client = &client;
                    move || client.wait_durable(START + n % 3 + 1)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        server.script().wal_status = Some((code::FAILED_PRECONDITION, "epoch 2 owns it"));
        for waiter in waiters {
            assert_eq!(waiter.join().unwrap().unwrap_err().status, Status::Fenced);
        }
    });
    assert_eq!(
        client.stream_wal(START + 3, b"x").unwrap_err().status,
        Status::Fenced
    );
    let mut buf = vec![0u8; 16384];
    assert_eq!(
        client.get_page(common::wanted(1, 1, &mut buf)),
        Status::Fenced
    );
    client.shutdown();
}

/// Damage on the network is gone when the frame is sent again. Repeated damage is
/// in this process, and no commit that depends on the frame is acknowledged.
#[test]
fn what_the_server_finds_damaged_is_sent_once_more() {
    let server = Server::start();
    let client = server.client();
    client.stream_wal(START, b"abc").unwrap();
    client.wait_durable(START + 3).unwrap();
    // Each frame may be damaged once.
    for n in 1..4 {
        server.script().damaged = (1 + n, 1);
        client.stream_wal(START + 3 * n, b"def").unwrap();
        client.wait_durable(START + 3 * n + 3).unwrap();
        assert_eq!(server.script().damaged.1, 0);
    }
    assert_eq!(server.script().problems, Vec::<String>::new());
    let streams = server.script().streams;
    server.script().damaged = (5, usize::MAX);
    client.stream_wal(START + 12, b"ghi").unwrap();
    let error = client.wait_durable(START + 15).unwrap_err();
    assert_eq!(error.status, Status::Corrupt);
    assert!(error.message.contains("frame was damaged"), "{error}");
    assert!(error.message.contains("sent twice"), "{error}");
    assert_eq!(
        server.script().streams,
        streams + 1,
        "once more, not more often"
    );
    assert_eq!(client.redo().unwrap().durable_lsn(), START + 12);
    client.shutdown();
}

#[test]
fn a_server_that_lost_redo_is_not_believed() {
    let server = Server::start();
    let client = server.client();
    client.stream_wal(START, b"abc").unwrap();
    client.wait_durable(START + 3).unwrap();
    server.script().lose();
    server.cut();
    client.stream_wal(START + 3, b"def").unwrap();
    let error = client.wait_durable(START + 6).unwrap_err();
    assert_eq!(error.status, Status::Error);
    assert!(error.message.contains("lost acknowledged redo"), "{error}");
    client.shutdown();
}

#[test]
fn refusals_at_the_start() {
    let server = Server::start();
    let start = |change: &dyn Fn(&mut xylem_client::config::Config)| {
        let mut config = server.config();
        config.retry_limit_ms = 400;
        change(&mut config);
        Client::start(config).unwrap_err()
    };
    // The WAL does not end where the compute begins.
    let error = start(&|c| c.start_lsn = 99999);
    assert_eq!(error.status, Status::Invalid);
    assert!(
        error.message.contains("99999") && error.message.contains("12288"),
        "{error}"
    );
    // A newer compute.
    server.script().epoch = 2;
    assert_eq!(start(&|_| ()).status, Status::Fenced);
    server.script().epoch = 1;
    for (refusal, status) in [
        ((code::FAILED_PRECONDITION, "epoch"), Status::Fenced),
        ((code::UNAUTHENTICATED, "token"), Status::Error),
        ((code::NOT_FOUND, "no branch x"), Status::Error),
        ((code::UNAVAILABLE, "starting"), Status::Timeout),
    ] {
        let (_, message) = refusal;
        server.script().status = Some(refusal);
        // On a busy machine the last attempt may fail with the connection and not
        // with an answer, but not in all of several runs.
        let said = (0..5).any(|_| {
            let error = start(&|_| ());
            assert_eq!(error.status, status, "{message}: {error}");
            status == Status::Fenced || error.message.contains(message)
        });
        assert!(said, "no error says {message:?}");
    }
    server.script().status = None;
    // No server listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = start(&|c| c.port = free);
    assert_eq!(error.status, Status::Timeout);
    assert!(
        error.message.contains("refused") && error.message.contains(&free.to_string()),
        "{error}"
    );
}

#[test]
fn a_reader_has_no_redo() {
    let server = Server::start();
    let mut config = server.config();
    config.epoch = 0;
    let client = Client::start(config).unwrap();
    assert_eq!(
        client.stream_wal(START, b"x").unwrap_err().status,
        Status::Invalid
    );
    assert!(client.ping().unwrap().1 < Duration::from_secs(1));
    assert_eq!(client.shared().stats.lsn_durable.get(), START);
    client.shutdown();
    assert_eq!(server.script().streams, 0);
}

#[test]
fn a_restarted_server_is_waited_for() {
    let server = Server::start();
    let client = server.client();
    server.set_open(false);
    server.cut();
    client.stream_wal(START, b"abc").unwrap();
    eventually("noticed", || client.shared().stats.connected.get() == 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            server.set_open(true);
        });
        client.wait_durable(START + 3).unwrap();
    });
    client.shutdown();
}
