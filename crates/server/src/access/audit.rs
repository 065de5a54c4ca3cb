//! The lines of the server's calls in the audit log.

use super::Bearer;
use crate::audit::{AuditLog, Call, UNKNOWN};
use crate::connections::Peer;
use crate::error::ServerError;
use std::path::Path;
use tonic::{Request, Status};
use xylem_ambient::Clock;

/// Writes the log, if there is one.
pub(crate) struct Audit(Option<AuditLog>);

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

impl Audit {
    /// Opens the log at `path` for appending; `None`: writes none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(crate) fn open(path: Option<&Path>, clock: Clock) -> Result<Audit, ServerError> {
        let open = |path: &Path| {
            AuditLog::open(path, clock).map_err(|source| {
                ServerError::io(
                    format!("cannot open --audit-log {}", path.display()),
                    source,
                )
            })
        };
        Ok(Audit(path.map(open).transpose()?))
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
}

impl Entry<'_> {
    /// Writes the outcome.
    pub(crate) fn end<T>(mut self, result: &Result<T, Status>) {
        self.ended = true;
        match result {
            Ok(_) => self.write("ok", ""),
            Err(status) => {
                let outcome = format!("{:?}", status.code());
                self.write(&outcome, status.message());
            }
        }
    }

    fn write(&self, outcome: &str, message: &str) {
        let Some(log) = &self.audit.0 else { return };
        let (who, token) = self.bearer.who();
        log.write(&Call {
            who,
            token,
            from: self.from.map(|peer| peer.to_string()),
            call: self.call,
            on: &self.on,
            outcome,
            message,
        });
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.write(UNKNOWN, "the caller went away");
        }
    }
}
