//! `xylem inspect layer`: a layer file.

use super::{RecordLine, hexdump, indent, records};
use crate::args::inspect::LayerArgs;
use crate::failure::Failure;
use crate::output::{bytes, table};
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::ops::ControlFlow;
use xylem_pages::inspect::{self, LayerFileInfo, VersionKind, VersionRef};
use xylem_pages::place::Place;
use xylem_pages::place::ReadOnlyPlace;

/// Kinds of keys, in the order of [`LayerFileInfo::keys_by_kind`].
const KEY_KINDS: [&str; 5] = ["pages", "tablespaces", "paths", "side_files", "state"];
/// Kinds of versions.
const VERSION_KINDS: [&str; 3] = ["delta", "fresh", "image"];
/// Kinds of blocks.
const BLOCK_KINDS: [&str; 4] = ["data", "index", "filter", "root"];

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
pub struct LayerReport {
    /// The branch's id.
    pub branch_id: String,
    /// The layer's number.
    pub number: u64,
    /// `delta` or `image`.
    pub kind: &'static str,
    /// Format version.
    pub version: u16,
    /// The file's size.
    pub bytes: u64,
    /// Its LSN range, both ends included.
    pub start_lsn: u64,
    /// See `start_lsn`.
    pub end_lsn: u64,
    /// Its keys, both ends included.
    pub first_key: String,
    /// See `first_key`.
    pub last_key: String,
    /// How many.
    pub keys: u64,
    /// How many of each kind.
    pub keys_by_kind: Vec<CountRow>,
    /// Versions of each kind.
    pub versions: Vec<CountRow>,
    /// Blocks of each kind.
    pub blocks: Vec<BlockRow>,
    /// The problem with it.
    pub faults: Vec<String>,
    /// The versions that were asked for.
    pub list: Vec<VersionRow>,
    /// There are more of them.
    pub list_cut: bool,
}

