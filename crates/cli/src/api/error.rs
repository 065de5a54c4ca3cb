//! Errors as problem documents (RFC 9457).

use crate::failure::{self, Failure, Kind};
use axum::Json;
use axum::body::to_bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of a problem document.
pub const PROBLEM: &str = "application/problem+json";

/// The prefix of the types of problems.
const TYPE: &str = "urn:xylem:problem:";

/// How soon a caller may try again, in seconds, where that makes sense.
const RETRY_AFTER: &str = "1";

/// The longest text of a refusal that is made a problem document, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// An error, as a problem document (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem: `urn:xylem:problem:` and `failed`, `invalid`, `not-found`,
    /// `conflict`, `unauthenticated`, `denied`, `unavailable` or `request`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The failure, with its place and its reason.
    pub detail: String,
    /// A remedy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The command line ends with status 2 (wrong usage), not 1.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub usage: bool,
    /// The request certainly has changed nothing, because something was in the way: the same
    /// request may do better.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "failed",
        Kind::Invalid => "invalid",
        Kind::NotFound => "not-found",
        Kind::Conflict => "conflict",
        Kind::Unauthenticated => "unauthenticated",
        Kind::Denied => "denied",
        Kind::Unavailable => "unavailable",
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl Problem {
    /// The problem of an error of a command.
    pub fn new(error: &anyhow::Error) -> Problem {
        let kind = failure::kind(error);
        Problem {
            hint: failure::hint(error),
            usage: failure::is_usage(error),
            unchanged: failure::is_unchanged(error),
            ..Problem::of(kind, format!("{error:#}"))
        }
    }

    /// A problem of this kind.
    pub fn of(kind: Kind, detail: impl Into<String>) -> Problem {
        let status = status(kind);
        Problem {
            kind: format!("{TYPE}{}", name(kind)),
            ..Problem::at(status, detail)
        }
    }

    /// A request that is not one, as `status` says.
    pub fn at(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("{TYPE}request"),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            hint: String::new(),
            usage: false,
            unchanged: false,
        }
    }

    /// The same, with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = hint.into();
        self
    }

    /// The error that a command line shows for it.
    pub fn into_error(self) -> anyhow::Error {
        let kinds = [
            Kind::Invalid,
            Kind::NotFound,
            Kind::Conflict,
            Kind::Unauthenticated,
            Kind::Denied,
            Kind::Unavailable,
        ];
        let is = |kind: &Kind| self.kind.strip_prefix(TYPE) == Some(name(*kind));
        let kind = kinds.into_iter().find(is).unwrap_or(Kind::Failed);
        match self.usage {
            true => Failure::usage_of(kind, self.detail, self.hint),
            false => Failure::of(kind, self.detail, self.hint),
        }
    }
}

impl From<Problem> for anyhow::Error {
    fn from(problem: Problem) -> anyhow::Error {
        problem.into_error()
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Problem {
        Problem::new(&error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let denied = self.kind == format!("{TYPE}{}", name(Kind::Denied));
        let mut response = (status, Json(&self)).into_response();
        // For the audit log.
        response.extensions_mut().insert(self);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        // RFC 6750, section 3.
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"xylem\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if denied {
            let challenge = "Bearer realm=\"xylem\", error=\"insufficient_scope\"";
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static(challenge),
            );
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

/// Makes what the framework refuses by itself, in plain text or without a body, a problem
/// document.
pub async fn document(response: Response) -> Response {
    let status = response.status();
    if !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes() == PROBLEM.as_bytes()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = to_bytes(body, TEXT_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let detail = match text.is_empty() {
        true => status.canonical_reason().unwrap_or_default().to_owned(),
        false => text,
    };
    let mut response = Problem::at(status, detail).into_response();
    for (name, value) in &parts.headers {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
