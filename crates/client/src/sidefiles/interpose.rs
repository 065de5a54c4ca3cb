//! The functions that interpose libc functions of the same name. Each decides
//! cheaply whether the call concerns a side file. If not, it only calls libc.
//!
//! `open` and related functions are variadic in C. On the 64-bit Linux ABIs a
//! variadic argument is passed like a third or fourth fixed one. Only libc reads
//! the mode, and only if the flags say that it was passed.

use super::names::{is_database, is_side_file, may_be_side_file};
use super::ops::{self, Outcome};
use super::paths::{is_active, resolve};
use super::real::{self, errno, set_errno};
use super::{Uncaptured, engines, fds, is_captured_thread, logs, stdio};
use libc::{AT_FDCWD, FILE, O_CREAT, O_TRUNC, O_WRONLY, dev_t, iovec, mode_t};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

type Path = *const c_char;

/// Runs `f` without capturing its file operations. Preserves `errno` on success,
/// as libc does. Turns a panic into an I/O error.
fn run<T>(fail: T, f: impl FnOnce() -> Outcome<T>) -> T {
    let before = errno();
    let result = {
        let _ours = Uncaptured::new();
        catch_unwind(AssertUnwindSafe(f))
    };
    match result {
        Ok(Ok(value)) => {
            set_errno(before);
            value
        }
        Ok(Err(error)) => {
            set_errno(error);
            fail
        }
        Err(_) => {
            set_errno(libc::EIO);
            fail
        }
    }
}

/// Whether calls of this thread are captured.
#[inline]
fn looks() -> bool {
    is_active() && is_captured_thread()
}

#[inline]
fn looks_at(fd: c_int) -> bool {
    is_active() && fds::may_be_tracked(fd) && is_captured_thread()
}

/// `path` relative to the data directory if it names a side file.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn side_file(dirfd: c_int, path: Path) -> Option<String> {
    if path.is_null() {
        return None;
    }
    // SAFETY: not NULL, so NUL-terminated.
    if !may_be_side_file(unsafe { CStr::from_ptr(path) }.to_bytes()) {
        return None;
    }
    let before = errno();
    let _ours = Uncaptured::new();
    // SAFETY: as above.
    let found = catch_unwind(|| unsafe { resolve(dirfd, path) })
        .ok()
        .flatten();
    set_errno(before);
    found.filter(|path| is_side_file(path))
}

/// `path` relative to the data directory if it names a file with events of the binary log.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn log_file(dirfd: c_int, path: Path) -> Option<String> {
    // SAFETY: not NULL, so NUL-terminated.
    if path.is_null() || !logs::may_be_file(unsafe { CStr::from_ptr(path) }.to_bytes()) {
        return None;
    }
    // SAFETY: as the caller vouches.
    unsafe { inside(dirfd, path) }.filter(|path| logs::number_of(path).is_some())
}

/// Makes bytes of `fd` readable that a call is about to read: `n` at its offset, or at `at`.
fn readable(fd: c_int, at: Option<i64>, n: usize) -> bool {
    !looks_at(fd) || run(-1, || ops::ready(fd, at, n).map(|()| 0)) == 0
}

/// `path` relative to the data directory if it is inside it.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn inside(dirfd: c_int, path: Path) -> Option<String> {
    let before = errno();
    let _ours = Uncaptured::new();
    // SAFETY: resolve checks for NULL.
    let found = catch_unwind(|| unsafe { resolve(dirfd, path) })
        .ok()
        .flatten();
    set_errno(before);
    found
}

/// Interposes the open call `call`.
///
/// # Safety
/// As for open(2).
unsafe fn open_by(dirfd: c_int, path: Path, flags: c_int, call: impl FnOnce() -> c_int) -> c_int {
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (O_CREAT | O_TRUNC) != 0;
    if !looks() {
        return other(call());
    }
    if !writes {
        // SAFETY: libc, too, requires a NUL-terminated path.
        return match unsafe { log_file(dirfd, path) } {
            Some(path) => run(-1, || ops::open(path, flags, call)),
            None => other(call()),
        };
    }
    // SAFETY: libc, too, requires a NUL-terminated path.
    if flags & O_CREAT != 0 && unsafe { is_refused(dirfd, path) } {
        return refused();
    }
    // SAFETY: libc, too, requires a NUL-terminated path.
    match unsafe { side_file(dirfd, path) } {
        Some(path) => run(-1, || ops::open(path, flags, call)),
        None => other(call()),
    }
}

