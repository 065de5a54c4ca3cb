//! Page reads against a scripted server.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::{PAGE, START, Server, eventually, page, wanted};
use std::time::{Duration, Instant};
use xylem_client::client::PageWanted;
use xylem_client::status::Status;
use xylem_wire::GetPage;

#[test]
fn sync_reads() {
    let server = Server::start();
    let client = server.client();
    for no in 0..100 {
        let mut buf = vec![0u8; PAGE];
        assert_eq!(client.get_page(wanted(5, no, &mut buf)), Status::Ok);
        assert_eq!(buf, page(5, no, PAGE));
    }
    let stats = &client.shared().stats;
    assert_eq!(stats.pages_read.get(), 100);
    assert_eq!(stats.page_bytes.get(), 100 * PAGE as u64);
    let expected = GetPage {
        space_id: 5,
        page_no: 0,
        min_lsn: START + 77,
        timeout_ms: 9000,
    };
    assert_eq!(server.script().page_requests[0], expected);
    // A page that the compute never changed shows the state of its attach.
    let mut buf = vec![0u8; PAGE];
    let request = PageWanted {
        min_lsn: 0,
        ..wanted(5, 100, &mut buf)
    };
    assert_eq!(client.get_page(request), Status::Ok);
    let get = server.script().page_requests[100];
    assert_eq!((get.page_no, get.min_lsn), (100, START));
    client.shutdown();
    let mut buf = vec![0u8; PAGE];
    assert_eq!(client.get_page(wanted(5, 1, &mut buf)), Status::Cancelled);
}

#[test]
fn every_page_size_and_many_threads() {
    for size in [1024, 4096, 8192, 65536] {
        let server = Server::start();
        server.script().page_size = size;
        let client = server.client();
        std::thread::scope(|scope| {
            for space in 0..8 {
                let client = &client;
                scope.spawn(move || {
                    for no in 0..50 {
                        let mut buf = vec![0u8; size];
                        assert_eq!(client.get_page(wanted(space, no, &mut buf)), Status::Ok);
                        assert_eq!(buf, page(space, no, size));
                    }
                });
            }
        });
        client.shutdown();
    }
}

#[test]
fn batch_of_more_than_may_be_under_way_out_of_order() {
    let server = Server::start();
    server.script().reverse = 8;
    let client = server.client();
    let mut bufs = vec![vec![0u8; PAGE]; 4096];
    let all: Vec<_> = bufs
        .iter_mut()
        .enumerate()
        .map(|(no, b)| wanted(9, no as u32, b))
        .collect();
    let statuses = client.get_pages(&all);
    assert!(statuses.iter().all(|s| *s == Status::Ok));
    for (no, buf) in bufs.iter().enumerate() {
        assert!(*buf == page(9, no as u32, PAGE), "page {no}");
    }
    client.shutdown();
}

#[test]
fn answers_that_are_not_retried() {
    let server = Server::start();
    let client = server.client();
    let mut buf = vec![0u8; PAGE];
    for (code, status) in [
        (5, Status::NotFound),
        (3, Status::Error),
        (11, Status::Error),
        (15, Status::Corrupt),
        (16, Status::Error),
    ] {
        server.script().page_statuses = vec![(code, "because".to_owned())];
        assert_eq!(client.get_page(wanted(1, 1, &mut buf)), status);
    }
    assert!(xylem_client::shared::last_error().contains("because"));
    // A buffer of another size is an error that names both.
    let mut small = vec![0u8; 8192];
    assert_eq!(client.get_page(wanted(1, 1, &mut small)), Status::Error);
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Ok);
    client.shutdown();
}

#[test]
fn answers_that_are_retried() {
    let server = Server::start();
    let client = server.client();
    let mut buf = vec![0u8; PAGE];
    server.script().page_statuses = [14, 4, 8]
        .iter()
        .map(|code| (*code, "later".to_owned()))
        .collect();
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Ok);
    assert_eq!(buf, page(1, 1, PAGE));
    assert_eq!(client.shared().stats.page_retries.get(), 3);
    client.shutdown();
}

/// While the server responds that it cannot answer yet, for example because its
/// store is unavailable, calls wait far longer than the retry limit.
#[test]
fn a_server_that_answers_later_is_waited_for() {
    let server = Server::start();
    let client = server.client();
    client.shared().limits.set(100, 300);
    server.script().page_statuses = vec![(14, "the store is away".to_owned()); 100_000];
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buf = vec![0u8; PAGE];
            let status = client.get_page(wanted(1, 1, &mut buf));
            (status, buf, begin.elapsed())
        });
        while begin.elapsed() < Duration::from_millis(1500) {
            assert!(!reader.is_finished(), "a read must wait");
            std::thread::sleep(Duration::from_millis(20));
        }
        server.script().page_statuses.clear();
        let (status, buf, took) = reader.join().unwrap();
        assert_eq!(status, Status::Ok);
        assert_eq!(buf, page(1, 1, PAGE));
        assert!(took > Duration::from_millis(1500));
    });
    client.shutdown();
}

