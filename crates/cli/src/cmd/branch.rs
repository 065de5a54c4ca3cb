//! `xylem branch create|ls|show|rm|reopen|rename|restore`.

mod tree;

use super::status::seconds;
use crate::app::App;
use crate::args::branch::{
    BranchCommand, BranchCreateArgs, BranchRenameArgs, BranchRestoreArgs, BranchSetArgs,
    BranchShowArgs, SpanOrDefault,
};
use crate::compute::name::ComputeName;
use crate::compute::record::{ComputeRecord, ComputeState};
use crate::compute::starter::Started;
use crate::compute::stop;
use crate::failure::Failure;
use crate::files;
use crate::history;
use crate::moment::Moment;
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::report::branch::{self, BranchReport};
use crate::report::{ComputeReport, seen};
use crate::run_as;
use crate::session::Session;
use crate::timing::Timer;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::io::IsTerminal;
use xylem_proto::inspect::{BranchHealth, DiagnoseResponse, Trouble};
use xylem_server::span::Span;
use xylem_types::BranchName;

pub use tree::tree;

/// Runs the command. Starts the server if it does not run.
///
/// # Errors
/// When the server cannot be started or refuses.
pub async fn run(app: &App, command: &BranchCommand) -> Result<()> {
    if let BranchCommand::Rm(args) = command {
        app.state.require_project()?;
        // Before anything is locked: the answer may take its time.
        if !args.yes && !confirmed(app, &args.branch)? {
            return Ok(());
        }
    }
    // As of when the command was typed, not of when the server was up.
    let at = match command {
        BranchCommand::Create(args) => app.moment(args.at)?,
        BranchCommand::Restore(args) => app.moment(Some(args.at))?,
        _ => None,
    };
    let progress = app.progress();
    let mut up = Session::open(app, &progress).await?;
    match command {
        BranchCommand::Create(args) => create(app, &mut up, args, at).await,
        BranchCommand::Set(args) => set(app, &mut up, args).await,
        BranchCommand::Ls(args) => {
            let rows = fetch(&up, args.all).await?;
            if app.json {
                return output::json(&rows);
            }
            output::text_line(&super::status::branches(&rows))
        }
        BranchCommand::Show(args) => show(app, &up, args).await,
        BranchCommand::Rm(args) => remove(app, &mut up, &args.branch).await,
        BranchCommand::Reopen(args) => reopen(app, &up, &args.branch).await,
        BranchCommand::Rename(args) => rename(app, &mut up, &progress, args).await,
        BranchCommand::Restore(args) => restore(app, &mut up, &progress, args, at).await,
    }
}

async fn fetch(up: &Session, leases: bool) -> Result<Vec<BranchReport>> {
    let all = up.running.control.branches(leases).await?;
    Ok(branch::reports(all))
}

async fn create(
    app: &App,
    up: &mut Session,
    args: &BranchCreateArgs,
    at: Option<Moment>,
) -> Result<()> {
    let timer = Timer::start(&app.clock);
    history::check(up, &args.from, at).await?;
    let control = &up.running.control;
    let made = control.create_branch(&args.name, &args.from, at).await?;
    let took = timer.elapsed();
    let made = BranchReport::from(made);
    if let Some(span) = &args.suspend_after {
        keep_suspend_after(app, up, &made.id, Some(span.clone()))?;
    }
    if app.json {
        return output::json(&made);
    }
    let parent = made.parent.as_deref().unwrap_or("nothing");
    output::text_line(&format!(
        "created branch {0} from {parent} at LSN {1}{2} ({3} ms)\n\n\
         \x20 connect   {4}\n\
         \x20 compute   {5}",
        made.name,
        made.branch_point_lsn,
        when(made.newest_time.as_deref()),
        took.as_millis(),
        app.command(&format!("sql {}", made.name)),
        app.command(&format!("compute start {}", made.name)),
    ))
}

async fn set(app: &App, up: &mut Session, args: &BranchSetArgs) -> Result<()> {
    let branch = BranchReport::from(up.running.control.branch(&args.name).await?);
    let span = match &args.suspend_after {
        SpanOrDefault::Default => None,
        SpanOrDefault::Span(span) => Some(span.clone()),
    };
    keep_suspend_after(app, up, &branch.id, span)?;
    if app.json {
        return output::json(&branch);
    }
    let after = match up.project.suspend_after(&branch.id) {
        Some(after) => format!("sleeps after {} without use", Span(after)),
        None => "never sleeps".to_owned(),
    };
    output::text_line(&format!("the compute of branch {} {after}", branch.name))
}

/// Keeps the time after which the compute of branch `id` sleeps; `None`: the project's.
fn keep_suspend_after(app: &App, up: &mut Session, id: &str, span: Option<String>) -> Result<()> {
    let kept = &mut up.project.suspend_after_of;
    let before = match span.clone() {
        Some(span) => kept.insert(id.to_owned(), span),
        None => kept.remove(id),
    };
    if before == span {
        return Ok(());
    }
    up.project.save(&app.state)
}

