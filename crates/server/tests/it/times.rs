//! Moments given as times.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use crate::common::branch::{Reader, at_lsn, at_time, list, named, restore_at, try_create};
use crate::common::redo::mark;
use crate::common::{Server, Writer, refused, with, with_database};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use tonic::Code;
use xylem_proto::control::{BaseBackupRequest, ResolveTimeRequest, base_item::Item};

/// Long enough for the next sample of the clock.
const WHILE: Duration = Duration::from_millis(60);

/// Returns the time, with a pause before and after it.
async fn between() -> String {
    tokio::time::sleep(WHILE).await;
    let now = Timestamp::now();
    tokio::time::sleep(WHILE).await;
    now.to_string()
}

/// Values 1, 2, … of a page, and for each a time at which it was the newest.
async fn history(writer: &mut Writer, values: u32) -> Vec<(String, u32, u64)> {
    let mut moments = Vec::new();
    for value in 1..=values {
        writer.redo(mark(5, 3, value)).await;
        writer.durable().await;
        moments.push((between().await, value, writer.lsn));
    }
    moments
}

#[tokio::test]
async fn a_branch_of_a_time_shows_what_was_there_then() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path());
    let (_, mut main) = with_database(&server).await;
    let before = between().await;
    let moments = history(&mut main, 4).await;
    for round in 0..2 {
        for (time, value, _) in &moments {
            let name = format!("v{value}-{round}");
            try_create(&server, &name, "main", at_time(time))
                .await
                .unwrap();
            let seen = Reader::new(&server, &name).newest(5, 3, 0).await;
            assert_eq!(seen, *value, "at {time}, round {round}");
        }
        let name = format!("before-{round}");
        try_create(&server, &name, "main", at_time(&before))
            .await
            .unwrap();
        assert_eq!(
            Reader::new(&server, &name).newest(5, 3, 0).await,
            0xaabb_ccdd
        );
        // The times are in the WAL, so ingest finds them again after a restart.
        server.crash();
        server = Server::start(dir.path());
    }
    // A child branch has its parent's history.
    let (time, value, _) = &moments[1];
    try_create(&server, "grand", "v3-0", at_time(time))
        .await
        .unwrap();
    assert_eq!(Reader::new(&server, "grand").newest(5, 3, 0).await, *value);
    // The same time with a UTC offset.
    let zoned = time.parse::<Timestamp>().unwrap();
    let zoned = zoned.to_zoned(jiff::tz::TimeZone::fixed(jiff::tz::offset(5)));
    let zoned = zoned.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string();
    try_create(&server, "zoned", "main", at_time(&zoned))
        .await
        .unwrap();
    assert_eq!(Reader::new(&server, "zoned").newest(5, 3, 0).await, *value);
    // A branch can be restored to a time.
    let restored = restore_at(&server, "main", at_time(time), "kept")
        .await
        .unwrap();
    assert_eq!(restored.kept.unwrap().name, "kept");
    assert_eq!(Reader::new(&server, "main").newest(5, 3, 0).await, *value);
    assert_eq!(Reader::new(&server, "kept").newest(5, 3, 0).await, 4);
}

#[tokio::test]
async fn times_outside_the_history_are_refused_with_what_is_possible() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let started = Timestamp::now();
    let (_, mut main) = with_database(&server).await;
    history(&mut main, 2).await;
    let hour = SignedDuration::from_hours(1);
    for time in [started - hour, Timestamp::now() + hour] {
        let status = try_create(&server, "never", "main", at_time(&time.to_string()))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        for part in [
            format!("{time} is outside the history of branch main"),
            "from LSN 12288 (20".to_owned(),
            format!("to LSN {} (20", main.lsn),
        ] {
            assert!(status.message().contains(&part), "{status:?}: no {part}");
        }
    }
    // The error about an LSN outside the history also gives times.
    let status = try_create(&server, "never", "main", at_lsn(1))
        .await
        .unwrap_err();
    assert_eq!(status.message().matches("Z)").count(), 2, "{status:?}");
    for text in ["yesterday", "14:05", "2026-11-22", ""] {
        let status = try_create(&server, "never", "main", at_time(text))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{text:?}: {status:?}");
    }
    let told = list(&server, false).await;
    let main = named(&told, "main");
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let (oldest, newest) = (time(&main.oldest_time), time(&main.newest_time));
    assert!(started - SignedDuration::from_secs(60) < oldest && oldest < newest);
    assert!(newest <= Timestamp::now());
}

