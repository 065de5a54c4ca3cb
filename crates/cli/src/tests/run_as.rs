//! Whom mariadbd runs as, and what that user can reach.

use super::kit::project;
use crate::account::{self, User};
use crate::files;
use crate::run_as::{self, open_computes};
use crate::state::StateDir;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// Nobody: an account that owns nothing here.
fn nobody() -> User {
    User {
        name: "nobody".to_owned(),
        uid: 65_534,
        gid: 65_534,
    }
}

fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn accounts_are_those_of_the_system() {
    let root = account::find("root").unwrap().unwrap();
    assert_eq!((root.name.as_str(), root.uid), ("root", 0));
    assert_eq!(account::find("no-such-account").unwrap(), None);
}

#[tokio::test]
async fn root_must_be_named_to_be_used() {
    let mut project = project();
    project.settings.compute.user = Some("root".to_owned());
    let found = run_as::of(&project).await;
    if am_root() {
        assert_eq!(found.unwrap(), None);
        project.settings.compute.user = Some("no-such-account".to_owned());
        let text = crate::failure::describe(&run_as::of(&project).await.unwrap_err());
        assert!(
            text.contains("no-such-account") && text.contains("--user"),
            "{text}"
        );
    } else {
        assert!(found.is_err(), "only root can");
        project.settings.compute.user = None;
        assert_eq!(run_as::of(&project).await.unwrap(), None);
    }
}

#[test]
fn the_way_to_a_file_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let real = std::fs::canonicalize(dir.path()).unwrap();
    mode(&real, 0o755);
    let inner = real.join("a/b");
    std::fs::create_dir_all(&inner).unwrap();
    let file = inner.join("f");
    std::fs::write(&file, "x").unwrap();
    mode(&file, 0o644);
    let user = nobody();
    assert_eq!(user.stopped_at(&inner), None);
    assert!(user.can_read(&file));
    mode(&file, 0o600);
    assert!(!user.can_read(&file));
    mode(&file, 0o644);
    mode(&real.join("a"), 0o700);
    assert_eq!(user.stopped_at(&inner), Some(real.join("a")));
    assert!(!user.can_read(&file));
}

#[test]
fn computes_lie_where_the_account_can_reach_them() {
    if !am_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let user = nobody();
    mode(dir.path(), 0o755);

    // Beside the rest, which stays closed to all others.
    let mut state = StateDir::find(Some(&dir.path().join("open"))).unwrap();
    state.create().unwrap();
    open_computes(&user, &state).unwrap();
    open_computes(&user, &state).unwrap();
    assert_eq!(state.computes(), state.root().join("computes"));
    assert_eq!(files::mode_of(state.root()), Some(0o710));
    assert_eq!(user.stopped_at(&state.computes()), None);
    assert_eq!(std::fs::metadata(state.computes()).unwrap().uid(), 0);

    // Elsewhere, when a directory above is closed.
    let closed = dir.path().join("closed");
    files::make_private_dir(&closed).unwrap();
    let mut state = StateDir::find(Some(&closed.join("s"))).unwrap();
    state.create().unwrap();
    open_computes(&user, &state).unwrap();
    let computes = state.computes();
    assert!(
        computes.starts_with(run_as::PLACE),
        "{}",
        computes.display()
    );
    assert_eq!(user.stopped_at(&computes), None);
    open_computes(&user, &state).unwrap();
    assert_eq!(state.computes(), computes);

    // They go when the project has gone.
    let mut other = StateDir::find(Some(&closed.join("other"))).unwrap();
    other.create().unwrap();
    std::fs::remove_dir_all(state.root()).unwrap();
    open_computes(&user, &other).unwrap();
    assert!(!computes.exists());
    files::remove_tree(&other.computes()).unwrap();
}
