//! A store that is away, refuses, or holds damaged objects.

use super::{Compute, Site, one_each, until};
use crate::common::net::Refusal;
use crate::common::objects::{block_on, small};
use object_store::ObjectStoreExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_types::Lsn;
use xylem_wal::{ObjectWalConfig, Position, Wal, WalError};

#[test]
fn a_store_that_is_away_is_waited_for() {
    block_on(async {
        let site = Site::new();
        let config = ObjectWalConfig {
            patience: Duration::from_millis(100),
            cache_bytes: 0,
            ..one_each()
        };
        let wal = Arc::new(
            site.open_on(&site.net.wire(), config.clone())
                .await
                .unwrap(),
        );
        let mut compute = Compute::attach(&wal).await;
        compute.write(&wal, 20).await;
        assert!(wal.trouble().is_none());
        site.net.refuse(Some(Refusal::Down));
        // Accepted frames wait, and no call fails.
        compute.append(&wal, 50).await;
        until(|| wal.trouble().is_some()).await;
        let trouble = wal.trouble().unwrap().to_string();
        assert!(
            trouble.contains("create") && trouble.contains(site.prefix.as_ref()),
            "{trouble}"
        );
        let seal = {
            let wal = Arc::clone(&wal);
            tokio::spawn(async move { wal.seal().await })
        };
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!seal.is_finished());
        // Readers and openers are told after a while.
        let reader = Arc::clone(&wal);
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = reader.read_from(Position(0))?;
            while reader.next()?.is_some() {}
            Ok::<_, WalError>(())
        });
        let error = read.await.unwrap().unwrap_err();
        assert!(matches!(error, WalError::Io { .. }), "{error}");
        let error = site.open_on(&site.net.wire(), config).await.unwrap_err();
        assert!(matches!(error, WalError::Io { .. }), "{error}");
        assert!(error.to_string().contains("refused"), "{error}");
        site.net.refuse(None);
        let sealed = seal.await.unwrap().unwrap();
        assert_eq!(sealed.lsn(), Lsn(compute.lsn));
        assert!(wal.trouble().is_none());
    });
}

#[test]
fn closing_does_not_wait_for_ever() {
    block_on(async {
        let site = Site::new();
        let config = ObjectWalConfig {
            drain: Duration::from_millis(150),
            ..small()
        };
        let wal = site.open_on(&site.net.wire(), config).await.unwrap();
        let mut compute = Compute::attach(&wal).await;
        let durable = compute.write(&wal, 2).await;
        site.net.refuse(Some(Refusal::Down));
        compute.append(&wal, 2).await;
        let started = Instant::now();
        let error = wal.close().await.unwrap_err();
        assert!(started.elapsed() >= Duration::from_millis(150));
        assert!(error.to_string().contains("refused"), "{error}");
        assert_eq!(*wal.durable().borrow(), durable);
        site.net.refuse(None);
        let again = site.open().await;
        assert!(again.durable().borrow().position() >= durable.position());
    });
}

