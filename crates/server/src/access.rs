//! Authentication and authorization of callers by their tokens, and the audit log.

use crate::branch::registry::{BranchRef, Branches};
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::project::lease_of;
use std::sync::Arc;
use tonic::Status;
use xylem_ambient::{Clock, Entropy};
use xylem_proto::TOKEN_KEY;
use xylem_tokens::{Claims, Right, RightOn, Scope, Watched};
use xylem_types::{BranchId, BranchName, Epoch};

mod audit;

pub(crate) use audit::{Audit, Entry};

/// The name of a compute's token.
const COMPUTE: &str = "compute";

/// Decides whether callers are admitted.
pub struct Access {
    /// `None`: everybody may do everything.
    keys: Option<Keys>,
    /// The log of calls that manage branches.
    pub(crate) audit: Audit,
}

struct Keys {
    ring: Watched,
    clock: Clock,
    entropy: Entropy,
}

/// A caller whose token was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(Option<Arc<Claims>>);

impl Access {
    /// Reads the keys that the configuration names, and opens the log.
    ///
    /// # Errors
    /// When they cannot be read, or the log cannot be written.
    pub fn open(config: &ServerConfig) -> Result<Access, ServerError> {
        let audit = Audit::open(config.audit_log.as_deref(), config.clock.clone())?;
        let Some(dir) = config.keys_dir.clone() else {
            tracing::warn!(
                "keys_dir is not set: whoever reaches this server's ports can read and change all branches"
            );
            return Ok(Access { keys: None, audit });
        };
        let failed = |error: xylem_tokens::RingError| {
            ServerError::Keys(format!("--keys-dir {}: {error}", dir.display()))
        };
        let ring = Watched::open(&dir, config.clock.clone()).map_err(failed)?;
        Ok(Access {
            keys: Some(Keys {
                ring,
                clock: config.clock.clone(),
                entropy: config.entropy.clone(),
            }),
            audit,
        })
    }

    /// The caller that sent `token`.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it is missing or not valid now.
    pub(crate) fn bearer(&self, token: Option<&[u8]>) -> Result<Bearer, Status> {
        let Some(keys) = &self.keys else {
            return Ok(Bearer(None));
        };
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Err(Status::unauthenticated(format!(
                "this server requires a token: send one in metadata {TOKEN_KEY}"
            )));
        };
        let claims = keys
            .ring
            .claims(token)
            .map_err(|why| Status::unauthenticated(format!("the token is refused: {why}")))?;
        Ok(Bearer(Some(claims)))
    }

    /// A token for the compute that has `epoch` on branch `id`; empty where none are
    /// required. It is of use for as long as its epoch is the newest, and ends with the
    /// token of `by`, which has attached.
    pub(crate) fn compute_token(
        &self,
        by: &Bearer,
        id: BranchId,
        epoch: Epoch,
    ) -> Result<String, Status> {
        let Some(keys) = &self.keys else {
            return Ok(String::new());
        };
        let rights = vec![RightOn {
            can: Right::Write,
            on: Scope::Id(id.to_string()),
        }];
        let signed = keys.ring.with_ring(|ring| {
            let claims = ring.claims(COMPUTE, rights, &keys.clock, &keys.entropy)?;
            ring.sign(&Claims {
                epoch: Some(epoch.0),
                exp: by.0.as_ref().and_then(|by| by.exp),
                parent: by.0.as_ref().map(|by| by.jti.clone()),
                ..claims
            })
        });
        signed.map_err(|error| Status::internal(format!("no token for the compute: {error}")))
    }
}

impl Bearer {
    /// Refuses a caller without `right` on a branch.
    ///
    /// # Errors
    /// PERMISSION_DENIED, which does not say whether there is such a branch.
    pub(crate) fn may(&self, right: Right, name: &BranchName) -> Result<(), Status> {
        self.refuse_unless(right, name, |claims| {
            claims.allows(right, name.as_str(), None)
        })
    }

    /// As [`Bearer::may`], for the branch that `which` names, if there is one. A lease is
    /// its parent's, and a compute may have its own.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn may_on(
        &self,
        right: Right,
        branches: &Branches,
        which: &BranchRef,
    ) -> Result<(), Status> {
        self.refuse_unless(right, which, |claims| match branches.place(which) {
            Some(place) => {
                claims.allows(right, &place.name, Some(&place.id.to_string()))
                    || claims.allows(right, &place.name, Some(&place.own_id.to_string()))
            }
            None => match which {
                BranchRef::Name(name) => claims.allows(right, lease_of(name).unwrap_or(name), None),
                BranchRef::Id(id) => claims.allows(right, "", Some(&id.to_string())),
            },
        })
    }

    /// The message has what the caller said, and no more.
    fn refuse_unless(
        &self,
        right: Right,
        on: &dyn std::fmt::Display,
        allowed: impl FnOnce(&Claims) -> bool,
    ) -> Result<(), Status> {
        match &self.0 {
            Some(claims) if !allowed(claims) => Err(Status::permission_denied(format!(
                "the token of {} does not allow {right} on branch {on}",
                claims.sub
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a caller without `right` on the whole project.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub(crate) fn may_all(&self, right: Right) -> Result<(), Status> {
        match &self.0 {
            Some(claims) if !claims.allows_all(right) => Err(Status::permission_denied(format!(
                "the token of {} does not allow {right} on all branches",
                claims.sub
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a call outside of the token's epoch, if it has one.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub(crate) fn may_in(&self, epoch: Option<Epoch>) -> Result<(), Status> {
        match (self.epoch(), epoch) {
            (Some(own), given) if given != Some(own) => Err(Status::permission_denied(format!(
                "the token is for calls in epoch {own}, and the call is in {}",
                given.map_or_else(|| "none".to_owned(), |given| given.to_string())
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a compute's token, with which nothing is managed.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub(crate) fn manages(&self) -> Result<(), Status> {
        match self.epoch() {
            Some(_) => Err(Status::permission_denied(
                "this is a compute's token, which is for pages and redo alone",
            )),
            None => Ok(()),
        }
    }

    /// Whether it is a compute, whose token is for one epoch.
    pub(crate) fn is_computes(&self) -> bool {
        self.epoch().is_some()
    }

    fn epoch(&self) -> Option<Epoch> {
        self.0.as_ref()?.epoch.map(Epoch)
    }

    /// The name and the id of its token, for the log.
    fn who(&self) -> (&str, &str) {
        match &self.0 {
            Some(claims) => (&claims.sub, &claims.jti),
            None => ("", ""),
        }
    }
}
