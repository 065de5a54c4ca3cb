//! Several writers, and more than the queue holds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::store::Store;
use super::tools::{
    Compute, Random, assert_fenced, assert_one_line, durable, frames_of, open, read_all, under,
    waits,
};
use crate::{Wal, WalError};
use std::sync::Arc;
use xylem_types::{Epoch, Frame, FrameSeq, Lsn};

/// Computes that do not know of each other take the branch from each other.
pub(super) async fn takeovers(store: &dyn Store) {
    let wal = open(store).await;
    let frame_bytes_max = store.frame_bytes_max();
    let computes: Vec<_> = (0..6u64)
        .map(|who| {
            let wal = Arc::clone(&wal);
            tokio::spawn(async move { compete(&*wal, who, frame_bytes_max).await })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for compute in computes {
        acknowledged.extend(compute.await.unwrap());
    }
    let entries = read_all(&*wal);
    assert_one_line(&entries);
    let found = frames_of(&entries);
    for (epoch, frame) in acknowledged {
        assert!(
            found.contains(&(epoch, frame)),
            "an acknowledged frame is lost"
        );
    }
}

/// Attaches and writes until fenced, a few times. Returns what was durable.
async fn compete(wal: &dyn Wal, who: u64, frame_bytes_max: u64) -> Vec<(Epoch, Frame)> {
    let mut acknowledged = Vec::new();
    for round in 0..5 {
        let Ok(sealed) = wal.seal().await else {
            continue;
        };
        let (epoch, lsn) = (sealed.epoch(), sealed.lsn().0);
        if wal.begin(epoch, Lsn(lsn)).await.is_err() {
            continue;
        }
        let mut compute = Compute {
            epoch,
            seq: 0,
            lsn,
            random: Random(who * 100 + round),
            frame_bytes_max,
        };
        for _ in 0..10 {
            let frames = compute.frames(3);
            match wal.append(epoch, frames.clone()).await {
                Ok(()) => {}
                Err(WalError::Fenced { .. }) => break,
                Err(e) => panic!("{e}"),
            }
            let now = durable(wal, epoch, compute.seq).await;
            if now.epoch() == epoch {
                acknowledged.extend(under(epoch, &frames));
            }
        }
    }
    acknowledged
}

/// The same frames from many tasks, as after reconnects.
pub(super) async fn concurrent(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let frames = Arc::new(compute.frames(200));
    let epoch = compute.epoch;
    let tasks: Vec<_> = (0..8u64)
        .map(|who| {
            let (wal, frames) = (Arc::clone(&wal), Arc::clone(&frames));
            tokio::spawn(async move {
                let mut random = Random(who);
                loop {
                    let from = wal.accepted(epoch).unwrap().0.0 as usize;
                    if from == frames.len() {
                        return;
                    }
                    let from = from.saturating_sub(random.below(5) as usize);
                    let to = (from + 1 + random.below(20) as usize).min(frames.len());
                    wal.append(epoch, frames[from..to].to_vec()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    durable(&*wal, epoch, compute.seq).await;
    assert_eq!(frames_of(&read_all(&*wal)), under(epoch, &frames));
}

/// Frames of a quarter of the queue each.
fn quarters(store: &dyn Store, compute: &mut Compute, count: usize) -> Vec<Frame> {
    let bytes = (store.queue_bytes() / 4).min(store.frame_bytes_max());
    (0..count).map(|_| compute.redo(bytes)).collect()
}

/// How many of those the queue and what is under way can hold.
fn bound(store: &dyn Store) -> u64 {
    store
        .queue_bytes()
        .div_ceil((store.queue_bytes() / 4).min(store.frame_bytes_max()))
        + 1
}

pub(super) async fn back_pressure(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    if !store.hold(true) {
        return;
    }
    let count = 3 * bound(store) as usize;
    let frames = quarters(store, &mut compute, count);
    let mut sent = 0;
    let waiting = loop {
        let mut append = wal.append(compute.epoch, vec![frames[sent].clone()]);
        if waits(&mut append).await {
            break append;
        }
        sent += 1;
        assert!(
            sent as u64 <= bound(store),
            "{sent} quarters of the queue are accepted"
        );
    };
    assert!(sent > 0);
    assert_eq!(
        wal.accepted(compute.epoch).unwrap().0,
        FrameSeq(sent as u64)
    );
    store.hold(false);
    waiting.await.unwrap();
    wal.append(compute.epoch, frames[sent + 1..].to_vec())
        .await
        .unwrap();
    durable(&*wal, compute.epoch, compute.seq).await;
    assert_eq!(frames_of(&read_all(&*wal)), under(compute.epoch, &frames));
}

pub(super) async fn large_group(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let count = 5 * bound(store) as usize;
    let frames = quarters(store, &mut compute, count);
    wal.append(compute.epoch, frames.clone()).await.unwrap();
    durable(&*wal, compute.epoch, compute.seq).await;
    assert_eq!(frames_of(&read_all(&*wal)), under(compute.epoch, &frames));
}

pub(super) async fn fenced_while_waiting(store: &dyn Store) {
    let wal = open(store).await;
    let mut old = Compute::attach(store, &*wal, 12288).await;
    if !store.hold(true) {
        return;
    }
    let frames = quarters(store, &mut old, 3 * bound(store) as usize);
    let mut append = wal.append(old.epoch, frames.clone());
    assert!(waits(&mut append).await);
    let mut seal = wal.seal();
    assert!(waits(&mut seal).await);
    // No entry becomes durable meanwhile: the old epoch is refused at once, and
    // not when there is room.
    let current = Epoch(old.epoch.0 + 1);
    assert_fenced(append.await, old.epoch, current);
    store.hold(false);
    let sealed = seal.await.unwrap();
    let entries = read_all(&*wal);
    assert_one_line(&entries);
    let found = frames_of(&entries);
    assert_eq!(found, under(old.epoch, &frames[..found.len()]));
    assert_eq!(found.last().map(|(_, f)| f.end()), Some(sealed.lsn()));
}

pub(super) async fn cancelled(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    if !store.hold(true) {
        return;
    }
    let frames = quarters(store, &mut compute, 3 * bound(store) as usize);
    let mut append = wal.append(compute.epoch, frames.clone());
    assert!(waits(&mut append).await);
    drop(append);
    let (seq, lsn) = wal.accepted(compute.epoch).unwrap();
    let last = &frames[seq.0 as usize - 1];
    assert_eq!((seq, lsn), (last.seq, last.end()));
    // No later append waits for the one that was dropped.
    let mut append = wal.append(compute.epoch, frames[seq.0 as usize..].to_vec());
    assert!(waits(&mut append).await);
    store.hold(false);
    append.await.unwrap();
    durable(&*wal, compute.epoch, compute.seq).await;
    assert_eq!(frames_of(&read_all(&*wal)), under(compute.epoch, &frames));
}
