//! Callers of `write_queued` and the WAL's own thread write in turns: each entry is
//! written by somebody, once, in its place, whatever fails meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::{ModelStore, Writer, block_on, frames, open, open_roomy, read_all};
use parking_lot::Mutex;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use xylem_types::{Epoch, Frame, FrameSeq, Lsn};
use xylem_wal::conformance::{self, HandClock, Store};
use xylem_wal::disk::model::{ModelDisk, Op};
use xylem_wal::{
    BoxFuture, CheckedFrame, Durable, LocalWal, Position, Wal, WalError, WalReader,
    Writer as Thread,
};

/// A WAL whose appends are written by their callers, each on a thread of its own.
struct ByCallers(Arc<dyn Wal>);

impl Wal for ByCallers {
    fn seal(&self) -> BoxFuture<'_, Result<Durable, WalError>> {
        self.0.seal()
    }

    fn begin(&self, epoch: Epoch, start: Lsn) -> BoxFuture<'_, Result<Durable, WalError>> {
        self.0.begin(epoch, start)
    }

    fn append_checked(
        &self,
        epoch: Epoch,
        frames: Vec<CheckedFrame>,
        _: Thread,
    ) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(async move {
            let appended = self.0.append_checked(epoch, frames, Thread::Caller).await;
            let wal = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || wal.write_queued());
            appended
        })
    }

    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), WalError> {
        self.0.accepted(epoch)
    }

    fn durable(&self) -> watch::Receiver<Durable> {
        self.0.durable()
    }

    fn read_from(&self, position: Position) -> Result<Box<dyn WalReader>, WalError> {
        self.0.read_from(position)
    }

    fn trim(&self, before: Position) -> Result<(), WalError> {
        self.0.trim(before)
    }

    fn first(&self) -> Position {
        self.0.first()
    }

    fn write_queued(&self) {
        self.0.write_queued();
    }

    fn stored_bytes(&self) -> u64 {
        self.0.stored_bytes()
    }

    fn failed(&self) -> Option<WalError> {
        self.0.failed()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), WalError>> {
        self.0.close()
    }
}

/// The model disk, with a WAL that its callers write.
struct CallersStore(ModelStore);

impl Store for CallersStore {
    fn open(&self) -> BoxFuture<'_, Result<Arc<dyn Wal>, WalError>> {
        Box::pin(async { Ok(Arc::new(ByCallers(self.0.open().await?)) as Arc<dyn Wal>) })
    }

    fn crash(&self, seed: u64) {
        self.0.crash(seed);
    }

    fn hold(&self, held: bool) -> bool {
        self.0.hold(held)
    }

    fn clock(&self) -> &HandClock {
        self.0.clock()
    }

    fn queue_bytes(&self) -> u64 {
        self.0.queue_bytes()
    }

    fn frame_bytes_max(&self) -> u64 {
        self.0.frame_bytes_max()
    }
}

#[test]
fn a_wal_that_its_callers_write_passes_the_suite() {
    conformance::run(|| CallersStore(ModelStore::new()));
    for seed in 100..120 {
        conformance::history(&CallersStore(ModelStore::new()), seed, 100);
    }
}

/// Numbers that look random and are always the same (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// One compute whose frames are appended by several threads, and all frames so far.
struct Line {
    compute: Writer,
    sent: Vec<Frame>,
}

