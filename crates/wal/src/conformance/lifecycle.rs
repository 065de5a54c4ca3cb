//! Opening, closing, crashing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::store::Store;
use super::tools::{
    Compute, assert_fenced, assert_one_line, frames_of, open, read_all, under, waits,
};
use crate::{Durable, Position, Record, WalError};
use xylem_types::{Epoch, FrameSeq, Lsn};

pub(super) async fn new_wal_is_empty(store: &dyn Store) {
    let wal = open(store).await;
    assert_eq!(*wal.durable().borrow(), Durable::default());
    assert_eq!(wal.first(), Position(0));
    assert!(
        wal.read_from(Position(0))
            .unwrap()
            .next()
            .unwrap()
            .is_none()
    );
    assert_eq!(wal.accepted(Epoch(0)).unwrap(), (FrameSeq(0), Lsn(0)));
    wal.close().await.unwrap();
    drop(wal);
    let wal = open(store).await;
    assert_eq!(*wal.durable().borrow(), Durable::default());
}

pub(super) async fn durable_after_reopen(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let frames = compute.write(&*wal, 40).await;
    let before = *wal.durable().borrow();
    wal.close().await.unwrap();
    drop(wal);
    for _ in 0..3 {
        let wal = open(store).await;
        assert_eq!(*wal.durable().borrow(), before);
        assert_eq!(
            wal.accepted(compute.epoch).unwrap(),
            (FrameSeq(compute.seq), Lsn(compute.lsn))
        );
        let entries = read_all(&*wal);
        assert_eq!(frames_of(&entries), under(compute.epoch, &frames));
        assert_eq!(entries[0].record, Record::Seal);
        assert_eq!(entries[1].record, Record::Begin { start: Lsn(12288) });
        wal.close().await.unwrap();
    }
    // The same compute goes on: it need not be fenced by a restart of the WAL.
    let wal = open(store).await;
    let more = compute.write(&*wal, 10).await;
    let all = [frames, more].concat();
    assert_eq!(frames_of(&read_all(&*wal)), under(compute.epoch, &all));
}

pub(super) async fn durable_after_crash(store: &dyn Store) {
    let mut wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let mut frames = Vec::new();
    for round in 0..12 {
        frames.extend(compute.write(&*wal, 5).await);
        let durable = *wal.durable().borrow();
        // A few more frames without waiting for them.
        let unsure = compute.frames(4);
        wal.append(compute.epoch, unsure.clone()).await.unwrap();
        store.crash(round);
        drop(wal);
        wal = open(store).await;
        let now = *wal.durable().borrow();
        assert!(now.position() >= durable.position() && now.seq() >= durable.seq());
        let found = frames_of(&read_all(&*wal));
        frames.extend(unsure);
        frames.truncate(found.len());
        assert_eq!(
            found,
            under(compute.epoch, &frames),
            "a prefix of what was appended"
        );
        assert!(FrameSeq(found.len() as u64) >= durable.seq());
        let (seq, lsn) = wal.accepted(compute.epoch).unwrap();
        assert_eq!(seq, FrameSeq(found.len() as u64));
        assert_eq!(now.seq(), seq);
        (compute.seq, compute.lsn) = (seq.0, lsn.0);
    }
    assert_one_line(&read_all(&*wal));
}

pub(super) async fn close_drains(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let frames = compute.frames(50);
    wal.append(compute.epoch, frames.clone()).await.unwrap();
    wal.close().await.unwrap();
    assert_eq!(wal.durable().borrow().seq(), FrameSeq(50));
    drop(wal);
    let wal = open(store).await;
    assert_eq!(frames_of(&read_all(&*wal)), under(compute.epoch, &frames));
}

pub(super) async fn closed_refuses(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    compute.write(&*wal, 3).await;
    let mut watch = wal.durable();
    watch.mark_unchanged();
    wal.close().await.unwrap();
    assert!(watch.changed().await.is_err(), "the sender is dropped");
    let frames = compute.frames(1);
    assert!(matches!(
        wal.append(compute.epoch, frames).await,
        Err(WalError::Closed)
    ));
    assert!(matches!(wal.seal().await, Err(WalError::Closed)));
    assert!(matches!(
        wal.begin(compute.epoch, Lsn(1)).await,
        Err(WalError::Closed)
    ));
    wal.close().await.expect("closing twice is closing once");
}

pub(super) async fn second_opener(store: &dyn Store) {
    if !store.exclusive() {
        return;
    }
    let wal = open(store).await;
    assert!(store.open().await.is_err(), "two owners");
    // The first is none the worse for it.
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    compute.write(&*wal, 3).await;
    wal.close().await.unwrap();
    // Closed is enough: what still holds the WAL owns nothing.
    let again = open(store).await;
    assert_eq!(again.durable().borrow().seq(), FrameSeq(3));
}

pub(super) async fn epochs_not_reused(store: &dyn Store) {
    let mut newest = Epoch(0);
    for round in 0..16 {
        let wal = open(store).await;
        let sealed = wal.seal().await.unwrap();
        assert!(
            sealed.epoch() > newest,
            "epoch {} after {newest}",
            sealed.epoch()
        );
        assert_eq!(sealed.epoch(), wal.durable().borrow().epoch());
        newest = sealed.epoch();
        if round % 4 == 1 {
            wal.begin(newest, Lsn(round)).await.unwrap();
        }
        let other = store.hold(true);
        if other {
            // An epoch that was not reported may come back, and must be
            // refused.
            let mut lost = wal.seal();
            assert!(waits(&mut lost).await);
        }
        store.crash(round);
    }
    store.hold(false);
    let wal = open(store).await;
    let current = wal.durable().borrow().epoch();
    assert!(current >= newest);
    assert_fenced(
        wal.accepted(Epoch(newest.0 - 1)),
        Epoch(newest.0 - 1),
        current,
    );
    assert_one_line(&read_all(&*wal));
}

pub(super) async fn epochs_after_trim(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    for _ in 0..20 {
        compute.write(&*wal, 20).await;
    }
    let durable = *wal.durable().borrow();
    wal.trim(durable.position()).unwrap();
    store.crash(7);
    drop(wal);
    let wal = open(store).await;
    assert_eq!(*wal.durable().borrow(), durable);
    assert_eq!(
        wal.accepted(compute.epoch).unwrap(),
        (FrameSeq(compute.seq), Lsn(compute.lsn))
    );
    let sealed = wal.seal().await.unwrap();
    assert_eq!(sealed.epoch(), Epoch(compute.epoch.0 + 1));
    assert_eq!(sealed.lsn(), Lsn(compute.lsn));
}
