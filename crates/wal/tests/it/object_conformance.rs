//! The WAL in an object store passes the suite: in memory, in a directory,
//! over a wire that delays and loses requests, and in a real store when
//! `XYLEM_TEST_S3` holds its URL.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it fails"
)]

use crate::common::net::Weather;
use crate::common::objects::{ObjectWals, conforms, fresh_prefix, real_store};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use proptest::prelude::*;
use std::sync::Arc;
use xylem_wal::conformance;

fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

#[test]
fn in_memory() {
    conforms(&memory(), Weather::calm());
}

#[test]
fn in_memory_out_of_order() {
    conforms(&memory(), Weather::wind());
}

#[test]
fn in_memory_in_a_storm() {
    conforms(&memory(), Weather::storm());
}

#[test]
fn in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    conforms(&(Arc::new(store) as Arc<dyn ObjectStore>), Weather::calm());
}

#[test]
fn in_a_real_store() {
    conforms(&real_store(), Weather::calm());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history(seed in any::<u64>(), steps in 1usize..120, storm in any::<bool>()) {
        let weather = if storm { Weather::storm() } else { Weather::wind() };
        let wals = ObjectWals::new(memory(), fresh_prefix("history"), weather);
        conformance::history(&wals, seed, steps);
    }
}