/// Whether `path` is a file of another engine that must not be created.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn is_refused(dirfd: c_int, path: Path) -> bool {
    // SAFETY: not NULL, so NUL-terminated.
    if path.is_null() || !engines::may_hold_rows(unsafe { CStr::from_ptr(path) }.to_bytes()) {
        return false;
    }
    // SAFETY: as the caller vouches.
    let Some(path) = (unsafe { inside(dirfd, path) }) else {
        return false;
    };
    let _ours = Uncaptured::new();
    // A panic must not leave the library. After a panic, the file is refused.
    catch_unwind(|| engines::is_refused(&path)).unwrap_or(true)
}

/// The result of a refused call.
fn refused() -> c_int {
    set_errno(libc::EPERM);
    -1
}

/// Returns `fd`, which was opened as another kind of file. Stops tracking its
/// number, which may be that of a side file that was closed unnoticed.
fn other(fd: c_int) -> c_int {
    if fd >= 0 && looks_at(fd) {
        let before = errno();
        let _ours = Uncaptured::new();
        ops::forget(fd);
        set_errno(before);
    }
    fd
}

macro_rules! interpose {
    ($($name:ident($($arg:ident: $type:ty),*) -> $ret:ty $body:block)*) => {$(
        #[doc = concat!("Interposes libc's `", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As for that function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
            // SAFETY: the body relies only on libc's own requirements.
            unsafe { $body }
        }
    )*};
}

