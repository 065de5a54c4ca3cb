//! `xylem branch create|ls|show|rm|reopen|rename|restore|set`.

mod tree;

use super::status::seconds;
use crate::api::request::{ChangeBranch, NewBranch, RestoreBranch, at_text};
use crate::app::App;
use crate::args::branch::{
    BranchCommand, BranchCreateArgs, BranchRenameArgs, BranchRestoreArgs, BranchSetArgs,
    BranchShowArgs,
};
use crate::compute::name::ComputeName;
use crate::failure::Failure;
use crate::moment::Moment;
use crate::output::{self, bytes};
use crate::remote::{encoded, path};
use crate::report::branch::BranchReport;
use crate::report::change::{Changed, Created, MomentReport, Removed, Restored, Shown};
use crate::session::{self, Session};
use crate::work;
use anyhow::{Context, Result};
use reqwest::Method;
use std::fmt::Write;
use std::io::IsTerminal;

pub use tree::tree;

/// Runs the command. Starts the server if it does not run.
///
/// # Errors
/// When the server cannot be started or refuses.
pub async fn run(app: &App, command: &BranchCommand) -> Result<()> {
    // As of when the command was typed, not of when the server was up.
    match command {
        BranchCommand::Create(args) => {
            create(app, args, app.moment(args.at.or(args.at_gtid))?).await
        }
        BranchCommand::Set(args) => set(app, args).await,
        BranchCommand::Ls(args) => {
            let rows = list(app, args.all).await?;
            output::print(app, &rows, || super::status::branches(&rows))
        }
        BranchCommand::Show(args) => show(app, args).await,
        BranchCommand::Rm(args) => {
            if app.remote.is_none() {
                app.state.require_project()?;
            }
            // Before anything is locked: the answer may take its time.
            if !args.yes && !confirmed(app, &args.branch)? {
                return Ok(());
            }
            remove(app, &args.branch).await
        }
        BranchCommand::Reopen(args) => reopen(app, &args.branch).await,
        BranchCommand::Rename(args) => rename(app, args).await,
        BranchCommand::Restore(args) => {
            let at = app.moment(args.at.or(args.at_gtid))?.context("no moment")?;
            restore(app, args, at).await
        }
    }
}

/// A branch's resource in the API.
fn resource(name: &impl ToString, rest: &[&str]) -> String {
    path(&[&["branches", &name.to_string()], rest].concat())
}

async fn list(app: &App, all: bool) -> Result<Vec<BranchReport>> {
    if let Some(remote) = &app.remote {
        let all = if all { "?all=true" } else { "" };
        return remote.get(&format!("{}{all}", path(&["branches"]))).await;
    }
    let control = session::connect(app, &app.progress()).await?;
    work::branch::list(&control, all).await
}

async fn create(app: &App, args: &BranchCreateArgs, at: Option<Moment>) -> Result<()> {
    let made: Created = match &app.remote {
        Some(remote) => {
            let body = NewBranch {
                name: args.name.to_string(),
                from: Some(args.from.to_string()),
                at: at.map(at_text),
                suspend_after: args.suspend_after.clone(),
            };
            remote
                .change(app, Method::POST, &path(&["branches"]), Some(&body))
                .await?
        }
        None => {
            let mut up = Session::share(app, &app.progress()).await?;
            let new = work::branch::New {
                name: args.name.clone(),
                from: args.from.clone(),
                at,
                suspend_after: args.suspend_after.clone(),
            };
            work::branch::create(app, &mut up, &new).await?
        }
    };
    output::print(app, &made, || created(app, &made))
}

fn created(app: &App, made: &Created) -> String {
    let branch = &made.branch;
    let parent = branch.parent.as_deref().unwrap_or("nothing");
    let text = format!(
        "created branch {0} from {parent} at LSN {1}{2} ({3} ms)\n",
        branch.name,
        branch.branch_point_lsn,
        when(branch.newest_time.as_deref()),
        made.took_ms,
    );
    let compute = app.command(&format!("compute start {}", branch.name));
    match app.remote {
        // MariaDB's clients connect to the gateway there.
        Some(_) => format!("{text}\n  compute   {compute}"),
        None => format!(
            "{text}\n  connect   {}\n  compute   {compute}",
            app.command(&format!("sql {}", branch.name)),
        ),
    }
}

