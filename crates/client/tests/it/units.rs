//! Parts that need no server: the order of frames, names, backoff, texts.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use proptest::prelude::*;
use std::time::Duration;
use xylem_client::backoff::Jitter;
use xylem_client::redo::{COALESCE_MAX, FileOp, State};
use xylem_client::refusal::{Closed, Code, Refusal};
use xylem_client::sidefiles::engines::{holds_rows, may_hold_rows};
use xylem_client::sidefiles::names::{is_database, is_side_file, may_be_side_file};
use xylem_client::status::Status;
use xylem_client::tablespace::{normalise, write_file};
use xylem_wire::{Ack, Fault, FrameHead, HEADER_BYTES, Space};

fn ack(durable_seq: u64, durable_lsn: u64) -> Ack {
    Ack {
        durable_seq,
        durable_lsn,
        applied_lsn: 0,
    }
}

#[test]
fn small_redo_joins_and_a_file_operation_ends_the_frame() {
    let mut state = State::new(7, 1000);
    state.push_redo(1000, b"abc").unwrap();
    state.push_redo(1003, b"def").unwrap();
    assert_eq!((state.last_seq(), state.next_lsn()), (8, 1006));
    assert_eq!(
        state.push_file(&FileOp::Unlink {
            path: "t.frm".to_owned()
        }),
        9
    );
    state.push_redo(1006, b"ghi").unwrap();
    assert_eq!(state.seq_for(1001), 8);
    assert_eq!(state.seq_for(1006), 8);
    assert_eq!(state.seq_for(1007), 10);
    assert_eq!(state.seq_for(9999), 10);
    assert_eq!(state.take(usize::MAX).0.len(), 3);
    // The frame was sent, so new redo goes to a new frame.
    state.push_redo(1009, b"jkl").unwrap();
    assert_eq!(state.last_seq(), 11);
    assert!(state.acknowledge(&ack(9, 1006)).unwrap());
    assert_eq!((state.durable_seq(), state.durable_lsn()), (9, 1006));
    assert_eq!(state.seq_for(1006), 9);
    assert!(!state.acknowledge(&ack(9, 1006)).unwrap());
    // An acknowledgement of a frame that was never sent, or at an LSN before its
    // end.
    assert!(state.acknowledge(&ack(11, 1012)).is_err());
    assert!(state.acknowledge(&ack(10, 1008)).is_err());
}

#[test]
fn frames_are_bounded() {
    let mut state = State::new(0, 0);
    let piece = vec![1u8; COALESCE_MAX / 2 + 1];
    for n in 0..4 {
        state.push_redo(n * piece.len() as u64, &piece).unwrap();
    }
    assert_eq!(state.take(usize::MAX).0.len(), 4);
    assert!(state.push_redo(5, b"x").is_err());
}

proptest! {
    /// A stream breaks at random. The server must end up with all that was pushed,
    /// and a frame must be the same whenever it is sent.
    #[test]
    fn resuming_loses_and_doubles_nothing(steps in proptest::collection::vec((0u8..6, 1usize..3000), 1..200)) {
        let mut state = State::new(0, 0);
        let mut server: Vec<Vec<u8>> = Vec::new();
        // The frames sent on the current stream that the server has not read.
        let mut wire: std::collections::VecDeque<(u64, Vec<u8>)> = Default::default();
        let mut ends = vec![0u64];
        let mut next_on_stream = 1u64;
        for (kind, n) in steps {
            match kind {
                0 | 1 => {
                    let from = state.next_lsn();
                    state.push_redo(from, &vec![n as u8; n]).unwrap();
                }
                2 => {
                    state.push_file(&FileOp::Truncate { path: "t.frm".to_owned(), size: n as u64 });
                }
                3 => {
                    for frame in state.take(n * 10).0 {
                        wire.push_back((next_on_stream, frame.to_vec()));
                        next_on_stream += 1;
                    }
                }
                4 => {
                    for _ in 0..n % 5 {
                        if let Some((seq, frame)) = wire.pop_front() {
                            if seq as usize <= server.len() {
                                prop_assert_eq!(&server[seq as usize - 1], &frame);
                            } else {
                                prop_assert_eq!(seq as usize, server.len() + 1);
                                ends.push(ends[ends.len() - 1] + redo_len(&frame));
                                server.push(frame);
                            }
                        }
                    }
                    state.acknowledge(&ack(server.len() as u64, ends[server.len()])).unwrap();
                }
                _ => {
                    wire.clear();
                    state.resume(&ack(server.len() as u64, ends[server.len()])).unwrap();
                    next_on_stream = server.len() as u64 + 1;
                }
            }
        }
        // Delivers all remaining frames.
        for (seq, frame) in wire.drain(..).chain((next_on_stream..).zip(state.take(usize::MAX).0.iter().map(|f| f.to_vec())).collect::<Vec<_>>()) {
            if seq as usize > server.len() {
                prop_assert_eq!(seq as usize, server.len() + 1);
                ends.push(ends[ends.len() - 1] + redo_len(&frame));
                server.push(frame);
            }
        }
        prop_assert_eq!(ends[server.len()], state.next_lsn());
        state.acknowledge(&ack(server.len() as u64, ends[server.len()])).unwrap();
        prop_assert_eq!((state.bytes(), state.durable_lsn()), (0, state.next_lsn()));
    }
}

