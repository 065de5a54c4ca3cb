//! Side files. A C program performs mariadbd's file operations with the library
//! preloaded. The frames that the server receives must rebuild the same tree.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common;
use crate::common::replay::{replay_onto, same};
use crate::common::{Server, code};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use xylem_client::client::Client;
use xylem_client::redo::FileOp;
use xylem_client::status::Status;
use xylem_client::tablespace;
use xylem_wire::Space;

fn program(dir: &Path) -> std::path::PathBuf {
    let program = dir.join("files");
    let here = env!("CARGO_MANIFEST_DIR");
    let built = Command::new("cc")
        .args(["-O2", "-Wall", "-Werror", "-D_FORTIFY_SOURCE=2", "-o"])
        .arg(&program)
        .arg(format!("-I{here}/include"))
        .arg(format!("{here}/tests/c/files.c"))
        .arg(common::library())
        .arg("-lpthread")
        .status()
        .unwrap();
    assert!(built.success());
    program
}

fn command(program: &Path, port: u16, datadir: &Path, mode: &str) -> Command {
    let mut command = Command::new(program);
    command
        .arg(port.to_string())
        .arg(datadir)
        .arg(mode)
        .env("LD_LIBRARY_PATH", common::library().parent().unwrap())
        .env("LD_PRELOAD", common::library())
        .env("XYLEM_DATADIR", datadir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn finish(child: std::process::Child) {
    let out = child.wait_with_output().unwrap();
    assert!(
        out.status.success() && out.stdout.ends_with(b"ok\n"),
        "{:?}: {}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

fn tablespace() -> Space {
    Space {
        path: "early/t.ibd".to_owned(),
        size: 10 * 16384,
        pages: vec![(0, vec![1; 16384])],
        flags: 21,
    }
}

#[test]
fn what_the_server_got_rebuilds_the_tree() {
    let server = Server::start();
    server.script().tablespaces.insert(5, tablespace());
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("data");
    fs::create_dir(&datadir).unwrap();
    let program = program(dir.path());
    let child = command(&program, server.addr.port(), &datadir, "all")
        .spawn()
        .unwrap();
    finish(child);
    let script = server.script();
    assert_eq!(script.problems, Vec::<String>::new());
    assert_eq!(script.redo(), b"abcd");
    // Redo and side-file operations arrive in the order of the calls.
    let order: Vec<String> = script
        .frames
        .iter()
        .map(|frame| match frame.op() {
            Some(FileOp::Mkdir { path, .. }) => format!("Mkdir {path}"),
            Some(FileOp::Create { path, .. }) => format!("Create {path}"),
            Some(FileOp::Write { path, .. }) => format!("Write {path}"),
            Some(other) => format!("{other:?}"),
            None => String::from_utf8(frame.payload().to_vec()).unwrap(),
        })
        .collect();
    let start = [
        "Mkdir early",
        "Create early/db.opt",
        "Write early/db.opt",
        "Create early/t.frm",
        "Write early/t.frm",
        "Write early/t.frm",
        "a",
        "Mkdir shop",
        "Create shop/db.opt",
        "Write shop/db.opt",
        "b",
    ];
    assert_eq!(order[..start.len()], start);
    assert_eq!(script.frames.last().unwrap().redo(), Some(&b"d"[..]));
    let copy = tempfile::tempdir().unwrap();
    replay_onto(copy.path(), &script.frames);
    same(&datadir, copy.path());
    // The tablespace exists, is sparse, and was not sent.
    let ibd = fs::read(datadir.join("early/t.ibd")).unwrap();
    assert_eq!((ibd.len(), ibd[0], ibd[16384]), (10 * 16384, 1, 0));
    assert_eq!(fs::read_dir(datadir.join("early")).unwrap().count(), 3);
}

#[test]
fn a_data_directory_behind_a_link_is_found() {
    let server = Server::start();
    server.script().tablespaces.insert(5, tablespace());
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("data");
    fs::create_dir(&datadir).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&datadir, &link).unwrap();
    let program = program(dir.path());
    finish(
        command(&program, server.addr.port(), &link, "all")
            .spawn()
            .unwrap(),
    );
    let copy = tempfile::tempdir().unwrap();
    replay_onto(copy.path(), &server.script().frames);
    same(&datadir, copy.path());
}

#[test]
fn without_the_variable_nothing_is_sent() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path());
    // Mode "none": opens and closes, sends no redo.
    let mut command = command(&program, server.addr.port(), dir.path(), "none");
    let child = command.env_remove("XYLEM_DATADIR").spawn().unwrap();
    let out = child.wait_with_output().unwrap();
    // Without the variable a wrong data directory goes unnoticed, so that this
    // check fails.
    assert!(!out.status.success());
    assert!(server.script().frames.is_empty());
}

#[test]
fn unconnected_operations_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let program = program(dir.path());
    finish(command(&program, 0, dir.path(), "all").spawn().unwrap());
    let dir = tempfile::tempdir().unwrap();
    finish(command(&program, 0, dir.path(), "full").spawn().unwrap());
}

