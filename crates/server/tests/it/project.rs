//! The catalogue and templates: reading, claiming, damage, copying.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use crate::common::place::{Fate, MemPlace, Step};
use crate::common::redo::{bulky_mark, mark, marked};
use crate::common::{Server, args, config, page, with_database};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};
use xylem_proto::control::ListBranchesRequest;
use xylem_proto::pageserver::GetPageRequest;
use xylem_server::place;
use xylem_server::project::catalog::{self, Catalog, CatalogError, Claimant};
use xylem_server::project::{
    BranchMeta, InnodbParams, Project, create_from_template, create_from_template_in,
};
use xylem_types::BranchId;

const LEASE: Duration = Duration::from_secs(7);

fn sample() -> Project {
    let now = "2026-11-22T14:05:00Z".parse().unwrap();
    Project::new(InnodbParams::default(), now, 7, BranchId(0xabc))
}

/// A child branch of `parent`.
fn child(id: u128, parent: u128, lease: bool) -> BranchMeta {
    BranchMeta {
        id: BranchId(id),
        parent: Some(BranchId(parent)),
        branch_point_lsn: 20000,
        created_at: "2026-11-22T14:05:00Z".parse().unwrap(),
        lease,
        log_end: None,
    }
}

fn change(catalog: &Catalog, act: impl FnOnce(&mut Project)) -> Result<(), catalog::CatalogError> {
    catalog.change(|project| {
        act(project);
        Ok(())
    })
}

fn claimant(writer: u128, lease: Duration) -> Claimant {
    Claimant {
        writer,
        lease,
        clock: Clock::system(),
    }
}

/// Random numbers that are all `n`.
fn fixed(n: u128) -> Entropy {
    Entropy::new(move || Ok(n))
}

#[test]
fn a_catalogue_is_read_back_and_damage_is_found() {
    let place = MemPlace::new();
    assert!(
        Catalog::claim(&place, claimant(1, LEASE))
            .unwrap()
            .is_none()
    );
    assert!(!catalog::exists(&place).unwrap());
    let project = sample();
    Catalog::create(&place, claimant(1, LEASE), project.clone()).unwrap();
    let claimed = Catalog::claim(&place, claimant(2, LEASE)).unwrap().unwrap();
    assert_eq!(*claimed.project(), project);
    let found = catalog::read(&place).unwrap().unwrap();
    assert_eq!((found.project, found.lease), (project, LEASE));
    let name = "project/catalog-0000000000000002";
    let text = String::from_utf8(place.get(name).unwrap().to_vec()).unwrap();
    assert!(text.contains("2026-11-22T14:05:00Z"), "{text}");
    let cases = [
        (text.replace("16384", "16385"), "checksum"),
        (
            text.replace("\"format\": 4", "\"format\": 5"),
            "unknown format 5",
        ),
        (text.replace("undo_tablespaces", "undo"), "undo"),
        (text[..text.len() / 2].to_owned(), "EOF"),
    ];
    for (damaged, message) in cases {
        place.set(name, damaged.as_bytes());
        let error = Catalog::claim(&place, claimant(3, LEASE))
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(message) && error.contains("catalog-0000000000000002"),
            "{error}"
        );
    }
    // A document under another number is refused.
    place.set("project/catalog-0000000000000005", text.as_bytes());
    let error = Catalog::claim(&place, claimant(3, LEASE))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("contains the number 2"), "{error}");
}

/// `UPDATE_EXPECT=1` writes the golden file anew: only for a new version of the
/// format.
#[test]
fn a_catalogue_is_written_as_its_format_says() {
    let place = MemPlace::new();
    let mut project = sample();
    project.wal_home = Some("00112233445566778899aabbccddeeff".to_owned());
    let branches = [
        ("dev", child(1, 0xabc, false)),
        ("main@1", child(2, 0xabc, true)),
    ];
    for (name, branch) in branches {
        project.branches.insert(name.to_owned(), branch);
    }
    Catalog::create(&place, claimant(0x1234, LEASE), project.clone()).unwrap();
    let name = "project/catalog-0000000000000001";
    let written = String::from_utf8(place.get(name).unwrap().to_vec()).unwrap();
    let golden = expect_test::expect_file!["../golden/catalogue-4.json"];
    golden.assert_eq(&written);
    // What was written once is read for good.
    let store = MemPlace::new();
    store.set(name, golden.data().as_bytes());
    assert_eq!(catalog::read(&store).unwrap().unwrap().project, project);
}

