//! Which answers of a store are waited out.

use super::{hint, kind, may_pass};
use object_store::Error;
use std::io::{self, ErrorKind};

fn http(status: &str, body: &str) -> Error {
    let text = format!("Server returned non-2xx status code: {status}: {body}");
    Error::Generic {
        store: "S3",
        source: text.into(),
    }
}

fn from_system(kind: ErrorKind) -> Error {
    Error::Generic {
        store: "LocalFileSystem",
        source: Box::new(io::Error::from(kind)),
    }
}

fn refused(make: fn(String, Box<dyn std::error::Error + Send + Sync>) -> Error) -> Error {
    make("a/b".to_owned(), "refused".into())
}

#[test]
fn what_somebody_can_mend_is_waited_out() {
    let denied = Some(ErrorKind::PermissionDenied);
    let check = |error: Error, expected: Option<ErrorKind>| {
        assert!(may_pass(&error), "{error}");
        if let Some(expected) = expected {
            assert_eq!(kind(&error), expected, "{error}");
            assert!(hint(&error).is_some(), "{error}");
        }
    };
    check(
        refused(|path, source| Error::PermissionDenied { path, source }),
        denied,
    );
    check(
        refused(|path, source| Error::Unauthenticated { path, source }),
        denied,
    );
    let none = Some(ErrorKind::NotFound);
    check(
        refused(|path, source| Error::NotFound { path, source }),
        none,
    );
    check(http("401 Unauthorized", ""), denied);
    check(
        http("403 Forbidden", "<Code>RequestTimeTooSkewed</Code>"),
        denied,
    );
    check(
        http("403 Forbidden", "<Code>SignatureDoesNotMatch</Code>"),
        denied,
    );
    check(http("400 Bad Request", "<Code>ExpiredToken</Code>"), denied);
    check(http("400 Bad Request", "<Code>InvalidToken</Code>"), denied);
    check(http("400 Bad Request", "<Code>RequestTimeout</Code>"), None);
    check(http("429 Too Many Requests", ""), None);
    check(http("503 Slow Down", ""), None);
    check(from_system(ErrorKind::PermissionDenied), denied);
    check(
        from_system(ErrorKind::ReadOnlyFilesystem),
        Some(ErrorKind::ReadOnlyFilesystem),
    );
}

#[test]
fn what_fails_alike_for_ever_is_not() {
    let source = || "refused".into();
    for error in [
        http("400 Bad Request", "<Code>InvalidArgument</Code>"),
        http("405 Method Not Allowed", ""),
        http("413 Payload Too Large", ""),
        Error::NotSupported { source: source() },
        Error::Precondition {
            path: String::new(),
            source: source(),
        },
    ] {
        assert!(!may_pass(&error), "{error}");
    }
}