/// Credentials expire, clocks go wrong, buckets are renamed: an operator mends
/// that, and queued entries become durable.
#[test]
fn a_store_that_refuses_for_a_while_is_waited_for() {
    block_on(async {
        for refusal in [Refusal::Denied, Refusal::NoBucket] {
            let site = Site::new();
            let wal = site.open().await;
            let mut compute = Compute::attach(&wal).await;
            let durable = compute.write(&wal, 2).await;
            site.net.refuse(Some(refusal));
            compute.append(&wal, 1).await;
            let deadline = Instant::now() + Duration::from_secs(20);
            let error = loop {
                if let Some(error) = wal.trouble() {
                    break error;
                }
                assert!(Instant::now() < deadline, "nobody says what is wrong");
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            let WalError::Io { context, source } = &error else {
                panic!("{error}");
            };
            assert!(context.contains("create") && context.contains(site.prefix.as_ref()));
            let kind = match refusal {
                Refusal::Denied => std::io::ErrorKind::PermissionDenied,
                _ => std::io::ErrorKind::NotFound,
            };
            assert_eq!(source.kind(), kind);
            assert!(source.to_string().contains("check that"), "{error}");
            assert!(wal.failed().is_none());
            assert_eq!(*wal.durable().borrow(), durable);
            // Opening it waits, too, and not for ever.
            let config = ObjectWalConfig {
                patience: Duration::from_millis(100),
                ..small()
            };
            let error = site.open_on(&site.net.wire(), config).await.unwrap_err();
            assert!(error.to_string().contains("list"), "{error}");
            site.net.refuse(None);
            let mut watch = wal.durable();
            watch
                .wait_for(|now| now.seq() > durable.seq())
                .await
                .unwrap();
        }
    });
}

#[test]
fn a_store_that_cannot_ends_the_wal_which_can_be_opened_again() {
    block_on(async {
        let site = Site::new();
        let wal = site.open().await;
        let mut compute = Compute::attach(&wal).await;
        let durable = compute.write(&wal, 2).await;
        let mut watch = wal.durable();
        watch.mark_unchanged();
        site.net.refuse(Some(Refusal::Unable));
        compute.append(&wal, 1).await;
        assert!(watch.changed().await.is_err(), "the sender is dropped");
        assert_eq!(*watch.borrow(), durable);
        let error = wal.failed().unwrap();
        assert!(error.is_mended_by_opening());
        assert!(
            error.to_string().contains("check the store's settings"),
            "{error}"
        );
        let error = wal.seal().await.unwrap_err().to_string();
        assert!(
            error.contains("create") && error.contains(site.prefix.as_ref()),
            "{error}"
        );
        let error = site.open_on(&site.net.wire(), small()).await.unwrap_err();
        assert!(error.to_string().contains("list"), "{error}");
        wal.close().await.unwrap_err();
        site.net.refuse(None);
        // While the one that has failed is still held.
        let again = site.open().await;
        assert_eq!(*again.durable().borrow(), durable);
        Compute::attach(&again).await.write(&again, 2).await;
        assert!(again.failed().is_none());
    });
}

/// A closed WAL of ten objects.
async fn with_ten_objects() -> Site {
    let site = Site::new();
    let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
    let mut compute = Compute::attach(&wal).await;
    compute.write(&wal, 8).await;
    wal.close().await.unwrap();
    site
}

#[test]
fn damage_is_told_with_its_place() {
    block_on(async {
        let site = with_ten_objects().await;
        let whole = site.get(4, 1).await;
        for at in 0..whole.len() {
            // Bytes that no checksum covers and no code reads.
            if (92..96).contains(&at) {
                continue;
            }
            let mut damaged = whole.clone();
            damaged[at] ^= 0x20;
            site.put(4, 1, damaged).await;
            let wal = site.open().await;
            let read = tokio::task::spawn_blocking(move || {
                let mut reader = wal.read_from(Position(0)).unwrap();
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
            assert!(matches!(error, WalError::Corrupt(_)), "byte {at}: {text}");
            assert!(
                text.contains("000000000004-00000001 at byte"),
                "byte {at}: {text}"
            );
            if (8..12).contains(&at) {
                assert!(text.contains("format version"), "{text}");
            }
        }
    });
}

#[test]
fn the_end_of_the_line_must_be_good_for_the_wal_to_open() {
    block_on(async {
        let site = with_ten_objects().await;
        let last = site.get(9, 1).await;
        for at in [3, 10, 30, 50, 100, 120, last.len() - 1] {
            let mut damaged = last.clone();
            damaged[at] ^= 1;
            site.put(9, 1, damaged).await;
            let error = site.open_on(&site.net.wire(), small()).await.unwrap_err();
            assert!(
                matches!(&error, WalError::Corrupt(what) if what.contains("000000000009-00000001")),
                "byte {at}: {error}"
            );
        }
        site.put(9, 1, last[..50].to_vec()).await;
        let error = site.open_on(&site.net.wire(), small()).await.unwrap_err();
        assert!(error.to_string().contains("50 bytes"), "{error}");
    });
}

/// A server that has the WAL open reports an object that was removed by hand; a
/// server that opens it takes the object, and all before it, for trimmed.
#[test]
fn a_removed_object_is_missed_by_the_owner_alone() {
    block_on(async {
        let site = with_ten_objects().await;
        let wal = site.open().await;
        site.store.delete(&site.path(5, 1)).await.unwrap();
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = wal.read_from(Position(0)).unwrap();
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
        let wal = site.open().await;
        assert_eq!(wal.first(), Position(6 << 16));
        let gone = wal.read_from(Position(0));
        assert!(matches!(gone, Err(WalError::NoSuchPosition(_))));
    });
}
