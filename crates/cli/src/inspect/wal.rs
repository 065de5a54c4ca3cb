//! `xylem inspect wal`: the entries of a local WAL.

use super::RecordLine;
use super::overlay::Overlay;
use crate::app::App;
use crate::args::inspect::WalArgs;
use crate::failure::Failure;
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use xylem_ambient::Entropy;
use xylem_redo::{Mtr, MtrReader, ParseStep, parse_mtr};
use xylem_types::{FileOp, FrameBody, Lsn, PageId};
use xylem_wal::{Entry, LocalWal, LocalWalConfig, Position, Record, Wal, WalError, WalReader};

/// The beginning of a mini-transaction is searched in at most so many bytes.
const SYNC_MAX: usize = 4 << 20;
/// A WAL that a server writes may look damaged for a moment.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
pub struct WalReport {
    /// Its first position.
    pub first: u64,
    /// The position of its end.
    pub end: u64,
    /// The newest epoch.
    pub epoch: u64,
    /// The end of its redo.
    pub lsn: u64,
    /// The entries that were asked for.
    pub entries: Vec<EntryRow>,
    /// The position of the next entry; none at the end.
    pub next: Option<u64>,
    /// Why no more can be read.
    pub fault: Option<String>,
}

/// An entry.
#[derive(Debug, Serialize)]
pub struct EntryRow {
    /// The position of its beginning.
    pub position: u64,
    /// Its epoch.
    pub epoch: u64,
    /// Its number in that; none for a seal or begin.
    pub seq: Option<u64>,
    /// The LSN of the entry, or of the beginning of its redo.
    pub lsn: Option<u64>,
    /// The LSN at which its redo ends.
    pub end_lsn: Option<u64>,
    /// When the WAL took it.
    pub time: Option<String>,
    /// `seal`, `begin`, `redo` or the side-file operation.
    pub kind: &'static str,
    /// Bytes of redo or data.
    pub bytes: u64,
    /// The side-file operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The mini-transactions that end in it, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mtrs: Vec<MtrRow>,
    /// The problem with its redo, or with where it begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A mini-transaction.
#[derive(Debug, Serialize)]
pub struct MtrRow {
    /// Its first byte.
    pub start_lsn: u64,
    /// The LSN after it, which its pages carry.
    pub end_lsn: u64,
    /// How many records it has.
    pub count: u64,
    /// The records, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordLine>,
}

/// Opens the WAL without changing it.
fn open(dir: &Path, entropy: &Entropy) -> Result<LocalWal> {
    let is_segment = |name: &str| name.ends_with(".wal");
    let listed = std::fs::read_dir(dir);
    let listed = listed.with_context(|| format!("cannot list {}", dir.display()))?;
    let mut names = listed.flatten().map(|e| e.file_name());
    if !names.any(|n| n.to_str().is_some_and(is_segment)) {
        return Err(Failure::new(
            format!("there is no WAL in {}", dir.display()),
            "name a directory with files such as 000000000001.wal",
        ));
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let disk = Arc::new(Overlay::new(dir, entropy));
        match LocalWal::open_on(disk, LocalWalConfig::default()) {
            Ok(wal) => return Ok(wal),
            Err(_) if tries < TRIES => pause(),
            Err(e) => {
                return Err(Failure::new(
                    format!("{}: {e}", dir.display()),
                    "a server would not open this WAL; restore its directory from a backup",
                ));
            }
        }
    }
}

fn pause() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a command that waits for another process to finish its write"
    )]
    std::thread::sleep(PAUSE);
}

/// Reads the entries of a WAL.
///
/// # Errors
/// When there is none, or it does not open.
pub fn report(app: &App, args: &WalArgs) -> Result<WalReport> {
    let wal = open(&args.dir, &app.entropy)?;
    let end = *wal.durable().borrow();
    let from = args.from.map_or(wal.first(), Position);
    let reader = wal.read_from(from).map_err(|e| match e {
        WalError::NoSuchPosition(_) => Failure::new(
            format!("there is no entry at position {}", from.0),
            format!(
                "positions go from {} to {}",
                wal.first().0,
                end.position().0
            ),
        ),
        other => other.into(),
    })?;
    let mut out = WalReport {
        first: wal.first().0,
        end: end.position().0,
        epoch: end.epoch().0,
        lsn: end.lsn().0,
        entries: Vec::new(),
        next: None,
        fault: None,
    };
    read(args, reader, from, &mut out);
    Ok(out)
}

