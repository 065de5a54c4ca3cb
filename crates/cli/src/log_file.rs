//! Log files of mariadbd and the server: their ends, and the errors in them.

use crate::failure::Failure;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The most bytes of a log file that are read.
const TAIL_BYTES_MAX: u64 = 256 << 10;

/// The end of a log file, from byte `from` on.
pub fn read(path: &Path, from: u64) -> String {
    let mut text = Vec::new();
    let done = std::fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        // A log that is shorter than it was has been replaced: all of it counts.
        let from = if from > length { 0 } else { from };
        file.seek(SeekFrom::Start(
            from.max(length.saturating_sub(TAIL_BYTES_MAX)),
        ))?;
        file.take(TAIL_BYTES_MAX).read_to_end(&mut text)
    });
    if done.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// The most lines that are shown.
const LINES_MAX: usize = 12;

/// The lines of a log (from byte `from` on) that most likely say why its
/// writer did not start: the last errors if it wrote any, else its last lines.
pub fn last_words(path: &Path, from: u64) -> String {
    let text = read(path, from);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let bad = errors(&lines);
    quote(if bad.is_empty() { &lines } else { &bad })
}

/// The errors in the log file of a process that ran and died, from byte `from`
/// on. Without errors the process was probably killed, which the text then says.
pub fn last_errors(path: &Path, from: u64) -> String {
    let text = read(path, from);
    let bad = errors(&text.lines().collect::<Vec<_>>());
    if bad.is_empty() {
        return format!("  (no error in {}: perhaps it was killed)", path.display());
    }
    quote(&bad)
}

fn errors<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    // What a panic says stands in the line after it.
    let panic = |at: usize| at > 0 && lines[at - 1].contains("panicked at");
    let all = lines.iter().enumerate();
    all.filter(|(at, line)| is_error_line(line) || panic(*at))
        .map(|(_, line)| *line)
        .collect()
}

fn quote(lines: &[&str]) -> String {
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    let quoted: Vec<String> = last.iter().map(|line| format!("  | {line}")).collect();
    quoted.join("\n")
}

/// Whether a log line of mariadbd or of the server reports an error.
pub fn is_error_line(line: &str) -> bool {
    const SIGNS: [&str; 7] = [
        "[ERROR]",
        " ERROR ",
        "ERROR: ",
        "\"level\":\"ERROR\"",
        "panicked at",
        "got signal ",
        "Assertion ",
    ];
    line.starts_with("error:") || SIGNS.iter().any(|sign| line.contains(sign))
}

/// The error `what`, with the last words of the log file from byte `log_from` on.
pub fn died(what: &str, log: &Path, log_from: u64) -> anyhow::Error {
    let words = last_words(log, log_from);
    let words = if words.is_empty() {
        "  (its log file is empty)".to_owned()
    } else {
        words
    };
    Failure::new(
        format!("{what}; its log file says:\n{words}"),
        format!("see the whole log file, {}", log.display()),
    )
}
