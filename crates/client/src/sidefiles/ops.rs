//! The effect of each libc call on a side file: the local operation, then its
//! frame.
//!
//! Every function here returns libc's result, or the `errno` of a failure.

use super::logs;
use super::names::{DDL_LOG, is_database, is_side_file};
use super::paths;
use super::real;
use super::sink::{Ops, Ticket};
use crate::log::{self, Level};
use crate::redo::FileOp;
use crate::threads::lock;
use std::ffi::c_int;
use std::os::unix::fs::FileExt;
use std::sync::{LazyLock, Mutex};
use xylem_types::side_file_max;

/// Orders side-file operations. Held from before the local operation until its
/// frame is queued.
pub static OPS: LazyLock<Mutex<Ops>> = LazyLock::new(|| Mutex::new(Ops::new()));

/// libc's result, or `errno`.
pub type Outcome<T = c_int> = Result<T, c_int>;

/// The largest number of file bytes in a frame.
const PIECE: usize = 1 << 20;

/// Turns a negative result into `errno`.
pub fn outcome<T: PartialOrd + Default>(result: T) -> Outcome<T> {
    if result < T::default() {
        Err(real::errno())
    } else {
        Ok(result)
    }
}

fn stat(fd: c_int) -> Option<libc::stat64> {
    let mut out = std::mem::MaybeUninit::<libc::stat64>::uninit();
    // SAFETY: fstat64 fills in the whole struct when it returns 0.
    unsafe {
        if libc::fstat64(fd, out.as_mut_ptr()) == 0 {
            Some(out.assume_init())
        } else {
            None
        }
    }
}

/// Device and inode of `fd`; zeros if it is not open.
fn identity(fd: c_int) -> (u64, u64) {
    stat(fd).map_or((0, 0), |stat| (stat.st_dev, stat.st_ino))
}

/// Stops tracking `fd` if it belongs to another file now. It was then closed
/// unnoticed and its number was reused.
pub fn refresh(ops: &mut Ops, fd: c_int) {
    if ops
        .files
        .get(fd)
        .is_some_and(|file| file.file != identity(fd))
    {
        ops.files.remove(fd);
    }
}

/// Stops tracking `fd`, which was just opened as another kind of file.
pub fn forget(fd: c_int) {
    lock(&OPS).files.remove(fd);
}

/// Refuses a size of `size` bytes for the side file `path` if it exceeds
/// [`side_file_max`].
fn check_size(path: &str, size: u64) -> Outcome<()> {
    let max = side_file_max(path);
    if size <= max {
        return Ok(());
    }
    log::write(
        Level::Error,
        &format!("refused to extend {path} to {size} bytes (EFBIG): it has at most {max} bytes"),
    );
    Err(libc::EFBIG)
}

fn size_of(fd: c_int) -> u64 {
    stat(fd).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
}

fn exists(path: &str) -> bool {
    paths::root().is_some_and(|root| root.join(path).symlink_metadata().is_ok())
}

fn is_dir(path: &str) -> bool {
    paths::root()
        .and_then(|root| root.join(path).symlink_metadata().ok())
        .is_some_and(|metadata| metadata.is_dir())
}

/// Opens the side file `path` for writing by calling `open`.
pub fn open(path: String, flags: c_int, open: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    let new = flags & libc::O_CREAT != 0 && !exists(&path);
    let fd = outcome(open())?;
    opened(&mut ops, fd, path, new || flags & libc::O_TRUNC != 0, false)
}

/// Tracks `fd` as the side file `path`. `empty` says that the file was created or
/// truncated.
pub fn opened(ops: &mut Ops, fd: c_int, path: String, empty: bool, stdio: bool) -> Outcome {
    let mut seq = 0;
    if empty {
        logs::made(&path);
        let mode = stat(fd).map_or(0o660, |stat| stat.st_mode & 0o7777);
        match ops.push(FileOp::Create {
            path: path.clone(),
            mode,
        }) {
            Ok(number) => seq = number,
            Err(errno) => {
                // The caller closes a FILE.
                if !stdio {
                    // SAFETY: just opened, so nothing else knows it.
                    unsafe { real::close(fd) };
                }
                return Err(errno);
            }
        }
    }
    ops.files.insert(fd, path, seq, stdio, identity(fd));
    Ok(fd)
}

