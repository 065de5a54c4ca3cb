//! The content of the golden files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use futures::TryStreamExt;
use object_store::path::Path as Prefix;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use xylem_ambient::Entropy;
use xylem_types::{Epoch, FileOp, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::Record;

/// The same random bytes at every run: those of `first`, and so on.
pub fn entropy(first: u64) -> Entropy {
    let drawn = AtomicU64::new(first);
    Entropy::new(move || {
        let nth = drawn.fetch_add(1, Ordering::Relaxed);
        Ok(0x1716_1514_1312_1110_0F0E_0D0C_0B0A_0908 + u128::from(nth))
    })
}

/// All objects below `prefix`, by their names there.
pub async fn objects(store: &dyn ObjectStore, prefix: &Prefix) -> BTreeMap<String, Vec<u8>> {
    let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
    let below = format!("{prefix}/");
    let mut all = BTreeMap::new();
    for meta in listed {
        let bytes = store.get(&meta.location).await.unwrap();
        let name = meta.location.to_string();
        let name = name.strip_prefix(&below).unwrap().to_owned();
        all.insert(name, bytes.bytes().await.unwrap().to_vec());
    }
    all
}

/// Compares objects with the golden files in `dir`, or makes these anew.
pub fn compare(dir: &Path, written: &BTreeMap<String, Vec<u8>>) {
    for (name, bytes) in written {
        let path = dir.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == *bytes, "{name} differs");
    }
}

/// When the first entry was written, and how much later each further group.
pub const TIME_US: u64 = 1_763_820_000_000_000;
pub const STEP_US: u64 = 1_500_000;

/// One of each kind, in groups; each group is durable before the next.
pub fn groups() -> Vec<Vec<Frame>> {
    let path = || "test/t\u{e4}.frm".to_owned();
    let bodies = [
        vec![FrameBody::Redo((0..100).collect::<Vec<u8>>().into())],
        vec![
            FrameBody::Redo(vec![0xAA; 3].into()),
            FrameBody::Redo(Vec::new().into()),
        ],
        vec![FrameBody::File(FileOp::Mkdir {
            path: "test".to_owned(),
            mode: 0o700,
        })],
        vec![FrameBody::File(FileOp::Create {
            path: path(),
            mode: 0o660,
        })],
        vec![FrameBody::File(FileOp::Write {
            path: path(),
            offset: 4096,
            data: vec![0xFE, 0x01].into(),
        })],
        vec![FrameBody::File(FileOp::Truncate {
            path: path(),
            size: 1 << 40,
        })],
        vec![
            FrameBody::File(FileOp::Rename {
                from: path(),
                to: "test/u.frm".to_owned(),
            }),
            FrameBody::File(FileOp::Unlink {
                path: "test/u.frm".to_owned(),
            }),
            FrameBody::File(FileOp::Rmdir {
                path: "test".to_owned(),
            }),
        ],
    ];
    let (mut seq, mut lsn) = (0, Lsn::FIRST);
    let mut number = |body| {
        seq += 1;
        let frame = Frame {
            seq: FrameSeq(seq),
            start: lsn,
            body,
        };
        lsn = frame.end();
        frame
    };
    bodies
        .into_iter()
        .map(|group| group.into_iter().map(&mut number).collect())
        .collect()
}

/// The groups that are written at once: a seal, a begin, the groups of frames,
/// another seal.
pub fn record_groups() -> Vec<(Epoch, Vec<Record>)> {
    let one = |record| (Epoch(1), vec![record]);
    let mut writes = vec![one(Record::Seal), one(Record::Begin { start: Lsn::FIRST })];
    for group in groups() {
        let records = group.into_iter().map(Record::Frame);
        writes.push((Epoch(1), records.collect()));
    }
    writes.push((Epoch(2), vec![Record::Seal]));
    writes
}