#[tokio::test]
async fn a_moment_is_told_as_lsn_and_as_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut main) = with_database(&server).await;
    let moments = history(&mut main, 3).await;
    let mut control = server.control().await;
    let mut ask = async |at| {
        let request = ResolveTimeRequest {
            branch: String::new(),
            at,
            ..ResolveTimeRequest::default()
        };
        control.resolve_time(request).await
    };
    let mut last = 0;
    for (time, _, end) in &moments {
        let told = ask(at_time(time)).await.unwrap().into_inner();
        // Everything that ended by that time, and nothing later.
        assert!(told.lsn >= *end && told.lsn > last, "{told:?}, {end}");
        assert!(told.time.parse::<Timestamp>().unwrap() <= time.parse().unwrap());
        last = told.lsn;
        let back = ask(at_lsn(told.lsn)).await.unwrap().into_inner();
        assert_eq!((back.lsn, back.time), (told.lsn, told.time));
        assert_eq!((told.oldest_lsn, told.newest_lsn), (12288, main.lsn));
    }
    assert_eq!(refused(ask(at_lsn(1)).await).code(), Code::OutOfRange);
}

/// MariaDB writes a statement into side files before InnoDB writes any redo of it. An
/// earlier moment must not show those operations.
#[tokio::test]
async fn a_file_that_was_written_later_is_not_there_though_no_redo_came_between() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 3, 1)).await;
    main.durable().await;
    let lsn = main.lsn;
    let time = between().await;
    main.file(common::redo::create("test/late.frm")).await;
    main.durable().await;
    tokio::time::sleep(WHILE).await;
    main.redo(mark(5, 3, 2)).await;
    main.durable().await;
    for (name, at) in [("by-time", at_time(&time)), ("by-lsn", at_lsn(lsn))] {
        try_create(&server, name, "main", at).await.unwrap();
        assert_eq!(files(&server, name).await, ["test/t1.frm"], "{name}");
    }
}

/// The side files of a branch.
async fn files(server: &Server, branch: &str) -> Vec<String> {
    let request = with(BaseBackupRequest::default(), &[("xylem-branch", branch)]);
    let mut control = server.control().await;
    let mut items = control.base_backup(request).await.unwrap().into_inner();
    let mut files = Vec::new();
    while let Some(item) = items.message().await.unwrap() {
        if let Some(Item::File(file)) = item.item {
            files.push(file.path);
        }
    }
    files
}

/// As after a DDL statement: its last side-file operation comes a while after its redo. The
/// LSN that is reported then includes the whole statement.
#[tokio::test]
async fn the_lsn_shown_after_an_operation_on_side_files_has_it_and_nothing_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 3, 1)).await;
    main.durable().await;
    tokio::time::sleep(WHILE).await;
    main.file(common::redo::create("test/done.frm")).await;
    main.durable().await;
    let shown = named(&list(&server, false).await, "main").clone();
    assert!(shown.last_lsn > main.lsn, "{shown:?}");
    assert_eq!(shown.applied_lsn, shown.last_lsn);
    // At once, without a pause that would separate it from earlier operations.
    main.file(common::redo::create("test/later.frm")).await;
    main.durable().await;
    let mut control = server.control().await;
    let request = ResolveTimeRequest::default();
    let told = control.resolve_time(request).await.unwrap().into_inner();
    assert!(told.lsn > shown.last_lsn, "{told:?} {shown:?}");
    assert_eq!(told.newest_lsn, told.lsn);
    main.file(common::redo::create("test/last.frm")).await;
    main.durable().await;
    let want = ["test/done.frm", "test/later.frm", "test/t1.frm"];
    for (name, lsn, files_there) in [
        ("shown", shown.last_lsn, vec![want[0], want[2]]),
        ("told", told.lsn, want.to_vec()),
    ] {
        let made = try_create(&server, name, "main", at_lsn(lsn)).await;
        assert_eq!(made.unwrap().branch_point_lsn, lsn);
        assert_eq!(files(&server, name).await, files_there, "{name}");
    }
    // A reported LSN is still valid after a restart, which reads the WAL again.
    drop(main);
    server.stop();
    let server = Server::start(dir.path());
    let again = try_create(&server, "again", "main", at_lsn(told.newest_lsn)).await;
    assert!(again.is_ok(), "{again:?}");
    // An error names only valid LSNs.
    let far = try_create(&server, "far", "main", at_lsn(1 << 40)).await;
    let text = far.unwrap_err().message().to_owned();
    let newest = named(&list(&server, false).await, "main").last_lsn;
    assert!(
        text.contains(&format!("to LSN {newest}")),
        "{text} {newest}"
    );
    try_create(&server, "end", "main", at_lsn(newest))
        .await
        .unwrap();
    assert_eq!(files(&server, "end").await.len(), 4);
}