fn read(args: &WalArgs, mut reader: Box<dyn WalReader>, from: Position, out: &mut WalReport) {
    let mut at = from;
    let mut mtrs = Mtrs::new(args);
    loop {
        let entry = match reader.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => return,
            Err(e) => {
                out.fault = Some(e.to_string());
                return;
            }
        };
        let position = std::mem::replace(&mut at, entry.next);
        let mut row = EntryRow::of(&entry, position);
        let has_some = mtrs.entry(&entry, &mut row);
        let before = args
            .lsn
            .is_some_and(|lsn| row.end_lsn.or(row.lsn).is_none_or(|end| end <= lsn.0));
        if before && out.entries.is_empty() || !has_some {
            continue;
        }
        if args.limit != 0 && out.entries.len() as u64 >= args.limit {
            out.next = Some(position.0);
            return;
        }
        out.entries.push(row);
    }
}

impl EntryRow {
    fn of(entry: &Entry, position: Position) -> EntryRow {
        let time = i64::try_from(entry.time_us).ok().filter(|us| *us > 0);
        let time = time.and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        let mut row = EntryRow {
            position: position.0,
            epoch: entry.epoch.0,
            seq: None,
            lsn: None,
            end_lsn: None,
            time: time.map(|t| t.to_string()),
            kind: "seal",
            bytes: 0,
            operation: None,
            mtrs: Vec::new(),
            note: None,
        };
        match &entry.record {
            Record::Seal => {}
            Record::Begin { start } => {
                row.kind = "begin";
                row.lsn = Some(start.0);
            }
            Record::Frame(frame) => {
                row.seq = Some(frame.seq.0);
                row.lsn = Some(frame.start.0);
                match &frame.body {
                    FrameBody::Redo(bytes) => {
                        row.kind = "redo";
                        row.bytes = bytes.len() as u64;
                        row.end_lsn = Some(frame.end().0);
                    }
                    FrameBody::File(op) => {
                        let (kind, bytes, text) = operation(op);
                        (row.kind, row.bytes) = (kind, bytes);
                        row.operation = Some(text);
                    }
                }
            }
        }
        row
    }
}

/// A side-file operation: its kind, its bytes, what it does.
fn operation(op: &FileOp) -> (&'static str, u64, String) {
    match op {
        FileOp::Create { path, mode } => ("create", 0, format!("{path}, mode {mode:o}")),
        FileOp::Write { path, offset, data } => {
            let len = data.len() as u64;
            ("write", len, format!("{path}, {len} bytes at {offset}"))
        }
        FileOp::Truncate { path, size } => ("truncate", 0, format!("{path} to {size} bytes")),
        FileOp::Rename { from, to } => ("rename", 0, format!("{from} to {to}")),
        FileOp::Unlink { path } => ("unlink", 0, path.clone()),
        FileOp::Mkdir { path, mode } => ("mkdir", 0, format!("{path}, mode {mode:o}")),
        FileOp::Rmdir { path } => ("rmdir", 0, path.clone()),
    }
}

/// Cuts redo into mini-transactions. A WAL that was trimmed may begin in the middle
/// of one: then the first whole one is searched.
struct Mtrs<'a> {
    args: &'a WalArgs,
    reader: Option<MtrReader>,
    /// Redo in which no mini-transaction has been found to begin yet.
    unknown: Vec<u8>,
    unknown_start: Lsn,
    failed: bool,
}

