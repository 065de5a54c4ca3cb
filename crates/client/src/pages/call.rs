//! One page read from the call to its completion: where the page goes and who
//! is told.

use crate::status::Status;
use crate::wire::pages::Destination;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::Instant;

/// The caller's buffer. It belongs to the library from the call until the
/// completion, which is the only thing that lets the caller go on.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    buf: *mut u8,
    len: usize,
}

// SAFETY: the pointer is used by one thread at a time: the connection's, which
// owns the call, until the caller is told.
unsafe impl Send for Target {}

impl Target {
    /// The `len` bytes at `buf`.
    ///
    /// # Safety
    /// They must be writable, and nobody else's, until the call completes.
    pub unsafe fn new(buf: *mut u8, len: usize) -> Target {
        Target { buf, len }
    }

    /// Bytes of the buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no room at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Destination for Target {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        // A page of the wrong size is found afterwards by its length; here only
        // nothing may be written past the end.
        let room = self.len.saturating_sub(at);
        let n = bytes.len().min(room);
        if n > 0 {
            // SAFETY: at + n <= len, and the creator of the target vouched for
            // len writable bytes; `bytes` is the library's, so no overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.buf.add(at), n);
            }
        }
    }
}

/// A thread that sleeps until it is told a status.
#[derive(Debug)]
pub struct Waiter {
    status: AtomicI32,
    thread: Thread,
}

const NOT_YET: i32 = -1;

impl Waiter {
    /// For the current thread.
    pub fn new() -> Arc<Waiter> {
        Arc::new(Waiter {
            status: AtomicI32::new(NOT_YET),
            thread: std::thread::current(),
        })
    }

    /// Wakes the thread.
    pub fn tell(&self, status: Status) {
        self.status.store(status.code(), Ordering::Release);
        self.thread.unpark();
    }

    /// The status, when it was told.
    pub fn told(&self) -> Option<Status> {
        let code = self.status.load(Ordering::Acquire);
        (code != NOT_YET).then(|| Status::from_code(code))
    }

    /// Sleeps until told; only for the thread the waiter was made on.
    pub fn wait(&self) -> Status {
        loop {
            if let Some(status) = self.told() {
                return status;
            }
            std::thread::park();
        }
    }
}

/// Many pages that one thread waits for.
#[derive(Debug)]
pub struct Batch {
    left: AtomicUsize,
    statuses: Vec<AtomicI32>,
    waiter: Arc<Waiter>,
}

impl Batch {
    /// For `count` pages, awaited by the current thread.
    pub fn new(count: usize) -> Arc<Batch> {
        Arc::new(Batch {
            left: AtomicUsize::new(count),
            statuses: (0..count).map(|_| AtomicI32::new(NOT_YET)).collect(),
            waiter: Waiter::new(),
        })
    }

    /// Page `index` is done.
    pub fn tell(&self, index: usize, status: Status) {
        if let Some(slot) = self.statuses.get(index) {
            slot.store(status.code(), Ordering::Relaxed);
        }
        // AcqRel: the last one hands over what all others wrote.
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waiter.tell(Status::Ok);
        }
    }

    /// Sleeps until all pages are done; their statuses in order.
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

/// Who is told when the page is there, or will not come.
#[derive(Debug)]
pub enum Done {
    /// A thread that waits.
    Sync(Arc<Waiter>),
    /// A thread that waits for many; which of them this is.
    Batch(Arc<Batch>, usize),
    /// A function of the caller.
    Async(Callback),
}

/// The caller's function and what it wants to be given.
#[derive(Debug)]
pub struct Callback {
    /// The function.
    pub done: DoneFn,
    /// Its first argument.
    pub context: *mut c_void,
}

// SAFETY: the C interface says that `done` is called on a thread of the
// library, so the caller's context is made for that.
unsafe impl Send for Callback {}

/// One page read.
#[derive(Debug)]
pub struct PageCall {
    /// The tablespace.
    pub space_id: u32,
    /// The page's number.
    pub page_no: u32,
    /// The page must show at least this LSN.
    pub min_lsn: u64,
    /// Where the page goes.
    pub target: Target,
    /// When the caller called.
    pub started: Instant,
    /// Attempts that failed.
    pub failures: u32,
    /// Who is told; `None` once told.
    pub done: Option<Done>,
}

impl PageCall {
    /// Tells whoever waits. The buffer is the caller's again.
    pub fn complete(mut self, status: Status) {
        self.tell(status);
    }

    fn tell(&mut self, status: Status) {
        match self.done.take() {
            Some(Done::Sync(waiter)) => waiter.tell(status),
            Some(Done::Batch(batch, index)) => batch.tell(index, status),
            Some(Done::Async(callback)) => {
                // SAFETY: the caller of xylem_get_page_async gave function and
                // context for exactly this one call.
                unsafe { (callback.done)(callback.context, status.code()) }
            }
            None => {}
        }
    }
}

impl Drop for PageCall {
    /// A call that gets lost, even in a panic, is told: a thread of the server
    /// would otherwise sleep for ever.
    fn drop(&mut self) {
        self.tell(Status::Cancelled);
    }
}
