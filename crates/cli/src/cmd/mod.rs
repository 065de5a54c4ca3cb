//! The commands, one file each.

pub mod api;
pub mod branch;
pub mod compute;
pub mod doctor;
pub mod down;
pub mod export;
pub mod gateway;
pub mod import;
pub mod inspect;
pub mod scrub;
pub mod serve;
pub mod sql;
pub mod status;
pub mod template;
pub mod token;
pub mod up;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGINT or SIGTERM, from now on; how the process was told to end.
///
/// # Errors
/// When signals cannot be waited for.
pub(crate) fn interrupted() -> Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "interrupted",
            _ = terminate.recv() => "terminated",
        }
    })
}
