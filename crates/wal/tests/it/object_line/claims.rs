//! Claims that come late, or further on than the end.

use super::{Compute, Site, frames, one_each, until, until_removed};
use crate::common::line::HEADER;
use crate::common::objects::{block_on, place, read_from, small};
use std::sync::Arc;
use std::time::Duration;
use xylem_types::FrameSeq;
use xylem_wal::{ObjectWal, ObjectWalConfig, Wal, WalError};

#[test]
fn a_claim_that_comes_when_its_place_was_trimmed_takes_nothing_over() {
    block_on(async {
        let site = Site::new();
        let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        let mut compute = Compute::attach(&wal).await;
        compute.write(&wal, 10).await;
        // One that opens the WAL is held up with its claim on its way.
        let wire = site.net.wire();
        site.net.hold_wire(Some(&wire));
        let opening = {
            let place = place(Arc::clone(&wire) as _, &site.prefix);
            tokio::spawn(async move {
                let config = ObjectWalConfig {
                    retry: xylem_objects::Retry {
                        attempt_timeout: Duration::from_secs(20),
                        ..small().retry
                    },
                    ..small()
                };
                ObjectWal::open(&place, config).await
            })
        };
        until(|| site.net.flying() == 1).await;
        // Meanwhile the line grows, and its beginning is trimmed.
        let durable = compute.write(&wal, 30).await;
        wal.trim(durable.position()).unwrap();
        let first = wal.first().0 >> 16;
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
        // Only a look at the line's end shows that the claim is late.
        site.net.hold_wire(None);
        let late = opening.await.unwrap().unwrap();
        assert!(
            site.objects().await.all.contains_key(&(12, 1)),
            "the late claim"
        );
        assert!(late.durable().borrow().position() >= durable.position());
        compute.append(&wal, 1).await;
        assert!(matches!(wal.seal().await, Err(WalError::Superseded { .. })));
        let mut next = Compute::attach(&late).await;
        next.write(&late, 2).await;
        let from = late.first();
        let entries = read_from(late, from).await;
        let epochs: Vec<u64> = frames(&entries).iter().map(|f| f.0).collect();
        assert!(epochs.is_sorted() && epochs.ends_with(&[1, 2, 2]));
        // Its remains mislead no later server.
        let again = site.open().await;
        let durable = *again.durable().borrow();
        assert_eq!((durable.epoch(), durable.seq()), (next.epoch, FrameSeq(2)));
        assert_eq!(read_from(again, from).await, entries);
    });
}

/// The last object is trimmed while one that opens the WAL has it in its list
/// and has not read it yet, and a claim that comes late takes its name: that is
/// no damage, the line has gone on.
#[test]
fn a_claim_in_the_place_of_what_was_listed_is_no_damage() {
    for before in 0..2 {
        block_on(async {
            let site = Site::new();
            let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let mut compute = Compute::attach(&wal).await;
            let last = compute.write(&wal, 10).await.position().0 >> 16;
            let last = last - 1;
            // It reads the header and then the whole.
            let wire = site.net.wire();
            let name = format!("{last:012x}-");
            site.net.hold_reads(Some((&wire, &name, before)));
            let opening = {
                let place = place(Arc::clone(&wire) as _, &site.prefix);
                tokio::spawn(async move { ObjectWal::open(&place, small()).await })
            };
            until(|| site.net.reads_waiting() == 1).await;
            let durable = compute.write(&wal, 20).await;
            wal.trim(durable.position()).unwrap();
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
            let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let mut compute = Compute::attach(&wal).await;
            let durable = compute.write(&wal, 20).await;
            if trimmed {
                wal.trim(durable.position()).unwrap();
                until_removed(&site, wal.first().0 >> 16).await;
            }
            // The claim of a server that knew little of the line, and died.
            let end = durable.position().0 >> 16;
            site.put(end + 3, 1, claim_object(end + 3, 1, 5)).await;
            if !trimmed {
                // The writer comes to it.
                compute.append(&wal, 10).await;
                let seal = wal.seal().await;
                assert!(
                    matches!(seal, Err(WalError::Superseded { generation: 2, .. })),
                    "{seal:?}"
                );
                // It may have stopped before all that it had on the way was
                // told to be there.
                assert!(wal.durable().borrow().position().0 >> 16 <= end + 3);
            }
            let told = *wal.durable().borrow();
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
