//! The page store behind the real WAL: wake-ups, trimming, restarts, epochs.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::BRANCH;
use crate::common::redo::{after, mtr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use xylem_ambient::Clock;
use xylem_pages::{Branch, Reach, ReadAt, ReadError, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn, PageId};
use xylem_wal::local::{LocalWal, LocalWalConfig};
use xylem_wal::{Position, Wal};

fn open(dir: &Path) -> (Arc<dyn Wal>, Arc<Branch>) {
    let config = LocalWalConfig {
        segment_bytes: 1 << 20,
        max_frame_bytes: 128 << 10,
        spare_segments: 0,
        ..LocalWalConfig::default()
    };
    let wal: Arc<dyn Wal> = Arc::new(LocalWal::open(&dir.join("log"), config).unwrap());
    let config = StoreConfig {
        memory_bytes: 16 << 20,
        open_layer_bytes: 1 << 20,
        ..StoreConfig::default()
    };
    let store = Store::open(config, common::place(&dir.join("pages"))).unwrap();
    store.start_ingest();
    let branch = Branch::open(store, BRANCH, Arc::clone(&wal), None).unwrap();
    (wal, branch)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A compute: seals, begins at the last whole mtr.
async fn attach(wal: &Arc<dyn Wal>, branch: &Branch) -> (Epoch, Lsn) {
    let sealed = wal.seal().await.unwrap();
    branch
        .wait_ingested(sealed.position(), soon())
        .await
        .unwrap();
    let start = branch.applied().max(Lsn::FIRST);
    wal.begin(sealed.epoch(), start).await.unwrap();
    (sealed.epoch(), start)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_computes_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut value = 0u32;
    for round in 0..3u32 {
        let (wal, branch) = open(dir.path());
        let (epoch, mut lsn) = attach(&wal, &branch).await;
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
            wal.append(epoch, vec![frame(lsn, &bytes, &mut seq)])
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
            wal.append(epoch, vec![frame(lsn, &bytes, &mut seq)])
                .await
                .unwrap();
            lsn = after(lsn, &bytes);
        }
        branch.wait_applied(lsn, soon()).await.unwrap();
        // The compute dies in the middle of an mtr.
        let torn = mtr(|m| {
            m.write(PageId::new(0, 1), 100, &[9; 40]);
        });
        wal.append(epoch, vec![frame(lsn, &torn[..20], &mut seq)])
            .await
            .unwrap();
        tokio::task::block_in_place(|| branch.flush_now());
        assert!(wal.first() > Position(0), "the WAL was not trimmed");
        assert_eq!(branch.failed(), None);
        assert_eq!(branch.applied(), lsn);
        for back in 0..499 {
            let v = value - back;
            let page = PageId::new(0, 1 + v % 499);
            let got = tokio::task::block_in_place(|| {
                branch.get_page(page, ReadAt::Newest, Reach::Files).unwrap()
            });
            assert_eq!(
                got.bytes[100..104],
                v.to_be_bytes(),
                "round {round} page {page}"
            );
        }
        tokio::task::block_in_place(|| drop(branch));
        wal.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_lsn_the_wal_has_not_names_the_wal() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, branch) = open(dir.path());
    attach(&wal, &branch).await;
    let error = branch
        .wait_applied(Lsn(99_999), Instant::now() + Duration::from_millis(20))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("WAL stands at"), "{error}");
}

/// While a wait is under way the WAL goes on, and the wait ends with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_does_not_hold_up_the_wal() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, branch) = open(dir.path());
    let (epoch, start) = attach(&wal, &branch).await;
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
    let mut durable = wal.durable();
    wal.append(epoch, vec![frame]).await.unwrap();
    let limit = Duration::from_secs(10);
    tokio::time::timeout(
        limit,
        durable.wait_for(|durable| durable.seq() == FrameSeq(1)),
    )
    .await
    .expect("the WAL stands still")
    .unwrap();
    tokio::time::timeout(limit, waiting)
        .await
        .expect("the wait does not end")
        .unwrap()
        .unwrap();
    branch.shutdown();
}

