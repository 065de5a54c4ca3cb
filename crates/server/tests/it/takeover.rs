//! Two servers on one store, a server with only the store, and a crash at every step that
//! changes the store.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common::branch::{
    Reader, create, lease, list, names, remove, rename, restore, try_create,
};
use crate::common::place::{Fate, MemPlace, Step};
use crate::common::redo::mark;
use crate::common::{Server, Writer, args, config, http_get, refused, with_database};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_pages::place::Place;
use xylem_proto::control::{AttachRequest, ListBranchesRequest, StatusRequest};

/// A store and data directory with a project. A page of its branch `main` has the mark 1 up
/// to the returned LSN, and 666 after it.
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

/// Another machine with a copy of the data directory `dir`, and an operator who confirms
/// that the server there is gone.
fn elsewhere(dir: &Path, place: &MemPlace) -> Elsewhere {
    let other = tempfile::tempdir().unwrap();
    copy_dir(dir, other.path());
    let mut args = args(other.path());
    args.restore_wal = true;
    let server = Server::try_on(config(&args), place.shared()).unwrap();
    Elsewhere {
        server,
        _dir: other,
    }
}

/// The store of a server that cannot find out who owns the project: once the flag is set,
/// the server cannot list the catalogues.
fn unaware(place: &MemPlace) -> (Arc<dyn Place>, Arc<AtomicBool>) {
    let flag = Arc::new(AtomicBool::new(false));
    let blind = Arc::clone(&flag);
    let partly = place.sighted(move |name| name != "project" || !blind.load(Ordering::SeqCst));
    (partly.shared(), flag)
}

struct Elsewhere {
    server: Server,
    _dir: tempfile::TempDir,
}

