//! `xylem branch create|ls|show|rm|reopen|rename|restore`.

mod tree;

use super::status::seconds;
use crate::app::{App, Up};
use crate::args::{
    BranchCommand, BranchCreateArgs, BranchRenameArgs, BranchRestoreArgs, BranchShowArgs,
};
use crate::compute::name::ComputeName;
use crate::compute::record::ComputeRecord;
use crate::compute::start::Started;
use crate::compute::stop;
use crate::failure::Failure;
use crate::files;
use crate::moment::Moment;
use crate::output::{self, bytes};
use crate::progress::Progress;
use crate::report::{self, BranchReport, ComputeReport};
use crate::user;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Instant;
use xylem_types::BranchName;

pub use tree::tree;

/// Runs the command. The server is started if need be, since it alone knows.
///
/// # Errors
/// When the server cannot be started or refuses.
pub async fn run(app: &App, command: &BranchCommand) -> Result<()> {
    if let BranchCommand::Rm(args) = command {
        app.state.require_project()?;
        // Before anything is locked: a person may take their time.
        if !args.yes && !confirmed(app, &args.branch)? {
            return Ok(());
        }
    }
    let progress = app.progress();
    let mut up = app.server(&progress).await?;
    match command {
        BranchCommand::Create(args) => create(app, &up, args).await,
        BranchCommand::Ls(args) => {
            let rows = fetch(&up, args.all).await?;
            if app.json {
                return output::json(&rows);
            }
            output::text_line(&super::status::branches(&rows))
        }
        BranchCommand::Show(args) => show(app, &up, args).await,
        BranchCommand::Rm(args) => remove(app, &up, &args.branch).await,
        BranchCommand::Reopen(args) => reopen(app, &up, &args.branch).await,
        BranchCommand::Rename(args) => rename(app, &mut up, &progress, args).await,
        BranchCommand::Restore(args) => restore(app, &mut up, &progress, args).await,
    }
}

async fn fetch(up: &Up, leases: bool) -> Result<Vec<BranchReport>> {
    let all = up.running.control.branches(leases).await?;
    Ok(all.into_iter().map(BranchReport::from).collect())
}