/// `, 2026-11-22T14:05:00Z`, if the time is known.
fn when(time: Option<&str>) -> String {
    time.filter(|time| !time.is_empty())
        .map_or_else(String::new, |time| format!(", {time}"))
}

async fn show(app: &App, up: &Session, args: &BranchShowArgs) -> Result<()> {
    let all = fetch(up, true).await?;
    let Some(name) = &args.branch else {
        if app.json {
            return output::json(&all);
        }
        return output::text_line(&tree(&all, None));
    };
    // For the error that offers a similar name.
    let id = up.running.control.branch(name).await?.id;
    let one = all.iter().find(|b| b.id == id).cloned();
    let one = one.with_context(|| format!("branch {name} was removed just now"))?;
    let health = up.running.control.diagnose(false).await;
    let health = health.unwrap_or_else(|error| {
        eprintln!("troubles of branch {name} are not known: {error:#}");
        DiagnoseResponse::default()
    });
    let mut health = health.branches.into_iter();
    let shown = Shown::new(one, health.find(|h| h.branch_id == id));
    if app.json {
        return output::json(&shown);
    }
    let one = &shown.branch;
    let below = if one.child_branches.is_empty() {
        String::new()
    } else {
        format!("\n\n{}", tree(&all, Some(&one.name)))
    };
    output::text_line(&format!("{}{below}", shown.text()))
}

/// `xylem branch show`
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The branch.
    #[serde(flatten)]
    branch: BranchReport,
    /// The newest failure to flush layers; none while flushes succeed.
    flush_trouble: Option<String>,
    /// The newest failure to merge layers; none while merges succeed.
    merge_trouble: Option<String>,
    /// Why the WAL's backup does not proceed; none while it does.
    backup_trouble: Option<String>,
}

impl Shown {
    /// The branch with what the server says of its health.
    pub fn new(branch: BranchReport, health: Option<BranchHealth>) -> Shown {
        let health = health.unwrap_or_default();
        let said = |trouble: Trouble| format!("{} (at {})", trouble.message, trouble.time);
        let backup = health.wal_backup.map(|backup| backup.trouble);
        Shown {
            branch,
            flush_trouble: health.flush_trouble.map(said),
            merge_trouble: health.merge_trouble.map(said),
            backup_trouble: backup.filter(|trouble| !trouble.is_empty()),
        }
    }

    /// The branch for people.
    pub fn text(&self) -> String {
        let mut out = text(&self.branch);
        for (what, trouble) in [
            ("flushes fail", &self.flush_trouble),
            ("merges fail", &self.merge_trouble),
            ("the WAL's backup fails", &self.backup_trouble),
        ] {
            if let Some(trouble) = trouble {
                let _ = write!(out, "\ntrouble   {what}: {trouble}");
            }
        }
        out
    }
}

/// A branch for people.
pub fn text(branch: &BranchReport) -> String {
    let parent = match &branch.parent {
        Some(name) => format!("{name} at LSN {}", branch.branch_point_lsn),
        None => "none".to_owned(),
    };
    let shares = match &branch.parent {
        Some(_) => format!(
            "\nshared    with its ancestors: some of their {}",
            bytes(branch.ancestors_layer_bytes)
        ),
        None => String::new(),
    };
    let history = match branch.oldest_lsn {
        Some(lsn) => format!(
            "LSN {lsn}{} to LSN {}{}",
            when(
                branch
                    .history_from
                    .as_deref()
                    .or(branch.oldest_time.as_deref())
            ),
            branch.applied_lsn,
            when(branch.newest_time.as_deref())
        ),
        None => "none yet".to_owned(),
    };
    format!(
        "branch    {}\nstate     {}{}\nid        {}\nparent    {parent}\ncreated   {}\nLSN       {} (applied {}, {} behind)\nhistory   {history}\nepoch     {}\nown       {} (WAL {}, layers {}){shares}",
        branch.name,
        branch.state,
        match &branch.trouble {
            Some(trouble) => format!(": {trouble}"),
            None => String::new(),
        },
        branch.id,
        seconds(&branch.created_at),
        branch.last_lsn,
        branch.applied_lsn,
        bytes(branch.lag_bytes),
        branch.epoch,
        bytes(branch.own_bytes),
        bytes(branch.wal_bytes),
        bytes(branch.layer_bytes),
    )
}

/// Asks on a terminal whether to remove the branch and its history, which nothing
/// brings back.
///
/// # Errors
/// When there is no terminal.
fn confirmed(app: &App, name: &ComputeName) -> Result<bool> {
    let again = app.command(&format!("branch rm {name} --yes"));
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(
            format!(
                "removing branch {name} and all its history cannot be undone, and there is no terminal to confirm it on"
            ),
            format!("to remove it without being asked: `{again}`"),
        ));
    }
    eprint!("Remove branch {name} and all its history? This cannot be undone. [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    let yes = is_yes(&answer);
    if !yes {
        eprintln!("nothing was removed");
    }
    Ok(yes)
}

/// Whether a line typed as an answer says yes.
pub fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

