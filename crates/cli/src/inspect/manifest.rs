//! `xylem inspect manifest`: manifest files.

use crate::failure::Failure;
use crate::output::{bytes, table};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use xylem_pages::inspect::{self, LayerInfo, ManifestInfo};

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
pub struct ManifestsReport {
    /// The files, by number.
    pub manifests: Vec<ManifestReport>,
    /// The layers they add up to, if they follow one another from a snapshot on.
    pub layers: Option<Vec<LayerRow>>,
    /// Why they do not.
    pub why_no_layers: Option<String>,
}

/// A manifest.
#[derive(Debug, Serialize)]
pub struct ManifestReport {
    /// Its file.
    pub file: PathBuf,
    /// The branch's id.
    pub branch_id: String,
    /// Its number.
    pub number: u64,
    /// `snapshot` or `edit`.
    pub kind: &'static str,
    /// A random number of the process that wrote it.
    pub writer: String,
    /// The parent branch and the branch point.
    pub parent: Option<ParentReport>,
    /// The oldest LSN of the history kept.
    pub oldest_lsn: Option<u64>,
    /// From where the WAL is replayed.
    pub resume: ResumeReport,
    /// The next layer's number.
    pub next_layer: u64,
    /// Layers that it adds; in a snapshot all.
    pub added: Vec<LayerRow>,
    /// Numbers of layers that it removes.
    pub removed: Vec<u64>,
    /// Layers whose first key that counts becomes another.
    pub narrowed: Vec<(u64, String)>,
    /// Layers that merges under way read.
    pub merging: Vec<u64>,
}

/// The branch point of a branch.
#[derive(Debug, Serialize)]
pub struct ParentReport {
    /// The parent branch's id.
    pub branch_id: String,
    /// The last LSN they share.
    pub lsn: u64,
    /// Side-file operations before this position in the parent's WAL are shared.
    pub position: u64,
}

/// From where the WAL is replayed.
#[derive(Debug, Serialize)]
pub struct ResumeReport {
    /// The position in the WAL.
    pub position: u64,
    /// Redo before this is in layers.
    pub lsn: u64,
    /// Side-file operations before this position are in layers.
    pub operations: u64,
    /// An epoch has begun.
    pub begun: bool,
}

/// A layer.
#[derive(Debug, Serialize)]
pub struct LayerRow {
    /// Its number.
    pub number: u64,
    /// Its file.
    pub name: String,
    /// `delta` or `image`.
    pub kind: &'static str,
    /// The file's size.
    pub bytes: u64,
    /// Its LSN range, both ends included.
    pub start_lsn: u64,
    /// See `start_lsn`.
    pub end_lsn: u64,
    /// Its keys that count, both ends included.
    pub first_key: String,
    /// See `first_key`.
    pub last_key: String,
    /// Keys in the file.
    pub keys: u64,
    /// Layers of one run stand side by side.
    pub run: u64,
    /// Bytes of versions that others in it follow.
    pub old_bytes: u64,
    /// A merge is reading it.
    pub merging: bool,
}

impl LayerRow {
    fn of(l: &LayerInfo) -> LayerRow {
        LayerRow {
            number: l.number,
            name: l.name.clone(),
            kind: l.kind.as_str(),
            bytes: l.bytes,
            start_lsn: l.start.0,
            end_lsn: l.end.0,
            first_key: l.first_key.clone(),
            last_key: l.last_key.clone(),
            keys: l.keys,
            run: l.run,
            old_bytes: l.old_bytes,
            merging: l.merging,
        }
    }
}

/// Layers as a table.
pub fn layer_table(rows: &[LayerRow]) -> String {
    let head = [
        "LAYER", "KIND", "RUN", "SIZE", "OLD", "LSN", "KEYS", "FIRST", "LAST", "FILE",
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|l| {
            let merging = if l.merging { " (merging)" } else { "" };
            vec![
                format!("{}{merging}", l.number),
                l.kind.to_owned(),
                l.run.to_string(),
                bytes(l.bytes),
                bytes(l.old_bytes),
                format!("{}..{}", l.start_lsn, l.end_lsn),
                l.keys.to_string(),
                l.first_key.clone(),
                l.last_key.clone(),
                l.name.clone(),
            ]
        })
        .collect();
    table(&head, &rows)
}

/// The manifest files among `paths`, and in directories among them.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for path in paths {
        if !path.is_dir() {
            out.push(path.clone());
            continue;
        }
        let listed = std::fs::read_dir(path);
        for entry in listed.with_context(|| format!("cannot list {}", path.display()))? {
            let entry = entry?.path();
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("manifest-") && !name.ends_with(".tmp") {
                out.push(entry);
            }
        }
    }
    if out.is_empty() {
        return Err(Failure::new(
            format!("there is no manifest in {}", show(paths)),
            "name manifest files, or the directory of a branch in the store",
        ));
    }
    Ok(out)
}

