//! Two servers on one store: one that is cut off from it at any of its
//! requests, and one that takes the project over meanwhile.
//!
//! What goes wrong when a put that succeeds counts as proof of ownership:
//!
//! 1. A has manifest 60 and puts 61; the request does not get through, and A
//!    tries on.
//! 2. B opens the branch with its own 61, and goes on beyond the next
//!    snapshot, which removes manifests 1 to 64. The number 61 is free again.
//! 3. The network heals, A's put succeeds. A removes the layers that its 61
//!    does not name, and trims the WAL behind what its 61 says is in layers.
//! 4. B's manifests name those layers, and B's WAL is the one that was trimmed.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::objects::{bucket_of, config as bucket_config, place};
use crate::common::redo::{MtrBuilder, after, mtr};
use crate::common::{BRANCH, small};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;
use xylem_objects::testing::{Faulty, memory};
use xylem_objects::{Bucket, GiveUp, Retry};
use xylem_pages::place::ObjectPlace;
use xylem_pages::{Branch, Reach, ReadAt, Store, StoreError};
use xylem_redo::SpaceFlags;
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn, PageId};
use xylem_wal::backup::{self, Backup, BackupConfig};
use xylem_wal::local::{LocalWal, LocalWalConfig};
use xylem_wal::object::{ObjectWal, ObjectWalConfig};
use xylem_wal::{BoxFuture, CheckedFrame, Durable, Position, Wal, WalError, WalReader, Writer};

/// Where WALs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    /// In the store.
    Store,
    /// On each server's disk, which is lost with it, and copied to the store.
    Disk,
}

fn retry() -> Retry {
    Retry {
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(20),
        give_up: GiveUp::Never,
        attempt_timeout: Duration::from_millis(500),
    }
}

/// A local WAL and its copy, trimmed together.
struct Backed {
    wal: LocalWal,
    backup: Arc<Backup>,
}

impl Wal for Backed {
    fn seal(&self) -> BoxFuture<'_, Result<Durable, WalError>> {
        self.wal.seal()
    }
    fn begin(&self, epoch: Epoch, start: Lsn) -> BoxFuture<'_, Result<Durable, WalError>> {
        self.wal.begin(epoch, start)
    }
    fn append_checked(
        &self,
        epoch: Epoch,
        frames: Vec<CheckedFrame>,
        writer: Writer,
    ) -> BoxFuture<'_, Result<(), WalError>> {
        self.wal.append_checked(epoch, frames, writer)
    }
    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), WalError> {
        self.wal.accepted(epoch)
    }
    fn durable(&self) -> watch::Receiver<Durable> {
        self.wal.durable()
    }
    fn read_from(&self, position: Position) -> Result<Box<dyn WalReader>, WalError> {
        self.wal.read_from(position)
    }
    fn trim(&self, before: Position) -> Result<(), WalError> {
        self.wal.trim(before)?;
        self.backup.trim(before);
        Ok(())
    }
    fn first(&self) -> Position {
        self.wal.first()
    }
    fn stored_bytes(&self) -> u64 {
        self.wal.stored_bytes()
    }
    fn failed(&self) -> Option<WalError> {
        self.wal.failed()
    }
    fn close(&self) -> BoxFuture<'_, Result<(), WalError>> {
        self.wal.close()
    }
}

/// A server, as far as a branch is concerned, and the compute on it.
struct Machine {
    runtime: Handle,
    net: Faulty,
    branch: Arc<Branch>,
    wal: Arc<dyn Wal>,
    backup: Option<Arc<Backup>>,
    epoch: Epoch,
    seq: u64,
    lsn: Lsn,
    place: ObjectPlace,
    _dir: tempfile::TempDir,
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

impl Machine {
    /// Server number `n` opens the branch and a compute attaches.
    fn open(runtime: &Runtime, base: &Bucket, home: Home, n: u64) -> Machine {
        let runtime = runtime.handle().clone();
        let dir = tempfile::tempdir().unwrap();
        let net = Faulty::new(Arc::clone(base.objects().store()), n);
        let bucket = bucket_of(&net);
        let place = place(bucket.clone(), &dir.path().join("cache"), 1 << 20);
        let store = Store::open(small(), Arc::new(place.clone())).unwrap();
        store.start_ingest();
        let mut made = None;
        let branch = Branch::open_with(store, BRANCH, None, |floor| {
            let (wal, backup) = match home {
                Home::Store => (object_wal(&runtime, &bucket), None),
                Home::Disk => {
                    let backed = restored(&runtime, &bucket, dir.path(), n, floor);
                    let backup = Some(Arc::clone(&backed.backup));
                    (Arc::new(backed) as Arc<dyn Wal>, backup)
                }
            };
            made = Some((Arc::clone(&wal), backup));
            Ok::<_, StoreError>(wal)
        });
        let branch = branch.unwrap();
        let (wal, backup) = made.unwrap();
        let sealed = runtime.block_on(wal.seal()).unwrap();
        runtime
            .block_on(branch.wait_ingested(sealed.position(), soon()))
            .unwrap();
        let lsn = branch.applied().max(Lsn::FIRST);
        let epoch = sealed.epoch();
        runtime.block_on(wal.begin(epoch, lsn)).unwrap();
        Machine {
            runtime,
            net,
            branch,
            wal,
            backup,
            epoch,
            seq: 0,
            lsn,
            place,
            _dir: dir,
        }
    }