/// A server that answers pings counts as responding, even if it never answers
/// requests.
#[test]
fn a_server_that_answers_pings_is_waited_for() {
    let server = Server::start();
    let client = server.client();
    client.shared().limits.set(200, 2000);
    server.script().silent = true;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buf = vec![0u8; PAGE];
            client.get_page(wanted(1, 1, &mut buf))
        });
        while begin.elapsed() < Duration::from_secs(5) {
            assert!(!reader.is_finished(), "a read must wait");
            std::thread::sleep(Duration::from_millis(20));
        }
        server.script().silent = false;
        assert_eq!(reader.join().unwrap(), Status::Ok);
    });
    client.shutdown();
}

#[test]
fn a_page_that_the_server_fails_on_is_damaged() {
    let server = Server::start();
    let client = server.client();
    let mut buf = vec![0u8; PAGE];
    server.script().page_statuses = vec![(13, "a read ended early".to_owned())];
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Corrupt);
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Ok);
    client.shutdown();
}

#[test]
fn an_ended_stream_and_a_cut_connection_are_resumed() {
    let server = Server::start();
    let client = server.narrow_client();
    let mut buf = vec![0u8; PAGE];
    server.script().drop_pages_after = Some(3);
    for no in 0..10 {
        assert_eq!(client.get_page(wanted(1, no, &mut buf)), Status::Ok);
        assert_eq!(buf, page(1, no, PAGE));
    }
    std::thread::scope(|scope| {
        for space in 0..4 {
            let client = &client;
            scope.spawn(move || {
                let mut buf = vec![0u8; PAGE];
                for no in 0..300 {
                    assert_eq!(client.get_page(wanted(space, no, &mut buf)), Status::Ok);
                    assert_eq!(buf, page(space, no, PAGE));
                }
            });
        }
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(20));
            server.cut();
        }
    });
    assert!(client.shared().stats.reconnects.get() > 0);
    client.shutdown();
}

#[test]
fn a_silent_server_times_out_and_shutdown_cancels() {
    let server = Server::start();
    let client = server.client();
    client.shared().limits.set(50, 200);
    // It answers no pings either.
    server.script().away = true;
    let mut buf = vec![0u8; PAGE];
    let started = Instant::now();
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Timeout);
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!(started.elapsed() < Duration::from_secs(2));
    client.shared().limits.set(10_000, 60_000);
    server.script().away = false;
    server.script().silent = true;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut buf = vec![0u8; PAGE];
            client.get_page(wanted(1, 2, &mut buf))
        });
        eventually("asked", || {
            let script = server.script();
            script.page_requests.iter().any(|get| get.page_no == 2)
        });
        client.shutdown();
        assert_eq!(waiting.join().unwrap(), Status::Cancelled);
    });
}

#[test]
fn a_server_that_is_gone_times_out() {
    let server = Server::start();
    let client = server.client();
    client.shared().limits.set(50, 300);
    server.set_open(false);
    server.cut();
    let mut buf = vec![0u8; PAGE];
    let started = Instant::now();
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Timeout);
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    server.set_open(true);
    client.shared().limits.set(0, 10_000);
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Ok);
    client.shutdown();
}

#[test]
fn fencing_sticks() {
    let server = Server::start();
    let client = server.client();
    let mut buf = vec![0u8; PAGE];
    server.script().page_statuses = vec![(9, "epoch 2 owns it".to_owned())];
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Fenced);
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Fenced);
    assert_eq!(
        client.stream_wal(START, b"x").unwrap_err().status,
        Status::Fenced
    );
    assert_eq!(client.ping().unwrap_err().status, Status::Fenced);
    client.shutdown();
}

#[test]
fn the_threads_of_the_library_are_deaf_to_signals() {
    let server = Server::start();
    let client = server.client();
    let mut names = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else {
            continue;
        };
        if name.starts_with("xylem-") {
            let status = std::fs::read_to_string(path.join("status")).unwrap();
            let mask = status
                .lines()
                .find_map(|line| line.strip_prefix("SigBlk:"))
                .unwrap();
            let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
            // All signals but KILL, STOP and the two that libc reserves.
            let free = 1 << 8 | 1 << 18 | 1 << 31 | 1 << 32;
            assert_eq!(mask | free, u64::MAX, "{name}: {mask:x}");
            names.push(name.trim().to_owned());
        }
    }
    for name in ["xylem-pages", "xylem-redo"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    client.shutdown();
}