/// The path of `fd` and the offset at which a write of `n` bytes ends; `None` if
/// `fd` is not a side file. `at` is the offset of the write if the call gives
/// one.
fn end_of_write(ops: &mut Ops, fd: c_int, at: Option<i64>, n: u64) -> Option<(String, u64)> {
    refresh(ops, fd);
    let file = ops.files.get(fd)?;
    let (Some(path), false) = (file.path.clone(), file.stdio) else {
        return None;
    };
    // With O_APPEND, Linux appends even in pwrite.
    // SAFETY: the calls only query the descriptor.
    let (flags, position) = unsafe {
        (
            libc::fcntl(fd, libc::F_GETFL),
            libc::lseek64(fd, 0, libc::SEEK_CUR),
        )
    };
    let begin = match at {
        _ if flags >= 0 && flags & libc::O_APPEND != 0 => size_of(fd),
        Some(at) => u64::try_from(at).unwrap_or(0),
        None => u64::try_from(position).unwrap_or(0),
    };
    Some((path, begin.saturating_add(n)))
}

/// Writes `n` bytes to `fd` by calling `write`. `bytes` returns the first bytes of
/// the data. `at` is the offset of the write if the call gives one.
pub fn write(
    fd: c_int,
    at: Option<i64>,
    n: usize,
    write: impl FnOnce() -> isize,
    bytes: impl FnOnce(usize) -> Vec<u8>,
) -> Outcome<isize> {
    let log = is_log(fd);
    if log {
        // The rest of a piece must not be fetched over the bytes.
        ready(fd, at, n)?;
        logs::before_write();
    }
    let mut ops = lock(&OPS);
    let Some((path, end)) = end_of_write(&mut ops, fd, at, n as u64) else {
        if log {
            ops.send();
        }
        drop(ops);
        return outcome(write());
    };
    let done = check_size(&path, end).and_then(|()| outcome(write()));
    if log && !matches!(done, Ok(1..)) {
        // The redo before the log was to be sent with the bytes.
        ops.send();
    }
    let written = done?;
    let begin = end - n as u64;
    let name = log.then(|| path.clone());
    let queued = written_to(ops, fd, path, begin, written, bytes(written.unsigned_abs()));
    must_succeed(name.as_deref(), queued)
}

/// Ends this process if `result`, that of sending or syncing the binary log's file `log`, is an
/// error. Nobody knows then whether the branch has the events: MariaDB would roll the
/// transactions back that the next server finds in the log. The next server decides.
fn must_succeed<T>(log: Option<&str>, result: Outcome<T>) -> Outcome<T> {
    if let (Some(path), Err(errno)) = (log, &result) {
        log::write(
            Level::Error,
            &format!(
                "{path} cannot be sent to the page server ({}), and it is not known what the branch has of it: this server ends",
                std::io::Error::from_raw_os_error(*errno)
            ),
        );
        // SAFETY: the call does not return.
        unsafe { libc::_exit(END) }
    }
    result
}

/// The exit code of a server that ends itself, as InnoDB's, when it cannot write redo.
const END: c_int = 3;

/// Copies at most `n` bytes from another descriptor to `fd` by calling `copy`, with
/// the number of bytes that it may copy.
pub fn copy_to(
    fd: c_int,
    at: Option<i64>,
    n: usize,
    copy: impl FnOnce(usize) -> isize,
) -> Outcome<isize> {
    let mut ops = lock(&OPS);
    if ops.files.get(fd).is_some_and(|file| file.is_log) {
        // The redo before it would have to be sent first. MariaDB does not do this.
        return Err(libc::EOPNOTSUPP);
    }
    let Some((path, begin)) = end_of_write(&mut ops, fd, at, 0) else {
        drop(ops);
        return outcome(copy(n));
    };
    let room = side_file_max(&path).saturating_sub(begin);
    if room == 0 {
        check_size(&path, begin.saturating_add(n as u64))?;
    }
    let copied = outcome(copy(n.min(usize::try_from(room).unwrap_or(usize::MAX))))?;
    // The copied bytes are not in memory, so they are read back.
    let mut bytes = vec![0; copied.unsigned_abs()];
    std::fs::File::open(format!("/proc/self/fd/{fd}"))
        .and_then(|file| file.read_exact_at(&mut bytes, begin))
        .map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
    written_to(ops, fd, path, begin, copied, bytes)
}

/// Queues `bytes`, which were written to the side file `path` at `begin`.
fn written_to(
    mut ops: std::sync::MutexGuard<'_, Ops>,
    fd: c_int,
    path: String,
    begin: u64,
    written: isize,
    bytes: Vec<u8>,
) -> Outcome<isize> {
    if written == 0 {
        return Ok(written);
    }
    let mut offset = begin;
    let mut seq = 0;
    for piece in bytes.chunks(PIECE) {
        seq = ops.push(FileOp::Write {
            path: path.clone(),
            offset,
            data: piece.to_vec(),
        })?;
        offset += piece.len() as u64;
    }
    if let Some(file) = ops.files.get(fd) {
        file.seq = file.seq.max(seq);
    }
    // MariaDB does not sync every step of a DDL statement. A local file would keep
    // the others after a crash of the process, so they must be durable here, too.
    if path == DDL_LOG && ops.is_connected() {
        return finish(ops, seq, written);
    }
    Ok(written)
}