impl std::ops::Deref for Elsewhere {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// Checks that no acknowledgement arrives for a while.
async fn stays_silent(writer: &mut Writer) {
    let silence = Duration::from_millis(400);
    let told = tokio::time::timeout(silence, async {
        loop {
            match writer.acks.message().await {
                Ok(Some(ack)) if ack.durable_seq >= writer.seq => return,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    });
    assert!(told.await.is_err(), "a commit was acknowledged");
}

/// Waits until `/readyz` contains `text`, or no longer does.
async fn says(server: &Server, text: &str, says: bool) {
    while http_get(server.addrs.http, "/readyz")
        .await
        .1
        .contains(text)
        != says
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_later_server_has_the_project_and_the_earlier_one_says_so_and_ends() {
    let (place, dir, _) = prepared().await;
    let (partly, blind) = unaware(&place);
    let first = Server::on(dir.path(), partly);
    create(&first, "mine", "main").await;
    blind.store(true, Ordering::SeqCst);
    let second = elsewhere(dir.path(), &place);
    assert_eq!(names(&second).await, ["main", "mine"]);
    create(&second, "theirs", "main").await;

    let mut control = first.control().await;
    let status = try_create(&first, "late", "main", None).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let said = "another server has opened this project";
    assert!(status.message().contains(said), "{status:?}");
    // The first server may have ended by now.
    refused(control.list_branches(ListBranchesRequest::default()).await);
    let ended = first.ended().unwrap_err().to_string();
    assert!(ended.contains(said), "{ended}");
    assert_eq!(names(&second).await, ["main", "mine", "theirs"]);
    remove(&second, "theirs").await.unwrap();
}

#[tokio::test]
async fn a_server_that_changes_nothing_notices_too() {
    let (place, dir, _) = prepared().await;
    let mut quick = args(dir.path());
    // The server checks four times within this time.
    quick.lease_timeout = Some("400ms".to_owned());
    let first = Server::try_on(config(&quick), place.shared()).unwrap();
    let second = elsewhere(dir.path(), &place);
    let started = Instant::now();
    let ended = first.ended().unwrap_err().to_string();
    assert!(ended.contains("another server"), "{ended}");
    assert!(started.elapsed() < Duration::from_secs(20));
    second.attach().await;
}

/// A server is delayed between its claim and its sweep. Another server opens the project
/// meanwhile and creates a branch, which the first must not take for a leftover.
#[tokio::test]
async fn a_server_that_wakes_up_while_it_opens_sweeps_nothing() {
    let (place, dir, _) = prepared().await;
    let others = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for other in &others {
        copy_dir(dir.path(), other.path());
    }
    // The fifth catalogue removes the first: a step between the claim and the sweep.
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
async fn a_lost_project_gives_no_epochs() {
    let (place, dir, _) = prepared().await;
    let mut args = args(dir.path());
    args.stop_grace = Some("1h".to_owned());
    let (partly, blind) = unaware(&place);
    let first = Server::try_on(config(&args), partly).unwrap();
    let attached = first.attach().await;
    let mut writer = Writer::open(&first, attached.epoch).await;
    let mut control = first.control().await;
    blind.store(true, Ordering::SeqCst);
    let second = elsewhere(dir.path(), &place);
    try_create(&first, "late", "main", None).await.unwrap_err();
    // At once, not after `stop_grace`.
    refused(control.attach(AttachRequest {}).await);
    let status = writer.end().await.unwrap_err();
    assert!(status.message().contains("another server"), "{status:?}");
    first.ended().unwrap_err();
    assert_eq!(names(&second).await, ["main"]);
}

/// Commits that a server acknowledges after another has claimed the project are lost. A
/// server that learns of the claim must end open streams at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_that_it_lost_the_project_acknowledges_nothing() {
    let (place, dir, _) = prepared().await;
    let mut args = args(dir.path());
    args.stop_grace = Some("1h".to_owned());
    let first = Server::try_on(config(&args), place.shared()).unwrap();
    let attached = first.attach().await;
    let mut writer = Writer::open(&first, attached.epoch).await;
    writer.lsn = attached.start_lsn;
    writer.redo(mark(5, 3, 7)).await;
    writer.durable().await;
    let second = elsewhere(dir.path(), &place);
    // The server notices without any call, by its periodic check.
    let status = writer.end().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("another server"), "{status:?}");
    first.ended().unwrap_err();
    second.attach().await;
}

/// The first server cannot reach the store, but its computes. With `on_store_outage`
/// `serve` commits continue. With `stop` commits wait once the ownership lease has expired,
/// and continue when the store answers again.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_proof_of_ownership_commits_go_on_or_wait_as_configured() {
    for stop in [false, true] {
        let (place, dir, _) = prepared().await;
        let seen = Arc::new(AtomicBool::new(true));
        let sight = Arc::clone(&seen);
        let partly = place.sighted(move |_| sight.load(Ordering::SeqCst));
        let mut args = args(dir.path());
        args.on_store_outage = stop.then(|| "stop".to_owned());
        let server = Server::try_on(config(&args), partly.shared()).unwrap();
        let attached = server.attach().await;
        let mut writer = Writer::open(&server, attached.epoch).await;
        writer.lsn = attached.start_lsn;
        writer.redo(mark(5, 3, 7)).await;
        writer.durable().await;
        seen.store(false, Ordering::SeqCst);
        if stop {
            says(&server, "commits wait", true).await;
            writer.redo(mark(5, 3, 8)).await;
            stays_silent(&mut writer).await;
            seen.store(true, Ordering::SeqCst);
            writer.durable().await;
            says(&server, "commits wait", false).await;
        } else {
            // Three leases long.
            tokio::time::sleep(Duration::from_millis(900)).await;
            writer.redo(mark(5, 3, 8)).await;
            writer.durable().await;
        }
        server.crash();
    }
}

/// A is cut off from the store but not from its computes. B claims the project, waits for
/// A's ownership lease, and serves. By then A acknowledges nothing, although it has not
/// learned of B.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_cut_off_acknowledges_nothing_when_the_next_one_serves() {
    let (place, dir, _) = prepared().await;
    let seen = Arc::new(AtomicBool::new(true));
    let sight = Arc::clone(&seen);
    let partly = place.sighted(move |_| sight.load(Ordering::SeqCst));
    let mut args = args(dir.path());
    args.on_store_outage = Some("stop".to_owned());
    let first = Server::try_on(config(&args), partly.shared()).unwrap();
    let attached = first.attach().await;
    let mut writer = Writer::open(&first, attached.epoch).await;
    writer.lsn = attached.start_lsn;
    seen.store(false, Ordering::SeqCst);
    let second = elsewhere(dir.path(), &place);
    writer.redo(mark(5, 3, 9)).await;
    stays_silent(&mut writer).await;
    assert_eq!(Reader::new(&second, "main").newest(5, 3, 0).await, 666);
    // A learns of B, and ends.
    seen.store(true, Ordering::SeqCst);
    let status = writer.end().await.unwrap_err();
    assert!(status.message().contains("another server"), "{status:?}");
    first.ended().unwrap_err();
}

/// With an ownership lease of an hour, a server that waits for it fails this test. A server
/// does not wait if it holds the lock of the very same directory, or if the previous server
/// stopped in order. A server on a copy of the directory is refused.
#[tokio::test(flavor = "multi_thread")]
async fn who_need_not_wait_for_the_lease_of_the_server_before() {
    let (place, dir, _) = prepared().await;
    let long = |dir: &Path| {
        let mut args = args(dir);
        args.ownership_lease = Some("1h".to_owned());
        config(&args)
    };
    let server = Server::try_on(long(dir.path()), place.shared()).unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    server.crash();
    let refused = Server::try_on(long(copy.path()), place.shared());
    let refused = refused.map(|_| ()).unwrap_err().to_string();
    assert!(
        refused.contains("is a copy") && refused.contains("--restore-wal"),
        "{refused}"
    );
    Server::try_on(long(dir.path()), place.shared())
        .unwrap()
        .stop();
    // From here on the copy is the project's directory, and the original is not.
    let server = Server::try_on(long(copy.path()), place.shared()).unwrap();
    assert_eq!(Reader::new(&server, "main").newest(5, 3, 0).await, 666);
    server.stop();
    let refused = Server::try_on(long(dir.path()), place.shared());
    let refused = refused.map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("on another disk"), "{refused}");
    Server::try_on(long(copy.path()), place.shared())
        .unwrap()
        .stop();
}

