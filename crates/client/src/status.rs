//! The results of calls: the codes of `enum xylem_status`, and errors that
//! combine a code with a message.

use std::fmt;

/// `enum xylem_status` of the C header, value for value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// The library is not initialised, or was shut down.
    Disabled = 1,
    /// There is no such tablespace or page.
    NotFound = 2,
    /// The server was silent for the retry limit.
    Timeout = 3,
    /// A newer compute owns the branch.
    Fenced = 4,
    /// An argument is invalid.
    Invalid = 5,
    /// The server's data failed a checksum, or the server failed to process it.
    Corrupt = 6,
    /// Any other failure.
    Error = 7,
    /// The library was shut down before the call completed.
    Cancelled = 8,
}

impl Status {
    /// The code in the C interface.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The status with this code; [`Status::Error`] for an unknown code.
    pub const fn from_code(code: i32) -> Status {
        match code {
            0 => Status::Ok,
            1 => Status::Disabled,
            2 => Status::NotFound,
            3 => Status::Timeout,
            4 => Status::Fenced,
            5 => Status::Invalid,
            6 => Status::Corrupt,
            8 => Status::Cancelled,
            _ => Status::Error,
        }
    }

    /// The severity, which decides the status of a batch of pages.
    const fn severity(self) -> u8 {
        match self {
            Status::Ok => 0,
            Status::NotFound => 1,
            Status::Cancelled => 2,
            Status::Disabled => 3,
            Status::Timeout => 4,
            Status::Invalid => 5,
            Status::Error => 6,
            Status::Corrupt => 7,
            Status::Fenced => 8,
        }
    }

    /// The more severe of the two statuses.
    pub const fn worst(self, other: Status) -> Status {
        if other.severity() > self.severity() {
            other
        } else {
            self
        }
    }
}

/// A status other than OK, with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Never [`Status::Ok`].
    pub status: Status,
    /// The failure: what, where and why, in lower case.
    pub message: String,
}

impl Error {
    /// Combines a status with a message.
    pub fn new(status: Status, message: impl Into<String>) -> Error {
        Error {
            status,
            message: message.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
