//! The service Inspect: layers, page history, scrubs, diagnosis.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use crate::common::redo::{self, fill, mark};
use crate::common::{Server, Writer, args, config, refused, wait_applied, with, with_database};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use xylem_proto::inspect::inspect_client::InspectClient;
use xylem_proto::inspect::scrub_update::Update;
use xylem_proto::inspect::{
    DiagnoseRequest, Finding, LastScrubsRequest, LayersRequest, PageHistoryRequest, ScrubDone,
    ScrubRequest, ScrubUpdate, Version,
};

async fn inspect(server: &Server) -> InspectClient<Channel> {
    InspectClient::new(server.channel().await).max_decoding_message_size(64 << 20)
}

/// A server with small open layers and without a background scrub.
fn start(dir: &Path) -> Server {
    let mut args = args(dir);
    args.open_layer_size = Some("1MiB".to_owned());
    args.scrub_bytes_per_second = Some("0".to_owned());
    Server::with(config(&args)).unwrap()
}

/// Writes enough redo for layers to be flushed, and waits for them.
async fn flushed(server: &Server, writer: &mut Writer) {
    for n in 0..90 {
        writer.redo(fill(5, 4 + n % 30, n + 1)).await;
    }
    writer.durable().await;
    wait_applied(server, writer.lsn).await;
    let begin = Instant::now();
    while layers(server).await.is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn layers(server: &Server) -> Vec<xylem_proto::inspect::Layer> {
    let answer = inspect(server).await.layers(LayersRequest {}).await;
    answer.unwrap().into_inner().layers
}

/// The path of a layer's file.
fn file_of(dir: &Path, name: &str) -> PathBuf {
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => todo.push(path),
                false if path.ends_with(name) => return path,
                false => {}
            }
        }
    }
    panic!("there is no {name}");
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

async fn ended(mut updates: Streaming<ScrubUpdate>) -> (ScrubDone, Vec<Finding>) {
    let mut findings = Vec::new();
    while let Some(update) = updates.message().await.unwrap() {
        match update.update.unwrap() {
            Update::Progress(p) => assert!(p.bytes_done <= p.bytes + 1_000_000),
            Update::Finding(finding) => findings.push(finding),
            Update::Done(done) => return (done, findings),
        }
    }
    panic!("it did not come to its end");
}

async fn scrub(server: &Server) -> (ScrubDone, Vec<Finding>) {
    let request = ScrubRequest {
        all: true,
        bytes_per_second: 0,
    };
    let updates = inspect(server).await.scrub(request).await.unwrap();
    ended(updates.into_inner()).await
}