/// So many of something.
#[derive(Debug, Serialize)]
pub struct CountRow {
    /// Of what.
    pub kind: &'static str,
    /// How many.
    pub count: u64,
    /// Their bytes, where they have some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// Blocks of a kind.
#[derive(Debug, Serialize)]
pub struct BlockRow {
    /// Which kind.
    pub kind: &'static str,
    /// How many.
    pub count: u64,
    /// Their bytes in the file.
    pub stored_bytes: u64,
    /// Their bytes expanded.
    pub expanded_bytes: u64,
    /// How many are packed with LZ4.
    pub lz4: u64,
    /// How many are packed with Zstandard.
    pub zstd: u64,
}

/// A version.
#[derive(Debug, Serialize)]
pub struct VersionRow {
    /// Its key.
    pub key: String,
    /// Its LSN.
    pub lsn: u64,
    /// `delta`, `fresh` or `image`.
    pub kind: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// Its records, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordLine>,
    /// Why the rest of them cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_fault: Option<String>,
    /// The bytes in hexadecimal, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    #[serde(skip)]
    data: Vec<u8>,
}

/// Reads a layer file.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn report(args: &LayerArgs) -> Result<LayerReport> {
    let file = &args.file;
    let meta = std::fs::metadata(file);
    let meta = meta.with_context(|| format!("cannot read {}", file.display()))?;
    let dir = file.parent().unwrap_or(std::path::Path::new(""));
    let dir = match dir.as_os_str().is_empty() {
        true => std::path::Path::new("."),
        false => dir,
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let files = ReadOnlyPlace::open(dir)?.folder("")?;
    let reader = files.open(&name);
    let reader = reader.with_context(|| format!("cannot open {}", file.display()))?;
    let wanted = args.versions || args.records || args.hex || args.page.is_some();
    let mut list = Vec::new();
    let mut cut = false;
    let info = inspect::layer_file(reader, meta.len(), &mut |v| {
        let listed = wanted && args.page.is_none_or(|page| v.page() == Some(page));
        if listed && args.limit != 0 && list.len() as u64 >= args.limit {
            cut = true;
        } else if listed {
            list.push(version(&v, args));
        }
        ControlFlow::Continue(())
    });
    let info = info.map_err(|why| {
        Failure::new(
            format!("{}: {why}", file.display()),
            "names of layers end with .layer; `xylem scrub` checks a whole store",
        )
    })?;
    Ok(of(&info, list, cut))
}

fn version(v: &VersionRef<'_>, args: &LayerArgs) -> VersionRow {
    let is_redo = v.page().is_some() && v.kind != VersionKind::Image;
    let (records, records_fault) = match args.records && is_redo {
        true => records(v.bytes, v.lsn),
        false => (Vec::new(), None),
    };
    VersionRow {
        key: v.key_text(),
        lsn: v.lsn.0,
        kind: v.kind.as_str(),
        bytes: v.bytes.len() as u64,
        records,
        records_fault,
        hex: args.hex.then(|| {
            let digits = v.bytes.iter().map(|b| format!("{b:02x}"));
            digits.collect()
        }),
        data: match args.hex {
            true => v.bytes.to_vec(),
            false => Vec::new(),
        },
    }
}

fn of(info: &LayerFileInfo, list: Vec<VersionRow>, list_cut: bool) -> LayerReport {
    LayerReport {
        branch_id: info.branch.to_string(),
        number: info.number,
        kind: info.kind.as_str(),
        version: info.version,
        bytes: info.bytes,
        start_lsn: info.start.0,
        end_lsn: info.end.0,
        first_key: info.first_key.clone(),
        last_key: info.last_key.clone(),
        keys: info.keys,
        keys_by_kind: KEY_KINDS
            .iter()
            .zip(info.keys_by_kind)
            .map(|(kind, count)| CountRow {
                kind,
                count,
                bytes: None,
            })
            .collect(),
        versions: VERSION_KINDS
            .iter()
            .zip(info.versions)
            .map(|(kind, tally)| CountRow {
                kind,
                count: tally.count,
                bytes: Some(tally.bytes),
            })
            .collect(),
        blocks: BLOCK_KINDS
            .iter()
            .zip(info.blocks)
            .map(|(kind, b)| BlockRow {
                kind,
                count: b.count,
                stored_bytes: b.stored,
                expanded_bytes: b.expanded,
                lz4: b.packed[1],
                zstd: b.packed[2],
            })
            .collect(),
        faults: info.faults.clone(),
        list,
        list_cut,
    }
}

/// The report for people.
pub fn text(r: &LayerReport) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "layer {} of branch {}, {}, format {}, {}",
        r.number,
        r.branch_id,
        r.kind,
        r.version,
        bytes(r.bytes)
    );
    let _ = writeln!(
        out,
        "LSN {}..{}, keys {}, from {} to {}",
        r.start_lsn, r.end_lsn, r.keys, r.first_key, r.last_key
    );
    let keys: Vec<String> = r
        .keys_by_kind
        .iter()
        .map(|k| format!("{} {}", k.kind.replace('_', " "), k.count))
        .collect();
    let _ = writeln!(out, "keys      {}", keys.join(", "));
    let versions: Vec<String> = r
        .versions
        .iter()
        .map(|v| format!("{} {} ({})", v.kind, v.count, bytes(v.bytes.unwrap_or(0))))
        .collect();
    let _ = writeln!(out, "versions  {}", versions.join(", "));
    let rows: Vec<Vec<String>> = r
        .blocks
        .iter()
        .map(|b| {
            vec![
                b.kind.to_owned(),
                b.count.to_string(),
                bytes(b.stored_bytes),
                bytes(b.expanded_bytes),
                b.lz4.to_string(),
                b.zstd.to_string(),
            ]
        })
        .collect();
    let head = ["BLOCKS", "COUNT", "STORED", "EXPANDED", "LZ4", "ZSTD"];
    let _ = writeln!(out, "\n{}", table(&head, &rows));
    match r.faults.is_empty() {
        true => out.push_str("\nthe file is sound\n"),
        false => {
            out.push('\n');
            for fault in &r.faults {
                let _ = writeln!(out, "DAMAGED: {fault}");
            }
        }
    }
    list(r, &mut out);
    out.trim_end().to_owned()
}

/// The versions that were asked for.
fn list(r: &LayerReport, out: &mut String) {
    if !r.list.is_empty() {
        out.push('\n');
    }
    for v in &r.list {
        let _ = writeln!(
            out,
            "{}  LSN {}  {}  {} bytes",
            v.key, v.lsn, v.kind, v.bytes
        );
        for record in &v.records {
            let _ = writeln!(out, "    {}", record.line());
        }
        if let Some(fault) = &v.records_fault {
            let _ = writeln!(out, "    the rest cannot be read: {fault}");
        }
        if v.hex.is_some() {
            out.push_str(&indent(&hexdump(&v.data), 4));
        }
    }
    if r.list_cut {
        out.push_str("there are more versions: --limit 0 lists all\n");
    }
}
