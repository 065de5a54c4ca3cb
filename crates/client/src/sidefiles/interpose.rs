//! The functions that stand before libc's of the same name. Each decides, as
//! cheaply as it can, whether the call concerns a side file; if not it goes on
//! to libc with nothing done.
//!
//! `open` and its kin are variadic in C. On the 64-bit Linux ABIs an argument
//! passed variadically is where a third or fourth fixed one would be, and the
//! mode is looked at only by libc, only when the flags say it is there.

use super::names::{is_database, is_side_file, may_be_side_file};
use super::ops::{self, Outcome};
use super::paths::{is_active, resolve};
use super::real::{self, errno, set_errno};
use super::{Uncaptured, engines, fds, is_captured_thread, stdio};
use libc::{AT_FDCWD, FILE, O_CREAT, O_TRUNC, O_WRONLY, iovec, mode_t};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

type Path = *const c_char;

/// Runs `f` as the library's own doing. `errno` is left alone when it succeeds,
/// as libc does; a panic is an I/O error.
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

/// Whether calls of this thread are looked at, at all.
#[inline]
fn looks() -> bool {
    is_active() && is_captured_thread()
}

#[inline]
fn looks_at(fd: c_int) -> bool {
    is_active() && fds::may_be_tracked(fd) && is_captured_thread()
}

/// `path` when it is a side file's, relative to the data directory.
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

/// `path` relative to the data directory, if it lies there.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn inside(dirfd: c_int, path: Path) -> Option<String> {
    let before = errno();
    let _ours = Uncaptured::new();
    // SAFETY: resolve looks for NULL itself.
    let found = catch_unwind(|| unsafe { resolve(dirfd, path) })
        .ok()
        .flatten();
    set_errno(before);
    found
}

/// # Safety
/// As open(2); `call` is that call.
unsafe fn open_by(dirfd: c_int, path: Path, flags: c_int, call: impl FnOnce() -> c_int) -> c_int {
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (O_CREAT | O_TRUNC) != 0;
    if !writes || !looks() {
        return call();
    }
    // SAFETY: libc wants the path NUL-terminated too.
    if flags & O_CREAT != 0 && unsafe { is_refused(dirfd, path) } {
        return refused();
    }
    // SAFETY: libc wants the path NUL-terminated too.
    match unsafe { side_file(dirfd, path) } {
        Some(path) => run(-1, || ops::open(path, flags, call)),
        None => call(),
    }
}

/// Whether a file of another engine is to be made where it would be lost.
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
    // A panic must not leave the library; and what cannot be told is refused.
    catch_unwind(|| engines::is_refused(&path)).unwrap_or(true)
}

/// The result of a call that is refused.
fn refused() -> c_int {
    set_errno(libc::EPERM);
    -1
}

