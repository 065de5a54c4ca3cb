//! The library's threads. Each has a name and blocks all signals.

use crate::status::{Error, Status};
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

thread_local! {
    static OF_LIBRARY: Cell<bool> = const { Cell::new(false) };
}

/// Whether the current thread belongs to the library. Such a thread must not
/// wait for a page, and its file operations are not captured.
pub fn is_library_thread() -> bool {
    OF_LIBRARY.try_with(Cell::get).unwrap_or(false)
}

/// Locks `mutex`, even if another holder panicked: all state here is consistent
/// whenever its lock is released.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread. The system shows the first 15 bytes of `name`.
///
/// # Errors
/// When the system cannot create a thread.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let _signals = SignalsBlocked::new();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            OF_LIBRARY.with(|flag| flag.set(true));
            run();
        })
        .map_err(|e| Error::new(Status::Error, format!("cannot start thread {name}: {e}")))
}

/// Blocks all signals in the current thread while this value exists. A new
/// thread inherits the mask, so that it never receives one of the server's
/// signals.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> SignalsBlocked {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both point to a writable sigset_t. sigfillset and sigemptyset
        // initialise them before they are read.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(old.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
            SignalsBlocked(old.assume_init())
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by pthread_sigmask or sigemptyset.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut());
        }
    }
}