impl<'a> Mtrs<'a> {
    fn new(args: &'a WalArgs) -> Mtrs<'a> {
        Mtrs {
            args,
            reader: None,
            unknown: Vec::new(),
            unknown_start: Lsn::ZERO,
            failed: false,
        }
    }

    fn wanted(&self) -> bool {
        self.args.mtrs || self.args.records || self.args.page.is_some()
    }

    /// Takes an entry. Answers whether it is to be shown.
    fn entry(&mut self, entry: &Entry, row: &mut EntryRow) -> bool {
        if !self.wanted() {
            return true;
        }
        match &entry.record {
            Record::Seal => {}
            Record::Begin { start } => {
                // Bytes of a torn one before it are void.
                self.reader = Some(MtrReader::new(*start));
                self.unknown.clear();
                self.failed = false;
            }
            Record::Frame(frame) => {
                if let FrameBody::Redo(bytes) = &frame.body {
                    row.note = self.redo(frame.start, bytes, &mut row.mtrs);
                }
            }
        }
        self.args.page.is_none() || !row.mtrs.is_empty()
    }

    fn redo(&mut self, start: Lsn, bytes: &[u8], out: &mut Vec<MtrRow>) -> Option<String> {
        if self.failed {
            return None;
        }
        let mut note = None;
        match &mut self.reader {
            Some(reader) => reader.push(bytes),
            None => {
                if self.unknown.is_empty() {
                    self.unknown_start = start;
                }
                self.unknown.extend_from_slice(bytes);
                let Some(at) = first_mtr(&self.unknown, self.unknown_start) else {
                    if self.unknown.len() < SYNC_MAX {
                        return None;
                    }
                    self.failed = true;
                    return Some("no mini-transaction begins here".to_owned());
                };
                let lsn = Lsn(self.unknown_start.0 + at as u64);
                if at > 0 {
                    note = Some(format!(
                        "{at} bytes of a mini-transaction that began before this WAL"
                    ));
                }
                let mut reader = MtrReader::new(lsn);
                reader.push(self.unknown.get(at..).unwrap_or_default());
                self.unknown = Vec::new();
                self.reader = Some(reader);
            }
        }
        let reader = self.reader.as_mut()?;
        loop {
            match reader.next() {
                Ok(None) => return note,
                Ok(Some(mtr)) => out.extend(row(&mtr, self.args)),
                Err(e) => {
                    self.failed = true;
                    return Some(e.to_string());
                }
            }
        }
    }
}

/// The beginning of the first whole mini-transaction.
fn first_mtr(bytes: &[u8], start: Lsn) -> Option<usize> {
    let is_one = |at: &usize| {
        let rest = bytes.get(*at..).unwrap_or_default();
        let lsn = Lsn(start.0 + *at as u64);
        matches!(parse_mtr(rest, lsn), Ok(ParseStep::Mtr(_)))
    };
    (0..bytes.len()).find(is_one)
}

/// The row of a mini-transaction; none when it has no record of the wanted page.
fn row(mtr: &Mtr<'_>, args: &WalArgs) -> Option<MtrRow> {
    let mut records = VecDeque::new();
    let mut count = 0;
    let wanted = |page: PageId| args.page.is_none_or(|only| only == page);
    for record in mtr.records() {
        let record = match record {
            Ok(record) => record,
            Err(e) => {
                records.push_back(RecordLine {
                    page: None,
                    kind: "?".to_owned(),
                    bytes: 0,
                    offset: None,
                    length: None,
                    text: e.to_string(),
                });
                break;
            }
        };
        count += 1;
        if wanted(record.page) && (args.records || args.page.is_some()) {
            let mut line = RecordLine::of(&record);
            line.page = Some(record.page.to_string());
            records.push_back(line);
        }
    }
    let nothing = args.page.is_some() && records.is_empty();
    (!nothing).then(|| MtrRow {
        start_lsn: mtr.start_lsn().0,
        end_lsn: mtr.end_lsn().0,
        count,
        records: records.into(),
    })
}

/// The report for people.
pub fn text(r: &WalReport) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "positions {}..{}, epoch {}, redo to LSN {}\n",
        r.first, r.end, r.epoch, r.lsn
    );
    let head = ["POSITION", "EPOCH", "SEQ", "LSN", "TIME", "WHAT"];
    let dash = |n: Option<u64>| n.map_or("-".to_owned(), |n| n.to_string());
    let mut rows: Vec<Vec<String>> = vec![head.iter().map(|h| (*h).to_owned()).collect()];
    for e in &r.entries {
        let what = match (e.end_lsn, &e.operation) {
            (Some(end), _) => format!("redo, {} bytes to LSN {end}", e.bytes),
            (None, Some(operation)) => format!("{} {operation}", e.kind),
            (None, None) => e.kind.to_owned(),
        };
        rows.push(vec![
            e.position.to_string(),
            e.epoch.to_string(),
            dash(e.seq),
            dash(e.lsn),
            e.time.clone().unwrap_or_else(|| "-".to_owned()),
            what,
        ]);
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|n| {
            rows.iter()
                .map(|row| row[n].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut entries = r.entries.iter();
    for (n, row) in rows.iter().enumerate() {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        let Some(entry) = (n > 0).then(|| entries.next()).flatten() else {
            continue;
        };
        if let Some(note) = &entry.note {
            let _ = writeln!(out, "    {note}");
        }
        for m in &entry.mtrs {
            let _ = writeln!(
                out,
                "    mtr {}..{}, {} record{}",
                m.start_lsn,
                m.end_lsn,
                m.count,
                if m.count == 1 { "" } else { "s" }
            );
            for record in &m.records {
                let _ = writeln!(out, "        {}", record.line());
            }
        }
    }
    if let Some(fault) = &r.fault {
        let _ = writeln!(out, "\nthe rest cannot be read: {fault}");
    }
    if let Some(next) = r.next {
        let _ = writeln!(out, "\nthere are more entries: --from {next}");
    }
    out.trim_end().to_owned()
}