macro_rules! interpose {
    ($($name:ident($($arg:ident: $type:ty),*) -> $ret:ty $body:block)*) => {$(
        #[doc = concat!("Stands before libc's `", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As that function.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
            // SAFETY: what libc asks of its caller is all that is relied on.
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
    write(fd: c_int, buf: *const c_void, n: usize) -> isize {
        if !looks_at(fd) {
            return real::write(fd, buf, n);
        }
        run(-1, || ops::write(fd, None, || real::write(fd, buf, n), |n| copy(buf, n)))
    }
    writev(fd: c_int, iov: *const iovec, count: c_int) -> isize {
        if !looks_at(fd) {
            return real::writev(fd, iov, count);
        }
        run(-1, || {
            ops::write(fd, None, || real::writev(fd, iov, count), |n| gather(iov, count, n))
        })
    }
    pwrite(fd: c_int, buf: *const c_void, n: usize, at: i64) -> isize {
        pwrite64(fd, buf, n, at)
    }
    pwrite64(fd: c_int, buf: *const c_void, n: usize, at: i64) -> isize {
        if !looks_at(fd) {
            return real::pwrite64(fd, buf, n, at);
        }
        run(-1, || ops::write(fd, Some(at), || real::pwrite64(fd, buf, n, at), |n| copy(buf, n)))
    }
    ftruncate(fd: c_int, size: i64) -> c_int {
        ftruncate64(fd, size)
    }
    ftruncate64(fd: c_int, size: i64) -> c_int {
        if !looks_at(fd) {
            return real::ftruncate64(fd, size);
        }
        run(-1, || ops::resize(fd, || ops::outcome(real::ftruncate64(fd, size))))
    }
    fallocate(fd: c_int, mode: c_int, at: i64, len: i64) -> c_int {
        fallocate64(fd, mode, at, len)
    }
    fallocate64(fd: c_int, mode: c_int, at: i64, len: i64) -> c_int {
        if !looks_at(fd) {
            return real::fallocate64(fd, mode, at, len);
        }
        // Holes and collapsed ranges have no operation in the log, and nothing
        // makes them in side files.
        if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
            set_errno(libc::EOPNOTSUPP);
            return -1;
        }
        run(-1, || ops::resize(fd, || ops::outcome(real::fallocate64(fd, mode, at, len))))
    }
    posix_fallocate(fd: c_int, at: i64, len: i64) -> c_int {
        posix_fallocate64(fd, at, len)
    }
    posix_fallocate64(fd: c_int, at: i64, len: i64) -> c_int {
        if !looks_at(fd) {
            return real::posix_fallocate64(fd, at, len);
        }
        // This one returns the error.
        let before = errno();
        let result = run(-1, || {
            ops::resize(fd, || match real::posix_fallocate64(fd, at, len) {
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
            run(-1, || ops::sync_directory(fd, || real::fsync(fd)))
        } else {
            real::fsync(fd)
        }
    }
    fdatasync(fd: c_int) -> c_int {
        if looks_at(fd) {
            run(-1, || ops::sync(fd, || real::fdatasync(fd)))
        } else if looks() {
            run(-1, || ops::sync_directory(fd, || real::fdatasync(fd)))
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
        // An exchange has no operation in the log.
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
    symlink(to: Path, path: Path) -> c_int {
        if looks() && is_refused(AT_FDCWD, path) {
            return refused();
        }
        real::symlink(to, path)
    }
    link(from: Path, to: Path) -> c_int {
        if looks() && is_refused(AT_FDCWD, to) {
            return refused();
        }
        match if looks() { side_file(AT_FDCWD, to) } else { None } {
            Some(name) => run(-1, || ops::link(name, || real::link(from, to))),
            None => real::link(from, to),
        }
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
        // As libc's own: a file first, else a directory.
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

/// # Safety
/// As fopen(3); `call` is that call.
unsafe fn fopen_by(path: Path, mode: Path, call: impl FnOnce() -> *mut FILE) -> *mut FILE {
    if mode.is_null() || !looks() {
        return call();
    }
    // SAFETY: libc wants it NUL-terminated too.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    if !stdio::writes(mode) {
        return call();
    }
    // SAFETY: libc wants the path NUL-terminated too.
    match unsafe { side_file(AT_FDCWD, path) } {
        Some(path) => run(std::ptr::null_mut(), || stdio::open(path, mode, call)),
        None => call(),
    }
}

/// # Safety
/// As renameat(2); `call` is that call.
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
    // SAFETY: libc wants it NUL-terminated too.
    if unsafe { is_refused(to_dir, to) } {
        return refused();
    }
    // SAFETY: libc wants both NUL-terminated too.
    let (from, to) = unsafe { (inside(from_dir, from), inside(to_dir, to)) };
    let counts = |path: &Option<String>| {
        path.as_deref()
            .is_some_and(|path| is_side_file(path) || is_database(path))
    };
    if counts(&from) || counts(&to) {
        run(-1, || ops::rename(from, to, call))
    } else {
        call()
    }
}

/// `path` when it can be a database's directory.
///
/// # Safety
/// `path` is NULL or NUL-terminated.
unsafe fn database(dirfd: c_int, path: Path) -> Option<String> {
    // SAFETY: as the caller vouches.
    unsafe { inside(dirfd, path) }.filter(|path| is_database(path))
}

/// # Safety
/// `buf` has `n` readable bytes.
unsafe fn copy(buf: *const c_void, n: usize) -> Vec<u8> {
    // SAFETY: write(2) just read these bytes.
    unsafe { std::slice::from_raw_parts(buf.cast::<u8>(), n) }.to_vec()
}

/// The first `n` bytes of what `iov` describes.
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
