//! Work on branches.

use super::compute::{is_running, report_of};
use super::took_ms;
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{ComputeRecord, ComputeState};
use crate::compute::starter;
use crate::compute::stop;
use crate::control::Control;
use crate::files;
use crate::gateway::moments;
use crate::history;
use crate::moment::Moment;
use crate::progress::Progress;
use crate::project::Project;
use crate::report::branch::{self, BranchReport};
use crate::report::change::{Changed, Created, Removed, Restored, Shown};
use crate::run_as;
use crate::session::Session;
use crate::settings::Switch;
use crate::timing::Timer;
use anyhow::{Context, Result};
use std::num::NonZeroU32;
use xylem_proto::inspect::DiagnoseResponse;
use xylem_server::span::Span;
use xylem_types::BranchName;

/// A branch to be created.
#[derive(Clone, Debug)]
pub struct New {
    /// Its name.
    pub name: BranchName,
    /// Its parent.
    pub from: BranchName,
    /// Its branch point; `None`: now.
    pub at: Option<Moment>,
    /// Time after which its compute sleeps; `None`: the project's.
    pub suspend_after: Option<String>,
}

/// A time, or that of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpanOrDefault {
    /// The project's.
    Default,
    /// This one.
    Span(String),
}

impl SpanOrDefault {
    /// Reads a time with its unit, or `default`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<SpanOrDefault, String> {
        match text {
            "default" => Ok(SpanOrDefault::Default),
            text => crate::settings::span(text).map(SpanOrDefault::Span),
        }
    }
}

impl std::fmt::Display for SpanOrDefault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SpanOrDefault::Default => "default",
            SpanOrDefault::Span(span) => span,
        })
    }
}

/// A limit of sessions, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolSize {
    /// No limit.
    Off,
    /// At most this number.
    Sessions(NonZeroU32),
}

impl PoolSize {
    /// Reads a number above zero, or `off`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<PoolSize, String> {
        let number = || text.parse().map(PoolSize::Sessions);
        match text {
            "off" => Ok(PoolSize::Off),
            _ => number().map_err(|_| {
                format!("{text:?} is no number of sessions: write 1 or more, or `off`")
            }),
        }
    }
}

impl std::fmt::Display for PoolSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PoolSize::Off => f.write_str("off"),
            PoolSize::Sessions(count) => count.fmt(f),
        }
    }
}

/// Settings of a branch; what is missing stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BranchSettings {
    /// Time after which its compute sleeps.
    pub suspend_after: Option<SpanOrDefault>,
    /// Most sessions of the gateway's clients on its compute.
    pub pool_size: Option<PoolSize>,
    /// Whether clients of the gateway may name its moments.
    pub moments: Option<Switch>,
}

/// The branches that `control` may read, with the hidden ones of read-only computes if
/// `leases`.
///
/// # Errors
/// When the server cannot be asked.
pub async fn list(control: &Control, leases: bool) -> Result<Vec<BranchReport>> {
    Ok(branch::reports(control.branches(leases).await?))
}

/// One of `all` branches, and what the server says of its health, which `diagnosed` asks
/// for.
///
/// # Errors
/// When there is none, with the name most like it.
pub async fn show(
    control: &Control,
    all: &[BranchReport],
    name: &ComputeName,
    diagnosed: bool,
) -> Result<Shown> {
    // For the error that offers a similar name.
    let id = control.branch(name).await?.id;
    let one = all.iter().find(|b| b.id == id).cloned();
    let one = one.with_context(|| format!("branch {name} was removed just now"))?;
    let health = match diagnosed {
        true => control.diagnose(false).await.unwrap_or_else(|error| {
            eprintln!("troubles of branch {name} are not known: {error:#}");
            DiagnoseResponse::default()
        }),
        false => DiagnoseResponse::default(),
    };
    let mut health = health.branches.into_iter();
    Ok(Shown::new(one, health.find(|h| h.branch_id == id)))
}

/// Creates a branch.
///
/// # Errors
/// When the server refuses.
pub async fn create(app: &App, up: &mut Session, new: &New) -> Result<Created> {
    let timer = Timer::start(&app.clock);
    history::check(&up.project, &up.running.control, &new.from, new.at).await?;
    let made = up.caller.create_branch(&new.name, &new.from, new.at);
    let branch = BranchReport::from(made.await?);
    let took_ms = took_ms(&timer);
    if let Some(span) = &new.suspend_after {
        let settings = BranchSettings {
            suspend_after: Some(SpanOrDefault::Span(span.clone())),
            ..BranchSettings::default()
        };
        up.project
            .update(&app.state, |project| project.keep(&branch.id, &settings))?;
    }
    Ok(Created { branch, took_ms })
}

