//! The content of a token.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use xylem_types::BranchName;

/// A right on a branch. Each one includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Read pages and files, describe the branch, run read-only computes on it.
    Read,
    /// Become the branch's compute.
    Write,
    /// Create, rename, restore and remove it.
    Admin,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Admin => "admin",
        })
    }
}

/// The branches that a right is about. Its text is `*` for all of them, a name, the
/// beginning of names and `*` (`ci/*`), or `id:` and a branch's id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// Every branch, and what is no branch's: metrics, diagnosis, scrubbing.
    All,
    /// The branch that has this name now.
    Name(BranchName),
    /// The branches whose names begin so.
    Prefix(String),
    /// The branch with this id, whatever its name is.
    Id(String),
}

impl Scope {
    /// Whether it has the branch of this name and id.
    pub fn has(&self, name: &str, id: Option<&str>) -> bool {
        match self {
            Scope::All => true,
            Scope::Name(own) => own.as_str() == name,
            Scope::Prefix(prefix) => name.starts_with(prefix.as_str()),
            Scope::Id(own) => id == Some(own.as_str()),
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Scope, String> {
        if let Some(id) = text.strip_prefix("id:") {
            let valid = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            return match valid {
                true => Ok(Scope::Id(id.to_owned())),
                false => Err(format!("{text:?} is not id: and a branch's id")),
            };
        }
        let Some(prefix) = text.strip_suffix('*') else {
            return BranchName::parse(text)
                .map(Scope::Name)
                .map_err(|error| error.to_string());
        };
        if prefix.is_empty() {
            return Ok(Scope::All);
        }
        // Some branch can have a name that begins so.
        match BranchName::parse(&format!("{prefix}a")) {
            Ok(_) => Ok(Scope::Prefix(prefix.to_owned())),
            Err(error) => Err(format!(
                "no branch has a name that begins with {prefix:?}: {error}"
            )),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(text: String) -> Result<Scope, String> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> String {
        scope.to_string()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::All => f.write_str("*"),
            Scope::Name(name) => name.fmt(f),
            Scope::Prefix(prefix) => write!(f, "{prefix}*"),
            Scope::Id(id) => write!(f, "id:{id}"),
        }
    }
}

/// A right on some branches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RightOn {
    /// The right.
    pub can: Right,
    /// The branches.
    pub on: Scope,
}

/// The content of a token. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The project's id: that of its ring of keys.
    pub project: String,
    /// The token's id, by which it is revoked.
    pub jti: String,
    /// Whose token it is: a name for people.
    pub sub: String,
    /// When it was made.
    pub iat: u64,
    /// When it ends; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// The rights on branches: it has the sum of them.
    pub rights: Vec<RightOn>,
    /// The only epoch in which it is of use, if it is a compute's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// The id of the token with which the compute attached, if it is a compute's: that
    /// token's revocation is also the end of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl Claims {
    /// Whether it allows `right` on the branch of this name and id.
    pub fn allows(&self, right: Right, name: &str, id: Option<&str>) -> bool {
        self.rights
            .iter()
            .any(|given| given.can >= right && given.on.has(name, id))
    }

    /// Whether it allows `right` on the whole project.
    pub fn allows_all(&self, right: Right) -> bool {
        self.rights
            .iter()
            .any(|given| given.can >= right && given.on == Scope::All)
    }
}
