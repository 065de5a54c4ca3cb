//! The connections for pages: how many there are, over TCP and a Unix socket, reads that
//! nobody waits for, and the server's silence.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::{PAGE, START, Server, Way, bytes, code, eventually, page, wanted};
use std::ffi::c_void;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use xylem_client::client::Client;
use xylem_client::pages::{Callback, PageCall};
use xylem_client::status::Status;
use xylem_wire::GetPage;

#[test]
fn idle_connections_are_used_before_new_ones() {
    let server = Server::start();
    let mut config = server.config();
    config.connections = 3;
    let client = Client::start(config).unwrap();
    // The connections with page reads; one more belongs to the background thread.
    let used = || {
        let script = server.script();
        script.page_connections.iter().filter(|n| **n > 0).count()
    };
    let mut buf = vec![0u8; PAGE];
    for no in 100..150 {
        assert_eq!(client.get_page(wanted(1, no, &mut buf)), Status::Ok);
    }
    assert_eq!(used(), 1);
    server.script().held = (0..6).collect();
    std::thread::scope(|scope| {
        for no in 0..6 {
            let client = &client;
            scope.spawn(move || {
                let mut buf = vec![0u8; PAGE];
                assert_eq!(client.get_page(wanted(1, no, &mut buf)), Status::Ok);
                assert!(buf == page(1, no, PAGE));
            });
            let asked = |get: &GetPage| get.page_no == no;
            eventually("asked", || server.script().page_requests.iter().any(asked));
            assert_eq!(used(), (no as usize + 1).min(3));
        }
        // The load is spread.
        let mut loads = server.script().page_connections.clone();
        loads.sort_unstable();
        assert_eq!(loads[loads.len() - 3..], [2, 2, 52]);
        server.script().held.clear();
    });
    for no in 200..250 {
        assert_eq!(client.get_page(wanted(1, no, &mut buf)), Status::Ok);
    }
    assert_eq!(server.script().page_connections.len(), 4);
    client.shutdown();
}

#[test]
fn a_unix_socket_and_tls_serve_as_well_as_a_port() {
    for way in Way::ALL {
        let server = Server::start();
        let mut config = server.config_by(way);
        config.token = Some("secret".to_owned());
        config.branch = "dev".to_owned();
        let client = Client::start(config).unwrap();
        let mut buf = vec![0u8; PAGE];
        let redo = bytes(300_000, 1);
        client.stream_wal(START, &redo).unwrap();
        for no in 0..20 {
            assert_eq!(client.get_page(wanted(1, no, &mut buf)), Status::Ok);
            assert!(buf == page(1, no, PAGE));
            if no == 10 {
                server.cut();
            }
        }
        client.wait_durable(START + 300_000).unwrap();
        assert!(client.ping().unwrap().1 > Duration::ZERO);
        client.shutdown();
        let script = server.script();
        assert!(script.redo() == redo);
        for hello in &script.hellos {
            assert_eq!(
                (hello.branch.as_str(), hello.token.as_str()),
                ("dev", "secret")
            );
        }
    }
    // The error names the socket.
    let server = Server::start();
    let mut config = server.config_by(Way::Socket);
    config.socket = Some(server.path.with_file_name("missing"));
    config.retry_limit_ms = 200;
    let error = Client::start(config).unwrap_err();
    assert_eq!(error.status, Status::Timeout);
    assert!(error.message.contains("/missing"), "{error}");
}

/// Reads that nobody waits for, and their results.
struct Reads {
    bufs: Vec<Vec<u8>>,
    /// -1 until the callback.
    statuses: Vec<AtomicI32>,
    done: AtomicUsize,
}

struct Context<'a>(&'a Reads, usize);

