//! Computes against a server: attaching, writing, fencing, reconnecting.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use crate::common::redo::{mark, marked, verify};
use crate::common::{Server, Writer, page, refused, with, with_database};
use tonic::Code;
use xylem_proto::control::{BaseBackupRequest, GetTablespaceRequest, base_item::Item};
use xylem_proto::pageserver::{FileOp, GetPageRequest, PingRequest, WalFrame, wal_frame};
use xylem_types::SIDE_FILE_MAX;

#[tokio::test]
async fn an_empty_branch_is_attached_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (attached, mut writer) = with_database(&server).await;
    assert_eq!(attached.epoch, 1);
    let mut pages = server.pages().await;
    let got = pages.get_page(page(5, 3)).await.unwrap().into_inner();
    verify(&got.page, 5, 3);
    assert_eq!(marked(&got.page), 0xaabb_ccdd);
    assert_eq!(got.lsn, writer.lsn);
    // A page that was never written is all zeros.
    let got = pages.get_page(page(5, 9)).await.unwrap().into_inner();
    assert_eq!(got.page.len(), 16384);
    assert!(got.page.iter().all(|&byte| byte == 0));
    // The version before a change is still readable.
    let before = writer.lsn;
    writer.redo(mark(5, 3, 7)).await;
    writer.durable().await;
    let at = |lsn| GetPageRequest { lsn, ..page(5, 3) };
    let new = pages.get_page(at(writer.lsn)).await.unwrap().into_inner();
    let old = pages.get_page(at(before)).await.unwrap().into_inner();
    assert_eq!((marked(&old.page), marked(&new.page)), (0xaabb_ccdd, 7));
    assert_eq!((old.lsn, new.lsn), (before, writer.lsn));
    let ping = pages.ping(PingRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (ping.durable_lsn, ping.applied_lsn, ping.epoch),
        (writer.lsn, writer.lsn, 1)
    );
}

#[tokio::test]
async fn an_older_compute_is_fenced_and_its_late_frames_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut old) = with_database(&server).await;
    // A torn mtr is durable, and is cut when the next compute attaches.
    let whole = old.lsn;
    let torn = mark(5, 3, 666);
    old.redo(torn[..torn.len() - 3].to_vec()).await;
    old.durable().await;
    let attached = server.attach().await;
    assert!(!attached.empty);
    assert_eq!((attached.epoch, attached.start_lsn), (2, whole + 16));

    let expected =
        "epoch 1 is refused: epoch 2 owns branch main; another compute has taken it over";
    let ended = old.end().await.unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::FailedPrecondition, expected)
    );
    let refusal = Writer::try_open(&server, 1).await.err().unwrap();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::FailedPrecondition, expected)
    );
    let refusal = refused(
        server
            .pages()
            .await
            .get_page(with(page(5, 3), &[("xylem-epoch", "1")]))
            .await,
    );
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::FailedPrecondition, expected)
    );
    let refusal = refused(
        server
            .pages()
            .await
            .get_page(with(page(5, 3), &[("xylem-epoch", "3")]))
            .await,
    );
    assert_eq!(refusal.code(), Code::FailedPrecondition);

    // The new compute sees neither the torn bytes nor late frames.
    let mut new = Writer::open(&server, 2).await;
    assert_eq!((new.seq, new.lsn), (1, whole + 16));
    new.redo(mark(5, 3, 42)).await;
    new.durable().await;
    let request = GetPageRequest {
        min_lsn: new.lsn,
        ..page(5, 3)
    };
    let got = server
        .pages()
        .await
        .get_page(with(request, &[("xylem-epoch", "2")]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(marked(&got.page), 42);
}

#[tokio::test]
async fn attaches_at_the_same_time_give_different_epochs() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    with_database(&server).await;
    let mut calls = Vec::new();
    for _ in 0..8 {
        let mut control = server.control().await;
        calls.push(tokio::spawn(async move {
            control
                .attach(xylem_proto::control::AttachRequest {})
                .await
                .unwrap()
                .into_inner()
        }));
    }
    let mut given = Vec::new();
    for call in calls {
        let attached = call.await.unwrap();
        given.push((attached.epoch, attached.start_lsn));
    }
    given.sort_unstable();
    assert_eq!(
        given.iter().map(|(epoch, _)| *epoch).collect::<Vec<_>>(),
        (2..=9).collect::<Vec<_>>()
    );
    assert!(given.windows(2).all(|two| two[0].1 + 16 == two[1].1));
}

