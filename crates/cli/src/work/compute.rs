//! Work on computes.

use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord};
use crate::compute::starter;
use crate::compute::stop;
use crate::control::near;
use crate::failure::{Failure, Kind};
use crate::history;
use crate::moment::Moment;
use crate::progress::Progress;
use crate::project::Project;
use crate::report::branch::BranchReport;
use crate::report::change::{Ended, Started};
use crate::report::{ComputeReport, seen};
use crate::run_as;
use crate::session::Session;
use anyhow::Result;

/// A compute to be started.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name; that of the branch for a new read-only compute.
    pub name: ComputeName,
    /// Its port; `None`: its last one, or the next free one.
    pub port: Option<u16>,
    /// A new read-only compute.
    pub read_only: bool,
    /// The moment that a new read-only compute shows; `None`: now.
    pub at: Option<Moment>,
}

/// Refuses what makes no sense, before anything is looked at.
///
/// # Errors
/// When a read-only compute of a read-only compute is wanted.
pub fn check(app: &App, name: &ComputeName, read_only: bool) -> Result<()> {
    if !(read_only && name.is_reader()) {
        return Ok(());
    }
    Err(Failure::usage(
        format!("{name} is a read-only compute already"),
        format!(
            "to start another, name the branch: `{}`",
            app.command(&format!("compute start {} --read-only", name.branch()))
        ),
    ))
}

/// The file that tells from which port on programs that are not root's may listen.
const FIRST_PORT: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Refuses a port that the system keeps for root where mariadbd runs as another account.
async fn check_port(project: &Project, port: Option<u16>) -> Result<()> {
    let Some(port) = port else { return Ok(()) };
    let told = std::fs::read_to_string(FIRST_PORT).unwrap_or_default();
    let first = told.trim().parse().unwrap_or(1024);
    let user = run_as::of(project).await?;
    let is_root = user.is_none() && rustix::process::geteuid().is_root();
    if port >= first || is_root {
        return Ok(());
    }
    Err(Failure::of(
        Kind::Invalid,
        format!("a compute cannot listen on port {port}: ports below {first} are for root"),
        format!("give a port from {first} on"),
    ))
}

/// Starts a compute, unless it runs.
///
/// # Errors
/// When it does not start.
pub async fn start(
    app: &App,
    session: &mut Session,
    progress: &Progress,
    wanted: &Wanted,
) -> Result<starter::Started> {
    check(app, &wanted.name, wanted.read_only)?;
    check_port(&session.project, wanted.port).await?;
    if !wanted.read_only {
        let name = &wanted.name;
        return session.compute(app, name, wanted.port, progress).await;
    }
    let branch = wanted.name.branch();
    history::check(
        &session.project,
        &session.running.control,
        branch,
        wanted.at,
    )
    .await?;
    let mut starter = session.starter(app, progress);
    starter.start_reader(branch, wanted.at, wanted.port).await
}

/// The report of a compute that was started, if one was.
pub async fn report_of(app: &App, started: Option<&starter::Started>) -> Option<Started> {
    let started = started?;
    let seen = seen::look(app).await;
    Some(Started {
        compute: ComputeReport::new(&app.state, &started.name, &started.record, &seen.branches),
        already: started.already,
        took_ms: u64::try_from(started.took.as_millis()).unwrap_or(u64::MAX),
    })
}

/// Stops a compute, and waits.
///
/// # Errors
/// When there is none, or it does not go.
pub async fn stop(app: &App, name: &ComputeName) -> Result<Ended> {
    app.state.require_project()?;
    let lock = app.share().await?;
    let _alone = lock.compute(name).await?;
    let ran = stop::stop(&app.state, name).await?;
    ended(app, name, ran).await
}

/// Kills a compute.
///
/// # Errors
/// As for [`stop()`].
pub async fn kill(app: &App, name: &ComputeName) -> Result<Ended> {
    app.state.require_project()?;
    // No lock: killing must not wait for a start that hangs.
    let ran = stop::kill(&app.state, name).await?;
    ended(app, name, ran).await
}

async fn ended(app: &App, name: &ComputeName, ran: bool) -> Result<Ended> {
    let seen = seen::look(app).await;
    let compute = one(app, name, &seen.branches)?;
    if name.is_reader() {
        stop::forget_reader(app, name).await?;
    }
    Ok(Ended { compute, ran })
}

/// The report of a compute; `branches` tell its LSN.
///
/// # Errors
/// When there is none.
pub fn one(app: &App, name: &ComputeName, branches: &[BranchReport]) -> Result<ComputeReport> {
    match ComputeRecord::load(&app.state.compute(name)) {
        Some(record) => Ok(ComputeReport::new(&app.state, name, &record, branches)),
        None => Err(no_compute(app, name)),
    }
}

/// Whether the process of a compute is there.
pub fn is_running(app: &App, name: &ComputeName) -> bool {
    ComputeRecord::load(&app.state.compute(name)).is_some_and(|record| record.process.is_alive())
}

fn no_compute(app: &App, name: &ComputeName) -> anyhow::Error {
    let all = record::list(&app.state);
    let names: Vec<String> = all.iter().map(|(name, _)| name.to_string()).collect();
    let hint = match near(&name.to_string(), names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None if name.is_reader() => {
            format!("`{}` lists the computes", app.command("compute ls"))
        }
        None => format!(
            "start one with `{}`",
            app.command(&format!("compute start {name}"))
        ),
    };
    let what = if name.is_reader() {
        format!("there is no read-only compute {name}")
    } else {
        format!("there is no compute of branch {name}")
    };
    Failure::of(
        Kind::NotFound,
        format!("{what} in {}", app.state.root().display()),
        hint,
    )
}
