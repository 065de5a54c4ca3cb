//! Epochs and numbering.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::store::Store;
use super::tools::{
    Compute, assert_fenced, assert_one_line, frames_of, open, read_all, under, waits,
};
use crate::{Record, WalError};
use xylem_types::{Epoch, FileOp, Frame, FrameBody, FrameSeq, Lsn};

fn assert_out_of_order(result: Result<(), WalError>, next: (u64, u64)) {
    match result {
        Err(WalError::OutOfOrder {
            expected_seq,
            expected_start,
            ..
        }) => {
            assert_eq!((expected_seq.0, expected_start.0), next);
        }
        other => panic!("not out of order: {other:?}"),
    }
}

pub(super) async fn numbering(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let frames = compute.write(&*wal, 5).await;
    let next = (compute.seq + 1, compute.lsn);
    let redo = || FrameBody::Redo(vec![1, 2, 3].into());
    let wrong = [
        Frame {
            seq: FrameSeq(next.0 + 1),
            start: Lsn(next.1),
            body: redo(),
        },
        Frame {
            seq: FrameSeq(u64::MAX),
            start: Lsn(next.1),
            body: redo(),
        },
        Frame {
            seq: FrameSeq(next.0),
            start: Lsn(next.1 + 1),
            body: redo(),
        },
        Frame {
            seq: FrameSeq(next.0),
            start: Lsn(next.1 - 1),
            body: redo(),
        },
        Frame {
            seq: FrameSeq(next.0),
            start: Lsn(0),
            body: redo(),
        },
        Frame {
            seq: FrameSeq(next.0),
            start: Lsn(next.1 + 9),
            body: FrameBody::File(FileOp::Unlink {
                path: "a/b.frm".to_owned(),
            }),
        },
    ];
    for frame in wrong {
        assert_out_of_order(wal.append(compute.epoch, vec![frame]).await, next);
        assert_eq!(
            wal.accepted(compute.epoch).unwrap(),
            (FrameSeq(compute.seq), Lsn(compute.lsn))
        );
    }
    let more = compute.write(&*wal, 5).await;
    assert_eq!(
        frames_of(&read_all(&*wal)),
        under(compute.epoch, &[frames, more].concat())
    );
}

pub(super) async fn refused_group(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let next = (compute.seq, compute.lsn);
    let mut frames = compute.frames(6);
    let last = frames.remove(4);
    assert_out_of_order(
        wal.append(compute.epoch, frames.clone()).await,
        (last.seq.0, last.start.0),
    );
    assert_eq!(
        wal.accepted(compute.epoch).unwrap(),
        (FrameSeq(next.0), Lsn(next.1))
    );
    frames.insert(4, last);
    wal.append(compute.epoch, frames.clone()).await.unwrap();
    super::tools::durable(&*wal, compute.epoch, compute.seq).await;
    assert_eq!(frames_of(&read_all(&*wal)), under(compute.epoch, &frames));
}

pub(super) async fn resend(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let frames = compute.frames(30);
    for (from, to) in [
        (0, 1),
        (0, 1),
        (0, 10),
        (5, 12),
        (3, 4),
        (0, 12),
        (12, 20),
        (0, 30),
        (29, 30),
        (0, 30),
    ] {
        wal.append(compute.epoch, frames[from..to].to_vec())
            .await
            .unwrap();
        let (seq, lsn) = wal.accepted(compute.epoch).unwrap();
        let last = &frames[seq.0 as usize - 1];
        assert_eq!((seq, lsn), (last.seq, last.end()));
    }
    wal.append(compute.epoch, Vec::new()).await.unwrap();
    super::tools::durable(&*wal, compute.epoch, compute.seq).await;
    assert_eq!(frames_of(&read_all(&*wal)), under(compute.epoch, &frames));
}

pub(super) async fn too_large(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let limit = compute.frame_bytes_max;
    let fits = compute.redo(limit);
    wal.append(compute.epoch, vec![fits]).await.unwrap();
    let (seq, lsn) = (compute.seq, compute.lsn);
    let large = compute.redo(limit + 1);
    match wal.append(compute.epoch, vec![large]).await {
        Err(WalError::TooLarge {
            seq: s,
            bytes,
            limit: l,
        }) => {
            assert_eq!((s.0, bytes, l), (seq + 1, limit + 1, limit));
        }
        other => panic!("not too large: {other:?}"),
    }
    assert_eq!(
        wal.accepted(compute.epoch).unwrap(),
        (FrameSeq(seq), Lsn(lsn))
    );
}