#[tokio::test]
async fn a_stream_resumes_after_a_disconnect_and_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (attached, writer) = with_database(&server).await;
    let (mut seq, mut lsn) = (writer.seq, writer.lsn);
    drop(writer);
    for round in 0..4u32 {
        let mut writer = Writer::open(&server, attached.epoch).await;
        assert_eq!(
            (writer.first.durable_seq, writer.first.durable_lsn),
            (seq, lsn),
            "round {round}"
        );
        // Resent frames are ignored.
        let redo = mark(5, 4, round);
        writer.redo(redo.clone()).await;
        let (at, end) = (writer.seq, writer.lsn);
        writer
            .send(WalFrame {
                seq: at,
                start_lsn: lsn,
                body: Some(wal_frame::Body::Redo(redo.into())),
                ..WalFrame::default()
            })
            .await;
        writer.durable().await;
        (seq, lsn) = (at, end);
        match round {
            0 => {}
            1 => {
                server.stop();
                server = Server::start(dir.path());
            }
            _ => {
                server.crash();
                server = Server::start(dir.path());
            }
        }
        let request = GetPageRequest {
            min_lsn: lsn,
            ..page(5, 4)
        };
        let epoch = attached.epoch.to_string();
        let got = server
            .pages()
            .await
            .get_page(with(request, &[("xylem-epoch", &epoch)]))
            .await
            .unwrap();
        assert_eq!(marked(&got.into_inner().page), round);
    }
}

#[tokio::test]
async fn a_newer_stream_of_the_same_epoch_replaces_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (attached, mut first) = with_database(&server).await;
    let mut second = Writer::open(&server, attached.epoch).await;
    assert_eq!(first.end().await.unwrap_err().code(), Code::Aborted);
    second.redo(mark(5, 3, 1)).await;
    second.durable().await;
}

#[tokio::test]
async fn a_stream_that_its_compute_closes_ends_when_all_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    writer.redo(mark(5, 3, 1)).await;
    writer.frames = None;
    writer.durable().await;
    writer.end().await.unwrap();
}

