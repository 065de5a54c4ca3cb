//! The libc functions that this library interposes, looked up after it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

/// The calling thread's `errno`.
pub fn errno() -> c_int {
    // SAFETY: libc's location is valid for the lifetime of the thread.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
pub fn set_errno(value: c_int) {
    // SAFETY: as in `errno`.
    unsafe { *libc::__errno_location() = value }
}

fn next(name: &CStr) -> *mut c_void {
    // SAFETY: the name is NUL-terminated.
    unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
}

/// Whether calls of `unlink` in this process reach this library first.
pub fn is_interposed() -> bool {
    // SAFETY: the name is NUL-terminated.
    let first = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"unlink".as_ptr()) };
    std::ptr::eq(first, super::interpose::unlink as *const c_void)
}

macro_rules! real {
    ($($name:ident($($arg:ident: $type:ty),*) -> $ret:ty as $full:ty, or $fail:expr;)*) => {$(
        #[doc = concat!("libc's `", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As that function.
        pub unsafe fn $name($($arg: $type),*) -> $ret {
            static SLOT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            let mut found = SLOT.load(Ordering::Relaxed);
            if found.is_null() {
                const NAME: &[u8] = concat!(stringify!($name), "\0").as_bytes();
                found = match CStr::from_bytes_with_nul(NAME) {
                    Ok(name) => next(name),
                    Err(_) => std::ptr::null_mut(),
                };
                SLOT.store(found, Ordering::Relaxed);
            }
            if found.is_null() {
                set_errno(libc::ENOSYS);
                return $fail;
            }
            // SAFETY: libc's function of that name has this type.
            let function = unsafe { std::mem::transmute::<*mut c_void, $full>(found) };
            // SAFETY: the caller vouches for the arguments.
            unsafe { function($($arg),*) }
        }
    )*};
}

type Path = *const c_char;
type Mode = libc::mode_t;
type Off = i64;
type Stream = *mut libc::FILE;

