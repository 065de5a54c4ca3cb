//! Errors of tokens and of their keys.

use std::path::PathBuf;

/// A token is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not a token of this kind.
    #[error("it is not a token of Xylem")]
    Malformed,
    /// No key of the project has signed it.
    #[error("no key of this project has signed it")]
    UnknownKey,
    /// Its signature is wrong.
    #[error("its signature is wrong")]
    Signature,
    /// It is another project's.
    #[error("it is another project's")]
    OtherProject,
    /// It has expired.
    #[error("it expired {seconds} s ago")]
    Expired {
        /// Seconds since then.
        seconds: u64,
    },
    /// It was revoked.
    #[error("it was revoked")]
    Revoked,
}

/// A ring of keys cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// A file cannot be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The attempt: read, write.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file has other content than it should.
    #[error("{} is not what it should be: {message}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The difference.
        message: String,
    },
    /// There is no key.
    #[error("{} has no key", .0.display())]
    Empty(PathBuf),
    /// A token cannot be signed.
    #[error("cannot sign a token: {0}")]
    Sign(String),
}

impl RingError {
    pub(crate) fn io(
        doing: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> RingError {
        let path = path.to_owned();
        move |source| RingError::Io {
            doing,
            path,
            source,
        }
    }

    pub(crate) fn content(path: &std::path::Path, message: impl ToString) -> RingError {
        RingError::Content {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }
}
