//! Trimming: the objects that it removes, and those that it leaves alone.

use super::{Compute, Site, many, one_each, until, until_removed, with_a_gap};
use crate::common::line::{HEADER, Objects};
use crate::common::objects::{block_on, read_from, seeds};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::sync::Arc;
use std::time::Duration;
use xylem_types::FrameSeq;
use xylem_wal::{Entry, Position, Wal, WalError};

#[test]
fn requests_that_are_done_again_after_trimming_change_nothing() {
    block_on(async {
        for seed in 0..30u64 {
            let site = Site::new();
            let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let mut compute = Compute::attach(&wal).await;
            compute.write(&wal, 12).await;
            wal.close().await.unwrap();
            // A second generation, and objects of both are trimmed.
            let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
            let durable = compute.write(&wal, 9 + seed as usize % 5).await;
            let before = site.objects().await;
            wal.trim(durable.position()).unwrap();
            let first = wal.first();
            let gone = |objects: &Objects| {
                let mut missing = before.all.clone();
                missing.retain(|name, _| !objects.all.contains_key(name));
                missing
            };
            while gone(&site.objects().await).len() < (first.0 >> 16) as usize {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let entries = read_from(wal, first).await;
            let trimmed = gone(&site.objects().await);
            for (nth, ((number, generation), bytes)) in trimmed.into_iter().enumerate() {
                if (seed * 7 + nth as u64 * 13) % 5 < 2 {
                    site.put(number, generation, bytes).await;
                }
            }
            let wal = site.open().await;
            assert_eq!(*wal.durable().borrow(), durable);
            assert!(wal.first() <= first, "seed {seed}");
            let read = read_from(wal, first).await;
            assert_eq!(read, entries);
            // The first trim of the next owner removes them.
            let wal = site.open().await;
            let from = wal.first();
            read_from(site.open().await, from).await;
            let wal = site.open().await;
            Compute::attach(&wal).await;
            wal.trim(wal.durable().borrow().position()).unwrap();
            let first = wal.first().0 >> 16;
            until_removed(&site, first).await;
        }
    });
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

/// The first owner has two objects on their way, and the second claims the
/// number of one and trims beyond the other, which arrives then.
#[test]
fn a_void_object_that_arrives_before_the_beginning_is_not_the_beginning() {
    block_on(async {
        let site = Site::new();
        let (old, _, _) = with_a_gap(&site).await;
        // They arrive after all.
        let late = [(5, site.get(5, 1).await), (6, site.get(6, 1).await)];
        let new = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        site.net.hold_name(None);
        drop(old);
        let mut compute = Compute::attach(&new).await;
        let durable = compute.write(&new, 10).await;
        assert_eq!(site.objects().await.line(0, 0)[4..6], [(4, 2), (5, 2)]);
        // Number 6 is void in generation 1, and trimmed in generation 2.
        new.trim(Position(7 << 16)).unwrap();
        until_removed(&site, 7).await;
        new.close().await.unwrap();
        for (number, bytes) in late {
            site.put(number, 1, bytes).await;
        }
        let wal = site.open().await;
        assert_eq!(*wal.durable().borrow(), durable);
        assert_eq!(wal.first(), Position(7 << 16));
        let entries = read_from(wal, Position(7 << 16)).await;
        assert_eq!(entries.last().unwrap().next, durable.position());
    });
}

/// The names of all objects of entries.
fn entries_of(objects: &Objects) -> Vec<(u64, u64)> {
    let all = objects.all.iter().filter(|(_, bytes)| bytes.len() > HEADER);
    all.map(|(name, _)| *name).collect()
}

/// The place of the first object of each entry.
fn positions(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|e| e.next.0 >> 16).collect()
}

/// Lines that begin in any folder, below which only claims are left, at the
/// folder's edge or elsewhere.
#[test]
fn the_beginning_is_found_across_folders() {
    block_on(async {
        for (count, first) in [
            (1100, 1099),
            (1100, 1024),
            (1100, 1023),
            (1100, 700),
            (2700, 1100),
            (2700, 2048),
            (2700, 2047),
            (2700, 513),
            (2700, 512),
            (2700, 511),
            (512, 300),
            (513, 511),
        ] {
            let site = Site::new();
            let wal = site.open_on(&site.net.wire(), many()).await.unwrap();
            let mut compute = Compute::attach(&wal).await;
            // A seal and a begin come before them.
            compute.write(&wal, count - 2).await;
            wal.trim(Position(first << 16)).unwrap();
            // The last ones were on their way together.
            let first = wal.first().0 >> 16;
            until_removed(&site, first).await;
            let line = site.objects().await;
            let left = entries_of(&line)
                .into_iter()
                .map(|name| line.all[&name].len());
            let stored = left.sum::<usize>() as u64;
            until(|| wal.stored_bytes() == stored).await;
            wal.close().await.unwrap();
            // The objects do not say how far the line was trimmed.
            for round in 0..2 {
                let wal = site.open().await;
                assert_eq!(
                    wal.first(),
                    Position(first << 16),
                    "{count} {first} {round}"
                );
                assert_eq!(wal.stored_bytes(), stored, "{count} {first} {round}");
                let entries = read_from(wal, Position(first << 16)).await;
                assert_eq!(entries.len() as u64, count as u64 - first);
            }
        }
    });
}

/// An object that is lost is no beginning: what is before it was acknowledged.
#[test]
fn a_lost_object_is_no_beginning() {
    block_on(async {
        for (first, lost) in [(0, 600), (0, 1023), (200, 600), (511, 1024)] {
            let site = Site::new();
            let wal = site.open_on(&site.net.wire(), many()).await.unwrap();
            Compute::attach(&wal).await.write(&wal, 1500).await;
            wal.trim(Position(first << 16)).unwrap();
            until_removed(&site, first).await;
            wal.close().await.unwrap();
            site.store.delete(&site.path(lost, 1)).await.unwrap();
            let wal = site.open().await;
            let first = Position(first << 16);
            assert_eq!(wal.first(), first, "{lost}");
            let error = tokio::task::spawn_blocking(move || {
                let mut reader = wal.read_from(first).unwrap();
                loop {
                    if let Err(error) = reader.next() {
                        return error.to_string();
                    }
                }
            });
            let error = error.await.unwrap();
            assert!(error.contains(&format!("object {lost} ")), "{error}");
        }
    });
}

/// Three owners, of whom the first and the second leave void objects, around the
/// edges of folders; any of those, and of the trimmed ones, arrive late.
#[test]
fn late_objects_of_any_owner_do_not_make_a_beginning() {
    block_on(async {
        for seed in seeds(0..10) {
            let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut below = |limit: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 33) % limit
            };
            let site = Site::new();
            let mut voids = Vec::new();
            let mut lengths = Vec::new();
            for _ in 0..2 {
                let wal = site.open_on(&site.net.wire(), many()).await.unwrap();
                let mut compute = Compute::attach(&wal).await;
                compute.write(&wal, 480 + below(40) as usize).await;
                wal.close().await.unwrap();
                // Its last objects never arrived when the next one looked.
                let objects = entries_of(&site.objects().await);
                let gone = 1 + below(30) as usize;
                for &(number, generation) in &objects[objects.len() - gone..] {
                    voids.push((number, generation, site.get(number, generation).await));
                    site.store
                        .delete(&site.path(number, generation))
                        .await
                        .unwrap();
                }
                lengths.push(objects.len() - gone);
            }
            let wal = site.open_on(&site.net.wire(), many()).await.unwrap();
            let mut compute = Compute::attach(&wal).await;
            compute.write(&wal, 60 + below(600) as usize).await;
            wal.close().await.unwrap();
            let before = site.objects().await;
            let line = before.line(0, 0);
            let all = read_from(site.open().await, Position(0)).await;
            // The first void object of the second owner, or close to it, or anywhere.
            let near = [lengths[0] as u64, lengths[1] as u64][below(2) as usize];
            let first = match below(4) {
                0 => below(line.len() as u64 - 40),
                _ => near + below(20),
            };
            let wal = site.open().await;
            wal.trim(Position(first << 16)).unwrap();
            let first = wal.first().0 >> 16;
            until_removed(&site, first).await;
            wal.close().await.unwrap();
            for (number, generation, bytes) in voids {
                if below(4) > 0 && !before.all.contains_key(&(number, generation)) {
                    site.put(number, generation, bytes).await;
                }
            }
            let late = below(2) == 0;
            for name in line.iter().filter(|name| name.0 < first) {
                if late && below(3) > 0 {
                    site.put(name.0, name.1, before.all[name].clone()).await;
                }
            }
            let wal = site.open().await;
            let found = wal.first();
            assert!(
                found <= Position(first << 16),
                "seed {seed}: {found:?}, not {first}"
            );
            let read = read_from(wal, found).await;
            assert!(
                all.ends_with(&read),
                "seed {seed}: from {found:?}, not {first}"
            );
            assert_eq!(
                positions(&read).first().map(|next| next - 1),
                Some(found.0 >> 16),
                "seed {seed}"
            );
            if !late {
                assert_eq!(found, Position(first << 16), "seed {seed}");
            }
        }
    });
}

