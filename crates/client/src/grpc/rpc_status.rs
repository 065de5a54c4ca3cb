//! The gRPC status in the headers or trailers of a response, or in a page answer.

use crate::status::Status;
use http::HeaderMap;
use std::fmt;

/// The status codes of the gRPC specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // described in pageserver.proto
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

    /// Whether a stream that ended with this code may be opened again. This
    /// includes the codes that proxies and HTTP/2 libraries use for a broken
    /// connection.
    pub fn retry_stream(self) -> bool {
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

/// A code with its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcStatus {
    /// The status code.
    pub code: Code,
    /// The server's message; empty if it sent none.
    pub message: String,
}

impl RpcStatus {
    /// The status in the headers or the trailers of a response; `None` if they
    /// contain none.
    pub fn from_headers(headers: &HeaderMap) -> Option<RpcStatus> {
        let number = headers.get("grpc-status")?;
        let number = number.to_str().ok().and_then(|text| text.parse().ok());
        let message = headers
            .get("grpc-message")
            .map(|m| percent_decode(m.as_bytes()));
        Some(RpcStatus {
            code: number.map_or(Code::Unknown, Code::from_number),
            message: message.unwrap_or_default(),
        })
    }

    /// The status of a response whose HTTP status is not 200. The other end is a
    /// proxy, or not a gRPC server.
    pub fn from_http(status: http::StatusCode) -> RpcStatus {
        let code = match status.as_u16() {
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        RpcStatus {
            code,
            message: format!("HTTP status {status}"),
        }
    }
}

impl fmt::Display for RpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{} ({})", self.message, self.code)
        }
    }
}

/// Decodes `grpc-message`, which is percent-encoded UTF-8. Invalid escapes are
/// kept.
fn percent_decode(text: &[u8]) -> String {
    let digit = |at: usize| text.get(at).and_then(|&b| (b as char).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