#[tokio::test]
async fn frames_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (attached, writer) = with_database(&server).await;
    let (seq, lsn) = (writer.seq, writer.lsn);
    drop(writer);
    let redo = |bytes: &'static [u8]| Some(wal_frame::Body::Redo(bytes.into()));
    let op = |path: &str| Some(wal_frame::Body::File(common::redo::create(path)));
    let cases = [
        (
            seq + 2,
            lsn,
            redo(b"x"),
            format!("frame {} at LSN {lsn} is next", seq + 1),
        ),
        (
            seq + 1,
            lsn + 1,
            redo(b"x"),
            format!("frame {} at LSN {lsn} is next", seq + 1),
        ),
        (0, lsn, redo(b"x"), "numbered from 1".to_owned()),
        (
            seq + 1,
            lsn,
            None,
            "neither redo nor a file operation".to_owned(),
        ),
        (seq + 1, lsn, redo(b""), "empty".to_owned()),
        (seq + 1, lsn, op("../etc/passwd"), "file.path".to_owned()),
        (seq + 1, lsn, op("/etc/passwd"), "file.path".to_owned()),
        (seq + 1, lsn, op(""), "file.path".to_owned()),
        (
            seq + 1,
            lsn,
            Some(wal_frame::Body::File(FileOp {
                offset: SIDE_FILE_MAX,
                ..common::redo::write("test/t1.frm", b"x")
            })),
            format!("a side file of {} bytes", SIDE_FILE_MAX + 1),
        ),
    ];
    for (seq, start_lsn, body, message) in cases {
        let mut writer = Writer::open(&server, attached.epoch).await;
        writer
            .send(WalFrame {
                seq,
                start_lsn,
                body,
                ..WalFrame::default()
            })
            .await;
        let ended = writer.end().await.unwrap_err();
        assert_eq!(ended.code(), Code::InvalidArgument, "{ended:?}");
        assert!(
            ended.message().contains(&message),
            "{ended:?} does not say {message}"
        );
    }
    let mut pages = server.pages().await;
    let no_epoch = refused(pages.stream_wal(tokio_stream::empty::<WalFrame>()).await);
    assert_eq!(no_epoch.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_base_backup_has_what_a_compute_needs_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let items = backup(&server, BaseBackupRequest::default()).await;
    assert!(items.is_empty(), "an empty branch has none");
    let (_, mut writer) = with_database(&server).await;
    writer.redo(common::redo::undo_tablespace(1, 640)).await;
    writer.durable().await;
    let attached = server.attach().await;
    let items = backup(
        &server,
        BaseBackupRequest {
            lsn: attached.start_lsn,
            ..Default::default()
        },
    )
    .await;
    let mut seen = Vec::new();
    for item in &items {
        match item {
            Item::Directory(dir) => seen.push(format!("dir {} {:o}", dir.path, dir.mode)),
            Item::File(file) => {
                assert_eq!(&file.data[..], b"frm of t1");
                seen.push(format!("file {} {:o}", file.path, file.mode));
            }
            Item::Tablespace(space) => {
                for sent in &space.pages {
                    let number = u32::try_from(sent.offset / 16384).unwrap();
                    verify(&sent.data, space.space_id, number);
                }
                assert_eq!(space.flags, common::redo::FLAGS);
                seen.push(format!(
                    "space {} {} {} {}",
                    space.space_id,
                    space.path,
                    space.size,
                    space.pages.len()
                ));
            }
            Item::RedoLog(wal) => {
                let header = xylem_redo::read_log_file_header(&wal.data).unwrap();
                assert_eq!(header.checkpoint_lsn.0 + 16, attached.start_lsn);
                assert_eq!(wal.data.len(), 12304);
                seen.push(format!("redo log {}", wal.size));
            }
        }
    }
    let expected = [
        "dir test 700",
        "file test/t1.frm 660",
        "space 0 ibdata1 12582912 2",
        "space 1 undo001 10485760 1",
        "redo log 4294967296",
    ];
    assert_eq!(seen, expected);
    let all = BaseBackupRequest {
        all_tablespaces: true,
        ..Default::default()
    };
    assert_eq!(backup(&server, all).await.len(), expected.len() + 1);

    let mut control = server.control().await;
    let of = |path: &str| GetTablespaceRequest {
        path: path.to_owned(),
        ..Default::default()
    };
    for path in ["test/t1.ibd", "./test/t1.ibd"] {
        let space = control.get_tablespace(of(path)).await.unwrap().into_inner();
        assert_eq!(
            (space.space_id, space.path.as_str(), space.size),
            (5, "test/t1.ibd", 64 * 16384)
        );
        verify(&space.pages[0].data, 5, 0);
    }
    let by_id = |space_id| GetTablespaceRequest {
        space_id,
        ..Default::default()
    };
    let space = control.get_tablespace(by_id(5)).await.unwrap();
    assert_eq!(space.into_inner().path, "test/t1.ibd");
    assert_eq!(
        refused(control.get_tablespace(by_id(999)).await).code(),
        Code::NotFound
    );
    assert_eq!(
        refused(control.get_tablespace(of("test/t2.ibd")).await).code(),
        Code::NotFound
    );
    assert_eq!(
        refused(control.get_tablespace(of("../t2.ibd")).await).code(),
        Code::InvalidArgument
    );
}

