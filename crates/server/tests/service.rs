//! The service itself: locks, ports, health, metrics, a graceful stop.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::redo::mark;
use common::{Server, Writer, args, config, http_get, page, refused, with_database};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use xylem_proto::pageserver::{PageStreamRequest, PingRequest};

#[tokio::test]
async fn two_servers_on_one_directory_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let refusal = Server::with(config(&args(dir.path())))
        .err()
        .unwrap()
        .to_string();
    assert!(
        refusal.contains(&format!("pid {}", std::process::id())),
        "{refusal}"
    );
    assert!(
        refusal.contains(&dir.path().display().to_string()),
        "{refusal}"
    );
    server.pages().await.ping(PingRequest {}).await.unwrap();
    server.stop();
    Server::start(dir.path()).stop();
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut grpc = args(&dir.path().join("a"));
    grpc.grpc_listen = Some(addr.to_string());
    let mut http = args(&dir.path().join("b"));
    http.http_listen = Some(addr.to_string());
    for (args, flag) in [(grpc, "--grpc-listen"), (http, "--http-listen")] {
        let refusal = Server::with(config(&args)).err().unwrap().to_string();
        assert!(
            refusal.contains(flag) && refusal.contains(&addr.to_string()),
            "{refusal}"
        );
    }
}

async fn health(server: &Server, service: &str) -> i32 {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    HealthClient::new(server.channel().await)
        .check(request)
        .await
        .unwrap()
        .into_inner()
        .status
}

#[tokio::test]
async fn a_stop_waits_for_streams_and_then_ends_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    let mut pages = server.pages().await;
    let (requests, receiver) = mpsc::channel::<PageStreamRequest>(4);
    let mut answers = pages
        .page_stream(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut watch = HealthClient::new(server.channel().await)
        .watch(HealthCheckRequest {
            service: String::new(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        ServingStatus::Serving as i32
    );
    for service in ["", "pageserver.PageServer", "xylem.control.Control"] {
        assert_eq!(
            health(&server, service).await,
            ServingStatus::Serving as i32
        );
    }
    assert_eq!(
        http_get(server.addrs.http, "/readyz").await,
        (200, "ready\n".to_owned())
    );

    let started = Instant::now();
    server.begin_stop();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status,
        ServingStatus::NotServing as i32
    );
    assert_eq!(
        http_get(server.addrs.http, "/readyz").await,
        (503, "server: stopping\n".to_owned())
    );
    assert_eq!(
        refused(pages.get_page(page(5, 3)).await).code(),
        Code::Unavailable
    );
    // A commit that is under way still becomes durable.
    writer.redo(mark(5, 3, 77)).await;
    writer.durable().await;
    let (seq, lsn) = (writer.seq, writer.lsn);
    assert_eq!(writer.end().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::Unavailable
    );
    server.join();
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "took {:?}",
        started.elapsed()
    );
    drop(requests);

    let server = Server::start(dir.path());
    let writer = Writer::open(&server, 1).await;
    assert_eq!((writer.seq, writer.lsn), (seq, lsn));
}

#[tokio::test]
async fn a_stop_without_streams_takes_no_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.stop_grace_ms = Some("60000".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let started = Instant::now();
    server.stop();
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "took {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn metrics_say_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.log_backup = Some("50ms".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let (_, writer) = with_database(&server).await;
    let mut pages = server.pages().await;
    pages.get_page(page(5, 3)).await.unwrap();
    refused(pages.get_page(page(9, 3)).await);
    let (code, text) = http_get(server.addrs.http, "/metrics").await;
    assert_eq!(code, 200);
    let value = |name: &str| -> f64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in:\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let lsn = writer.lsn as f64;
    assert_eq!(value("xylem_durable_lsn{branch=\"main\"}"), lsn);
    assert_eq!(value("xylem_applied_lsn{branch=\"main\"}"), lsn);
    assert_eq!(value("xylem_ingest_lag_bytes{branch=\"main\"}"), 0.0);
    assert_eq!(value("xylem_epoch{branch=\"main\"}"), 1.0);
    assert_eq!(value("xylem_branch_up{branch=\"main\"}"), 1.0);
    assert_eq!(
        value("xylem_page_reads_total{branch=\"main\",result=\"not_found\"}"),
        1.0
    );
    assert!(value("xylem_page_read_seconds_count{branch=\"main\"}") >= 3.0);
    assert!(value("xylem_page_read_bytes_total{branch=\"main\"}") >= 32768.0);
    assert_eq!(value("xylem_wal_frames_total{branch=\"main\"}"), 6.0);
    assert!(value("xylem_wal_durable_seconds_count{branch=\"main\"}") >= 1.0);
    assert_eq!(value("xylem_streams{kind=\"wal\"}"), 1.0);
    assert_eq!(value("xylem_memory_budget_bytes"), f64::from(64 << 20));
    assert!(value("xylem_memory_used_bytes") > 0.0);
    assert!(value("xylem_log_bytes{branch=\"main\"}") > 0.0);
    let lag = value("xylem_log_backup_lag_seconds{branch=\"main\"}");
    assert!((0.0..10.0).contains(&lag), "{lag}");
    assert_eq!(
        value("xylem_ingest_bytes_total{branch=\"main\"}"),
        lsn - 12288.0
    );
    assert!(text.ends_with("# EOF\n"));
    // Every metric is in the documentation, and none that is not there.
    let book = include_str!("../../../docs/metrics.md");
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(
            book.contains(&format!("`{name}")),
            "{name} is not in docs/metrics.md"
        );
    }
    for name in book.split('`').filter(|word| word.starts_with("xylem_")) {
        let name = name.split('{').next().unwrap();
        let base = name.trim_end_matches("_total");
        assert!(
            text.contains(&format!("# TYPE {base} ")),
            "{name} is in docs/metrics.md only"
        );
    }
}

#[test]
fn a_server_can_be_a_task() {
    fn task<T: Send>(_: T) {}
    let config = config(&args(std::path::Path::new("never-made")));
    task(xylem_server::run(config, |_| {}, std::future::pending()));
}