async fn remove(app: &App, up: &mut Session, name: &ComputeName) -> Result<()> {
    let control = up.running.control.clone();
    let branch = BranchReport::from(control.branch(name).await?);
    let mut ran = false;
    // If the server will refuse, the compute must go on.
    if branch.child_branches.is_empty() {
        ran = stop::stop(&app.state, name).await?;
    }
    control.remove_branch(name).await?;
    keep_suspend_after(app, up, &branch.id, None)?;
    files::remove_tree(app.state.compute(name).root())?;
    if app.json {
        return output::json(&branch);
    }
    let stopped = if ran { ", stopped its compute" } else { "" };
    output::text_line(&format!(
        "removed branch {name}{stopped}; freed {}",
        bytes(branch.own_bytes)
    ))
}

async fn reopen(app: &App, up: &Session, name: &ComputeName) -> Result<()> {
    let branch = BranchReport::from(up.running.control.reopen_branch(name).await?);
    if app.json {
        return output::json(&branch);
    }
    output::text_line(&format!(
        "reopened branch {name}: {}, at LSN {}",
        branch.state, branch.last_lsn
    ))
}

async fn rename(
    app: &App,
    up: &mut Session,
    progress: &Progress,
    args: &BranchRenameArgs,
) -> Result<()> {
    let (old, new) = (
        ComputeName::from(args.old.clone()),
        ComputeName::from(args.new.clone()),
    );
    // The compute's directory has the branch's name, so the compute is restarted.
    let running = is_running(app, &old);
    let control = &up.running.control;
    let branch = BranchReport::from(control.rename_branch(&args.old, &args.new).await?);
    stop::stop_awake(&app.state, &old).await?;
    take_directory(app, up, &old, &new).await?;
    let started = restart(app, up, progress, &new, running).await?;
    if app.json {
        return output::json(&branch);
    }
    let restarted = restarted(app, started.as_ref());
    output::text_line(&format!(
        "renamed branch {} to {}{restarted}",
        args.old, args.new
    ))
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

async fn restore(
    app: &App,
    up: &mut Session,
    progress: &Progress,
    args: &BranchRestoreArgs,
    at: Option<Moment>,
) -> Result<()> {
    let timer = Timer::start(&app.clock);
    history::check(up, &args.branch, at).await?;
    let compute = ComputeName::from(args.branch.clone());
    let control = up.running.control.clone();
    // Before anything is stopped: the moment may be out of reach.
    let moment = control.resolve(&args.branch, at).await?;
    let running = is_running(app, &compute);
    // Its clients' transactions end in an orderly way, and are kept.
    let before = stop::stop_awake(&app.state, &compute).await?;
    let keep_as = args.keep_as.as_ref();
    let at = Moment::Lsn(moment.lsn);
    let restored = control
        .restore_branch(&args.branch, at, keep_as.map(|name: &BranchName| name as _))
        .await;
    // Whatever the outcome, a compute that ran runs again.
    let started = restart(app, up, progress, &compute, running).await;
    let restored = restored?;
    wake_soon(app, &compute, before)?;
    let started = started?;
    let new = BranchReport::from(restored.branch.unwrap_or_default());
    let kept = BranchReport::from(restored.kept.unwrap_or_default());
    let after = up.project.suspend_after_of.get(&kept.id).cloned();
    if let Some(after) = after {
        keep_suspend_after(app, up, &new.id, Some(after))?;
    }
    if app.json {
        return output::json(&Restored {
            compute: compute_report(app, started.as_ref()).await,
            branch: new,
            kept,
        });
    }
    let restarted = restarted(app, started.as_ref());
    output::text_line(&format!(
        "restored branch {} to LSN {}{} ({:.1} s)\n\
         its previous state is branch {}{restarted}",
        new.name,
        new.branch_point_lsn,
        when(Some(&moment.time)),
        timer.elapsed().as_secs_f64(),
        kept.name,
    ))
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

/// `xylem branch restore`
#[derive(Debug, Serialize)]
struct Restored {
    /// The branch, as it is now.
    #[serde(flatten)]
    branch: BranchReport,
    /// The branch that keeps the previous state.
    kept: BranchReport,
    /// Its compute, if that was running.
    compute: Option<ComputeReport>,
}

async fn compute_report(app: &App, started: Option<&Started>) -> Option<ComputeReport> {
    let started = started?;
    let seen = seen::look(app).await;
    Some(ComputeReport::new(
        &app.state,
        &started.name,
        &started.record,
        &seen.branches,
    ))
}

fn is_running(app: &App, name: &ComputeName) -> bool {
    ComputeRecord::load(&app.state.compute(name)).is_some_and(|record| record.process.is_alive())
}

async fn restart(
    app: &App,
    up: &mut Session,
    progress: &Progress,
    name: &ComputeName,
    running: bool,
) -> Result<Option<Started>> {
    if !running {
        return Ok(None);
    }
    up.compute(app, name, None, progress).await.map(Some)
}

fn restarted(app: &App, started: Option<&Started>) -> String {
    started.map_or_else(String::new, |started| {
        format!("\n{}", super::compute::said(app, started))
    })
}
