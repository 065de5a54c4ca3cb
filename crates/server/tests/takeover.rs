//! Two servers on one store, a server on the store alone, and crashes between
//! any two of its changes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::branch::{Reader, create, lease, list, names, remove, rename, restore, try_create};
use common::place::{Fate, MemPlace, Step};
use common::redo::mark;
use common::{Server, args, config, http_get, refused, with_database};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_pages::files::Place;
use xylem_proto::control::{AttachRequest, ListBranchesRequest, StatusRequest};

/// A store and data directory with a project whose branch `main` has a page
/// that says 1 up to the LSN returned, and 666 from there on.
async fn prepared() -> (MemPlace, tempfile::TempDir, u64) {
    let place = MemPlace::new();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path(), place.shared());
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 3, 1)).await;
    let good = main.lsn;
    main.redo(mark(5, 3, 666)).await;
    main.durable().await;
    drop(main);
    server.stop();
    (place, dir, good)
}

#[tokio::test]
async fn the_later_server_has_the_project_and_the_earlier_one_says_so_and_ends() {
    let (place, dir, _) = prepared().await;
    let first = Server::on(dir.path(), place.shared());
    create(&first, "mine", "main").await;
    // It has the store only: another machine. Its log is another one, too, so
    // the page store of a branch with history would not open: none is needed.
    let other = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), other.path());
    let second = Server::on(other.path(), place.shared());
    assert_eq!(names(&second).await, ["main", "mine"]);
    create(&second, "theirs", "main").await;

    let mut control = first.control().await;
    let status = try_create(&first, "late", "main", None).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let said = "another server has opened this project";
    assert!(status.message().contains(said), "{status:?}");
    let list = control.list_branches(ListBranchesRequest::default()).await;
    // It may be stopping by now.
    let code = refused(list).code();
    assert!(
        [Code::FailedPrecondition, Code::Unavailable].contains(&code),
        "{code:?}"
    );
    let ended = first.ended().unwrap_err().to_string();
    assert!(ended.contains(said), "{ended}");
    assert_eq!(names(&second).await, ["main", "mine", "theirs"]);
    remove(&second, "theirs").await.unwrap();
}

#[tokio::test]
async fn a_server_that_changes_nothing_notices_too() {
    let (place, dir, _) = prepared().await;
    let mut quick = args(dir.path());
    // It looks four times in this time.
    quick.lease_timeout_ms = Some("400".to_owned());
    let first = Server::try_on(config(&quick), place.shared()).unwrap();
    let other = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), other.path());
    let second = Server::on(other.path(), place.shared());
    let started = Instant::now();
    let ended = first.ended().unwrap_err().to_string();
    assert!(ended.contains("another server"), "{ended}");
    assert!(started.elapsed() < Duration::from_secs(20));
    second.attach().await;
}

/// A server is held up between claiming the project and looking for leftovers.
/// Another opens it meanwhile and makes a branch, which the first has never
/// heard of: it is no leftover.
#[tokio::test]
async fn a_server_that_wakes_up_while_it_opens_sweeps_nothing() {
    let (place, dir, _) = prepared().await;
    let others = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for other in &others {
        copy_dir(dir.path(), other.path());
    }
    // Documents of the catalogue go once the fifth is claimed: a step between
    // the claim and the sweep.
    let server = Server::on(dir.path(), place.shared());
    for n in 0..4 {
        create(&server, &format!("dev{n}"), "main").await;
    }
    server.stop();
    let second: Arc<Mutex<Option<Server>>> = Arc::default();
    let (seen, by) = (Arc::clone(&second), others[1].path().to_owned());
    let inner = place.clone();
    let late = place.hooked(move |step: &Step| {
        if matches!(step, Step::Remove(name) if name.starts_with("project/"))
            && seen.lock().unwrap().is_none()
        {
            let server = Server::on(&by, inner.shared());
            let made = std::thread::scope(|s| {
                s.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(create(&server, "theirs", "main"))
                })
                .join()
            });
            made.unwrap();
            *seen.lock().unwrap() = Some(server);
        }
        Fate::Done
    });
    let opened = Server::try_on(config(&args(others[0].path())), Arc::new(late));
    let error = opened.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("another server has opened"), "{error}");
    let second = second.lock().unwrap().take().unwrap();
    assert!(names(&second).await.contains(&"theirs".to_owned()));
    let seen = Reader::new(&second, "theirs").newest(5, 3, 0).await;
    assert_eq!(seen, 666);
    second.stop();
    let third = Server::on(others[1].path(), place.shared());
    let seen = Reader::new(&third, "theirs").newest(5, 3, 0).await;
    assert_eq!(seen, 666);
}

#[tokio::test]
async fn a_lost_project_is_not_ready_and_gives_no_epochs() {
    let (place, dir, _) = prepared().await;
    let mut args = args(dir.path());
    args.stop_grace_ms = Some("60000".to_owned());
    let first = Server::try_on(config(&args), place.shared()).unwrap();
    // A stream keeps it from ending while it is looked at.
    let attached = first.attach().await;
    let writer = common::Writer::open(&first, attached.epoch).await;
    let other = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), other.path());
    let second = Server::on(other.path(), place.shared());
    let mut control = first.control().await;
    try_create(&first, "late", "main", None).await.unwrap_err();
    let (code, text) = http_get(first.addrs.http, "/readyz").await;
    assert_eq!(code, 503);
    assert!(text.contains("another server has opened"), "{text}");
    let status = refused(control.attach(AttachRequest {}).await);
    assert!(
        [Code::FailedPrecondition, Code::Unavailable].contains(&status.code()),
        "{status:?}"
    );
    drop(writer);
    first.ended().unwrap_err();
    assert_eq!(names(&second).await, ["main"]);
}

