//! `xylem status`: the server, the gateway, branches and computes.

use crate::app::App;
use crate::output::{self, bytes, table};
use crate::remote::path;
use crate::report::branch::BranchReport;
use crate::report::{ComputeReport, StatusReport};
use anyhow::Result;
use std::fmt::Write;

/// Runs the command.
///
/// # Errors
/// When there is no project.
pub async fn run(app: &App) -> Result<()> {
    let report = match &app.remote {
        Some(remote) => remote.get(&path(&["status"])).await?,
        None => {
            app.state.require_project()?;
            StatusReport::gather(app).await
        }
    };
    output::print(app, &report, || text(&report).trim_end().to_owned())
}

/// The report for people.
pub fn text(report: &StatusReport) -> String {
    let mut out = String::new();
    let server = &report.server;
    let _ = write!(out, "server    {}", server.state);
    if let Some(pid) = server.pid {
        let _ = write!(out, ", pid {pid}");
        for (name, address) in [("gRPC", &server.grpc), ("HTTP", &server.http)] {
            if let Some(address) = address {
                let _ = write!(out, ", {name} {address}");
            }
        }
    }
    if let (Some(used), Some(budget)) = (server.memory_bytes, server.memory_budget_bytes) {
        let _ = write!(out, ", memory {} of {}", bytes(used), bytes(budget));
    }
    for (name, role) in [("gateway", &report.gateway), ("API", &report.api)] {
        let _ = write!(out, "\n{name:<9} {}", role.state.as_str());
        if let (Some(pid), Some(address)) = (role.pid, role.address) {
            let _ = write!(out, ", pid {pid}, {address}");
        }
    }
    let _ = writeln!(out, "\nstate     {}", report.dir.display());
    if let Some(store) = &report.object_store {
        let _ = writeln!(out, "store     {store}");
    }
    if !report.damage.is_empty() {
        let _ = writeln!(
            out,
            "DAMAGE    scrubs found {} problems in the store: see `xylem doctor`",
            report.damage.len()
        );
    }
    if !report.branches.is_empty() {
        let _ = writeln!(out, "\n{}", branches(&report.branches));
    }
    if !report.computes.is_empty() {
        let _ = writeln!(out, "\n{}", computes(&report.computes));
    }
    out
}

/// Branches as a table.
pub fn branches(rows: &[BranchReport]) -> String {
    let head = [
        "BRANCH",
        "STATE",
        "LSN",
        "LAG",
        "EPOCH",
        "WAL",
        "LAYERS",
        "PARENT",
        "HISTORY FROM",
        "CREATED",
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|b| {
            let parent = match &b.parent {
                Some(name) => format!("{name} at {}", b.branch_point_lsn),
                None => "-".to_owned(),
            };
            vec![
                b.name.clone(),
                b.state.clone(),
                b.last_lsn.to_string(),
                bytes(b.lag_bytes),
                b.epoch.to_string(),
                bytes(b.wal_bytes),
                bytes(b.layer_bytes),
                parent,
                history_from(b),
                seconds(&b.created_at),
            ]
        })
        .collect();
    table(&head, &rows)
}

/// How far back the history reaches: a time if that is known.
fn history_from(branch: &BranchReport) -> String {
    let time = branch.history_from.as_ref().or(branch.oldest_time.as_ref());
    match (time, branch.oldest_lsn) {
        (Some(time), _) => seconds(time),
        (None, Some(lsn)) => format!("LSN {lsn}"),
        (None, None) => "-".to_owned(),
    }
}

/// A time as the server gives it, without the fraction of its second.
pub fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

/// Computes as a table.
pub fn computes(rows: &[ComputeReport]) -> String {
    let head = ["COMPUTE", "STATE", "ADDRESS", "PID", "LSN", "SOCKET"];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|c| {
            let lsn = c.lsn.map_or_else(|| "-".to_owned(), |lsn| lsn.to_string());
            let only = if c.read_only { " read-only" } else { "" };
            vec![
                c.name.clone(),
                c.state.as_str().to_owned(),
                format!("{}:{}", c.host, c.port),
                c.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                format!("{lsn}{only}"),
                c.socket.display().to_string(),
            ]
        })
        .collect();
    table(&head, &rows)
}
