//! Side files: what MariaDB keeps beside InnoDB, caught where the server calls
//! libc, and put in the redo stream in the order of the calls.
//!
//! Works only when the library is preloaded (`LD_PRELOAD`) and `XYLEM_DATADIR`
//! names the data directory; otherwise every interposed function goes straight
//! to libc. Which files count is decided by name ([`names`]); descriptors of
//! such files opened for writing are remembered ([`fds`]); one mutex around the
//! local operation and its queueing keeps two racing ones in one order. Waits
//! for durability happen outside that mutex.
//!
//! Before `xylem_init` operations are kept in memory, and after it sent first.

pub mod engines;
mod fds;
mod interpose;
pub mod names;
mod ops;
mod paths;
mod real;
mod sink;
mod stdio;

use crate::redo::Queue;
use crate::shared::Shared;
use crate::status::{Error, Status};
use crate::threads::{is_library_thread, lock};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;

thread_local! {
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// While it lives, what this thread does to files is the library's own doing.
pub struct Uncaptured(());

impl Uncaptured {
    /// From here on.
    #[allow(clippy::new_without_default)] // making one is an act
    pub fn new() -> Uncaptured {
        let _ = INSIDE.try_with(|depth| depth.set(depth.get().saturating_add(1)));
        Uncaptured(())
    }
}

impl Drop for Uncaptured {
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}

/// Whether file operations of this thread are to be looked at.
fn is_captured_thread() -> bool {
    // A thread whose locals are gone is ending, in a destructor of libc.
    INSIDE.try_with(|depth| depth.get() == 0).unwrap_or(false) && !is_library_thread()
}

/// Whether this library stands before libc and knows the data directory.
pub fn is_active() -> bool {
    paths::is_active() && real::is_interposed()
}

/// Checks the data directory that the plugin names against the one that the
/// launcher named.
///
/// # Errors
/// When they differ: side files would be looked for in the wrong place.
pub fn check_datadir(datadir: &Path) -> Result<(), Error> {
    if !paths::is_active() || paths::is_root(datadir) {
        return Ok(());
    }
    Err(Error::new(
        Status::Invalid,
        format!(
            "the server's data directory is {}, but XYLEM_DATADIR is {}",
            datadir.display(),
            std::env::var("XYLEM_DATADIR").unwrap_or_default()
        ),
    ))
}

/// From here on operations go to `queue`, those kept so far first.
///
/// # Errors
/// When the queue takes them not.
pub fn attach(queue: Arc<Queue>, shared: Arc<Shared>) -> Result<(), Error> {
    let _ours = Uncaptured::new();
    lock(&ops::OPS).attach(queue, shared)
}

/// A reader sends nothing: what was kept is forgotten, what comes is ignored.
pub fn attach_reader() {
    lock(&ops::OPS).attach_reader();
}

/// From here on operations are kept in memory again.
pub fn detach() {
    lock(&ops::OPS).detach();
}
