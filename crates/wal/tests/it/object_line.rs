//! The line of a log in an object store, step by step: gaps, voids, claims
//! that come late, what trimming leaves, what opening costs, what a store that
//! refuses does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common;
use crate::common::line::{HEADER, Objects};
use crate::common::net::{Net, Refusal, Weather, Wire};
use crate::common::objects::{block_on, fresh_prefix, place, read_from, runtime, small};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_types::{Epoch, FileOp, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{Durable, Entry, Log, LogError, ObjectLog, ObjectLogConfig, Position, Record};

/// A store, and a log's place in it.
struct Site {
    store: Arc<dyn ObjectStore>,
    net: Arc<Net>,
    prefix: Path,
}

impl Site {
    fn new() -> Site {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Site {
            net: Net::new(Arc::clone(&store), 1),
            store,
            prefix: fresh_prefix("line"),
        }
    }

    async fn open_on(
        &self,
        wire: &Arc<Wire>,
        config: ObjectLogConfig,
    ) -> Result<ObjectLog, LogError> {
        ObjectLog::open(&place(Arc::clone(wire) as _, &self.prefix), config).await
    }

    async fn open(&self) -> ObjectLog {
        self.open_on(&self.net.wire(), small()).await.unwrap()
    }

    async fn objects(&self) -> Objects {
        Objects::read(&self.store, &self.prefix).await
    }

    fn path(&self, number: u64, generation: u64) -> Path {
        let name = format!("{:010x}/{number:012x}-{generation:08x}", number / 512);
        Path::from(format!("{}/{name}", self.prefix))
    }

    async fn get(&self, number: u64, generation: u64) -> Vec<u8> {
        let found = self
            .store
            .get(&self.path(number, generation))
            .await
            .unwrap();
        found.bytes().await.unwrap().to_vec()
    }

    async fn put(&self, number: u64, generation: u64, bytes: Vec<u8>) {
        let path = self.path(number, generation);
        self.store.put(&path, bytes.into()).await.unwrap();
    }
}

/// A compute whose every frame makes an object of its own, with `one_each`.
struct Compute {
    epoch: Epoch,
    seq: u64,
    lsn: u64,
}

fn one_each() -> ObjectLogConfig {
    ObjectLogConfig {
        object_bytes: 1,
        queue_bytes: 1 << 20,
        puts_max: 4,
        ..small()
    }
}

impl Compute {
    async fn attach(log: &ObjectLog) -> Compute {
        let sealed = log.seal().await.unwrap();
        let lsn = sealed.lsn().0.max(100);
        log.begin(sealed.epoch(), Lsn(lsn)).await.unwrap();
        Compute {
            epoch: sealed.epoch(),
            seq: 0,
            lsn,
        }
    }

    fn frame(&mut self) -> Frame {
        self.seq += 1;
        let frame = Frame {
            seq: FrameSeq(self.seq),
            start: Lsn(self.lsn),
            body: FrameBody::Redo(format!("{}:{}", self.epoch, self.seq).into_bytes().into()),
        };
        self.lsn = frame.end().0;
        frame
    }

    async fn append(&mut self, log: &ObjectLog, count: usize) {
        for _ in 0..count {
            let frame = self.frame();
            log.append(self.epoch, vec![frame]).await.unwrap();
        }
    }

    async fn durable(&self, log: &ObjectLog) -> Durable {
        let (epoch, seq) = (self.epoch, self.seq);
        let mut watch = log.durable();
        let reached = watch.wait_for(|d| d.epoch() == epoch && d.seq().0 >= seq);
        *reached.await.unwrap()
    }

    async fn write(&mut self, log: &ObjectLog, count: usize) -> Durable {
        self.append(log, count).await;
        self.durable(log).await
    }
}

async fn until(mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn frames(entries: &[Entry]) -> Vec<(u64, u64)> {
    let frame = |e: &Entry| match &e.record {
        Record::Frame(frame) => Some((e.epoch.0, frame.seq.0)),
        _ => None,
    };
    entries.iter().filter_map(frame).collect()
}

/// A log whose object 4 is still on its way while 5 and 6 are there: 0 to 3
/// hold a seal, a begin and two frames. The writer's wire, too.
async fn with_a_gap(site: &Site) -> (ObjectLog, Arc<Wire>, Compute) {
    let wire = site.net.wire();
    let log = site.open_on(&wire, one_each()).await.unwrap();
    let mut compute = Compute::attach(&log).await;
    compute.write(&log, 2).await;
    site.net.hold_name(Some((&wire, "000000000004-")));
    compute.append(&log, 3).await;
    until(|| site.net.flying() == 1).await;
    assert_eq!(site.objects().await.void(), [(5, 1), (6, 1)]);
    assert_eq!(log.durable().borrow().seq(), FrameSeq(2));
    (log, wire, compute)
}

#[test]
fn what_stands_behind_a_gap_is_not_acknowledged_until_the_gap_is_filled() {
    block_on(async {
        let site = Site::new();
        let (log, _, compute) = with_a_gap(&site).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(log.durable().borrow().seq(), FrameSeq(2));
        site.net.hold_name(None);
        compute.durable(&log).await;
        assert_eq!(site.objects().await.void(), []);
        let entries = read_from(log, Position(0)).await;
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
        let log = site.open().await;
        assert_eq!(log.durable().borrow().seq(), FrameSeq(2));
        let mut compute = Compute {
            epoch: Epoch(1),
            seq: 2,
            lsn: log.durable().borrow().lsn().0,
        };
        assert_eq!(log.accepted(Epoch(1)).unwrap().0, FrameSeq(2));
        // Whatever of it is still to come, comes too late.
        let (path, mode) = (site.path(4, 1), object_store::PutMode::Create);
        let taken = site.store.put_opts(&path, late.into(), mode.into()).await;
        assert!(matches!(
            taken,
            Err(object_store::Error::AlreadyExists { .. })
        ));
        // The same compute goes on, with what it was not told of.
        compute.write(&log, 1).await;
        let objects = site.objects().await;
        assert_eq!(objects.void(), [(5, 1), (6, 1)]);
        assert_eq!(objects.line(0, 0).last(), Some(&(4, 2)));
        log.close().await.unwrap();
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
        let superseded = |e: &LogError| matches!(e, LogError::Superseded { generation: 2, .. });
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
        // What it was told of it can still read.
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
        assert!(matches!(seal, Err(LogError::Superseded { .. })), "{seal:?}");
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
        assert!(matches!(seal, Err(LogError::Superseded { .. })), "{seal:?}");
        assert_eq!(*old.durable().borrow(), before);
        compute.write(&new, 1).await;
    });
}

#[test]
fn an_empty_log_is_left_alone_until_it_is_sealed() {
    block_on(async {
        let site = Site::new();
        let (one, two) = (site.open().await, site.open().await);
        assert_eq!(*one.durable().borrow(), Durable::default());
        assert!(read_from(site.open().await, Position(0)).await.is_empty());
        one.close().await.unwrap();
        assert_eq!(site.objects().await.all.len(), 0, "opening makes nothing");
        // Of those who have it open the last to seal has it.
        let three = site.open().await;
        let mut old = Compute::attach(&two).await;
        old.write(&two, 2).await;
        let compute = Compute::attach(&three).await;
        assert_eq!(compute.epoch, Epoch(2));
        let entries = read_from(three, Position(0)).await;
        assert_eq!(frames(&entries), [(1, 1), (1, 2)]);
        let frame = old.frame();
        two.append(old.epoch, vec![frame]).await.unwrap();
        assert!(matches!(two.seal().await, Err(LogError::Superseded { .. })));
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
                delay_us: 6000,
                ..Weather::calm()
            });
            let config = ObjectLogConfig {
                puts_max: 12,
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
            assert!(matches!(error, LogError::Superseded { .. }), "{error}");
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

#[test]
fn a_claim_that_comes_when_its_place_was_trimmed_takes_nothing_over() {
    block_on(async {
        let site = Site::new();
        let log = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        let mut compute = Compute::attach(&log).await;
        compute.write(&log, 10).await;
        // One that opens the log is held up with its claim on its way.
        let wire = site.net.wire();
        site.net.hold_wire(Some(&wire));
        let opening = {
            let place = place(Arc::clone(&wire) as _, &site.prefix);
            tokio::spawn(async move {
                let config = ObjectLogConfig {
                    retry: xylem_objects::Retry {
                        attempt_timeout: Duration::from_secs(20),
                        ..small().retry
                    },
                    ..small()
                };
                ObjectLog::open(&place, config).await
            })
        };
        until(|| site.net.flying() == 1).await;
        // Meanwhile the line goes on, and its beginning is let go of.
        let durable = compute.write(&log, 30).await;
        log.trim(durable.position()).unwrap();
        let first = log.first().0 >> 16;
        assert!(first > 20);
        loop {
            let objects = site.objects().await;
            if objects
                .all
                .keys()
                .all(|(number, _)| *number >= first || *number == 0)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Only those who look at the line's end can tell that it is late.
        site.net.hold_wire(None);
        let late = opening.await.unwrap().unwrap();
        assert!(
            site.objects().await.all.contains_key(&(12, 1)),
            "the late claim"
        );
        assert!(late.durable().borrow().position() >= durable.position());
        compute.append(&log, 1).await;
        assert!(matches!(log.seal().await, Err(LogError::Superseded { .. })));
        let mut next = Compute::attach(&late).await;
        next.write(&late, 2).await;
        let from = late.first();
        let entries = read_from(late, from).await;
        let epochs: Vec<u64> = frames(&entries).iter().map(|f| f.0).collect();
        assert!(epochs.is_sorted() && epochs.ends_with(&[1, 2, 2]));
        // And nobody who comes later is led astray by what it has left.
        let again = site.open().await;
        let durable = *again.durable().borrow();
        assert_eq!((durable.epoch(), durable.seq()), (next.epoch, FrameSeq(2)));
        assert_eq!(read_from(again, from).await, entries);
    });
}

/// The last object is trimmed while one that opens the log has it in its list
/// and has not read it yet, and a claim that comes late takes its name: that is
/// no damage, the line has gone on.
#[test]
fn a_claim_in_the_place_of_what_was_listed_is_no_damage() {
    for before in 0..2 {
        block_on(async {
            let site = Site::new();
            let log = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let mut compute = Compute::attach(&log).await;
            let last = compute.write(&log, 10).await.position().0 >> 16;
            let last = last - 1;
            // It reads the header and then the whole.
            let wire = site.net.wire();
            let name = format!("{last:012x}-");
            site.net.hold_reads(Some((&wire, &name, before)));
            let opening = {
                let place = place(Arc::clone(&wire) as _, &site.prefix);
                tokio::spawn(async move { ObjectLog::open(&place, small()).await })
            };
            until(|| site.net.reads_waiting() == 1).await;
            let durable = compute.write(&log, 20).await;
            log.trim(durable.position()).unwrap();
            until_removed(&site, last + 1).await;
            let claim = claim_object(last, 1, last);
            assert!(!site.objects().await.all.contains_key(&(last, 1)));
            site.put(last, 1, claim).await;
            site.net.hold_reads(None);
            let late = opening.await.unwrap().unwrap();
            assert!(late.durable().borrow().position() >= durable.position());
        });
    }
}

/// A claim as another server would put it there.
fn claim_object(number: u64, generation: u64, known: u64) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[..8].copy_from_slice(b"XYLEMOBJ");
    out[8] = 1;
    out[12] = 2;
    out[16..24].copy_from_slice(&number.to_le_bytes());
    out[24..32].copy_from_slice(&generation.to_le_bytes());
    out[32..48].copy_from_slice(&[7; 16]);
    out[48..56].copy_from_slice(&known.to_le_bytes());
    let crc = crc32c::crc32c(&out[..88]);
    out[88..92].copy_from_slice(&crc.to_le_bytes());
    out
}

#[test]
fn a_claim_further_on_stops_the_writer_there_and_misleads_nobody() {
    block_on(async {
        for trimmed in [false, true] {
            let site = Site::new();
            let log = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let mut compute = Compute::attach(&log).await;
            let durable = compute.write(&log, 20).await;
            if trimmed {
                log.trim(durable.position()).unwrap();
                until_removed(&site, log.first().0 >> 16).await;
            }
            // Of one that knew little of the line, and died.
            let end = durable.position().0 >> 16;
            site.put(end + 3, 1, claim_object(end + 3, 1, 5)).await;
            if !trimmed {
                // The writer comes to it.
                compute.append(&log, 10).await;
                let seal = log.seal().await;
                assert!(
                    matches!(seal, Err(LogError::Superseded { generation: 2, .. })),
                    "{seal:?}"
                );
                // It may have stopped before all that it had on the way was
                // told to be there.
                assert!(log.durable().borrow().position().0 >> 16 <= end + 3);
            }
            let told = *log.durable().borrow();
            let again = site.open().await;
            let found = *again.durable().borrow();
            assert!(found.position() >= told.position() && found.seq() >= told.seq());
            assert!(!trimmed || found == told);
            let mut next = Compute::attach(&again).await;
            next.write(&again, 12).await;
            let from = again.first();
            let entries = read_from(again, from).await;
            let last: Vec<_> = frames(&entries).into_iter().rev().take(12).collect();
            assert!(last.iter().all(|(epoch, _)| *epoch == 2), "{last:?}");
            let again = site.open().await;
            assert_eq!(read_from(again, from).await, entries);
        }
    });
}

#[test]
fn requests_that_are_done_again_after_trimming_change_nothing() {
    block_on(async {
        for seed in 0..30u64 {
            let site = Site::new();
            let log = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let mut compute = Compute::attach(&log).await;
            compute.write(&log, 12).await;
            log.close().await.unwrap();
            // A second generation, and objects of both are let go of.
            let log = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let durable = compute.write(&log, 9 + seed as usize % 5).await;
            let before = site.objects().await;
            log.trim(durable.position()).unwrap();
            let first = log.first();
            let gone = |objects: &Objects| {
                let mut missing = before.all.clone();
                missing.retain(|name, _| !objects.all.contains_key(name));
                missing
            };
            while gone(&site.objects().await).len() < (first.0 >> 16) as usize {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let entries = read_from(log, first).await;
            let trimmed = gone(&site.objects().await);
            for (nth, ((number, generation), bytes)) in trimmed.into_iter().enumerate() {
                if (seed * 7 + nth as u64 * 13) % 5 < 2 {
                    site.put(number, generation, bytes).await;
                }
            }
            let log = site.open().await;
            assert_eq!(*log.durable().borrow(), durable);
            assert!(log.first() <= first, "seed {seed}");
            let read = read_from(log, first).await;
            assert_eq!(read, entries);
            // The first trim of whoever comes next removes them.
            let log = site.open().await;
            let from = log.first();
            read_from(site.open().await, from).await;
            let log = site.open().await;
            Compute::attach(&log).await;
            log.trim(log.durable().borrow().position()).unwrap();
            let first = log.first().0 >> 16;
            until_removed(&site, first).await;
        }
    });
}

/// Waits until there are no objects of entries before `first`.
async fn until_removed(site: &Site, first: u64) {
    for _ in 0..2000 {
        let objects = site.objects().await;
        let old = |(name, bytes): (&(u64, u64), &Vec<u8>)| name.0 < first && bytes.len() > HEADER;
        if !objects.all.iter().any(old) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("what was trimmed stays");
}

#[test]
fn void_objects_are_skipped_and_trimmed() {
    block_on(async {
        let site = Site::new();
        let (old, _, _) = with_a_gap(&site).await;
        let new = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        site.net.hold_name(None);
        drop(old);
        let mut compute = Compute::attach(&new).await;
        let durable = compute.write(&new, 10).await;
        assert_eq!(site.objects().await.void(), [(5, 1), (6, 1)]);
        let stored = new.stored_bytes();
        let line = site.objects().await;
        let bytes: usize = line
            .line(0, 0)
            .iter()
            .map(|name| line.all[name].len())
            .sum();
        assert_eq!(stored, bytes as u64);
        new.trim(durable.position()).unwrap();
        let first = new.first().0 >> 16;
        assert!(first > 7);
        until_removed(&site, first).await;
        let left = site.objects().await;
        let left: usize = left
            .all
            .values()
            .map(Vec::len)
            .filter(|l| *l > HEADER)
            .sum();
        until(|| new.stored_bytes() == left as u64).await;
        new.close().await.unwrap();
        let again = site.open().await;
        assert_eq!(again.stored_bytes(), left as u64);
        assert_eq!(again.first().0 >> 16, first);
    });
}

#[test]
fn opening_costs_the_same_however_long_the_line_is() {
    block_on(async {
        let mut costs = Vec::new();
        for count in [10, 1000, 5000] {
            let site = Site::new();
            let config = ObjectLogConfig {
                puts_max: 64,
                ..one_each()
            };
            let log = site.open_on(&site.net.wire(), config).await.unwrap();
            let mut compute = Compute::attach(&log).await;
            let durable = compute.write(&log, count).await;
            log.close().await.unwrap();
            let before = site.net.requests();
            let log = site.open().await;
            costs.push(site.net.requests() - before);
            assert_eq!(*log.durable().borrow(), durable);
            assert_eq!(log.first(), Position(0));
            // A place in the middle is found without what is before it.
            let before = site.net.requests();
            let middle = Position((count as u64 / 2) << 16);
            let log = tokio::task::spawn_blocking(move || {
                log.read_from(middle).unwrap().next().unwrap().unwrap();
                log
            });
            let log = log.await.unwrap();
            let reading = site.net.requests() - before;
            // What a reader sends for ahead is on its way by then.
            assert!(
                reading <= 3 + small().read_ahead_objects as u64,
                "{reading}"
            );
            if count == 1000 {
                let started = Instant::now();
                let entries = read_from(log, Position(0)).await;
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
        let config = ObjectLogConfig {
            object_bytes: 64 << 10,
            queue_bytes: 1 << 20,
            puts_max: 4,
            retry: xylem_objects::Retry::default(),
            ..small()
        };
        let log = site.open_on(&site.net.wire(), config).await.unwrap();
        let mut compute = Compute::attach(&log).await;
        let puts = site.net.puts();
        site.net.hold(true);
        for _ in 0..10 {
            compute.append(&log, 100).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(site.net.flying(), 4, "as many at a time as are configured");
        site.net.hold(false);
        compute.durable(&log).await;
        let objects = site.objects().await;
        assert!(
            site.net.puts() - puts <= 9,
            "{} objects",
            site.net.puts() - puts
        );
        let largest = objects.all.values().map(Vec::len).max().unwrap();
        assert!(largest <= (64 << 10) + HEADER);
        assert_eq!(read_from(log, Position(0)).await.len(), 1002);
    });
}

#[test]
fn those_who_come_within_the_linger_share_an_object() {
    block_on(async {
        let site = Site::new();
        let config = ObjectLogConfig {
            linger: Duration::from_millis(200),
            ..small()
        };
        let log = site.open_on(&site.net.wire(), config).await.unwrap();
        let started = Instant::now();
        let mut compute = Compute::attach(&log).await;
        assert!(
            started.elapsed() >= Duration::from_millis(400),
            "a seal and a begin"
        );
        let puts = site.net.puts();
        for _ in 0..10 {
            compute.append(&log, 1).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        compute.durable(&log).await;
        assert_eq!(site.net.puts() - puts, 1);
        // Closing does not linger.
        compute.append(&log, 1).await;
        let started = Instant::now();
        log.close().await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(150));
    });
}

#[test]
fn an_object_holds_as_many_entries_as_a_position_can_count() {
    block_on(async {
        let site = Site::new();
        let config = ObjectLogConfig {
            object_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            ..small()
        };
        let log = site.open_on(&site.net.wire(), config).await.unwrap();
        let mut compute = Compute::attach(&log).await;
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
        log.append(compute.epoch, group).await.unwrap();
        site.net.hold(false);
        compute.durable(&log).await;
        let counts: Vec<u32> = site
            .objects()
            .await
            .all
            .values()
            .map(|bytes| common::line::u32_at(bytes, 80))
            .collect();
        assert_eq!(counts.iter().max(), Some(&65_536));
        log.close().await.unwrap();
        let entries = read_from(site.open().await, Position(0)).await;
        assert_eq!(frames(&entries).len(), 150_000);
        assert!(entries.is_sorted_by(|a, b| a.next < b.next));
    });
}

#[test]
fn a_store_that_is_away_is_waited_for() {
    block_on(async {
        let site = Site::new();
        let config = ObjectLogConfig {
            patience: Duration::from_millis(100),
            cache_bytes: 0,
            ..one_each()
        };
        let log = Arc::new(
            site.open_on(&site.net.wire(), config.clone())
                .await
                .unwrap(),
        );
        let mut compute = Compute::attach(&log).await;
        compute.write(&log, 20).await;
        assert!(log.trouble().is_none());
        site.net.refuse(Some(Refusal::Down));
        // What is accepted waits, and nothing fails.
        compute.append(&log, 50).await;
        until(|| log.trouble().is_some()).await;
        let trouble = log.trouble().unwrap().to_string();
        assert!(
            trouble.contains("create") && trouble.contains(site.prefix.as_ref()),
            "{trouble}"
        );
        let seal = {
            let log = Arc::clone(&log);
            tokio::spawn(async move { log.seal().await })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!seal.is_finished());
        // Readers and openers are told after a while.
        let reader = Arc::clone(&log);
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = reader.read_from(Position(0))?;
            while reader.next()?.is_some() {}
            Ok::<_, LogError>(())
        });
        let error = read.await.unwrap().unwrap_err();
        assert!(matches!(error, LogError::Io { .. }), "{error}");
        let error = site.open_on(&site.net.wire(), config).await.unwrap_err();
        assert!(matches!(error, LogError::Io { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        site.net.refuse(None);
        let sealed = seal.await.unwrap().unwrap();
        assert_eq!(sealed.lsn(), Lsn(compute.lsn));
        assert!(log.trouble().is_none());
    });
}

#[test]
fn closing_does_not_wait_for_ever() {
    block_on(async {
        let site = Site::new();
        let config = ObjectLogConfig {
            drain: Duration::from_millis(150),
            ..small()
        };
        let log = site.open_on(&site.net.wire(), config).await.unwrap();
        let mut compute = Compute::attach(&log).await;
        let durable = compute.write(&log, 2).await;
        site.net.refuse(Some(Refusal::Down));
        compute.append(&log, 2).await;
        let started = Instant::now();
        let error = log.close().await.unwrap_err();
        assert!(started.elapsed() >= Duration::from_millis(150));
        assert!(error.to_string().contains("refused"), "{error}");
        assert_eq!(*log.durable().borrow(), durable);
        site.net.refuse(None);
        let again = site.open().await;
        assert!(again.durable().borrow().position() >= durable.position());
    });
}

/// Credentials expire, clocks go wrong, buckets are renamed: somebody mends
/// that, and what was queued becomes durable.
#[test]
fn a_store_that_refuses_for_a_while_is_waited_for() {
    block_on(async {
        for refusal in [Refusal::Denied, Refusal::NoBucket] {
            let site = Site::new();
            let log = site.open().await;
            let mut compute = Compute::attach(&log).await;
            let durable = compute.write(&log, 2).await;
            site.net.refuse(Some(refusal));
            compute.append(&log, 1).await;
            let deadline = Instant::now() + Duration::from_secs(20);
            let error = loop {
                if let Some(error) = log.trouble() {
                    break error;
                }
                assert!(Instant::now() < deadline, "nobody says what is wrong");
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            let LogError::Io { context, source } = &error else {
                panic!("{error}");
            };
            assert!(context.contains("create") && context.contains(site.prefix.as_ref()));
            let kind = match refusal {
                Refusal::Denied => std::io::ErrorKind::PermissionDenied,
                _ => std::io::ErrorKind::NotFound,
            };
            assert_eq!(source.kind(), kind);
            assert!(source.to_string().contains("check that"), "{error}");
            assert!(log.failed().is_none());
            assert_eq!(*log.durable().borrow(), durable);
            // Opening it waits, too, and not for ever.
            let config = ObjectLogConfig {
                patience: Duration::from_millis(100),
                ..small()
            };
            let error = site.open_on(&site.net.wire(), config).await.unwrap_err();
            assert!(error.to_string().contains("list"), "{error}");
            site.net.refuse(None);
            let mut watch = log.durable();
            watch
                .wait_for(|now| now.seq() > durable.seq())
                .await
                .unwrap();
        }
    });
}

#[test]
fn a_store_that_cannot_ends_the_log_which_can_be_opened_again() {
    block_on(async {
        let site = Site::new();
        let log = site.open().await;
        let mut compute = Compute::attach(&log).await;
        let durable = compute.write(&log, 2).await;
        let mut watch = log.durable();
        watch.mark_unchanged();
        site.net.refuse(Some(Refusal::Unable));
        compute.append(&log, 1).await;
        assert!(watch.changed().await.is_err(), "the sender is dropped");
        assert_eq!(*watch.borrow(), durable);
        let error = log.failed().unwrap();
        assert!(error.is_mended_by_opening());
        assert!(
            error.to_string().contains("check the store's settings"),
            "{error}"
        );
        let error = log.seal().await.unwrap_err().to_string();
        assert!(
            error.contains("create") && error.contains(site.prefix.as_ref()),
            "{error}"
        );
        let error = site.open_on(&site.net.wire(), small()).await.unwrap_err();
        assert!(error.to_string().contains("list"), "{error}");
        log.close().await.unwrap_err();
        site.net.refuse(None);
        // While the one that has failed is still held.
        let again = site.open().await;
        assert_eq!(*again.durable().borrow(), durable);
        Compute::attach(&again).await.write(&again, 2).await;
        assert!(again.failed().is_none());
    });
}

#[test]
fn damage_is_told_with_its_place() {
    block_on(async {
        let site = Site::new();
        let log = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        let mut compute = Compute::attach(&log).await;
        compute.write(&log, 8).await;
        log.close().await.unwrap();
        let whole = site.get(4, 1).await;
        for at in 0..whole.len() {
            // Bytes that nothing covers and nobody reads.
            if (92..96).contains(&at) {
                continue;
            }
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            site.put(4, 1, damaged).await;
            let log = site.open().await;
            let read = tokio::task::spawn_blocking(move || {
                let mut reader = log.read_from(Position(0)).unwrap();
                let mut count = 0;
                loop {
                    match reader.next() {
                        Ok(Some(_)) => count += 1,
                        Ok(None) => panic!("damage at byte is not seen"),
                        Err(e) => return (count, e),
                    }
                }
            });
            let (count, error) = read.await.unwrap();
            assert_eq!(count, 4, "byte {at}");
            let text = error.to_string();
            assert!(matches!(error, LogError::Corrupt(_)), "byte {at}: {text}");
            assert!(
                text.contains("000000000004-00000001 at byte"),
                "byte {at}: {text}"
            );
            if (8..12).contains(&at) {
                assert!(text.contains("format version"), "{text}");
            }
        }
        site.put(4, 1, whole).await;
        // The end of the line must be good for the log to open.
        let last = site.get(9, 1).await;
        for at in [3, 10, 30, 50, 100, 120, last.len() - 1] {
            let mut damaged = last.clone();
            damaged[at] ^= 1;
            site.put(9, 1, damaged).await;
            let error = site.open_on(&site.net.wire(), small()).await.unwrap_err();
            assert!(
                matches!(&error, LogError::Corrupt(what) if what.contains("000000000009-00000001")),
                "byte {at}: {error}"
            );
        }
        site.put(9, 1, last[..50].to_vec()).await;
        let error = site.open_on(&site.net.wire(), small()).await.unwrap_err();
        assert!(error.to_string().contains("50 bytes"), "{error}");
        site.put(9, 1, last).await;
        // An object that somebody has removed: whoever has the log open says
        // so, whoever opens it takes it for trimmed and all before it.
        let log = site.open().await;
        site.store.delete(&site.path(5, 1)).await.unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = log.read_from(Position(0)).unwrap();
            loop {
                if let Err(e) = reader.next() {
                    return e;
                }
            }
        });
        let error = read.await.unwrap().to_string();
        assert!(
            error.contains("000000000005") && error.contains("missing"),
            "{error}"
        );
        let log = site.open().await;
        assert_eq!(log.first(), Position(6 << 16));
        let gone = log.read_from(Position(0));
        assert!(matches!(gone, Err(LogError::NoSuchPosition(_))));
    });
}

#[test]
fn names_of_others_are_left_alone() {
    block_on(async {
        let site = Site::new();
        let log = site.open().await;
        let mut compute = Compute::attach(&log).await;
        compute.write(&log, 4).await;
        log.close().await.unwrap();
        let strange = [
            "notes.txt",
            "0000000000/notes.txt",
            "0000000000/000000000001-1",
            "0000000000/000000000001-0000000A",
            "0000000000/000000000500-00000001",
            "0000000001/000000000001-00000001",
            "00000000zz/000000000001-00000001",
            "0000000000/000000000001-00000001/more",
            "9/000000000001-00000001",
        ];
        for name in strange {
            let path = Path::from(format!("{}/{name}", site.prefix));
            site.store.put(&path, b"x".to_vec().into()).await.unwrap();
        }
        let log = site.open().await;
        let first = log.first();
        let durable = *log.durable().borrow();
        assert_eq!((first, durable.seq()), (Position(0), FrameSeq(4)));
        log.trim(durable.position()).unwrap();
        assert!(log.first() > first);
        tokio::time::sleep(Duration::from_millis(50)).await;
        for name in strange {
            let path = Path::from(format!("{}/{name}", site.prefix));
            site.store.get(&path).await.unwrap();
        }
    });
}

#[test]
fn the_process_dies_at_any_object() {
    block_on(async {
        for dies_at in 0..25 {
            for seed in 0..4 {
                crash_at(dies_at, seed).await;
            }
        }
    });
}

/// Lives until object `dies_at`, and dies with up to four on their way, which
/// are done at once, later, or never.
async fn crash_at(dies_at: u64, seed: u64) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let site = Site {
        net: Net::new(Arc::clone(&store), dies_at * 10 + seed),
        store,
        prefix: fresh_prefix("crash"),
    };
    let wire = site.net.wire();
    site.net.hold_after(Some(dies_at));
    let told = Arc::new(parking_lot::Mutex::new((0, 0)));
    let life = {
        let (wire, prefix, told) = (Arc::clone(&wire), site.prefix.clone(), Arc::clone(&told));
        tokio::spawn(async move {
            let place = place(wire as _, &prefix);
            let log = ObjectLog::open(&place, one_each()).await.unwrap();
            for _ in 0..2 {
                let mut compute = Compute::attach(&log).await;
                for _ in 0..5 {
                    compute.append(&log, 2).await;
                    *told.lock() = (compute.epoch.0, log.durable().borrow().seq().0);
                }
                let durable = compute.durable(&log).await;
                *told.lock() = (compute.epoch.0, durable.seq().0);
            }
            std::future::pending::<()>().await;
        })
    };
    let net = Arc::clone(&site.net);
    let mut idle = 0;
    while idle < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = (net.is_held(), net.puts());
        idle = if now.0 || net.puts() > dies_at {
            idle + 1
        } else {
            0
        };
    }
    net.hold_after(None);
    net.kill(&wire).await;
    life.abort();
    net.hold(false);
    let log = site.open().await;
    let durable = *log.durable().borrow();
    let told = *told.lock();
    assert!(
        (durable.epoch().0, durable.seq().0) >= told,
        "{durable:?} after {told:?}"
    );
    let mut compute = Compute::attach(&log).await;
    compute.write(&log, 3).await;
    let entries = read_from(log, Position(0)).await;
    assert_eq!(
        frames(&entries)[frames(&entries).len() - 3..][0],
        (compute.epoch.0, 1)
    );
    net.deliver().await;
    let again = read_from(site.open().await, Position(0)).await;
    assert_eq!(again, entries, "what came late changes nothing");
    assert_eq!(site.objects().await.entries().len(), entries.len());
}

#[test]
fn wrong_configurations_are_refused() {
    block_on(async {
        let site = Site::new();
        for config in [
            ObjectLogConfig {
                puts_max: 0,
                ..small()
            },
            ObjectLogConfig {
                object_bytes: 2 << 30,
                ..small()
            },
            ObjectLogConfig {
                max_frame_bytes: u64::MAX,
                ..small()
            },
        ] {
            let refused = site.open_on(&site.net.wire(), config).await;
            assert!(
                matches!(refused, Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::InvalidInput)
            );
        }
    });
}

#[test]
fn readers_work_on_threads_of_any_kind() {
    let site = Arc::new(Site::new());
    let log = block_on({
        let site = Arc::clone(&site);
        async move {
            let log = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let mut compute = Compute::attach(&log).await;
            compute.write(&log, 40).await;
            log.close().await.unwrap();
            Arc::new(site.open().await)
        }
    });
    let read = |log: &ObjectLog| {
        let mut reader = log.read_from(Position(0)).unwrap();
        std::iter::from_fn(move || reader.next().unwrap()).count()
    };
    // One of no runtime.
    assert_eq!(read(&log), 42);
    // A blocking one of the runtime that the requests run on.
    let same = Arc::clone(&log);
    let blocking = runtime().spawn_blocking(move || read(&same));
    assert_eq!(runtime().block_on(blocking).unwrap(), 42);
    // One that waits for another runtime, of one thread.
    let other = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    assert_eq!(other.block_on(async { read(&log) }), 42);
}
