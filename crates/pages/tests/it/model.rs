//! Random histories against the naive model: flushes, restarts, kills.
#![allow(clippy::unwrap_used)]

use crate::common::model::Model;
use crate::common::{MemWal, catch_up, copy_dir, open, small};
use rand::{Rng, SeedableRng};
use xylem_pages::{ReadAt, StoreConfig};

fn run(seed: u64, steps: usize, configure: impl Fn(&mut StoreConfig)) {
    let root = tempfile::tempdir().unwrap();
    let mut dirs = 0;
    let mut dir = root.path().join("0");
    let wal = MemWal::new();
    let mut model = Model::new(rand::rngs::StdRng::seed_from_u64(seed), wal.clone());
    let config = || {
        let mut c = small();
        c.trim_wal = false;
        configure(&mut c);
        c
    };
    let mut branch = open(config(), &dir, &wal);
    for _ in 0..steps {
        model.step();
        match model.rng().random_range(0..400) {
            0..3 => branch.flush_now(),
            3 => {
                branch.shutdown();
                drop(branch);
                branch = open(config(), &dir, &wal);
            }
            4 => {
                // A kill: the directory as it is now, threads running.
                dirs += 1;
                let copy = root.path().join(dirs.to_string());
                copy_dir(&dir, &copy);
                drop(branch);
                std::fs::remove_dir_all(&dir).unwrap();
                dir = copy;
                branch = open(config(), &dir, &wal);
            }
            5..20 => {
                catch_up(&branch, &wal);
                model.check_random(&branch, 20);
            }
            24..28 => branch.compact_now().unwrap(),
            20..24 => {
                catch_up(&branch, &wal);
                model.check_files(&branch, ReadAt::Newest);
                model.check_spaces(&branch, ReadAt::Newest);
            }
            _ => {}
        }
        assert_eq!(branch.failed(), None);
    }
    model.check_all(&branch, 1.max(steps / 300));
    branch.flush_now();
    branch.compact_now().unwrap();
    model.check_all(&branch, 1.max(steps / 300));
    drop(branch);
    let branch = open(config(), &dir, &wal);
    model.check_all(&branch, 1.max(steps / 300));
}

#[test]
fn every_page_at_every_lsn() {
    for seed in 0..4 {
        run(seed, 600, |_| {});
    }
}

#[test]
fn long_history_in_small_layers() {
    run(100, 6000, |c| c.open_layer_bytes = 16 << 10);
}

#[test]
fn no_images() {
    run(200, 1500, |c| {
        c.image_after_bytes = u64::MAX;
        c.image_after_mtrs = u32::MAX;
    });
}

#[test]
fn tiny_memory() {
    run(300, 2000, |c| {
        c.memory_bytes = 1 << 20;
        c.open_layer_bytes = 8 << 10;
    });
}

#[test]
fn a_trimmed_wal_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    let mut model = Model::new(rand::rngs::StdRng::seed_from_u64(7), wal.clone());
    let mut branch = open(small(), dir.path(), &wal);
    for step in 0..3000 {
        model.step();
        if step % 150 == 149 {
            branch.flush_now();
            drop(branch);
            branch = open(small(), dir.path(), &wal);
        }
    }
    model.check_all(&branch, 37);
}
