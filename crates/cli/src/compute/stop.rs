//! Ending computes.

use super::name::ComputeName;
use super::record::{ComputeRecord, ComputeState, Phase};
use crate::app::App;
use crate::control::Control;
use crate::files;
use crate::state::StateDir;
use anyhow::{Context, Result};
use std::time::Duration;
use xylem_gateway::Sleep;

/// How long a compute may take to end by itself. Nothing is lost when it is killed:
/// what it acknowledged is durable elsewhere.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How long a compute that nobody uses may take to end by itself. Its next clients wait
/// meanwhile, and so do the starts of others.
const SUSPEND_LIMIT: Duration = Duration::from_secs(10);

/// How long the server may take to remove a lease.
const FORGET_LIMIT: Duration = Duration::from_secs(5);

/// Asks the compute to end, waits, and kills it after [`LIMIT`]. False when it did
/// not run.
///
/// # Errors
/// When it cannot be signalled, or does not go.
pub async fn stop(state: &StateDir, name: &ComputeName) -> Result<bool> {
    end(state, name, Phase::Stopped, &Sleep::default()).await
}

/// Ends the compute as [`stop`] does, because nobody uses it.
///
/// # Errors
/// As for [`stop`].
pub async fn suspend(state: &StateDir, name: &ComputeName, sleep: &Sleep) -> Result<bool> {
    end(state, name, Phase::Asleep, sleep).await
}

/// Ends the compute as [`stop`] does, unless it sleeps: then it goes on sleeping. The record
/// that it had before, if it was ever started.
///
/// # Errors
/// As for [`stop`].
pub async fn stop_awake(state: &StateDir, name: &ComputeName) -> Result<Option<ComputeRecord>> {
    let before = ComputeRecord::load(&state.compute(name));
    let sleeps = |record: &ComputeRecord| record.state() == ComputeState::Asleep;
    if !before.as_ref().is_some_and(sleeps) {
        stop(state, name).await?;
    }
    Ok(before)
}

async fn end(state: &StateDir, name: &ComputeName, phase: Phase, sleep: &Sleep) -> Result<bool> {
    let dir = state.compute(name);
    let Some(record) = ComputeRecord::load(&dir) else {
        return Ok(false);
    };
    let ran = record.process.is_alive();
    let limit = match phase {
        Phase::Asleep => SUSPEND_LIMIT,
        _ => LIMIT,
    };
    if ran {
        mark(state, name, &record, phase, sleep)?;
        record
            .process
            .stop(limit, || {
                eprintln!(
                    "{} (pid {}) did not end in {} s: killing it (nothing acknowledged is lost)",
                    name.described(),
                    record.process.pid,
                    limit.as_secs()
                );
            })
            .await
            .with_context(|| format!("cannot stop {}", name.described()))?;
    } else if record.phase != phase {
        mark(state, name, &record, phase, sleep)?;
    }
    tidy(&record);
    Ok(ran)
}

/// Ends the compute at once (SIGKILL). False when it did not run.
///
/// # Errors
/// When it cannot be signalled, or does not go.
pub async fn kill(state: &StateDir, name: &ComputeName) -> Result<bool> {
    let dir = state.compute(name);
    let Some(record) = ComputeRecord::load(&dir) else {
        return Ok(false);
    };
    let ran = record.process.is_alive();
    if ran {
        mark(state, name, &record, Phase::Stopped, &Sleep::default())?;
        record
            .process
            .kill()
            .await
            .with_context(|| format!("cannot kill {}", name.described()))?;
    }
    // No lock was taken, so that killing never waits: somebody may have
    // started it anew meanwhile.
    if ComputeRecord::load(&dir).is_some_and(|now| now.process == record.process) {
        tidy(&record);
    }
    Ok(ran)
}

/// Removes a read-only compute that has ended: its lease on the server, its
/// directory and its lock here, which the caller holds. The server removes the lease by itself later, so it is no
/// error if the server does not answer.
///
/// # Errors
/// When the directory cannot be removed.
pub async fn forget_reader(app: &App, name: &ComputeName) -> Result<()> {
    let state = &app.state;
    let dir = state.compute(name);
    let lease = ComputeRecord::load(&dir).map(|record| format!("id:{}", record.branch_id));
    let server = state.server_record().filter(|r| r.process.is_alive());
    if let (Some(lease), Some(server)) = (lease, server) {
        let asked = async {
            let control = Control::of(app, &server).await?;
            control.remove_branch(&lease).await
        };
        // A server that hangs must not keep a compute from being stopped.
        let _ = tokio::time::timeout(FORGET_LIMIT, asked).await;
    }
    files::remove_tree(dir.root())?;
    state.forget_lock(name);
    Ok(())
}

/// Notes that the end is on purpose. Before the signal, so that a command
/// which watches does not take it for a crash.
fn mark(
    state: &StateDir,
    name: &ComputeName,
    record: &ComputeRecord,
    phase: Phase,
    sleep: &Sleep,
) -> Result<()> {
    ComputeRecord {
        phase,
        wake_at: sleep.wake_at,
        globals: sleep.globals.clone(),
        ..record.clone()
    }
    .save(&state.compute(name))
}

fn tidy(record: &ComputeRecord) {
    let _ = std::fs::remove_file(&record.socket);
}