fn show(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    shown.join(" ")
}

/// Reads manifests.
///
/// # Errors
/// When a file cannot be read or is no manifest.
pub fn report(paths: &[PathBuf]) -> Result<ManifestsReport> {
    let mut all: Vec<(ManifestInfo, PathBuf, Vec<u8>)> = Vec::new();
    for file in files(paths)? {
        let raw = std::fs::read(&file);
        let raw = raw.with_context(|| format!("cannot read {}", file.display()))?;
        let info = inspect::manifest(&raw).map_err(|why| not_one(&file, &why))?;
        all.push((info, file, raw));
    }
    all.sort_by_key(|(info, ..)| (info.branch, info.number));
    let raws: Vec<Vec<u8>> = all.iter().map(|(.., raw)| raw.clone()).collect();
    let (layers, why_no_layers) = match inspect::replay(&raws) {
        Ok(layers) => (Some(layers.iter().map(LayerRow::of).collect()), None),
        Err(why) => (None, Some(why)),
    };
    Ok(ManifestsReport {
        manifests: all.iter().map(|(info, file, _)| one(info, file)).collect(),
        layers,
        why_no_layers,
    })
}

fn not_one(file: &Path, why: &str) -> anyhow::Error {
    Failure::new(
        format!("{}: {why}", file.display()),
        "names of manifests are manifest- and 16 hexadecimal digits; `xylem scrub` checks a whole store",
    )
}

fn one(m: &ManifestInfo, file: &Path) -> ManifestReport {
    ManifestReport {
        file: file.to_owned(),
        branch_id: m.branch.to_string(),
        number: m.number,
        kind: if m.snapshot { "snapshot" } else { "edit" },
        writer: format!("{:032x}", m.writer),
        parent: m.branch_point.map(|p| ParentReport {
            branch_id: p.parent.to_string(),
            lsn: p.lsn.0,
            position: p.position.0,
        }),
        oldest_lsn: m.oldest.map(|l| l.0),
        resume: ResumeReport {
            position: m.resume.position.0,
            lsn: m.resume.lsn.0,
            operations: m.resume.operations.0,
            begun: m.resume.begun,
        },
        next_layer: m.next_layer,
        added: m.added.iter().map(LayerRow::of).collect(),
        removed: m.removed.clone(),
        narrowed: m.narrowed.clone(),
        merging: m.merging.clone(),
    }
}

/// The report for people.
pub fn text(report: &ManifestsReport) -> String {
    let mut out = String::new();
    for m in &report.manifests {
        let _ = writeln!(
            out,
            "manifest {} of branch {}, {}, written by {}",
            m.number, m.branch_id, m.kind, m.writer
        );
        if let Some(a) = &m.parent {
            let _ = writeln!(
                out,
                "  parent branch {}, branch point LSN {}, position {}",
                a.branch_id, a.lsn, a.position
            );
        }
        let r = &m.resume;
        let begun = if r.begun { "" } else { ", no epoch has begun" };
        let _ = writeln!(
            out,
            "  layers hold everything before LSN {}; WAL from position {}, operations from {}{begun}",
            r.lsn, r.position, r.operations
        );
        let oldest = m.oldest_lsn.map_or("unknown".to_owned(), |l| l.to_string());
        let _ = writeln!(
            out,
            "  history from LSN {oldest}; next layer {}",
            m.next_layer
        );
        let numbers = |n: &[u64]| {
            let all: Vec<String> = n.iter().map(u64::to_string).collect();
            all.join(", ")
        };
        if !m.removed.is_empty() {
            let _ = writeln!(out, "  removes layers {}", numbers(&m.removed));
        }
        for (n, key) in &m.narrowed {
            let _ = writeln!(out, "  layer {n} counts from {key} on");
        }
        if !m.merging.is_empty() {
            let _ = writeln!(out, "  merges read layers {}", numbers(&m.merging));
        }
        if !m.added.is_empty() {
            let _ = writeln!(out, "{}", layer_table(&m.added));
        }
        out.push('\n');
    }
    match (&report.layers, &report.why_no_layers) {
        (Some(layers), _) if layers.is_empty() => out.push_str("together: no layers\n"),
        (Some(layers), _) => {
            let _ = writeln!(out, "together:\n{}", layer_table(layers));
        }
        (None, why) => {
            let why = why.as_deref().unwrap_or_default();
            let _ = writeln!(out, "the layers that they add up to are unknown: {why}");
        }
    }
    out.trim_end().to_owned()
}