async fn set(app: &App, args: &BranchSetArgs) -> Result<()> {
    let set: Changed = match &app.remote {
        Some(remote) => {
            let body = ChangeBranch {
                name: None,
                suspend_after: args.suspend_after.as_ref().map(ToString::to_string),
                pool_size: args.pool_size.map(|size| size.to_string()),
                moments: args.moments,
            };
            let path = resource(&args.name, &[]);
            remote
                .change(app, Method::PATCH, &path, Some(&body))
                .await?
        }
        None => {
            let mut up = Session::share(app, &app.progress()).await?;
            let settings = work::branch::BranchSettings {
                suspend_after: args.suspend_after.clone(),
                pool_size: args.pool_size,
                moments: args.moments,
            };
            work::branch::set(app, &mut up, &args.name, &settings).await?
        }
    };
    output::print(app, &set, || {
        let after = match &set.suspend_after {
            Some(after) => format!("sleeps after {after} without use"),
            None => "never sleeps".to_owned(),
        };
        let pool = match set.pool_size {
            Some(size) => format!("; its clients share {size} sessions"),
            None => String::new(),
        };
        let moments = match set.moments {
            true => "; they may name its moments",
            false => "",
        };
        format!(
            "the compute of branch {} {after}{pool}{moments}",
            set.branch.name
        )
    })
}

/// `, 2026-11-22T14:05:00Z`, if the time is known.
fn when(time: Option<&str>) -> String {
    time.filter(|time| !time.is_empty())
        .map_or_else(String::new, |time| format!(", {time}"))
}

async fn show(app: &App, args: &BranchShowArgs) -> Result<()> {
    let Some(name) = &args.branch else {
        let all = list(app, true).await?;
        return output::print(app, &all, || tree(&all, None));
    };
    if let Some(at) = app.moment(args.at)? {
        let found: MomentReport = match &app.remote {
            Some(remote) => {
                let moments = resource(name, &["moments"]);
                let at = encoded(&at_text(at));
                remote.get(&format!("{moments}?at={at}")).await?
            }
            None => {
                let control = session::connect(app, &app.progress()).await?;
                control.resolve(name, Some(at), true).await?.into()
            }
        };
        return output::print(app, &found, || moment_text(name, &found));
    }
    let (all, shown): (Vec<BranchReport>, Shown) = match &app.remote {
        Some(remote) => (
            list(app, true).await?,
            remote.get(&resource(name, &[])).await?,
        ),
        None => {
            let control = session::connect(app, &app.progress()).await?;
            let all = work::branch::list(&control, true).await?;
            let shown = work::branch::show(&control, &all, name, true).await?;
            (all, shown)
        }
    };
    output::print(app, &shown, || {
        let one = &shown.branch;
        let below = if one.child_branches.is_empty() {
            String::new()
        } else {
            format!("\n\n{}", tree(&all, Some(&one.name)))
        };
        format!("{}{below}", shown_text(&shown))
    })
}

/// A branch with its troubles, for people.
pub fn shown_text(shown: &Shown) -> String {
    let mut out = text(&shown.branch);
    for (what, trouble) in [
        ("flushes fail", &shown.flush_trouble),
        ("merges fail", &shown.merge_trouble),
        ("the WAL's backup fails", &shown.backup_trouble),
    ] {
        if let Some(trouble) = trouble {
            let _ = write!(out, "\ntrouble   {what}: {trouble}");
        }
    }
    out
}

