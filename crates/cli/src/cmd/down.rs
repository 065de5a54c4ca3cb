//! `xylem down`: the gateway, the API and computes, then the server.

use crate::app::{App, LOCK_LIMIT};
use crate::compute::{record, stop};
use crate::output;
use crate::report::StatusReport;
use crate::role::{self, END_LIMIT, Role};
use crate::server;
use crate::state::StateDir;
use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::task::JoinSet;

/// Runs the command.
///
/// # Errors
/// When a process does not go.
pub async fn run(app: &App) -> Result<()> {
    app.state.require_project()?;
    let progress = app.progress();
    progress.say("stopping".to_owned());
    let stopped = {
        let _lock = app.state.lock(LOCK_LIMIT).await?;
        stop_all(app).await?
    };
    drop(progress);
    if app.json {
        return output::json(&StatusReport::gather(app).await);
    }
    if stopped.is_empty() {
        return output::text_line("nothing was running");
    }
    output::text_line(&format!("stopped {}", stopped.join(", ")))
}

/// Stops the gateway, the API and all computes at once, then the server; returns what ran.
///
/// # Errors
/// When a process does not go.
pub async fn stop_all(app: &App) -> Result<Vec<String>> {
    let state = &app.state;
    // It takes no further clients, and loses those that it has to the end of the computes.
    let gateway = role::tell_to_stop(state, Role::Gateway)?;
    // What it would change waits for the lock, which the caller has.
    let api = role::tell_to_stop(state, Role::Api)?;
    let computes = stop_computes(app).await;
    let mut stopped = Vec::new();
    if let Some(gateway) = gateway {
        role::wait_stopped(Role::Gateway, gateway, END_LIMIT).await?;
        stopped.push("the gateway".to_owned());
        stopped.extend(computes?);
        // The gateway may have started one meanwhile, for a client that came before.
        stopped.extend(stop_computes(app).await?);
    } else {
        stopped = computes?;
    }
    if let Some(api) = api {
        role::wait_stopped(Role::Api, api, END_LIMIT).await?;
        stopped.push("the API".to_owned());
    }
    if server::stop(state).await? {
        stopped.push("the server".to_owned());
    }
    Ok(stopped)
}

/// Stops all computes at once; returns those that ran.
async fn stop_computes(app: &App) -> Result<Vec<String>> {
    let state = &app.state;
    let mut stopped = Vec::new();
    let mut tasks = JoinSet::new();
    for (name, _) in record::list(state) {
        let app = app.clone();
        tasks.spawn(async move {
            let stopped = stop::stop(&app.state, &name).await;
            if stopped.is_ok()
                && name.is_reader()
                && let Err(error) = stop::forget_reader(&app, &name).await
            {
                return (Err(error), name);
            }
            (stopped, name)
        });
    }
    let mut failed = None;
    while let Some(done) = tasks.join_next().await {
        let (result, name) = done.context("stopping a compute")?;
        match result {
            Ok(true) => stopped.push(name.described()),
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
    }
    stopped.sort();
    failed.map_or(Ok(stopped), Err)
}

/// Kills everything.
///
/// # Errors
/// When a process cannot be signalled.
pub async fn kill_all(state: &StateDir) -> Result<()> {
    for role in Role::ALL {
        role::kill(state, role)?;
    }
    for (name, _) in record::list(state) {
        stop::kill(state, &name).await?;
    }
    if let Some(record) = state.server_record() {
        record.process.signal(Signal::KILL)?;
    }
    Ok(())
}