interpose! {
    open(path: Path, flags: c_int, mode: mode_t) -> c_int {
        open_by(AT_FDCWD, path, flags, || real::open(path, flags, mode))
    }
    open64(path: Path, flags: c_int, mode: mode_t) -> c_int {
        open_by(AT_FDCWD, path, flags, || real::open64(path, flags, mode))
    }
    __open_2(path: Path, flags: c_int) -> c_int {
        open_by(AT_FDCWD, path, flags, || real::open(path, flags, 0))
    }
    __open64_2(path: Path, flags: c_int) -> c_int {
        open_by(AT_FDCWD, path, flags, || real::open64(path, flags, 0))
    }
    openat(dirfd: c_int, path: Path, flags: c_int, mode: mode_t) -> c_int {
        open_by(dirfd, path, flags, || real::openat(dirfd, path, flags, mode))
    }
    openat64(dirfd: c_int, path: Path, flags: c_int, mode: mode_t) -> c_int {
        open_by(dirfd, path, flags, || real::openat64(dirfd, path, flags, mode))
    }
    __openat_2(dirfd: c_int, path: Path, flags: c_int) -> c_int {
        open_by(dirfd, path, flags, || real::openat(dirfd, path, flags, 0))
    }
    __openat64_2(dirfd: c_int, path: Path, flags: c_int) -> c_int {
        open_by(dirfd, path, flags, || real::openat64(dirfd, path, flags, 0))
    }
    creat(path: Path, mode: mode_t) -> c_int {
        let flags = O_CREAT | O_WRONLY | O_TRUNC;
        open_by(AT_FDCWD, path, flags, || real::open(path, flags, mode))
    }
    creat64(path: Path, mode: mode_t) -> c_int {
        let flags = O_CREAT | O_WRONLY | O_TRUNC;
        open_by(AT_FDCWD, path, flags, || real::open64(path, flags, mode))
    }

    close(fd: c_int) -> c_int {
        if !looks_at(fd) {
            return real::close(fd);
        }
        run(-1, || ops::close(fd, || real::close(fd)))
    }
    read(fd: c_int, buf: *mut c_void, n: usize) -> isize {
        if !readable(fd, None, n) {
            return -1;
        }
        real::read(fd, buf, n)
    }
    pread(fd: c_int, buf: *mut c_void, n: usize, at: i64) -> isize {
        pread64(fd, buf, n, at)
    }
    pread64(fd: c_int, buf: *mut c_void, n: usize, at: i64) -> isize {
        if !readable(fd, Some(at), n) {
            return -1;
        }
        real::pread64(fd, buf, n, at)
    }
    readv(fd: c_int, iov: *const iovec, count: c_int) -> isize {
        if looks_at(fd) && !readable(fd, None, total(iov, count)) {
            return -1;
        }
        real::readv(fd, iov, count)
    }
    preadv(fd: c_int, iov: *const iovec, count: c_int, at: i64) -> isize {
        preadv64(fd, iov, count, at)
    }
    preadv64(fd: c_int, iov: *const iovec, count: c_int, at: i64) -> isize {
        if looks_at(fd) && !readable(fd, Some(at), total(iov, count)) {
            return -1;
        }
        real::preadv64(fd, iov, count, at)
    }
    write(fd: c_int, buf: *const c_void, n: usize) -> isize {
        if !looks_at(fd) {
            return real::write(fd, buf, n);
        }
        run(-1, || ops::write(fd, None, n, || real::write(fd, buf, n), |n| copy(buf, n)))
    }
    writev(fd: c_int, iov: *const iovec, count: c_int) -> isize {
        if !looks_at(fd) {
            return real::writev(fd, iov, count);
        }
        run(-1, || {
            let n = total(iov, count);
            ops::write(fd, None, n, || real::writev(fd, iov, count), |n| gather(iov, count, n))
        })
    }
    pwritev(fd: c_int, iov: *const iovec, count: c_int, at: i64) -> isize {
        pwritev64(fd, iov, count, at)
    }
    pwritev64(fd: c_int, iov: *const iovec, count: c_int, at: i64) -> isize {
        let call = || real::pwritev64(fd, iov, count, at);
        if !looks_at(fd) {
            return call();
        }
        run(-1, || ops::write(fd, Some(at), total(iov, count), call, |n| gather(iov, count, n)))
    }
    pwritev2(fd: c_int, iov: *const iovec, count: c_int, at: i64, flags: c_int) -> isize {
        pwritev64v2(fd, iov, count, at, flags)
    }
    pwritev64v2(fd: c_int, iov: *const iovec, count: c_int, at: i64, flags: c_int) -> isize {
        let call = || real::pwritev64v2(fd, iov, count, at, flags);
        if !looks_at(fd) {
            return call();
        }
        // Linux keeps adding flags, which may change the offset of the write.
        if flags & !(libc::RWF_HIPRI | libc::RWF_DSYNC | libc::RWF_SYNC | libc::RWF_NOWAIT) != 0 {
            set_errno(libc::EOPNOTSUPP);
            return -1;
        }
        let place = (at != -1).then_some(at);
        run(-1, || ops::write(fd, place, total(iov, count), call, |n| gather(iov, count, n)))
    }
    copy_file_range(from: c_int, from_at: *mut i64, to: c_int, to_at: *mut i64, n: usize, flags: c_uint) -> isize {
        let call = |n| real::copy_file_range(from, from_at, to, to_at, n, flags);
        if !readable(from, from_at.as_ref().copied(), n) {
            return -1;
        }
        if !looks_at(to) {
            return call(n);
        }
        let place = to_at.as_ref().copied();
        run(-1, || ops::copy_to(to, place, n, call))
    }
    splice(from: c_int, from_at: *mut i64, to: c_int, to_at: *mut i64, n: usize, flags: c_uint) -> isize {
        let call = |n| real::splice(from, from_at, to, to_at, n, flags);
        if !readable(from, from_at.as_ref().copied(), n) {
            return -1;
        }
        if !looks_at(to) {
            return call(n);
        }
        let place = to_at.as_ref().copied();
        run(-1, || ops::copy_to(to, place, n, call))
    }
    sendfile(to: c_int, from: c_int, from_at: *mut i64, n: usize) -> isize {
        sendfile64(to, from, from_at, n)
    }
    sendfile64(to: c_int, from: c_int, from_at: *mut i64, n: usize) -> isize {
        let call = |n| real::sendfile64(to, from, from_at, n);
        if !readable(from, from_at.as_ref().copied(), n) {
            return -1;
        }
        if !looks_at(to) {
            return call(n);
        }
        run(-1, || ops::copy_to(to, None, n, call))
    }
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        let call = || real::close_range(first, last, flags);
        // With CLOSE_RANGE_CLOEXEC the call closes nothing yet. With
        // CLOSE_RANGE_UNSHARE other threads keep their descriptors open, and this
        // thread ends soon.
        if !looks() || flags as c_uint & libc::CLOSE_RANGE_CLOEXEC != 0 {
            return call();
        }
        let number = |fd: c_uint| c_int::try_from(fd).unwrap_or(c_int::MAX);
        run(-1, || ops::close_range(number(first), number(last), call))
    }
    closefrom(first: c_int) -> () {
        let first = c_uint::try_from(first).unwrap_or(0);
        close_range(first, c_uint::MAX, 0);
    }
    pwrite(fd: c_int, buf: *const c_void, n: usize, at: i64) -> isize {
        pwrite64(fd, buf, n, at)
    }
    pwrite64(fd: c_int, buf: *const c_void, n: usize, at: i64) -> isize {
        if !looks_at(fd) {
            return real::pwrite64(fd, buf, n, at);
        }
        run(-1, || ops::write(fd, Some(at), n, || real::pwrite64(fd, buf, n, at), |n| copy(buf, n)))
    }
    ftruncate(fd: c_int, size: i64) -> c_int {
        ftruncate64(fd, size)
    }
    ftruncate64(fd: c_int, size: i64) -> c_int {
        if !looks_at(fd) {
            return real::ftruncate64(fd, size);
        }
        run(-1, || ops::resize(fd, end(0, size), || ops::outcome(real::ftruncate64(fd, size))))
    }
    fallocate(fd: c_int, mode: c_int, at: i64, len: i64) -> c_int {
        fallocate64(fd, mode, at, len)
    }
    fallocate64(fd: c_int, mode: c_int, at: i64, len: i64) -> c_int {
        if !looks_at(fd) {
            return real::fallocate64(fd, mode, at, len);
        }
        // The WAL has no operation for holes and collapsed ranges. MariaDB does
        // not use them in side files.
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            set_errno(libc::EOPNOTSUPP);
            return -1;
        }
        let call = || ops::outcome(real::fallocate64(fd, mode, at, len));
        run(-1, || ops::resize(fd, end(at, len), call))
    }
    posix_fallocate(fd: c_int, at: i64, len: i64) -> c_int {
        posix_fallocate64(fd, at, len)
    }
    posix_fallocate64(fd: c_int, at: i64, len: i64) -> c_int {
        if !looks_at(fd) {
            return real::posix_fallocate64(fd, at, len);
        }
        // posix_fallocate returns the error and does not set errno.
        let before = errno();
        let result = run(-1, || {
            ops::resize(fd, end(at, len), || match real::posix_fallocate64(fd, at, len) {
                0 => Ok(0),
                error => Err(error),
            })
        });
        let error = errno();
        set_errno(before);
        if result == 0 { 0 } else { error }
    }
    truncate(path: Path, size: i64) -> c_int {
        truncate64(path, size)
    }
    truncate64(path: Path, size: i64) -> c_int {
        match if looks() { side_file(AT_FDCWD, path) } else { None } {
            Some(name) => run(-1, || ops::truncate(name, size, || real::truncate64(path, size))),
            None => real::truncate64(path, size),
        }
    }
    fsync(fd: c_int) -> c_int {
        if looks_at(fd) {
            run(-1, || ops::sync(fd, || real::fsync(fd)))
        } else if looks() {
            run(-1, || ops::sync_other(fd, || real::fsync(fd)))
        } else {
            real::fsync(fd)
        }
    }
    fdatasync(fd: c_int) -> c_int {
        if looks_at(fd) {
            run(-1, || ops::sync(fd, || real::fdatasync(fd)))
        } else if looks() {
            run(-1, || ops::sync_other(fd, || real::fdatasync(fd)))
        } else {
            real::fdatasync(fd)
        }
    }

    rename(from: Path, to: Path) -> c_int {
        rename_by(AT_FDCWD, from, AT_FDCWD, to, || real::rename(from, to))
    }
    renameat(from_dir: c_int, from: Path, to_dir: c_int, to: Path) -> c_int {
        rename_by(from_dir, from, to_dir, to, || real::renameat(from_dir, from, to_dir, to))
    }
    renameat2(from_dir: c_int, from: Path, to_dir: c_int, to: Path, flags: c_uint) -> c_int {
        // The WAL has no operation for an exchange.
        if flags & libc::RENAME_EXCHANGE != 0
            && looks()
            && (side_file(from_dir, from).is_some() || side_file(to_dir, to).is_some())
        {
            set_errno(libc::EINVAL);
            return -1;
        }
        let call = || real::renameat2(from_dir, from, to_dir, to, flags);
        rename_by(from_dir, from, to_dir, to, call)
    }
    link(from: Path, to: Path) -> c_int {
        if looks() && is_refused(AT_FDCWD, to) {
            return refused();
        }
        match if looks() { side_file(AT_FDCWD, to) } else { None } {
            Some(name) => run(-1, || {
                ops::link(name, length(AT_FDCWD, from), || real::link(from, to))
            }),
            None => real::link(from, to),
        }
    }
    linkat(from_dir: c_int, from: Path, to_dir: c_int, to: Path, flags: c_int) -> c_int {
        if looks() && is_refused(to_dir, to) {
            return refused();
        }
        let call = || real::linkat(from_dir, from, to_dir, to, flags);
        match if looks() { side_file(to_dir, to) } else { None } {
            Some(name) => run(-1, || ops::link(name, length(from_dir, from), call)),
            None => call(),
        }
    }
    symlink(text: Path, to: Path) -> c_int {
        if looks() && is_refused(AT_FDCWD, to) {
            return refused();
        }
        if refuses(AT_FDCWD, to) {
            return -1;
        }
        real::symlink(text, to)
    }
    symlinkat(text: Path, to_dir: c_int, to: Path) -> c_int {
        if looks() && is_refused(to_dir, to) {
            return refused();
        }
        if refuses(to_dir, to) {
            return -1;
        }
        real::symlinkat(text, to_dir, to)
    }
    mknod(path: Path, mode: mode_t, device: dev_t) -> c_int {
        if refuses(AT_FDCWD, path) {
            return -1;
        }
        real::mknod(path, mode, device)
    }
    mknodat(dirfd: c_int, path: Path, mode: mode_t, device: dev_t) -> c_int {
        if refuses(dirfd, path) {
            return -1;
        }
        real::mknodat(dirfd, path, mode, device)
    }
    unlink(path: Path) -> c_int {
        match if looks() { side_file(AT_FDCWD, path) } else { None } {
            Some(name) => run(-1, || ops::unlink(name, || real::unlink(path))),
            None => real::unlink(path),
        }
    }
    unlinkat(dirfd: c_int, path: Path, flags: c_int) -> c_int {
        let call = || real::unlinkat(dirfd, path, flags);
        if !looks() {
            return call();
        }
        if flags & libc::AT_REMOVEDIR != 0 {
            return match database(dirfd, path) {
                Some(name) => run(-1, || ops::rmdir(name, call)),
                None => call(),
            };
        }
        match side_file(dirfd, path) {
            Some(name) => run(-1, || ops::unlink(name, call)),
            None => call(),
        }
    }
    remove(path: Path) -> c_int {
        if !looks() {
            return real::remove(path);
        }
        if let Some(name) = side_file(AT_FDCWD, path) {
            return run(-1, || ops::unlink(name, || real::remove(path)));
        }
        // As in libc: tries a file first, then a directory.
        let before = errno();
        if unlink(path) == 0 {
            return 0;
        }
        if !matches!(errno(), libc::EISDIR | libc::EPERM) {
            return -1;
        }
        set_errno(before);
        rmdir(path)
    }
    mkdir(path: Path, mode: mode_t) -> c_int {
        match if looks() { database(AT_FDCWD, path) } else { None } {
            Some(name) => run(-1, || ops::mkdir(name, || real::mkdir(path, mode))),
            None => real::mkdir(path, mode),
        }
    }
    mkdirat(dirfd: c_int, path: Path, mode: mode_t) -> c_int {
        match if looks() { database(dirfd, path) } else { None } {
            Some(name) => run(-1, || ops::mkdir(name, || real::mkdirat(dirfd, path, mode))),
            None => real::mkdirat(dirfd, path, mode),
        }
    }
    rmdir(path: Path) -> c_int {
        match if looks() { database(AT_FDCWD, path) } else { None } {
            Some(name) => run(-1, || ops::rmdir(name, || real::rmdir(path))),
            None => real::rmdir(path),
        }
    }

    dup(fd: c_int) -> c_int {
        if !looks_at(fd) {
            return real::dup(fd);
        }
        run(-1, || ops::duplicate(fd, || real::dup(fd)))
    }
    dup2(fd: c_int, to: c_int) -> c_int {
        if !looks_at(fd) && !looks_at(to) {
            return real::dup2(fd, to);
        }
        run(-1, || ops::duplicate(fd, || real::dup2(fd, to)))
    }
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
        if !looks_at(fd) && !looks_at(to) {
            return real::dup3(fd, to, flags);
        }
        run(-1, || ops::duplicate(fd, || real::dup3(fd, to, flags)))
    }

    fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
        let call = || real::fcntl(fd, command, argument);
        if !duplicates(fd, command) {
            return call();
        }
        run(-1, || ops::duplicate(fd, call))
    }
    fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
        let call = || real::fcntl64(fd, command, argument);
        if !duplicates(fd, command) {
            return call();
        }
        run(-1, || ops::duplicate(fd, call))
    }

    fdopen(fd: c_int, mode: Path) -> *mut FILE {
        let call = || real::fdopen(fd, mode);
        if !looks_at(fd) || mode.is_null() || !stdio::writes(CStr::from_ptr(mode).to_bytes()) {
            return call();
        }
        run(std::ptr::null_mut(), || stdio::adopt(fd, call))
    }
    freopen(path: Path, mode: Path, stream: *mut FILE) -> *mut FILE {
        leave(stream);
        fopen_by(path, mode, || real::freopen(path, mode, stream))
    }
    freopen64(path: Path, mode: Path, stream: *mut FILE) -> *mut FILE {
        leave(stream);
        fopen_by(path, mode, || real::freopen64(path, mode, stream))
    }
    fopen(path: Path, mode: Path) -> *mut FILE {
        fopen_by(path, mode, || real::fopen(path, mode))
    }
    fopen64(path: Path, mode: Path) -> *mut FILE {
        fopen_by(path, mode, || real::fopen64(path, mode))
    }
    fflush(stream: *mut FILE) -> c_int {
        if !stdio::any() || !looks() {
            return real::fflush(stream);
        }
        run(libc::EOF, || stdio::flush(stream, || real::fflush(stream)))
    }
    fclose(stream: *mut FILE) -> c_int {
        if !stdio::any() || !looks() {
            return real::fclose(stream);
        }
        run(libc::EOF, || stdio::close(stream, || real::fclose(stream)))
    }
}

