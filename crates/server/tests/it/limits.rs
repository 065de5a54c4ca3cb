//! Callers that request too much or take no answers do not make other callers wait.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use crate::common;
use crate::common::branch::{at_lsn, lease, list};
use crate::common::redo::{create, fill, marked};
use crate::common::{Server, args, config, http_get, page, refused, with_database};
use std::future::Future;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use xylem_proto::control::base_item::Item;
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::control::import_item::Item as ImportPart;
use xylem_proto::control::{BaseBackupRequest, BaseItem, ImportItem, ImportStart};
use xylem_proto::pageserver::page_server_client::PageServerClient;
use xylem_proto::pageserver::{FileOp, GetPageRequest, PageStreamRequest, file_op::Kind};

const PATIENCE: Duration = Duration::from_secs(60);

/// A connection with room for few answers.
async fn narrow(server: &Server) -> Channel {
    Endpoint::from_shared(format!("http://{}", server.addrs.grpc))
        .unwrap()
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap()
}

fn write_at(path: &str, offset: u64, data: Vec<u8>) -> FileOp {
    FileOp {
        kind: Kind::Write as i32,
        path: path.to_owned(),
        offset,
        data: data.into(),
        ..FileOp::default()
    }
}

/// Bytes whose values depend on their offset.
fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64)
        .map(|at| (at / 1000) as u8)
        .collect()
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The value of metric `name` with `label`.
async fn metric(server: &Server, name: &str, label: &str) -> f64 {
    let (_, text) = http_get(server.addrs.http, "/metrics").await;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{{label}}}")));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

/// A read that occupies one of the threads for reads.
async fn read_at(server: &Server, lsn: u64) -> u32 {
    let request = GetPageRequest { lsn, ..page(5, 3) };
    let mut pages = server.pages().await;
    let got = tokio::time::timeout(PATIENCE, pages.get_page(request))
        .await
        .expect("a read waits for a caller that takes nothing")
        .unwrap();
    marked(&got.into_inner().page)
}