/// Changes the settings of a branch.
///
/// # Errors
/// When there is no such branch.
pub async fn set(
    app: &App,
    up: &mut Session,
    name: &BranchName,
    settings: &BranchSettings,
) -> Result<Changed> {
    let branch = BranchReport::from(up.caller.branch(name).await?);
    up.project.update(&app.state, |project| {
        project.keep(&branch.id, settings);
    })?;
    Ok(changed(up, branch))
}

fn changed(up: &Session, branch: BranchReport) -> Changed {
    Changed {
        suspend_after: suspend_after(&up.project, &branch.id),
        pool_size: up
            .project
            .pool_size_of
            .get(&branch.id)
            .map(|size| size.get()),
        moments: up.project.moments_of.contains(&branch.id),
        branch,
        renamed_from: None,
        compute: None,
    }
}

fn suspend_after(project: &Project, id: &str) -> Option<String> {
    project
        .suspend_after(id)
        .map(|after| Span(after).to_string())
}

impl Project {
    /// Keeps settings of the branch `id`.
    fn keep(&mut self, id: &str, settings: &BranchSettings) {
        let id = id.to_owned();
        match &settings.suspend_after {
            Some(SpanOrDefault::Span(span)) => {
                self.suspend_after_of.insert(id.clone(), span.clone());
            }
            Some(SpanOrDefault::Default) => {
                self.suspend_after_of.remove(&id);
            }
            None => {}
        }
        match settings.moments {
            Some(Switch::On) => {
                self.moments_of.insert(id.clone());
            }
            Some(Switch::Off) => {
                self.moments_of.remove(&id);
            }
            None => {}
        }
        match settings.pool_size {
            Some(PoolSize::Sessions(count)) => {
                self.pool_size_of.insert(id, count);
            }
            Some(PoolSize::Off) => {
                self.pool_size_of.remove(&id);
            }
            None => {}
        }
    }

    /// Gives the branch `to` the settings that the branch `from` has of its own.
    fn keep_as(&mut self, from: &str, to: &str) {
        let span = self.suspend_after_of.get(from).cloned();
        let size = self.pool_size_of.get(from).copied();
        let settings = BranchSettings {
            suspend_after: span.map(SpanOrDefault::Span),
            pool_size: size.map(PoolSize::Sessions),
            moments: self.moments_of.contains(from).then_some(Switch::On),
        };
        self.keep(to, &settings);
    }
}

/// Removes a branch with its compute and its history.
///
/// # Errors
/// When the server refuses, as while the branch has child branches.
pub async fn remove(app: &App, up: &mut Session, name: &ComputeName) -> Result<Removed> {
    // As the owner: there may be children that the caller may not see.
    let present = up.running.control.branch(name).await?;
    // Where the server will refuse, the sessions at moments go on.
    let is_lease = |child: &String| ComputeName::parse(child).is_ok_and(|name| name.is_reader());
    if present.children.iter().all(is_lease) {
        moments::remove_all(app, Some(&present.id)).await?;
    }
    let children = up.running.control.branch(name).await?.children;
    let branch = BranchReport::from(up.caller.branch(name).await?);
    let mut compute_stopped = false;
    // If the server will refuse, the compute must go on.
    if children.is_empty() {
        compute_stopped = stop::stop(&app.state, name).await?;
    }
    up.caller.remove_branch(name).await?;
    let none = BranchSettings {
        suspend_after: Some(SpanOrDefault::Default),
        pool_size: Some(PoolSize::Off),
        moments: Some(Switch::Off),
    };
    up.project
        .update(&app.state, |project| project.keep(&branch.id, &none))?;
    files::remove_tree(app.state.compute(name).root())?;
    app.state.forget_lock(name);
    Ok(Removed {
        branch,
        compute_stopped,
    })
}

/// Opens a branch and its child branches again.
///
/// # Errors
/// Why it does not open.
pub async fn reopen(up: &Session, name: &ComputeName) -> Result<BranchReport> {
    Ok(BranchReport::from(up.caller.reopen_branch(name).await?))
}

