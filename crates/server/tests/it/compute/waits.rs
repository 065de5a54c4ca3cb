//! Commits that must wait: for permission, for room, for ingest.

use super::metric;
use crate::common::branch::{create, remove};
use crate::common::compute::{Door, Redo, WAYS, Way, start, writer};
use crate::common::place::{Fate, MemPlace, Step};
use crate::common::redo::{fill, mark};
use crate::common::{Server, args, config, http_get, with_database};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_pages::place::Place;
use xylem_server::config::ServerArgs;
use xylem_wire::Hello;

/// A server on the given store that listens on a Unix socket, too.
fn on(dir: &Path, place: Arc<dyn Place>, change: impl FnOnce(&mut ServerArgs)) -> (Server, Door) {
    let mut args = args(dir);
    let unix = dir.join("compute.sock");
    args.compute_socket = Some(unix.display().to_string());
    change(&mut args);
    let server = Server::try_on(config(&args), place).unwrap();
    let tcp = server.addrs.grpc;
    (server, Door { tcp, unix })
}

/// Waits until `/readyz` contains `text`, or no longer does.
async fn says(server: &Server, text: &str, says: bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while http_get(server.addrs.http, "/readyz")
        .await
        .1
        .contains(text)
        != says
    {
        assert!(Instant::now() < until, "{text}: never {says}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// As for StreamWAL (`takeover.rs`): while the store does not confirm that the server owns
/// the project, commits become durable and are not acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_while_ownership_is_doubtful() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let place = MemPlace::new();
        let seen = Arc::new(AtomicBool::new(true));
        let sight = Arc::clone(&seen);
        let partly = place.sighted(move |_| sight.load(Ordering::SeqCst));
        let (server, door) = on(dir.path(), partly.shared(), |args| {
            args.on_store_outage = Some("stop".to_owned());
        });
        let (attached, old) = with_database(&server).await;
        drop(old);
        let mut redo = Redo::open(&door, way, attached.epoch).unwrap();
        redo.redo(&mark(5, 3, 7));
        redo.durable();
        for round in 0..2 {
            seen.store(false, Ordering::SeqCst);
            says(&server, "commits wait", true).await;
            redo.redo(&mark(5, 3, 8 + round));
            redo.stays_silent();
            // It is durable, and the compute is not told so by another way either.
            let opening = std::thread::spawn({
                let door = door.clone();
                move || Redo::open(&door, way, attached.epoch)
            });
            let ended = redo.ended();
            assert_eq!(ended.0, Code::Aborted, "{ended:?}");
            std::thread::sleep(Duration::from_millis(300));
            assert!(!opening.is_finished(), "welcomed without permission");
            seen.store(true, Ordering::SeqCst);
            let again = opening.join().unwrap().unwrap();
            assert_eq!((again.seq, again.lsn), (redo.seq, redo.lsn));
            redo = again;
            redo.redo(&mark(5, 3, 18 + round));
            redo.durable();
            seen.store(false, Ordering::SeqCst);
            says(&server, "commits wait", true).await;
            redo.redo(&mark(5, 3, 28 + round));
            redo.stays_silent();
            seen.store(true, Ordering::SeqCst);
            // No further frame is needed for it.
            redo.durable();
        }
    }
}

/// The catalogue without the branch is on its way to the store, and its outcome is not
/// known: what the branch acknowledged now could be lost.
#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_while_the_branch_is_held() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let away = Arc::new(AtomicBool::new(false));
        let (gone, sight) = (Arc::clone(&away), Arc::clone(&away));
        let puts = AtomicUsize::new(0);
        let place = MemPlace::new()
            .hooked(move |step| match step {
                Step::Put(name) if name.starts_with("project/") && gone.load(Ordering::SeqCst) => {
                    match puts.fetch_add(1, Ordering::SeqCst) {
                        0 => Fate::Unheard,
                        _ => Fate::Unsent,
                    }
                }
                _ => Fate::Done,
            })
            .sighted(move |name| !name.starts_with("project") || !sight.load(Ordering::SeqCst));
        let (server, door) = on(dir.path(), place.shared(), |_| {});
        with_database(&server).await;
        create(&server, "dev", "main").await;
        let attached = server.attach_to("dev").await.unwrap();
        let who = Hello {
            branch: format!("id:{}", attached.branch_id),
            ..writer(attached.epoch)
        };
        let mut dev = Redo::open_as(&door, way, &who).unwrap();
        dev.redo(&mark(5, 3, 1));
        dev.durable();
        away.store(true, Ordering::SeqCst);
        let status = remove(&server, "dev").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        dev.redo(&mark(5, 3, 2));
        dev.stays_silent();
        // The removal turns out to have happened.
        away.store(false, Ordering::SeqCst);
        let (code, message) = dev.ended();
        assert_eq!(code, Code::FailedPrecondition, "{message}");
        assert!(message.contains("removed"), "{message}");
    }
}

