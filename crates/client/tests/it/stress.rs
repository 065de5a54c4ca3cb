//! All kinds of calls at once, while connections break at random bytes. No thread may
//! hang, and every byte must be right.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::{PAGE, START, Server, Way, bytes, page, wanted};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use xylem_client::backoff::Jitter;
use xylem_client::client::Client;
use xylem_client::pages::Callback;
use xylem_client::status::Status;

/// How long connections break.
const CUTS: Duration = Duration::from_secs(4);
/// How long the threads may take to end after that.
const PATIENCE: Duration = Duration::from_secs(30);

struct Stress {
    client: Client,
    over: AtomicBool,
    reads: AtomicU64,
    commits: AtomicU64,
    redo: Mutex<Vec<u8>>,
}

impl Stress {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    fn read(&self, space: u32) {
        let mut buf = vec![0u8; PAGE];
        for no in (0..).take_while(|_| self.goes_on()) {
            buf.fill(0);
            assert_eq!(
                self.client.get_page(wanted(space, no, &mut buf)),
                Status::Ok
            );
            assert!(buf == page(space, no, PAGE), "page {space}:{no}");
            self.reads.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn read_batches(&self, space: u32) {
        let mut bufs = vec![vec![0u8; PAGE]; 80];
        while self.goes_on() {
            let all: Vec<_> = (0..)
                .zip(&mut bufs)
                .map(|(no, buf)| wanted(space, no, buf))
                .collect();
            assert_eq!(self.client.get_pages(&all), vec![Status::Ok; 80]);
            for (no, buf) in (0..).zip(&mut bufs) {
                assert!(*buf == page(space, no, PAGE), "page {space}:{no}");
                buf.fill(0);
            }
            self.reads.fetch_add(80, Ordering::SeqCst);
        }
    }

    fn read_without_waiting(&self, space: u32) {
        unsafe extern "C" fn note(context: *mut c_void, status: i32) {
            // SAFETY: the context lives until every read is over.
            unsafe { &*context.cast::<AtomicI32>() }.store(status, Ordering::SeqCst);
        }
        let mut bufs = vec![vec![0u8; PAGE]; 20];
        let statuses: Vec<AtomicI32> = bufs.iter().map(|_| AtomicI32::new(-1)).collect();
        while self.goes_on() {
            for (no, buf) in bufs.iter_mut().enumerate() {
                statuses[no].store(-1, Ordering::SeqCst);
                let context = (&raw const statuses[no]).cast_mut().cast();
                let callback = Callback {
                    done: note,
                    context,
                };
                let wanted = wanted(space, no as u32, buf);
                self.client.get_page_async(wanted, callback).unwrap();
            }
            while statuses.iter().any(|s| s.load(Ordering::SeqCst) == -1) {
                std::thread::sleep(Duration::from_micros(200));
            }
            for (no, buf) in bufs.iter_mut().enumerate() {
                assert_eq!(statuses[no].load(Ordering::SeqCst), 0, "page {no}");
                assert!(*buf == page(space, no as u32, PAGE), "page {space}:{no}");
                buf.fill(0);
            }
            self.reads.fetch_add(20, Ordering::SeqCst);
        }
    }

    /// Commits, and often does not wait for it.
    fn write(&self, seed: u64) {
        let mut jitter = Jitter::new(seed);
        while self.goes_on() {
            let n = jitter.wait(5).as_micros() as usize;
            let piece = bytes(1 + n % 20_000, n);
            let end = {
                let mut redo = self.redo.lock().unwrap();
                let at = START + redo.len() as u64;
                self.client.stream_wal(at, &piece).unwrap();
                redo.extend_from_slice(&piece);
                at + piece.len() as u64
            };
            if !n.is_multiple_of(3) {
                // Another thread's redo, as a rule.
                self.client.wait_durable(end - n as u64 % 5000).unwrap();
                self.client.wait_durable(end).unwrap();
                assert!(self.client.redo().unwrap().durable_lsn() >= end);
                self.commits.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn threads(self: &Arc<Self>) -> Vec<(String, JoinHandle<()>)> {
        type Work = fn(&Stress, u32);
        let work: [(&str, u32, Work); 4] = [
            ("read", 6, Stress::read),
            ("batch", 2, Stress::read_batches),
            ("async", 2, Stress::read_without_waiting),
            ("write", 4, |stress, n| stress.write(n.into())),
        ];
        let mut threads = Vec::new();
        for (name, count, work) in work {
            for n in 0..count {
                let this = Arc::clone(self);
                let thread = std::thread::spawn(move || work(&this, n));
                threads.push((format!("{name} {n}"), thread));
            }
        }
        threads
    }
}

fn stress(way: Way, connections: u32, seed: u64) {
    let server = Server::start();
    let mut config = server.config_by(way);
    config.connections = connections;
    config.queue_bytes = 300_000;
    let stress = Arc::new(Stress {
        client: Client::start(config).unwrap(),
        over: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        commits: AtomicU64::new(0),
        redo: Mutex::default(),
    });
    let threads = stress.threads();
    let mut jitter = Jitter::new(seed);
    let started = Instant::now();
    while started.elapsed() < CUTS {
        let n = jitter.wait(8).as_micros() as u32;
        server.script().reverse = n as usize % 4;
        match n % 3 {
            0 => server.cut(),
            _ => server.cut_after(n % 300_000),
        }
        std::thread::sleep(Duration::from_micros((n % 40_000).into()));
    }
    stress.over.store(true, Ordering::SeqCst);
    let until = Instant::now() + PATIENCE;
    for (name, thread) in threads {
        while !thread.is_finished() {
            assert!(Instant::now() < until, "thread {name} hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
        thread.join().unwrap();
    }
    stress.client.shutdown();
    let script = server.script();
    assert_eq!(script.problems, Vec::<String>::new());
    assert!(script.redo() == *stress.redo.lock().unwrap());
    let (reads, commits) = (&stress.reads, &stress.commits);
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    println!(
        "{} reads, {} commits, {} streams, {} frames sent again",
        count(reads),
        count(commits),
        script.streams,
        script.resent
    );
    assert!(count(reads) > 100 && count(commits) > 10);
    assert!(script.streams > 20);
    // A TLS handshake takes longer than the server needs for what it had received.
    assert!(script.resent > 0 || way == Way::Tls);
}

#[test]
fn cuts_at_random_over_tcp() {
    stress(Way::Port, 2, 1);
}

#[test]
fn cuts_at_random_over_a_unix_socket() {
    stress(Way::Socket, 1, 2);
}

#[test]
fn cuts_at_random_over_tls() {
    stress(Way::Tls, 2, 3);
}
