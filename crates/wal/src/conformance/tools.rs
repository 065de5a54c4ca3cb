//! Tools of the tests: a compute that numbers its frames, and readers that
//! collect.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test panics where it fails, and waits in real time"
)]

use super::store::Store;
use crate::{Durable, Entry, Position, Record, Wal, WalError};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_types::{Epoch, FileOp, Frame, FrameBody, FrameSeq, Lsn};

/// Longer than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, future)
            .await
            .expect("the test hangs")
    })
}

pub(super) async fn open(store: &dyn Store) -> Arc<dyn Wal> {
    store.open().await.expect("the WAL opens")
}

/// Whether `future` is still waiting after a while in which it could run.
pub(super) async fn waits<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    tokio::time::timeout(Duration::from_millis(50), future)
        .await
        .is_err()
}

/// Waits until something is so.
pub(super) async fn soon(so: impl Fn() -> bool, what: impl Fn() -> String) {
    for _ in 0..1000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{}", what());
}

/// Numbers that look random and are always the same (splitmix64).
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, count: u64) -> Arc<[u8]> {
        // Many zeros, as redo and files have.
        (0..count)
            .map(|_| {
                if self.below(3) == 0 {
                    0
                } else {
                    self.next() as u8
                }
            })
            .collect()
    }
}

/// A compute that writes under one epoch.
pub(super) struct Compute {
    pub epoch: Epoch,
    pub seq: u64,
    pub lsn: u64,
    pub random: Random,
    pub frame_bytes_max: u64,
}

impl Compute {
    /// Seals an epoch and begins it at `start`.
    pub async fn attach(store: &dyn Store, wal: &dyn Wal, start: u64) -> Compute {
        let sealed = wal.seal().await.expect("sealed");
        let begun = wal.begin(sealed.epoch(), Lsn(start)).await.expect("begun");
        assert_eq!(
            (begun.epoch(), begun.seq(), begun.lsn()),
            (sealed.epoch(), FrameSeq(0), Lsn(start))
        );
        assert!(begun.position() > sealed.position());
        Compute {
            epoch: sealed.epoch(),
            seq: 0,
            lsn: start,
            random: Random(start ^ sealed.epoch().0),
            frame_bytes_max: store.frame_bytes_max(),
        }
    }

    /// The next frame: mostly redo, now and then a side-file operation.
    pub fn frame(&mut self) -> Frame {
        let size = match self.random.below(8) {
            0 => 0,
            1 => self.frame_bytes_max - self.random.below(self.frame_bytes_max.min(64)),
            _ => 1 + self.random.below(self.frame_bytes_max.min(300)),
        };
        if self.random.below(4) == 0 {
            let op = file_op(&mut self.random, self.frame_bytes_max);
            self.next(FrameBody::File(op))
        } else {
            let bytes = self.random.bytes(size);
            self.next(FrameBody::Redo(bytes))
        }
    }

    pub fn frames(&mut self, count: usize) -> Vec<Frame> {
        (0..count).map(|_| self.frame()).collect()
    }

    /// Redo of this many bytes.
    pub fn redo(&mut self, bytes: u64) -> Frame {
        let bytes = self.random.bytes(bytes);
        self.next(FrameBody::Redo(bytes))
    }

    fn next(&mut self, body: FrameBody) -> Frame {
        self.seq += 1;
        let frame = Frame {
            seq: FrameSeq(self.seq),
            start: Lsn(self.lsn),
            body,
        };
        self.lsn = frame.end().0;
        frame
    }

    /// Appends frames and waits until they are durable.
    pub async fn write(&mut self, wal: &dyn Wal, count: usize) -> Vec<Frame> {
        let frames = self.frames(count);
        wal.append(self.epoch, frames.clone())
            .await
            .expect("appended");
        durable(wal, self.epoch, self.seq).await;
        frames
    }
}

