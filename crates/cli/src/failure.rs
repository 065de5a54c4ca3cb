//! Errors for people: what failed, a hint, and the exit status.

use std::fmt;

/// An error with a hint.
#[derive(Debug)]
pub struct Failure {
    what: String,
    hint: String,
    kind: Kind,
    usage: bool,
    /// The command certainly has changed nothing.
    unchanged: bool,
}

/// The kind of an error, which programs can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something does not work that should.
    Failed,
    /// A value is of no use.
    Invalid,
    /// There is no such branch, compute or token.
    NotFound,
    /// The present state does not allow it: a name is taken, a branch has child branches.
    Conflict,
    /// The caller's token is not valid.
    Unauthenticated,
    /// The caller's token does not allow it.
    Denied,
    /// The server does not answer now. Another attempt may succeed.
    Unavailable,
}

impl Failure {
    /// Something failed: exit status 1.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Failure::of(Kind::Failed, what, hint)
    }

    /// As [`Failure::new`], of this kind.
    pub fn of(kind: Kind, what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Failure {
            what: what.into(),
            hint: hint.into(),
            kind,
            usage: false,
            unchanged: false,
        }
        .into()
    }

    /// Wrong usage: exit status 2.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Failure::usage_of(Kind::Invalid, what, hint)
    }

    /// As [`Failure::usage`], of this kind.
    pub fn usage_of(kind: Kind, what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Failure {
            what: what.into(),
            hint: hint.into(),
            kind,
            usage: true,
            unchanged: false,
        }
        .into()
    }

    /// As [`Failure::of`], of a command that could not begin.
    pub fn unchanged(
        kind: Kind,
        what: impl Into<String>,
        hint: impl Into<String>,
    ) -> anyhow::Error {
        Failure {
            what: what.into(),
            hint: hint.into(),
            kind,
            usage: false,
            unchanged: true,
        }
        .into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

fn failures(error: &anyhow::Error) -> impl Iterator<Item = &Failure> {
    error.chain().filter_map(|e| e.downcast_ref::<Failure>())
}

/// Whether `error` is wrong usage.
pub fn is_usage(error: &anyhow::Error) -> bool {
    failures(error).any(|f| f.usage)
}

/// Whether the command that has failed certainly has changed nothing.
pub fn is_unchanged(error: &anyhow::Error) -> bool {
    failures(error).any(|f| f.unchanged)
}

/// The exit status that `error` stands for.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    if is_usage(error) { 2 } else { 1 }
}

/// The kind of `error`.
pub fn kind(error: &anyhow::Error) -> Kind {
    failures(error).next().map_or(Kind::Failed, |f| f.kind)
}

/// The hints of `error`, one a line.
pub fn hint(error: &anyhow::Error) -> String {
    let hints = failures(error).map(|f| f.hint.as_str());
    let hints: Vec<&str> = hints.filter(|hint| !hint.is_empty()).collect();
    hints.join("\n")
}

/// `error` as it is printed: its causes, then the hints.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error:#}");
    for hint in hint(error).lines() {
        text.push_str("\n  hint: ");
        text.push_str(hint);
    }
    text
}
