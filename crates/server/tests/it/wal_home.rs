//! Local WALs and their copies in the store: a disk that is lost, detached, or attached
//! again.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common::branch::{Reader, create, names, remove};
use crate::common::redo::mark;
use crate::common::{Server, Writer, args, config, page, refused, with, with_database};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xylem_server::config::ServerArgs;

/// A store that outlives data directories.
struct Site {
    root: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        Site {
            root: tempfile::tempdir().unwrap(),
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn args(&self, name: &str) -> ServerArgs {
        let dir = self.dir(name);
        std::fs::create_dir_all(&dir).unwrap();
        ServerArgs {
            object_store: Some(format!("file://{}", self.dir("store").display())),
            wal_backup: Some("100ms".to_owned()),
            ..args(&dir)
        }
    }

    fn start(&self, name: &str) -> Server {
        Server::with(config(&self.args(name))).unwrap()
    }

    fn restore(&self, name: &str) -> Result<Server, String> {
        let args = ServerArgs {
            restore_wal: true,
            ..self.args(name)
        };
        Server::with(config(&args)).map_err(|e| e.to_string())
    }

    fn refused(&self, name: &str) -> String {
        match Server::with(config(&self.args(name))) {
            Ok(_) => panic!("it started"),
            Err(error) => error.to_string(),
        }
    }

    /// Copies of WALs in the store, and their objects.
    fn copies(&self) -> usize {
        let below = |dir: &Path| std::fs::read_dir(dir).map_or(0, Iterator::count);
        below(&self.dir("store/wal-backups"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_disk_takes_the_last_moments_only() {
    let site = Site::new();
    let server = site.start("first");
    let (attached, mut main) = with_database(&server).await;
    for n in 1..=50 {
        main.redo(mark(5, 3, n)).await;
    }
    main.durable().await;
    // The branch depends only on what the copy already has.
    create(&server, "dev", "main").await;
    let kept = main.lsn;
    for n in 51..=60 {
        main.redo(mark(5, 3, n)).await;
    }
    main.durable().await;
    drop(main);
    server.crash();
    std::fs::remove_dir_all(site.dir("first")).unwrap();

    let error = site.refused("second");
    assert!(
        error.contains("--restore-wal") && error.contains("100ms at most"),
        "{error}"
    );
    let server = site.restore("second").unwrap();
    let page = Reader::new(&server, "main").newest(5, 3, kept).await;
    assert!((50..=60).contains(&page), "{page}");
    let page = Reader::new(&server, "dev").newest(5, 3, kept).await;
    assert_eq!(page, 50);
    // The compute of the lost WAL is fenced, whatever its epoch.
    for epoch in [attached.epoch, attached.epoch + 1, attached.epoch + 100] {
        assert!(Writer::try_open(&server, epoch).await.is_err(), "{epoch}");
    }
    let again = server.attach().await;
    assert!(again.epoch > attached.epoch + 100);
    let mut main = Writer::open(&server, again.epoch).await;
    main.lsn = again.start_lsn;
    main.redo(mark(5, 3, 77)).await;
    main.durable().await;
    let lsn = main.lsn;
    drop(main);
    server.stop();
    // The project works as before, and the restore works a second time.
    let server = site.start("second");
    assert_eq!(Reader::new(&server, "main").newest(5, 3, lsn).await, 77);
    server.stop();
    std::fs::remove_dir_all(site.dir("second")).unwrap();
    let server = site.restore("third").unwrap();
    assert_eq!(Reader::new(&server, "main").newest(5, 3, lsn).await, 77);
    let (before, dev) = (
        site.copies(),
        names(&server).await.contains(&"dev".to_owned()),
    );
    assert!(dev);
    remove(&server, "dev").await.unwrap();
    assert!(site.copies() < before || before == 1);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_comes_back_is_not_used() {
    let site = Site::new();
    let server = site.start("first");
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 3, 1)).await;
    main.durable().await;
    drop(main);
    server.stop();
    let server = site.restore("second").unwrap();
    let again = server.attach().await;
    server.stop();
    // The old disk's WALs have diverged from the project's.
    let error = site.refused("first");
    assert!(error.contains("another disk"), "{error}");
    let error = site.restore("first").map(|_| ()).unwrap_err();
    assert!(
        error.contains("move") && error.contains("first/branches"),
        "{error}"
    );
    assert!(site.dir("first/branches").exists());
    let server = site.start("second");
    assert!(server.attach().await.epoch > again.epoch);
    server.stop();
    // Without those WALs the directory can become the home again.
    std::fs::remove_dir_all(site.dir("first/branches")).unwrap();
    let server = site.restore("first").unwrap();
    assert_eq!(
        Reader::new(&server, "main")
            .newest(5, 3, again.start_lsn)
            .await,
        1
    );
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn restoring_that_was_cut_short_goes_on() {
    let site = Site::new();
    let server = site.start("first");
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 3, 9)).await;
    main.durable().await;
    let lsn = main.lsn;
    drop(main);
    server.stop();
    std::fs::remove_dir_all(site.dir("first")).unwrap();
    site.restore("second").unwrap().stop();
    let note = site.dir("second/wal.home");
    let home = std::fs::read_to_string(&note).unwrap();
    assert!(!home.contains("restoring"), "{home}");
    let wals = site.dir("second/branches");
    // A single missing WAL is an error; no new one is begun in its place.
    let branch = std::fs::read_dir(&wals).unwrap().next().unwrap().unwrap();
    let away = site.dir("away");
    std::fs::rename(branch.path(), &away).unwrap();
    // This applies only if layers show that there was a WAL.
    std::fs::write(&note, format!("{} restoring\n", home.trim())).unwrap();
    let server = site.start("second");
    assert_eq!(Reader::new(&server, "main").newest(5, 3, lsn).await, 9);
    server.stop();
    assert_eq!(std::fs::read_to_string(&note).unwrap(), home);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_nobody_backed_up_goes_on_where_layers_end() {
    let site = Site::new();
    let quiet = |name: &str, restore_wal: bool| {
        let args = ServerArgs {
            wal_backup: None,
            open_layer_size: Some("1MiB".to_owned()),
            restore_wal,
            ..site.args(name)
        };
        Server::with(config(&args)).unwrap()
    };
    let server = quiet("first", false);
    let (attached, mut main) = with_database(&server).await;
    // It does not apply before any of the WAL is in layers.
    let layers = || {
        let branches = std::fs::read_dir(site.dir("store/branches")).unwrap();
        let files = branches.flat_map(|b| std::fs::read_dir(b.unwrap().path()).unwrap());
        files
            .filter(|f| {
                let name = f.as_ref().unwrap().file_name();
                name.to_string_lossy().ends_with(".layer")
            })
            .count()
    };
    let begin = Instant::now();
    let mut n = 0;
    while layers() == 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "no layer came");
        for _ in 0..500 {
            n += 1;
            main.redo(mark(5, 3, n)).await;
        }
        main.durable().await;
    }
    // No layer holds what this branch depends on, also if the last one was flushed
    // just now with everything before.
    for _ in 0..10 {
        main.redo(mark(5, 3, n)).await;
    }
    main.durable().await;
    let dev = create(&server, "dev", "main").await;
    drop(main);
    server.crash();
    assert_eq!(site.copies(), 0);
    std::fs::remove_dir_all(site.dir("first")).unwrap();
    let server = quiet("second", true);
    let again = server.attach().await;
    assert!(again.start_lsn < dev.branch_point_lsn);
    let mut main = Writer::open(&server, again.epoch).await;
    main.lsn = again.start_lsn;
    while main.lsn < dev.branch_point_lsn + 1000 {
        main.redo(mark(5, 3, 1_000_000)).await;
    }
    main.durable().await;
    drop(main);
    // The child must not take the restored parent's new redo for shared history.
    let mut pages = server.pages().await;
    let read = with(page(5, 3), &[("xylem-branch", "dev")]);
    let error = refused(pages.get_page(read).await);
    assert!(error.message().contains("the WAL was lost"), "{error:?}");
    remove(&server, "dev").await.unwrap();
    assert!(again.epoch > attached.epoch + 1000);
    let page = Reader::new(&server, "main").at(5, 3, again.start_lsn).await;
    assert!(page > 0 && page <= n, "{page} of {n}");
    server.stop();
}

/// A disk that was reset to an earlier state, or has lost the end of a WAL.
#[tokio::test(flavor = "multi_thread")]
async fn a_wal_that_lacks_what_its_copy_has_is_refused() {
    let site = Site::new();
    let server = site.start("first");
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 3, 1)).await;
    main.durable().await;
    drop(main);
    server.stop();
    let (there, earlier) = (site.dir("first"), site.dir("earlier"));
    copy(&there, &earlier);
    let server = site.start("first");
    let again = server.attach().await;
    let mut main = Writer::open(&server, again.epoch).await;
    main.lsn = again.start_lsn;
    main.redo(mark(5, 3, 2)).await;
    main.durable().await;
    let lsn = main.lsn;
    drop(main);
    server.stop();
    for put_back in [true, false] {
        std::fs::remove_dir_all(there.join("branches")).unwrap();
        if put_back {
            copy(&earlier.join("branches"), &there.join("branches"));
        }
        // Without a WAL there is only the copy, and nothing to compare.
        let error = site.refused("first");
        assert!(error.contains("--restore-wal"), "{error}");
    }
    let server = site.restore("first").unwrap();
    assert_eq!(Reader::new(&server, "main").newest(5, 3, lsn).await, 2);
    server.stop();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => {
                std::fs::copy(entry.path(), target).unwrap();
            }
        }
    }
}

