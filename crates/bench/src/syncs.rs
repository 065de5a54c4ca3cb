//! Ways to make the redo of a commit durable, and to hear of it, with bare system calls:
//! what the WAL and the connections of computes could do instead of what they do.

use crate::report::{Figure, Report};
use crate::stats::median;
use anyhow::{Context, Result};
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The redo of a commit.
const COMMIT_BYTES: usize = 600;
/// The least that can be written past the system's page cache.
const BLOCK_BYTES: usize = 4096;
const SYNCS: usize = 500;
const FILE_BYTES: usize = 16 << 20;
const ROUNDS: usize = 3_000;
/// How long syncs at a time are counted.
const LASTS: Duration = Duration::from_secs(1);

/// Measures and reports all.
pub fn report(report: &mut Report) -> Result<()> {
    let path = tempfile::NamedTempFile::new()?;
    let file = OpenOptions::new().write(true).open(path.path())?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;

    let fdatasync = |n: usize| {
        file.write_all_at(&[1; COMMIT_BYTES], at(n, COMMIT_BYTES))?;
        file.sync_data()
    };
    let one_call = |n: usize| write_durably(&file, &[1; COMMIT_BYTES], at(n, COMMIT_BYTES));
    let mut rows = vec![
        ("600 bytes: pwrite, fdatasync", times(fdatasync)?),
        ("600 bytes: pwritev2 with RWF_DSYNC", times(one_call)?),
    ];
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits() as i32)
        .open(path.path());
    match direct {
        Ok(direct) => {
            let buffer = Aligned([1; BLOCK_BYTES]);
            let past_cache = |n: usize| write_durably(&direct, &buffer.0, at(n, BLOCK_BYTES));
            rows.push(("4 KiB: O_DIRECT, RWF_DSYNC", times(past_cache)?));
        }
        Err(e) => report.note(format!(
            "limits: no O_DIRECT in the temporary directory: {e}"
        )),
    }
    rows.push(("600 bytes there, 40 back: both ends spin", spinning()?));
    for (name, value) in rows {
        report.figure(Figure::new("limits", name, "us").limit("bare system calls", value));
    }
    for threads in [1, 2, 4] {
        let name = format!("fdatasyncs of one file, {threads} at a time");
        let rate = at_a_time(&file, threads)?;
        report.figure(
            Figure::new("limits", name, "1/s")
                .higher()
                .limit("bare system calls", rate),
        );
    }
    Ok(())
}

/// The place of write number `n`: one after the other, like entries of a WAL.
fn at(n: usize, bytes: usize) -> u64 {
    (n % (FILE_BYTES / bytes) * bytes) as u64
}

/// A buffer that can be written past the system's page cache.
#[repr(align(4096))]
struct Aligned([u8; BLOCK_BYTES]);

/// Writes and waits until it is durable, in one call.
fn write_durably(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    let written = rustix::io::pwritev2(file, &[IoSlice::new(bytes)], at, ReadWriteFlags::DSYNC)?;
    match written == bytes.len() {
        true => Ok(()),
        false => Err(Errno::IO.into()),
    }
}

/// The median in microseconds.
fn times(mut work: impl FnMut(usize) -> std::io::Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(SYNCS);
    for n in 0..SYNCS {
        let started = Instant::now();
        work(n).context("cannot write durably")?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

/// Writes made durable per second by so many threads, each with places of its own.
fn at_a_time(file: &File, threads: usize) -> Result<f64> {
    let began = Instant::now();
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut done = 0;
                    while began.elapsed() < LASTS {
                        let place = at(done * threads + thread, COMMIT_BYTES);
                        file.write_all_at(&[1; COMMIT_BYTES], place)?;
                        file.sync_data()?;
                        done += 1;
                    }
                    std::io::Result::Ok(done)
                })
            })
            .collect();
        let counts = threads.into_iter().map(|thread| match thread.join() {
            Ok(count) => count.context("cannot write durably"),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        counts.sum::<Result<usize>>()
    })?;
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

/// The median round trip in microseconds over a Unix socket between threads that never
/// sleep: they ask again until something is there.
fn spinning() -> Result<f64> {
    let (near, far) = UnixStream::pair()?;
    for end in [&near, &far] {
        end.set_nonblocking(true)?;
    }
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut request = [0; COMMIT_BYTES];
            while read(&far, &mut request).is_ok() && (&far).write_all(&[1; 40]).is_ok() {}
        });
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let started = Instant::now();
            (&near).write_all(&[1; COMMIT_BYTES])?;
            read(&near, &mut [0; 40])?;
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        // The other thread ends with it.
        drop(near);
        Ok(median(&times))
    })
}

/// Fills the buffer, without sleeping.
fn read(mut from: &UnixStream, buffer: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