#[test]
fn only_the_last_few_catalogues_are_kept() {
    let place = MemPlace::new();
    let catalog = Catalog::create(&place, claimant(1, LEASE), sample()).unwrap();
    for id in 1..20 {
        change(&catalog, |project| {
            let branch = child(id, 0xabc, false);
            project.branches.insert(format!("b{id}"), branch);
        })
        .unwrap();
    }
    let kept: Vec<String> = (17..=20)
        .map(|number| format!("project/catalog-{number:016x}"))
        .collect();
    assert_eq!(place.names(), kept);
    assert_eq!(
        catalog::read(&place)
            .unwrap()
            .unwrap()
            .project
            .branches
            .len(),
        20
    );
}

#[test]
fn who_opened_a_project_last_has_it() {
    let place = MemPlace::new();
    let first = Catalog::create(&place, claimant(1, LEASE), sample()).unwrap();
    let second = Catalog::claim(&place, claimant(2, LEASE)).unwrap().unwrap();
    let add = |project: &mut Project| {
        project
            .branches
            .insert("dev".to_owned(), child(5, 0xabc, false));
    };
    // However far the other server has got: by then the number that this server would
    // take is free again.
    for _ in 0..10 {
        change(&second, |_| {}).unwrap();
    }
    first.look().unwrap_err();
    assert!(first.lost().is_cancelled());
    let error = change(&first, add).unwrap_err();
    assert!(matches!(error, CatalogError::Lost { .. }), "{error:?}");
    assert!(
        error.to_string().contains("another server has opened"),
        "{error}"
    );
    second.look().unwrap();
    assert!(!second.lost().is_cancelled());
    change(&second, add).unwrap();

    // Also without an earlier `look`.
    let third = Catalog::claim(&place, claimant(3, LEASE)).unwrap().unwrap();
    for _ in 0..10 {
        change(&third, |_| {}).unwrap();
    }
    let error = change(&second, |_| {}).unwrap_err();
    assert!(matches!(error, CatalogError::Lost { .. }), "{error:?}");
    assert!(change(&third, |_| {}).is_ok());
    assert_eq!(
        catalog::read(&place)
            .unwrap()
            .unwrap()
            .project
            .branches
            .len(),
        2
    );
}

#[test]
fn many_claims_at_once_leave_one_owner() {
    let place = MemPlace::new();
    Catalog::create(&place, claimant(0, LEASE), sample()).unwrap();
    let claims: Vec<_> = (1..=8)
        .map(|writer| {
            let place = place.clone();
            std::thread::spawn(move || {
                Catalog::claim(&place, claimant(writer, LEASE))
                    .unwrap()
                    .unwrap()
            })
        })
        .collect();
    let claims: Vec<Catalog> = claims.into_iter().map(|c| c.join().unwrap()).collect();
    let owners = claims.iter().filter(|c| change(c, |_| {}).is_ok()).count();
    assert_eq!(owners, 1);
}

#[test]
fn a_put_that_nobody_could_tell_the_outcome_of_is_settled_by_the_next() {
    let store = MemPlace::new();
    let fates = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&fates);
    let place = store.hooked(move |step| match step {
        Step::Put(_) => taken.lock().unwrap().pop().unwrap_or(Fate::Done),
        Step::Remove(_) => Fate::Done,
    });
    let catalog = Catalog::create(&place, claimant(1, LEASE), sample()).unwrap();
    let add = |name: &'static str, id| {
        move |project: &mut Project| {
            project
                .branches
                .insert(name.to_owned(), child(id, 0xabc, false));
        }
    };
    // The document exists, which a read finds out.
    fates.lock().unwrap().push(Fate::Unknown);
    change(&catalog, add("a", 1)).unwrap();
    // The document does not exist, and no request can still create it.
    fates.lock().unwrap().push(Fate::Fails);
    let error = change(&catalog, add("b", 2)).unwrap_err();
    assert!(matches!(error, CatalogError::Io { .. }), "{error:?}");
    assert!(!catalog.project().branches.contains_key("b"));
    // The document may still be created: no other change is made before the outcome is
    // known. The second of two attempts to settle it succeeds.
    fates.lock().unwrap().extend([Fate::Unsent, Fate::Unsent]);
    let error = change(&catalog, add("c", 3)).unwrap_err();
    let unsettled = |error: &CatalogError| matches!(error, CatalogError::Unsettled { .. });
    assert!(unsettled(&error), "{error:?}");
    assert!(!catalog.project().branches.contains_key("c"));
    assert!(unsettled(&change(&catalog, add("d", 4)).unwrap_err()));
    assert!(unsettled(&catalog.settle().unwrap_err()));
    catalog.settle().unwrap();
    change(&catalog, add("e", 5)).unwrap();
    let names: Vec<String> = catalog.project().branches.keys().cloned().collect();
    assert_eq!(names, ["a", "c", "e", "main"]);
    let read = catalog::read(&store).unwrap().unwrap().project;
    assert_eq!(read, *catalog.project());
}

