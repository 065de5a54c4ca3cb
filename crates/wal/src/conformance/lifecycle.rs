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
use crate::{Durable, LogError, Position, Record};
use xylem_types::{Epoch, FrameSeq, Lsn};

pub(super) async fn new_log_is_empty(store: &dyn Store) {
    let log = open(store).await;
    assert_eq!(*log.durable().borrow(), Durable::default());
    assert_eq!(log.first(), Position(0));
    assert!(
        log.read_from(Position(0))
            .unwrap()
            .next()
            .unwrap()
            .is_none()
    );
    assert_eq!(log.accepted(Epoch(0)).unwrap(), (FrameSeq(0), Lsn(0)));
    log.close().await.unwrap();
    drop(log);
    let log = open(store).await;
    assert_eq!(*log.durable().borrow(), Durable::default());
}

pub(super) async fn durable_after_reopen(store: &dyn Store) {
    let log = open(store).await;
    let mut compute = Compute::attach(store, &*log, 12288).await;
    let frames = compute.write(&*log, 40).await;
    let before = *log.durable().borrow();
    log.close().await.unwrap();
    drop(log);
    for _ in 0..3 {
        let log = open(store).await;
        assert_eq!(*log.durable().borrow(), before);
        assert_eq!(
            log.accepted(compute.epoch).unwrap(),
            (FrameSeq(compute.seq), Lsn(compute.lsn))
        );
        let entries = read_all(&*log);
        assert_eq!(frames_of(&entries), under(compute.epoch, &frames));
        assert_eq!(entries[0].record, Record::Seal);
        assert_eq!(entries[1].record, Record::Begin { start: Lsn(12288) });
        log.close().await.unwrap();
    }
    // The same compute goes on: it need not be fenced by a restart of the log.
    let log = open(store).await;
    let more = compute.write(&*log, 10).await;
    let all = [frames, more].concat();
    assert_eq!(frames_of(&read_all(&*log)), under(compute.epoch, &all));
}

pub(super) async fn durable_after_crash(store: &dyn Store) {
    let mut log = open(store).await;
    let mut compute = Compute::attach(store, &*log, 12288).await;
    let mut frames = Vec::new();
    for round in 0..12 {
        frames.extend(compute.write(&*log, 5).await);
        let durable = *log.durable().borrow();
        // Some more that nobody waits for.
        let unsure = compute.frames(4);
        log.append(compute.epoch, unsure.clone()).await.unwrap();
        store.crash(round);
        drop(log);
        log = open(store).await;
        let now = *log.durable().borrow();
        assert!(now.position() >= durable.position() && now.seq() >= durable.seq());
        let found = frames_of(&read_all(&*log));
        frames.extend(unsure);
        frames.truncate(found.len());
        assert_eq!(
            found,
            under(compute.epoch, &frames),
            "a prefix of what was appended"
        );
        assert!(FrameSeq(found.len() as u64) >= durable.seq());
        let (seq, lsn) = log.accepted(compute.epoch).unwrap();
        assert_eq!(seq, FrameSeq(found.len() as u64));
        assert_eq!(now.seq(), seq);
        (compute.seq, compute.lsn) = (seq.0, lsn.0);
    }
    assert_one_line(&read_all(&*log));
}

pub(super) async fn close_drains(store: &dyn Store) {
    let log = open(store).await;
    let mut compute = Compute::attach(store, &*log, 12288).await;
    let frames = compute.frames(50);
    log.append(compute.epoch, frames.clone()).await.unwrap();
    log.close().await.unwrap();
    assert_eq!(log.durable().borrow().seq(), FrameSeq(50));
    drop(log);
    let log = open(store).await;
    assert_eq!(frames_of(&read_all(&*log)), under(compute.epoch, &frames));
}

pub(super) async fn closed_refuses(store: &dyn Store) {
    let log = open(store).await;
    let mut compute = Compute::attach(store, &*log, 12288).await;
    compute.write(&*log, 3).await;
    let mut watch = log.durable();
    watch.mark_unchanged();
    log.close().await.unwrap();
    assert!(watch.changed().await.is_err(), "the sender is dropped");
    let frames = compute.frames(1);
    assert!(matches!(
        log.append(compute.epoch, frames).await,
        Err(LogError::Closed)
    ));
    assert!(matches!(log.seal().await, Err(LogError::Closed)));
    assert!(matches!(
        log.begin(compute.epoch, Lsn(1)).await,
        Err(LogError::Closed)
    ));
    log.close().await.expect("closing twice is closing once");
}

pub(super) async fn second_opener(store: &dyn Store) {
    if !store.exclusive() {
        return;
    }
    let log = open(store).await;
    assert!(store.open().await.is_err(), "two owners");
    // The first is none the worse for it.
    let mut compute = Compute::attach(store, &*log, 12288).await;
    compute.write(&*log, 3).await;
    log.close().await.unwrap();
    // Closed is enough: what still holds the log owns nothing.
    let again = open(store).await;
    assert_eq!(again.durable().borrow().seq(), FrameSeq(3));
}

pub(super) async fn epochs_not_reused(store: &dyn Store) {
    let mut newest = Epoch(0);
    for round in 0..16 {
        let log = open(store).await;
        let sealed = log.seal().await.unwrap();
        assert!(
            sealed.epoch() > newest,
            "epoch {} after {newest}",
            sealed.epoch()
        );
        assert_eq!(sealed.epoch(), log.durable().borrow().epoch());
        newest = sealed.epoch();
        if round % 4 == 1 {
            log.begin(newest, Lsn(round)).await.unwrap();
        }
        let other = store.hold(true);
        if other {
            // One that nobody was told of may come back, and must be refused.
            let mut lost = log.seal();
            assert!(waits(&mut lost).await);
        }
        store.crash(round);
    }
    store.hold(false);
    let log = open(store).await;
    let current = log.durable().borrow().epoch();
    assert!(current >= newest);
    assert_fenced(
        log.accepted(Epoch(newest.0 - 1)),
        Epoch(newest.0 - 1),
        current,
    );
    assert_one_line(&read_all(&*log));
}

pub(super) async fn epochs_after_trim(store: &dyn Store) {
    let log = open(store).await;
    let mut compute = Compute::attach(store, &*log, 12288).await;
    for _ in 0..20 {
        compute.write(&*log, 20).await;
    }
    let durable = *log.durable().borrow();
    log.trim(durable.position()).unwrap();
    store.crash(7);
    drop(log);
    let log = open(store).await;
    assert_eq!(*log.durable().borrow(), durable);
    assert_eq!(
        log.accepted(compute.epoch).unwrap(),
        (FrameSeq(compute.seq), Lsn(compute.lsn))
    );
    let sealed = log.seal().await.unwrap();
    assert_eq!(sealed.epoch(), Epoch(compute.epoch.0 + 1));
    assert_eq!(sealed.lsn(), Lsn(compute.lsn));
}