async fn create(app: &App, up: &Up, args: &BranchCreateArgs) -> Result<()> {
    let begin = Instant::now();
    let control = &up.running.control;
    let made = control
        .create_branch(&args.name, &args.from, args.at)
        .await?;
    let took = begin.elapsed();
    let made = BranchReport::from(made);
    if app.json {
        return output::json(&made);
    }
    let parent = made.parent.as_deref().unwrap_or("nothing");
    output::text_line(&format!(
        "branch {0} leaves {parent} at LSN {1}{2} ({3} ms)\n\n\
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

/// `, 2026-11-22T14:05:00Z`, if the time is known.
fn when(time: Option<&str>) -> String {
    time.filter(|time| !time.is_empty())
        .map_or_else(String::new, |time| format!(", {time}"))
}

async fn show(app: &App, up: &Up, args: &BranchShowArgs) -> Result<()> {
    let Some(name) = &args.branch else {
        let all = fetch(up, true).await?;
        if app.json {
            return output::json(&all);
        }
        return output::text_line(&tree(&all, None));
    };
    let one = BranchReport::from(up.running.control.branch(name).await?);
    if app.json {
        return output::json(&one);
    }
    let all = fetch(up, true).await?;
    let below = if one.children.is_empty() {
        String::new()
    } else {
        format!("\n\n{}", tree(&all, Some(&one.name)))
    };
    output::text_line(&format!("{}{below}", text(&one)))
}

/// A branch for people.
pub fn text(branch: &BranchReport) -> String {
    let parent = match &branch.parent {
        Some(name) => format!("{name} at LSN {}", branch.branch_point_lsn),
        None => "none".to_owned(),
    };
    let shares = match &branch.parent {
        Some(_) => format!(
            "\nshares    some of its ancestors' {}",
            bytes(branch.ancestors_layer_bytes)
        ),
        None => String::new(),
    };
    let history = match branch.oldest_lsn {
        Some(lsn) => format!(
            "LSN {lsn}{} to LSN {}{}",
            when(branch.oldest_time.as_deref()),
            branch.applied_lsn,
            when(branch.newest_time.as_deref())
        ),
        None => "none yet".to_owned(),
    };
    format!(
        "branch    {}\nstate     {}{}\nid        {}\nparent  {parent}\ncreated   {}\nLSN       {} (applied {}, {} behind)\nhistory   {history}\nepoch     {}\nown       {} (log {}, layers {}){shares}",
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

/// Asks on a terminal whether the branch may go with its history, which
/// nothing brings back.
///
/// # Errors
/// When there is nobody to ask.
fn confirmed(app: &App, name: &ComputeName) -> Result<bool> {
    let again = app.command(&format!("branch rm {name} --yes"));
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(
            format!(
                "branch {name} would go for good, with all its history, and there is no terminal to ask on"
            ),
            format!("if that is meant: `{again}`"),
        ));
    }
    eprint!("Remove branch {name} with all its history, for good? [y/N] ");
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

async fn remove(app: &App, up: &Up, name: &ComputeName) -> Result<()> {
    let control = &up.running.control;
    let branch = BranchReport::from(control.branch(name).await?);
    let mut ran = false;
    // If it will be refused, its compute goes on.
    if branch.children.is_empty() {
        ran = stop::stop(&app.state, name).await?;
    }
    control.remove_branch(name).await?;
    files::remove_tree(app.state.compute(name).root())?;
    if app.json {
        return output::json(&branch);
    }
    let stopped = if ran { ", its compute was stopped" } else { "" };
    output::text_line(&format!(
        "branch {name} is removed{stopped}; {} of its own go",
        bytes(branch.own_bytes)
    ))
}

async fn reopen(app: &App, up: &Up, name: &ComputeName) -> Result<()> {
    let branch = BranchReport::from(up.running.control.reopen_branch(name).await?);
    if app.json {
        return output::json(&branch);
    }
    output::text_line(&format!(
        "branch {name} is {}, at LSN {}",
        branch.state, branch.last_lsn
    ))
}

async fn rename(
    app: &App,
    up: &mut Up,
    progress: &Progress,
    args: &BranchRenameArgs,
) -> Result<()> {
    let (old, new) = (
        ComputeName::from(args.old.clone()),
        ComputeName::from(args.new.clone()),
    );
    // Its directory bears its name, so a compute is started anew.
    let running = is_running(app, &old);
    let control = &up.running.control;
    let branch = BranchReport::from(control.rename_branch(&args.old, &args.new).await?);
    stop::stop(&app.state, &old).await?;
    take_directory(app, up, &old, &new).await?;
    let started = restart(app, up, progress, &new, running).await?;
    if app.json {
        return output::json(&branch);
    }
    let restarted = restarted(app, started.as_ref());
    output::text_line(&format!(
        "branch {} is called {} now{restarted}",
        args.old, args.new
    ))
}

/// Gives a compute's directory the branch's new name. What an earlier branch of
/// that name left goes.
async fn take_directory(app: &App, up: &Up, old: &ComputeName, new: &ComputeName) -> Result<()> {
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
        let user = user::of(&up.project).await?;
        record.socket = to.socket(user.as_ref())?;
        record.save(&to)?;
    }
    Ok(())
}

async fn restore(
    app: &App,
    up: &mut Up,
    progress: &Progress,
    args: &BranchRestoreArgs,
) -> Result<()> {
    let begin = Instant::now();
    let compute = ComputeName::from(args.branch.clone());
    let control = up.running.control.clone();
    // Before anything is stopped: the moment may be out of reach.
    let moment = control.resolve(&args.branch, Some(args.at)).await?;
    let running = is_running(app, &compute);
    // What its clients are doing ends in an orderly way, and is kept.
    stop::stop(&app.state, &compute).await?;
    let keep_as = args.keep_as.as_ref();
    let at = Moment::Lsn(moment.lsn);
    let restored = control
        .restore_branch(&args.branch, at, keep_as.map(|name: &BranchName| name as _))
        .await;
    // Whatever came of it: what ran runs again.
    let started = restart(app, up, progress, &compute, running).await;
    let restored = restored?;
    let started = started?;
    let new = BranchReport::from(restored.branch.unwrap_or_default());
    let kept = BranchReport::from(restored.kept.unwrap_or_default());
    if app.json {
        return output::json(&Restored {
            compute: compute_report(app, started.as_ref()).await,
            branch: new,
            kept,
        });
    }
    let restarted = restarted(app, started.as_ref());
    output::text_line(&format!(
        "branch {} is back at LSN {}{} ({:.1} s)\n\
         what it was until now is branch {}{restarted}",
        new.name,
        new.branch_point_lsn,
        when(Some(&moment.time)),
        begin.elapsed().as_secs_f64(),
        kept.name,
    ))
}

/// `xylem branch restore`
#[derive(Debug, Serialize)]
struct Restored {
    /// The branch, as it is now.
    #[serde(flatten)]
    branch: BranchReport,
    /// What it was until now.
    kept: BranchReport,
    /// Its compute, if that was running.
    compute: Option<ComputeReport>,
}

async fn compute_report(app: &App, started: Option<&Started>) -> Option<ComputeReport> {
    let started = started?;
    let seen = report::look(&app.state).await;
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
    up: &mut Up,
    progress: &Progress,
    name: &ComputeName,
    running: bool,
) -> Result<Option<Started>> {
    if !running {
        return Ok(None);
    }
    app.compute(&up.home, &mut up.project, &up.running, name, None, progress)
        .await
        .map(Some)
}

fn restarted(app: &App, started: Option<&Started>) -> String {
    started.map_or_else(String::new, |started| {
        format!("\n{}", super::compute::said(app, started))
    })
}