unsafe extern "C" fn note(context: *mut c_void, status: i32) {
    // SAFETY: `begin` passes a leaked box, and the call comes once.
    let Context(reads, no) = *unsafe { Box::from_raw(context.cast::<Context<'_>>()) };
    let before = reads.statuses[no].swap(status, Ordering::SeqCst);
    assert_eq!(before, -1, "called twice");
    reads.done.fetch_add(1, Ordering::SeqCst);
}

fn callback(reads: &Reads, no: usize) -> Callback {
    let context = Box::into_raw(Box::new(Context(reads, no)));
    Callback {
        done: note,
        context: context.cast(),
    }
}

impl Reads {
    fn new(count: usize, size: usize) -> Reads {
        Reads {
            bufs: vec![vec![0; size]; count],
            statuses: (0..count).map(|_| AtomicI32::new(-1)).collect(),
            done: AtomicUsize::new(0),
        }
    }

    /// Begins all reads. The result stays in place until they are over.
    fn begin(count: usize, size: usize, client: &Client) -> Box<Reads> {
        let mut reads = Box::new(Reads::new(count, size));
        for no in 0..count {
            let wanted = wanted(3, no as u32, &mut reads.bufs[no]);
            let callback = callback(&reads, no);
            client.get_page_async(wanted, callback).unwrap();
        }
        reads
    }

    fn over(&self) -> bool {
        self.done.load(Ordering::SeqCst) == self.statuses.len()
    }

    fn check(&self, expected: Status) {
        eventually("all done", || self.over());
        for (no, status) in self.statuses.iter().enumerate() {
            let status = Status::from_code(status.load(Ordering::SeqCst));
            assert_eq!(status, expected, "page {no}");
            if status == Status::Ok {
                let buf = &self.bufs[no];
                assert!(*buf == page(3, no as u32, buf.len()), "page {no}");
            }
        }
    }
}

#[test]
fn async_reads() {
    let server = Server::start();
    server.script().reverse = 7;
    let client = server.client();
    Reads::begin(300, PAGE, &client).check(Status::Ok);
    assert_eq!(client.shared().stats.pages_read_async.get(), 300);
    // Each failure reaches its callback.
    server.script().page_statuses = vec![(code::NOT_FOUND, "no page".to_owned())];
    Reads::begin(1, PAGE, &client).check(Status::NotFound);
    Reads::begin(1, PAGE / 2, &client).check(Status::Error);
    server.script().page_statuses = vec![(code::UNAVAILABLE, "later".to_owned()); 5];
    Reads::begin(3, PAGE, &client).check(Status::Ok);
    client.shutdown();
}

#[test]
fn async_reads_outlive_connections() {
    let server = Server::start();
    let client = server.client();
    for round in 0..5 {
        server.script().held = (0..100).collect();
        let asked = server.script().page_requests.len();
        let reads = Reads::begin(100, PAGE, &client);
        eventually("asked", || server.script().page_requests.len() > asked);
        server.cut();
        if round == 2 {
            // Reads that begin without a connection.
            let more = Reads::begin(50, PAGE, &client);
            server.script().held.clear();
            more.check(Status::Ok);
        }
        server.script().held.clear();
        reads.check(Status::Ok);
    }
    client.shutdown();
}

#[test]
fn async_reads_fail_when_the_server_is_away() {
    let server = Server::start();
    let client = server.client();
    // It refuses connections.
    client.shared().limits.set(50, 300);
    server.set_open(false);
    server.cut();
    let started = Instant::now();
    Reads::begin(10, PAGE, &client).check(Status::Timeout);
    assert!(started.elapsed() >= Duration::from_millis(250));
    server.set_open(true);
    client.shared().limits.set(10_000, 60_000);
    Reads::begin(10, PAGE, &client).check(Status::Ok);
    // It accepts them, and says nothing.
    client.shared().limits.set(50, 300);
    server.script().away = true;
    Reads::begin(10, PAGE, &client).check(Status::Timeout);
    server.script().away = false;
    client.shared().limits.set(10_000, 60_000);
    Reads::begin(10, PAGE, &client).check(Status::Ok);
    client.shutdown();
}

#[test]
fn a_shutdown_completes_async_reads() {
    let server = Server::start();
    let client = server.client();
    server.script().silent = true;
    let reads = Reads::begin(200, PAGE, &client);
    client.shutdown();
    assert!(reads.over(), "a callback after the shutdown");
    reads.check(Status::Cancelled);
    // Later ones are refused without a callback.
    let mut buf = vec![0u8; PAGE];
    let later = Reads::new(1, 0);
    let begun = client.get_page_async(wanted(1, 1, &mut buf), callback(&later, 0));
    assert_eq!(begun, Err(Status::Cancelled));
    assert!(!later.over());
}

/// The last line of defense after a panic: a page would stay locked forever.
#[test]
fn a_call_that_is_dropped_is_completed() {
    let reads = Reads::new(2, PAGE);
    let mut buf = vec![0u8; PAGE];
    let get = GetPage {
        space_id: 1,
        page_no: 1,
        min_lsn: 0,
        timeout_ms: 0,
    };
    let mut call = |no| {
        let target = wanted(1, 1, &mut buf).target;
        PageCall::new(get, target, Instant::now(), callback(&reads, no))
    };
    drop(call(0));
    call(1).complete(Status::NotFound);
    let statuses: Vec<_> = reads
        .statuses
        .iter()
        .map(|status| Status::from_code(status.load(Ordering::SeqCst)))
        .collect();
    assert_eq!(statuses, [Status::Cancelled, Status::NotFound]);
}

/// The system has no room for more requests, because the server reads none.
#[test]
fn requests_that_the_server_does_not_take() {
    let server = Server::start();
    server.script().page_size = 1024;
    let client = Client::start(server.config_by(Way::Socket)).unwrap();
    client.shared().limits.set(300, 60_000);
    server.script().pause_pages = true;
    let started = Instant::now();
    let reads = Reads::begin(20_000, 1024, &client);
    // Calls that nobody waits for are not held up for long.
    assert!(started.elapsed() < Duration::from_secs(8));
    server.script().pause_pages = false;
    reads.check(Status::Ok);
    client.shutdown();
}

/// Each answer to a ping says which epoch is the newest.
#[test]
fn a_pong_fences() {
    let server = Server::start();
    let client = server.client();
    client.shared().limits.set(400, 4000);
    server.script().silent = true;
    server.script().hold_acks = true;
    client.stream_wal(START, b"abc").unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buf = vec![0u8; PAGE];
            client.get_page(wanted(1, 1, &mut buf))
        });
        let commit = scope.spawn(|| client.wait_durable(START + 3));
        let reads = Reads::begin(3, PAGE, &client);
        server.script().epoch = 2;
        assert_eq!(reader.join().unwrap(), Status::Fenced);
        assert_eq!(commit.join().unwrap().unwrap_err().status, Status::Fenced);
        reads.check(Status::Fenced);
    });
    assert!(server.script().pings > 0);
    client.shutdown();
}

#[test]
fn a_welcome_fences() {
    let server = Server::start();
    let client = server.client();
    server.script().epoch = 2;
    server.cut();
    let mut buf = vec![0u8; PAGE];
    assert_eq!(client.get_page(wanted(1, 1, &mut buf)), Status::Fenced);
    // The connection of the redo may hear of it later.
    let durable = client
        .stream_wal(START, b"abc")
        .and_then(|()| client.wait_durable(START + 3));
    assert_eq!(durable.unwrap_err().status, Status::Fenced);
    // It does not connect any more.
    std::thread::sleep(Duration::from_millis(50));
    let hellos = server.script().hellos.len();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.script().hellos.len(), hellos);
    client.shutdown();
}

/// The threads of the library wait for a welcome that does not come.
#[test]
fn a_shutdown_does_not_wait_for_a_welcome() {
    let server = Server::start();
    let client = server.client();
    client.stream_wal(START, b"abc").unwrap();
    server.script().away = true;
    let hellos = server.script().hellos.len();
    server.cut();
    eventually("connecting", || server.script().hellos.len() >= hellos + 2);
    client.shared().limits.set(60_000, 200);
    let started = Instant::now();
    client.shutdown();
    assert!(started.elapsed() < Duration::from_secs(5));
}
