//! Leases: hidden branches for read-only computes, removed when unused.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common::branch::{
    Reader, at_lsn, lease, list, named, names, refused_create, remove, rename, restore,
};
use crate::common::redo::mark;
use crate::common::{Server, Writer, args, config, with, with_database};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use xylem_proto::pageserver::{PageStreamRequest, PingRequest};

fn start(dir: &std::path::Path, timeout_ms: u64) -> Server {
    let mut args = args(dir);
    args.lease_timeout = Some(format!("{timeout_ms}ms"));
    Server::with(config(&args)).unwrap()
}

async fn leases(server: &Server) -> Vec<String> {
    let all = list(server, true).await.into_iter();
    all.filter(|branch| branch.lease)
        .map(|branch| branch.name)
        .collect()
}

async fn gone(server: &Server, name: &str) -> Duration {
    let started = Instant::now();
    while leases(server).await.contains(&name.to_owned()) {
        assert!(started.elapsed() < Duration::from_secs(20), "{name} stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started.elapsed()
}

#[tokio::test]
async fn a_lease_shows_its_moment_and_is_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), 60_000);
    let (_, mut main) = with_database(&server).await;
    let past = main.lsn;
    main.redo(mark(5, 3, 2)).await;
    main.durable().await;
    let one = lease(&server, "main", at_lsn(past)).await.unwrap();
    let two = lease(&server, "", None).await.unwrap();
    assert_eq!((one.name.as_str(), one.branch_point_lsn), ("main@1", past));
    assert_eq!(
        (two.name.as_str(), two.branch_point_lsn),
        ("main@2", main.lsn)
    );
    assert!(one.lease && two.lease);
    main.redo(mark(5, 3, 3)).await;
    main.durable().await;
    for (branch, seen) in [(&one, 0xaabb_ccdd), (&two, 2)] {
        let id = format!("id:{}", branch.id);
        assert_eq!(Reader::new(&server, &id).newest(5, 3, 0).await, seen);
    }
    assert_eq!(names(&server).await, ["main"]);
    assert_eq!(leases(&server).await, ["main@1", "main@2"]);
    assert_eq!(named(&list(&server, false).await, "main").children.len(), 2);
    // A compute can attach to the lease.
    let attached = server.attach_to(&format!("id:{}", one.id)).await.unwrap();
    assert_eq!((attached.epoch, attached.start_lsn), (1, past + 16));

    let status = remove(&server, "main").await.unwrap_err();
    assert!(status.message().contains("main@1, main@2"), "{status:?}");
    let status = rename(&server, "main@1", "x").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let status = restore(&server, "main@1", past, "").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let status = lease(&server, "main@1", None).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    let status = lease(&server, "main", at_lsn(main.lsn + 1))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    let status = refused_create(&server, "main@7", "main", None).await;
    assert_eq!(status.code(), Code::InvalidArgument);

    server.crash();
    let server = start(dir.path(), 60_000);
    assert_eq!(leases(&server).await, ["main@1", "main@2"]);
    remove(&server, "main@1").await.unwrap();
    remove(&server, &format!("id:{}", two.id)).await.unwrap();
    let again = lease(&server, "main", None).await.unwrap();
    assert_eq!(again.name, "main@1");
}

#[tokio::test]
async fn a_lease_that_nobody_uses_goes() {
    let dir = tempfile::tempdir().unwrap();
    let timeout = Duration::from_millis(600);
    let server = start(dir.path(), 600);
    with_database(&server).await;
    let idle = lease(&server, "main", None).await.unwrap();
    let streamed = lease(&server, "main", None).await.unwrap();
    let called = lease(&server, "main", None).await.unwrap();
    let written = lease(&server, "main", None).await.unwrap();
    let id = |lease: &xylem_proto::control::Branch| format!("id:{}", lease.id);

    let (requests, receiver) = mpsc::channel::<PageStreamRequest>(1);
    let metadata = [("xylem-branch", id(&streamed))];
    let metadata = metadata
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    let request = with(ReceiverStream::new(receiver), &metadata);
    let answers = server.pages().await.page_stream(request).await.unwrap();
    let attached = server.attach_to(&id(&written)).await.unwrap();
    let writer = Writer::open_on(&server, &id(&written), attached.epoch)
        .await
        .unwrap();

    let mut pages = server.pages().await;
    let started = Instant::now();
    let called_id = id(&called);
    while started.elapsed() < timeout * 4 {
        let ping = with(PingRequest {}, &[("xylem-branch", &called_id)]);
        pages.ping(ping).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        leases(&server).await,
        [&streamed.name, &called.name, &written.name].map(String::as_str)
    );
    assert_eq!(idle.name, "main@1");
    assert!(!dir.path().join("store/branches").join(&idle.id).exists());
    drop((requests, answers, writer));
    for lease in [&streamed, &called, &written] {
        let took = gone(&server, &lease.name).await;
        assert!(took < timeout * 8, "{took:?}");
    }
    // A lease from before a restart is removed as well.
    let left = lease(&server, "main", None).await.unwrap();
    server.crash();
    let server = start(dir.path(), 600);
    assert_eq!(leases(&server).await, [left.name.as_str()]);
    gone(&server, &left.name).await;
    assert_eq!(names(&server).await, ["main"]);
}