#[tokio::test]
async fn a_server_finds_everything_in_the_store_alone() {
    let place = MemPlace::new();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir.path(), place.shared());
    let before = list(&server, true).await;
    let id = server.control().await.status(StatusRequest {}).await;
    let id = id.unwrap().into_inner().project_id;
    server.stop();
    drop(dir);
    // Nothing was written yet, but it cannot know that.
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    let error = Server::try_on(config(&args), place.shared()).map(|_| ());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("--restore-log"), "{error}");
    args.restore_log = true;
    let server = Server::try_on(config(&args), place.shared()).unwrap();
    let mut after = list(&server, true).await;
    for (after, before) in after.iter_mut().zip(&before) {
        // Its log begins with a seal that no lost one's compute can pass.
        assert!(after.epoch > before.epoch && after.log_bytes > before.log_bytes);
        (after.epoch, after.log_bytes) = (before.epoch, before.log_bytes);
    }
    assert_eq!(after, before);
    let status = server.control().await.status(StatusRequest {}).await;
    assert_eq!(status.unwrap().into_inner().project_id, id);
    let (_, main) = with_database(&server).await;
    let dev = create(&server, "dev", "main").await;
    assert_eq!(dev.ancestor_lsn, main.lsn);
}

/// What is certain of the branches after some calls succeeded.
#[derive(Default)]
struct Certain {
    there: BTreeSet<String>,
    gone: BTreeSet<String>,
}

impl Certain {
    fn note<T, E>(&mut self, done: &Result<T, E>, there: &[&str], gone: &[&str]) {
        for name in there.iter().chain(gone) {
            self.there.remove(*name);
            self.gone.remove(*name);
        }
        if done.is_ok() {
            self.there.extend(there.iter().map(|s| (*s).to_owned()));
            self.gone.extend(gone.iter().map(|s| (*s).to_owned()));
        }
    }
}

/// All kinds of changes, whatever becomes of each.
async fn script(server: &Server, good: u64) -> Certain {
    let mut certain = Certain::default();
    let done = try_create(server, "dev", "main", None).await;
    certain.note(&done, &["dev"], &[]);
    let done = try_create(server, "two", "dev", None).await;
    certain.note(&done, &["two"], &[]);
    let done = rename(server, "two", "three").await;
    certain.note(&done, &["three"], &["two"]);
    let done = lease(server, "dev", None).await;
    certain.note(&done, &["dev@1"], &[]);
    let done = server.attach_to("three").await;
    certain.note(&done, &["three"], &[]);
    let done = restore(server, "main", good, "old").await;
    certain.note(&done, &["main", "old"], &[]);
    let done = remove(server, "three").await;
    certain.note(&done, &[], &["three"]);
    let done = remove(server, "dev@1").await;
    certain.note(&done, &[], &["dev@1"]);
    certain
}

/// The store fails from a step on, which itself may have been done or not; the
/// server dies. The next one opens the store, finds what was acknowledged,
/// every branch it finds can be read and branched from, and nothing else lies
/// about.
#[tokio::test]
async fn a_crash_between_any_two_changes_leaves_a_store_that_opens() {
    let (prepared, prepared_dir, good) = prepared().await;
    let mut longest = 0;
    for fate in [Fate::Fails, Fate::Unknown] {
        for last in 0.. {
            let place = prepared.copy();
            let dir = tempfile::tempdir().unwrap();
            copy_dir(prepared_dir.path(), dir.path());
            let steps = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&steps);
            let failing: Arc<dyn Place> =
                Arc::new(place.hooked(
                    move |_: &Step| match counted.fetch_add(1, Ordering::SeqCst) {
                        step if step < last => Fate::Done,
                        step if step == last => fate,
                        _ => Fate::Fails,
                    },
                ));
            let mut certain = Certain::default();
            if let Ok(server) = Server::try_on(config(&args(dir.path())), failing) {
                certain = script(&server, good).await;
                server.crash();
            }
            let taken = steps.load(Ordering::SeqCst);
            check(&place, dir.path(), &certain, good, (fate, last)).await;
            if taken <= last {
                longest = longest.max(last);
                break;
            }
        }
    }
    println!("{longest} steps");
    assert!(longest > 20, "the script takes {longest} steps only");
}

async fn check(place: &MemPlace, dir: &Path, certain: &Certain, good: u64, at: (Fate, usize)) {
    let server = Server::on(dir, place.shared());
    let all = list(&server, true).await;
    let names: BTreeSet<String> = all.iter().map(|branch| branch.name.clone()).collect();
    assert!(
        certain.there.is_subset(&names),
        "{at:?}: {names:?} lack {:?}",
        certain.there
    );
    assert!(
        certain.gone.is_disjoint(&names),
        "{at:?}: {names:?} have {:?}",
        certain.gone
    );
    let restored = names.contains("old");
    for branch in &all {
        let expected = if restored && branch.name == "main" {
            1
        } else {
            666
        };
        let id = format!("id:{}", branch.id);
        let seen = Reader::new(&server, &id).newest(5, 3, 0).await;
        assert_eq!(seen, expected, "{at:?}: {}", branch.name);
        if !branch.lease {
            let name = format!("after-{}", branch.name);
            create(&server, &name, &branch.name).await;
        }
    }
    restore(&server, "main", good, "again").await.unwrap();
    let all = list(&server, true).await;
    let ids: BTreeSet<String> = all.iter().map(|branch| branch.id.clone()).collect();
    let folders: BTreeSet<String> = place.folders("branches").unwrap().into_iter().collect();
    assert_eq!(folders, ids, "{at:?}");
    for entry in std::fs::read_dir(dir.join("branches")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(ids.contains(&name), "{at:?}: a log of {name}");
    }
    server.crash();
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