#[tokio::test]
async fn a_large_side_file_travels_in_pieces_and_a_caller_that_takes_none_holds_nothing() {
    const BYTES: u64 = 48 << 20;
    const PIECE: usize = 4 << 20;
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.page_threads = Some("1".to_owned());
    args.stall_timeout = Some("1s".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let (_, mut writer) = with_database(&server).await;
    let lsn = writer.lsn;
    writer.file(create("test/large.par")).await;
    for at in (0..BYTES).step_by(PIECE) {
        let data = pattern(at, PIECE);
        writer.file(write_at("test/large.par", at, data)).await;
    }
    writer.redo(common::redo::mark(5, 4, 1)).await;
    writer.durable().await;
    common::wait_applied(&server, writer.lsn).await;

    // A caller that takes only the first item.
    let request = || BaseBackupRequest {
        lsn: 0,
        all_tablespaces: true,
    };
    let mut idle = ControlClient::new(narrow(&server).await);
    let mut untaken = idle.base_backup(request()).await.unwrap().into_inner();
    untaken.message().await.unwrap().unwrap();
    assert_eq!(read_at(&server, lsn).await, 0xaabb_ccdd);

    // A caller that takes all items.
    let items = server.control().await.base_backup(request()).await;
    let mut items = items.unwrap().into_inner();
    let mut next = 0;
    while let Some(BaseItem { item }) = items.message().await.unwrap() {
        if let Some(Item::File(file)) = item
            && file.path == "test/large.par"
        {
            assert_eq!((file.offset, file.size), (next, BYTES));
            assert!(file.data.len() <= 2 << 20, "{} bytes", file.data.len());
            assert!(file.data[..] == pattern(next, file.data.len())[..]);
            next += file.data.len() as u64;
        }
    }
    assert_eq!(next, BYTES);

    // The server ended the stream whose caller took nothing.
    eventually("the idle stream is ended", || async {
        metric(&server, "xylem_streams", "kind=\"backup\"").await == 0.0
    })
    .await;
    let ended = loop {
        match untaken.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended as if it were whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Aborted, "{ended:?}");
}

#[tokio::test]
async fn page_requests_whose_answers_nobody_takes_leave_the_threads_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.page_threads = Some("1".to_owned());
    args.stall_timeout = Some("2s".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let (_, mut writer) = with_database(&server).await;
    for number in 4..60 {
        writer.redo(fill(5, number, number)).await;
    }
    writer.durable().await;
    common::wait_applied(&server, writer.lsn).await;

    let mut idle = PageServerClient::new(narrow(&server).await);
    let (requests, receiver) = tokio::sync::mpsc::channel(1024);
    for id in 0..900u64 {
        let get = Some(GetPageRequest {
            lsn: writer.lsn,
            ..page(5, 4 + (id % 56) as u32)
        });
        requests.send(PageStreamRequest { id, get }).await.unwrap();
    }
    let untaken = idle.page_stream(ReceiverStream::new(receiver)).await;
    let mut untaken = untaken.unwrap().into_inner();
    untaken.message().await.unwrap().unwrap();
    // While the stream is open, and after it was ended.
    for _ in 0..20 {
        assert_eq!(read_at(&server, writer.lsn).await, 0xaabb_ccdd);
    }
    eventually("the idle stream is ended", || async {
        metric(&server, "xylem_streams", "kind=\"pages\"").await == 0.0
    })
    .await;
    assert_eq!(read_at(&server, writer.lsn).await, 0xaabb_ccdd);
    let mut ended = None;
    while let Some(answer) = untaken.next().await {
        ended = answer.err();
    }
    assert_eq!(ended.unwrap().code(), Code::Aborted);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.connections_max = Some("8".to_owned());
    let server = Server::with(config(&args)).unwrap();
    for addr in [server.addrs.grpc, server.addrs.http] {
        let mut open = Vec::new();
        for _ in 0..8 {
            open.push(TcpStream::connect(addr).await.unwrap());
        }
        eventually("one too many is closed", || async {
            let mut extra = TcpStream::connect(addr).await.unwrap();
            let mut byte = [0];
            let read = tokio::time::timeout(PATIENCE, extra.read(&mut byte)).await;
            matches!(read, Ok(Ok(0) | Err(_)))
        })
        .await;
        drop(open);
    }
    // There is room again.
    eventually("the server answers again", || async {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.addrs.grpc)).unwrap();
        let Ok(channel) = endpoint.connect().await else {
            return false;
        };
        let ping = xylem_proto::pageserver::PingRequest {};
        PageServerClient::new(channel).ping(ping).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn leases_have_a_limit_and_calls_about_many_branches_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.leases_max = Some("3".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let (_, writer) = with_database(&server).await;
    for _ in 0..3 {
        lease(&server, "main", at_lsn(writer.lsn)).await.unwrap();
    }
    let status = lease(&server, "main", at_lsn(writer.lsn))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("leases_max"), "{status:?}");
    common::branch::remove(&server, "main@1").await.unwrap();
    lease(&server, "main", at_lsn(writer.lsn)).await.unwrap();

    let mut lists = tokio::task::JoinSet::new();
    let server = std::sync::Arc::new(server);
    for _ in 0..200 {
        let server = std::sync::Arc::clone(&server);
        lists.spawn(async move { list(&server, true).await.len() });
    }
    while let Some(listed) = lists.join_next().await {
        assert_eq!(listed.unwrap(), 4);
    }
}

#[tokio::test]
async fn an_import_that_sends_nothing_more_is_ended_and_there_are_few_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.stall_timeout = Some("3s".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let mut under_way = tokio::task::JoinSet::new();
    let mut held = Vec::new();
    for n in 0..6 {
        let (to, items) = tokio::sync::mpsc::channel(4);
        let start = ImportPart::Start(ImportStart {
            branch: format!("import{n}"),
            lsn: 1 << 20,
            page_size: 16384,
            undo_tablespaces: 0,
        });
        to.send(ImportItem { item: Some(start) }).await.unwrap();
        held.push(to);
        let mut control = server.control().await;
        under_way.spawn(async move {
            refused(control.import_branch(ReceiverStream::new(items)).await).code()
        });
    }
    let mut codes = Vec::new();
    while let Some(code) = under_way.join_next().await {
        codes.push(code.unwrap());
    }
    let count = |wanted| codes.iter().filter(|code| **code == wanted).count();
    assert_eq!(count(Code::ResourceExhausted), 2, "{codes:?}");
    assert_eq!(count(Code::DeadlineExceeded), 4, "{codes:?}");
    assert_eq!(list(&server, false).await.len(), 1);
}