pub(super) async fn begin_rules(store: &dyn Store) {
    let wal = open(store).await;
    assert!(wal.begin(Epoch(0), Lsn(1)).await.is_err());
    assert_fenced(wal.begin(Epoch(1), Lsn(1)).await, Epoch(1), Epoch(0));
    let one = wal.seal().await.unwrap().epoch();
    assert_eq!(one, Epoch(1));
    let frame = Frame {
        seq: FrameSeq(1),
        start: Lsn(100),
        body: FrameBody::Redo(vec![1].into()),
    };
    let early = wal.append(one, vec![frame.clone()]).await;
    assert!(
        matches!(early, Err(WalError::NotBegun { epoch }) if epoch == one),
        "{early:?}"
    );
    let begun = wal.begin(one, Lsn(100)).await.unwrap();
    // A begin whose answer was lost is sent again.
    assert_eq!(wal.begin(one, Lsn(100)).await.unwrap(), begun);
    assert!(matches!(
        wal.begin(one, Lsn(101)).await,
        Err(WalError::OutOfOrder { .. })
    ));
    wal.append(one, vec![frame]).await.unwrap();
    assert!(matches!(
        wal.begin(one, Lsn(100)).await,
        Err(WalError::OutOfOrder { .. })
    ));
    let two = wal.seal().await.unwrap();
    assert_eq!(
        (two.epoch(), two.seq(), two.lsn()),
        (Epoch(2), FrameSeq(0), Lsn(101))
    );
    assert_fenced(wal.begin(one, Lsn(100)).await, one, two.epoch());
    let records: Vec<_> = read_all(&*wal)
        .into_iter()
        .map(|e| (e.epoch.0, e.record))
        .collect();
    assert_eq!(records.len(), 4);
    assert_eq!(records[1], (1, Record::Begin { start: Lsn(100) }));
    assert_eq!(records[3], (2, Record::Seal));
}

pub(super) async fn fenced(store: &dyn Store) {
    let wal = open(store).await;
    let mut old = Compute::attach(store, &*wal, 12288).await;
    let frames = old.write(&*wal, 5).await;
    let sealed = wal.seal().await.unwrap();
    assert_eq!(sealed.lsn(), Lsn(old.lsn));
    let late = old.frames(2);
    assert_fenced(
        wal.append(old.epoch, late.clone()).await,
        old.epoch,
        sealed.epoch(),
    );
    assert_fenced(
        wal.append(old.epoch, Vec::new()).await,
        old.epoch,
        sealed.epoch(),
    );
    // Even what is here already: the old compute must learn that it has ended.
    assert_fenced(
        wal.append(old.epoch, frames.clone()).await,
        old.epoch,
        sealed.epoch(),
    );
    assert_fenced(wal.accepted(old.epoch), old.epoch, sealed.epoch());
    wal.begin(sealed.epoch(), Lsn(old.lsn)).await.unwrap();
    assert_fenced(wal.append(old.epoch, late).await, old.epoch, sealed.epoch());
    let unborn = Epoch(sealed.epoch().0 + 1);
    assert_fenced(wal.append(unborn, Vec::new()).await, unborn, sealed.epoch());
    assert_eq!(frames_of(&read_all(&*wal)), under(old.epoch, &frames));
    wal.close().await.unwrap();
    drop(wal);
    let wal = open(store).await;
    assert_fenced(
        wal.append(old.epoch, Vec::new()).await,
        old.epoch,
        sealed.epoch(),
    );
}

pub(super) async fn late_frames(store: &dyn Store) {
    let wal = open(store).await;
    let mut old = Compute::attach(store, &*wal, 12288).await;
    if !store.hold(true) {
        return;
    }
    let accepted: Vec<_> = (0..5).map(|_| old.redo(10)).collect();
    wal.append(old.epoch, accepted.clone()).await.unwrap();
    let mut seal = wal.seal();
    assert!(waits(&mut seal).await, "sealed before it is durable");
    let current = Epoch(old.epoch.0 + 1);
    let late = old.redo(10);
    assert_fenced(wal.append(old.epoch, vec![late]).await, old.epoch, current);
    store.hold(false);
    let sealed = seal.await.unwrap();
    assert_eq!(sealed.epoch(), current);
    let entries = read_all(&*wal);
    assert_one_line(&entries);
    // Accepted frames stand before the seal's entry, and `Durable` after it.
    assert_eq!(
        entries.last().map(|e| (e.next, &e.record)),
        Some((sealed.position(), &Record::Seal))
    );
    assert_eq!(frames_of(&entries), under(old.epoch, &accepted));
    assert_eq!(sealed.lsn(), accepted[4].end());
}

pub(super) async fn concurrent_seals(store: &dyn Store) {
    let wal = open(store).await;
    let seals: Vec<_> = (0..10)
        .map(|_| {
            let wal = std::sync::Arc::clone(&wal);
            tokio::spawn(async move { wal.seal().await.unwrap().epoch().0 })
        })
        .collect();
    let mut epochs = Vec::new();
    for seal in seals {
        epochs.push(seal.await.unwrap());
    }
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=10).collect::<Vec<u64>>());
    assert_one_line(&read_all(&*wal));
}
