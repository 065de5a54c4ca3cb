//! Servers with invalid answers: random bytes, valid messages with random contents, and
//! an HTTP server.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::{PAGE, noise, wanted};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use xylem_client::client::Client;
use xylem_client::config::Config;
use xylem_client::status::Status;
use xylem_wire::{Header, Kind, PREFACE_BYTES, Received, Standing, pong, welcome};

fn config(port: u16) -> Config {
    let mut config = Config::new("127.0.0.1", port);
    config.epoch = 1;
    config.request_timeout_ms = 100;
    config.retry_limit_ms = 500;
    config
}

/// A server that has `serve` serve each connection.
fn raw(serve: impl Fn(u64, TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming()) {
            let (Ok(stream), serve) = (stream, serve.clone()) else {
                return;
            };
            std::thread::spawn(move || serve(number, stream));
        }
    });
    port
}

/// Sends `bytes`, and listens until the peer ends the connection.
fn say(mut stream: TcpStream, bytes: &[u8]) {
    let mut buf = [0u8; 1024];
    let _ = stream.read(&mut buf);
    let _ = stream.write_all(bytes);
    while matches!(stream.read(&mut buf), Ok(n) if n > 0) {}
}

#[test]
fn random_bytes_and_http() {
    let ports = [
        raw(|n, stream| say(stream, &noise(n + 1, 1000))),
        raw(|n, stream| {
            let mut bytes = welcome(&Standing::default());
            bytes.extend(noise(n + 99, 3000));
            say(stream, &bytes[5..]);
        }),
        raw(|_, stream| {
            let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            say(stream, http);
        }),
        raw(|_, stream| say(stream, b"")),
        // The end of the connection instead of an answer.
        raw(|_, stream| drop(stream)),
    ];
    for port in ports {
        let started = Instant::now();
        let error = Client::start(config(port)).unwrap_err();
        assert_eq!(error.status, Status::Timeout, "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

/// A server that sends its welcome byte by byte, forever.
#[test]
fn a_welcome_that_never_ends() {
    let port = raw(|_, mut stream| {
        let header = Header {
            length: 1 << 20,
            kind: Kind::Welcome,
            id: 0,
        };
        let _ = stream.write_all(&header.encode());
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    let started = Instant::now();
    let error = Client::start(config(port)).unwrap_err();
    assert_eq!(error.status, Status::Timeout, "{error}");
    assert!(
        error.message.contains("no welcome within 100 ms"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

/// Valid headers with random bodies.
fn nonsense(seed: u64, mut stream: TcpStream) -> Option<()> {
    let mut received = Received::default();
    let mut seed = seed * 1000;
    let mut preface = false;
    loop {
        let count = stream.read(received.room()).ok().filter(|n| *n > 0)?;
        received.filled(count);
        if !preface {
            received.skip(PREFACE_BYTES);
            preface = true;
        }
        while let Some(message) = received.next().unwrap() {
            seed += 1;
            let answer = match message.header.kind {
                Kind::Hello => welcome(&Standing::default()),
                Kind::Ping => pong(message.header.id, &Standing::default()),
                _ => {
                    let body = noise(seed, 256);
                    let header = Header {
                        length: [256, 256, 256, 3, 0, 20 << 20][seed as usize % 6],
                        kind: [Kind::Page, Kind::Fault, Kind::Space, Kind::Pong]
                            [seed as usize / 6 % 4],
                        id: message.header.id,
                    };
                    [&header.encode()[..], &body].concat()
                }
            };
            stream.write_all(&answer).ok()?;
        }
    }
}

#[test]
fn nonsense_in_good_headers() {
    let port = raw(|number, stream| {
        let _over = nonsense(number, stream);
    });
    // A reader never gets pages, however often it tries.
    let mut reader = config(port);
    reader.epoch = 0;
    let client = Client::start(reader).unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for no in 0..4 {
            let client = &client;
            scope.spawn(move || {
                let mut buf = vec![0u8; PAGE];
                while started.elapsed() < Duration::from_secs(1) {
                    // A page of another size, or a fault, is an answer. Other attempts
                    // end with the library.
                    let status = client.get_page(wanted(1, no, &mut buf));
                    assert_ne!(status, Status::Ok);
                }
                assert!(buf.iter().all(|byte| *byte == 0));
            });
        }
        std::thread::sleep(Duration::from_millis(1500));
        client.shutdown();
    });
    // A writer's stream ends with the first nonsense, and begins again.
    let mut writer = config(port);
    writer.start_lsn = 0;
    let client = Client::start(writer).unwrap();
    client.stream_wal(0, b"abc").unwrap();
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| client.wait_durable(3));
        std::thread::sleep(Duration::from_millis(300));
        client.shutdown();
        assert_ne!(commit.join().unwrap().unwrap_err().status, Status::Ok);
    });
    assert_eq!(client.redo().unwrap().durable_lsn(), 0);
}
