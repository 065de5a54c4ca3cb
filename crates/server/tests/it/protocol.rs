//! The protocol: reflection, statuses, and the three calls that read pages.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use crate::common::raw::Raw;
use crate::common::redo::{self, mark, marked, verify};
use crate::common::{Server, page, refused, with, with_database};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use xylem_proto::control::{GetTablespaceRequest, ListBranchesRequest, StatusRequest};
use xylem_proto::pageserver::{GetPageRequest, GetPagesRequest, PageStreamRequest};

async fn reflect(server: &Server, ask: MessageRequest) -> MessageResponse {
    let mut client = ServerReflectionClient::new(server.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let ServerReflectionResponse {
        message_response, ..
    } = answers.message().await.unwrap().unwrap();
    message_response.unwrap()
}

#[tokio::test]
async fn a_page_is_read_knowing_only_reflection() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    with_database(&server).await;
    let MessageResponse::ListServicesResponse(list) =
        reflect(&server, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    let names: Vec<_> = list
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "pageserver.PageServer",
        "xylem.control.v1.Control",
        "xylem.inspect.v1.Inspect",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    let symbol = MessageRequest::FileContainingSymbol("pageserver.PageServer".to_owned());
    let MessageResponse::FileDescriptorResponse(files) = reflect(&server, symbol).await else {
        panic!("no description of the service");
    };
    let mut pool = DescriptorPool::new();
    for file in files.file_descriptor_proto {
        pool.decode_file_descriptor_proto(&file[..]).unwrap();
    }
    let service = pool.get_service_by_name("pageserver.PageServer").unwrap();
    let method = service
        .methods()
        .find(|method| method.name() == "GetPage")
        .unwrap();
    let mut request = DynamicMessage::new(method.input());
    request.set_field_by_name("space_id", Value::U32(5));
    request.set_field_by_name("page_no", Value::U32(3));

    let mut client = tonic::client::Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let path = format!("/{}/{}", service.full_name(), method.name())
        .parse()
        .unwrap();
    let answer = client
        .unary(Request::new(request.encode_to_vec().into()), path, Raw)
        .await
        .unwrap();
    let answer = DynamicMessage::decode(method.output(), answer.into_inner()).unwrap();
    let page = answer.get_field_by_name("page").unwrap();
    verify(page.as_bytes().unwrap(), 5, 3);
    assert_eq!(marked(page.as_bytes().unwrap()), 0xaabb_ccdd);
}

#[tokio::test]
async fn reflection_of_the_older_version_is_there_too() {
    use tonic_reflection::pb::v1alpha;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let ask = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
        "xylem.control.v1.Control".into(),
    );
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(ask),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    assert!(matches!(
        answer,
        v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)
    ));
}

#[tokio::test]
async fn every_refusal_has_its_status_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, writer) = with_database(&server).await;
    let end = writer.lsn;
    let mut pages = server.pages().await;
    let read = |space, number, lsn, min_lsn| GetPageRequest {
        lsn,
        min_lsn,
        timeout_ms: 50,
        ..page(space, number)
    };
    let cases: [(GetPageRequest, Code, String); 5] = [
        (read(6, 3, 0, 0), Code::NotFound, "tablespace 6".to_owned()),
        (read(5, 64, 0, 0), Code::NotFound, "page 5:64".to_owned()),
        (
            read(5, 3, end + 100, 0),
            Code::DeadlineExceeded,
            "WAL stands at".to_owned(),
        ),
        (
            read(5, 3, 0, end + 100),
            Code::DeadlineExceeded,
            "100 bytes behind".to_owned(),
        ),
        (
            read(5, 3, 1, 0),
            Code::OutOfRange,
            "LSN 1 is older".to_owned(),
        ),
    ];
    for (request, code, message) in cases {
        let status = refused(pages.get_page(request).await);
        assert_eq!(status.code(), code, "{status:?}");
        assert!(
            status.message().contains(&message),
            "{status:?} does not say {message}"
        );
        assert!(status.message().contains("branch main"), "{status:?}");
    }
    let metadata: [(&'static str, &str, Code, &str); 4] = [
        ("xylem-branch", "other", Code::NotFound, "no branch other"),
        (
            "xylem-branch",
            "../x",
            Code::InvalidArgument,
            "xylem-branch",
        ),
        ("xylem-epoch", "one", Code::InvalidArgument, "xylem-epoch"),
        ("xylem-epoch", "7", Code::FailedPrecondition, "epoch 7"),
    ];
    for (key, value, code, message) in metadata {
        let status = refused(pages.get_page(with(page(5, 3), &[(key, value)])).await);
        assert_eq!(status.code(), code, "{status:?}");
        assert!(
            status.message().contains(message),
            "{status:?} does not say {message}"
        );
    }
    let many = GetPagesRequest {
        pages: vec![page(5, 3); 257],
    };
    assert_eq!(
        refused(pages.get_pages(many).await).code(),
        Code::InvalidArgument
    );
    // One bad page fails the call.
    let bad = GetPagesRequest {
        pages: vec![page(5, 3), page(6, 3)],
    };
    assert_eq!(refused(pages.get_pages(bad).await).code(), Code::NotFound);
}

