//! Side files that are written through a `FILE`. libc buffers the writes, so the
//! library sends the whole content when the stream is flushed, synced or closed.
//!
//! MariaDB 10.11 writes none of its side files this way. This module covers other
//! programs that run with the library preloaded.

use super::ops::{self, OPS, Outcome, outcome};
use super::sink::Ops;
use crate::threads::lock;
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

/// The descriptors of streams that are side files, by the address of the stream.
/// Locked after [`OPS`].
static STREAMS: LazyLock<Mutex<HashMap<usize, c_int>>> = LazyLock::new(Mutex::default);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether any stream is a side file.
#[inline]
pub fn any() -> bool {
    COUNT.load(Ordering::Relaxed) != 0
}

/// Whether fopen's `mode` allows writes.
pub fn writes(mode: &[u8]) -> bool {
    mode.iter().any(|byte| matches!(byte, b'w' | b'a' | b'+'))
}

/// Opens the side file `path` by calling `open`, with fopen's `mode`.
pub fn open(
    path: String,
    mode: &[u8],
    open: impl FnOnce() -> *mut libc::FILE,
) -> Outcome<*mut libc::FILE> {
    let mut ops = lock(&OPS);
    let there = super::paths::root().is_some_and(|root| root.join(&path).exists());
    let stream = open();
    if stream.is_null() {
        return Err(super::real::errno());
    }
    // SAFETY: fopen just returned it.
    let fd = unsafe { libc::fileno(stream) };
    let empty = !there || mode.first() == Some(&b'w');
    if let Err(errno) = ops::opened(&mut ops, fd, path, empty, true) {
        // SAFETY: nothing else knows the stream.
        unsafe { super::real::fclose(stream) };
        return Err(errno);
    }
    lock(&STREAMS).insert(stream as usize, fd);
    COUNT.fetch_add(1, Ordering::Relaxed);
    Ok(stream)
}

/// Makes a stream of `fd`, the descriptor of a side file, by calling `open`. The
/// content of the file is then sent like that of other streams.
pub fn adopt(fd: c_int, open: impl FnOnce() -> *mut libc::FILE) -> Outcome<*mut libc::FILE> {
    let mut ops = lock(&OPS);
    ops::refresh(&mut ops, fd);
    let stream = open();
    if stream.is_null() {
        return Err(super::real::errno());
    }
    if let Some(file) = ops.files.get(fd) {
        file.stdio = true;
        lock(&STREAMS).insert(stream as usize, fd);
        COUNT.fetch_add(1, Ordering::Relaxed);
    }
    Ok(stream)
}

/// Sends the content of the file of `fd`, which a stream wrote.
pub fn send_content(ops: &mut Ops, fd: c_int) -> Outcome<u64> {
    let Some(path) = ops.files.get(fd).and_then(|file| file.path.clone()) else {
        return Ok(0);
    };
    let seq = ops::send_file(ops, &path)?;
    if let Some(file) = ops.files.get(fd) {
        file.seq = file.seq.max(seq);
    }
    Ok(seq)
}

/// Flushes `stream`, or all streams if it is null, by calling `flush`.
pub fn flush(stream: *mut libc::FILE, flush: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    let result = outcome(flush())?;
    let fds: Vec<c_int> = lock(&STREAMS)
        .iter()
        .filter(|(address, _)| stream.is_null() || **address == stream as usize)
        .map(|(_, fd)| *fd)
        .collect();
    for fd in fds {
        send_content(&mut ops, fd)?;
    }
    Ok(result)
}

/// Sends the content of the file of `stream` after `flush`, and stops tracking
/// it, because `stream` is about to be reopened as another file.
pub fn leave(stream: *mut libc::FILE, flush: impl FnOnce() -> c_int) -> Outcome {
    close(stream, flush)
}

/// Closes `stream` by calling `close`.
pub fn close(stream: *mut libc::FILE, close: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    let Some(fd) = lock(&STREAMS).remove(&(stream as usize)) else {
        drop(ops);
        return outcome(close());
    };
    COUNT.fetch_sub(1, Ordering::Relaxed);
    let path = ops.files.get(fd).and_then(|file| file.path.clone());
    ops.files.remove(fd);
    let result = outcome(close());
    let seq = match path {
        Some(path) => ops::send_file(&mut ops, &path)?,
        None => 0,
    };
    let ticket = ops.ticket(seq);
    drop(ops);
    ticket.wait()?;
    result
}
