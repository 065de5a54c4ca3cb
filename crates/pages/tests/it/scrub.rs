//! The scrub finds whatever is wrong with a store that nobody has open.
#![allow(clippy::unwrap_used)]

use crate::common::care::{clean, collect, scrub};
use crate::common::model::Model;
use crate::common::{BRANCH, MemWal, branch_dir, catch_up, copy_dir, open, place, small};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xylem_ambient::Entropy;
use xylem_pages::ReadAt;
use xylem_pages::place::ReadOnlyPlace;
use xylem_pages::scrub::{FindingKind, ScrubEvent, ScrubOptions, probe, scrub_place};
use xylem_types::BranchId;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v3")
}

/// A branch with some flushes, merged in part.
fn made(dir: &Path, seed: u64) {
    made_in_steps(dir, seed, 60);
}

/// The same with so many steps of the model for each flush.
fn made_in_steps(dir: &Path, seed: u64, steps: u32) {
    let wal = MemWal::new();
    let mut model = Model::new(StdRng::seed_from_u64(seed), wal.clone());
    let branch = open(small(), dir, &wal);
    for flush in 0..9 {
        for _ in 0..steps {
            model.step();
        }
        model.send_all();
        catch_up(&branch, &wal);
        branch.flush_now();
        if flush == 6 {
            branch.compact_now().unwrap();
        }
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(branch_dir(dir))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn newest_manifest(names: &[String]) -> String {
    let manifests = names.iter().filter(|n| n.starts_with("manifest-"));
    manifests.max().unwrap().clone()
}

/// Damage that a scrub finds, as file and words.
fn damage(dir: &Path) -> Vec<(String, String)> {
    let (report, findings) = scrub(dir);
    let found: Vec<_> = findings.iter().filter(|f| f.is_damage()).collect();
    assert_eq!(report.damage, found.len() as u64);
    assert_eq!(report.is_clean(), found.is_empty());
    found
        .iter()
        .map(|f| (f.file.clone(), f.message.clone()))
        .collect()
}

#[test]
fn what_is_written_is_clean() {
    clean(&golden());
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 1);
    clean(dir.path());
    let (report, _) = scrub(dir.path());
    let bytes: u64 = std::fs::read_dir(branch_dir(dir.path()))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name().to_str().unwrap().ends_with(".layer"))
        .map(|e| e.metadata().unwrap().len())
        .sum();
    assert_eq!(report.progress.bytes, bytes);
    // Every byte of the layers once, and the manifests.
    let manifests = report.progress.bytes_done - bytes;
    assert!(manifests > 0 && manifests < bytes, "{report:?}");
}

#[test]
fn every_flipped_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    copy_dir(&golden(), dir.path());
    let mut rng = StdRng::seed_from_u64(2);
    for name in names(dir.path()) {
        let path = branch_dir(dir.path()).join(&name);
        let bytes = std::fs::read(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            file.write_all_at(&[byte ^ 1 << rng.random_range(0..8)], at as u64)
                .unwrap();
            let found = damage(dir.path());
            assert!(
                found.iter().any(|(file, _)| *file == name),
                "{name} byte {at}: {found:?}"
            );
            file.write_all_at(&[*byte], at as u64).unwrap();
        }
    }
    clean(dir.path());
}

#[test]
fn flipped_bytes_of_larger_files_are_found_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 3);
    let mut rng = StdRng::seed_from_u64(4);
    for name in names(dir.path()) {
        let path = branch_dir(dir.path()).join(&name);
        let bytes = std::fs::read(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for _ in 0..40 {
            let at = rng.random_range(0..bytes.len());
            file.write_all_at(&[bytes[at] ^ 1 << rng.random_range(0..8)], at as u64)
                .unwrap();
            let found = damage(dir.path());
            assert!(
                found.iter().any(|(file, _)| *file == name),
                "{name} byte {at}: {found:?}"
            );
            // One bad block says nothing about the others.
            assert!(found.iter().all(|(file, _)| *file == name), "{found:?}");
            file.write_all_at(&[bytes[at]], at as u64).unwrap();
        }
    }
}

#[test]
fn several_bad_blocks_of_a_layer_are_all_told() {
    let dir = tempfile::tempdir().unwrap();
    made_in_steps(dir.path(), 5, 300);
    let layers = names(dir.path()).into_iter();
    let path = |n: &String| branch_dir(dir.path()).join(n);
    let largest = layers
        .filter(|n| n.ends_with(".layer"))
        .max_by_key(|n| std::fs::metadata(path(n)).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(path(&largest)).unwrap();
    for at in [100, 20_000, 40_000] {
        bytes[at] ^= 1;
    }
    std::fs::write(path(&largest), &bytes).unwrap();
    let found = damage(dir.path());
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|(_, what)| what.contains("CRC-32C")));
}

#[test]
fn a_missing_file_is_found() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 6);
    let all = names(dir.path());
    let newest = newest_manifest(&all);
    for name in all.iter().filter(|n| **n != newest) {
        let path = branch_dir(dir.path()).join(name);
        let away = dir.path().join("away");
        std::fs::rename(&path, &away).unwrap();
        let (_, findings) = scrub(dir.path());
        let found = findings.iter().find(|f| f.file == *name);
        let kind = found.map(|f| f.kind);
        assert_eq!(kind, Some(FindingKind::Missing), "{name}: {findings:?}");
        std::fs::rename(&away, &path).unwrap();
    }
    // Without the newest manifest the one before it counts. Here it is the
    // edit that added a flush's layers, which nothing names then.
    std::fs::remove_file(branch_dir(dir.path()).join(newest)).unwrap();
    let (report, findings) = scrub(dir.path());
    assert!(report.damage > 0 || report.orphans > 0, "{findings:?}");
    // Without any there is nothing to go by.
    for name in all.iter().filter(|n| n.starts_with("manifest-")) {
        let _ = std::fs::remove_file(branch_dir(dir.path()).join(name));
    }
    let found = damage(dir.path());
    assert!(found[0].1.contains("no manifest"), "{found:?}");
}

