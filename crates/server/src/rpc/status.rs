//! Converts errors to gRPC statuses, as the table in pageserver.proto says.

use crate::branch::attach::AttachError;
use crate::branch::binlog::LogError;
use crate::branch::framing::AppendError;
use crate::branch::lifecycle::ManageError;
use crate::branch::live::OpenBranch;
use crate::branch::moment::MomentError;
use crate::branch::registry::BranchRef;
use crate::error::ServerError;
use crate::project::catalog::CatalogError;
use std::io::ErrorKind;
use tonic::Status;
use xylem_pages::{ForkError, ReadError, StoreError};
use xylem_types::Epoch;
use xylem_wal::WalError;

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

/// The branch does not exist.
pub(super) fn no_branch(which: &BranchRef) -> Status {
    Status::not_found(format!("there is no branch {which}"))
}

/// The branch exists but is not open.
pub(super) fn not_open(which: &BranchRef, why: &str) -> Status {
    Status::unavailable(format!("branch {which} is not open: {why}"))
}

/// The branch was removed. The compute ends, as it does when it is fenced.
pub(super) fn removed(branch: &str) -> Status {
    Status::failed_precondition(format!("branch {branch} was removed"))
}

/// Why the server ended a stream on `branch`.
pub(super) fn ended(branch: &OpenBranch) -> Status {
    match branch.why_ended() {
        _ if branch.is_removed() => removed(&branch.name()),
        Some(why) => Status::unavailable(format!("{why}; retry")),
        None => stopping(),
    }
}

/// The server has been told to stop.
pub(super) fn stopping() -> Status {
    Status::unavailable("the server is stopping; retry")
}

/// Another server owns the project.
pub(super) fn lost(why: &CatalogError) -> Status {
    Status::unavailable(format!("{why}; retry at the other server"))
}

/// A WAL refused or failed an operation.
pub(super) fn of_wal(error: &WalError, branch: &str) -> Status {
    let message = format!("branch {branch}: {error}");
    match error {
        WalError::Fenced { given, current } => wrong_epoch(*given, *current, branch),
        WalError::NotBegun { .. } => Status::failed_precondition(message),
        WalError::OutOfOrder { .. } | WalError::TooLarge { .. } => {
            Status::invalid_argument(message)
        }
        WalError::NoSuchPosition(_) => Status::out_of_range(message),
        WalError::Io { source, .. } => of_io(source, message),
        WalError::Corrupt(_) => Status::data_loss(message),
        WalError::Closed | WalError::Superseded { .. } => Status::unavailable(message),
    }
}

/// Frames were not appended.
pub(super) fn of_append(error: &AppendError, branch: &str) -> Status {
    match error {
        AppendError::Wal(error) => of_wal(error, branch),
        AppendError::Redo { .. } | AppendError::Stored(_) => {
            Status::data_loss(format!("branch {branch}: {error}"))
        }
    }
}

/// A read could not be answered.
pub(super) fn of_read(error: &ReadError, branch: &str) -> Status {
    let message = format!("branch {branch}: {error}");
    match error {
        ReadError::NoSuchTablespace { .. } | ReadError::BeyondEnd { .. } => {
            Status::not_found(message)
        }
        ReadError::TooOld { .. }
        | ReadError::TimeOutside { .. }
        | ReadError::TimeUnclear { .. } => Status::out_of_range(message),
        ReadError::NotReached { .. } => Status::deadline_exceeded(message),
        ReadError::Corrupt { .. } | ReadError::Stopped(_) => Status::data_loss(message),
        ReadError::Io { source, .. } => of_io(source, message),
        ReadError::NotInMemory => Status::unavailable(message),
    }
}

/// An attach did not succeed.
pub(super) fn of_attach(error: &AttachError, branch: &str) -> Status {
    match error {
        AttachError::Wal(error) => of_wal(error, branch),
        AttachError::Read(error) => of_read(error, branch),
        AttachError::Renamed
        | AttachError::Held
        | AttachError::Crowded
        | AttachError::Behind { .. } => Status::unavailable(format!("branch {branch}: {error}")),
        AttachError::NotDurable { .. } => {
            Status::deadline_exceeded(format!("branch {branch}: {error}"))
        }
    }
}

/// A moment cannot be resolved.
pub(super) fn of_moment(error: &MomentError) -> Status {
    match error {
        MomentError::Outside { .. } => Status::out_of_range(error.to_string()),
        MomentError::Empty(_) => Status::failed_precondition(error.to_string()),
        MomentError::Read { branch, source }
        | MomentError::Log {
            branch,
            source: LogError::Read(source),
        } => of_read(source, branch),
        MomentError::Log { source, .. } => match source {
            LogError::Invalid { .. } => Status::data_loss(error.to_string()),
            LogError::None => Status::failed_precondition(error.to_string()),
            _ => Status::out_of_range(error.to_string()),
        },
    }
}

/// A change of branches failed.
pub(super) fn of_manage(error: &ManageError) -> Status {
    let message = error.to_string();
    match error {
        ManageError::NoBranch(_) => Status::not_found(message),
        ManageError::Exists(_) => Status::already_exists(message),
        ManageError::Moment(error) => of_moment(error),
        ManageError::Needed { .. } | ManageError::ParentClosed { .. } | ManageError::Refused(_) => {
            Status::failed_precondition(message)
        }
        ManageError::Fork { name, source } => match source {
            ForkError::Read(error) => of_read(error, name),
            ForkError::Store(error) => of_store(error, message),
            ForkError::Crowded { .. } => Status::failed_precondition(message),
        },
        ManageError::Open(ServerError::Wal { branch, source }) => of_wal(source, branch),
        ManageError::Open(ServerError::Store { source, .. }) => of_store(source, message),
        ManageError::Open(_) => Status::internal(message),
        ManageError::Catalog(error) => match error {
            CatalogError::Lost { .. } => Status::failed_precondition(message),
            CatalogError::Io { source, .. } => of_io(source, message),
            CatalogError::Damaged { .. } => Status::data_loss(message),
            CatalogError::Unsettled { .. } => Status::unavailable(message),
            CatalogError::Invalid(_) => Status::internal(message),
        },
        ManageError::Fence { branch, source } => of_wal(source, branch),
        ManageError::Leases(_) => Status::resource_exhausted(message),
        ManageError::NotBackedUp { .. }
        | ManageError::Unsettled(_)
        | ManageError::NotOpen { .. } => Status::unavailable(message),
        ManageError::Stopping => stopping(),
    }
}

fn of_store(error: &StoreError, message: String) -> Status {
    match error {
        StoreError::Io { source, .. } => of_io(source, message),
        StoreError::Taken(_) | StoreError::HasForks { .. } => Status::failed_precondition(message),
        StoreError::Corrupt(_) | StoreError::Redo { .. } => Status::data_loss(message),
        StoreError::Wal(_) => Status::unavailable(message),
    }
}

pub(super) fn of_io(error: &std::io::Error, message: String) -> Status {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Status::resource_exhausted(message),
        _ => Status::unavailable(message),
    }
}