/// A server whose own WAL is whole starts despite damage in the copy. It writes the copy
/// again, and the new copy can be restored.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_made_anew_of_a_wal_that_is_whole() {
    let site = Site::new();
    let server = site.start("first");
    let (_, mut main) = with_database(&server).await;
    main.redo(mark(5, 3, 1)).await;
    main.durable().await;
    let lsn = main.lsn;
    drop(main);
    server.stop();
    let mut damaged = 0;
    let copies = std::fs::read_dir(site.dir("store/wal-backups")).unwrap();
    for generation in copies.flat_map(|copy| std::fs::read_dir(copy.unwrap().path()).unwrap()) {
        for object in std::fs::read_dir(generation.unwrap().path()).unwrap() {
            let path = object.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[40] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 1);
    let server = site.start("first");
    let attached = server.attach().await;
    let mut main = Writer::open(&server, attached.epoch).await;
    main.lsn = attached.start_lsn;
    main.redo(mark(5, 4, 2)).await;
    main.durable().await;
    drop(main);
    server.stop();
    std::fs::remove_dir_all(site.dir("first")).unwrap();
    let server = site.restore("second").unwrap();
    let main = Reader::new(&server, "main");
    assert_eq!(main.newest(5, 3, lsn).await, 1);
    assert_eq!(main.newest(5, 4, lsn).await, 2);
    server.stop();
}
