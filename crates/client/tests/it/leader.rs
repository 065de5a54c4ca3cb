//! Many threads on one connection for pages: one of them receives for all.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::{PAGE, Server, code, eventually, page, wanted};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use xylem_client::client::Client;
use xylem_client::shared::last_error;
use xylem_client::status::Status;

const THREADS: u32 = 8;

type Reader<'scope> = ScopedJoinHandle<'scope, (Status, Vec<u8>)>;

/// Threads that each read a page that the server holds back. The first one leads.
fn readers<'scope>(
    server: &Server,
    client: &'scope Client,
    scope: &'scope std::thread::Scope<'scope, '_>,
) -> Vec<Reader<'scope>> {
    server.script().held = (0..THREADS).collect();
    let before = server.script().page_requests.len();
    (0..THREADS)
        .map(|no| {
            let reader = scope.spawn(move || {
                let mut buf = vec![0u8; PAGE];
                (client.get_page(wanted(1, no, &mut buf)), buf)
            });
            eventually("asked", || {
                server.script().page_requests.len() == before + no as usize + 1
            });
            reader
        })
        .collect()
}

fn check(no: u32, reader: Reader<'_>) {
    let (status, buf) = reader.join().unwrap();
    assert_eq!(status, Status::Ok, "page {no}");
    assert!(buf == page(1, no, PAGE), "page {no}");
}

/// The leader leaves first, in the middle, or last; each answer ends one wait.
#[test]
fn answers_in_any_order_end_the_right_wait() {
    let orders: [Vec<u32>; 4] = [
        (0..THREADS).collect(),
        (0..THREADS).rev().collect(),
        vec![3, 0, 7, 1, 2, 6, 5, 4],
        vec![4, 5, 1, 7, 2, 3, 6, 0],
    ];
    for order in orders {
        let server = Server::start();
        let client = server.narrow_client();
        std::thread::scope(|scope| {
            let mut readers: Vec<_> = readers(&server, &client, scope)
                .into_iter()
                .map(Some)
                .collect();
            for no in order {
                // Time for a wrong wait to end.
                std::thread::sleep(Duration::from_millis(10));
                assert!(!readers.iter().flatten().any(Reader::is_finished));
                server.script().held.remove(&no);
                check(no, readers[no as usize].take().unwrap());
            }
        });
        assert_eq!(client.shared().stats.page_retries.get(), 0);
        client.shutdown();
    }
}

/// The leader's answer is overdue while those of others keep arriving, so its receives
/// never time out.
#[test]
fn a_leader_without_an_answer_asks_again() {
    let server = Server::start();
    let client = server.narrow_client();
    client.shared().limits.set(1000, 60_000);
    server.script().aside = 1;
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| {
            let mut buf = vec![0u8; PAGE];
            (client.get_page(wanted(1, 0, &mut buf)), buf)
        });
        eventually("asked", || server.script().page_requests.len() == 1);
        let started = Instant::now();
        let mut buf = vec![0u8; PAGE];
        while !leader.is_finished() {
            assert!(started.elapsed() < Duration::from_secs(10));
            assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Ok);
        }
        check(0, leader);
        assert!(started.elapsed() >= Duration::from_millis(900));
    });
    assert!(client.shared().stats.page_retries.get() >= 1);
    assert_eq!(client.shared().stats.reconnects.get(), 0);
    client.shutdown();
}

/// The answer to an attempt that was given up arrives when the caller has its buffer
/// back.
#[test]
fn a_late_answer_is_dropped() {
    let server = Server::start();
    let client = server.narrow_client();
    // Long enough that a busy machine does not make the link silent.
    client.shared().limits.set(2000, 60_000);
    server.script().aside = 1;
    let mut late = vec![0u8; PAGE];
    let mut buf = vec![0u8; PAGE];
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| client.get_page(wanted(1, 0, &mut late)));
        eventually("set aside", || server.script().aside == 0);
        while !reader.is_finished() {
            // The connection stays alive.
            assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Ok);
        }
        assert_eq!(reader.join().unwrap(), Status::Ok);
    });
    assert!(late == page(1, 0, PAGE));
    late.fill(0xee);
    let open = || {
        let script = server.script();
        script.page_requests.len() - script.page_answers
    };
    // The server counts an answer after it has sent it.
    eventually("only the first attempt is open", || open() == 1);
    server.script().release_aside = true;
    eventually("answered late", || open() == 0);
    // What comes after it is received, so it was, too.
    for no in 2..5 {
        assert_eq!(client.get_page(wanted(1, no, &mut buf)), Status::Ok);
        assert!(buf == page(1, no, PAGE));
    }
    assert!(late.iter().all(|byte| *byte == 0xee));
    assert_eq!(client.shared().stats.reconnects.get(), 0);
    client.shutdown();
}

