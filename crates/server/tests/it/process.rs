//! A server in its own process: killed, told to stop, told to stop twice.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use crate::common::redo::{mark, marked};
use crate::common::{Server, Writer, page, with_database};
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_proto::pageserver::GetPageRequest;

#[tokio::test]
async fn what_was_acknowledged_survives_a_killed_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = None;
    for round in 0..3u32 {
        let mut child = ChildServer::start(dir.path());
        let server = &child.server;
        let mut writer = match last {
            None => with_database(server).await.1,
            Some((epoch, seq, lsn)) => {
                let writer = Writer::open(server, epoch).await;
                assert!(writer.seq >= seq && writer.lsn >= lsn);
                writer
            }
        };
        if let Some((_, _, lsn)) = last {
            let request = GetPageRequest {
                min_lsn: lsn,
                ..page(5, 8)
            };
            let got = server
                .pages()
                .await
                .get_page(request)
                .await
                .unwrap()
                .into_inner();
            assert_eq!(marked(&got.page), round - 1);
        }
        for _ in 0..50 {
            writer.redo(mark(5, 7, round)).await;
        }
        writer.redo(mark(5, 8, round)).await;
        writer.durable().await;
        last = Some((1, writer.seq, writer.lsn));
        child.kill();
    }
}

#[tokio::test]
async fn sigterm_is_a_graceful_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = ChildServer::start(dir.path());
    let (_, mut writer) = with_database(&child.server).await;
    child.signal("TERM");
    writer.redo(mark(5, 3, 1)).await;
    writer.durable().await;
    assert_eq!(writer.end().await.unwrap_err().code(), Code::Unavailable);
    assert!(child.process.wait().unwrap().success());
    let server = Server::start(&dir.path().join("data"));
    let resumed = Writer::open(&server, 1).await;
    assert_eq!((resumed.seq, resumed.lsn), (writer.seq, writer.lsn));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = ChildServer::with_grace(dir.path(), "1m");
    let (_, mut writer) = with_database(&child.server).await;
    child.signal("INT");
    while common::http_get(child.server.addrs.http, "/readyz").await.0 == 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let started = Instant::now();
    child.signal("TERM");
    assert_eq!(child.process.wait().unwrap().code(), Some(1));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "took {:?}",
        started.elapsed()
    );
    writer.end().await.unwrap_err();
}

/// A server in its own process, which runs this test binary.
struct ChildServer {
    process: std::process::Child,
    server: Server,
}

impl ChildServer {
    fn start(dir: &std::path::Path) -> ChildServer {
        ChildServer::with_grace(dir, "300ms")
    }

    fn with_grace(dir: &std::path::Path, grace: &str) -> ChildServer {
        let file = dir.join("addrs");
        let _ = std::fs::remove_file(&file);
        let mut process = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "process::child_server",
                "--ignored",
                "--nocapture",
            ])
            .env("XYLEM_TEST_DIR", dir)
            .env("XYLEM_TEST_GRACE", grace)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let addrs = loop {
            if let Ok(text) = std::fs::read_to_string(&file)
                && let Some((grpc, http)) = text
                    .trim_end_matches('.')
                    .split_once(' ')
                    .filter(|_| text.ends_with('.'))
            {
                break xylem_server::ListenAddrs {
                    grpc: grpc.parse().unwrap(),
                    http: http.parse().unwrap(),
                };
            }
            let ended = process.try_wait().unwrap();
            assert_eq!(ended, None, "the server ended before it listened");
            #[allow(
                clippy::disallowed_methods,
                reason = "a file of another process is being waited for"
            )]
            std::thread::sleep(Duration::from_millis(10));
        };
        ChildServer {
            process,
            server: Server::elsewhere(addrs),
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(
            std::process::Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "what ChildServer runs"]
fn child_server() {
    let Some(dir) = std::env::var_os("XYLEM_TEST_DIR") else {
        return;
    };
    let dir = std::path::PathBuf::from(dir);
    let mut args = common::args(&dir.join("data"));
    args.stop_grace = std::env::var("XYLEM_TEST_GRACE").ok();
    let config = common::config(&args);
    let ready = |addrs: xylem_server::ListenAddrs| {
        std::fs::write(dir.join("addrs"), format!("{} {}.", addrs.grpc, addrs.http)).unwrap();
    };
    let runtime = xylem_server::runtime(&config).unwrap();
    runtime.block_on(async {
        let shutdown = xylem_server::shutdown_signal().unwrap();
        xylem_server::run(config, ready, shutdown).await.unwrap();
    });
}