/// A wall clock that is set now and then, and a steady one.
#[derive(Clone, Default)]
struct Clocks {
    wall: Arc<AtomicU64>,
    steady: Arc<AtomicU64>,
}

const SECOND: u64 = 1_000_000;
const DAY: i64 = 24 * 3600 * SECOND as i64;

impl Clocks {
    fn clock(&self) -> Clock {
        let (wall, steady) = (Arc::clone(&self.wall), Arc::clone(&self.steady));
        Clock::with_steady(
            move || wall.load(Ordering::Relaxed),
            move || steady.load(Ordering::Relaxed),
        )
    }

    fn pass(&self, seconds: u64) {
        self.wall.fetch_add(seconds * SECOND, Ordering::Relaxed);
        self.steady.fetch_add(seconds * SECOND, Ordering::Relaxed);
    }

    fn set(&self, by: i64) {
        let wall = self.wall.load(Ordering::Relaxed);
        self.wall
            .store(wall.saturating_add_signed(by), Ordering::Relaxed);
    }
}

/// A compute that writes one page, once a second, and what it wrote when.
struct Timed {
    dir: tempfile::TempDir,
    clocks: Clocks,
    /// Real time, and how far the wall clock is from it.
    now: u64,
    off: i64,
    wal: Option<Arc<dyn Wal>>,
    branch: Option<Arc<Branch>>,
    epoch: Epoch,
    seq: u64,
    lsn: Lsn,
    value: u32,
    /// Real time, value, LSN.
    written: Vec<(u64, u32, Lsn)>,
}

const KEPT: Duration = Duration::from_secs(3600);
const PAGE: PageId = PageId::new(0, 3);

impl Timed {
    async fn new() -> Timed {
        let now = 1_700_000_000 * SECOND;
        let clocks = Clocks::default();
        clocks.wall.store(now, Ordering::Relaxed);
        let mut timed = Timed {
            dir: tempfile::tempdir().unwrap(),
            clocks,
            now,
            off: 0,
            wal: None,
            branch: None,
            epoch: Epoch(0),
            seq: 0,
            lsn: Lsn::FIRST,
            value: 0,
            written: Vec::new(),
        };
        timed.open().await;
        let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
        let bytes = mtr(|m| {
            m.header(0, 10, flags);
            m.init(PAGE);
        });
        timed.append(&bytes).await;
        timed
    }

    fn branch(&self) -> &Branch {
        self.branch.as_ref().unwrap()
    }

    async fn append(&mut self, bytes: &[u8]) {
        self.seq += 1;
        let frame = Frame {
            seq: FrameSeq(self.seq),
            start: self.lsn,
            body: FrameBody::Redo(bytes.into()),
        };
        let wal = self.wal.as_ref().unwrap();
        wal.append(self.epoch, vec![frame]).await.unwrap();
        self.lsn = after(self.lsn, bytes);
        self.branch().wait_applied(self.lsn, soon()).await.unwrap();
    }

    /// The server starts, and a compute attaches.
    async fn open(&mut self) {
        let config = LocalWalConfig {
            segment_bytes: 1 << 20,
            max_frame_bytes: 128 << 10,
            clock: self.clocks.clock(),
            ..LocalWalConfig::default()
        };
        let wal = LocalWal::open(&self.dir.path().join("log"), config).unwrap();
        let wal: Arc<dyn Wal> = Arc::new(wal);
        let config = StoreConfig {
            open_layer_bytes: 4 << 10,
            history: KEPT,
            clock: self.clocks.clock(),
            ..common::small()
        };
        let store = Store::open(config, common::place(&self.dir.path().join("pages"))).unwrap();
        store.start_ingest();
        let branch = Branch::open(store, BRANCH, Arc::clone(&wal), None).unwrap();
        let (epoch, start) = attach(&wal, &branch).await;
        assert_eq!(start, self.lsn);
        (self.wal, self.branch) = (Some(wal), Some(branch));
        (self.epoch, self.seq) = (epoch, 0);
    }

