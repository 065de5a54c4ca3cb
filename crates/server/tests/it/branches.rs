//! Creating, removing, renaming and restoring branches over gRPC.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use crate::common::branch::{
    Reader, at_lsn, create, create_at, list, named, names, refused_create, remove, rename, restore,
};
use crate::common::redo::mark;
use crate::common::{Server, Writer, http_get, page, refused, with, with_database};
use std::time::Instant;
use tonic::Code;
use xylem_proto::control::{
    AttachRequest, CreateBranchRequest, ListBranchesRequest, ResolveTimeRequest,
    RestoreBranchRequest,
};
use xylem_proto::pageserver::PageStreamRequest;

#[tokio::test]
async fn a_branch_shares_the_past_and_has_a_future_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 4, 1)).await;
    main.durable().await;
    // The branch has everything acknowledged, ingested or not.
    let dev = create(&server, "dev", "main").await;
    assert_eq!(
        (dev.parent.as_str(), dev.branch_point_lsn, dev.last_lsn),
        ("main", main.lsn, main.lsn)
    );
    assert_eq!((dev.epoch, dev.wal_bytes, dev.layer_bytes), (0, 0, 0));
    let attached = server.attach_to("dev").await.unwrap();
    assert_eq!(
        (attached.epoch, attached.start_lsn, attached.empty),
        (1, main.lsn + 16, false)
    );
    assert_eq!(attached.branch_id, dev.id);
    let dev_id = format!("id:{}", dev.id);
    let mut child = Writer::open_on(&server, &dev_id, 1).await.unwrap();
    child.redo(mark(5, 3, 22)).await;
    child.durable().await;
    main.redo(mark(5, 4, 11)).await;
    main.durable().await;

    for round in 0..3 {
        let on = |branch| Reader::new(&server, branch);
        assert_eq!(on("main").newest(5, 3, main.lsn).await, 0xaabb_ccdd);
        assert_eq!(on("main").newest(5, 4, main.lsn).await, 11, "{round}");
        assert_eq!(on("dev").newest(5, 3, child.lsn).await, 22, "{round}");
        assert_eq!(on("dev").newest(5, 4, child.lsn).await, 1, "{round}");
        assert_eq!(
            on(&dev_id).at(5, 3, dev.branch_point_lsn).await,
            0xaabb_ccdd
        );
        match round {
            0 => {
                server.stop();
                server = Server::start(dir.path());
            }
            1 => {
                server.crash();
                server = Server::start(dir.path());
            }
            _ => {}
        }
    }
    // A child of the branch, and one whose branch point is in the parent's history.
    let past = dev.branch_point_lsn;
    let grand = create(&server, "grand", "dev").await;
    assert_eq!(
        (grand.parent.as_str(), grand.branch_point_lsn),
        ("dev", child.lsn)
    );
    let aunt = create_at(&server, "aunt", "dev", past - 1).await.unwrap();
    assert_eq!(
        (aunt.parent.as_str(), aunt.branch_point_lsn),
        ("main", past - 1)
    );
    assert_eq!(Reader::new(&server, "grand").newest(5, 3, 0).await, 22);
    assert_eq!(Reader::new(&server, "aunt").newest(5, 4, 0).await, 0);
    let told = list(&server, false).await;
    let children = |name: &str| named(&told, name).children.clone();
    assert_eq!(children("main"), ["aunt", "dev"]);
    assert_eq!(children("dev"), ["grand"]);
}

#[tokio::test]
async fn a_branch_leaves_at_any_lsn_of_the_history_and_at_none_outside() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    // An empty branch has no branch point.
    let status = refused_create(&server, "early", "main", None).await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("empty"), "{status:?}");

    let (_, mut main) = with_database(&server).await;
    let mut ends = vec![(main.lsn, 0)];
    for value in 1..=20u32 {
        main.redo(mark(5, 4, value)).await;
        ends.push((main.lsn, value));
    }
    main.durable().await;
    for (end, value) in &ends {
        for (lsn, expected) in [(*end, *value), (*end + 1, *value)] {
            if lsn > main.lsn {
                continue;
            }
            let name = format!("at-{lsn}");
            let made = create_at(&server, &name, "main", lsn).await.unwrap();
            // The history is cut after the last whole mtr.
            assert_eq!(made.branch_point_lsn, lsn);
            let seen = Reader::new(&server, &name).newest(5, 4, 0).await;
            assert_eq!(seen, expected, "at {lsn}");
        }
    }
    for lsn in [1, 12_287, main.lsn + 1, u64::MAX] {
        let status = refused_create(&server, "never", "main", Some(lsn)).await;
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        for part in [
            "branch main",
            &format!("LSN {lsn} is outside"),
            "from LSN 12288",
            &format!("to LSN {}", main.lsn),
        ] {
            assert!(status.message().contains(part), "{status:?}: no {part}");
        }
    }
    assert!(!names(&server).await.contains(&"never".to_owned()));
    // A torn mtr is durable but has no effect: a moment within it equals the one before.
    let whole = main.lsn;
    let torn = mark(5, 4, 99);
    main.redo(torn[..torn.len() - 2].to_vec()).await;
    main.durable().await;
    let made = create_at(&server, "torn", "main", main.lsn).await.unwrap();
    assert_eq!(made.branch_point_lsn, whole);
    assert_eq!(Reader::new(&server, "torn").newest(5, 4, 0).await, 20);
}