#[tokio::test]
async fn redo_that_is_not_understood_is_data_loss_and_the_server_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    let good = writer.lsn;
    writer.redo(common::redo::unknown(5, 3)).await;
    writer.durable().await;
    let mut pages = server.pages().await;
    let request = GetPageRequest {
        min_lsn: writer.lsn,
        ..page(5, 3)
    };
    let status = refused(pages.get_page(request).await);
    assert_eq!(status.code(), Code::DataLoss);
    assert!(
        status.message().contains(&good.to_string()),
        "{status:?} does not name the LSN"
    );
    let (code, body) = common::http_get(server.addrs.http, "/readyz").await;
    assert_eq!(code, 503);
    assert!(body.contains("branch main: ingest"), "{body}");
    assert_eq!(common::http_get(server.addrs.http, "/healthz").await.0, 200);
    // The server still returns what was ingested before.
    let got = pages
        .get_page(GetPageRequest {
            min_lsn: good,
            ..page(5, 3)
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(marked(&got.page), 0xaabb_ccdd);
}

/// After a restart, ingest reads the end of the WAL again, here up to an entry that it
/// cannot read. Reads with an LSN before that entry do not wait for the rest. Reads without
/// an LSN fail, since they would miss acknowledged commits.
#[tokio::test]
async fn after_a_restart_reads_wait_for_what_they_ask_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    let good = writer.lsn;
    // A valid frame, but no file can have such a name.
    writer.redo(redo::tablespace(7, "./a\0b.ibd", 4)).await;
    writer.durable().await;
    server.crash();
    let server = Server::start(dir.path());
    let mut pages = server.pages().await;
    let request = GetPageRequest {
        min_lsn: good,
        ..page(5, 3)
    };
    let got = pages.get_page(request).await.unwrap().into_inner();
    assert_eq!(marked(&got.page), 0xaabb_ccdd);
    let request = GetTablespaceRequest {
        space_id: 5,
        min_lsn: good,
        ..GetTablespaceRequest::default()
    };
    let mut control = server.control().await;
    let got = control.get_tablespace(request).await.unwrap().into_inner();
    assert_eq!(got.space_id, 5);
    let status = refused(pages.get_page(page(5, 3)).await);
    assert_eq!(status.code(), Code::DataLoss, "{status:?}");
}

#[tokio::test]
async fn many_pages_come_in_the_order_asked() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    for number in 3..60 {
        writer.redo(mark(5, number, number * 10)).await;
    }
    writer.durable().await;
    let asked: Vec<u32> = (3..60).rev().collect();
    let requests = asked.iter().map(|&number| GetPageRequest {
        min_lsn: writer.lsn,
        ..page(5, number)
    });
    let got = server
        .pages()
        .await
        .get_pages(GetPagesRequest {
            pages: requests.collect(),
        })
        .await
        .unwrap();
    let marks: Vec<u32> = got
        .into_inner()
        .pages
        .iter()
        .map(|got| marked(&got.page))
        .collect();
    assert_eq!(
        marks,
        asked.iter().map(|number| number * 10).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_page_stream_answers_as_answers_become_ready() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (attached, mut writer) = with_database(&server).await;
    let (requests, receiver) = mpsc::channel(64);
    let epoch = attached.epoch.to_string();
    let request = with(ReceiverStream::new(receiver), &[("xylem-epoch", &epoch)]);
    let mut answers = server
        .pages()
        .await
        .page_stream(request)
        .await
        .unwrap()
        .into_inner();
    let ask = |id, get| PageStreamRequest { id, get: Some(get) };
    // The first request waits for redo that is sent last.
    let redo = mark(5, 3, 99);
    let later = writer.lsn + redo.len() as u64;
    requests
        .send(ask(
            1,
            GetPageRequest {
                min_lsn: later,
                ..page(5, 3)
            },
        ))
        .await
        .unwrap();
    requests.send(ask(2, page(5, 3))).await.unwrap();
    requests.send(ask(3, page(77, 3))).await.unwrap();
    requests
        .send(PageStreamRequest { id: 4, get: None })
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = answers.message().await.unwrap().unwrap();
        seen.push((answer.id, answer.status, answer.got.is_some()));
    }
    seen.sort_unstable();
    let (not_found, invalid) = (Code::NotFound as u32, Code::InvalidArgument as u32);
    assert_eq!(
        seen,
        [(2, 0, true), (3, not_found, false), (4, invalid, false)]
    );
    writer.redo(redo).await;
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.id, marked(&answer.got.unwrap().page)), (1, 99));
    // After a takeover the stream stays open, but its reads are refused.
    server.attach().await;
    requests.send(ask(5, page(5, 3))).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(
        (answer.id, answer.status),
        (5, Code::FailedPrecondition as u32)
    );
    assert!(
        answer.message.contains("another compute has taken it over"),
        "{}",
        answer.message
    );
    drop(requests);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn branches_and_status_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, writer) = with_database(&server).await;
    let mut control = server.control().await;
    let branches = control
        .list_branches(ListBranchesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .branches;
    assert_eq!(branches.len(), 1);
    let main = &branches[0];
    assert_eq!(
        (
            main.name.as_str(),
            main.parent.as_str(),
            main.branch_point_lsn
        ),
        ("main", "", 0)
    );
    assert_eq!(
        (main.last_lsn, main.applied_lsn, main.epoch),
        (writer.lsn, writer.lsn, 1)
    );
    assert_eq!(main.id.len(), 32);
    assert!(main.wal_bytes > 0);
    let created: jiff::Timestamp = main.created_at.parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(created).as_secs() < 600);
    let status = control.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (status.state.as_str(), status.pid),
        ("ready", std::process::id())
    );
    assert_eq!(status.version, xylem_server::VERSION);
    assert_eq!(status.memory_budget_bytes, 64 << 20);
    assert!(status.memory_bytes > 0 && status.object_store.starts_with("file:///"));
}
