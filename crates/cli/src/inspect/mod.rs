//! The reports of `xylem inspect`.

pub mod layer;
pub mod layers;
pub mod manifest;
mod overlay;
pub mod page;
pub mod wal;

use serde::Serialize;
use std::fmt::Write;
use xylem_redo::Records;
use xylem_types::Lsn;

/// A record in words.
#[derive(Debug, Serialize)]
pub struct RecordLine {
    /// Its page, where that is not said elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
    /// As InnoDB calls it.
    pub kind: String,
    /// Its bytes in the WAL.
    pub bytes: u64,
    /// The first byte of the page that it writes, where it says so.
    pub offset: Option<u32>,
    /// How many bytes it writes.
    pub length: Option<u32>,
    /// The effect, in words.
    pub text: String,
}

impl RecordLine {
    /// The record in words.
    pub fn of(record: &xylem_redo::Record<'_>) -> RecordLine {
        let range = record.op.range();
        RecordLine {
            page: None,
            kind: record.kind.to_string(),
            bytes: record.bytes.len() as u64,
            offset: range.map(|(offset, _)| offset),
            length: range.map(|(_, length)| length),
            text: record.op.to_string(),
        }
    }

    /// A line.
    pub fn line(&self) -> String {
        match &self.page {
            Some(page) => format!("{page} {} {}", self.kind, self.text),
            None => format!("{} {}", self.kind, self.text),
        }
    }
}

/// The records of a run, and why the rest of it cannot be read.
fn records(run: &[u8], lsn: Lsn) -> (Vec<RecordLine>, Option<String>) {
    let mut out = Vec::new();
    for record in Records::of_run(run, lsn) {
        match record {
            Ok(record) => out.push(RecordLine::of(&record)),
            Err(e) => return (out, Some(e.to_string())),
        }
    }
    (out, None)
}

/// `bytes` in lines of an offset, 16 bytes, and their text. A `*` stands for further
/// lines of zeros.
pub fn hexdump(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut left_out = false;
    let mut zeros_before = false;
    for (n, line) in bytes.chunks(16).enumerate() {
        let zeros = line.iter().all(|b| *b == 0);
        if zeros && zeros_before {
            if !left_out {
                out.push_str("*\n");
            }
            left_out = true;
            continue;
        }
        (zeros_before, left_out) = (zeros, false);
        let _ = write!(out, "{:08x} ", n * 16);
        for at in 0..16 {
            if at % 8 == 0 {
                out.push(' ');
            }
            match line.get(at) {
                Some(b) => {
                    let _ = write!(out, "{b:02x} ");
                }
                None => out.push_str("   "),
            }
        }
        let text = line.iter().map(|b| match b {
            0x20..0x7f => char::from(*b),
            _ => '.',
        });
        let _ = writeln!(out, " |{}|", text.collect::<String>());
    }
    let _ = writeln!(out, "{:08x}", bytes.len());
    out
}

/// `text` with every line indented.
fn indent(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    let lines = text.lines().map(|line| format!("{pad}{line}\n"));
    lines.collect()
}
