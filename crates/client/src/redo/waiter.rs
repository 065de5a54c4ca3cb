//! A thread that waits for its redo to become durable.

use std::sync::Arc;
use std::thread::Thread;

/// A waiting thread. What it waits for, and whether it leads, is under the queue's lock.
#[derive(Debug)]
pub struct Waiter(Thread);

impl Waiter {
    /// A waiter for the current thread.
    pub fn new() -> Arc<Waiter> {
        Arc::new(Waiter(std::thread::current()))
    }

    /// Wakes the thread, so that it looks whether its wait is over.
    pub fn wake(&self) {
        if self.0.id() != std::thread::current().id() {
            self.0.unpark();
        }
    }
}
