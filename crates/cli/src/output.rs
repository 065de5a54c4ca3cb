//! Output on stdout: one JSON document, or text for people.

use crate::app::App;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;

/// Prints `document` as JSON.
///
/// # Errors
/// When it cannot be written. A reader that went away is not an error.
pub fn json<T: Serialize>(document: &T) -> Result<()> {
    let text =
        serde_json::to_string_pretty(document).context("cannot express the answer as JSON")?;
    text_line(&text)
}

/// Prints `document` as JSON if that is asked for, else its `text`.
///
/// # Errors
/// As [`json`].
pub fn print<T: Serialize>(app: &App, document: &T, text: impl FnOnce() -> String) -> Result<()> {
    match app.json {
        true => json(document),
        false => text_line(&text()),
    }
}

/// Prints `text` and a line break.
///
/// # Errors
/// As [`json`].
pub fn text_line(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// Lays rows out in columns as wide as their widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(head.to_vec())];
    lines.extend(
        rows.iter()
            .map(|row| line(row.iter().map(String::as_str).collect())),
    );
    lines.join("\n")
}

/// A number of bytes for people: `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}
