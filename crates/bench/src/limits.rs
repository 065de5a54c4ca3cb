//! Limits of the machine, measured with bare system calls in the same run as what they
//! bound.

use crate::report::{Figure, Report};
use crate::stats::median;
use anyhow::{Context, Result, anyhow};
use rand::Rng;
use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Size of a page.
pub const PAGE_BYTES: usize = 16 << 10;
/// A request for a page, and the page.
const PAGE: Exchange = Exchange {
    there: 40,
    back: PAGE_BYTES,
};
/// The redo of a commit, and its acknowledgement.
const COMMIT: Exchange = Exchange {
    there: 600,
    back: 40,
};
/// Messages of a ping-pong.
const ROUNDS: usize = 3_000;
/// Messages before them, which are not measured.
const WARM_UP: usize = 200;
const SYNCS: usize = 500;
/// Work of a client before each commit, about as much as MariaDB and its client do for a
/// small transaction. The other processor falls asleep meanwhile.
const WORK: Duration = Duration::from_micros(200);
/// Size of the file and of the memory from which pages are copied. It is larger than
/// caches of the processor.
const PAGES: usize = 16_384;
const COPIES: usize = 20_000;

/// Bytes of a request and of its answer.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    there: usize,
    back: usize,
}

/// Medians in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A write of a commit's redo into a file that is already filled with zeros, and
    /// fdatasync.
    pub fdatasync: f64,
    /// A round trip of a commit over loopback TCP.
    pub tcp_commit: f64,
    /// A round trip of a commit over a Unix socket.
    pub unix_commit: f64,
    /// A round trip of a page over loopback TCP.
    pub tcp_page: f64,
    /// A round trip of a page over a Unix socket.
    pub unix_page: f64,
    /// Copying a page in memory.
    pub memcpy: f64,
    /// CRC-32C of a page.
    pub crc: f64,
    /// Reading a page from the system's page cache.
    pub pread: f64,
    /// A commit that is sent to another process over a Unix socket and synced there,
    /// with [`WORK`] before each.
    pub commit_between_work: f64,
}

impl Limits {
    /// A commit that is sent to another process and synced there: its name and time.
    pub fn commit(&self) -> (&'static str, f64) {
        let time = self.fdatasync + self.tcp_commit;
        ("fdatasync + TCP round trip", time)
    }

    /// A commit as a client sends it, which works on something else before.
    pub fn commit_between_work(&self) -> (&'static str, f64) {
        ("the same between other work", self.commit_between_work)
    }

    /// Reading and verifying a page, in bytes per microsecond, which is MB per second.
    pub fn scan_rate(&self) -> (&'static str, f64) {
        let rate = PAGE_BYTES as f64 / (self.pread + self.crc);
        ("pread + CRC-32C", rate)
    }

    /// CRC-32C in MB per second.
    pub fn crc_rate(&self) -> (&'static str, f64) {
        ("CRC-32C", PAGE_BYTES as f64 / self.crc)
    }
}

/// Measures and reports all limits.
pub fn report(report: &mut Report) -> Result<()> {
    let limits = measure()?;
    let rows = [
        (
            "fdatasync of 600 bytes, preallocated file",
            limits.fdatasync,
        ),
        ("round trip of a commit, TCP", limits.tcp_commit),
        ("round trip of a commit, Unix socket", limits.unix_commit),
        ("round trip of a page, TCP", limits.tcp_page),
        ("round trip of a page, Unix socket", limits.unix_page),
        ("memcpy of a page", limits.memcpy),
        ("CRC-32C of a page", limits.crc),
        ("pread of a page, cached", limits.pread),
        (
            "commit: round trip, Unix socket, and fdatasync, between 200 us of other work",
            limits.commit_between_work,
        ),
    ];
    for (name, value) in rows {
        report.figure(Figure::new("limits", name, "us").limit("bare system calls", value));
    }
    Ok(())
}

/// Measures all limits. Takes a few seconds.
pub fn measure() -> Result<Limits> {
    let file = tempfile::tempfile()?;
    Ok(Limits {
        fdatasync: fdatasync(&file)?,
        tcp_commit: over_tcp(COMMIT)?,
        unix_commit: over_unix(COMMIT)?,
        tcp_page: over_tcp(PAGE)?,
        unix_page: over_unix(PAGE)?,
        memcpy: memcpy(),
        crc: crc(),
        pread: pread(&file)?,
        commit_between_work: commit_between_work(&file)?,
    })
}