#[tokio::test]
async fn names_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    with_database(&server).await;
    let dev = create(&server, "dev", "main").await;
    let mut control = server.control().await;
    let ask = |name: &str, from: &str| CreateBranchRequest {
        name: name.to_owned(),
        from: from.to_owned(),
        ..CreateBranchRequest::default()
    };
    for (name, from, code) in [
        ("dev", "main", Code::AlreadyExists),
        ("main", "", Code::AlreadyExists),
        ("x", "nobody", Code::NotFound),
        ("x", "id:0123", Code::InvalidArgument),
        ("x", "id:00000000000000000000000000000007", Code::NotFound),
        ("", "main", Code::InvalidArgument),
        ("a//b", "main", Code::InvalidArgument),
        ("main@1", "main", Code::InvalidArgument),
        ("-x", "main", Code::InvalidArgument),
    ] {
        let status = refused(control.create_branch(ask(name, from)).await);
        assert_eq!(status.code(), code, "{name:?} from {from:?}: {status:?}");
    }
    // A branch is also found by its id.
    let by_id = format!("id:{}", dev.id);
    let made = control.create_branch(ask("more", &by_id)).await.unwrap();
    assert_eq!(made.into_inner().parent, "dev");
    let one = ListBranchesRequest {
        name: by_id,
        leases: false,
    };
    let told = control.list_branches(one).await.unwrap().into_inner();
    assert_eq!(told.branches.len(), 1);
    assert_eq!(told.branches[0].name, "dev");

    // Only one of many concurrent requests gets a name.
    let wanted: Vec<_> = (0..8)
        .map(|_| {
            let mut control = control.clone();
            let ask = ask("popular", "main");
            tokio::spawn(async move { control.create_branch(ask).await })
        })
        .collect();
    let mut got = 0;
    for call in wanted {
        match call.await.unwrap() {
            Ok(_) => got += 1,
            Err(status) => assert_eq!(status.code(), Code::AlreadyExists),
        }
    }
    assert_eq!(got, 1);
}

#[tokio::test]
async fn a_branch_goes_with_all_it_has_unless_others_need_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    with_database(&server).await;
    let dev = create(&server, "dev", "main").await;
    create(&server, "one", "dev").await;
    create(&server, "two", "dev").await;
    let status = remove(&server, "dev").await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("one, two"), "{status:?}");
    let status = remove(&server, "main").await.unwrap_err();
    assert!(status.message().contains("dev"), "{status:?}");
    assert_eq!(
        remove(&server, "nobody").await.unwrap_err().code(),
        Code::NotFound
    );
    remove(&server, "one").await.unwrap();
    remove(&server, "two").await.unwrap();

    // The branch's compute has a stream of each kind, and a call.
    let attached = server.attach_to("dev").await.unwrap();
    let id = format!("id:{}", attached.branch_id);
    let mut writer = Writer::open_on(&server, &id, attached.epoch).await.unwrap();
    writer.redo(mark(5, 3, 1)).await;
    writer.durable().await;
    let (requests, receiver) = tokio::sync::mpsc::channel::<PageStreamRequest>(4);
    let epoch = attached.epoch.to_string();
    let metadata = [("xylem-branch", id.as_str()), ("xylem-epoch", &epoch)];
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut pages = server.pages().await;
    let mut answers = pages
        .page_stream(with(stream, &metadata))
        .await
        .unwrap()
        .into_inner();
    let wal = dir.path().join("branches").join(&dev.id);
    let store = dir.path().join("store/branches").join(&dev.id);
    assert!(wal.exists() && store.exists());
    remove(&server, "dev").await.unwrap();
    assert!(!wal.exists() && !store.exists());
    let ended = answers.message().await.unwrap_err();
    for status in [
        ended,
        writer.end().await.unwrap_err(),
        refused(pages.get_page(with(page(5, 3), &metadata)).await),
        Writer::open_on(&server, &id, attached.epoch)
            .await
            .err()
            .unwrap(),
    ] {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert!(status.message().contains("was removed"), "{status:?}");
    }
    drop(requests);
    let bare = [("xylem-branch", id.as_str())];
    let status = refused(pages.get_page(with(page(5, 3), &bare)).await);
    assert_eq!(status.code(), Code::NotFound);
    let (_, text) = http_get(server.addrs.http, "/metrics").await;
    assert!(!text.contains("branch=\"dev\""), "{text}");
    assert!(text.contains("branch=\"main\""));

    // The last branch cannot be removed.
    let status = remove(&server, "main").await.unwrap_err();
    assert!(status.message().contains("only branch"), "{status:?}");
    server.stop();
    let server = Server::start(dir.path());
    assert_eq!(names(&server).await, ["main"]);
}