/// Appends the next frame, as a caller or for the WAL's thread. Returns its number.
fn append(wal: &LocalWal, line: &Mutex<Line>, random: &mut Random) -> Result<u64, WalError> {
    let mut line = line.lock();
    let frame = line.compute.redo(1 + random.below(1500) as usize);
    let thread = match random.below(3) {
        0 => Thread::Wake,
        _ => Thread::Caller,
    };
    let (epoch, seq) = (line.compute.epoch, frame.seq.0);
    let appended = loop {
        let frames = vec![CheckedFrame::of(frame.clone())];
        let appended = futures::executor::block_on(wal.append_checked(epoch, frames, thread));
        match appended {
            // The disk is full for a moment.
            Err(WalError::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => break other,
        }
    };
    if appended.is_ok() {
        line.sent.push(frame);
    }
    drop(line);
    if thread == Thread::Caller {
        wal.write_queued();
    }
    appended.map(|()| seq)
}

/// Waits until frame `seq` is durable, although nobody does anything more for it.
fn is_written(wal: &LocalWal, seq: u64) -> Result<(), WalError> {
    let mut durable = wal.durable();
    let patience = Duration::from_secs(20);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let reached = runtime.block_on(async {
        let reached = durable.wait_for(|now| now.seq().0 >= seq);
        let reached = tokio::time::timeout(patience, reached).await;
        reached.map(|reached| reached.is_ok())
    });
    match reached {
        Ok(true) => Ok(()),
        Ok(false) => Err(wal.failed().unwrap_or(WalError::Closed)),
        Err(_) => panic!("frame {seq} stays behind"),
    }
}

fn attached(wal: Result<LocalWal, WalError>) -> (LocalWal, Mutex<Line>) {
    let wal = wal.unwrap();
    let compute = block_on(Writer::attach(&wal)).unwrap();
    let sent = Vec::new();
    (wal, Mutex::new(Line { compute, sent }))
}

#[test]
fn no_entry_stays_behind() {
    const EACH: usize = 150;
    for seed in 0..12 {
        let disk = ModelDisk::new();
        let (wal, line) = attached(open(&disk));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..3)
                .map(|who| {
                    let (wal, line) = (&wal, &line);
                    scope.spawn(move || {
                        let mut random = Random(seed * 10 + who);
                        for _ in 0..EACH {
                            let seq = append(wal, line, &mut random).unwrap();
                            // Now and then more than one is under way.
                            if random.below(3) > 0 {
                                is_written(wal, seq).unwrap();
                            }
                        }
                    })
                })
                .collect();
            // The disk is full now and then, and there is trimming.
            let trouble = scope.spawn(|| {
                let mut random = Random(seed + 1_000_000);
                while !done.load(Ordering::SeqCst) {
                    match random.below(3) {
                        0 => {
                            disk.fail(Op::Write, random.below(4) as u32, 1, ErrorKind::StorageFull)
                        }
                        1 => {
                            disk.set_room(Some(disk.used()));
                            std::thread::sleep(Duration::from_millis(2));
                            disk.set_room(None);
                        }
                        _ => {
                            // While the value is borrowed.
                            wal.trim(wal.durable().borrow().position()).unwrap();
                        }
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            for caller in callers {
                caller.join().unwrap();
            }
            done.store(true, Ordering::SeqCst);
            trouble.join().unwrap();
        });
        let sent = line.into_inner().sent;
        assert_eq!(sent.len(), 3 * EACH);
        is_written(&wal, sent.len() as u64).unwrap();
        block_on(wal.close()).unwrap();
        drop(wal);
        let found = frames(&read_all(&open(&disk.crash(seed)).unwrap()).unwrap());
        assert!(!found.is_empty());
        assert_eq!(found, sent[sent.len() - found.len()..]);
    }
}

/// The others must neither write over the entries that were lost, nor behind them.
#[test]
fn a_failure_of_one_writer_ends_the_writing_of_all() {
    let mut failures = 0;
    for seed in 0..400 {
        let disk = ModelDisk::new();
        // Nothing but the writers syncs or writes at first.
        let (wal, line) = attached(open_roomy(&disk));
        let told = Mutex::new(0);
        let mut random = Random(seed);
        let op = [Op::Sync, Op::Write][random.below(2) as usize];
        disk.fail(op, random.below(12) as u32, 1, ErrorKind::Other);
        std::thread::scope(|scope| {
            for who in 0..3 {
                let (wal, line, told) = (&wal, &line, &told);
                scope.spawn(move || {
                    let mut random = Random(seed * 10 + who);
                    for _ in 0..20 {
                        let Ok(seq) = append(wal, line, &mut random) else {
                            return;
                        };
                        if random.below(2) == 0 {
                            continue;
                        }
                        let Ok(()) = is_written(wal, seq) else { return };
                        let mut told = told.lock();
                        *told = seq.max(*told);
                    }
                });
            }
        });
        let sent = line.into_inner().sent;
        let said = wal.durable().borrow().seq().0.max(told.into_inner());
        failures += u32::from(wal.failed().is_some());
        drop(wal);
        // Another process on the same machine, and one after a power cut.
        let copy = disk.copy();
        for disk in [disk.crash(seed), copy] {
            let wal = open_roomy(&disk).unwrap_or_else(|e| panic!("{seed}: {e}"));
            let found = frames(&read_all(&wal).unwrap());
            assert!(
                found.len() as u64 >= said,
                "{seed}: a durable frame is lost"
            );
            assert!(
                found[..] == sent[..found.len()],
                "{seed}: a frame is out of place"
            );
        }
    }
    assert!(failures > 300, "{failures} failures");
}

/// The caller's write finds no room while the WAL is told to end: closing must not
/// succeed without it.
#[test]
fn closing_waits_for_what_a_caller_writes() {
    for seed in 0..300 {
        let disk = ModelDisk::new();
        let (wal, line) = attached(open(&disk));
        if seed % 2 == 0 {
            disk.fail(Op::Write, 0, 1, ErrorKind::StorageFull);
        }
        let closed = std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                let frame = line.lock().compute.redo(700);
                let epoch = line.lock().compute.epoch;
                let frames = vec![CheckedFrame::of(frame)];
                let appended = wal.append_checked(epoch, frames, Thread::Caller);
                let appended = futures::executor::block_on(appended).is_ok();
                wal.write_queued();
                appended
            });
            for _ in 0..seed * 20 {
                std::hint::spin_loop();
            }
            let closed = futures::executor::block_on(wal.close());
            (caller.join().unwrap(), closed.is_ok())
        });
        drop(wal);
        let found = frames(&read_all(&open(&disk.crash(seed)).unwrap()).unwrap());
        if let (true, true) = closed {
            assert_eq!(found.len(), 1, "{seed}: closed without an accepted frame");
        }
    }
}