fn is_log(fd: c_int) -> bool {
    let mut ops = lock(&OPS);
    refresh(&mut ops, fd);
    ops.files.get(fd).is_some_and(|file| file.is_log)
}

/// Makes `n` bytes of `fd` readable or writable, if it is a file of the binary log whose
/// content is not there yet. `at` is their offset if the call gives one.
pub fn ready(fd: c_int, at: Option<i64>, n: usize) -> Outcome<()> {
    let mut ops = lock(&OPS);
    refresh(&mut ops, fd);
    let Some(log) = ops.files.get(fd).and_then(|file| file.log.clone()) else {
        return Ok(());
    };
    drop(ops);
    let begin = match at {
        Some(at) => at,
        // SAFETY: the call only queries the descriptor.
        None => unsafe { libc::lseek64(fd, 0, libc::SEEK_CUR) },
    };
    let begin = u64::try_from(begin).unwrap_or(0);
    log.ensure(begin..begin.saturating_add(n as u64))
}

/// Changes the size of `fd` to at most `size` bytes by calling `change`.
pub fn resize(fd: c_int, size: u64, change: impl FnOnce() -> Outcome) -> Outcome {
    let mut ops = lock(&OPS);
    refresh(&mut ops, fd);
    if let Some(path) = ops.files.get(fd).and_then(|file| file.path.clone()) {
        check_size(&path, size)?;
    }
    let before = size_of(fd);
    let result = change()?;
    let after = size_of(fd);
    let Some(file) = ops.files.get(fd) else {
        return Ok(result);
    };
    if let (Some(path), true) = (file.path.clone(), after != before && !file.stdio) {
        let seq = ops.push(FileOp::Truncate { path, size: after })?;
        if let Some(file) = ops.files.get(fd) {
            file.seq = file.seq.max(seq);
            if let Some(log) = &file.log {
                log.cut(after);
            }
        }
    }
    Ok(result)
}

/// Changes the size of the side file `path` to `size` bytes by calling `change`.
pub fn truncate(path: String, size: i64, change: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    check_size(&path, u64::try_from(size).unwrap_or(0))?;
    let result = outcome(change())?;
    let seq = ops.push(FileOp::Truncate {
        path,
        size: u64::try_from(size).unwrap_or(0),
    })?;
    finish(ops, seq, result)
}

/// Waits until all operations on `fd` are durable in the WAL. Calls `sync` for
/// other files, and while there is no redo stream.
pub fn sync(fd: c_int, sync: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    refresh(&mut ops, fd);
    let Some(file) = ops.files.get(fd) else {
        drop(ops);
        return outcome(sync());
    };
    if file.stdio {
        super::stdio::send_content(&mut ops, fd)?;
    }
    let (seq, log) = ops.files.get(fd).map_or((0, None), |file| {
        (file.seq, file.path.clone().filter(|_| file.is_log))
    });
    // The local file is a disposable copy. Once the operation is in the WAL, the
    // local disk need not be synced.
    if !ops.is_connected() {
        drop(ops);
        return outcome(sync());
    }
    must_succeed(log.as_deref(), finish(ops, seq, 0))
}

/// Syncs `fd`, which is not a side file open for writing. For a directory that may hold databases
/// or side files, waits for all operations so far; calls `sync` while there is no redo stream.
/// Does nothing for another file in the data directory, if that is disposable. Calls `sync` for
/// all else.
pub fn sync_other(fd: c_int, sync: impl FnOnce() -> c_int) -> Outcome {
    let Some(path) = paths::of_descriptor(fd) else {
        return outcome(sync());
    };
    let directory = stat(fd).is_some_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
    if !directory || !(path.is_empty() || is_database(&path)) {
        return match paths::is_disposable() {
            true => Ok(0),
            false => outcome(sync()),
        };
    }
    let ops = lock(&OPS);
    if !ops.is_connected() {
        drop(ops);
        return outcome(sync());
    }
    let ticket = ops.ticket_for_all();
    drop(ops);
    ticket.wait()?;
    Ok(0)
}

/// Closes `fd` by calling `close`.
pub fn close(fd: c_int, close: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    refresh(&mut ops, fd);
    // Removed before the close, because another thread may get the same number
    // immediately after it.
    let seq = ops.files.remove(fd);
    let result = outcome(close());
    let ticket = ops.ticket(seq.unwrap_or(0));
    drop(ops);
    // MariaDB writes and closes db.opt without a sync, so the close waits.
    ticket.wait()?;
    result
}

/// Closes the descriptors from `first` to `last` by calling `close`.
pub fn close_range(first: c_int, last: c_int, close: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    let mut seq = 0;
    for fd in ops.files.between(first, last) {
        refresh(&mut ops, fd);
        seq = seq.max(ops.files.remove(fd).unwrap_or(0));
    }
    let result = outcome(close());
    let ticket = ops.ticket(seq);
    drop(ops);
    ticket.wait()?;
    result
}

