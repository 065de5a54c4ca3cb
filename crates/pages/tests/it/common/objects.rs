//! Places in object stores, for tests.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_objects::testing::{Faulty, quick};
use xylem_objects::{Bucket, BucketConfig, CacheConfig, DiskCache};
use xylem_pages::place::ObjectPlace;

pub fn config() -> BucketConfig {
    BucketConfig {
        retry: quick(),
        part_bytes: 32 << 10,
        ..BucketConfig::default()
    }
}

pub fn bucket_of(faulty: &Faulty) -> Bucket {
    Bucket::with_store(Arc::new(faulty.clone()), "test://", config()).unwrap()
}

/// A place behind a cache in `cache_dir`.
pub fn place(bucket: Bucket, cache_dir: &Path, max_bytes: u64) -> ObjectPlace {
    let config = CacheConfig {
        max_bytes,
        chunk_bytes: 4096,
        fetch_bytes: 32 << 10,
        ..CacheConfig::default()
    };
    // The last life's readers may hold the directory a moment longer.
    let begin = Instant::now();
    loop {
        match DiskCache::open(cache_dir, config, bucket.clone()) {
            Ok(cache) => return ObjectPlace::new(cache),
            Err(e) => assert!(begin.elapsed() < Duration::from_secs(10), "{e}"),
        }
        std::thread::yield_now();
    }
}

/// Waits until what a dead server has sent late is there, or never will be.
pub fn settle() {
    #[allow(clippy::disallowed_methods, reason = "requests are under way")]
    std::thread::sleep(Duration::from_millis(25));
}