#[tokio::test]
async fn a_renamed_branch_keeps_its_compute() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    with_database(&server).await;
    let dev = create(&server, "dev", "main").await;
    let attached = server.attach_to("dev").await.unwrap();
    let id = format!("id:{}", dev.id);
    let mut writer = Writer::open_on(&server, &id, attached.epoch).await.unwrap();
    let (_, text) = http_get(server.addrs.http, "/metrics").await;
    assert!(text.contains("xylem_write_amplification{branch=\"dev\"}"));
    let renamed = rename(&server, "dev", "prod").await.unwrap();
    assert_eq!((renamed.name.as_str(), renamed.id), ("prod", dev.id));
    writer.redo(mark(5, 3, 7)).await;
    writer.durable().await;
    let seen = Reader::new(&server, "prod").newest(5, 3, writer.lsn).await;
    assert_eq!(seen, 7);
    assert_eq!(names(&server).await, ["main", "prod"]);
    let (_, text) = http_get(server.addrs.http, "/metrics").await;
    assert!(!text.contains("branch=\"dev\""), "{text}");
    assert!(
        text.contains("xylem_wal_frames_total{branch=\"prod\"} 1"),
        "{text}"
    );

    for (from, to, code) in [
        ("prod", "main", Code::AlreadyExists),
        ("prod", "prod", Code::AlreadyExists),
        ("prod", "a b", Code::InvalidArgument),
        ("dev", "x", Code::NotFound),
    ] {
        let status = rename(&server, from, to).await.unwrap_err();
        assert_eq!(status.code(), code, "{from} to {to}: {status:?}");
    }
    // `main` is a name like any other; a call without a branch means it.
    rename(&server, "main", "trunk").await.unwrap();
    let status = refused(server.pages().await.get_page(page(5, 3)).await);
    assert_eq!(status.code(), Code::NotFound);
    server.crash();
    let server = Server::start(dir.path());
    assert_eq!(names(&server).await, ["prod", "trunk"]);
    let told = list(&server, false).await;
    assert_eq!(named(&told, "prod").parent, "trunk");
    let writer = Writer::open_on(&server, &id, attached.epoch).await.unwrap();
    assert_eq!(writer.first.durable_lsn, writer.lsn);
}

#[tokio::test]
async fn a_restored_branch_begins_in_the_past_and_the_old_line_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (attached, mut old) = with_database(&server).await;
    old.redo(mark(5, 3, 1)).await;
    let good = old.lsn;
    old.redo(mark(5, 3, 666)).await;
    old.durable().await;

    let restored = restore(&server, "main", good, "").await.unwrap();
    let (new, kept) = (restored.branch.unwrap(), restored.kept.unwrap());
    assert_eq!(
        (new.name.as_str(), new.parent.clone(), new.branch_point_lsn),
        ("main", kept.name.clone(), good)
    );
    assert!(kept.name.starts_with("main-before-20"), "{}", kept.name);
    assert_eq!(kept.id, attached.branch_id);
    // The old compute is fenced on both branches: by its id, and by the name under which
    // it attached.
    let status = old.end().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let epoch = attached.epoch;
    for branch in ["main".to_owned(), format!("id:{}", kept.id)] {
        let status = Writer::open_on(&server, &branch, epoch)
            .await
            .err()
            .unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        let metadata = [("xylem-branch", branch.as_str()), ("xylem-epoch", "1")];
        let status = refused(
            server
                .pages()
                .await
                .get_page(with(page(5, 3), &metadata))
                .await,
        );
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    }
    assert_eq!(Reader::new(&server, "main").newest(5, 3, 0).await, 1);
    assert_eq!(Reader::new(&server, &kept.name).newest(5, 3, 0).await, 666);

    // An epoch of the new branch may have the same number as one of the old branch, so a
    // call with an epoch needs the id.
    let again = server.attach_to("main").await.unwrap();
    assert_eq!((again.epoch, again.start_lsn), (epoch, good + 16));
    let status = Writer::open_on(&server, "main", again.epoch)
        .await
        .err()
        .unwrap();
    assert!(status.message().contains(&new.id), "{status:?}");
    let id = format!("id:{}", again.branch_id);
    let mut writer = Writer::open_on(&server, &id, again.epoch).await.unwrap();
    writer.redo(mark(5, 3, 2)).await;
    writer.durable().await;
    assert_eq!(
        Reader::new(&server, "main").newest(5, 3, writer.lsn).await,
        2
    );
    assert_eq!(Reader::new(&server, &kept.name).newest(5, 3, 0).await, 666);

    // Restore again with `keep_as`; then both old branches can be removed.
    let lsn = writer.lsn;
    let status = restore(&server, "main", lsn, "main").await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    let status = restore(&server, "main", lsn + 1, "x").await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    writer.redo(mark(5, 3, 3)).await;
    writer.durable().await;
    restore(&server, "main", lsn, "second").await.unwrap();
    assert_eq!(names(&server).await, ["main", &kept.name, "second"]);
    server.crash();
    let server = Server::start(dir.path());
    assert_eq!(Reader::new(&server, "main").newest(5, 3, 0).await, 2);
    assert_eq!(Reader::new(&server, "second").newest(5, 3, 0).await, 3);
    let bare = RestoreBranchRequest {
        name: "main".to_owned(),
        ..RestoreBranchRequest::default()
    };
    let status = refused(server.control().await.restore_branch(bare).await);
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_attach_and_a_restore_at_once_leave_no_compute_on_the_old_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, main) = with_database(&server).await;
    for _ in 0..10 {
        let mut control = server.control().await;
        let attach = tokio::spawn(async move { control.attach(AttachRequest {}).await });
        let restored = restore(&server, "main", main.lsn, "").await.unwrap();
        let new = restored.branch.unwrap();
        match attach.await.unwrap() {
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
            Ok(attached) => {
                let attached = attached.into_inner();
                let id = format!("id:{}", attached.branch_id);
                let opened = Writer::open_on(&server, &id, attached.epoch).await;
                assert_eq!(opened.is_ok(), attached.branch_id == new.id);
            }
        }
    }
}

