//! Writing whole files, and reading logs.

use crate::files::{self, SECRET};

#[test]
fn a_write_replaces_the_whole_and_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    files::write_atomic(&path, b"a long first version", SECRET).unwrap();
    files::write_durable(&path, b"short", SECRET).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"short");
    assert_eq!(files::mode_of(&path), Some(SECRET));
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "a temporary file stayed"
    );
}

#[test]
fn a_write_that_fails_leaves_the_old() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    std::fs::create_dir(&path).unwrap();
    std::fs::write(path.join("inside"), b"").unwrap();
    assert!(files::write_atomic(&path, b"x", SECRET).is_err());
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "a temporary file stayed"
    );
}

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
    let words = files::last_words(&log, old.len() as u64);
    assert_eq!(words, "  | [ERROR] Unknown option");
}

#[test]
fn last_words_without_errors_are_the_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
    std::fs::write(&log, text).unwrap();
    let words = files::last_words(&log, 0);
    assert_eq!(words.lines().count(), 12);
    assert!(words.ends_with("  | line 99"));
    // The log was replaced by a shorter one: all of it is new.
    assert!(files::last_words(&log, 1 << 40).ends_with("  | line 99"));
    assert_eq!(files::last_words(&dir.path().join("none"), 0), "");
}

#[test]
fn what_dies_without_an_error_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::write(&log, "[Note] one\n").unwrap();
    assert!(files::last_errors(&log, 0).contains("killed"));
    std::fs::write(&log, "[Note] one\n[ERROR] two\n").unwrap();
    assert_eq!(files::last_errors(&log, 0), "  | [ERROR] two");
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
    assert!(files::last_words(&log, 0).contains("the reason"));
    assert!(!files::last_words(&log, 0).contains("note"));
}

#[test]
fn logs_are_for_their_owner() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    std::fs::write(&path, "old\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    use std::io::Write;
    writeln!(files::open_log(&path, None).unwrap(), "new").unwrap();
    assert_eq!(files::mode_of(&path), Some(0o600));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
}

#[test]
fn paths_are_resolved_as_far_as_they_lead() {
    let dir = tempfile::tempdir().unwrap();
    let real = std::fs::canonicalize(dir.path()).unwrap();
    std::fs::create_dir(real.join("a")).unwrap();
    std::os::unix::fs::symlink(real.join("a"), real.join("link")).unwrap();
    for (path, there) in [
        ("a/x/y", "a/x/y"),
        ("link/x", "a/x"),
        ("a/../a/./x", "a/x"),
        ("a/x/../y", "a/y"),
        ("none/../link/x", "a/x"),
    ] {
        assert_eq!(
            files::resolved(&real.join(path)),
            real.join(there),
            "{path}"
        );
    }
}
