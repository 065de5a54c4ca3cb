//! The same over HTTP, where `object_store` stands between: a server that
//! answers each request as a script says.
#![allow(clippy::unwrap_used)]

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use xylem_objects::testing::quick;
use xylem_objects::{Bucket, BucketConfig, Created, ObjectError, Reason, outcome_unknown};

/// The server's answers.
enum Answer {
    /// A status, headers, a body.
    Say(u16, &'static str, &'static [u8]),
    /// A status and a body that ends before it should.
    Cut(u16, &'static [u8]),
    /// The connection closes.
    HangUp,
    /// Nothing.
    Silence,
}
use Answer::{Cut, HangUp, Say, Silence};

struct Server {
    port: u16,
    script: Arc<Mutex<VecDeque<Answer>>>,
    /// Methods and paths that were asked.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(script: impl IntoIterator<Item = Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            port: listener.local_addr().unwrap().port(),
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            asked: Arc::default(),
        };
        let (script, asked) = (Arc::clone(&server.script), Arc::clone(&server.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, asked) = (Arc::clone(&script), Arc::clone(&asked));
                std::thread::spawn(move || serve(stream.unwrap(), &script, &asked));
            }
        });
        server
    }

    fn bucket(&self) -> Bucket {
        let mut retry = quick();
        retry.give_up = xylem_objects::GiveUp::After(Duration::from_millis(300));
        retry.attempt_timeout = Duration::from_millis(200);
        let endpoint = format!("http://127.0.0.1:{}", self.port);
        let settings = [
            ("endpoint", endpoint.as_str()),
            ("allow_http", "true"),
            ("access_key_id", "key"),
            ("secret_access_key", "secret"),
        ];
        let config = BucketConfig {
            settings: settings.map(|(k, v)| (k.into(), v.into())).into(),
            retry,
            ..BucketConfig::default()
        };
        Bucket::open("s3://bucket/place", config).unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    script: &Mutex<VecDeque<Answer>>,
    asked: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut len = 0;
    let mut condition = "";
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(n) = line.strip_prefix("content-length:") {
            len = n.trim().parse().unwrap();
        }
        if line == "if-none-match: *" {
            condition = " if absent";
        }
        if line.is_empty() {
            break;
        }
    }
    std::io::copy(&mut reader.by_ref().take(len), &mut std::io::sink()).ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    asked.lock().push(format!("{method} {path}{condition}"));
    let answer = script.lock().pop_front();
    let (status, headers, body, missing) = match answer? {
        Say(status, headers, body) => (status, headers, body, 0),
        Cut(status, body) => (status, "ETag: \"1\"\r\n", body, 1),
        HangUp => return None,
        Silence => {
            let _ = reader.read_line(&mut first);
            return None;
        }
    };
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len() + missing
    );
    stream.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        stream.write_all(body).ok()?;
    }
    Some(())
}

const ETAG: &str = "ETag: \"1\"\r\n";

#[test]
fn a_create_that_was_done_behind_an_error_is_found() {
    for lost in [
        Say(503, "", b"SlowDown"),
        Say(500, "", b""),
        HangUp,
        Silence,
    ] {
        let server = Server::new([
            lost,
            Say(412, "", b"PreconditionFailed"),
            Say(200, ETAG, b"mine"),
            Say(200, ETAG, b"mine"),
        ]);
        let put = server.bucket().put_new("x", &b"mine"[..]).unwrap();
        assert_eq!(put, Created::Done);
        assert_eq!(
            server.asked(),
            [
                "PUT /bucket/place/x if absent",
                "PUT /bucket/place/x if absent",
                "GET /bucket/place/x"
            ]
        );
    }
}

#[test]
fn a_create_that_lost_is_a_conflict() {
    for status in [412, 409] {
        let server = Server::new([Say(status, "", b""), Say(200, ETAG, b"another's")]);
        let put = server.bucket().put_new("x", &b"mine"[..]).unwrap();
        assert_eq!(put, Created::Exists);
        assert_eq!(server.asked().len(), 2, "its size tells");
    }
    let server = Server::new([
        Say(412, "", b""),
        Say(200, ETAG, b"your"),
        Say(200, ETAG, b"your"),
    ]);
    let put = server.bucket().put_new("x", &b"mine"[..]).unwrap();
    assert_eq!(put, Created::Exists);
}

#[test]
fn a_conflict_with_one_that_failed_is_none() {
    // S3 says 409 while another request for the name is in flight.
    let server = Server::new([
        Say(409, "", b"ConditionalRequestConflict"),
        Say(404, "", b""),
        Say(200, ETAG, b""),
    ]);
    let put = server.bucket().put_new("x", &b"mine"[..]).unwrap();
    assert_eq!(put, Created::Done);
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn what_is_denied_or_wrong_is_asked_once() {
    let why = &b"<Error>why</Error>"[..];
    for (status, body, kind) in [
        (403, why, ErrorKind::PermissionDenied),
        (401, why, ErrorKind::PermissionDenied),
        (
            400,
            b"<Code>ExpiredToken</Code>",
            ErrorKind::PermissionDenied,
        ),
        (404, why, ErrorKind::NotFound),
        (400, why, ErrorKind::Other),
        (501, why, ErrorKind::TimedOut),
    ] {
        let server = Server::new((0..100).map(|_| Say(status, "", body)));
        let error = server.bucket().put_new("x", &b"mine"[..]).unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
        let text = error.to_string();
        assert!(text.contains("s3://bucket/place/x"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        match status {
            501 => assert!(server.asked().len() > 2, "the server's failure may pass"),
            _ => assert_eq!(server.asked().len(), 1, "{status}"),
        }
    }
}

#[test]
fn throttling_and_slow_requests_are_tried_again() {
    for (status, body) in [
        (429, &b""[..]),
        (503, b"SlowDown"),
        (408, b""),
        (400, b"<Code>RequestTimeout</Code>"),
    ] {
        let server = Server::new([
            Say(status, "", body),
            Say(status, "", body),
            Say(200, ETAG, b"there"),
        ]);
        assert_eq!(&server.bucket().get("x").unwrap()[..], b"there");
        assert_eq!(server.asked().len(), 3, "{status}");
    }
}

#[test]
fn a_body_that_breaks_off_is_fetched_again() {
    let server = Server::new([Cut(200, b"ther"), Silence, HangUp, Say(200, ETAG, b"there")]);
    assert_eq!(&server.bucket().get("x").unwrap()[..], b"there");
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn a_range_beyond_the_end_is_not_tried_again() {
    let server = Server::new([Say(416, "", b"InvalidRange"), Say(200, ETAG, b"12345")]);
    let error = server.bucket().get_range("x", 5..9).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    assert!(error.to_string().contains("has 5 bytes"), "{error}");
    assert_eq!(
        server.asked(),
        ["GET /bucket/place/x", "HEAD /bucket/place/x"]
    );
}

#[test]
fn whether_a_create_may_have_happened_is_told() {
    // No server listens, so the request surely had no effect.
    let port = Server::new([]).port;
    let gone = Server {
        port: TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port(),
        script: Arc::default(),
        asked: Arc::default(),
    };
    assert_ne!(port, gone.port);
    let error = gone.bucket().put_new("x", &b"mine"[..]).unwrap_err();
    assert_eq!(ObjectError::of(&error).unwrap().reason, Reason::Unavailable);
    assert!(!outcome_unknown(&error), "{error}");
    // It hangs up: it may have.
    let server = Server::new((0..100).map(|_| HangUp));
    let error = server.bucket().put_new("x", &b"mine"[..]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(outcome_unknown(&error), "{error}");
}