/// Duplicates `fd` by calling `dup`, which returns the new descriptor.
pub fn duplicate(fd: c_int, dup: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    refresh(&mut ops, fd);
    let copy = outcome(dup())?;
    ops.files.duplicate(fd, copy);
    Ok(copy)
}

/// Renames a file or directory by calling `rename`. `None` is a path outside the
/// data directory. `source_size` returns the size of the source.
pub fn rename(
    from: Option<String>,
    to: Option<String>,
    source_size: impl FnOnce() -> u64,
    rename: impl FnOnce() -> c_int,
) -> Outcome {
    let mut ops = lock(&OPS);
    let directory = from
        .as_deref()
        .is_some_and(|from| is_database(from) && is_dir(from));
    if let (Some(to), false) = (&to, directory)
        && is_side_file(to)
        && !from.as_deref().is_some_and(is_side_file)
    {
        // The file becomes a side file, so its content will be sent.
        check_size(to, source_size())?;
    }
    let result = outcome(rename())?;
    if from == to {
        return Ok(result);
    }
    let counts = |path: &Option<String>| {
        path.clone().filter(|p| {
            if directory {
                is_database(p)
            } else {
                is_side_file(p)
            }
        })
    };
    let seq = match (counts(&from), counts(&to)) {
        (Some(from), Some(to)) => {
            ops.files.renamed(&from, &to);
            ops.push(FileOp::Rename { from, to })?
        }
        // The file becomes a side file, so its content is sent.
        (None, Some(to)) if !directory => {
            ops.files.unlinked(&to);
            send_file(&mut ops, &to)?
        }
        (Some(from), None) if !directory => {
            ops.files.unlinked(&from);
            ops.push(FileOp::Unlink { path: from })?
        }
        _ => return Ok(result),
    };
    finish(ops, seq, result)
}

/// Gives a file of `size` bytes the additional name `to` by calling `link`. In the
/// WAL this is a new file.
pub fn link(to: String, size: u64, link: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    check_size(&to, size)?;
    let result = outcome(link())?;
    let seq = send_file(&mut ops, &to)?;
    finish(ops, seq, result)
}

/// Deletes the side file `path` by calling `unlink`.
pub fn unlink(path: String, unlink: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    let result = outcome(unlink())?;
    ops.files.unlinked(&path);
    logs::removed(&path);
    let seq = ops.push(FileOp::Unlink { path })?;
    finish(ops, seq, result)
}

/// Creates the database directory `path` by calling `mkdir`.
pub fn mkdir(path: String, mkdir: impl FnOnce() -> c_int) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    let mut ops = lock(&OPS);
    let result = outcome(mkdir())?;
    let mode = paths::root()
        .and_then(|root| root.join(&path).metadata().ok())
        .map_or(0o700, |metadata| metadata.permissions().mode() & 0o7777);
    let seq = ops.push(FileOp::Mkdir { path, mode })?;
    finish(ops, seq, result)
}

/// Deletes the database directory `path` by calling `rmdir`.
pub fn rmdir(path: String, rmdir: impl FnOnce() -> c_int) -> Outcome {
    let mut ops = lock(&OPS);
    let result = outcome(rmdir())?;
    let seq = ops.push(FileOp::Rmdir { path })?;
    finish(ops, seq, result)
}

/// Releases the mutex, waits for `seq`, returns `result`.
fn finish<T>(ops: std::sync::MutexGuard<'_, Ops>, seq: u64, result: T) -> Outcome<T> {
    let ticket: Ticket = ops.ticket(seq);
    drop(ops);
    ticket.wait()?;
    Ok(result)
}

/// Sends the current content of the file `path`, as a Create and Writes.
pub fn send_file(ops: &mut Ops, path: &str) -> Outcome<u64> {
    use std::os::unix::fs::PermissionsExt;
    let read = || -> std::io::Result<(u32, Vec<u8>)> {
        let full = paths::root()
            .map(|root| root.join(path))
            .unwrap_or_default();
        Ok((
            full.metadata()?.permissions().mode() & 0o7777,
            std::fs::read(full)?,
        ))
    };
    let (mode, content) = read().map_err(|e| e.raw_os_error().unwrap_or(libc::EIO))?;
    check_size(path, content.len() as u64)?;
    let mut seq = ops.push(FileOp::Create {
        path: path.to_owned(),
        mode,
    })?;
    let mut offset = 0;
    for piece in content.chunks(PIECE) {
        seq = ops.push(FileOp::Write {
            path: path.to_owned(),
            offset,
            data: piece.to_vec(),
        })?;
        offset += piece.len() as u64;
    }
    Ok(seq)
}