    /// Commits; an error when the WAL does not take it.
    fn mtr(&mut self, build: impl FnOnce(&mut MtrBuilder)) -> Result<(), String> {
        let bytes = mtr(build);
        self.seq += 1;
        let frame = Frame {
            seq: FrameSeq(self.seq),
            start: self.lsn,
            body: FrameBody::Redo(bytes.as_slice().into()),
        };
        let lsn = after(self.lsn, &bytes);
        let (epoch, seq) = (self.epoch, FrameSeq(self.seq));
        let mut durable = self.wal.durable();
        self.runtime.block_on(async {
            let appended = self.wal.append(epoch, vec![frame]).await;
            appended.map_err(|e| e.to_string())?;
            let reached = durable
                .wait_for(|d| d.epoch() > epoch || d.seq() >= seq)
                .await;
            let reached = *reached.map_err(|e| e.to_string())?;
            if reached.epoch() > epoch {
                return Err("fenced".to_owned());
            }
            let applied = self.branch.wait_applied(lsn, soon()).await;
            applied.map_err(|e| e.to_string())
        })?;
        self.lsn = lsn;
        Ok(())
    }

    fn write(&mut self, page: u32, byte: u8) -> Result<(), String> {
        self.mtr(|m| {
            m.write(PageId::new(9, page), 100, &[byte; 40]);
        })
    }

    fn flush(&mut self, page: u32, byte: u8) {
        self.write(page, byte).unwrap();
        self.branch.flush_now();
        assert_eq!(self.branch.failed(), None);
    }

    /// Waits until what is durable is in the copy as well.
    fn back_up(&self) {
        if let Some(backup) = &self.backup {
            let end = self.wal.durable().borrow().position();
            self.runtime.block_on(backup.reach(end)).unwrap();
        }
    }

