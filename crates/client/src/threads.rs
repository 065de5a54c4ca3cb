//! The library's own threads: named, deaf to signals, each with one
//! single-threaded runtime.

use crate::status::{Error, Status};
use std::cell::Cell;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

thread_local! {
    static OF_LIBRARY: Cell<bool> = const { Cell::new(false) };
}

/// Whether the current thread is one of the library's: it must not wait for
/// another page, and its file operations are not the server's.
pub fn is_library_thread() -> bool {
    OF_LIBRARY.try_with(Cell::get).unwrap_or(false)
}

/// Locks `mutex`, also after a panic in another holder: every state here is
/// consistent whenever its lock is released, a panic only ends one call.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread called `name` (at most 15 bytes show) that runs the future
/// `make` returns on a runtime of its own. `make` gets that runtime's handle.
///
/// # Errors
/// When the system gives no thread or no epoll instance.
pub fn spawn<M, F>(name: &str, make: M) -> Result<JoinHandle<()>, Error>
where
    M: FnOnce(tokio::runtime::Handle) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    let failed =
        |e: std::io::Error| Error::new(Status::Error, format!("cannot start thread {name}: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let _signals = SignalsBlocked::new();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            OF_LIBRARY.with(|flag| flag.set(true));
            let handle = runtime.handle().clone();
            runtime.block_on(make(handle));
            // A lookup that hangs in getaddrinfo must not hold the shutdown up.
            runtime.shutdown_background();
        })
        .map_err(failed)
}

/// Blocks all signals in this thread while it lives. A new thread inherits the
/// mask, so the server's signals keep going to the threads that expect them,
/// from the new thread's first instruction on.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> SignalsBlocked {
        let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut old = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both point to writable sigset_t; sigemptyset and sigfillset
        // make them whole before they are read.
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
