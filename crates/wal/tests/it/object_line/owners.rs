//! Gaps, and servers that replace each other.

use super::{Compute, Site, frames, one_each, until_removed, with_a_gap};
use crate::common::net::Weather;
use crate::common::objects::{block_on, read_from};
use object_store::ObjectStore;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_types::{Epoch, FrameSeq, Lsn};
use xylem_wal::{Durable, ObjectWalConfig, Position, Wal, WalError};

#[test]
fn what_stands_behind_a_gap_is_not_acknowledged_until_the_gap_is_filled() {
    block_on(async {
        let site = Site::new();
        let (wal, _, compute) = with_a_gap(&site).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(wal.durable().borrow().seq(), FrameSeq(2));
        site.net.hold_name(None);
        compute.durable(&wal).await;
        assert_eq!(site.objects().await.void(), []);
        let entries = read_from(wal, Position(0)).await;
        assert_eq!(frames(&entries), [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]);
    });
}

#[test]
fn a_gap_that_a_crash_has_left_is_closed_for_ever() {
    block_on(async {
        let site = Site::new();
        let (old, wire, _) = with_a_gap(&site).await;
        // Its last request arrives when everything is over.
        drop(old);
        let late = site.get(5, 1).await;
        site.net.kill(&wire).await;
        site.net.hold_name(None);
        site.net.deliver().await;
        if site.objects().await.void().is_empty() {
            // The request came in time: then it all belongs to the line.
            return;
        }
        let wal = site.open().await;
        assert_eq!(wal.durable().borrow().seq(), FrameSeq(2));
        let mut compute = Compute {
            epoch: Epoch(1),
            seq: 2,
            lsn: wal.durable().borrow().lsn().0,
        };
        assert_eq!(wal.accepted(Epoch(1)).unwrap().0, FrameSeq(2));
        // Whatever of it is still to come, comes too late.
        let (path, mode) = (site.path(4, 1), object_store::PutMode::Create);
        let taken = site.store.put_opts(&path, late.into(), mode.into()).await;
        assert!(matches!(
            taken,
            Err(object_store::Error::AlreadyExists { .. })
        ));
        // The same compute goes on, with what it was not told of.
        compute.write(&wal, 1).await;
        let objects = site.objects().await;
        assert_eq!(objects.void(), [(5, 1), (6, 1)]);
        assert_eq!(objects.line(0, 0).last(), Some(&(4, 2)));
        wal.close().await.unwrap();
        let entries = read_from(site.open().await, Position(0)).await;
        assert_eq!(frames(&entries), [(1, 1), (1, 2), (1, 3)]);
    });
}

#[test]
fn a_server_that_was_replaced_acknowledges_nothing_more() {
    block_on(async {
        let site = Site::new();
        let (old, _, mut zombie) = with_a_gap(&site).await;
        let mut watch = old.durable();
        watch.mark_unchanged();
        let new = site.open().await;
        let mut compute = Compute::attach(&new).await;
        compute.write(&new, 3).await;
        site.net.hold_name(None);
        assert!(watch.changed().await.is_err(), "the sender is dropped");
        assert_eq!(watch.borrow().seq(), FrameSeq(2));
        let frame = zombie.frame();
        let superseded = |e: &WalError| matches!(e, WalError::Superseded { generation: 2, .. });
        let refused = [
            old.append(zombie.epoch, vec![frame]).await.unwrap_err(),
            old.seal().await.unwrap_err(),
            old.begin(zombie.epoch, Lsn(1)).await.unwrap_err(),
            old.trim(Position(0)).unwrap_err(),
            old.close().await.unwrap_err(),
        ];
        assert!(refused.iter().all(superseded), "{refused:?}");
        assert!(
            refused[0].to_string().contains(site.prefix.as_ref()),
            "{}",
            refused[0]
        );
        // It can still read the entries that were reported durable to it.
        let known = read_from(old, Position(0)).await;
        assert_eq!(frames(&known), [(1, 1), (1, 2)]);
        let entries = read_from(new, Position(0)).await;
        assert_eq!(frames(&entries), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]);
        assert_eq!(entries[..known.len()], known);
    });
}

