//! Why a request to the object store failed, and what to do.

#[cfg(test)]
mod tests;

use object_store::Error as StoreError;
use std::error::Error as StdError;
use std::io;
use std::time::Duration;

/// The kinds of failure that callers tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No such object, or no such bucket.
    NotFound,
    /// Something else has the name.
    Exists,
    /// The credentials are missing, wrong, or not allowed to do this.
    Denied,
    /// The store did not answer, or said that it cannot now, until the time
    /// for retries was over.
    Unavailable,
    /// The object ends before the range.
    TooShort,
    /// The store refuses the request, which cannot succeed as it is; or the
    /// system failed it, if the store is a directory.
    Refused,
}

impl Reason {
    fn io_kind(self) -> io::ErrorKind {
        match self {
            Reason::NotFound => io::ErrorKind::NotFound,
            Reason::Exists => io::ErrorKind::AlreadyExists,
            Reason::Denied => io::ErrorKind::PermissionDenied,
            Reason::Unavailable => io::ErrorKind::TimedOut,
            Reason::TooShort => io::ErrorKind::UnexpectedEof,
            Reason::Refused => io::ErrorKind::Other,
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Reason::NotFound => {
                "check that the bucket exists and that nothing else removes objects from it"
            }
            Reason::Exists => "another writer took the name; nothing was changed",
            Reason::Denied => {
                "check that the credentials have not expired and may read, write, list and delete, and that this machine's clock is right (docs/object-storage.md)"
            }
            Reason::Unavailable => {
                "check the network and the store's state; it is safe to try again"
            }
            Reason::TooShort => "the object is not what was written",
            Reason::Refused => "check the store's settings (docs/object-storage.md)",
        }
    }
}

/// A request to the object store that failed for good.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", self.context(), self.why())]
pub struct ObjectError {
    /// The kind of failure.
    pub reason: Reason,
    /// The operation: `get`, `create`, `upload`, ….
    pub operation: &'static str,
    /// The bucket.
    pub url: String,
    /// The object or folder, below the bucket's prefix.
    pub name: String,
    /// How often it was tried.
    pub attempts: u32,
    /// How long that took.
    pub elapsed: Duration,
    /// Whether a write may have happened, or may still happen, all the same.
    pub outcome_unknown: bool,
    /// The last attempt's failure.
    pub source: Box<dyn StdError + Send + Sync>,
}

fn retried(attempts: u32, elapsed: Duration) -> String {
    if attempts < 2 {
        return String::new();
    }
    format!(" ({attempts} attempts in {:.1} s)", elapsed.as_secs_f64())
}

impl ObjectError {
    /// The error that an [`io::Error`] of this crate carries.
    pub fn of(error: &io::Error) -> Option<&ObjectError> {
        error.get_ref()?.downcast_ref()
    }

    /// The operation and its object.
    pub fn context(&self) -> String {
        format!("{} {}/{}", self.operation, self.url, self.name)
    }

    /// Why it failed, and what to do about it.
    pub fn why(&self) -> String {
        let retried = retried(self.attempts, self.elapsed);
        format!("{}{retried}; {}", self.source, self.advice())
    }

    fn advice(&self) -> &'static str {
        match (self.reason, self.kind()) {
            (Reason::Refused, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                "make room in the directory"
            }
            (Reason::Refused, io::ErrorKind::ReadOnlyFilesystem) => "mount it writable again",
            (Reason::Refused, io::ErrorKind::PermissionDenied) => {
                "check the permissions of the directory"
            }
            (reason, _) => reason.advice(),
        }
    }

    /// The kind of an [`io::Error`] that says the same.
    pub fn kind(&self) -> io::ErrorKind {
        match self.reason {
            Reason::Refused => system_kind(&*self.source).unwrap_or(io::ErrorKind::Other),
            reason => reason.io_kind(),
        }
    }
}

/// The system's error of a store that is a directory, if an operator can mend
/// it.
fn system_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let mut at = Some(error);
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            let kind = io.kind();
            let mendable = [
                PermissionDenied,
                QuotaExceeded,
                ReadOnlyFilesystem,
                StorageFull,
            ];
            return mendable.contains(&kind).then_some(kind);
        }
        at = e.source();
    }
    None
}

