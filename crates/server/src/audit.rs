//! The audit log: a line of JSON for each call that manages a project, done or refused.
//! Several processes may append to one file.

use parking_lot::Mutex;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use xylem_ambient::Clock;

/// The outcome of a call whose caller went away.
pub const UNKNOWN: &str = "unknown";

/// The longest text of a caller in a line, in characters.
const TEXT_MAX: usize = 256;

/// An audit log that is open.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    file: Mutex<File>,
    clock: Clock,
}

/// A call, for its line. Texts are cut after 256 characters.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The name of the caller's token; empty: none is required.
    pub who: &'a str,
    /// The id of the caller's token.
    pub token: &'a str,
    /// The caller's address.
    pub from: Option<String>,
    /// Its name.
    pub call: &'a str,
    /// The branch, as the caller names it.
    pub on: &'a str,
    /// `ok`, the error's name, or [`UNKNOWN`].
    pub outcome: &'a str,
    /// The error.
    pub message: &'a str,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    who: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    call: &'a str,
    on: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

impl AuditLog {
    /// Opens the log at `path` for appending. It is for its owner only.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, clock: Clock) -> io::Result<AuditLog> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        Ok(AuditLog {
            path: path.to_owned(),
            file: Mutex::new(file),
            clock,
        })
    }

    /// Writes a line. A log that cannot be written is reported in the process's own log,
    /// and fails no call.
    pub fn write(&self, call: &Call<'_>) {
        let line = Line {
            time: crate::time::now(&self.clock).to_string(),
            who: call.who,
            token: call.token,
            from: call.from.clone(),
            call: call.call,
            on: short(call.on),
            outcome: call.outcome,
            message: short(call.message),
        };
        let written = serde_json::to_vec(&line)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                // One call: lines of several threads and processes do not mix.
                self.file.lock().write_all(&line)
            });
        if let Err(error) = written {
            tracing::error!(%error, path = %self.path.display(), "cannot write the audit log");
        }
    }
}

fn short(text: &str) -> &str {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
