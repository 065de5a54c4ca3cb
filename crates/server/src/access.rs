//! Authentication and authorization of callers by their tokens, and the audit log.

use crate::branch::registry::{BranchRef, Branches};
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::project::lease_of;
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Status;
use xylem_ambient::{Clock, Entropy};
use xylem_proto::TOKEN_KEY;
use xylem_tokens::{Claims, Refused, Right, RightOn, Ring, Scope, Stamp};
use xylem_types::{BranchId, BranchName, Epoch};

mod audit;

pub(crate) use audit::{Audit, Entry};

/// How often the files of the ring are looked at, so how long a token that was revoked is
/// still accepted.
const LOOK: Duration = Duration::from_secs(1);

/// How often the files are also looked at in that time because a token names a key that is
/// not known. Whoever has no token can cause that.
const LOOKS_FOR_KEYS_MAX: u32 = 20;

/// The number of tokens whose signature need not be verified again.
const VERIFIED_MAX: usize = 256;

/// The longest token that is looked at, in bytes. Ours have some 500.
const TOKEN_BYTES_MAX: usize = 8 << 10;

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
    dir: PathBuf,
    current: RwLock<Arc<Read>>,
    looked: Mutex<Looked>,
    /// Claims whose signatures were verified, by token, with the number of the ring that
    /// did so: what an earlier one has verified says nothing about the present one.
    verified: Cache<String, (u64, Arc<Claims>)>,
    clock: Clock,
    entropy: Entropy,
}

/// The ring as it was read for the `number`th time.
struct Read {
    number: u64,
    ring: Ring,
}

struct Looked {
    at: Instant,
    stamp: Stamp,
    /// Since then, for a key.
    for_keys: u32,
    /// Why the ring could not be read the last time; it is reported once.
    fault: String,
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
        let stamp = Ring::stamp(&dir).map_err(failed)?;
        let ring = Ring::open(&dir).map_err(failed)?;
        Ok(Access {
            keys: Some(Keys {
                current: RwLock::new(Arc::new(Read { number: 0, ring })),
                looked: Mutex::new(Looked {
                    at: config.clock.instant(),
                    stamp,
                    for_keys: 0,
                    fault: String::new(),
                }),
                verified: Cache::new(VERIFIED_MAX),
                clock: config.clock.clone(),
                entropy: config.entropy.clone(),
                dir,
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
        let current = keys.current();
        let ring = &current.ring;
        let rights = vec![RightOn {
            can: Right::Write,
            on: Scope::Id(id.to_string()),
        }];
        ring.claims(COMPUTE, rights, &keys.clock, &keys.entropy)
            .and_then(|claims| {
                ring.sign(&Claims {
                    epoch: Some(epoch.0),
                    exp: by.0.as_ref().and_then(|by| by.exp),
                    parent: by.0.as_ref().map(|by| by.jti.clone()),
                    ..claims
                })
            })
            .map_err(|error| Status::internal(format!("no token for the compute: {error}")))
    }
}

impl Keys {
    /// The ring, at most [`LOOK`] old. One caller looks at the files; others go on with
    /// what is there.
    fn current(&self) -> Arc<Read> {
        if let Some(mut looked) = self.looked.try_lock()
            && self.clock.since(looked.at) >= LOOK
        {
            looked.at = self.clock.instant();
            looked.for_keys = 0;
            self.look(&mut looked);
        }
        Arc::clone(&self.current.read())
    }

    /// The ring, if somebody has looked since a key was not found in it.
    fn current_for_key(&self) -> Arc<Read> {
        if let Some(mut looked) = self.looked.try_lock()
            && looked.for_keys < LOOKS_FOR_KEYS_MAX
        {
            looked.for_keys += 1;
            self.look(&mut looked);
        }
        Arc::clone(&self.current.read())
    }

    fn claims(&self, token: &[u8]) -> Result<Arc<Claims>, Refused> {
        let token = std::str::from_utf8(token).map_err(|_| Refused::Malformed)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        let mut current = self.current();
        if let Some((number, claims)) = self.verified.get(token)
            && number == current.number
        {
            // All but the signature.
            current.ring.check(&claims, &self.clock)?;
            return Ok(claims);
        }
        let claims = match current.ring.verify(token, &self.clock) {
            // The key may be new.
            Err(Refused::UnknownKey) => {
                current = self.current_for_key();
                current.ring.verify(token, &self.clock)?
            }
            verified => verified?,
        };
        let claims = Arc::new(claims);
        let verified = (current.number, Arc::clone(&claims));
        self.verified.insert(token.to_owned(), verified);
        Ok(claims)
    }

    /// Reads the ring anew if its files have changed.
    fn look(&self, looked: &mut Looked) {
        let read = Ring::stamp(&self.dir).and_then(|stamp| {
            if stamp == looked.stamp {
                return Ok(None);
            }
            Ok(Some((Ring::open(&self.dir)?, stamp)))
        });
        let fault = read.as_ref().err().map(ToString::to_string);
        let fault = fault.unwrap_or_default();
        let new_fault = fault != looked.fault;
        looked.fault = fault;
        match read {
            Ok(None) => {}
            Ok(Some((ring, stamp))) => {
                let mut current = self.current.write();
                let number = current.number + 1;
                *current = Arc::new(Read { number, ring });
                looked.stamp = stamp;
                tracing::info!(dir = %self.dir.display(), "read the keys of tokens anew");
            }
            Err(error) if new_fault => {
                tracing::error!(%error, "cannot read the keys of tokens; those read before stay in force");
            }
            Err(_) => {}
        }
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
