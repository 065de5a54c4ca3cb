//! Processes: their identity, and their end.

use super::kit::me;
use crate::process::{Process, Stat, parse_stat};
use rustix::process::Signal;
use std::process::{Command, Stdio};
use std::time::Duration;

fn sleeper() -> (std::process::Child, Process) {
    let child = Command::new("sleep")
        .arg("100")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process::find(child.id()).unwrap();
    (child, process)
}

#[test]
fn a_command_with_parentheses_does_not_confuse() {
    let line = "17 (a) S (b)) S 1 17 17 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 1000 2";
    assert_eq!(
        parse_stat(line),
        Some(Stat {
            state: 'S',
            threads: 3,
            start_time: 987_654
        })
    );
    assert_eq!(parse_stat("17 (x"), None);
    assert_eq!(parse_stat(""), None);
    assert_eq!(parse_stat("17 (x) S 1 2 3"), None);
}

#[test]
fn this_process_is_alive() {
    assert!(me().is_alive());
    assert_eq!(Process::from_tag(&me().tag()), Some(me()));
    assert_eq!(Process::from_tag("17"), None);
}

#[test]
fn a_reused_number_is_another_process() {
    let (mut child, process) = sleeper();
    let other = Process {
        start_time: process.start_time + 1,
        ..process
    };
    assert!(process.is_alive());
    assert!(!other.is_alive());
    assert!(!other.signal(Signal::KILL).unwrap());
    assert!(
        child.try_wait().unwrap().is_none(),
        "the wrong process was killed"
    );
    assert!(process.signal(Signal::KILL).unwrap());
    child.wait().unwrap();
}

#[test]
fn numbers_that_are_none_are_gone() {
    for pid in [0, u32::MAX, i32::MAX as u32] {
        let process = Process { pid, start_time: 1 };
        assert!(!process.is_alive());
        assert!(!process.signal(Signal::KILL).unwrap());
    }
}

#[tokio::test]
async fn a_zombie_is_gone() {
    let (mut child, process) = sleeper();
    process.signal(Signal::KILL).unwrap();
    assert!(
        process.wait_gone(Duration::from_secs(5)).await,
        "nobody has waited for it yet"
    );
    child.wait().unwrap();
}

#[tokio::test]
async fn stop_asks_first() {
    let (mut child, process) = sleeper();
    process
        .stop(Duration::from_secs(5), || panic!("it was asked and went"))
        .await
        .unwrap();
    child.wait().unwrap();
    // And once more: nothing to do.
    process
        .stop(Duration::from_secs(5), || panic!("it is gone"))
        .await
        .unwrap();
}

#[tokio::test]
async fn stop_insists() {
    let mut child = Command::new("sh")
        .args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let process = Process::find(child.id()).unwrap();
    let mut told = false;
    process
        .stop(Duration::from_millis(50), || told = true)
        .await
        .unwrap();
    assert!(told);
    assert!(!process.is_alive());
    child.wait().unwrap();
}

#[test]
fn mariadbd_learns_no_credentials() {
    use crate::spawn::harmless;
    for name in ["PATH", "LANG", "LC_ALL", "TZ"] {
        assert!(harmless(name.as_ref()), "{name}");
    }
    for name in [
        "AWS_SECRET_ACCESS_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "MYSQL_PWD",
        "XYLEM_TOKEN",
        "HOME",
        "LD_PRELOAD",
        "MYSQLD_OPTS",
        "lc_all",
    ] {
        assert!(!harmless(name.as_ref()), "{name}");
    }
}
