//! The project on disk: read, replaced, damaged, copied.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::redo::{mark, marked};
use common::{Server, page, with_database};
use std::os::unix::fs::PermissionsExt;
use xylem_proto::control::ListBranchesRequest;
use xylem_proto::pageserver::GetPageRequest;
use xylem_server::project::{self, InnodbParams, Project, create_from_template};
use xylem_types::BranchId;

fn sample() -> Project {
    let now = "2026-11-22T14:05:00Z".parse().unwrap();
    Project::new(InnodbParams::default(), now, 7, BranchId(0xabc))
}

#[test]
fn a_project_is_read_back_and_damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Project::read(dir.path()).unwrap(), None);
    let project = sample();
    project.write(dir.path()).unwrap();
    assert_eq!(Project::read(dir.path()).unwrap(), Some(project));
    let path = dir.path().join(project::FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("2026-11-22T14:05:00Z"), "{text}");
    let cases = [
        (text.replace("16384", "16385"), "checksum"),
        (
            text.replace("\"format\": 1", "\"format\": 2"),
            "format 2 is not known",
        ),
        (text.replace("undo_tablespaces", "undo"), "undo"),
        (text[..text.len() / 2].to_owned(), "EOF"),
    ];
    for (damaged, message) in cases {
        std::fs::write(&path, damaged).unwrap();
        let error = Project::read(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains(message) && error.contains("project.json"),
            "{error}"
        );
    }
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
    let error = create_from_template(template.path(), &data_dir, now, 9)
        .unwrap_err()
        .to_string();
    assert!(error.contains("in use"), "{error}");
    server.stop();
    let original = Project::read(template.path()).unwrap().unwrap();

    let started = std::time::Instant::now();
    let copy = create_from_template(template.path(), &data_dir, now, 9).unwrap();
    eprintln!("copied in {:?}", started.elapsed());
    assert_ne!(copy.id, original.id);
    assert_eq!(copy.created_at, now);
    let error = create_from_template(template.path(), &data_dir, now, 9)
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
        .list_branches(ListBranchesRequest {})
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
    // The template is as it was.
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
    let error = create_from_template(template.path(), dir.path(), now, 1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not a place for a new project"), "{error}");
    std::fs::write(dir.path().join("branches/half"), "x").unwrap();
    std::fs::write(dir.path().join("copying"), "").unwrap();
    create_from_template(template.path(), dir.path(), now, 1).unwrap();
    assert!(!dir.path().join("branches/half").exists());
    Server::start(dir.path()).stop();
    let error =
        create_from_template(std::path::Path::new("/nowhere"), dir.path(), now, 1).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
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
                let made = create_from_template(&template, dir.path(), now, id);
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

/// As an installation owned by somebody else is.
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
