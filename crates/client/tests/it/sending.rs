//! Redo between the thread that queues it, the threads that wait for it, and the
//! library's own thread.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::{START, Server, Way, bytes, code, eventually};
use std::time::{Duration, Instant};
use xylem_client::client::Client;
use xylem_client::status::Status;

/// Queues `count` frames of 10 bytes. Each is sent at once, so none joins another.
fn ten_bytes_each(client: &Client, from: u64, count: u64) {
    for n in 0..count {
        client
            .stream_wal(from + 10 * n, &bytes(10, n as usize))
            .unwrap();
    }
}

/// The system's buffers are full, so the thread that queues cannot send. It does not
/// wait for that.
#[test]
fn a_server_that_does_not_read_does_not_stop_the_writer() {
    for way in Way::ALL {
        let server = Server::start();
        let client = Client::start(server.config_by(way)).unwrap();
        server.script().pause_redo = true;
        let mut all = Vec::new();
        let started = Instant::now();
        for n in 0..400 {
            let piece = bytes(60_000 + n, n);
            client.stream_wal(START + all.len() as u64, &piece).unwrap();
            all.extend_from_slice(&piece);
        }
        assert!(started.elapsed() < Duration::from_secs(5));
        let end = START + all.len() as u64;
        let stats = &client.shared().stats;
        assert_eq!(stats.lsn_queued.get(), end);
        assert!(stats.lsn_sent.get() < end, "the buffers were never full");
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| client.wait_durable(end));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!commit.is_finished());
            // Nobody queues any more, so the library's thread sends the rest.
            server.script().pause_redo = false;
            commit.join().unwrap().unwrap();
        });
        let script = server.script();
        assert_eq!(script.problems, Vec::<String>::new());
        assert!(script.redo() == all);
        assert_eq!((script.streams, script.resent), (1, 0));
        drop(script);
        client.shutdown();
    }
}

/// Without a thread that waits, too.
#[test]
fn redo_is_sent_and_acknowledged_though_nobody_waits() {
    let server = Server::start();
    let client = server.client();
    client.shared().limits.set(200, 2000);
    server.script().pause_redo = true;
    let all = bytes(9_000_000, 5);
    client.stream_wal(START, &all).unwrap();
    server.script().pause_redo = false;
    let end = START + all.len() as u64;
    eventually("durable", || client.shared().stats.lsn_durable.get() == end);
    ten_bytes_each(&client, end, 5000);
    eventually("durable", || {
        client.shared().stats.lsn_durable.get() == end + 50_000
    });
    assert_eq!(server.script().problems, Vec::<String>::new());
    client.shutdown();
}

/// Each wait ends with its own frame, whichever thread received the acknowledgement.
#[test]
fn waits_end_in_the_order_of_their_redo() {
    const FRAMES: u64 = 12;
    // The first thread to wait leads.
    for first in [0, FRAMES - 1, FRAMES / 2] {
        let server = Server::start();
        let client = server.client();
        server.script().ack_limit = Some(0);
        ten_bytes_each(&client, START, FRAMES);
        let mut order: Vec<u64> = (0..FRAMES).collect();
        order.swap(0, first as usize);
        std::thread::scope(|scope| {
            let mut waiters: Vec<_> = order
                .iter()
                .map(|frame| {
                    let lsn = START + 10 * frame + 1 + frame % 10;
                    let client = &client;
                    let waiter = scope.spawn(move || client.wait_durable(lsn));
                    std::thread::sleep(Duration::from_millis(5));
                    (*frame, waiter)
                })
                .collect();
            waiters.sort_by_key(|(frame, _)| *frame);
            for (frame, waiter) in waiters {
                assert!(!waiter.is_finished(), "frame {frame}");
                server.script().ack_limit = Some(frame as usize + 1);
                waiter.join().unwrap().unwrap();
                assert_eq!(
                    client.redo().unwrap().durable_lsn(),
                    START + 10 * frame + 10
                );
            }
        });
        assert_eq!(server.script().streams, 1);
        client.shutdown();
    }
}

#[test]
fn waiting_for_all_is_bounded() {
    let server = Server::start();
    let mut config = server.config();
    config.request_timeout_ms = 400;
    config.retry_limit_ms = 1000;
    let client = Client::start(config).unwrap();
    let queue = client.redo().unwrap();
    queue.wait_all(client.shared()).unwrap();
    server.script().ack_limit = Some(5);
    ten_bytes_each(&client, START, 10);
    std::thread::scope(|scope| {
        let all = scope.spawn(|| queue.wait_all(client.shared()));
        client.wait_durable(START + 50).unwrap();
        assert!(!all.is_finished());
        server.script().ack_limit = None;
        all.join().unwrap().unwrap();
    });
    assert_eq!(queue.durable_lsn(), START + 100);
    // The server answers pings, for which a commit would wait.
    server.script().hold_acks = true;
    ten_bytes_each(&client, START + 100, 1);
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| client.wait_durable(START + 110));
        let started = Instant::now();
        let error = queue.wait_all(client.shared()).unwrap_err();
        assert_eq!(error.status, Status::Timeout);
        assert!(started.elapsed() >= Duration::from_millis(900));
        assert!(started.elapsed() < Duration::from_secs(4));
        assert!(!commit.is_finished());
        server.script().hold_acks = false;
        commit.join().unwrap().unwrap();
    });
    client.shutdown();
}