/// Seals and begins are written by the WAL's thread, between the entries of callers.
#[test]
fn computes_take_over_from_each_other_while_callers_write() {
    for seed in 0..10 {
        let disk = ModelDisk::new();
        let wal = open(&disk).unwrap();
        let acknowledged = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for who in 0..3 {
                let (wal, acknowledged) = (&wal, &acknowledged);
                scope.spawn(move || {
                    let mut random = Random(seed * 10 + who);
                    for _ in 0..6 {
                        let Ok(mut compute) = block_on(Writer::attach(wal)) else {
                            continue;
                        };
                        for _ in 0..10 {
                            let frame = compute.redo(1 + random.below(900) as usize);
                            let frames = vec![CheckedFrame::of(frame.clone())];
                            let appended =
                                wal.append_checked(compute.epoch, frames, Thread::Caller);
                            let appended = futures::executor::block_on(appended);
                            wal.write_queued();
                            if appended.is_err() {
                                break;
                            }
                            let durable = block_on(compute.durable(wal)).unwrap();
                            if durable.epoch() == compute.epoch {
                                acknowledged.lock().push((compute.epoch, frame));
                            }
                        }
                    }
                });
            }
        });
        block_on(wal.close()).unwrap();
        drop(wal);
        let entries = read_all(&open(&disk.crash(seed)).unwrap()).unwrap();
        for (epoch, frame) in acknowledged.into_inner() {
            let is_it = |entry: &xylem_wal::Entry| {
                entry.epoch == epoch && entry.record == xylem_wal::Record::Frame(frame.clone())
            };
            assert!(
                entries.iter().any(is_it),
                "{epoch}: a durable frame is lost"
            );
        }
    }
}

/// The writer waits to replace the value, and calls that look at the watch themselves
/// would wait behind it.
#[test]
fn a_caller_that_holds_what_is_durable_reads_and_trims() {
    let disk = ModelDisk::new();
    let (wal, line) = attached(open(&disk));
    let (wal, mut compute) = (Arc::new(wal), line.into_inner().compute);
    for _ in 0..20 {
        let frames = (0..3).map(|_| compute.redo(1)).collect();
        block_on(wal.append(compute.epoch, frames)).unwrap();
        let held = Arc::clone(&wal);
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let durable = held.durable();
            let seen = durable.borrow();
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(1));
                read_all(&held).unwrap();
                held.read_from(seen.position()).unwrap();
                held.trim(held.first()).unwrap();
            }
            drop(seen);
            let _ = done.send(());
        });
        let waited = is_done.recv_timeout(Duration::from_secs(30));
        assert_eq!(waited, Ok(()), "it waits behind the writer");
        block_on(compute.durable(&wal)).unwrap();
    }
}