/// Whether a call of fcntl duplicates the descriptor of a side file.
fn duplicates(fd: c_int, command: c_int) -> bool {
    matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC) && looks_at(fd)
}

/// Sends the content that a stream wrote to a side file, before the stream is
/// reopened as another file.
///
/// # Safety
/// As for freopen(3).
unsafe fn leave(stream: *mut FILE) {
    if stdio::any() && looks() {
        // SAFETY: freopen, too, requires a valid stream.
        let flush = || unsafe { real::fflush(stream) };
        run(libc::EOF, || stdio::leave(stream, flush));
    }
}

/// Refuses to create a symbolic link or a special file with the name of a side
/// file, because the WAL cannot express it. Sets `errno` and returns true if
/// `path` is such a name.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn refuses(dirfd: c_int, path: Path) -> bool {
    if !looks() {
        return false;
    }
    // SAFETY: as the caller vouches.
    let refused = unsafe { side_file(dirfd, path).is_some() };
    if refused {
        set_errno(libc::EPERM);
    }
    refused
}

/// The size of the file `path` in bytes; 0 if it does not exist.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn length(dirfd: c_int, path: Path) -> u64 {
    let mut stat = std::mem::MaybeUninit::<libc::stat64>::uninit();
    // SAFETY: fstatat64 checks for NULL, and fills in the whole struct when it
    // returns 0.
    unsafe {
        let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
        if libc::fstatat64(dirfd, path, stat.as_mut_ptr(), flags) == 0 {
            u64::try_from(stat.assume_init().st_size).unwrap_or(0)
        } else {
            0
        }
    }
}

