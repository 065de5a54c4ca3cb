//! Tokens, as documents.

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use xylem_ambient::Clock;
use xylem_tokens::{Issued, RightOn, Ring};

/// A token that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenReport {
    /// Its id, by which it is revoked.
    pub id: String,
    /// Its owner's name, for people.
    pub name: String,
    /// The rights that it has.
    #[schema(value_type = Vec<RightOnSchema>)]
    pub rights: Vec<RightOn>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it ends, RFC 3339; `null`: never.
    pub expires: Option<String>,
    /// Whether it is accepted.
    pub state: TokenState,
    /// The token itself: only when it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Whether a token is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// It is.
    Valid,
    /// Its time is over.
    Expired,
    /// It was revoked, or its key is gone.
    Revoked,
}

/// A right on some branches.
#[derive(ToSchema)]
#[schema(as = RightOn)]
#[allow(dead_code, reason = "a schema of xylem_tokens::RightOn")]
pub struct RightOnSchema {
    /// The right; each one includes those before it: read, write, admin.
    can: RightSchema,
    /// A branch's name, the beginning of names and `*`, or `*` for all branches.
    #[schema(
        max_length = 200,
        pattern = "^([*]|[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*[*]?)$"
    )]
    on: String,
}

/// A right.
#[derive(ToSchema)]
#[schema(as = Right, rename_all = "lowercase")]
#[allow(dead_code, reason = "a schema of xylem_tokens::Right")]
pub enum RightSchema {
    /// Look up, and run read-only computes.
    Read,
    /// Start and stop the branch's compute.
    Write,
    /// Create, change and remove branches.
    Admin,
}

/// A change of the keys that sign tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RotatedReport {
    /// Number of older keys that were removed.
    pub dropped_keys: usize,
    /// Computes that run with a token of a key that was removed.
    pub computes_to_restart: Vec<String>,
}

impl TokenState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenState::Valid => "valid",
            TokenState::Expired => "expired",
            TokenState::Revoked => "revoked",
        }
    }
}

impl TokenReport {
    /// The report of a token that `ring` has signed.
    ///
    /// # Errors
    /// When one of its times is out of range.
    pub fn new(issued: Issued, ring: &Ring, clock: &Clock) -> Result<TokenReport> {
        let time = |seconds: u64| -> Result<String> {
            let seconds = i64::try_from(seconds).context("a time out of range")?;
            Ok(Timestamp::from_second(seconds)?.to_string())
        };
        let ended = |end: u64| end <= clock.now_us() / 1_000_000;
        Ok(TokenReport {
            state: match issued.expires {
                _ if ring.is_revoked(&issued) => TokenState::Revoked,
                Some(end) if ended(end) => TokenState::Expired,
                _ => TokenState::Valid,
            },
            created: time(issued.created)?,
            expires: issued.expires.map(time).transpose()?,
            id: issued.id,
            name: issued.name,
            rights: issued.rights,
            token: None,
        })
    }
}