/// The put succeeds and the list after it fails: it is unknown whether the document is the
/// newest, and thus authoritative.
#[test]
fn a_store_that_cannot_be_read_is_neither_success_nor_loss() {
    let store = MemPlace::new();
    let seen = Arc::new(AtomicBool::new(true));
    let sight = Arc::clone(&seen);
    let place = store.sighted(move |_| sight.load(Ordering::SeqCst));
    let first = Catalog::create(&place, claimant(1, LEASE), sample()).unwrap();
    let age = first.proof_age();
    seen.store(false, Ordering::SeqCst);
    let error = first.look().unwrap_err();
    assert!(matches!(error, CatalogError::Io { .. }), "{error:?}");
    assert!(first.proof_age() >= age, "nothing was proved");
    let error = change(&first, |_| {}).unwrap_err();
    assert!(matches!(error, CatalogError::Unsettled { .. }), "{error:?}");
    assert!(!first.lost().is_cancelled());
    seen.store(true, Ordering::SeqCst);
    first.settle().unwrap();
    change(&first, |_| {}).unwrap();

    // Another server's document exists but cannot be read.
    Catalog::claim(&store, claimant(2, LEASE)).unwrap().unwrap();
    seen.store(false, Ordering::SeqCst);
    let error = change(&first, |_| {}).unwrap_err();
    assert!(matches!(error, CatalogError::Unsettled { .. }), "{error:?}");
    first.look().unwrap_err();
    assert!(!first.lost().is_cancelled());
    seen.store(true, Ordering::SeqCst);
    let error = first.settle().unwrap_err();
    assert!(matches!(error, CatalogError::Lost { .. }), "{error:?}");
    assert!(first.lost().is_cancelled());
}

/// A claim's lease is no shorter than the previous owner's, which may still be in force.
/// An owner that has stopped leaves no lease.
#[test]
fn a_claim_keeps_the_promise_of_the_owner_before() {
    let place = MemPlace::new();
    let long = Duration::from_secs(60);
    Catalog::create(&place, claimant(1, long), sample()).unwrap();
    let second = Catalog::claim(&place, claimant(2, LEASE)).unwrap().unwrap();
    assert_eq!(second.found_lease(), long);
    // The second server ends while it waits, and a third one claims.
    assert_eq!(catalog::read(&place).unwrap().unwrap().lease, long);
    let third = Catalog::claim(&place, claimant(3, LEASE)).unwrap().unwrap();
    assert_eq!(third.found_lease(), long);
    change(&third, |_| {}).unwrap();
    assert_eq!(catalog::read(&place).unwrap().unwrap().lease, LEASE);
    third.release().unwrap();
    let fourth = Catalog::claim(&place, claimant(4, LEASE)).unwrap().unwrap();
    assert_eq!(fourth.found_lease(), Duration::ZERO);
    assert_eq!(catalog::read(&place).unwrap().unwrap().lease, LEASE);
}

#[test]
fn a_catalogue_that_makes_no_sense_is_not_written() {
    let place = MemPlace::new();
    let catalog = Catalog::create(&place, claimant(1, LEASE), sample()).unwrap();
    let before = catalog.project();
    let wrong: [(&str, BranchMeta, &str); 5] = [
        ("a//b", child(1, 0xabc, false), "not a branch name"),
        ("dev", child(1, 0xabc, true), "not a branch name"),
        ("main@1", child(1, 0xabc, false), "not a branch name"),
        ("dev", child(0xabc, 0xabc, false), "id of another"),
        (
            "dev",
            child(1, 0xdef, false),
            "the parent of branch dev does not exist",
        ),
    ];
    for (name, meta, message) in wrong {
        let error = change(&catalog, |project| {
            project.branches.insert(name.to_owned(), meta);
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(catalog.project(), before);
    }
    change(&catalog, |project| {
        project
            .branches
            .insert("main@1".to_owned(), child(1, 0xabc, true));
    })
    .unwrap();
}

#[test]
fn branches_come_after_their_parents() {
    let mut project = sample();
    for (name, id, parent) in [("a", 1, 2), ("b", 2, 3), ("c", 3, 0xabc), ("d", 4, 2)] {
        project
            .branches
            .insert(name.to_owned(), child(id, parent, false));
    }
    let levels: Vec<Vec<&str>> = project
        .levels()
        .unwrap()
        .iter()
        .map(|level| level.iter().map(|(name, _)| *name).collect())
        .collect();
    assert_eq!(levels, [vec!["main"], vec!["c"], vec!["b"], vec!["a", "d"]]);
    assert_eq!(project.children(BranchId(2)), ["a", "d"]);
    project.branches.remove("c");
    assert!(project.levels().is_err());
}

#[test]
fn data_of_former_versions_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("project.json"), "{}").unwrap();
    let error = Server::with(config(&args(dir.path()))).err().unwrap();
    let error = error.to_string();
    assert!(
        error.contains("project.json") && error.contains("earlier version"),
        "{error}"
    );
}