#[test]
fn a_cut_connection_is_replaced_for_leader_and_followers() {
    let server = Server::start();
    let client = server.narrow_client();
    std::thread::scope(|scope| {
        let readers = readers(&server, &client, scope);
        for round in 1..4 {
            let asked = server.script().page_requests.len();
            server.cut();
            eventually("asked again", || {
                server.script().page_requests.len() == asked + THREADS as usize
            });
            assert!(client.shared().stats.reconnects.get() >= round);
            assert!(!readers.iter().any(Reader::is_finished));
        }
        server.script().held.clear();
        for (no, reader) in (0..).zip(readers) {
            check(no, reader);
        }
    });
    client.shutdown();
}

/// A fault without a request's number ends the connection, with a reason for all that
/// wait on it.
#[test]
fn a_fault_of_the_connection_reaches_all() {
    for (code, expected) in [
        (code::UNAVAILABLE, Status::Ok),
        (code::UNKNOWN, Status::Ok),
        (code::NOT_FOUND, Status::Error),
        (code::UNAUTHENTICATED, Status::Error),
        (code::FAILED_PRECONDITION, Status::Fenced),
    ] {
        let server = Server::start();
        let client = server.narrow_client();
        std::thread::scope(|scope| {
            let readers = readers(&server, &client, scope);
            let asked = server.script().page_requests.len();
            server.script().page_end = Some((code, "for all"));
            if expected == Status::Ok {
                eventually("reconnected", || client.shared().stats.reconnects.get() > 0);
                server.script().page_end = None;
                eventually("asked again", || {
                    server.script().page_requests.len() >= asked + THREADS as usize
                });
                server.script().held.clear();
            }
            for reader in readers {
                assert_eq!(reader.join().unwrap().0, expected, "code {code}");
            }
        });
        if expected == Status::Error {
            assert!(last_error().contains("for all"), "{}", last_error());
        }
        client.shutdown();
    }
}

/// Pages of a batch that are late are asked for again, together; the others are not.
#[test]
fn a_batch_asks_again_for_what_is_late() {
    let server = Server::start();
    let client = server.narrow_client();
    client.shared().limits.set(1000, 60_000);
    server.script().held = [3, 4, 60].into();
    let mut bufs = vec![vec![0u8; PAGE]; 64];
    let all: Vec<_> = (0..)
        .zip(&mut bufs)
        .map(|(no, buf)| wanted(1, no, buf))
        .collect();
    std::thread::scope(|scope| {
        // Keeps the connection alive: pages that are late then do not end it.
        let batch = scope.spawn({
            let client = &client;
            move || client.get_pages(&all)
        });
        let mut buf = vec![0u8; PAGE];
        while server
            .script()
            .page_requests
            .iter()
            .filter(|get| get.page_no == 3)
            .count()
            < 2
        {
            assert_eq!(client.get_page(wanted(1, 99, &mut buf)), Status::Ok);
        }
        server.script().held.clear();
        assert_eq!(batch.join().unwrap(), [Status::Ok; 64]);
    });
    for (no, buf) in (0..).zip(&bufs) {
        assert!(*buf == page(1, no, PAGE), "page {no}");
    }
    let script = server.script();
    let asked = |no| {
        script
            .page_requests
            .iter()
            .filter(|get| get.page_no == no)
            .count()
    };
    assert_eq!((asked(3), asked(4), asked(60)), (2, 2, 2));
    assert_eq!((asked(2), asked(63)), (1, 1));
    drop(script);
    client.shutdown();
}

/// A batch has the patience of one call.
#[test]
fn a_batch_fails_after_one_retry_limit() {
    let server = Server::start();
    let client = server.narrow_client();
    client.shared().limits.set(50, 300);
    server.script().away = true;
    let mut bufs = vec![vec![0u8; PAGE]; 300];
    let all: Vec<_> = (0..)
        .zip(&mut bufs)
        .map(|(no, buf)| wanted(1, no, buf))
        .collect();
    let started = Instant::now();
    let statuses = client.get_pages(&all);
    assert_eq!(statuses, vec![Status::Timeout; 300]);
    assert!(started.elapsed() < Duration::from_secs(3));
    client.shutdown();
}
