//! Which answers of a store are failures that pass, that an operator can mend,
//! or that stay.

use super::{Failure, ObjectError, Reason};
use object_store::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

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

fn described(failure: Failure) -> ObjectError {
    let Failure::Final { reason, source, .. } = failure else {
        panic!("{failure:?}");
    };
    ObjectError {
        reason,
        operation: "get",
        url: "test://".to_owned(),
        name: "a/b".to_owned(),
        attempts: 1,
        elapsed: Duration::ZERO,
        outcome_unknown: false,
        source,
    }
}

#[test]
fn an_operator_can_mend_credentials_buckets_and_disks() {
    let check = |error: Error, expected: ErrorKind| {
        let failure = Failure::from(error);
        assert!(
            matches!(failure, Failure::Final { mendable: true, .. }),
            "{failure:?}"
        );
        let error = described(failure);
        assert_eq!(error.kind(), expected, "{error}");
        let text = error.to_string();
        let advised = ["check ", "mount it writable", "make room"];
        assert!(advised.iter().any(|advice| text.contains(advice)), "{text}");
    };
    let denied = ErrorKind::PermissionDenied;
    check(
        refused(|path, source| Error::PermissionDenied { path, source }),
        denied,
    );
    check(
        refused(|path, source| Error::Unauthenticated { path, source }),
        denied,
    );
    check(
        refused(|path, source| Error::NotFound { path, source }),
        ErrorKind::NotFound,
    );
    check(http("401 Unauthorized", ""), denied);
    for code in ["RequestTimeTooSkewed", "SignatureDoesNotMatch"] {
        check(
            http("403 Forbidden", &format!("<Code>{code}</Code>")),
            denied,
        );
    }
    for code in super::CREDENTIALS {
        check(
            http("400 Bad Request", &format!("<Code>{code}</Code>")),
            denied,
        );
    }
    for (kind, advice) in [
        (ErrorKind::PermissionDenied, "check the permissions"),
        (ErrorKind::ReadOnlyFilesystem, "mount it writable"),
        (ErrorKind::StorageFull, "make room"),
    ] {
        check(from_system(kind), kind);
        let text = described(Failure::from(from_system(kind))).to_string();
        assert!(text.contains(advice), "{text}");
    }
    check(from_system(ErrorKind::NotADirectory), ErrorKind::Other);
}

#[test]
fn a_busy_or_silent_store_passes() {
    let silent = Error::Generic {
        store: "S3",
        source: "connection reset".into(),
    };
    for error in [
        http("400 Bad Request", "<Code>RequestTimeout</Code>"),
        http("408 Request Timeout", ""),
        http("429 Too Many Requests", ""),
        http("503 Slow Down", ""),
        silent,
    ] {
        let failure = Failure::from(error);
        assert!(matches!(failure, Failure::Transient { .. }), "{failure:?}");
    }
}

#[test]
fn other_refusals_stay() {
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
        let failure = Failure::from(error);
        assert!(
            matches!(
                failure,
                Failure::Final {
                    mendable: false,
                    ..
                }
            ),
            "{failure:?}"
        );
    }
}

#[test]
fn a_missing_object_is_an_answer_to_a_lookup_alone() {
    let missing = || refused(|path, source| Error::NotFound { path, source });
    assert!(Failure::of_lookup(missing()).is_answer());
    assert!(!Failure::from(missing()).is_answer());
    assert_eq!(described(missing().into()).reason, Reason::NotFound);
}