/// Renames a branch and changes its `settings`: both or neither. A compute that runs is
/// restarted, because its directory has the name.
///
/// # Errors
/// When the server refuses.
pub async fn rename(
    app: &App,
    up: &mut Session,
    progress: &Progress,
    from: &BranchName,
    to: &BranchName,
    settings: &BranchSettings,
) -> Result<Changed> {
    let (old, new) = (
        ComputeName::from(from.clone()),
        ComputeName::from(to.clone()),
    );
    let running = is_running(app, &old);
    let branch = BranchReport::from(up.caller.rename_branch(from, to).await?);
    // The server may refuse, and this machine's disk nearly never.
    let kept = up
        .project
        .update(&app.state, |project| project.keep(&branch.id, settings));
    if let Err(error) = kept {
        return match up.caller.rename_branch(to, from).await {
            Ok(_) => Err(error),
            Err(also) => Err(error.context(format!(
                "branch {from} was renamed to {to}, without its new setting, and cannot be renamed back ({also:#})"
            ))),
        };
    }
    stop::stop_awake(&app.state, &old).await?;
    take_directory(app, up, &old, &new).await?;
    let compute = restart(app, up, progress, &new, running).await?;
    Ok(Changed {
        renamed_from: Some(from.to_string()),
        compute: report_of(app, compute.as_ref()).await,
        ..changed(up, branch)
    })
}

/// Gives a compute's directory the branch's new name, and removes that of an earlier
/// branch of that name.
async fn take_directory(
    app: &App,
    up: &Session,
    old: &ComputeName,
    new: &ComputeName,
) -> Result<()> {
    stop::stop(&app.state, new).await?;
    let (from, to) = (app.state.compute(old), app.state.compute(new));
    files::remove_tree(to.root())?;
    if !from.root().exists() {
        return Ok(());
    }
    std::fs::rename(from.root(), to.root()).with_context(|| {
        format!(
            "cannot rename {} to {}",
            from.root().display(),
            to.root().display()
        )
    })?;
    if let Some(mut record) = ComputeRecord::load(&to) {
        record.branch = new.branch().to_string();
        let user = run_as::of(&up.project).await?;
        record.socket = to.socket(user.as_ref())?;
        record.save(&to)?;
    }
    Ok(())
}

/// Restores a branch to a moment; its present state is kept as another branch.
///
/// # Errors
/// When the server refuses, as a moment outside the branch's history.
pub async fn restore(
    app: &App,
    up: &mut Session,
    progress: &Progress,
    name: &BranchName,
    at: Moment,
    keep_as: Option<&BranchName>,
) -> Result<Restored> {
    let timer = Timer::start(&app.clock);
    history::check(&up.project, &up.running.control, name, Some(at)).await?;
    let compute = ComputeName::from(name.clone());
    // Before anything is stopped: the moment may be out of reach.
    let moment = up.caller.resolve(name, Some(at), false).await?;
    let running = is_running(app, &compute);
    // Its clients' transactions end in an orderly way, and are kept.
    progress.say(format!("stopping {}", compute.described()));
    let before = stop::stop_awake(&app.state, &compute).await?;
    progress.say(format!("restoring branch {name}"));
    let restored = up
        .caller
        .restore_branch(
            name,
            match at {
                // There may be more transactions at its LSN.
                Moment::Gtid(_) => at,
                Moment::Lsn(_) | Moment::Time(_) => Moment::Lsn(moment.lsn),
            },
            keep_as.map(|name: &BranchName| name as _),
        )
        .await;
    // Whatever the outcome, a compute that ran runs again.
    let started = restart(app, up, progress, &compute, running).await;
    let restored = restored?;
    let new = BranchReport::from(restored.branch.unwrap_or_default());
    let kept = BranchReport::from(restored.kept.unwrap_or_default());
    up.project
        .update(&app.state, |project| project.keep_as(&kept.id, &new.id))?;
    wake_soon(app, &compute, before)?;
    let started = started?;
    Ok(Restored {
        compute: report_of(app, started.as_ref()).await,
        branch: new,
        kept,
        restored_time: Some(moment.time).filter(|time| !time.is_empty()),
        took_ms: took_ms(&timer),
    })
}

/// Has the gateway wake a compute that slept before its branch was restored: the branch may
/// have other events now.
fn wake_soon(app: &App, name: &ComputeName, before: Option<ComputeRecord>) -> Result<()> {
    match before {
        Some(mut record) if record.state() == ComputeState::Asleep => {
            record.wake_at = Some(0);
            record.save(&app.state.compute(name))
        }
        _ => Ok(()),
    }
}

async fn restart(
    app: &App,
    up: &mut Session,
    progress: &Progress,
    name: &ComputeName,
    running: bool,
) -> Result<Option<starter::Started>> {
    if !running {
        return Ok(None);
    }
    up.compute(app, name, None, progress).await.map(Some)
}