#[tokio::test]
async fn layers_and_versions_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    let first = writer.lsn;
    let mut client = inspect(&server).await;
    let answer = client.layers(LayersRequest {}).await.unwrap().into_inner();
    assert_eq!((answer.branch.as_str(), answer.layers.len()), ("main", 0));
    assert_eq!(answer.memory.len(), 1);
    assert!(answer.memory[0].bytes > 0 && !answer.memory[0].frozen);

    flushed(&server, &mut writer).await;
    writer.redo(mark(5, 3, 0x0102_0304)).await;
    writer.durable().await;
    wait_applied(&server, writer.lsn).await;
    let answer = client.layers(LayersRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.applied_lsn, writer.lsn);
    let layer = &answer.layers[0];
    assert_eq!((layer.number, layer.kind.as_str()), (1, "delta"));
    assert!(layer.bytes > 1 << 19 && layer.keys > 30);
    let size = std::fs::metadata(file_of(dir.path(), &layer.name)).unwrap();
    assert_eq!(size.len(), layer.bytes);

    let history = async |request: PageHistoryRequest| {
        let mut client = inspect(&server).await;
        client.page_history(request).await.map(|a| a.into_inner())
    };
    let page = PageHistoryRequest {
        table: "test/t1".to_owned(),
        page_no: 3,
        build: true,
        ..PageHistoryRequest::default()
    };
    let answer = history(page.clone()).await.unwrap();
    assert_eq!((answer.space_id, answer.page_no), (5, 3));
    assert_eq!(
        (answer.path.as_str(), answer.page_bytes),
        ("test/t1.ibd", 16384)
    );
    assert_eq!((answer.lsn, answer.next_lsn), (writer.lsn, 0));
    let place = |v: &Version| (v.lsn, v.place.clone(), v.kind.clone());
    let places: Vec<_> = answer.versions.iter().map(place).collect();
    assert_eq!(
        places,
        [
            (writer.lsn, "open layer".to_owned(), "fresh".to_owned()),
            (first, "layer".to_owned(), "fresh".to_owned()),
        ]
    );
    let newest = &answer.versions[0];
    assert_eq!((newest.branch.as_str(), newest.void), ("main", false));
    let texts: Vec<_> = newest
        .records
        .iter()
        .map(|r| (&*r.kind, &*r.text))
        .collect();
    assert_eq!(
        texts,
        [
            ("INIT_PAGE", "the page becomes zeros with only its identity"),
            ("WRITE", "4 bytes at 100: 01020304"),
        ]
    );
    assert_eq!(
        (newest.records[1].offset, newest.records[1].length),
        (100, 4)
    );
    let built = newest.page.as_ref().unwrap();
    assert_eq!((built.error.as_str(), built.fault.as_str()), ("", ""));
    assert_eq!((built.page_lsn, built.data.len()), (writer.lsn, 0));

    // As of an LSN, by number, with bytes.
    let old = PageHistoryRequest {
        space_id: 5,
        table: String::new(),
        lsn: first,
        data: true,
        ..page.clone()
    };
    let answer = history(old).await.unwrap();
    assert_eq!(answer.versions.len(), 1);
    let built = answer.versions[0].page.as_ref().unwrap();
    redo::verify(&built.data, 5, 3);
    assert_eq!(redo::marked(&built.data), 0xaabb_ccdd);
    assert_eq!(
        answer.versions[0].data.len() as u64,
        answer.versions[0].bytes
    );

    // In parts.
    let mut request = PageHistoryRequest {
        limit: 1,
        build: false,
        ..page.clone()
    };
    let part = history(request.clone()).await.unwrap();
    assert_eq!(part.versions.len(), 1);
    request.from_lsn = part.next_lsn;
    let part = history(request).await.unwrap();
    assert_eq!((part.versions.len(), part.versions[0].lsn), (1, first));
    assert_eq!(part.next_lsn, 0);

    // A page and a table that do not exist.
    let none = PageHistoryRequest {
        table: "test/none".to_owned(),
        ..page.clone()
    };
    let status = history(none).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("\"test/none\""), "{status}");
    let future = PageHistoryRequest {
        lsn: 1 << 40,
        ..page
    };
    assert_eq!(
        history(future).await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    let elsewhere = with(LayersRequest {}, &[("xylem-branch", "none")]);
    let status = refused(inspect(&server).await.layers(elsewhere).await);
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a_table_is_found_by_the_name_people_use() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    writer
        .redo(redo::tablespace(9, "./test/my@002dtable#P#p0.ibd", 8))
        .await;
    writer.durable().await;
    wait_applied(&server, writer.lsn).await;
    for (table, space) in [
        ("test/my-table#P#p0", 9),
        ("test/my@002dtable#P#p0", 9),
        ("test/t1", 5),
        ("test/t1.ibd", 5),
        ("./test/t1", 5),
        ("ibdata1", 0),
    ] {
        let request = PageHistoryRequest {
            table: table.to_owned(),
            ..PageHistoryRequest::default()
        };
        let answer = inspect(&server).await.page_history(request).await;
        assert_eq!(answer.unwrap().into_inner().space_id, space, "{table}");
    }
}

#[tokio::test]
async fn a_scrub_on_demand_tells_what_it_finds() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    flushed(&server, &mut writer).await;
    let (done, findings) = scrub(&server).await;
    assert_eq!((done.damage, done.unreadable, findings.len()), (0, 0, 0));
    let progress = done.progress.unwrap();
    assert_eq!((progress.branches_done, progress.branches), (1, 1));
    assert!(progress.bytes_done >= progress.bytes && progress.bytes > 1 << 19);

    let layer = layers(&server).await[0].name.clone();
    flip(&file_of(dir.path(), &layer), 5000);
    let (done, findings) = scrub(&server).await;
    assert_eq!((done.damage, findings.len()), (1, 1));
    let found = &findings[0];
    assert_eq!(
        (found.branch.as_str(), found.kind.as_str()),
        ("main", "damaged")
    );
    assert_eq!(found.file, layer);
    assert!(found.message.contains("CRC-32C"), "{}", found.message);

    let mut client = inspect(&server).await;
    let last = client.last_scrubs(LastScrubsRequest {}).await.unwrap();
    let last = last.into_inner();
    assert_eq!(last.bytes_per_second, 0);
    assert_eq!(last.branches[0].findings, findings);
    assert!(!last.branches[0].ended_at.is_empty());
    let (_, text) = common::http_get(server.addrs.http, "/metrics").await;
    for line in [
        "xylem_scrubs_total{branch=\"main\"} 2",
        "xylem_scrub_damage_total{branch=\"main\"} 1",
        "xylem_scrub_damaged{branch=\"main\"} 1",
        "xylem_layer_runs{branch=\"main\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(text.contains("xylem_write_amplification{branch=\"main\"} "));
}

