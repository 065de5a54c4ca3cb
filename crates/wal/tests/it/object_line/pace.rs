//! How objects follow each other on a store that takes its time, and what many
//! of them on their way mean to the next owner.

use super::{Compute, Site, frames, one_each, until};
use crate::common::net::Weather;
use crate::common::objects::{block_on, fresh_prefix, place, read_from, small};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_objects::Retry;
use xylem_objects::testing::{Fault, Faulty, Op};
use xylem_types::FrameSeq;
use xylem_wal::{ObjectWal, ObjectWalConfig, Position, Wal, WalError};

const LATENCY: Duration = Duration::from_millis(30);

/// The defaults, with room for a test.
fn adaptive() -> ObjectWalConfig {
    ObjectWalConfig {
        object_bytes: 64 << 10,
        queue_bytes: 1 << 20,
        puts_max: 16,
        adaptive: true,
        hedge: true,
        retry: Retry {
            attempt_timeout: Duration::from_secs(30),
            ..small().retry
        },
        ..small()
    }
}

/// A store every put of which takes [`LATENCY`].
fn far() -> Faulty {
    let store = Faulty::in_memory(1);
    store.script(Op::Put, "", 0, u32::MAX, Fault::Slow(LATENCY));
    store
}

async fn open(store: &Faulty, config: ObjectWalConfig) -> Arc<ObjectWal> {
    let place = place(Arc::new(store.clone()), &fresh_prefix("pace"));
    Arc::new(ObjectWal::open(&place, config).await.unwrap())
}

