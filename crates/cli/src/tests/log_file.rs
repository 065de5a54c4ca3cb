//! The ends of log files, and the errors in them.

use crate::files;
use crate::log_file::{last_errors, last_words};
use crate::spawn::open_log;

#[test]
fn last_words_are_the_errors_of_this_run() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let old = "[ERROR] of an earlier run\n";
    std::fs::write(
        &log,
        format!("{old}[Note] one\n[ERROR] Unknown option\n[Note] two\n"),
    )
    .unwrap();
    let words = last_words(&log, old.len() as u64);
    assert_eq!(words, "  | [ERROR] Unknown option");
}

#[test]
fn last_words_without_errors_are_the_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
    std::fs::write(&log, text).unwrap();
    let words = last_words(&log, 0);
    assert_eq!(words.lines().count(), 12);
    assert!(words.ends_with("  | line 99"));
    // The log was replaced by a shorter one: all of it is new.
    assert!(last_words(&log, 1 << 40).ends_with("  | line 99"));
    assert_eq!(last_words(&dir.path().join("none"), 0), "");
}

#[test]
fn what_dies_without_an_error_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::write(&log, "[Note] one\n").unwrap();
    assert!(last_errors(&log, 0).contains("killed"));
    std::fs::write(&log, "[Note] one\n[ERROR] two\n").unwrap();
    assert_eq!(last_errors(&log, 0), "  | [ERROR] two");
}

#[test]
fn what_a_panic_says_is_among_the_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::write(
        &log,
        "a\nthread 'x' panicked at b.rs:1:2:\nthe reason\nnote: c\n",
    )
    .unwrap();
    assert!(last_words(&log, 0).contains("the reason"));
    assert!(!last_words(&log, 0).contains("note"));
}

#[test]
fn logs_are_for_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "old\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    use std::io::Write;
    writeln!(open_log(&path, None).unwrap(), "new").unwrap();
    assert_eq!(files::mode_of(&path), Some(0o600));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
}
