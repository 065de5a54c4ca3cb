//! Errors for people: what failed, a hint, and the exit status.

use std::fmt;

/// An error with a hint.
#[derive(Debug)]
pub struct Failure {
    what: String,
    hint: String,
    usage: bool,
}

impl Failure {
    /// Something failed: exit status 1.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Failure {
            what: what.into(),
            hint: hint.into(),
            usage: false,
        }
        .into()
    }

    /// Wrong usage: exit status 2.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        Failure {
            what: what.into(),
            hint: hint.into(),
            usage: true,
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

/// The exit status that `error` stands for.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    let usage = error
        .chain()
        .filter_map(|e| e.downcast_ref::<Failure>())
        .any(|f| f.usage);
    if usage { 2 } else { 1 }
}

/// `error` as it is printed: its causes, then the hints.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error:#}");
    let hints = error.chain().filter_map(|e| e.downcast_ref::<Failure>());
    for hint in hints
        .map(|f| f.hint.as_str())
        .filter(|hint| !hint.is_empty())
    {
        text.push_str("\n  hint: ");
        text.push_str(hint);
    }
    text
}