fn redo_len(frame: &[u8]) -> u64 {
    let (head, payload) = FrameHead::decode(&frame[HEADER_BYTES..]).unwrap();
    if head.kind == 3 {
        payload.len() as u64
    } else {
        0
    }
}

#[test]
fn names() {
    for yes in [
        "shop/t.frm",
        "shop/t.frm~",
        "shop/v.frm-",
        "shop/t.TRG-",
        "shop/r.TRN-",
        "shop/t.par",
        "shop/t.TRG",
        "shop/t.TRG~",
        "shop/r.TRN",
        "shop/db.opt",
        "shop/t#P#p0.frm",
        "shop/#sql-alter-1a-5.frm",
        "shop/#sql-backup-1a-5.frm",
        "mysql/general_log.frm",
        "mysql/general_log2.CSV",
        "shop/general_log.CSV",
        "shop/general_log.CSM",
        "ddl_recovery.log",
        "ddl_recovery-backup.log",
        "multi-master.info",
        "master.info",
        "master-a.info",
        "relay-log.info",
        "relay-log-a.info",
        "xylem.binlog",
        "@0023x/t.frm",
        "ib_buffer_pool",
        "xylem.start_pages",
        "binlog.000001",
        "binlog.1000000",
        "binlog.index",
        "binlog.state",
        "binlog.~rec~",
    ] {
        assert!(is_side_file(yes), "{yes}");
        assert!(may_be_side_file(format!("./{yes}").as_bytes()), "{yes}");
    }
    for no in [
        "mysql/general_log.CSV",
        "mysql/general_log.CSM",
        "mysql/slow_log.CSV",
        "mysql/slow_log.CSM",
        "",
        "shop",
        "shop/",
        "shop/t.ibd",
        "ibdata1",
        "undo001",
        "ib_logfile0",
        "ibtmp1",
        "ib_buffer_pool.incomplete",
        "xylem.start_pages.new",
        "shop/ib_buffer_pool",
        "aria_log.00000001",
        "aria_log_control",
        "mysql/t.MAI",
        "mysql/t.MAD",
        "shop/t.MYI",
        "shop/t.MYD",
        "host.pid",
        "mysql.sock",
        "host.err",
        "mysql_upgrade_info",
        "mariadb_upgrade_info",
        "shop/t.isl",
        "binlog",
        "binlog.00001",
        "binlog.000001x",
        "mysql-bin.000001",
        "shop/binlog.000001",
        "core",
        "shop/.frm",
        "shop/t.frm.bak",
        "shop/t.CSN",
        "a/b/t.frm",
        "#innodb/t.frm",
        "shop/ddl_recovery.log",
        "shop/master.info",
        "shop/#sql-temptable-1-2-3.frm",
        "slow.info",
    ] {
        assert!(!is_side_file(no), "{no}");
    }
    assert!(is_database("shop") && is_database("@0023x"));
    for no in ["", "a/b", "#sql", ".git", "lost+found"] {
        assert!(!is_database(no), "{no}");
    }
}

/// Its list of pages and its note on binary logs would stay on the machine otherwise.
#[test]
fn the_plugin_writes_side_files() {
    for source in [
        include_str!("../../../../mariadb/innobase/page_server/page_server_prepared.cc"),
        include_str!("../../../../mariadb/innobase/page_server/page_server_start.cc"),
    ] {
        let line = source.lines().find(|line| line.contains(" FILE_NAME[]"));
        let name = line.and_then(|line| line.split('"').nth(1));
        let name = name.expect("the source names its file");
        assert!(is_side_file(name), "{name}");
        assert!(may_be_side_file(name.as_bytes()), "{name}");
    }
}