/// What was sent and is not durable is sent again, byte for byte: the script compares.
#[test]
fn a_lost_connection_is_resumed_while_threads_wait() {
    let server = Server::start();
    let client = server.client();
    server.script().ack_limit = Some(5);
    ten_bytes_each(&client, START, 20);
    let lsns = [START + 200, START + 60, START + 130, START + 51];
    std::thread::scope(|scope| {
        let client = &client;
        let waiters = lsns.map(|lsn| scope.spawn(move || client.wait_durable(lsn)));
        eventually("received", || server.script().frames.len() == 20);
        client.wait_durable(START + 50).unwrap();
        for round in 1..4 {
            server.cut();
            eventually("sent again", || server.script().resent == 15 * round);
        }
        assert!(!waiters.iter().any(|waiter| waiter.is_finished()));
        server.script().ack_limit = None;
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
    assert_eq!(server.script().problems, Vec::<String>::new());
    assert_eq!(client.shared().stats.reconnects.get(), 3);
    client.shutdown();
}

/// A connection that breaks in the middle of what the system had no room for.
#[test]
fn a_lost_connection_with_half_a_frame_sent() {
    let server = Server::start();
    let client = server.client();
    server.script().pause_redo = true;
    let all = bytes(12_000_000, 9);
    client.stream_wal(START, &all).unwrap();
    let end = START + all.len() as u64;
    assert!(client.shared().stats.lsn_sent.get() < end);
    server.cut();
    server.script().pause_redo = false;
    client.wait_durable(end).unwrap();
    let script = server.script();
    assert_eq!(script.problems, Vec::<String>::new());
    assert!(script.redo() == all);
    drop(script);
    client.shutdown();
}

#[test]
fn a_shutdown_ends_all_waits() {
    let server = Server::start();
    let mut config = server.config();
    config.queue_bytes = 50_000;
    config.request_timeout_ms = 400;
    config.retry_limit_ms = 1000;
    let client = Client::start(config).unwrap();
    server.script().hold_acks = true;
    client.stream_wal(START, &bytes(40_000, 1)).unwrap();
    std::thread::scope(|scope| {
        let client = &client;
        let commits =
            [1, 20_000, 40_000].map(|at| scope.spawn(move || client.wait_durable(START + at)));
        let writer = scope.spawn(|| client.stream_wal(START + 40_000, &bytes(40_000, 2)));
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!commits.iter().any(|commit| commit.is_finished()));
        assert!(!writer.is_finished());
        let started = Instant::now();
        client.shutdown();
        assert!(started.elapsed() < Duration::from_secs(4));
        for commit in commits {
            let error = commit.join().unwrap().unwrap_err();
            assert_eq!(error.status, Status::Cancelled, "{error}");
        }
        let error = writer.join().unwrap().unwrap_err();
        assert_eq!(error.status, Status::Cancelled, "{error}");
    });
}

/// An acknowledgement and the end of the connection arrive together.
#[test]
fn an_acknowledgement_before_the_end_counts() {
    let server = Server::start();
    let client = server.client();
    client.stream_wal(START, b"abc").unwrap();
    client.wait_durable(START + 3).unwrap();
    for n in 1..6 {
        // Nobody waits for this frame, so its acknowledgement is read late.
        server.script().damaged = (n + 1, 1);
        client.stream_wal(START + 3 * n, b"def").unwrap();
        eventually("sent again", || {
            server.script().frames.len() as u64 == n + 1
        });
    }
    client.wait_durable(START + 18).unwrap();
    assert_eq!(server.script().problems, Vec::<String>::new());
    client.shutdown();
}

/// The thread that sends finds the connection broken before anyone reads why.
#[test]
fn the_reason_of_an_end_is_read_though_sending_failed() {
    let server = Server::start();
    let client = server.client();
    client.stream_wal(START, b"abc").unwrap();
    client.wait_durable(START + 3).unwrap();
    server.script().damaged = (20, usize::MAX);
    let mut at = START + 3;
    let started = Instant::now();
    let error = loop {
        match client.stream_wal(at, &bytes(500, 7)) {
            Ok(()) => at += 500,
            Err(error) => break error,
        }
        assert!(started.elapsed() < Duration::from_secs(10));
    };
    assert_eq!(error.status, Status::Corrupt, "{error}");
    assert!(error.message.contains("sent twice"), "{error}");
    assert_eq!(server.script().streams, 2);
    client.shutdown();
}

/// A refusal of the stream alone reaches commits, writers and page reads.
#[test]
fn the_end_of_a_stream_fences() {
    let server = Server::start();
    let client = server.client();
    server.script().wal_status = Some((code::FAILED_PRECONDITION, "epoch 2 owns it"));
    server.cut();
    let started = Instant::now();
    let mut at = START;
    let error = loop {
        match client
            .stream_wal(at, b"x")
            .and_then(|()| client.wait_durable(at + 1))
        {
            Ok(()) => at += 1,
            Err(error) => break error,
        }
        assert!(started.elapsed() < Duration::from_secs(10));
    };
    assert_eq!(error.status, Status::Fenced);
    assert_eq!(client.ping().unwrap_err().status, Status::Fenced);
    client.shutdown();
}