/// The put of the catalogue without `dev` succeeds and its answer is lost; then the store
/// does not answer. The next start would sweep commits that `dev` acknowledged from here on.
/// The branch therefore acknowledges nothing, and creates no epochs, until the outcome of
/// the removal is known.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_removal_is_not_known_does_not_serve_on() {
    for settled in [false, true] {
        let (place, dir, _) = prepared().await;
        let away = Arc::new(AtomicBool::new(false));
        let gone = Arc::clone(&away);
        let puts = Arc::new(AtomicUsize::new(0));
        let server = Server::on(
            dir.path(),
            place
                .hooked(move |step| match step {
                    Step::Put(name)
                        if name.starts_with("project/") && gone.load(Ordering::SeqCst) =>
                    {
                        match puts.fetch_add(1, Ordering::SeqCst) {
                            0 => Fate::Unheard,
                            _ => Fate::Unsent,
                        }
                    }
                    _ => Fate::Done,
                })
                .sighted({
                    let gone = Arc::clone(&away);
                    move |name| !name.starts_with("project") || !gone.load(Ordering::SeqCst)
                })
                .shared(),
        );
        create(&server, "dev", "main").await;
        create(&server, "other", "main").await;
        let attached = server.attach_to("dev").await.unwrap();
        let id = format!("id:{}", attached.branch_id);
        let mut dev = Writer::open_on(&server, &id, attached.epoch).await.unwrap();
        dev.lsn = attached.start_lsn;
        dev.redo(mark(5, 3, 1)).await;
        dev.durable().await;

        away.store(true, Ordering::SeqCst);
        let status = remove(&server, "dev").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("is unknown"), "{status:?}");
        dev.redo(mark(5, 3, 2)).await;
        stays_silent(&mut dev).await;
        let status = server.attach_to("dev").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        // The next catalogue would decide about this change.
        let status = rename(&server, "other", "third").await.unwrap_err();
        assert!(status.message().contains("not settled"), "{status:?}");
        let (code, text) = http_get(server.addrs.http, "/readyz").await;
        assert!(code == 503 && text.contains("is unknown"), "{text}");
        // Other branches are served.
        server.attach_to("other").await.unwrap();

        let server = if settled {
            away.store(false, Ordering::SeqCst);
            let status = dev.end().await.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
            says(&server, "not known", false).await;
            server
        } else {
            server.crash();
            Server::on(dir.path(), place.shared())
        };
        assert_eq!(names(&server).await, ["main", "other"]);
        let left = |name: &String| name.contains(&attached.branch_id);
        while place.names().iter().any(left) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rename(&server, "other", "third").await.unwrap();
    }
}