fn file_op(random: &mut Random, bytes_max: u64) -> FileOp {
    let path = |random: &mut Random| {
        format!(
            "db_{}/tabl\u{e9}{}.frm",
            random.below(3),
            random.below(1000)
        )
    };
    match random.below(7) {
        0 => FileOp::Create {
            path: path(random),
            mode: 0o660,
        },
        1 => {
            let count = random.below(bytes_max.saturating_sub(40).max(1));
            FileOp::Write {
                path: path(random),
                offset: random.next(),
                data: random.bytes(count),
            }
        }
        2 => FileOp::Truncate {
            path: path(random),
            size: random.next(),
        },
        3 => FileOp::Rename {
            from: path(random),
            to: path(random),
        },
        4 => FileOp::Unlink { path: path(random) },
        5 => FileOp::Mkdir {
            path: path(random),
            mode: 0o700,
        },
        _ => FileOp::Rmdir {
            path: String::new(),
        },
    }
}

/// Waits until a frame is durable, and says how far the WAL is then.
pub(super) async fn durable(wal: &dyn Wal, epoch: Epoch, seq: u64) -> Durable {
    let mut watch = wal.durable();
    let reached =
        watch.wait_for(|d| d.epoch() > epoch || (d.epoch() == epoch && d.seq() >= FrameSeq(seq)));
    *reached.await.expect("the WAL goes on")
}

/// Everything from `position` to the durable end; checks that positions rise
/// and times do not fall.
pub(super) fn read(wal: &dyn Wal, position: Position) -> Vec<Entry> {
    let mut reader = wal.read_from(position).expect("a reader");
    let least = wal.durable().borrow().position().max(position);
    let mut entries = Vec::new();
    let mut before = position;
    let mut time_us = 0;
    while let Some(entry) = reader.next().expect("an entry") {
        assert!(entry.next > before, "positions rise");
        before = entry.next;
        assert!(
            entry.stepped || entry.time_us >= time_us,
            "times do not go back"
        );
        time_us = entry.time_us;
        entries.push(entry);
    }
    // It may have grown meanwhile; a reader may hear of that a moment earlier.
    let told = || wal.durable().borrow().position().max(position);
    let until = Instant::now() + Duration::from_secs(10);
    while told() < before && Instant::now() < until {
        std::thread::yield_now();
    }
    let most = told();
    assert!(
        least <= before && before <= most,
        "the reader ends at {before:?}, the WAL between {least:?} and {most:?}"
    );
    entries
}

pub(super) fn read_all(wal: &dyn Wal) -> Vec<Entry> {
    read(wal, wal.first())
}

/// The frames among the entries.
pub(super) fn frames_of(entries: &[Entry]) -> Vec<(Epoch, Frame)> {
    let frame = |e: &Entry| match &e.record {
        Record::Frame(frame) => Some((e.epoch, frame.clone())),
        _ => None,
    };
    entries.iter().filter_map(frame).collect()
}

pub(super) fn under(epoch: Epoch, frames: &[Frame]) -> Vec<(Epoch, Frame)> {
    frames.iter().map(|f| (epoch, f.clone())).collect()
}

pub(super) fn assert_fenced<T: std::fmt::Debug>(
    result: Result<T, WalError>,
    given: Epoch,
    current: Epoch,
) {
    match result {
        Err(WalError::Fenced {
            given: g,
            current: c,
        }) => assert_eq!((g, c), (given, current)),
        other => panic!("not fenced: {other:?}"),
    }
}

/// Checks that the entries could have come from computes that took over from
/// each other: epochs rise by seals, frames are numbered and join.
pub(super) fn assert_one_line(entries: &[Entry]) {
    let mut epoch = Epoch(0);
    let mut next: Option<(u64, Lsn)> = None;
    for entry in entries {
        match &entry.record {
            Record::Seal => {
                assert!(entry.epoch > epoch, "epochs rise");
                epoch = entry.epoch;
                next = None;
            }
            Record::Begin { start } => {
                assert_eq!(
                    (entry.epoch, next),
                    (epoch, None),
                    "begun once, after its seal"
                );
                next = Some((1, *start));
            }
            Record::Frame(frame) => {
                assert_eq!(entry.epoch, epoch, "no frame of an old epoch");
                assert_eq!(Some((frame.seq.0, frame.start)), next, "frames join");
                next = Some((frame.seq.0 + 1, frame.end()));
            }
        }
    }
}
