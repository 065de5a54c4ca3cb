//! A request to the page server, from the call to its completion.

use crate::refusal::{Closed, Refusal};
use crate::status::Status;
use crate::threads::lock;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Instant;
use xylem_wire::{GetLog, GetPage, GetSpace, Space, Standing, get_log, get_page, get_space, ping};

/// The caller's buffer. It belongs to the library from the call until its
/// completion.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    buf: *mut u8,
    len: usize,
}

// SAFETY: only the thread that has taken the call out of its link uses the pointer,
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

    /// Stores a page. Returns false if it does not have the buffer's size.
    pub fn put(&mut self, page: &[u8]) -> bool {
        if page.len() != self.len {
            return false;
        }
        // SAFETY: the creator of the target vouched for `len` writable bytes. `page`
        // belongs to the library, so it does not overlap them.
        unsafe { std::ptr::copy_nonoverlapping(page.as_ptr(), self.buf, self.len) };
        true
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// A page, and the buffer that receives it.
    Page(GetPage, Target),
    /// The file of a tablespace.
    Space(GetSpace),
    /// Bytes of the binary log.
    Log(GetLog),
    /// Whether the server is there.
    Ping,
}

impl Request {
    /// Appends the message with number `id`.
    pub fn put(&self, id: u64, out: &mut Vec<u8>) {
        match self {
            Request::Page(get, _) => out.extend_from_slice(&get_page(id, get)),
            Request::Space(get) => out.extend_from_slice(&get_space(id, get)),
            Request::Log(get) => out.extend_from_slice(&get_log(id, get)),
            Request::Ping => out.extend_from_slice(&ping(id)),
        }
    }

    /// The request in messages.
    pub fn name(&self) -> String {
        match self {
            Request::Page(get, _) => format!("page {}:{}", get.space_id, get.page_no),
            Request::Space(get) => format!("tablespace {}", get.space_id),
            Request::Log(get) => format!("file {} of the binary log", get.number),
            Request::Ping => "ping".to_owned(),
        }
    }
}

/// The end of an attempt at a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The page is in its buffer.
    Page,
    /// The page has this size, and its buffer another one.
    WrongSize(usize),
    /// The file of the tablespace.
    Space(Space),
    /// Bytes of the binary log.
    Log(Vec<u8>),
    /// The server is there.
    Pong(Standing),
    /// The server's error.
    Refused(Refusal),
    /// There was no answer in time.
    Late,
    /// The connection ended before the answer came.
    Closed(Closed),
}

/// A thread that waits for the outcomes of its requests.
#[derive(Debug)]
pub struct Waiter {
    thread: Thread,
    outcomes: Mutex<Outcomes>,
    leads: AtomicBool,
}

#[derive(Debug)]
struct Outcomes {
    all: Vec<Option<Outcome>>,
    missing: usize,
}

/// What a thread that waited does next.
#[derive(Debug)]
pub enum Turn {
    /// All outcomes are there, in the order of the requests.
    Done(Vec<Outcome>),
    /// The thread receives, for itself and others.
    Lead,
}

impl Waiter {
    /// A waiter for the current thread, which makes `count` requests.
    pub fn new(count: usize) -> Arc<Waiter> {
        Arc::new(Waiter {
            thread: std::thread::current(),
            outcomes: Mutex::new(Outcomes {
                all: std::iter::repeat_with(|| None).take(count).collect(),
                missing: count,
            }),
            leads: AtomicBool::new(false),
        })
    }

    /// Passes the outcome of request `index`. Wakes the thread with the last one.
    pub fn tell(&self, index: usize, outcome: Outcome) {
        let mut outcomes = lock(&self.outcomes);
        let Some(slot) = outcomes.all.get_mut(index) else {
            return;
        };
        if slot.replace(outcome).is_some() {
            return;
        }
        outcomes.missing -= 1;
        let last = outcomes.missing == 0;
        drop(outcomes);
        // The leader finds its own outcomes itself.
        if last && std::thread::current().id() != self.thread.id() {
            self.thread.unpark();
        }
    }

    /// Makes the thread the one that receives, and wakes it.
    pub fn lead(&self) {
        self.leads.store(true, Ordering::Release);
        self.thread.unpark();
    }

    /// The outcomes, if all are there.
    pub fn take(&self) -> Option<Vec<Outcome>> {
        let mut outcomes = lock(&self.outcomes);
        (outcomes.missing == 0).then(|| outcomes.all.drain(..).flatten().collect())
    }

    /// Sleeps until it is the thread's turn. Only the thread that created the waiter
    /// may call this.
    pub fn wait(&self) -> Turn {
        loop {
            // First: a thread that was made the leader leads, or hands over.
            if self.leads.swap(false, Ordering::Acquire) {
                return Turn::Lead;
            }
            if let Some(outcomes) = self.take() {
                return Turn::Done(outcomes);
            }
            std::thread::park();
        }
    }
}

/// `xylem_page_done` of the C header.
pub type DoneFn = unsafe extern "C" fn(*mut c_void, i32);

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

/// A page read that no thread waits for.
#[derive(Debug)]
pub struct PageCall {
    /// The page.
    pub get: GetPage,
    /// The buffer that receives the page.
    pub target: Target,
    /// The time of the call.
    pub started: Instant,
    /// The number of failed attempts.
    pub failures: u32,
    callback: Option<Callback>,
}

impl PageCall {
    /// A read that began at `started`.
    pub fn new(get: GetPage, target: Target, started: Instant, callback: Callback) -> PageCall {
        PageCall {
            get,
            target,
            started,
            failures: 0,
            callback: Some(callback),
        }
    }

    /// Passes the status to the caller. The buffer belongs to the caller again.
    pub fn complete(mut self, status: Status) {
        self.tell(status);
    }

    /// Drops the call without a completion: its caller gets an error instead.
    pub fn forget(mut self) {
        self.callback = None;
    }

    fn tell(&mut self, status: Status) {
        if let Some(callback) = self.callback.take() {
            // SAFETY: the caller of xylem_get_page_async passed the function and the
            // context for exactly one call.
            unsafe { (callback.done)(callback.context, status.code()) }
        }
    }
}

impl Drop for PageCall {
    /// Completes a call that was lost, for example in a panic. Otherwise a page would
    /// stay locked forever.
    fn drop(&mut self) {
        self.tell(Status::Cancelled);
    }
}
