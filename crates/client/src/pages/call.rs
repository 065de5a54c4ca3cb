//! A page read, from the call to its completion.

use crate::status::Status;
use crate::wire::pages::Destination;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Instant;

/// The caller's buffer. It belongs to the library from the call until its
/// completion.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    buf: *mut u8,
    len: usize,
}

// SAFETY: only the connection's thread, which owns the call, uses the pointer
// until the call completes.
unsafe impl Send for Target {}

impl Target {
    /// The `len` bytes at `buf`.
    ///
    /// # Safety
    /// They must be writable, and nothing else may use them, until the call
    /// completes.
    pub unsafe fn new(buf: *mut u8, len: usize) -> Target {
        Target { buf, len }
    }

    /// The size of the buffer, in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer has no room.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Destination for Target {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        // Bytes beyond the end are dropped. The caller of the decoder detects a
        // page of the wrong size by its length.
        let room = self.len.saturating_sub(at);
        let n = bytes.len().min(room);
        if n > 0 {
            // SAFETY: at + n <= len, and the creator of the target vouched for
            // len writable bytes. `bytes` belongs to the library, so it does not
            // overlap them.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.buf.add(at), n);
            }
        }
    }
}

/// Lets a thread sleep until another one passes it a status.
#[derive(Debug)]
pub struct Waiter {
    status: AtomicI32,
    thread: Thread,
}

const NOT_YET: i32 = -1;

impl Waiter {
    /// A waiter for the current thread.
    pub fn new() -> Arc<Waiter> {
        Arc::new(Waiter {
            status: AtomicI32::new(NOT_YET),
            thread: std::thread::current(),
        })
    }

    /// Passes the status and wakes the thread.
    pub fn tell(&self, status: Status) {
        self.status.store(status.code(), Ordering::Release);
        self.thread.unpark();
    }

    /// The status, if it was passed already.
    pub fn told(&self) -> Option<Status> {
        let code = self.status.load(Ordering::Acquire);
        (code != NOT_YET).then(|| Status::from_code(code))
    }

    /// Sleeps until there is a status. Only the thread that created the waiter
    /// may call this.
    pub fn wait(&self) -> Status {
        loop {
            if let Some(status) = self.told() {
                return status;
            }
            std::thread::park();
        }
    }
}

/// A batch of pages that one thread waits for.
#[derive(Debug)]
pub struct Batch {
    left: AtomicUsize,
    statuses: Vec<AtomicI32>,
    waiter: Arc<Waiter>,
}

impl Batch {
    /// A batch of `count` pages that the current thread waits for.
    pub fn new(count: usize) -> Arc<Batch> {
        Arc::new(Batch {
            left: AtomicUsize::new(count),
            statuses: (0..count).map(|_| AtomicI32::new(NOT_YET)).collect(),
            waiter: Waiter::new(),
        })
    }

    /// Passes the status of page `index`.
    pub fn tell(&self, index: usize, status: Status) {
        if let Some(slot) = self.statuses.get(index) {
            slot.store(status.code(), Ordering::Relaxed);
        }
        // AcqRel: the last page publishes the writes of all others.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waiter.tell(Status::Ok);
        }
    }

    /// Sleeps until all pages are done, and returns their statuses in order.
    pub fn wait(&self) -> Vec<Status> {
        if !self.statuses.is_empty() {
            self.waiter.wait();
        }
        self.statuses
            .iter()
            .map(|s| Status::from_code(s.load(Ordering::Relaxed)))
            .collect()
    }
}

/// `xylem_page_done` of the C header.
pub type DoneFn = unsafe extern "C" fn(*mut c_void, i32);

/// The receiver of a call's status.
#[derive(Debug)]
pub enum Done {
    /// A thread that waits for this page.
    Sync(Arc<Waiter>),
    /// A thread that waits for a batch, and the index of the page in it.
    Batch(Arc<Batch>, usize),
    /// A function of the caller.
    Async(Callback),
}

/// The caller's function and its context.
#[derive(Debug)]
pub struct Callback {
    /// The function.
    pub done: DoneFn,
    /// Its first argument.
    pub context: *mut c_void,
}

// SAFETY: the C interface says that a thread of the library calls `done`, so the
// caller's context must allow that.
unsafe impl Send for Callback {}

/// One page read.
#[derive(Debug)]
pub struct PageCall {
    /// The tablespace.
    pub space_id: u32,
    /// The page's number.
    pub page_no: u32,
    /// The page must show at least every change up to this LSN.
    pub min_lsn: u64,
    /// The buffer that receives the page.
    pub target: Target,
    /// The time of the call.
    pub started: Instant,
    /// The number of failed attempts.
    pub failures: u32,
    /// The receiver of the status; `None` after completion.
    pub done: Option<Done>,
}

impl PageCall {
    /// Passes the status to its receiver. The buffer belongs to the caller again.
    pub fn complete(mut self, status: Status) {
        self.tell(status);
    }

    fn tell(&mut self, status: Status) {
        match self.done.take() {
            Some(Done::Sync(waiter)) => waiter.tell(status),
            Some(Done::Batch(batch, index)) => batch.tell(index, status),
            Some(Done::Async(callback)) => {
                // SAFETY: the caller of xylem_get_page_async passed the function
                // and the context for exactly one call.
                unsafe { (callback.done)(callback.context, status.code()) }
            }
            None => {}
        }
    }
}

impl Drop for PageCall {
    /// Completes a call that was lost, for example in a panic. Otherwise a thread
    /// of the server would sleep forever.
    fn drop(&mut self) {
        self.tell(Status::Cancelled);
    }
}
