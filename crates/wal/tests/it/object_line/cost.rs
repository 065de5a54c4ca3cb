//! Requests and objects: what opening costs, and what shares an object.

use super::{Compute, Site, frames, one_each};
use crate::common;
use crate::common::line::HEADER;
use crate::common::objects::{block_on, read_from, runtime, small};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_types::{FileOp, Frame, FrameBody};
use xylem_wal::{ObjectWal, ObjectWalConfig, Position, Wal, WalError};

#[test]
fn opening_costs_the_same_however_long_the_line_is() {
    block_on(async {
        let mut costs = Vec::new();
        for count in [10, 1000, 5000] {
            let site = Site::new();
            let config = ObjectWalConfig {
                puts_max: 64,
                ..one_each()
            };
            let wal = site.open_on(&site.net.wire(), config).await.unwrap();
            let mut compute = Compute::attach(&wal).await;
            let durable = compute.write(&wal, count).await;
            wal.close().await.unwrap();
            let before = site.net.requests();
            let wal = site.open().await;
            costs.push(site.net.requests() - before);
            assert_eq!(*wal.durable().borrow(), durable);
            assert_eq!(wal.first(), Position(0));
            // A place in the middle is found without what is before it.
            let before = site.net.requests();
            let middle = Position((count as u64 / 2) << 16);
            let wal = tokio::task::spawn_blocking(move || {
                wal.read_from(middle).unwrap().next().unwrap().unwrap();
                wal
            });
            let wal = wal.await.unwrap();
            let reading = site.net.requests() - before;
            // The objects that a reader fetches ahead are under way by then.
            assert!(
                reading <= 3 + small().read_ahead_objects as u64,
                "{reading}"
            );
            if count == 1000 {
                let started = Instant::now();
                let entries = read_from(wal, Position(0)).await;
                println!("{} entries in {:?}", entries.len(), started.elapsed());
                assert_eq!(entries.len(), count + 2);
            }
        }
        println!("requests for opening: {costs:?}");
        assert!(costs.iter().all(|c| *c <= 16), "{costs:?}");
    });
}

#[test]
fn frames_share_objects_while_others_are_on_their_way() {
    block_on(async {
        let site = Site::new();
        let config = ObjectWalConfig {
            object_bytes: 64 << 10,
            queue_bytes: 1 << 20,
            puts_max: 4,
            retry: xylem_objects::Retry::forever(),
            ..small()
        };
        let wal = site.open_on(&site.net.wire(), config).await.unwrap();
        let mut compute = Compute::attach(&wal).await;
        let puts = site.net.puts();
        site.net.hold(true);
        for _ in 0..10 {
            compute.append(&wal, 100).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(site.net.flying(), 4, "as many at a time as are configured");
        site.net.hold(false);
        compute.durable(&wal).await;
        let objects = site.objects().await;
        assert!(
            site.net.puts() - puts <= 9,
            "{} objects",
            site.net.puts() - puts
        );
        let largest = objects.all.values().map(Vec::len).max().unwrap();
        assert!(largest <= (64 << 10) + HEADER);
        assert_eq!(read_from(wal, Position(0)).await.len(), 1002);
    });
}

#[test]
fn those_who_come_within_the_linger_share_an_object() {
    block_on(async {
        let site = Site::new();
        let config = ObjectWalConfig {
            linger: Duration::from_millis(200),
            ..small()
        };
        let wal = site.open_on(&site.net.wire(), config).await.unwrap();
        let started = Instant::now();
        let mut compute = Compute::attach(&wal).await;
        assert!(
            started.elapsed() >= Duration::from_millis(400),
            "a seal and a begin"
        );
        let puts = site.net.puts();
        for _ in 0..10 {
            compute.append(&wal, 1).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        compute.durable(&wal).await;
        assert_eq!(site.net.puts() - puts, 1);
        // Closing does not linger.
        compute.append(&wal, 1).await;
        let started = Instant::now();
        wal.close().await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(150));
    });
}

#[test]
fn an_object_holds_as_many_entries_as_a_position_can_count() {
    block_on(async {
        let site = Site::new();
        let config = ObjectWalConfig {
            object_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            ..small()
        };
        let wal = site.open_on(&site.net.wire(), config).await.unwrap();
        let mut compute = Compute::attach(&wal).await;
        let group = (0..150_000).map(|_| {
            let mut frame = compute.frame();
            compute.lsn = frame.start.0;
            frame.body = FrameBody::File(FileOp::Unlink {
                path: String::new(),
            });
            frame
        });
        let group: Vec<Frame> = group.collect();
        site.net.hold(true);
        wal.append(compute.epoch, group).await.unwrap();
        site.net.hold(false);
        compute.durable(&wal).await;
        let counts: Vec<u32> = site
            .objects()
            .await
            .all
            .values()
            .map(|bytes| common::line::u32_at(bytes, 80))
            .collect();
        assert_eq!(counts.iter().max(), Some(&65_536));
        wal.close().await.unwrap();
        let entries = read_from(site.open().await, Position(0)).await;
        assert_eq!(frames(&entries).len(), 150_000);
        assert!(entries.is_sorted_by(|a, b| a.next < b.next));
    });
}

#[test]
fn wrong_configurations_are_refused() {
    block_on(async {
        let site = Site::new();
        for config in [
            ObjectWalConfig {
                puts_max: 0,
                ..small()
            },
            ObjectWalConfig {
                puts_per_second: 0,
                ..small()
            },
            ObjectWalConfig {
                object_bytes: 2 << 30,
                ..small()
            },
            ObjectWalConfig {
                max_frame_bytes: u64::MAX,
                ..small()
            },
        ] {
            let refused = site.open_on(&site.net.wire(), config).await;
            assert!(
                matches!(refused, Err(WalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput)
            );
        }
    });
}

#[test]
fn readers_work_on_threads_of_any_kind() {
    let site = Arc::new(Site::new());
    let wal = block_on({
        let site = Arc::clone(&site);
        async move {
            let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let mut compute = Compute::attach(&wal).await;
            compute.write(&wal, 40).await;
            wal.close().await.unwrap();
            Arc::new(site.open().await)
        }
    });
    let read = |wal: &ObjectWal| {
        let mut reader = wal.read_from(Position(0)).unwrap();
        std::iter::from_fn(move || reader.next().unwrap()).count()
    };
    // One of no runtime.
    assert_eq!(read(&wal), 42);
    // A blocking one of the runtime that the requests run on.
    let same = Arc::clone(&wal);
    let blocking = runtime().spawn_blocking(move || read(&same));
    assert_eq!(runtime().block_on(blocking).unwrap(), 42);
    // One that waits for another runtime, of one thread.
    let other = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert_eq!(other.block_on(async { read(&wal) }), 42);
}
