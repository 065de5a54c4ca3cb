//! The server's answer to a request that failed, and the ends of connections.

use crate::status::Status;
use std::fmt;
use xylem_wire::{Fault, Invalid};

/// The status codes of gRPC, which the compute protocol uses, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // described in docs/protocol.md
pub enum Code {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl Code {
    /// The code with this number; [`Code::Unknown`] for any other number.
    pub fn from_number(number: u32) -> Code {
        match number {
            0 => Code::Ok,
            1 => Code::Cancelled,
            3 => Code::InvalidArgument,
            4 => Code::DeadlineExceeded,
            5 => Code::NotFound,
            7 => Code::PermissionDenied,
            8 => Code::ResourceExhausted,
            9 => Code::FailedPrecondition,
            10 => Code::Aborted,
            11 => Code::OutOfRange,
            12 => Code::Unimplemented,
            13 => Code::Internal,
            14 => Code::Unavailable,
            15 => Code::DataLoss,
            16 => Code::Unauthenticated,
            _ => Code::Unknown,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Cancelled => "CANCELLED",
            Code::Unknown => "UNKNOWN",
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Code::NotFound => "NOT_FOUND",
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Aborted => "ABORTED",
            Code::OutOfRange => "OUT_OF_RANGE",
            Code::Unimplemented => "UNIMPLEMENTED",
            Code::Internal => "INTERNAL",
            Code::Unavailable => "UNAVAILABLE",
            Code::DataLoss => "DATA_LOSS",
            Code::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// Whether a request that failed with this code may succeed later.
    pub fn retry_request(self) -> bool {
        matches!(
            self,
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted
        )
    }

    /// Whether a connection that ended with this code may be opened again.
    pub fn retry_connection(self) -> bool {
        self.retry_request()
            || matches!(
                self,
                Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal
            )
    }

    /// The result of a request that failed with this code.
    pub fn status(self) -> Status {
        match self {
            Code::Ok => Status::Ok,
            Code::NotFound => Status::NotFound,
            Code::FailedPrecondition => Status::Fenced,
            // The server failed to produce the data. Neither a retry nor the end
            // of this compute would help.
            Code::DataLoss | Code::Internal => Status::Corrupt,
            code if code.retry_request() => Status::Timeout,
            _ => Status::Error,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A code with the server's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status code.
    pub code: Code,
    /// The server's message; empty if it sent none.
    pub message: String,
}

impl From<Fault<'_>> for Refusal {
    fn from(fault: Fault<'_>) -> Refusal {
        Refusal {
            code: Code::from_number(fault.code),
            message: fault.message.to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{} ({})", self.message, self.code)
        }
    }
}

/// Why a connection has ended, or was not established.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The server ended it, and said why.
    Refused(Refusal),
    /// It broke, or the peer does not speak the protocol.
    Broken(String),
    /// The server sent nothing for this many milliseconds, though a request waited.
    Silent(u128),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Refused(refusal) => refusal.fmt(f),
            Closed::Broken(why) => f.write_str(why),
            Closed::Silent(ms) => write!(f, "no answer within {ms} ms"),
        }
    }
}

impl From<Invalid> for Closed {
    fn from(invalid: Invalid) -> Closed {
        Closed::Broken(format!("the page server's answer is invalid: {invalid}"))
    }
}

impl From<std::io::Error> for Closed {
    fn from(error: std::io::Error) -> Closed {
        Closed::Broken(error.to_string())
    }
}