#[test]
fn other_files_in_a_disposable_data_directory_are_not_synced() {
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("data");
    fs::create_dir(&datadir).unwrap();
    let program = program(dir.path());
    let mut disposable = command(&program, 0, &datadir, "syncs");
    disposable.env("XYLEM_DATADIR_DISPOSABLE", "1");
    finish(disposable.spawn().unwrap());
    for pipe in [datadir.join("pipe"), dir.path().join("pipe")] {
        fs::remove_file(pipe).unwrap();
    }
    let kept = command(&program, 0, &datadir, "syncs").output().unwrap();
    assert!(
        !kept.status.success(),
        "a directory that is kept must be synced"
    );
}

#[test]
fn an_earlier_server_s_log_is_fetched_when_it_is_read() {
    const PIECE: u32 = 1 << 20;
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("data");
    fs::create_dir(&datadir).unwrap();
    let content = |size: u64| {
        (0..size)
            .map(|at| ((at * 7) >> 3) as u8)
            .collect::<Vec<u8>>()
    };
    for (number, size) in [(3, 5 << 19), (4, 3000), (5, 100), (6, 50)] {
        let file = fs::File::create(datadir.join(format!("binlog.{number:06}"))).unwrap();
        file.set_len(size).unwrap();
        if number != 5 {
            server.script().logs.insert(number, content(size));
        }
    }
    let program = program(dir.path());
    let mut child = command(&program, server.addr.port(), &datadir, "log");
    finish(child.spawn().unwrap());
    let script = server.script();
    // Each piece once, and the one that is missing.
    let asked = script.log_requests.iter();
    let mut asked: Vec<_> = asked
        .map(|get| (get.number, get.offset, get.length))
        .collect();
    asked.sort_unstable();
    let expected = [
        (3, 0, PIECE),
        (3, 1 << 20, PIECE),
        (3, 2 << 20, PIECE / 2),
        (4, 0, 3000),
        (5, 0, 100),
        (6, 0, 50),
    ];
    assert_eq!(asked, expected);
    assert!(script.log_requests.iter().all(|get| get.min_lsn == 12288));
    // The redo comes before each write to the log.
    let ops: Vec<String> = script
        .frames
        .iter()
        .map(|frame| match frame.op() {
            Some(FileOp::Write { path, offset, .. }) => format!("write {path} {offset}"),
            Some(FileOp::Truncate { path, size }) => format!("cut {path} {size}"),
            Some(FileOp::Unlink { path }) => format!("remove {path}"),
            Some(FileOp::Create { path, .. }) => format!("make {path}"),
            Some(other) => format!("{other:?}"),
            None => "redo".to_owned(),
        })
        .collect();
    let from = ops.iter().position(|op| op == "redo").unwrap();
    let expected = [
        "redo",
        "write binlog.000004 9",
        "cut binlog.000004 20",
        "remove binlog.000005",
        "make binlog.000005",
        "redo",
        "write binlog.000005 0",
        "make binlog.index",
        "write binlog.index 0",
    ];
    assert_eq!(ops[from..], expected);
}

#[test]
fn files_of_other_engines_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("data");
    fs::create_dir(&datadir).unwrap();
    let program = program(dir.path());
    let out = command(&program, 0, &datadir, "only-innodb")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    for name in ["u.MAD", "u.MAI", "log.CSV", "u.ARZ", "t.MYI"] {
        let line = format!("[ERROR] Xylem: refused to create early/{name}: ");
        assert!(said.contains(&line), "{name}: {said}");
    }
}

#[test]
fn a_fenced_compute_is_told_so() {
    let server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let datadir = dir.path().join("data");
    fs::create_dir(&datadir).unwrap();
    let program = program(dir.path());
    let mut child = command(&program, server.addr.port(), &datadir, "fenced")
        .spawn()
        .unwrap();
    common::eventually("connected", || server.script().frames.len() >= 6);
    server.script().wal_status = Some((code::FAILED_PRECONDITION, "epoch 2 owns it"));
    child.stdin.take().unwrap().write_all(b"g").unwrap();
    finish(child);
}

/// A client with a data directory, which optionally has `early`, and a server
/// with tablespace 5.
fn opener(early: bool) -> (Server, tempfile::TempDir, Client) {
    let server = Server::start();
    server.script().tablespaces.insert(5, tablespace());
    let dir = tempfile::tempdir().unwrap();
    if early {
        fs::create_dir(dir.path().join("early")).unwrap();
    }
    let mut config = server.config();
    config.datadir = Some(dir.path().to_owned());
    config.request_timeout_ms = 2000;
    config.retry_limit_ms = 300;
    let client = Client::start(config).unwrap();
    (server, dir, client)
}

