//! The compute protocol over TCP and over the Unix socket.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod admission;
mod pages;
mod redo;
mod waits;

use crate::common::{Server, http_get};
use std::time::{Duration, Instant};

/// The sum of the values of metric `name` with `label` among their labels.
async fn metric(server: &Server, name: &str, label: &str) -> f64 {
    let (_, text) = http_get(server.addrs.http, "/metrics").await;
    let of = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains(label);
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    text.lines().filter(of).filter_map(value).sum()
}

/// Waits until `kind` of streams are `count`.
async fn streams(server: &Server, kind: &str, count: f64) {
    let until = Instant::now() + Duration::from_secs(60);
    let label = format!("kind=\"{kind}\"");
    while metric(server, "xylem_streams", &label).await != count {
        assert!(Instant::now() < until, "never {count} streams of {kind}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