    fn check(&self, want: &BTreeMap<u32, u8>, at: &str) {
        for (page, byte) in want {
            let got = self
                .branch
                .get_page(PageId::new(9, *page), ReadAt::Newest, Reach::Files);
            let got = got.unwrap_or_else(|e| panic!("{at}: page {page}: {e}"));
            assert_eq!(got.bytes[100], *byte, "{at}: page {page}");
        }
    }
}

fn object_wal(runtime: &Handle, bucket: &Bucket) -> Arc<dyn Wal> {
    let settings = ObjectWalConfig {
        retry: retry(),
        linger: Duration::ZERO,
        ..ObjectWalConfig::new(runtime.clone())
    };
    let folder = bucket.objects().folder("logs/x");
    Arc::new(
        runtime
            .block_on(ObjectWal::open(&folder, settings))
            .unwrap(),
    )
}

/// The WAL of a disk that is empty: what the copies of others before it hold.
fn restored(runtime: &Handle, bucket: &Bucket, dir: &Path, n: u64, floor: backup::Floor) -> Backed {
    let local = LocalWalConfig {
        segment_bytes: 1 << 20,
        max_frame_bytes: 128 << 10,
        spare_segments: 0,
        ..LocalWalConfig::default()
    };
    let settings = BackupConfig {
        interval: Duration::from_millis(4),
        // One object for each entry: there is something to trim.
        object_bytes: 1,
        retry: retry(),
        ..BackupConfig::new(runtime.clone())
    };
    let folder = bucket.objects().folder("backups/x");
    let dir = dir.join("log");
    std::fs::create_dir_all(&dir).unwrap();
    let restoring = backup::restore(&folder, 2 * n, &dir, floor, local.clone(), settings.clone());
    runtime.block_on(restoring).unwrap();
    let wal = LocalWal::open(&dir, local).unwrap();
    let backup = Backup::start(&wal, &folder, 2 * n + 1, settings).unwrap();
    Backed {
        wal,
        backup: Arc::new(backup),
    }
}

/// A store whose branch is a few manifests before a snapshot, with as many
/// layers as a merge takes.
fn prepared(runtime: &Runtime, home: Home) -> (Bucket, BTreeMap<u32, u8>) {
    let base = Bucket::with_store(memory(), "test://", bucket_config()).unwrap();
    let mut first = Machine::open(runtime, &base, home, 1);
    let flags = SpaceFlags::full_crc32_of(4096).unwrap().raw();
    first
        .mtr(|m| {
            m.create(9, "./db/t.ibd").header(9, 16, flags);
            for page in 1..16 {
                m.init(PageId::new(9, page));
            }
        })
        .unwrap();
    let mut want = BTreeMap::new();
    let mut round = 0;
    while first.branch.health().manifest < 44 {
        round += 1;
        first.flush(1 + round % 6, round as u8);
        want.insert(1 + round % 6, round as u8);
        if round % 7 == 0 {
            first.branch.compact_now().unwrap();
        }
    }
    first.branch.compact_now().unwrap();
    for page in 1..8 {
        first.flush(page, page as u8);
        want.insert(page, page as u8);
    }
    assert!(first.branch.health().manifest < 60);
    first.write(8, 8).unwrap();
    want.insert(8, 8);
    first.back_up();
    first.branch.shutdown();
    (base, want)
}

fn copy(base: &Bucket) -> Bucket {
    let copy = Bucket::with_store(memory(), "test://", bucket_config()).unwrap();
    for (name, _) in base.list_below("").unwrap() {
        copy.put_new(&name, base.get(&name).unwrap()).unwrap();
    }
    copy
}

/// What A does when it is cut off: whatever succeeds or fails.
fn work(a: &mut Machine) {
    for byte in 0..2 {
        if a.write(12, byte).is_err() {
            return;
        }
        a.branch.flush_now();
        let _ = a.branch.compact_now();
    }
}

/// A is cut off at its request `k` from some moment on. Whether it came to that.
fn cut_at(runtime: &Runtime, prepared: &(Bucket, BTreeMap<u32, u8>), home: Home, k: u64) -> bool {
    let at = format!("{home:?}, request {k}");
    let base = copy(&prepared.0);
    let mut want = prepared.1.clone();
    let mut a = Machine::open(runtime, &base, home, 2);
    a.check(&want, &at);
    a.back_up();
    let net = a.net.clone();
    net.hold_from(net.requests() + k);
    let (cut, b, base) = std::thread::scope(|s| {
        let working = s.spawn(|| work(&mut a));
        while !net.is_cut() && !working.is_finished() {
            std::thread::yield_now();
        }
        let cut = net.is_cut();
        let mut b = Machine::open(runtime, &base, home, 3);
        b.check(&want, &at);
        let mut round = 0;
        // Beyond the snapshot that frees the numbers before it.
        while b.branch.health().manifest < 67 {
            round += 1;
            b.flush(1 + round % 3, 100 + round as u8);
            want.insert(1 + round % 3, 100 + round as u8);
        }
        b.write(9, 99).unwrap();
        want.insert(9, 99);
        net.heal();
        working.join().unwrap();
        (cut, b, base)
    });
    // Whatever A still has to do.
    a.branch.flush_now();
    let _ = a.branch.compact_now();
    a.branch.shutdown();
    let mut b = b;
    b.check(&want, &at);
    b.branch.compact_now().unwrap();
    b.check(&want, &at);
    b.flush(10, 10);
    b.write(11, 11).unwrap();
    want.extend([(10, 10), (11, 11)]);
    b.back_up();
    b.branch.shutdown();
    common::care::undamaged_in(&b.place, None);
    drop(b);
    // A third finds everything, with no more than the store.
    let c = Machine::open(runtime, &base, home, 4);
    c.check(&want, &at);
    cut
}

fn at_every_request(home: Home) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let prepared = prepared(&runtime, home);
    let mut k = 0;
    while cut_at(&runtime, &prepared, home, k) {
        k += 1;
    }
    println!("{home:?}: {k} requests");
    assert!(k > 12, "only {k} requests");
}

#[test]
fn whoever_was_cut_off_harms_nothing_with_wals_in_the_store() {
    at_every_request(Home::Store);
}

#[test]
fn whoever_was_cut_off_harms_nothing_with_wals_that_are_copied() {
    at_every_request(Home::Disk);
}