#[test]
fn swapped_files_are_found() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 7);
    let all = names(dir.path());
    for pair in all.windows(2) {
        let [a, b] = [&pair[0], &pair[1]].map(|n| branch_dir(dir.path()).join(n));
        let (x, y) = (std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        std::fs::write(&a, &y).unwrap();
        std::fs::write(&b, &x).unwrap();
        assert!(!damage(dir.path()).is_empty(), "{pair:?}");
        std::fs::write(&a, &x).unwrap();
        std::fs::write(&b, &y).unwrap();
    }
    clean(dir.path());
    // The same number of another branch, in the very same place.
    let other = tempfile::tempdir().unwrap();
    let from = branch_dir(&golden());
    let folder = other.path().join("branches").join(BranchId(9).to_string());
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let found = damage(other.path());
    assert!(found[0].1.contains("another branch's"), "{found:?}");
}

#[test]
fn a_file_of_another_length_is_found() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 8);
    for name in names(dir.path()) {
        let path = branch_dir(dir.path()).join(&name);
        let bytes = std::fs::read(&path).unwrap();
        for len in [0, 1, 63, 64, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..len.min(bytes.len() - 1)]).unwrap();
            let found = damage(dir.path());
            assert!(found.iter().any(|(file, _)| *file == name), "{name} {len}");
        }
        std::fs::write(&path, [&bytes[..], b"x"].concat()).unwrap();
        let found = damage(dir.path());
        assert!(found.iter().any(|(file, _)| *file == name), "{name}");
        std::fs::write(&path, &bytes).unwrap();
    }
}

#[test]
fn what_nothing_names_is_told_and_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 9);
    let leftovers = [
        "00000000000000ff-0123456789abcdef.layer",
        "manifest-0000000000000400.tmp",
        "notes.txt",
    ];
    for name in leftovers {
        std::fs::write(branch_dir(dir.path()).join(name), "?").unwrap();
    }
    let (report, findings) = scrub(dir.path());
    assert!(report.is_clean());
    let mut found: Vec<&str> = findings.iter().map(|f| f.file.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, leftovers);
    assert!(findings.iter().all(|f| f.kind == FindingKind::Orphan));
    let told = |name: &str| {
        let found = findings.iter().find(|f| f.file == name).unwrap();
        found.message.contains("next start")
    };
    assert!(told(leftovers[0]) && told(leftovers[1]) && !told(leftovers[2]));
    // The next start does as was said.
    drop(open(small(), dir.path(), &MemWal::new()));
    let (_, findings) = scrub(dir.path());
    assert_eq!(findings.len(), 1, "{findings:?}");
}

#[test]
fn a_branch_needs_the_one_it_left() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 10);
    {
        let wal = MemWal::new();
        let branch = open(small(), dir.path(), &wal);
        branch.fork(BranchId(7), ReadAt::Newest).unwrap();
    }
    clean(dir.path());
    let only = |ids: &[BranchId]| {
        let place = ReadOnlyPlace::open(dir.path()).unwrap();
        let options = ScrubOptions {
            branches: Some(ids.to_vec()),
            ..ScrubOptions::default()
        };
        collect(|tell| scrub_place(&place, &options, tell).unwrap())
    };
    // An ancestor that is not itself asked for is looked up.
    let (report, findings) = only(&[BranchId(7)]);
    assert_eq!((report.damage, report.orphans), (0, 1), "{findings:?}");
    let (_, findings) = only(&[BRANCH, BranchId(7), BranchId(8)]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].branch, findings[0].kind),
        (BranchId(8), FindingKind::Missing)
    );
    std::fs::remove_dir_all(branch_dir(dir.path())).unwrap();
    let (_, findings) = scrub(dir.path());
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].branch, BranchId(7));
    assert!(findings[0].message.contains(&BRANCH.to_string()));
}

#[test]
fn it_keeps_to_a_rate_and_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    made(dir.path(), 11);
    let place = ReadOnlyPlace::open(dir.path()).unwrap();
    let bytes = scrub(dir.path()).0.progress.bytes_done;
    let options = ScrubOptions {
        bytes_per_second: bytes * 2,
        ..ScrubOptions::default()
    };
    let begin = Instant::now();
    let mut last = 0;
    let report = scrub_place(&place, &options, &mut |event| {
        if let ScrubEvent::Progress(p) = event {
            assert!(p.bytes_done >= last && p.layers_done <= p.layers);
            last = p.bytes_done;
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(report.is_clean());
    assert!(begin.elapsed() >= Duration::from_millis(400), "too fast");
    // Slow, and stopped at once.
    let options = ScrubOptions {
        bytes_per_second: 1,
        ..ScrubOptions::default()
    };
    let begin = Instant::now();
    let report = scrub_place(&place, &options, &mut |event| match event {
        ScrubEvent::Progress(p) if p.bytes_done > 0 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .unwrap();
    assert!(report.stopped && !report.is_clean());
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_place_is_probed_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(dir.path());
    probe::probe(&*place, &Entropy::system()).unwrap();
    assert!(place.folders("check").unwrap().is_empty());
    let place = ReadOnlyPlace::open(dir.path()).unwrap();
    let refused = probe::probe(&place, &Entropy::system()).unwrap_err();
    assert!(refused.to_string().contains("cannot"), "{refused}");
}
