//! What a call ends with: the codes of `enum xylem_status`, and errors that
//! carry one with a message.

use std::fmt;

/// `enum xylem_status` of the C header, value for value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Not initialised, or shut down.
    Disabled = 1,
    /// No such tablespace or page.
    NotFound = 2,
    /// The server was gone for the retry limit.
    Timeout = 3,
    /// A newer compute owns the branch.
    Fenced = 4,
    /// An argument makes no sense.
    Invalid = 5,
    /// The server's data failed a checksum, or the server failed on it.
    Corrupt = 6,
    /// Refused in another way.
    Error = 7,
    /// Shutdown came first.
    Cancelled = 8,
}

impl Status {
    /// The code that C sees.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The status with this code, [`Status::Error`] for an unknown one.
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

    /// How bad it is, for the one status that stands for many pages.
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

    /// The worse of the two.
    pub const fn worst(self, other: Status) -> Status {
        if other.severity() > self.severity() {
            other
        } else {
            self
        }
    }
}

/// A status other than OK, and what happened in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Never [`Status::Ok`].
    pub status: Status,
    /// What happened and where, lower case.
    pub message: String,
}

impl Error {
    /// An error with this status and message.
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
