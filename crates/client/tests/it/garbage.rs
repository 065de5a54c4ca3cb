//! Servers with invalid answers: random bytes, valid HTTP/2 with random contents,
//! and a plain HTTP/1 server.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::{PAGE, wanted};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_client::client::Client;
use xylem_client::config::Config;
use xylem_client::shared::Shared;
use xylem_client::status::Status;

fn config(port: u16) -> Config {
    let mut config = Config::new("127.0.0.1", port);
    config.epoch = 1;
    config.request_timeout_ms = 100;
    config.retry_limit_ms = 500;
    config
}

/// Pseudo-random bytes.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// A server that answers every connection with the bytes from `answer`.
fn raw(answer: impl Fn(u64) -> Vec<u8> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, stream) in (0..).zip(listener.incoming()) {
            let Ok(mut stream) = stream else { return };
            let bytes = answer(number);
            std::thread::spawn(move || {
                let mut buf = [0u8; 1024];
                let _ = stream.read(&mut buf);
                let _ = stream.write_all(&bytes);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(100)));
                while matches!(stream.read(&mut buf), Ok(n) if n > 0) {}
            });
        }
    });
    port
}

#[test]
fn random_bytes_and_http1() {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let ports = [
        raw(|n| noise(n + 1, 1000)),
        raw(move |n| [&settings[..], &noise(n + 99, 3000)].concat()),
        raw(|_| b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()),
        raw(|_| Vec::new()),
    ];
    for port in ports {
        let started = Instant::now();
        let error = Client::start(config(port)).unwrap_err();
        assert_eq!(error.status, Status::Timeout, "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

/// Valid HTTP/2 whose calls are answered with random bytes.
async fn nonsense(stream: tokio::net::TcpStream, seeds: Arc<AtomicU64>) -> Option<()> {
    let mut connection = h2::server::handshake(stream).await.ok()?;
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let seed = seeds.fetch_add(1, Ordering::Relaxed);
        let method = request.uri().path().rsplit('/').next()?.to_owned();
        let head = http::Response::builder()
            .status(if seed % 7 == 6 { 500 } else { 200 })
            .body(())
            .ok()?;
        let Ok(mut send) = respond.send_response(head, false) else {
            continue;
        };
        if method == "Ping" {
            let _ = send.send_data(Bytes::from_static(&[0, 0, 0, 0, 0]), false);
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let _ = send.send_trailers(trailers);
            continue;
        }
        let body = match seed % 3 {
            0 => noise(seed, 500),
            // A gRPC message of random bytes.
            1 => [&[0, 0, 0, 1, 0], &noise(seed, 256)[..]].concat(),
            // An invalid message length.
            _ => [&[0, 0xff, 0xff, 0xff, 0xff], &noise(seed, 256)[..]].concat(),
        };
        let _ = send.send_data(Bytes::from(body), false);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("x%"));
            let _ = send.send_trailers(trailers);
        });
    }
    Some(())
}

#[test]
fn nonsense_in_good_frames() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seeds = Arc::new(AtomicU64::new(1));
    let port = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(nonsense(stream, seeds.clone()));
            }
        });
        port
    });
    // A writer's redo stream never begins.
    assert!(Client::start(config(port)).is_err());
    // A reader never gets pages, however often it tries.
    let mut reader = config(port);
    reader.epoch = 0;
    // Some of the answers go to a ping, so the limit leaves time for several.
    reader.retry_limit_ms = 60_000;
    // The answer depends on the number of earlier calls.
    let client = (0..100)
        .find_map(|_| Client::start(reader.clone()).ok())
        .unwrap();
    client.shared().limits.set(100, 500);
    std::thread::scope(|scope| {
        for no in 0..4 {
            let client = &client;
            scope.spawn(move || {
                let mut buf = vec![0u8; PAGE];
                let status = client.get_page(wanted(1, no, &mut buf));
                assert_ne!(status, Status::Ok);
            });
        }
    });
    client.shutdown();
}

#[test]
fn a_panic_in_a_completion_leaves_nobody_waiting() {
    // A C callback cannot panic. This tests the last line of defence: a call that
    // is dropped is completed.
    let shared = Shared::new(config(1)).unwrap();
    let waiter = xylem_client::pages::Waiter::new();
    let mut buf = vec![0u8; PAGE];
    let call = xylem_client::pages::PageCall {
        space_id: 1,
        page_no: 1,
        min_lsn: 0,
        target: wanted(1, 1, &mut buf).target,
        started: Instant::now(),
        failures: 0,
        done: Some(xylem_client::pages::Done::Sync(waiter.clone())),
    };
    let conn = xylem_client::pages::Conn::default();
    conn.push(call).unwrap();
    conn.close();
    assert_eq!(waiter.wait(), Status::Cancelled);
    assert!(!shared.is_fenced());
}
