//! The audit log: a line of JSON for each call that manages a branch, done or refused.

use super::Bearer;
use crate::connections::Peer;
use crate::error::ServerError;
use parking_lot::Mutex;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tonic::{Request, Status};
use xylem_ambient::Clock;

/// Writes the log, if there is one.
pub(crate) struct Audit {
    file: Option<(PathBuf, Mutex<File>)>,
    clock: Clock,
}

/// A call that is under way. Its line is written when it ends, or when its caller goes
/// away, after which a change that has begun is still finished.
pub(crate) struct Entry<'a> {
    audit: &'a Audit,
    bearer: Bearer,
    from: Option<Peer>,
    call: &'static str,
    /// The branch, as the caller names it.
    pub on: String,
    ended: bool,
}

/// The outcome of a call whose caller went away.
const UNKNOWN: &str = "unknown";

/// The longest text of a caller in a line, in characters.
const TEXT_MAX: usize = 256;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    who: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    call: &'static str,
    on: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

impl Audit {
    /// Opens the log at `path` for appending; `None`: writes none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(path: Option<&Path>, clock: Clock) -> Result<Audit, ServerError> {
        let open = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(path)
                .map_err(|source| {
                    ServerError::io(
                        format!("cannot open --audit-log {}", path.display()),
                        source,
                    )
                })
        };
        let file = match path {
            Some(path) => Some((path.to_owned(), Mutex::new(open(path)?))),
            None => None,
        };
        Ok(Audit { file, clock })
    }

    /// Begins the entry of a call about the branch `on`.
    pub(crate) fn begin<T>(
        &self,
        request: &Request<T>,
        bearer: &Bearer,
        call: &'static str,
        on: &str,
    ) -> Entry<'_> {
        Entry {
            audit: self,
            bearer: bearer.clone(),
            from: request.extensions().get::<Peer>().copied(),
            call,
            on: on.to_owned(),
            ended: false,
        }
    }

    /// Writes a line. A log that cannot be written is reported in the server's log, and
    /// fails no call.
    fn write(&self, entry: &Entry<'_>, outcome: &str, message: &str) {
        let Some((path, file)) = &self.file else {
            return;
        };
        let (who, token) = entry.bearer.who();
        let line = Line {
            time: crate::time::now(&self.clock).to_string(),
            who,
            token,
            from: entry.from.map(|peer| peer.to_string()),
            call: entry.call,
            on: short(&entry.on),
            outcome,
            message: short(message),
        };
        let written = serde_json::to_vec(&line)
            .map_err(std::io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                // One call: lines of several threads do not mix.
                file.lock().write_all(&line)
            });
        if let Err(error) = written {
            tracing::error!(%error, path = %path.display(), "cannot write the audit log");
        }
    }
}

fn short(text: &str) -> &str {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

impl Entry<'_> {
    /// Writes the outcome.
    pub(crate) fn end<T>(mut self, result: &Result<T, Status>) {
        self.ended = true;
        match result {
            Ok(_) => self.audit.write(&self, "ok", ""),
            Err(status) => {
                let outcome = format!("{:?}", status.code());
                self.audit.write(&self, &outcome, status.message());
            }
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.audit.write(self, UNKNOWN, "the caller went away");
        }
    }
}
