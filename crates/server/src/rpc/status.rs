//! Errors as gRPC statuses: the table in pageserver.proto, in one place.

use crate::branch::AttachError;
use std::io::ErrorKind;
use tonic::Status;
use xylem_pages::ReadError;
use xylem_types::Epoch;
use xylem_wal::LogError;

/// The caller's epoch is not the branch's newest.
pub(super) fn wrong_epoch(given: Epoch, current: Epoch, branch: &str) -> Status {
    Status::failed_precondition(if given < current {
        format!(
            "epoch {given} is refused: epoch {current} owns branch {branch}; another compute has taken it over"
        )
    } else {
        format!(
            "epoch {given} is refused: the newest epoch of branch {branch} is {current}; attach to get one"
        )
    })
}

/// The server has been told to stop.
pub(super) fn stopping() -> Status {
    Status::unavailable("the server is stopping; retry")
}

/// A log refused or failed.
pub(super) fn of_log(error: &LogError, branch: &str) -> Status {
    let message = format!("branch {branch}: {error}");
    match error {
        LogError::Fenced { given, current } => wrong_epoch(*given, *current, branch),
        LogError::NotBegun { .. } => Status::failed_precondition(message),
        LogError::OutOfOrder { .. } | LogError::TooLarge { .. } => {
            Status::invalid_argument(message)
        }
        LogError::NoSuchPosition(_) => Status::out_of_range(message),
        LogError::Io { source, .. } => of_io(source, message),
        LogError::Corrupt(_) => Status::data_loss(message),
        LogError::Closed | LogError::Superseded { .. } => Status::unavailable(message),
    }
}

/// A read could not be answered.
pub(super) fn of_read(error: &ReadError, branch: &str) -> Status {
    let message = format!("branch {branch}: {error}");
    match error {
        ReadError::NoSuchTablespace { .. } | ReadError::BeyondEnd { .. } => {
            Status::not_found(message)
        }
        ReadError::TooOld { .. } => Status::out_of_range(message),
        ReadError::NotReached { .. } => Status::deadline_exceeded(message),
        ReadError::Corrupt { .. } | ReadError::Stopped(_) => Status::data_loss(message),
        ReadError::Io { source, .. } => of_io(source, message),
    }
}

/// An attach did not succeed.
pub(super) fn of_attach(error: &AttachError, branch: &str) -> Status {
    match error {
        AttachError::Log(error) => of_log(error, branch),
        AttachError::Read(error) => of_read(error, branch),
        AttachError::NotDurable { .. } => {
            Status::deadline_exceeded(format!("branch {branch}: {error}"))
        }
    }
}

fn of_io(error: &std::io::Error, message: String) -> Status {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Status::resource_exhausted(message),
        _ => Status::unavailable(message),
    }
}