#[tokio::test]
async fn a_directory_and_a_store_that_do_not_belong_together_are_refused() {
    let (one, two) = (MemPlace::new(), MemPlace::new());
    let (dir_one, dir_two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::on(dir_one.path(), one.shared());
    with_database(&server).await;
    server.stop();
    Server::on(dir_two.path(), two.shared()).stop();
    let before = one.names();
    // Each project would treat the WALs of the other as leftovers.
    for (dir, place, message) in [
        (dir_one.path(), &two, "belongs to project"),
        (dir_two.path(), &one, "belongs to project"),
        (dir_one.path(), &MemPlace::new(), "holds no project"),
    ] {
        let error = Server::try_on(config(&args(dir)), place.shared());
        let error = error.err().unwrap().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert_eq!(one.names(), before, "it was claimed");
    let server = Server::on(dir_one.path(), one.shared());
    let got = server.pages().await.get_page(page(5, 3)).await.unwrap();
    assert_eq!(marked(&got.into_inner().page), 0xaabb_ccdd);
}

fn read(data_dir: &std::path::Path) -> Project {
    let place = place::open(&place::default_url(data_dir), data_dir, place::CACHE_BYTES).unwrap();
    catalog::read(&*place).unwrap().unwrap().project
}

#[tokio::test]
async fn a_template_becomes_a_project_of_its_own() {
    let template = tempfile::tempdir().unwrap();
    let server = Server::start(template.path());
    let (_, writer) = with_database(&server).await;
    let lsn = writer.lsn;
    drop(writer);
    let now = "2026-11-22T14:05:00Z".parse().unwrap();
    let parent = tempfile::tempdir().unwrap();
    let data_dir = parent.path().join("project");
    let error = create_from_template(template.path(), &data_dir, now, &fixed(9))
        .unwrap_err()
        .to_string();
    assert!(error.contains("in use"), "{error}");
    server.stop();
    let original = read(template.path());

    let started = std::time::Instant::now();
    let copy = create_from_template(template.path(), &data_dir, now, &fixed(9)).unwrap();
    eprintln!("copied in {:?}", started.elapsed());
    assert_ne!(copy.id, original.id);
    assert_eq!(copy.created_at, now);
    let error = create_from_template(template.path(), &data_dir, now, &fixed(9))
        .unwrap_err()
        .to_string();
    assert!(error.contains("there is a project already"), "{error}");

    let server = Server::start(&data_dir);
    let got = server
        .pages()
        .await
        .get_page(GetPageRequest {
            min_lsn: lsn,
            ..page(5, 3)
        })
        .await
        .unwrap();
    assert_eq!(marked(&got.into_inner().page), 0xaabb_ccdd);
    let branches = server
        .control()
        .await
        .list_branches(ListBranchesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(branches.branches[0].created_at, "2026-11-22T14:05:00Z");
    let attached = server.attach().await;
    let mut writer = common::Writer::open(&server, attached.epoch).await;
    writer.redo(mark(5, 3, 1)).await;
    writer.durable().await;
    drop(writer);
    server.stop();
    // The template is unchanged.
    let server = Server::start(template.path());
    let got = server
        .pages()
        .await
        .get_page(page(5, 3))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((marked(&got.page), got.lsn), (0xaabb_ccdd, lsn));
}

#[test]
fn an_interrupted_copy_starts_over_and_strange_directories_are_left_alone() {
    let template = tempfile::tempdir().unwrap();
    Server::start(template.path()).stop();
    let now = jiff::Timestamp::now();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("branches")).unwrap();
    let error = create_from_template(template.path(), dir.path(), now, &fixed(1))
        .unwrap_err()
        .to_string();
    assert!(error.contains("not a place for a new project"), "{error}");
    std::fs::write(dir.path().join("branches/half"), "x").unwrap();
    let half = dir
        .path()
        .join("store/branches/00000000000000000000000000000abc");
    std::fs::create_dir_all(&half).unwrap();
    let marker = dir.path().join("copying");
    // Into another store.
    std::fs::write(&marker, "file:///elsewhere").unwrap();
    create_from_template(template.path(), dir.path(), now, &fixed(1)).unwrap_err();
    assert!(half.exists());
    std::fs::write(&marker, place::default_url(dir.path())).unwrap();
    create_from_template(template.path(), dir.path(), now, &fixed(1)).unwrap();
    assert!(!dir.path().join("branches/half").exists() && !half.exists());
    assert!(!marker.exists());
    Server::start(dir.path()).stop();
    let error = create_from_template(std::path::Path::new("/nowhere"), dir.path(), now, &fixed(1))
        .unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

#[tokio::test]
async fn a_template_is_copied_into_another_store() {
    let template = tempfile::tempdir().unwrap();
    let mut small = args(template.path());
    small.open_layer_size = Some("1MiB".to_owned());
    let server = Server::with(config(&small)).unwrap();
    let (_, mut writer) = with_database(&server).await;
    // More than an open layer holds, so that there are layers to copy.
    for number in 0..1_600u32 {
        writer.redo(bulky_mark(5, 4 + number % 32, number)).await;
    }
    writer.durable().await;
    common::wait_applied(&server, writer.lsn).await;
    let lsn = writer.lsn;
    drop(writer);
    server.stop();
    let branch = read(template.path()).first;
    let layers = std::fs::read_dir(template.path().join(format!("store/branches/{branch}")))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some())
        .count();
    assert!(layers > 0, "no layers to copy");

    let parent = tempfile::tempdir().unwrap();
    let (data_dir, store) = (parent.path().join("data"), parent.path().join("store"));
    let url = format!("file://{}", store.display());
    let now = jiff::Timestamp::now();
    let copy = create_from_template_in(template.path(), &data_dir, &url, now, &fixed(9)).unwrap();
    assert!(!data_dir.join("store").exists());
    let mut args = args(&data_dir);
    args.object_store = Some(url);
    let server = Server::with(config(&args)).unwrap();
    let mut pages = server.pages().await;
    let at_least = |number| GetPageRequest {
        min_lsn: lsn,
        timeout_ms: 20_000,
        ..page(5, number)
    };
    let got = pages.get_page(at_least(3)).await.unwrap().into_inner();
    assert_eq!(marked(&got.page), 0xaabb_ccdd);
    let got = pages.get_page(at_least(4)).await.unwrap().into_inner();
    assert_eq!(marked(&got.page), 1_568);
    let status = server
        .control()
        .await
        .status(xylem_proto::control::StatusRequest {})
        .await
        .unwrap();
    assert_eq!(status.into_inner().project_id, copy.id);
}

#[tokio::test]
async fn many_projects_are_made_from_one_template_at_once() {
    let template = tempfile::tempdir().unwrap();
    Server::start(template.path()).stop();
    make_read_only(template.path());
    let now = jiff::Timestamp::now();
    let made: Vec<_> = (0..8)
        .map(|id| {
            let template = template.path().to_owned();
            tokio::task::spawn_blocking(move || {
                let dir = tempfile::tempdir().unwrap();
                let made = create_from_template(&template, dir.path(), now, &fixed(id));
                make_sure_owner_writes(dir.path());
                made.map(|project| project.id)
            })
        })
        .collect();
    for (id, made) in made.into_iter().enumerate() {
        assert_eq!(made.await.unwrap().unwrap(), format!("{id:032x}"));
    }
}

fn each_file(dir: &std::path::Path, act: &dyn Fn(&std::path::Path)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_file(&path, act)
        } else {
            act(&path)
        }
    }
}

/// Makes a tree read-only, as an installation of another user is.
fn make_read_only(dir: &std::path::Path) {
    each_file(dir, &|file| {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o444)).unwrap();
    });
}

fn make_sure_owner_writes(dir: &std::path::Path) {
    each_file(dir, &|file| {
        let mode = std::fs::metadata(file).unwrap().permissions().mode();
        assert!(mode & 0o200 != 0, "{} cannot be written", file.display());
    });
}