#[test]
fn files_in_which_other_engines_keep_rows() {
    for yes in [
        "shop/t.MYD",
        "shop/t.MYI",
        "mysql/t.MAD",
        "mysql/t.MAI",
        "shop/t.ARZ",
        "shop/t.CSV",
        "shop/general_log.CSV",
        "mysql/proc.CSM",
        "shop/t#P#p0.MYD",
        "shop/#sql-alter-1-2.MAD",
    ] {
        assert!(holds_rows(yes), "{yes}");
        assert!(may_hold_rows(format!("./{yes}").as_bytes()), "{yes}");
    }
    for no in [
        "",
        "t.MYD",
        "shop/t.frm",
        "shop/t.ibd",
        "shop/MYD",
        "aria_log_control",
        "aria_log.00000001",
        "shop/#sql-temptable-1-2-3.MAI",
        "#tmp/t.MYD",
        "a/b/t.MYD",
        "mysql/general_log.CSV",
        "mysql/general_log2.CSM",
        "mysql/slow_log_backup.CSV",
    ] {
        assert!(!holds_rows(no), "{no}");
    }
}

#[test]
fn backoff_is_bounded_and_spread() {
    let mut jitter = Jitter::new(1);
    let waits: Vec<Duration> = (0..1000).map(|_| jitter.wait(1)).collect();
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(20)));
    assert!(waits.iter().any(|wait| *wait < Duration::from_millis(5)));
    assert!(waits.iter().any(|wait| *wait > Duration::from_millis(15)));
    for attempt in [0, 1, 10, 100, u32::MAX] {
        assert!(jitter.wait(attempt) <= Duration::from_secs(2));
    }
}

#[test]
fn statuses() {
    for number in 0..=16 {
        let known = Code::from_number(number) != Code::Unknown;
        assert_eq!(known, !matches!(number, 2 | 6), "{number}");
    }
    assert_eq!(Code::from_number(u32::MAX), Code::Unknown);
    let fault = Fault {
        code: 9,
        message: "epoch 2 owns it",
    };
    let refusal = Refusal::from(fault);
    assert_eq!(refusal.code, Code::FailedPrecondition);
    let closed = Closed::Refused(refusal);
    assert_eq!(closed.to_string(), "epoch 2 owns it (FAILED_PRECONDITION)");
    // A requests that the server could not answer yet is made again on the same
    // connection; a connection is opened again after more.
    for code in [Code::Unavailable, Code::Aborted, Code::DeadlineExceeded] {
        assert!(code.retry_request() && code.retry_connection(), "{code}");
        assert_eq!(code.status(), Status::Timeout);
    }
    for code in [Code::Ok, Code::Unknown, Code::Internal, Code::Cancelled] {
        assert!(!code.retry_request() && code.retry_connection(), "{code}");
    }
    for code in [
        Code::NotFound,
        Code::FailedPrecondition,
        Code::Unauthenticated,
        Code::DataLoss,
        Code::InvalidArgument,
    ] {
        assert!(!code.retry_request() && !code.retry_connection(), "{code}");
    }
    for code in 0..=8 {
        assert_eq!(Status::from_code(code).code(), code);
    }
    assert_eq!(Status::NotFound.worst(Status::Fenced), Status::Fenced);
    assert_eq!(Status::Corrupt.worst(Status::Ok), Status::Corrupt);
}

#[test]
fn tablespace_files() {
    assert_eq!(normalise("./a//b.ibd").as_deref(), Some("a/b.ibd"));
    for no in ["", "/a", "../a", "a/../../b", "."] {
        assert_eq!(normalise(no), None, "{no}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.ibd");
    let mut space = Space {
        size: 100,
        pages: vec![(90, vec![1; 11])],
        ..Default::default()
    };
    assert!(write_file(&file, &space).is_err());
    space.pages = vec![(u64::MAX, vec![1])];
    assert!(write_file(&file, &space).is_err());
    space.pages = vec![(90, vec![1; 10])];
    write_file(&file, &space).unwrap();
    // An existing file is not replaced.
    space.size = 200;
    write_file(&file, &space).unwrap();
    assert_eq!(std::fs::read(&file).unwrap().len(), 100);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // A table of 50 dots has a file name of nearly 255 bytes.
    let long = dir.path().join("@002e".repeat(50) + ".ibd");
    write_file(&long, &space).unwrap();
    assert!(long.exists());
}

/// An operation that the server refuses must not get into the stream, because no
/// frame after it would be accepted.
#[test]
fn a_path_that_no_file_has_is_not_sent() {
    let unlink = |len: usize| FileOp::Unlink {
        path: "x".repeat(len),
    };
    assert!(unlink(4096).has_short_paths());
    assert!(!unlink(4097).has_short_paths());
    let rename = FileOp::Rename {
        from: "x".to_owned(),
        to: "y".repeat(1 << 20),
    };
    assert!(!rename.has_short_paths());
}