    async fn restart(&mut self) {
        self.wal.as_ref().unwrap().close().await.unwrap();
        self.branch().shutdown();
        (self.wal, self.branch) = (None, None);
        self.open().await;
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds * SECOND;
        self.clocks.pass(seconds);
    }

    fn set(&mut self, by: i64) {
        self.off += by;
        self.clocks.set(by);
    }

    async fn write(&mut self, times: u32) {
        for _ in 0..times {
            self.value += 1;
            let value = self.value;
            let bytes = mtr(|m| {
                m.write(PAGE, 100, &value.to_be_bytes())
                    .write(PAGE, 200, &[value as u8; 600]);
            });
            self.append(&bytes).await;
            self.written.push((self.now, value, self.lsn));
            self.pass(1);
        }
    }

    fn fold(&self) {
        tokio::task::block_in_place(|| {
            self.branch().flush_now();
            self.branch().compact_now().unwrap();
        });
    }

    fn read(&self, at: Lsn) -> u32 {
        let page = self
            .branch()
            .get_page(PAGE, ReadAt::Lsn(at), Reach::Files)
            .unwrap();
        u32::from_be_bytes(page.bytes[100..104].try_into().unwrap())
    }

    /// Asks for the middle of each second in which something was written, by
    /// the real time: the answer is right or there is none. Answers for how
    /// many there was one, beginning with the `first` write.
    fn check_times(&self, first: usize) -> usize {
        let asked = self.written.iter().skip(first);
        asked
            .filter(
                |(time, value, _)| match self.branch().lsn_at(time + SECOND / 2) {
                    Ok(lsn) => {
                        assert_eq!(self.read(lsn), *value, "at {time}");
                        true
                    }
                    Err(ReadError::TimeUnclear { message, .. }) => {
                        assert!(message.contains("LSN"), "{message}");
                        false
                    }
                    Err(e) => panic!("{e}"),
                },
            )
            .count()
    }
}

/// The clock is set forth by a month while the server runs, or before it
/// starts again; much later somebody sets it right. History is kept for the
/// time that has really passed, and a moment is answered rightly or refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_discards_nothing() {
    for (by, restarts) in [
        (30 * DAY, false),
        (30 * DAY, true),
        (-DAY, false),
        (-DAY, true),
    ] {
        println!("by {by} \u{b5}s, restarts: {restarts}");
        let mut timed = Timed::new().await;
        let oldest = timed.branch().oldest();
        timed.write(60).await;
        timed.fold();
        assert_eq!(timed.check_times(0), 60);
        timed.set(by);
        if restarts {
            timed.restart().await;
        }
        timed.write(60).await;
        timed.fold();
        assert_eq!(timed.branch().oldest(), oldest, "history was let go of");
        for (_, value, lsn) in &timed.written {
            assert_eq!(timed.read(*lsn), *value);
        }
        timed.check_times(0);
        // It is set right, by somebody or at the next start.
        timed.set(-by);
        if restarts {
            timed.restart().await;
        }
        timed.write(60).await;
        timed.fold();
        assert_eq!(timed.branch().oldest(), oldest, "history was let go of");
        timed.check_times(0);
        assert_eq!(timed.check_times(120), 60, "what is certain is answered");
        // What is read again from the WAL says the same.
        timed.restart().await;
        timed.check_times(0);
        assert_eq!(timed.check_times(120), 60);
        // Time that passes is seen, whatever the clock said before.
        timed.write(1).await;
        timed.pass(KEPT.as_secs() + 1);
        timed.write(60).await;
        timed.fold();
        let kept = timed.branch().oldest();
        assert!(kept > oldest, "nothing is ever let go of");
        assert!(kept <= Some(timed.written[181].2), "too much is: {kept:?}");
    }
}