async fn backup(server: &Server, request: BaseBackupRequest) -> Vec<Item> {
    let mut stream = server
        .control()
        .await
        .base_backup(request)
        .await
        .unwrap()
        .into_inner();
    let mut items = Vec::new();
    while let Some(item) = stream.message().await.unwrap() {
        items.push(item.item.unwrap());
    }
    items
}

#[tokio::test]
async fn the_newest_version_after_a_restart_is_not_older_than_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (_, mut writer) = with_database(&server).await;
    for round in 0..3u32 {
        for _ in 0..2000 {
            writer.redo(mark(5, 3, round)).await;
        }
        writer.redo(mark(5, 3, round + 1000)).await;
        writer.durable().await;
        server.crash();
        server = Server::start(dir.path());
        // A read without an LSN, before ingest has read the WAL again.
        let got = server
            .pages()
            .await
            .get_page(page(5, 3))
            .await
            .unwrap()
            .into_inner();
        assert_eq!((marked(&got.page), got.lsn), (round + 1000, writer.lsn));
        writer = Writer::open(&server, 1).await;
    }
}

/// The place at which a frame is damaged after its compute computed the checksums.
#[tokio::test]
async fn frames_damaged_on_the_way_are_refused_and_taken_when_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (attached, writer) = with_database(&server).await;
    let (seq, lsn) = (writer.seq, writer.lsn);
    drop(writer);
    let good = [
        wal_frame::Body::Redo(mark(5, 3, 1).into()),
        wal_frame::Body::File(common::redo::create("test/a.frm")),
    ]
    .map(|body| {
        common::redo::with_sums(WalFrame {
            seq: seq + 1,
            start_lsn: lsn,
            body: Some(body),
            ..WalFrame::default()
        })
    });
    let [redo, file] = good.clone();
    let mut damaged = vec![
        WalFrame {
            payload_crc32c: redo.payload_crc32c.map(|crc| crc ^ 1),
            ..redo.clone()
        },
        WalFrame {
            header_crc32c: redo.header_crc32c.map(|crc| crc ^ 1),
            ..redo.clone()
        },
        WalFrame {
            header_crc32c: file.header_crc32c.map(|crc| crc ^ 1),
            ..file.clone()
        },
        WalFrame {
            seq: seq + 2,
            ..redo.clone()
        },
        WalFrame {
            start_lsn: lsn + 1,
            ..file.clone()
        },
        // The two entries have the same bytes in the WAL except for the kind.
        WalFrame {
            body: Some(wal_frame::Body::File(common::redo::mkdir("test/a.frm"))),
            ..file.clone()
        },
    ];
    for at in 0..mark(5, 3, 1).len() {
        let mut bytes = mark(5, 3, 1);
        bytes[at] ^= 0x10;
        let body = Some(wal_frame::Body::Redo(bytes.into()));
        damaged.push(WalFrame {
            body,
            ..redo.clone()
        });
    }
    for frame in damaged {
        let mut writer = Writer::open(&server, attached.epoch).await;
        assert_eq!(
            (writer.first.durable_seq, writer.first.durable_lsn),
            (seq, lsn)
        );
        let said = format!("frame {} at LSN {} was damaged", frame.seq, frame.start_lsn);
        writer.send(frame).await;
        let ended = writer.end().await.unwrap_err();
        assert_eq!(ended.code(), Code::DataLoss, "{ended:?}");
        assert!(ended.message().contains(&said), "{ended:?}");
    }
    // A frame without checksums comes from an older client library.
    let mut writer = Writer::open(&server, attached.epoch).await;
    let bare = WalFrame {
        header_crc32c: None,
        ..redo.clone()
    };
    writer.send(bare).await;
    let ended = writer.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::InvalidArgument, "{ended:?}");
    let (_, metrics) = common::http_get(server.addrs.http, "/metrics").await;
    let count = metrics
        .lines()
        .find(|line| line.starts_with("xylem_wal_refused_total{"));
    let many = mark(5, 3, 1).len() + 6;
    assert!(count.unwrap().ends_with(&format!(" {many}")), "{count:?}");
    // Frames sent again are accepted, and the failed attempts leave no trace.
    let mut writer = Writer::open(&server, attached.epoch).await;
    writer.redo(mark(5, 3, 1)).await;
    writer.applied().await;
    let got = server.pages().await.get_page(page(5, 3)).await.unwrap();
    assert_eq!(marked(&got.into_inner().page), 1);
}