/// The same for a restore: after the next start, clients would look on the new branch for
/// commits that the old branch acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_whose_restore_is_not_known_does_not_serve_on() {
    let (place, dir, good) = prepared().await;
    let away = Arc::new(AtomicBool::new(false));
    let gone = Arc::clone(&away);
    let sight = Arc::clone(&away);
    let server = Server::on(
        dir.path(),
        place
            .hooked(move |step| match step {
                Step::Put(name) if name.starts_with("project/") && gone.load(Ordering::SeqCst) => {
                    Fate::Unsent
                }
                _ => Fate::Done,
            })
            .sighted(move |name| !name.starts_with("project") || !sight.load(Ordering::SeqCst))
            .shared(),
    );
    away.store(true, Ordering::SeqCst);
    let status = restore(&server, "main", good, "old").await.err().unwrap();
    assert!(status.message().contains("is unknown"), "{status:?}");
    let status = server.attach_to("main").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(names(&server).await, ["main"]);
    away.store(false, Ordering::SeqCst);
    while names(&server).await != ["main", "old"] {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(Reader::new(&server, "main").newest(5, 3, 0).await, 1);
    assert_eq!(Reader::new(&server, "old").newest(5, 3, 0).await, 666);
    server.attach_to("main").await.unwrap();
    server.attach_to("old").await.unwrap();
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
    // Nothing was written yet, but the server cannot know that.
    let dir = tempfile::tempdir().unwrap();
    let mut args = args(dir.path());
    let error = Server::try_on(config(&args), place.shared()).map(|_| ());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("--restore-wal"), "{error}");
    args.restore_wal = true;
    let server = Server::try_on(config(&args), place.shared()).unwrap();
    let mut after = list(&server, true).await;
    for (after, before) in after.iter_mut().zip(&before) {
        // The new WAL begins with a seal that fences the compute of the lost WAL.
        assert!(after.epoch > before.epoch && after.wal_bytes > before.wal_bytes);
        (after.epoch, after.wal_bytes) = (before.epoch, before.wal_bytes);
    }
    assert_eq!(after, before);
    let status = server.control().await.status(StatusRequest {}).await;
    assert_eq!(status.unwrap().into_inner().project_id, id);
    let (_, main) = with_database(&server).await;
    let dev = create(&server, "dev", "main").await;
    assert_eq!(dev.branch_point_lsn, main.lsn);
}

/// What must hold for the branches after some calls have succeeded.
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

/// Makes all kinds of changes; each may fail.
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

/// The store fails from a given step on, which itself may or may not have been done, and
/// the server dies. The next server finds what was acknowledged. Every branch can be read
/// and branched from, and no leftovers remain.
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
        assert!(ids.contains(&name), "{at:?}: a WAL of {name}");
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
