//! Ending computes.

use super::record::{ComputeRecord, Phase};
use crate::state::StateDir;
use anyhow::{Context, Result};
use std::time::Duration;
use xylem_types::BranchName;

/// How long a compute may take to end by itself. Nothing is lost when it is
/// ended by force: what it acknowledged is durable elsewhere.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Asks the compute to end, waits, and insists after [`LIMIT`]. False when it
/// did not run.
///
/// # Errors
/// When it cannot be signalled, or does not go.
pub async fn stop(state: &StateDir, branch: &BranchName) -> Result<bool> {
    let dir = state.compute(branch);
    let Some(record) = ComputeRecord::load(&dir) else {
        return Ok(false);
    };
    let ran = record.process.is_alive();
    if ran {
        mark(state, branch, &record)?;
        record
            .process
            .stop(LIMIT, || {
                eprintln!(
                    "the compute of branch {branch} (pid {}) did not end in {} s: ending it by force (nothing acknowledged is lost)",
                    record.process.pid,
                    LIMIT.as_secs()
                );
            })
            .await
            .with_context(|| format!("cannot stop the compute of branch {branch}"))?;
    } else if record.phase != Phase::Stopped {
        mark(state, branch, &record)?;
    }
    tidy(&record);
    Ok(ran)
}

/// Ends the compute at once (SIGKILL). False when it did not run.
///
/// # Errors
/// When it cannot be signalled, or does not go.
pub async fn kill(state: &StateDir, branch: &BranchName) -> Result<bool> {
    let dir = state.compute(branch);
    let Some(record) = ComputeRecord::load(&dir) else {
        return Ok(false);
    };
    let ran = record.process.is_alive();
    if ran {
        mark(state, branch, &record)?;
        record
            .process
            .kill()
            .await
            .with_context(|| format!("cannot kill the compute of branch {branch}"))?;
    }
    // No lock was taken, so that killing never waits: somebody may have
    // started it anew meanwhile.
    if ComputeRecord::load(&dir).is_some_and(|now| now.process == record.process) {
        tidy(&record);
    }
    Ok(ran)
}

/// Notes that the end is on purpose. Before the signal, so that a command
/// which watches does not take it for a crash.
fn mark(state: &StateDir, branch: &BranchName, record: &ComputeRecord) -> Result<()> {
    ComputeRecord {
        phase: Phase::Stopped,
        ..record.clone()
    }
    .save(&state.compute(branch))
}

fn tidy(record: &ComputeRecord) {
    let _ = std::fs::remove_file(&record.socket);
}