#[test]
fn an_idle_server_learns_with_its_next_object_that_it_was_replaced() {
    block_on(async {
        let site = Site::new();
        let old = site.open().await;
        let mut zombie = Compute::attach(&old).await;
        zombie.write(&old, 2).await;
        let new = site.open().await;
        assert_eq!(new.durable().borrow().seq(), FrameSeq(2));
        let frame = zombie.frame();
        old.append(zombie.epoch, vec![frame]).await.unwrap();
        let seal = old.seal().await;
        assert!(matches!(seal, Err(WalError::Superseded { .. })), "{seal:?}");
        // The compute has moved to the new one, which is none the worse.
        let mut compute = Compute {
            seq: 2,
            lsn: new.durable().borrow().lsn().0,
            ..zombie
        };
        compute.write(&new, 2).await;
        assert_eq!(new.seal().await.unwrap().epoch(), Epoch(2));
    });
}

#[test]
fn one_that_slept_for_long_learns_it_too() {
    block_on(async {
        let site = Site::new();
        let old = site.open().await;
        let mut zombie = Compute::attach(&old).await;
        zombie.write(&old, 2).await;
        let new = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        let mut compute = Compute::attach(&new).await;
        let durable = compute.write(&new, 30).await;
        // Nothing of the time when it was replaced is left.
        new.trim(durable.position()).unwrap();
        let first = new.first().0 >> 16;
        until_removed(&site, first).await;
        let before = *old.durable().borrow();
        zombie.append(&old, 1).await;
        let seal = old.seal().await;
        assert!(matches!(seal, Err(WalError::Superseded { .. })), "{seal:?}");
        assert_eq!(*old.durable().borrow(), before);
        compute.write(&new, 1).await;
    });
}

#[test]
fn an_empty_wal_is_left_alone_until_it_is_sealed() {
    block_on(async {
        let site = Site::new();
        let (one, two) = (site.open().await, site.open().await);
        assert_eq!(*one.durable().borrow(), Durable::default());
        assert!(read_from(site.open().await, Position(0)).await.is_empty());
        one.close().await.unwrap();
        assert_eq!(site.objects().await.all.len(), 0, "opening makes nothing");
        // The last server to seal owns the line.
        let three = site.open().await;
        let mut old = Compute::attach(&two).await;
        old.write(&two, 2).await;
        let compute = Compute::attach(&three).await;
        assert_eq!(compute.epoch, Epoch(2));
        let entries = read_from(three, Position(0)).await;
        assert_eq!(frames(&entries), [(1, 1), (1, 2)]);
        let frame = old.frame();
        two.append(old.epoch, vec![frame]).await.unwrap();
        assert!(matches!(two.seal().await, Err(WalError::Superseded { .. })));
    });
}

#[test]
fn a_busy_writer_cannot_keep_another_from_taking_over() {
    block_on(async {
        for round in 0..4 {
            let site = Site::new();
            // Objects take their time, so that many are always on their way.
            site.net.set_weather(Weather {
                delayed: 1000,
                delay_us: if round < 2 { 6000 } else { 40_000 },
                ..Weather::calm()
            });
            let config = ObjectWalConfig {
                puts_max: if round < 2 { 12 } else { 64 },
                adaptive: round >= 2,
                hedge: round >= 2,
                ..one_each()
            };
            let old = Arc::new(site.open_on(&site.net.wire(), config).await.unwrap());
            let mut compute = Compute::attach(&old).await;
            let writing = {
                let old = Arc::clone(&old);
                tokio::spawn(async move {
                    loop {
                        let frame = compute.frame();
                        if let Err(e) = old.append(compute.epoch, vec![frame]).await {
                            return e;
                        }
                        tokio::time::sleep(Duration::from_micros(300)).await;
                    }
                })
            };
            tokio::time::sleep(Duration::from_millis(50)).await;
            let acknowledged = old.durable();
            let started = Instant::now();
            let new = site.open().await;
            let took = started.elapsed();
            let error = writing.await.unwrap();
            assert!(matches!(error, WalError::Superseded { .. }), "{error}");
            let last = acknowledged.borrow().seq();
            assert!(new.durable().borrow().seq() >= last && last > FrameSeq(0));
            println!(
                "round {round}: taken over in {took:?}, {} acknowledged, {} claims",
                last,
                site.objects().await.claims()
            );
            let entries = read_from(new, Position(0)).await;
            let expected: Vec<_> = (1..=entries.len() as u64 - 2).map(|seq| (1, seq)).collect();
            assert_eq!(frames(&entries), expected);
        }
    });
}