real! {
    open(path: Path, flags: c_int, mode: Mode) -> c_int
        as unsafe extern "C" fn(Path, c_int, ...) -> c_int, or -1;
    open64(path: Path, flags: c_int, mode: Mode) -> c_int
        as unsafe extern "C" fn(Path, c_int, ...) -> c_int, or -1;
    openat(dirfd: c_int, path: Path, flags: c_int, mode: Mode) -> c_int
        as unsafe extern "C" fn(c_int, Path, c_int, ...) -> c_int, or -1;
    openat64(dirfd: c_int, path: Path, flags: c_int, mode: Mode) -> c_int
        as unsafe extern "C" fn(c_int, Path, c_int, ...) -> c_int, or -1;
    close(fd: c_int) -> c_int as unsafe extern "C" fn(c_int) -> c_int, or -1;
    read(fd: c_int, buf: *mut c_void, n: usize) -> isize
        as unsafe extern "C" fn(c_int, *mut c_void, usize) -> isize, or -1;
    pread64(fd: c_int, buf: *mut c_void, n: usize, at: Off) -> isize
        as unsafe extern "C" fn(c_int, *mut c_void, usize, Off) -> isize, or -1;
    readv(fd: c_int, iov: *const libc::iovec, n: c_int) -> isize
        as unsafe extern "C" fn(c_int, *const libc::iovec, c_int) -> isize, or -1;
    preadv64(fd: c_int, iov: *const libc::iovec, n: c_int, at: Off) -> isize
        as unsafe extern "C" fn(c_int, *const libc::iovec, c_int, Off) -> isize, or -1;
    write(fd: c_int, buf: *const c_void, n: usize) -> isize
        as unsafe extern "C" fn(c_int, *const c_void, usize) -> isize, or -1;
    writev(fd: c_int, iov: *const libc::iovec, n: c_int) -> isize
        as unsafe extern "C" fn(c_int, *const libc::iovec, c_int) -> isize, or -1;
    pwrite64(fd: c_int, buf: *const c_void, n: usize, at: Off) -> isize
        as unsafe extern "C" fn(c_int, *const c_void, usize, Off) -> isize, or -1;
    pwritev64(fd: c_int, iov: *const libc::iovec, n: c_int, at: Off) -> isize
        as unsafe extern "C" fn(c_int, *const libc::iovec, c_int, Off) -> isize, or -1;
    pwritev64v2(fd: c_int, iov: *const libc::iovec, n: c_int, at: Off, flags: c_int) -> isize
        as unsafe extern "C" fn(c_int, *const libc::iovec, c_int, Off, c_int) -> isize, or -1;
    copy_file_range(from: c_int, from_at: *mut Off, to: c_int, to_at: *mut Off, n: usize, flags: libc::c_uint) -> isize
        as unsafe extern "C" fn(c_int, *mut Off, c_int, *mut Off, usize, libc::c_uint) -> isize, or -1;
    splice(from: c_int, from_at: *mut Off, to: c_int, to_at: *mut Off, n: usize, flags: libc::c_uint) -> isize
        as unsafe extern "C" fn(c_int, *mut Off, c_int, *mut Off, usize, libc::c_uint) -> isize, or -1;
    sendfile64(to: c_int, from: c_int, from_at: *mut Off, n: usize) -> isize
        as unsafe extern "C" fn(c_int, c_int, *mut Off, usize) -> isize, or -1;
    close_range(first: libc::c_uint, last: libc::c_uint, flags: c_int) -> c_int
        as unsafe extern "C" fn(libc::c_uint, libc::c_uint, c_int) -> c_int, or -1;
    linkat(from_dir: c_int, from: Path, to_dir: c_int, to: Path, flags: c_int) -> c_int
        as unsafe extern "C" fn(c_int, Path, c_int, Path, c_int) -> c_int, or -1;
    symlink(text: Path, to: Path) -> c_int
        as unsafe extern "C" fn(Path, Path) -> c_int, or -1;
    symlinkat(text: Path, to_dir: c_int, to: Path) -> c_int
        as unsafe extern "C" fn(Path, c_int, Path) -> c_int, or -1;
    mknod(path: Path, mode: Mode, device: libc::dev_t) -> c_int
        as unsafe extern "C" fn(Path, Mode, libc::dev_t) -> c_int, or -1;
    mknodat(dirfd: c_int, path: Path, mode: Mode, device: libc::dev_t) -> c_int
        as unsafe extern "C" fn(c_int, Path, Mode, libc::dev_t) -> c_int, or -1;
    fcntl(fd: c_int, command: c_int, argument: usize) -> c_int
        as unsafe extern "C" fn(c_int, c_int, ...) -> c_int, or -1;
    fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int
        as unsafe extern "C" fn(c_int, c_int, ...) -> c_int, or -1;
    fdopen(fd: c_int, mode: Path) -> Stream
        as unsafe extern "C" fn(c_int, Path) -> Stream, or std::ptr::null_mut();
    freopen(path: Path, mode: Path, stream: Stream) -> Stream
        as unsafe extern "C" fn(Path, Path, Stream) -> Stream, or std::ptr::null_mut();
    freopen64(path: Path, mode: Path, stream: Stream) -> Stream
        as unsafe extern "C" fn(Path, Path, Stream) -> Stream, or std::ptr::null_mut();
    ftruncate64(fd: c_int, size: Off) -> c_int
        as unsafe extern "C" fn(c_int, Off) -> c_int, or -1;
    truncate64(path: Path, size: Off) -> c_int
        as unsafe extern "C" fn(Path, Off) -> c_int, or -1;
    fallocate64(fd: c_int, mode: c_int, at: Off, len: Off) -> c_int
        as unsafe extern "C" fn(c_int, c_int, Off, Off) -> c_int, or -1;
    posix_fallocate64(fd: c_int, at: Off, len: Off) -> c_int
        as unsafe extern "C" fn(c_int, Off, Off) -> c_int, or libc::ENOSYS;
    fsync(fd: c_int) -> c_int as unsafe extern "C" fn(c_int) -> c_int, or -1;
    fdatasync(fd: c_int) -> c_int as unsafe extern "C" fn(c_int) -> c_int, or -1;
    rename(from: Path, to: Path) -> c_int
        as unsafe extern "C" fn(Path, Path) -> c_int, or -1;
    renameat(from_dir: c_int, from: Path, to_dir: c_int, to: Path) -> c_int
        as unsafe extern "C" fn(c_int, Path, c_int, Path) -> c_int, or -1;
    renameat2(from_dir: c_int, from: Path, to_dir: c_int, to: Path, flags: libc::c_uint) -> c_int
        as unsafe extern "C" fn(c_int, Path, c_int, Path, libc::c_uint) -> c_int, or -1;
    link(from: Path, to: Path) -> c_int
        as unsafe extern "C" fn(Path, Path) -> c_int, or -1;
    unlink(path: Path) -> c_int as unsafe extern "C" fn(Path) -> c_int, or -1;
    unlinkat(dirfd: c_int, path: Path, flags: c_int) -> c_int
        as unsafe extern "C" fn(c_int, Path, c_int) -> c_int, or -1;
    remove(path: Path) -> c_int as unsafe extern "C" fn(Path) -> c_int, or -1;
    mkdir(path: Path, mode: Mode) -> c_int
        as unsafe extern "C" fn(Path, Mode) -> c_int, or -1;
    mkdirat(dirfd: c_int, path: Path, mode: Mode) -> c_int
        as unsafe extern "C" fn(c_int, Path, Mode) -> c_int, or -1;
    rmdir(path: Path) -> c_int as unsafe extern "C" fn(Path) -> c_int, or -1;
    dup(fd: c_int) -> c_int as unsafe extern "C" fn(c_int) -> c_int, or -1;
    dup2(fd: c_int, to: c_int) -> c_int
        as unsafe extern "C" fn(c_int, c_int) -> c_int, or -1;
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int
        as unsafe extern "C" fn(c_int, c_int, c_int) -> c_int, or -1;
    fopen(path: Path, mode: Path) -> Stream
        as unsafe extern "C" fn(Path, Path) -> Stream, or std::ptr::null_mut();
    fopen64(path: Path, mode: Path) -> Stream
        as unsafe extern "C" fn(Path, Path) -> Stream, or std::ptr::null_mut();
    fflush(stream: Stream) -> c_int as unsafe extern "C" fn(Stream) -> c_int, or -1;
    fclose(stream: Stream) -> c_int as unsafe extern "C" fn(Stream) -> c_int, or -1;
}