/// The end of the range of `len` bytes at `at`. Negative values, which libc
/// refuses, count as 0.
fn end(at: i64, len: i64) -> u64 {
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    part(at).saturating_add(part(len))
}

/// Interposes the fopen call `call`.
///
/// # Safety
/// As for fopen(3).
unsafe fn fopen_by(path: Path, mode: Path, call: impl FnOnce() -> *mut FILE) -> *mut FILE {
    let call = || {
        let stream = call();
        if !stream.is_null() {
            // SAFETY: fopen just returned it.
            other(unsafe { libc::fileno(stream) });
        }
        stream
    };
    if mode.is_null() || !looks() {
        return call();
    }
    // SAFETY: libc, too, requires a NUL-terminated mode.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    if !stdio::writes(mode) {
        return call();
    }
    // SAFETY: libc, too, requires a NUL-terminated path.
    match unsafe { side_file(AT_FDCWD, path) } {
        Some(path) => run(std::ptr::null_mut(), || stdio::open(path, mode, call)),
        None => call(),
    }
}

/// Interposes the rename call `call`.
///
/// # Safety
/// As for renameat(2).
unsafe fn rename_by(
    from_dir: c_int,
    from: Path,
    to_dir: c_int,
    to: Path,
    call: impl FnOnce() -> c_int,
) -> c_int {
    if !looks() {
        return call();
    }
    // SAFETY: libc, too, requires a NUL-terminated path.
    if unsafe { is_refused(to_dir, to) } {
        return refused();
    }
    let from_path = from;
    // SAFETY: libc, too, requires NUL-terminated paths.
    let (from, to) = unsafe { (inside(from_dir, from), inside(to_dir, to)) };
    let counts = |path: &Option<String>| {
        path.as_deref()
            .is_some_and(|path| is_side_file(path) || is_database(path))
    };
    if counts(&from) || counts(&to) {
        // SAFETY: as above.
        let size = || unsafe { length(from_dir, from_path) };
        run(-1, || ops::rename(from, to, size, call))
    } else {
        call()
    }
}