/// The removal of a branch takes a while and then fails: the branch goes on, and so do
/// the commits that waited.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_waited_for_a_held_branch_are_acknowledged() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let slow = Arc::new(AtomicBool::new(false));
        let slowly = Arc::clone(&slow);
        let other = MemPlace::new();
        let place = other.hooked(move |step| match step {
            Step::Put(name) if name.starts_with("project/") && slowly.load(Ordering::SeqCst) => {
                std::thread::sleep(Duration::from_millis(1500));
                slowly.store(false, Ordering::SeqCst);
                Fate::Fails
            }
            _ => Fate::Done,
        });
        let (server, door) = on(dir.path(), place.shared(), |_| {});
        with_database(&server).await;
        create(&server, "dev", "main").await;
        let attached = server.attach_to("dev").await.unwrap();
        let who = Hello {
            branch: format!("id:{}", attached.branch_id),
            ..writer(attached.epoch)
        };
        let mut dev = Redo::open_as(&door, way, &who).unwrap();
        slow.store(true, Ordering::SeqCst);
        let server = Arc::new(server);
        let removing = tokio::spawn({
            let server = Arc::clone(&server);
            async move { remove(&server, "dev").await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        dev.redo(&mark(5, 3, 2));
        dev.stays_silent();
        removing.await.unwrap().unwrap_err();
        dev.durable();
    }
}

/// Whole mini-transactions of about `bytes` bytes.
fn bulk(bytes: usize, seed: u32) -> Vec<u8> {
    let mut redo = Vec::new();
    while redo.len() < bytes {
        let page = 4 + (redo.len() as u32 / 15_000 + seed) % 50;
        redo.extend(fill(5, page, seed));
    }
    redo
}

/// 48 MB at once are more than a WAL may hold in memory. The compute's frames wait in the
/// system's buffers, and each is acknowledged.
#[tokio::test]
async fn a_full_queue_makes_the_compute_wait_and_loses_nothing() {
    for object in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (server, door) = start(dir.path(), |args| {
            args.wal_store = object.then(|| "object".to_owned());
        });
        let (attached, old) = with_database(&server).await;
        drop(old);
        let mut redo = Redo::open(&door, Way::Tcp, attached.epoch).unwrap();
        let piece = bulk(4 << 20, 1);
        for _ in 0..12 {
            redo.redo(&piece);
        }
        redo.durable();
        // A frame that is larger than any may be.
        redo.redo(&bulk(8 << 20, 2));
        let (code, message) = redo.ended();
        assert_eq!(code, Code::InvalidArgument, "{message}");
        assert!(message.contains("limit"), "{message}");
    }
}

#[tokio::test]
async fn a_compute_that_is_ahead_of_ingest_is_slowed_and_not_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (server, door) = start(dir.path(), |args| {
        args.ingest_lag_soft = Some("1MiB".to_owned());
        args.open_layer_size = Some("1MiB".to_owned());
    });
    let (attached, old) = with_database(&server).await;
    drop(old);
    let mut redo = Redo::open(&door, Way::Unix, attached.epoch).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let mut seed = 0;
    while metric(&server, "xylem_wal_throttled_seconds_total", "main").await == 0.0 {
        assert!(Instant::now() < until, "it was never slowed");
        for _ in 0..8 {
            seed += 1;
            redo.redo(&bulk(1 << 20, seed));
        }
        redo.durable();
    }
    redo.redo(&mark(5, 3, 1));
    redo.durable();
}