/// Pages per second over `connections` connections at once, each with one request in
/// flight.
pub fn pages_per_second(connections: usize) -> Result<f64> {
    let pairs: Vec<_> = (0..connections)
        .map(|_| tcp_pair())
        .collect::<Result<_>>()?;
    let each = (ROUNDS * 4 / connections).max(100);
    let started = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .into_iter()
            .map(|(near, far)| {
                scope.spawn(move || answer(far, PAGE, |_| Ok(())));
                scope.spawn(move || ping_pong(near, PAGE, each, || ()))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let times = thread.join().map_err(|_| anyhow!("a client panicked"))?;
            times.map(|_| ())
        })
    })?;
    Ok(((each + WARM_UP) * connections) as f64 / started.elapsed().as_secs_f64())
}

fn over_tcp(exchange: Exchange) -> Result<f64> {
    let (near, far) = tcp_pair()?;
    round_trip(near, far, exchange)
}

fn over_unix(exchange: Exchange) -> Result<f64> {
    let (near, far) = UnixStream::pair()?;
    round_trip(near, far, exchange)
}

fn tcp_pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// The median round trip between two threads.
fn round_trip<S: Read + Write + Send>(near: S, far: S, exchange: Exchange) -> Result<f64> {
    std::thread::scope(|scope| {
        scope.spawn(move || answer(far, exchange, |_| Ok(())));
        ping_pong(near, exchange, ROUNDS, || ()).map(|times| median(&times))
    })
}

/// Times of round trips in microseconds, with `work` before each. Closes the stream at the
/// end.
fn ping_pong(
    mut near: impl Read + Write,
    exchange: Exchange,
    rounds: usize,
    work: impl Fn(),
) -> Result<Vec<f64>> {
    let request = vec![1; exchange.there];
    let mut answer = vec![0; exchange.back];
    let mut times = Vec::with_capacity(rounds);
    for round in 0..rounds + WARM_UP {
        work();
        let started = Instant::now();
        near.write_all(&request)?;
        near.read_exact(&mut answer)?;
        if round >= WARM_UP {
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(times)
}

/// Answers each request after `work` on it, until the other end closes the stream.
///
/// # Errors
/// Those of `work`, which also close the stream.
fn answer(
    mut far: impl Read + Write,
    exchange: Exchange,
    mut work: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut request = vec![0; exchange.there];
    let answer = vec![1; exchange.back];
    while far.read_exact(&mut request).is_ok() {
        work(&request)?;
        if far.write_all(&answer).is_err() {
            break;
        }
    }
    Ok(())
}

fn commit_between_work(file: &File) -> Result<f64> {
    let (near, far) = UnixStream::pair()?;
    let mut at = 0;
    let sync = move |redo: &[u8]| {
        write_and_sync(file, redo, at)?;
        at += redo.len() as u64;
        Ok(())
    };
    let work = || {
        let until = Instant::now() + WORK;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(move || answer(far, COMMIT, sync));
        let times = ping_pong(near, COMMIT, SYNCS, work);
        match server.join() {
            // The reason why the stream closed, if it did too early.
            Ok(served) => served.context("cannot write durably")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        times.map(|times| median(&times))
    })
}

fn write_and_sync(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    file.write_all_at(bytes, at)?;
    file.sync_data()
}

/// Leaves the file with [`PAGES`] pages.
fn fdatasync(file: &File) -> Result<f64> {
    for page in 0..PAGES {
        file.write_all_at(&[0; PAGE_BYTES], (page * PAGE_BYTES) as u64)?;
    }
    file.sync_all()?;
    let redo = vec![1; COMMIT.there];
    let mut times = Vec::with_capacity(SYNCS);
    for n in 0..SYNCS {
        let started = Instant::now();
        write_and_sync(file, &redo, (n * redo.len()) as u64)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

fn memcpy() -> f64 {
    let from = vec![1u8; PAGES * PAGE_BYTES];
    let mut to = vec![0u8; PAGE_BYTES];
    each_page(|page| {
        to.copy_from_slice(&from[page * PAGE_BYTES..][..PAGE_BYTES]);
        black_box(&to);
        Ok(())
    })
    .unwrap_or(f64::NAN)
}

/// Of a page that was just written and therefore is in a cache of the processor, as after
/// a read.
fn crc() -> f64 {
    let page = vec![1u8; PAGE_BYTES];
    each_page(|_| {
        black_box(crc32c::crc32c(black_box(&page)));
        Ok(())
    })
    .unwrap_or(f64::NAN)
}

fn pread(file: &File) -> Result<f64> {
    let mut to = vec![0; PAGE_BYTES];
    each_page(|page| {
        let at = (page * PAGE_BYTES) as u64;
        file.read_exact_at(&mut to, at).context("cannot read")
    })
}

/// The median time of `work` on random pages.
fn each_page(mut work: impl FnMut(usize) -> Result<()>) -> Result<f64> {
    let mut rng = rand::rng();
    let mut times = Vec::with_capacity(COPIES);
    for _ in 0..COPIES {
        let page = rng.random_range(0..PAGES);
        let started = Instant::now();
        work(page)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}