/// `path` relative to the data directory if it can be a database's directory.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn database(dirfd: c_int, path: Path) -> Option<String> {
    // SAFETY: as the caller vouches.
    unsafe { inside(dirfd, path) }.filter(|path| is_database(path))
}

/// Copies the bytes that a call has written.
///
/// # Safety
/// `buf` has `n` readable bytes.
unsafe fn copy(buf: *const c_void, n: usize) -> Vec<u8> {
    // SAFETY: write(2) just read these bytes.
    unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), n) }.to_vec()
}

/// The number of bytes that `iov` describes.
///
/// # Safety
/// `iov` has `count` valid entries.
unsafe fn total(iov: *const iovec, count: c_int) -> usize {
    let mut n = 0usize;
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: at < count.
        n = n.saturating_add(unsafe { (*iov.add(at)).iov_len });
    }
    n
}

/// The first `n` of the bytes that `iov` describes.
///
/// # Safety
/// `iov` has `count` valid entries.
unsafe fn gather(iov: *const iovec, count: c_int, n: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(n);
    for at in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: at < count, and writev(2) just read the bytes.
        unsafe {
            let part = &*iov.add(at);
            let take = part.iov_len.min(n - out.len());
            if take > 0 {
                out.extend_from_slice(&copy(part.iov_base, take));
            }
        }
    }
    out
}
