//! Callers by their tokens, and the audit log of what they do.

use super::error::Problem;
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::failure::Kind;
use crate::keys;
use anyhow::{Context, Result};
use axum::http::{HeaderMap, header};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use xylem_server::audit::{AuditLog, Call};
use xylem_tokens::{Claims, Right, Watched};

/// Decides whether callers are admitted.
#[derive(Debug)]
pub struct Access {
    keys: Watched,
    audit: AuditLog,
}

/// A caller whose token was accepted.
#[derive(Clone)]
pub struct Caller {
    /// The content of its token.
    pub claims: Arc<Claims>,
    /// Its token, by which the server decides what it may see.
    pub token: String,
    /// Its address.
    pub from: SocketAddr,
}

impl Access {
    /// Reads the keys of the project, and opens its audit log.
    ///
    /// # Errors
    /// When they cannot be read, or the log cannot be written.
    pub fn open(app: &App) -> Result<Access> {
        let log = app.state.audit_log();
        Ok(Access {
            keys: Watched::open(&keys::dir(&app.state), app.clock.clone())?,
            audit: AuditLog::open(&log, app.clock.clone())
                .with_context(|| format!("cannot open {}", log.display()))?,
        })
    }

    /// The caller that sent these headers.
    ///
    /// # Errors
    /// When it has no token, or one that is not valid now.
    pub fn caller(&self, headers: &HeaderMap, from: SocketAddr) -> Result<Caller, Problem> {
        let given = headers.get(header::AUTHORIZATION).map(|h| h.as_bytes());
        let Some(token) = given.and_then(bearer).filter(|token| !token.is_empty()) else {
            return Err(Problem::of(
                Kind::Unauthenticated,
                "the API requires a token: send it as Authorization: Bearer TOKEN",
            )
            .hint("`xylem token create` makes one; the owner's is in the state directory"));
        };
        let refused = |why: String| {
            Problem::of(
                Kind::Unauthenticated,
                format!("the token is refused: {why}"),
            )
        };
        let claims = self
            .keys
            .claims(token)
            .map_err(|why| refused(why.to_string()))?;
        if claims.epoch.is_some() {
            return Err(Problem::of(
                Kind::Denied,
                "this is a compute's token, which is for pages and redo alone",
            ));
        }
        Ok(Caller {
            claims,
            token: String::from_utf8_lossy(token).into_owned(),
            from,
        })
    }

    /// Refuses a caller whose token is not valid any more.
    ///
    /// # Errors
    /// When it has expired or was revoked.
    pub fn still_valid(&self, caller: &Caller) -> Result<(), Problem> {
        match self.still(caller) {
            true => Ok(()),
            false => Err(Problem::of(
                Kind::Unauthenticated,
                "the token is not valid any more",
            )),
        }
    }

    /// Whether the caller's token is still valid.
    pub fn still(&self, caller: &Caller) -> bool {
        self.keys.claims(caller.token.as_bytes()).is_ok()
    }

    /// Writes a line of the audit log.
    pub fn audit(&self, caller: &Caller, call: &str, on: &str, outcome: Result<(), &Problem>) {
        let kind = |problem: &Problem| {
            let name = problem.kind.rsplit(':').next();
            name.unwrap_or_default().to_owned()
        };
        self.audit.write(&Call {
            who: &caller.claims.sub,
            token: &caller.claims.jti,
            from: Some(caller.from.to_string()),
            call,
            on,
            outcome: &outcome.map_or_else(kind, |()| "ok".to_owned()),
            message: outcome.err().map_or("", |problem| &problem.detail),
        });
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("claims", &self.claims)
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// The token of an `Authorization` header; the scheme's case does not matter (RFC 9110).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = header.split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then(|| token.trim_ascii())
}

impl Caller {
    /// Whether it has `right` on the branch of a compute. A read-only compute counts as the
    /// branch that it shows, as it does for the server.
    pub fn has(&self, right: Right, name: &ComputeName) -> bool {
        self.claims.allows(right, name.branch().as_str(), None)
    }

    /// Refuses a caller without `right` on a branch.
    ///
    /// # Errors
    /// Does not say whether there is such a branch.
    pub fn may(&self, right: Right, name: &ComputeName) -> Result<(), Problem> {
        match self.has(right, name) {
            true => Ok(()),
            false => Err(self.denied(right, &format!("branch {name}"))),
        }
    }

    /// Refuses a caller without `right` on the whole project.
    ///
    /// # Errors
    /// When it has less.
    pub fn may_all(&self, right: Right) -> Result<(), Problem> {
        match self.claims.allows_all(right) {
            true => Ok(()),
            false => Err(self.denied(right, "all branches")),
        }
    }

    fn denied(&self, right: Right, on: &str) -> Problem {
        let detail = format!(
            "the token of {} does not allow {right} on {on}",
            self.claims.sub
        );
        Problem::of(Kind::Denied, detail)
            .hint("`xylem token create` makes a token with other rights")
    }
}