/// InnoDB itself wrote invalid redo, so the frames' checksums are right. The redo must not
/// enter the WAL: ingest would stop there for good, and no compute could attach any more.
/// The mini-transaction spans frames, streams and a restart of the server:
///
///   frame n      the first part of the mtr, durable
///   (restart)    the server knows only what the WAL has
///   frame n + 1  another part
///   (reconnect)  the stream ends, a new one goes on
///   frame n + 2  the rest, with a wrong checksum: refused, each time it comes
#[tokio::test]
async fn redo_that_is_none_is_not_acknowledged_and_a_new_compute_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (attached, mut writer) = with_database(&server).await;
    let whole = writer.lsn;
    let mut torn = mark(5, 3, 7);
    assert!(torn.len() > 9);
    *torn.last_mut().unwrap() ^= 1;
    writer.redo(torn[..3].to_vec()).await;
    writer.durable().await;
    drop(writer);
    server.stop();
    server = Server::start(dir.path());
    let mut writer = Writer::open(&server, attached.epoch).await;
    writer.redo(torn[3..6].to_vec()).await;
    writer.durable().await;
    let (seq, lsn) = (writer.seq, writer.lsn);
    drop(writer);
    for _ in 0..2 {
        let mut writer = Writer::open(&server, attached.epoch).await;
        assert_eq!(
            (writer.first.durable_seq, writer.first.durable_lsn),
            (seq, lsn)
        );
        writer.redo(torn[6..].to_vec()).await;
        let ended = writer.end().await.unwrap_err();
        assert_eq!(ended.code(), Code::DataLoss, "{ended:?}");
        for said in [
            format!("redo at LSN {whole}"),
            "CRC-32C".to_owned(),
            format!("frame {}", seq + 1),
        ] {
            assert!(
                ended.message().contains(&said),
                "{ended:?} does not say {said}"
            );
        }
    }
    // The frames before an invalid frame in its group are accepted.
    assert_eq!(common::http_get(server.addrs.http, "/readyz").await.0, 200);
    let attached = server.attach().await;
    assert_eq!(attached.start_lsn, whole + 16);
    let mut writer = Writer::open(&server, attached.epoch).await;
    let good = mark(5, 3, 8);
    // Cut at every byte, in one group and in single frames.
    for byte in good {
        writer.redo(vec![byte]).await;
    }
    writer.redo(mark(5, 4, 9)).await;
    writer.redo(vec![0; 100]).await;
    let ended = writer.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::DataLoss, "{ended:?}");
    let end = writer.lsn - 100;
    let mut writer = Writer::open(&server, attached.epoch).await;
    while writer.first.durable_lsn < end {
        drop(writer);
        writer = Writer::open(&server, attached.epoch).await;
    }
    assert_eq!(writer.lsn, end);
    writer.redo(mark(5, 5, 10)).await;
    writer.applied().await;
    let mut pages = server.pages().await;
    for (no, value) in [(3, 8), (4, 9), (5, 10)] {
        let got = pages.get_page(page(5, no)).await.unwrap();
        assert_eq!(marked(&got.into_inner().page), value);
    }
}
