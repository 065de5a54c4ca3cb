//! Readers, positions, trimming.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use super::store::Store;
use super::tools::{Compute, frames_of, open, read, read_all, soon, under};
use crate::{LentRecord, Position, Record, WalError};
use xylem_types::FrameBody;

pub(super) async fn order(store: &dyn Store) {
    let wal = open(store).await;
    let mut first = Compute::attach(store, &*wal, 12288).await;
    let mut all = Vec::new();
    for group in [1, 2, 30, 1, 100] {
        all.extend(under(first.epoch, &first.write(&*wal, group).await));
    }
    let mut second = Compute::attach(store, &*wal, first.lsn).await;
    all.extend(under(second.epoch, &second.write(&*wal, 50).await));
    let entries = read_all(&*wal);
    assert_eq!(frames_of(&entries), all);
    assert_eq!(entries.len(), all.len() + 4);
    // A reader may lend some and give others.
    let mut reader = wal.read_from(wal.first()).unwrap();
    for (n, entry) in entries.iter().enumerate() {
        if n % 3 == 0 {
            assert_eq!(reader.next().unwrap().as_ref(), Some(entry));
            continue;
        }
        let mut lent = 0;
        let is_one = reader.lend(&mut |got| {
            lent += 1;
            assert_eq!(
                (got.next, got.time_us, got.stepped),
                (entry.next, entry.time_us, entry.stepped)
            );
            match (got.record, &entry.record) {
                (LentRecord::Redo { start, bytes }, Record::Frame(frame)) => {
                    assert_eq!(start, frame.start);
                    assert_eq!(FrameBody::Redo(bytes.into()), frame.body);
                }
                (LentRecord::Redo { .. }, other) => panic!("redo in place of {other:?}"),
                (LentRecord::Other(got), wanted) => assert_eq!(got, wanted),
            }
        });
        assert!(is_one.unwrap());
        assert_eq!(lent, 1);
    }
    assert!(!reader.lend(&mut |_| panic!("beyond the end")).unwrap());
}

pub(super) async fn from_every_position(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    compute.write(&*wal, 60).await;
    let entries = read_all(&*wal);
    let starts = std::iter::once(wal.first()).chain(entries.iter().map(|e| e.next));
    for (at, start) in starts.enumerate() {
        assert_eq!(read(&*wal, start), entries[at..], "from {start:?}");
    }
    wal.close().await.unwrap();
    drop(wal);
    let wal = open(store).await;
    assert_eq!(read_all(&*wal), entries, "positions stay");
}

pub(super) async fn no_such_position(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    compute.write(&*wal, 5).await;
    let end = wal.durable().borrow().position();
    for position in [Position(end.0 + 1), Position(u64::MAX)] {
        assert!(
            matches!(wal.read_from(position), Err(WalError::NoSuchPosition(p)) if p == position)
        );
        assert!(wal.trim(position).is_err());
    }
    let known: Vec<Position> = read_all(&*wal).iter().map(|e| e.next).collect();
    for position in (wal.first().0 + 1..end.0)
        .map(Position)
        .filter(|p| !known.contains(p))
        .step_by(7)
    {
        assert!(
            matches!(wal.read_from(position), Err(WalError::NoSuchPosition(p)) if p == position)
        );
    }
}

pub(super) async fn follow(store: &dyn Store) {
    let wal = open(store).await;
    let mut reader = wal.read_from(wal.first()).unwrap();
    let mut watch = wal.durable();
    let follower = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Handle::current();
        let mut seen = Vec::new();
        loop {
            watch.mark_unchanged();
            while let Some(entry) = reader.next().unwrap() {
                seen.push(entry);
            }
            if runtime.block_on(watch.changed()).is_err() {
                // Entries that came with the last change.
                while let Some(entry) = reader.next().unwrap() {
                    seen.push(entry);
                }
                return seen;
            }
        }
    });
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let mut all = Vec::new();
    for group in 1..40 {
        all.extend(compute.write(&*wal, group % 7).await);
    }
    let entries = read_all(&*wal);
    wal.close().await.unwrap();
    let seen = follower.await.unwrap();
    assert_eq!(seen, entries);
    assert_eq!(frames_of(&seen), under(compute.epoch, &all));
}

pub(super) async fn only_durable(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    compute.write(&*wal, 3).await;
    let before = read_all(&*wal);
    let durable = *wal.durable().borrow();
    let mut reader = wal.read_from(durable.position()).unwrap();
    if !store.hold(true) {
        return;
    }
    let frames: Vec<_> = (0..3).map(|_| compute.redo(1)).collect();
    wal.append(compute.epoch, frames.clone()).await.unwrap();
    for _ in 0..20 {
        tokio::task::yield_now().await;
        assert_eq!(reader.next().unwrap(), None);
    }
    assert_eq!(*wal.durable().borrow(), durable);
    assert_eq!(read_all(&*wal), before);
    store.hold(false);
    super::tools::durable(&*wal, compute.epoch, compute.seq).await;
    for frame in frames {
        assert_eq!(reader.next().unwrap().unwrap().record, Record::Frame(frame));
    }
    assert_eq!(reader.next().unwrap(), None);
}

pub(super) async fn trim(store: &dyn Store) {
    let wal = open(store).await;
    let mut compute = Compute::attach(store, &*wal, 12288).await;
    let mut most = 0;
    let mut starts = vec![wal.first()];
    let mut entries = Vec::new();
    for round in 0..30 {
        compute.write(&*wal, 25).await;
        let news = read(&*wal, starts.last().copied().unwrap_or_default());
        starts.extend(news.iter().map(|e| e.next));
        entries.extend(news);
        // Keep what the last 50 entries take.
        let before = starts[starts.len().saturating_sub(51)];
        let stored = wal.stored_bytes();
        wal.trim(before).unwrap();
        assert!(wal.stored_bytes() <= stored);
        let first = wal.first();
        assert!(first <= before, "nothing after it is let go of");
        if round == 10 {
            most = wal.stored_bytes();
        }
        let at = starts
            .iter()
            .position(|s| *s == first)
            .expect("a place between entries");
        assert_eq!(read(&*wal, first), entries[at..]);
        if at > 0 {
            let gone = starts[at - 1];
            assert!(matches!(wal.read_from(gone), Err(WalError::NoSuchPosition(p)) if p == gone));
        }
    }
    assert!(wal.first() > Position(0), "something is let go of");
    // A backend may say at once what is gone, and remove it a while later.
    soon(
        || wal.stored_bytes() <= most * 4,
        || format!("{} bytes of a WAL that keeps little", wal.stored_bytes()),
    )
    .await;
    // A reader behind the first position gets an error.
    let mut slow = wal.read_from(wal.first()).unwrap();
    for _ in 0..20 {
        compute.write(&*wal, 25).await;
    }
    wal.trim(wal.durable().borrow().position()).unwrap();
    assert!(matches!(slow.next(), Err(WalError::NoSuchPosition(_))));
    let (first, rest) = (wal.first(), read_all(&*wal));
    store.crash(3);
    drop(wal);
    let wal = open(store).await;
    // A crash may bring back trimmed entries, and removes no others.
    assert!(wal.first() <= first);
    assert_eq!(read(&*wal, first), rest);
}
