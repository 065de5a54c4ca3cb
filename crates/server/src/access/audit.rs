//! The audit log: a line of JSON for each call that changes something, or was refused.

use super::Bearer;
use crate::error::ServerError;
use parking_lot::Mutex;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tonic::{Request, Status};
use xylem_ambient::Clock;

/// Writes the log, if there is one.
pub(crate) struct Audit {
    file: Option<(PathBuf, Mutex<File>)>,
    clock: Clock,
}

/// A caller and where it calls from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    bearer: Bearer,
    from: Option<SocketAddr>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    who: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<SocketAddr>,
    call: &'static str,
    on: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
}

impl Origin {
    /// The origin of a request.
    pub(crate) fn of<T>(request: &Request<T>, bearer: Bearer) -> Origin {
        Origin {
            bearer,
            from: request.remote_addr(),
        }
    }
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

    /// Notes the outcome of `call` on the branch `on`. A log that cannot be written is
    /// reported in the server's log, and fails no call.
    pub(crate) fn note<T>(
        &self,
        origin: &Origin,
        call: &'static str,
        on: &str,
        result: &Result<T, Status>,
    ) {
        let Some((path, file)) = &self.file else {
            return;
        };
        let outcome = match result {
            Ok(_) => "ok".to_owned(),
            Err(status) => format!("{:?}", status.code()),
        };
        let (who, token) = origin.bearer.who();
        let line = Line {
            time: crate::time::timestamp(self.clock.now_us())
                .map(|time| time.to_string())
                .unwrap_or_default(),
            who,
            token,
            from: origin.from,
            call,
            on,
            outcome: &outcome,
            message: result.as_ref().err().map_or("", Status::message),
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
