//! Threads of the store.

use crate::error::StoreError;

/// Starts a detached thread.
///
/// # Errors
/// When the system has no thread for it.
pub(super) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread
        .spawn(run)
        .map(|_| ())
        .map_err(|source| StoreError::Io {
            context: format!("start thread {name}"),
            source,
        })
}
