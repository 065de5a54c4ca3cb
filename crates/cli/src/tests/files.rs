//! Writing whole files, and resolving paths.

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
