//! Helpers that the tests share.
#![allow(clippy::unwrap_used)]

use object_store::ObjectStore;
use std::sync::Arc;
use xylem_objects::testing::{Faulty, quick};
use xylem_objects::{Bucket, BucketConfig};

/// Quick retries and small parts.
pub fn config() -> BucketConfig {
    BucketConfig {
        retry: quick(),
        part_bytes: 64 << 10,
        ..BucketConfig::default()
    }
}

pub fn bucket_of(store: impl ObjectStore) -> Bucket {
    Bucket::with_store(Arc::new(store), "test://", config()).unwrap()
}

/// A bucket in memory that fails as told.
pub fn faulty(seed: u64) -> (Faulty, Bucket) {
    let faulty = Faulty::in_memory(seed);
    let bucket = bucket_of(faulty.clone());
    (faulty, bucket)
}

/// Bytes that tell where they belong.
pub fn content(len: usize, salt: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8 ^ salt as u8)
        .collect()
}

/// A file with these bytes.
pub fn file_of(bytes: &[u8]) -> std::fs::File {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}
