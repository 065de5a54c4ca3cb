//! Side files: files that MariaDB keeps beside InnoDB. The library captures
//! operations on them where the server calls libc, and adds them to the redo
//! stream in the order of the calls.
//!
//! This works only if the library is preloaded (`LD_PRELOAD`) and `XYLEM_DATADIR`
//! names the data directory. Otherwise every interposed function calls libc
//! directly. A file is a side file if its name says so ([`names`]). The library
//! tracks descriptors of side files that are open for writing (`fds`). One mutex
//! is held from the local operation until it is queued, so that concurrent
//! operations have the same order in both places. Waits for durability happen
//! outside that mutex.
//!
//! Operations before `xylem_init` are kept in memory and sent first.

pub mod engines;
mod fds;
mod interpose;
pub mod logs;
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

/// While this value exists, file operations of the current thread are the
/// library's own and are not captured.
pub struct Uncaptured(());

impl Uncaptured {
    /// Ends the capture of this thread's file operations until the value is
    /// dropped.
    #[allow(clippy::new_without_default)] // it has a side effect
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

/// Whether file operations of this thread are captured.
fn is_captured_thread() -> bool {
    // A thread without its locals is ending, in a destructor of libc.
    INSIDE.try_with(|depth| depth.get() == 0).unwrap_or(false) && !is_library_thread()
}

/// Whether this library is preloaded before libc and knows the data directory.
pub fn is_active() -> bool {
    paths::is_active() && real::is_interposed()
}

/// Checks that the plugin and the launcher (`XYLEM_DATADIR`) name the same data
/// directory.
///
/// # Errors
/// When they differ. Side files would be sought in the wrong directory.
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

/// Sends the operations kept so far, and all later ones, to `queue`.
///
/// # Errors
/// When the queue does not accept them.
pub fn attach(queue: Arc<Queue>, shared: Arc<Shared>) -> Result<(), Error> {
    let _ours = Uncaptured::new();
    lock(&ops::OPS).attach(queue, shared)
}

/// Discards the operations kept so far and all later ones, because a reader sends
/// none.
pub fn attach_reader() {
    lock(&ops::OPS).attach_reader();
}

/// Keeps later operations in memory again.
pub fn detach() {
    lock(&ops::OPS).detach();
}
