//! `xylem inspect layers`: the layers of a branch, in memory and in the store.

use super::manifest::{LayerRow, layer_table};
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::output::{bytes, table};
use crate::session;
use anyhow::Result;
use serde::Serialize;
use std::fmt::Write;
use xylem_proto::inspect::LayersResponse;

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
pub struct LayersReport {
    /// The branch.
    pub branch: String,
    /// Its id.
    pub branch_id: String,
    /// The id of its parent branch.
    pub parent_id: Option<String>,
    /// Its branch point in the parent; 0 without one.
    pub branch_point_lsn: u64,
    /// The LSN up to which pages can be read.
    pub applied_lsn: u64,
    /// The oldest LSN of the history kept.
    pub oldest_lsn: Option<u64>,
    /// Layers in memory, oldest first.
    pub memory: Vec<MemoryRow>,
    /// Layer files, oldest first.
    pub layers: Vec<LayerRow>,
}

/// A layer in memory.
#[derive(Debug, Serialize)]
pub struct MemoryRow {
    /// It waits to be flushed.
    pub frozen: bool,
    /// Its versions come after this LSN.
    pub start_lsn: u64,
    /// The end of its LSNs; none while it is filled.
    pub end_lsn: Option<u64>,
    /// Memory it takes.
    pub memory_bytes: u64,
    /// Bytes of versions in it.
    pub bytes: u64,
}

/// Asks the server.
///
/// # Errors
/// When it cannot be asked, or there is no such branch.
pub async fn report(app: &App, branch: &ComputeName) -> Result<LayersReport> {
    let control = session::connect(app, &app.progress()).await?;
    Ok(LayersReport::from(control.layers(branch).await?))
}

impl From<LayersResponse> for LayersReport {
    fn from(r: LayersResponse) -> LayersReport {
        LayersReport {
            branch: r.branch,
            branch_id: r.branch_id,
            parent_id: Some(r.parent_id).filter(|id| !id.is_empty()),
            branch_point_lsn: r.branch_point_lsn,
            applied_lsn: r.applied_lsn,
            oldest_lsn: Some(r.oldest_lsn).filter(|lsn| *lsn != 0),
            memory: r
                .memory
                .into_iter()
                .map(|m| MemoryRow {
                    frozen: m.frozen,
                    start_lsn: m.start_lsn,
                    end_lsn: Some(m.end_lsn).filter(|_| m.frozen),
                    memory_bytes: m.memory_bytes,
                    bytes: m.bytes,
                })
                .collect(),
            layers: r
                .layers
                .into_iter()
                .map(|l| LayerRow {
                    number: l.number,
                    name: l.name,
                    kind: match l.kind.as_str() {
                        "image" => "image",
                        _ => "delta",
                    },
                    bytes: l.bytes,
                    start_lsn: l.start_lsn,
                    end_lsn: l.end_lsn,
                    first_key: l.first_key,
                    last_key: l.last_key,
                    keys: l.keys,
                    run: l.run,
                    old_bytes: l.old_bytes,
                    merging: l.merging,
                })
                .collect(),
        }
    }
}

/// The report for people.
pub fn text(r: &LayersReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "branch    {} ({})", r.branch, r.branch_id);
    if let Some(id) = &r.parent_id {
        let _ = writeln!(out, "parent    {id} at LSN {}", r.branch_point_lsn);
    }
    let oldest = r.oldest_lsn.map_or("-".to_owned(), |l| l.to_string());
    let _ = writeln!(out, "LSN       {oldest}..{}", r.applied_lsn);
    let total: u64 = r.layers.iter().map(|l| l.bytes).sum();
    let mut runs: Vec<u64> = r.layers.iter().map(|l| l.run).collect();
    runs.dedup();
    let _ = writeln!(
        out,
        "layers    {} in {} runs, {}\n",
        r.layers.len(),
        runs.len(),
        bytes(total)
    );
    let rows: Vec<Vec<String>> = r
        .memory
        .iter()
        .map(|m| {
            vec![
                if m.frozen { "frozen" } else { "open" }.to_owned(),
                bytes(m.memory_bytes),
                bytes(m.bytes),
                match m.end_lsn {
                    Some(end) => format!("{}..{end}", m.start_lsn),
                    None => format!("{}..", m.start_lsn),
                },
            ]
        })
        .collect();
    let head = ["MEMORY", "TAKES", "VERSIONS", "LSN"];
    out.push_str(&table(&head, &rows));
    if !r.layers.is_empty() {
        let _ = write!(out, "\n\n{}", layer_table(&r.layers));
    }
    out
}