/// How long commits take that come all the time, each waited for by a client of
/// its own: the time that nine of ten stay below.
async fn ninth_tenth(wal: &Arc<ObjectWal>, lasts: Duration) -> Duration {
    let mut compute = Compute::attach(wal).await;
    let mut commits = Vec::new();
    let started = Instant::now();
    while started.elapsed() < lasts {
        let began = Instant::now();
        compute.append(wal, 1).await;
        let (wal, seq) = (Arc::clone(wal), compute.seq);
        commits.push(tokio::spawn(async move {
            let mut durable = wal.durable();
            durable.wait_for(|d| d.seq().0 >= seq).await.unwrap();
            began.elapsed()
        }));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut took = Vec::new();
    for commit in commits {
        took.push(commit.await.unwrap());
    }
    // At first nothing is known of the store.
    took.drain(..took.len() / 3);
    took.sort_unstable();
    took[took.len() * 9 / 10]
}

#[test]
fn a_commit_takes_one_put_however_many_clients_there_are() {
    block_on(async {
        let four = ObjectWalConfig {
            puts_max: 4,
            adaptive: false,
            ..adaptive()
        };
        let lasts = Duration::from_millis(1500);
        let fixed = ninth_tenth(&open(&far(), four).await, lasts).await;
        let store = far();
        let wal = open(&store, adaptive()).await;
        let before = store.requests();
        let paced = ninth_tenth(&wal, lasts).await;
        let per_second = (store.requests() - before) as f64 / lasts.as_secs_f64();
        println!(
            "nine of ten commits: {paced:?}, with four puts {fixed:?}; {per_second:.0} puts/s"
        );
        assert!(paced < LATENCY * 3 / 2, "{paced:?}");
        assert!(paced < fixed, "{paced:?}, {fixed:?}");
        // Eight to a latency, and a few at first.
        assert!(
            per_second < 8.0 / LATENCY.as_secs_f64() * 1.1,
            "{per_second}"
        );
    });
}

#[test]
fn a_client_alone_gets_a_put_for_each_commit_at_once() {
    block_on(async {
        let store = far();
        let wal = open(&store, adaptive()).await;
        let mut compute = Compute::attach(&wal).await;
        let (before, began) = (store.requests(), Instant::now());
        for _ in 0..30 {
            compute.write(&wal, 1).await;
        }
        let each = began.elapsed() / 30;
        assert_eq!(store.requests() - before, 30);
        assert!(each < LATENCY * 5 / 4, "{each:?}");
    });
}

#[test]
fn more_objects_are_on_their_way_where_that_does_not_raise_their_latency() {
    block_on(async {
        let site = Site::new();
        site.net.set_weather(Weather {
            delayed: 1000,
            delay_us: 40_000,
            ..Weather::calm()
        });
        let wal = site.open_on(&site.net.wire(), adaptive()).await.unwrap();
        let wal = Arc::new(wal);
        ninth_tenth(&wal, Duration::from_secs(2)).await;
        let mut compute = Compute::attach(&wal).await;
        // The store stops to answer. Entries that come now are sent until that
        // is too much.
        site.net.hold(true);
        for _ in 0..400 {
            compute.append(&wal, 1).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let flying = site.net.flying();
        assert!(flying > 4 && flying <= 16, "{flying}");
        site.net.hold(false);
        compute.durable(&wal).await;
    });
}

#[test]
fn an_object_that_is_late_is_put_again() {
    block_on(async {
        let store = Faulty::in_memory(1);
        let wal = open(&store, adaptive()).await;
        let mut compute = Compute::attach(&wal).await;
        compute.write(&wal, 20).await;
        store.script(Op::Put, "", 0, 1, Fault::Slow(Duration::from_secs(20)));
        let (before, began) = (store.requests(), Instant::now());
        compute.append(&wal, 1).await;
        until(|| store.injected() == 1).await;
        // Others are on their way behind it.
        compute.write(&wal, 5).await;
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        assert!(store.requests() - before >= 3);
        let wal = Arc::into_inner(wal).unwrap();
        let entries = read_from(wal, Position(0)).await;
        assert_eq!(frames(&entries).len(), 26);
    });
}

/// A WAL whose object 4 is under way twice, and its compute.
async fn under_way_twice(site: &Site) -> (ObjectWal, Compute) {
    let wire = site.net.wire();
    let config = ObjectWalConfig {
        object_bytes: 1,
        ..adaptive()
    };
    let wal = site.open_on(&wire, config).await.unwrap();
    let mut compute = Compute::attach(&wal).await;
    compute.write(&wal, 2).await;
    site.net.hold_name(Some((&wire, "000000000004-")));
    compute.append(&wal, 3).await;
    until(|| site.net.flying() == 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(site.net.flying(), 2, "not a third time");
    (wal, compute)
}

#[test]
fn of_two_puts_of_one_object_both_may_succeed() {
    block_on(async {
        let site = Site::new();
        let (wal, mut compute) = under_way_twice(&site).await;
        site.net.hold_name(None);
        compute.durable(&wal).await;
        compute.write(&wal, 10).await;
        assert_eq!(site.objects().await.void(), []);
        let entries = read_from(wal, Position(0)).await;
        assert_eq!(frames(&entries).len(), 15);
    });
}

#[test]
fn neither_of_two_puts_of_one_object_passes_a_claim() {
    block_on(async {
        let site = Site::new();
        let (old, mut zombie) = under_way_twice(&site).await;
        let new = site.open().await;
        let mut compute = Compute::attach(&new).await;
        compute.write(&new, 3).await;
        let frame = zombie.frame();
        site.net.hold_name(None);
        let mut durable = old.durable();
        assert!(durable.wait_for(|d| d.seq().0 > 2).await.is_err());
        let refused = old.append(zombie.epoch, vec![frame]).await.unwrap_err();
        assert!(matches!(refused, WalError::Superseded { .. }), "{refused}");
        let entries = read_from(new, Position(0)).await;
        assert_eq!(frames(&entries), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]);
    });
}

/// Object 400 never arrives, and 255 behind it do, in two folders: so many
/// objects may be void at most. The next owner closes the gap all the same.
#[test]
fn the_next_owner_finds_the_end_below_as_many_objects_as_there_can_be() {
    block_on(async {
        let site = Site::new();
        let wire = site.net.wire();
        let config = ObjectWalConfig {
            puts_max: 64,
            adaptive: true,
            retry: adaptive().retry,
            ..one_each()
        };
        let old = site.open_on(&wire, config).await.unwrap();
        let mut zombie = Compute::attach(&old).await;
        zombie.write(&old, 300).await;
        site.net.hold_name(Some((&wire, "000000000190-")));
        zombie.append(&old, 500).await;
        let highest = |objects: &crate::common::line::Objects| {
            objects
                .all
                .last_key_value()
                .map_or(0, |((number, _), _)| *number)
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while highest(&site.objects().await) < 655 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let objects = site.objects().await;
        assert_eq!((highest(&objects), objects.void().len()), (655, 255));
        let last = old.durable().borrow().seq();
        let before = site.net.requests();
        let new = site.open().await;
        let requests = site.net.requests() - before;
        assert!(requests <= 20, "{requests}");
        assert_eq!(new.durable().borrow().seq(), last);
        let mut compute = Compute::attach(&new).await;
        compute.write(&new, 20).await;
        site.net.hold_name(None);
        let mut durable = old.durable();
        assert!(durable.wait_for(|d| d.seq() > last).await.is_err());
        assert!(matches!(old.seal().await, Err(WalError::Superseded { .. })));
        let entries = read_from(new, Position(0)).await;
        let frames = frames(&entries);
        assert_eq!(frames.len() as u64, last.0 + 20);
        assert!(last > FrameSeq(300));
    });
}