#[tokio::test]
async fn one_scrub_at_a_time_and_it_ends_with_its_caller() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    flushed(&server, &mut writer).await;
    let slow = ScrubRequest {
        all: false,
        bytes_per_second: 1,
    };
    let mut client = inspect(&server).await;
    let mut first = client.scrub(slow).await.unwrap().into_inner();
    first.message().await.unwrap().unwrap();
    let status = refused(client.scrub(slow).await);
    assert_eq!(status.code(), Code::FailedPrecondition);
    drop(first);
    let begin = Instant::now();
    let all = loop {
        match client.scrub(ScrubRequest { all: true, ..slow }).await {
            Ok(stream) => break stream.into_inner(),
            Err(_) => assert!(begin.elapsed() < Duration::from_secs(10)),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // The server does not wait for the scrub.
    let begin = Instant::now();
    server.stop();
    assert!(begin.elapsed() < Duration::from_secs(8));
    drop(all);
}

#[tokio::test]
async fn the_server_scrubs_by_itself_if_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    args.scrub_bytes_per_second = Some("3MiB".to_owned());
    let server = Server::with(config(&args)).unwrap();
    let mut client = inspect(&server).await;
    let last = client.last_scrubs(LastScrubsRequest {}).await.unwrap();
    let last = last.into_inner();
    assert_eq!(last.bytes_per_second, 3 << 20);
    assert_eq!(last.branches[0].ended_at, "");
}

#[tokio::test]
async fn how_all_does_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    flushed(&server, &mut writer).await;
    let mut client = inspect(&server).await;
    let request = DiagnoseRequest { probe_store: true };
    let answer = client.diagnose(request).await.unwrap().into_inner();
    let store = answer.store.unwrap();
    assert!(store.url.starts_with("file://"));
    assert_eq!((store.error.as_str(), store.probe_error.as_str()), ("", ""));
    assert!(store.probed);
    assert_eq!(answer.disks.len(), 2);
    assert!(
        answer
            .disks
            .iter()
            .all(|d| d.free_bytes > 0 && d.total_bytes >= d.free_bytes)
    );
    let branch = &answer.branches[0];
    assert_eq!(
        (branch.branch.as_str(), branch.stopped.as_str()),
        ("main", "")
    );
    assert_eq!(
        (branch.applied_lsn, branch.durable_lsn),
        (writer.lsn, writer.lsn)
    );
    assert!(branch.resume_lsn > 12288 && branch.resume_lsn <= writer.lsn);
    assert!(branch.wal_first_position <= branch.resume_position);
    assert!(branch.resume_position <= branch.wal_end_position);
    assert_eq!(branch.runs, 1);
    assert_eq!(
        (&branch.flush_trouble, &branch.merge_trouble),
        (&None, &None)
    );
    assert_eq!(branch.oldest_lsn, 12288);
    assert!(!branch.busy && branch.holds.is_empty());
    let answer = client
        .diagnose(DiagnoseRequest { probe_store: false })
        .await;
    assert!(!answer.unwrap().into_inner().store.unwrap().probed);
    // Nothing of a branch that nobody has written is missing.
    common::branch::create(&server, "dev", "main").await;
    let answer = client.diagnose(DiagnoseRequest::default()).await.unwrap();
    let dev = &answer.get_ref().branches[0];
    assert_eq!((dev.branch.as_str(), dev.durable_lsn), ("dev", writer.lsn));
    assert!(dev.resume_lsn <= dev.durable_lsn, "{dev:?}");
}