impl From<ObjectError> for io::Error {
    fn from(error: ObjectError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

/// Whether a write that failed with `error` may have happened all the same.
/// Writing the same bytes under the same name again settles it.
pub fn outcome_unknown(error: &io::Error) -> bool {
    ObjectError::of(error).is_some_and(|e| e.outcome_unknown)
}

/// One attempt that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Worth another attempt. `sent`: the store may have done it.
    Transient {
        source: Box<dyn StdError + Send + Sync>,
        sent: bool,
    },
    /// Another attempt would fail alike, unless an operator mends the cause,
    /// which only `mendable` failures allow.
    Final {
        reason: Reason,
        source: Box<dyn StdError + Send + Sync>,
        mendable: bool,
    },
}

impl Failure {
    pub(crate) fn timeout(after: Duration) -> Failure {
        Failure::Transient {
            source: format!("no answer within {:.1} s", after.as_secs_f64()).into(),
            sent: true,
        }
    }

    pub(crate) fn last(reason: Reason, what: impl Into<String>) -> Failure {
        Failure::Final {
            reason,
            source: what.into().into(),
            mendable: false,
        }
    }

    /// The failure of a request that asks whether an object is there: that it
    /// is not is the answer then, and no other attempt is made.
    pub(crate) fn of_lookup(error: StoreError) -> Failure {
        match Failure::from(error) {
            Failure::Final {
                reason: Reason::NotFound,
                source,
                ..
            } => Failure::Final {
                reason: Reason::NotFound,
                source,
                mendable: false,
            },
            other => other,
        }
    }

    /// Whether the failure is an answer about the objects that the store has.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(
            self,
            Failure::Final {
                reason: Reason::NotFound | Reason::Exists | Reason::TooShort,
                mendable: false,
                ..
            }
        )
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let (reason, mendable) = match &error {
            StoreError::NotFound { .. } => (Reason::NotFound, true),
            StoreError::AlreadyExists { .. }
            | StoreError::Precondition { .. }
            | StoreError::NotModified { .. } => (Reason::Exists, false),
            StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                (Reason::Denied, true)
            }
            // A directory's errors are definite: the same request fails again.
            StoreError::Generic { store, .. }
                if *store == "LocalFileSystem" || *store == "InMemory" =>
            {
                (Reason::Refused, true)
            }
            StoreError::Generic { .. } => match http_status(&error) {
                Some(408 | 425 | 429 | 500..) => return transient(error),
                // S3's answer to a request that arrived too slowly.
                Some(400) if error.to_string().contains("RequestTimeout") => {
                    return transient(error);
                }
                Some(401 | 403) => (Reason::Denied, true),
                Some(400) if CREDENTIALS.iter().any(|c| error.to_string().contains(c)) => {
                    (Reason::Denied, true)
                }
                Some(_) => (Reason::Refused, false),
                None => return transient(error),
            },
            StoreError::JoinError { .. } => return transient(error),
            _ => (Reason::Refused, false),
        };
        Failure::Final {
            reason,
            source: error.into(),
            mendable,
        }
    }
}

/// Codes with which S3 and its kin answer 400 when the credentials have run out
/// or the clock is wrong.
const CREDENTIALS: [&str; 5] = [
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestExpired",
    "RequestTimeTooSkewed",
];

fn transient(error: StoreError) -> Failure {
    let sent = !never_sent(&error);
    Failure::Transient {
        source: error.into(),
        sent,
    }
}

/// Whether the request surely did not reach the store.
fn never_sent(error: &StoreError) -> bool {
    use object_store::client::{HttpError, HttpErrorKind};
    let mut at: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = at {
        if let Some(http) = e.downcast_ref::<HttpError>() {
            return http.kind() == HttpErrorKind::Connect;
        }
        at = e.source();
    }
    false
}

/// The HTTP status in an error. The type that has it is private to
/// `object_store`, so it is read from the message; a test checks that.
fn http_status(error: &StoreError) -> Option<u16> {
    const MARK: &str = "status code: ";
    let text = error.to_string();
    let at = text.find(MARK)? + MARK.len();
    text.get(at..at + 3)?.parse().ok()
}