/// A WAL that was empty when it was opened, and that others have used since.
#[test]
fn a_wal_that_was_empty_when_it_was_opened_finds_its_beginning() {
    block_on(async {
        let site = Site::new();
        let late = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        Compute::attach(&wal).await.write(&wal, 20).await;
        wal.trim(Position(10 << 16)).unwrap();
        until_removed(&site, 10).await;
        let stored = wal.stored_bytes();
        wal.close().await.unwrap();
        let mut compute = Compute::attach(&late).await;
        assert_eq!(late.first(), Position(10 << 16));
        assert!(late.stored_bytes() > stored);
        let durable = compute.write(&late, 20).await;
        late.trim(durable.position()).unwrap();
        let first = late.first().0 >> 16;
        until_removed(&site, first).await;
        until(|| late.stored_bytes() < stored).await;
        let entries = read_from(late, Position(first << 16)).await;
        assert_eq!(entries.last().unwrap().next, durable.position());
    });
}

/// Its own trimming does not make damage look like the work of the owner before.
#[test]
fn damage_stays_damage_while_the_owner_trims() {
    block_on(async {
        let site = Site::new();
        let wal = site.open_on(&site.net.wire(), many()).await.unwrap();
        Compute::attach(&wal).await.write(&wal, 1500).await;
        wal.close().await.unwrap();
        let wal = Arc::new(site.open().await);
        site.store.delete(&site.path(300, 1)).await.unwrap();
        let reading = {
            let wal = Arc::clone(&wal);
            tokio::task::spawn_blocking(move || {
                let mut reader = wal.read_from(Position(299 << 16)).unwrap();
                reader.next().unwrap();
                reader.next().unwrap_err().to_string()
            })
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        wal.trim(Position(100 << 16)).unwrap();
        until_removed(&site, 100).await;
        let error = reading.await.unwrap();
        assert!(error.contains("object 300 "), "{error}");
        assert_eq!(wal.first(), Position(100 << 16));
    });
}

/// A line that was empty when its owner opened it, and was taken over by another.
#[test]
fn an_object_that_a_newer_owner_has_trimmed_is_no_damage() {
    block_on(async {
        let site = Site::new();
        let old = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        Compute::attach(&old).await.write(&old, 200).await;
        let new = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        Compute::attach(&new).await.write(&new, 10).await;
        new.trim(Position(10 << 16)).unwrap();
        until_removed(&site, 10).await;
        let error = tokio::task::spawn_blocking(move || {
            let mut reader = old.read_from(Position(3 << 16))?;
            reader.next()
        });
        let error = error.await.unwrap().unwrap_err();
        assert!(matches!(error, WalError::Superseded { .. }), "{error}");
    });
}

/// The line's own object is removed before a void one of its number.
#[test]
fn a_void_object_is_not_read_in_place_of_one_that_was_trimmed() {
    block_on(async {
        let site = Site::new();
        let (old, _, _) = with_a_gap(&site).await;
        let void = site.get(6, 1).await;
        let new = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        site.net.hold_name(None);
        drop(old);
        Compute::attach(&new).await.write(&new, 10).await;
        new.close().await.unwrap();
        let wal = site.open().await;
        site.put(6, 1, void).await;
        site.store.delete(&site.path(6, 2)).await.unwrap();
        let outcome = tokio::task::spawn_blocking(move || {
            let mut reader = wal.read_from(Position(5 << 16)).unwrap();
            reader.next().unwrap();
            reader.next()
        });
        let error = outcome.await.unwrap().unwrap_err().to_string();
        assert!(error.contains("object 6 "), "{error}");
    });
}

/// An owner that was replaced may still be removing what it had trimmed.
#[test]
fn objects_that_an_earlier_owner_removes_are_trimmed_and_not_damaged() {
    block_on(async {
        let site = Site::new();
        let wal = site.open_on(&site.net.wire(), one_each()).await.unwrap();
        Compute::attach(&wal).await.write(&wal, 10).await;
        wal.close().await.unwrap();
        let wal = Arc::new(site.open().await);
        assert_eq!(wal.first(), Position(0));
        // A store removes many at once in any order.
        site.store.delete(&site.path(5, 1)).await.unwrap();
        let reading = {
            let wal = Arc::clone(&wal);
            tokio::task::spawn_blocking(move || {
                let mut reader = wal.read_from(Position(5 << 16))?;
                reader.next().map(|_| ())
            })
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        for number in 0..5 {
            site.store.delete(&site.path(number, 1)).await.unwrap();
        }
        let outcome = reading.await.unwrap();
        assert!(
            matches!(outcome, Err(WalError::NoSuchPosition(_))),
            "{outcome:?}"
        );
        assert_eq!(wal.first(), Position(6 << 16));
        // It goes on.
        for number in 6..8 {
            site.store.delete(&site.path(number, 1)).await.unwrap();
        }
        let again = Arc::clone(&wal);
        let outcome = tokio::task::spawn_blocking(move || {
            let mut reader = again.read_from(Position(6 << 16))?;
            reader.next().map(|_| ())
        });
        let outcome = outcome.await.unwrap();
        assert!(
            matches!(outcome, Err(WalError::NoSuchPosition(_))),
            "{outcome:?}"
        );
        assert_eq!(wal.first(), Position(8 << 16));
        let wal = Arc::into_inner(wal).unwrap();
        let durable = *wal.durable().borrow();
        let entries = read_from(wal, Position(8 << 16)).await;
        assert_eq!(entries.last().unwrap().next, durable.position());
    });
}

#[test]
fn names_of_others_are_left_alone() {
    block_on(async {
        let site = Site::new();
        let wal = site.open().await;
        let mut compute = Compute::attach(&wal).await;
        compute.write(&wal, 4).await;
        wal.close().await.unwrap();
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
        let wal = site.open().await;
        let first = wal.first();
        let durable = *wal.durable().borrow();
        assert_eq!((first, durable.seq()), (Position(0), FrameSeq(4)));
        wal.trim(durable.position()).unwrap();
        assert!(wal.first() > first);
        tokio::time::sleep(Duration::from_millis(50)).await;
        for name in strange {
            let path = Path::from(format!("{}/{name}", site.prefix));
            site.store.get(&path).await.unwrap();
        }
    });
}
