//! The page store behind the real log: wake-ups, trimming, restarts, epochs.
#![allow(clippy::unwrap_used)]

mod common;

use common::BRANCH;
use common::redo::{after, mtr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn, PageId};
use xylem_wal::local::{LocalLog, LocalLogConfig};
use xylem_wal::{Log, Position};

fn open(dir: &Path) -> (Arc<dyn Log>, Arc<Branch>) {
    let config = LocalLogConfig {
        segment_bytes: 1 << 20,
        max_frame_bytes: 128 << 10,
        spare_segments: 0,
        ..LocalLogConfig::default()
    };
    let log: Arc<dyn Log> = Arc::new(LocalLog::open(&dir.join("log"), config).unwrap());
    let config = StoreConfig {
        memory_bytes: 16 << 20,
        open_layer_bytes: 1 << 20,
        ..StoreConfig::default()
    };
    let store = Store::open(config, common::place(&dir.join("pages"))).unwrap();
    store.start_ingest();
    let branch = Branch::open(store, BRANCH, Arc::clone(&log), None).unwrap();
    (log, branch)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A compute: seals, begins at the last whole mtr.
async fn attach(log: &Arc<dyn Log>, branch: &Branch) -> (Epoch, Lsn) {
    let sealed = log.seal().await.unwrap();
    branch
        .wait_ingested(sealed.position(), soon())
        .await
        .unwrap();
    let start = branch.applied().max(Lsn::FIRST);
    log.begin(sealed.epoch(), start).await.unwrap();
    (sealed.epoch(), start)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_computes_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut value = 0u32;
    for round in 0..3u32 {
        let (log, branch) = open(dir.path());
        let (epoch, mut lsn) = attach(&log, &branch).await;
        let mut seq = 0;
        let frame = |start: Lsn, bytes: &[u8], seq: &mut u64| {
            *seq += 1;
            Frame {
                seq: FrameSeq(*seq),
                start,
                body: FrameBody::Redo(bytes.into()),
            }
        };
        if round == 0 {
            let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
            let bytes = mtr(|m| {
                m.header(0, 600, flags);
                for page in 1..500 {
                    m.init(PageId::new(0, page));
                }
            });
            log.append(epoch, vec![frame(lsn, &bytes, &mut seq)])
                .await
                .unwrap();
            lsn = after(lsn, &bytes);
        }
        for _ in 0..300 {
            let mut bytes = Vec::new();
            for _ in 0..10 {
                value += 1;
                bytes.extend(mtr(|m| {
                    let page = PageId::new(0, 1 + value % 499);
                    m.write(page, 100, &value.to_be_bytes())
                        .write(page, 200, &[round as u8; 1000]);
                }));
            }
            log.append(epoch, vec![frame(lsn, &bytes, &mut seq)])
                .await
                .unwrap();
            lsn = after(lsn, &bytes);
        }
        branch.wait_applied(lsn, soon()).await.unwrap();
        // The compute dies in the middle of an mtr.
        let torn = mtr(|m| {
            m.write(PageId::new(0, 1), 100, &[9; 40]);
        });
        log.append(epoch, vec![frame(lsn, &torn[..20], &mut seq)])
            .await
            .unwrap();
        tokio::task::block_in_place(|| branch.flush_now());
        assert!(log.first() > Position(0), "the log was not trimmed");
        assert_eq!(branch.failed(), None);
        assert_eq!(branch.applied(), lsn);
        for back in 0..499 {
            let v = value - back;
            let page = PageId::new(0, 1 + v % 499);
            let got =
                tokio::task::block_in_place(|| branch.get_page(page, ReadAt::Newest).unwrap());
            assert_eq!(
                got.bytes[100..104],
                v.to_be_bytes(),
                "round {round} page {page}"
            );
        }
        tokio::task::block_in_place(|| drop(branch));
        log.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_lsn_the_log_has_not_names_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, branch) = open(dir.path());
    attach(&log, &branch).await;
    let error = branch
        .wait_applied(Lsn(99_999), Instant::now() + Duration::from_millis(20))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("log stands at"), "{error}");
}

/// While a wait is under way the log goes on, and the wait ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_does_not_hold_up_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, branch) = open(dir.path());
    let (epoch, start) = attach(&log, &branch).await;
    let ahead = Position(branch.ingested_position().0 + 1);
    // Spawned: this compiles only as long as no lock is held over the wait.
    let waiting = tokio::spawn({
        let branch = Arc::clone(&branch);
        async move { branch.wait_ingested(ahead, soon()).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let bytes = mtr(|m| {
        m.create(7, "d/t.ibd");
    });
    let body = FrameBody::Redo(bytes.into());
    let frame = Frame {
        seq: FrameSeq(1),
        start,
        body,
    };
    let mut durable = log.durable();
    log.append(epoch, vec![frame]).await.unwrap();
    let limit = Duration::from_secs(10);
    tokio::time::timeout(
        limit,
        durable.wait_for(|durable| durable.seq() == FrameSeq(1)),
    )
    .await
    .expect("the log stands still")
    .unwrap();
    tokio::time::timeout(limit, waiting)
        .await
        .expect("the wait does not end")
        .unwrap()
        .unwrap();
    branch.shutdown();
}