fn open(client: &Client, id: u32) -> Result<String, Status> {
    let space = tablespace::open(client, id, true);
    space.map(|space| space.path).map_err(|error| error.status)
}

/// InnoDB skips the rollback of rows in a tablespace that it cannot open.
/// Therefore only a tablespace that is certainly missing may be reported as
/// missing.
#[test]
fn a_tablespace_is_missing_only_for_certain() {
    let (server, dir, client) = opener(true);
    assert_eq!(open(&client, 6), Err(Status::NotFound));
    // The branch is unknown, not the tablespace.
    server.script().status = Some((code::NOT_FOUND, "there is no branch main"));
    let begin = Instant::now();
    assert_eq!(open(&client, 5), Err(Status::Error));
    assert!(begin.elapsed() >= Duration::from_millis(100));
    server.script().status = None;
    // Any other failure is retried.
    server.script().tablespace_statuses = vec![
        (code::PERMISSION_DENIED, "the token has just changed"),
        (code::UNKNOWN, "who knows"),
        (code::UNAVAILABLE, "the store is away"),
    ];
    assert_eq!(open(&client, 5), Ok("early/t.ibd".to_owned()));
    // An unreadable tablespace is not missing.
    server.script().tablespace_statuses = vec![(code::DATA_LOSS, "page 5:0 is damaged")];
    assert_eq!(open(&client, 5), Err(Status::Corrupt));
    assert!(dir.path().join("early/t.ibd").exists());
    client.shutdown();
}

#[test]
fn a_tablespace_whose_file_cannot_be_made_is_tried_again() {
    let (_server, dir, client) = opener(false);
    assert_eq!(open(&client, 5), Err(Status::Error));
    client.shared().limits.set(0, 30_000);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&client, 5));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!opened.is_finished());
        fs::create_dir(dir.path().join("early")).unwrap();
        assert_eq!(opened.join().unwrap(), Ok("early/t.ibd".to_owned()));
    });
    client.shutdown();
}

/// The server responds, and its store is unavailable for longer than the retry
/// limit.
#[test]
fn a_tablespace_is_waited_for() {
    let (server, _dir, client) = opener(true);
    server.script().tablespace_statuses = vec![(code::UNAVAILABLE, "the store is away"); 100_000];
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&client, 5));
        while begin.elapsed() < Duration::from_millis(1500) {
            assert!(!opened.is_finished(), "it must wait");
            std::thread::sleep(Duration::from_millis(20));
        }
        server.script().tablespace_statuses.clear();
        assert_eq!(opened.join().unwrap(), Ok("early/t.ibd".to_owned()));
    });
    client.shutdown();
}

/// InnoDB asks while it holds its dictionary lock, so that the call must not wait
/// until the server has read this compute's redo.
#[test]
fn a_tablespace_that_was_never_opened_is_asked_for_as_of_the_start() {
    let (server, _dir, client) = opener(true);
    client
        .stream_wal(common::START, b"of other tables")
        .unwrap();
    assert_eq!(open(&client, 5), Ok("early/t.ibd".to_owned()));
    let space = tablespace::open(&client, 5, false).unwrap();
    assert_eq!(space.path, "early/t.ibd");
    let asked: Vec<(u64, bool)> = server
        .script()
        .tablespace_requests
        .iter()
        .map(|request| (request.min_lsn, request.no_pages))
        .collect();
    assert_eq!(asked, [(common::START, false), (common::START, true)]);
    client.shutdown();
}

/// The lists of hot pages and of the start name tablespaces to open, each under InnoDB's
/// dictionary lock.
#[test]
fn tablespaces_that_were_fetched_are_opened_without_a_request() {
    let (server, dir, client) = opener(true);
    let requests = || server.script().tablespace_requests.len();
    tablespace::fetch(&client, &[5]).unwrap();
    assert!(!dir.path().join("early/t.ibd").exists());
    assert_eq!(requests(), 1);
    assert_eq!(open(&client, 5), Ok("early/t.ibd".to_owned()));
    assert!(dir.path().join("early/t.ibd").exists());
    assert_eq!(requests(), 1);
    // It stands for one call, of this tablespace.
    assert_eq!(open(&client, 5), Ok("early/t.ibd".to_owned()));
    assert_eq!(requests(), 2);
    // One that is missing hides no other.
    let missing = tablespace::fetch(&client, &[6, 5, 7]);
    assert_eq!(missing.unwrap_err().status, Status::NotFound);
    assert_eq!(requests(), 5);
    assert_eq!(open(&client, 6), Err(Status::NotFound));
    assert_eq!(open(&client, 5), Ok("early/t.ibd".to_owned()));
    assert_eq!(requests(), 6);
    tablespace::fetch(&client, &[5]).unwrap();
    client.fetched().forget(&[7, 5]);
    assert_eq!(open(&client, 5), Ok("early/t.ibd".to_owned()));
    assert_eq!(requests(), 8);
    client.shutdown();
}