/// A moment for people.
fn moment_text(name: &ComputeName, moment: &MomentReport) -> String {
    let gtid = match (&moment.gtid, &moment.gtid_trouble) {
        (Some(gtid), _) => gtid.clone(),
        (None, Some(trouble)) => format!("not known: {trouble}"),
        (None, None) => "none: no transaction is in a binary log of its own there".to_owned(),
    };
    format!(
        "branch    {name} at LSN {}{}\nhistory   LSN {}{} to LSN {}{}\ngtid      {}",
        moment.lsn,
        when(moment.time.as_deref()),
        moment.oldest_lsn,
        when(moment.oldest_time.as_deref()),
        moment.newest_lsn,
        when(moment.newest_time.as_deref()),
        gtid,
    )
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

async fn remove(app: &App, name: &ComputeName) -> Result<()> {
    let removed: Removed = match &app.remote {
        Some(remote) => {
            let path = resource(name, &[]);
            remote
                .change(app, Method::DELETE, &path, None::<&()>)
                .await?
        }
        None => {
            let mut up = Session::open(app, &app.progress()).await?;
            work::branch::remove(app, &mut up, name).await?
        }
    };
    output::print(app, &removed, || {
        let stopped = match removed.compute_stopped {
            true => ", stopped its compute",
            false => "",
        };
        format!(
            "removed branch {name}{stopped}; freed {}",
            bytes(removed.branch.own_bytes)
        )
    })
}

async fn reopen(app: &App, name: &ComputeName) -> Result<()> {
    let branch: BranchReport = match &app.remote {
        Some(remote) => {
            let path = resource(name, &["reopen"]);
            remote.change(app, Method::POST, &path, None::<&()>).await?
        }
        None => {
            let up = Session::open(app, &app.progress()).await?;
            work::branch::reopen(&up, name).await?
        }
    };
    output::print(app, &branch, || {
        format!(
            "reopened branch {name}: {}, at LSN {}",
            branch.state, branch.last_lsn
        )
    })
}

async fn rename(app: &App, args: &BranchRenameArgs) -> Result<()> {
    let renamed: Changed = match &app.remote {
        Some(remote) => {
            let body = ChangeBranch {
                name: Some(args.new.to_string()),
                suspend_after: None,
                pool_size: None,
                moments: None,
            };
            let path = resource(&args.old, &[]);
            remote
                .change(app, Method::PATCH, &path, Some(&body))
                .await?
        }
        None => {
            let progress = app.progress();
            let mut up = Session::open(app, &progress).await?;
            let none = work::branch::BranchSettings::default();
            work::branch::rename(app, &mut up, &progress, &args.old, &args.new, &none).await?
        }
    };
    output::print(app, &renamed, || {
        let restarted = restarted(app, renamed.compute.as_ref());
        format!("renamed branch {} to {}{restarted}", args.old, args.new)
    })
}

async fn restore(app: &App, args: &BranchRestoreArgs, at: Moment) -> Result<()> {
    let restored: Restored = match &app.remote {
        Some(remote) => {
            let body = RestoreBranch {
                at: at_text(at),
                keep_as: args.keep_as.as_ref().map(ToString::to_string),
            };
            let path = resource(&args.branch, &["restore"]);
            remote.change(app, Method::POST, &path, Some(&body)).await?
        }
        None => {
            let progress = app.progress();
            let mut up = Session::open(app, &progress).await?;
            let (name, keep_as) = (&args.branch, args.keep_as.as_ref());
            work::branch::restore(app, &mut up, &progress, name, at, keep_as).await?
        }
    };
    output::print(app, &restored, || {
        format!(
            "restored branch {} to LSN {}{} ({:.1} s)\n\
             its previous state is branch {}{}",
            restored.branch.name,
            restored.branch.branch_point_lsn,
            when(restored.restored_time.as_deref()),
            restored.took_ms as f64 / 1000.0,
            restored.kept.name,
            restarted(app, restored.compute.as_ref()),
        )
    })
}

fn restarted(app: &App, started: Option<&crate::report::change::Started>) -> String {
    started.map_or_else(String::new, |started| {
        format!("\n{}", super::compute::said(app, started))
    })
}