#[tokio::test]
async fn an_empty_branch_is_filled_by_its_first_compute() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    with_database(&server).await;
    let request = CreateBranchRequest {
        name: "imported".to_owned(),
        empty: true,
        ..CreateBranchRequest::default()
    };
    let made = server.control().await.create_branch(request).await.unwrap();
    let made = made.into_inner();
    assert_eq!((made.parent.as_str(), made.oldest_lsn), ("", 0));
    server.stop();
    let server = Server::start(dir.path());
    let attached = server.attach_to("imported").await.unwrap();
    assert!(attached.empty);
    let id = format!("id:{}", attached.branch_id);
    let mut writer = Writer::open_on(&server, &id, 1).await.unwrap();
    writer.redo(common::redo::system_tablespace()).await;
    writer.durable().await;
    create(&server, "child", "imported").await;
    // With a second root branch the first can be removed.
    remove(&server, "main").await.unwrap();
    assert_eq!(names(&server).await, ["child", "imported"]);
}

#[tokio::test]
async fn how_far_the_history_reaches_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, main) = with_database(&server).await;
    let mut control = server.control().await;
    let ask = |lsn| ResolveTimeRequest {
        branch: "main".to_owned(),
        at: lsn,
        ..ResolveTimeRequest::default()
    };
    let told = control.resolve_time(ask(None)).await.unwrap().into_inner();
    assert_eq!(
        (told.lsn, told.oldest_lsn, told.newest_lsn),
        (main.lsn, 12288, main.lsn)
    );
    let told = control
        .resolve_time(ask(at_lsn(20_000)))
        .await
        .map(|told| told.into_inner().lsn);
    if main.lsn > 20_000 {
        assert_eq!(told.unwrap(), 20_000);
    } else {
        assert_eq!(told.unwrap_err().code(), Code::OutOfRange);
    }
    let told = list(&server, false).await;
    assert_eq!(named(&told, "main").oldest_lsn, 12288);
}

#[tokio::test]
async fn a_branch_is_made_quickly() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut main) = with_database(&server).await;
    let mut took = Vec::new();
    for number in 0..40u32 {
        main.redo(mark(5, 4, number)).await;
        main.durable().await;
        let started = Instant::now();
        create(&server, &format!("b{number}"), "main").await;
        took.push(started.elapsed());
    }
    took.sort();
    println!(
        "40 branches: median {:?}, slowest {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    // On an idle machine it takes a few milliseconds.
    assert!(took[took.len() / 2].as_millis() < 250, "{took:?}");
    // Until it is written to, each branch costs only its manifest.
    for branch in list(&server, false).await {
        let own = branch.wal_bytes + branch.layer_bytes;
        assert!(branch.name == "main" || own == 0, "{branch:?}");
    }
    let started = Instant::now();
    server.stop();
    let server = Server::start(dir.path());
    println!("stopped and started in {:?}", started.elapsed());
    assert_eq!(names(&server).await.len(), 41);
}
