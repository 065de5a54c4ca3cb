//! Opens the store that a URL names.

use crate::error::ServerError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_objects::{Bucket, BucketConfig, CacheConfig, DiskCache};
use xylem_pages::place::{LocalPlace, ObjectPlace, Place};

/// URL schemes of object stores.
const REMOTE: [&str; 4] = ["s3://", "gs://", "az://", "azure://"];

/// The default limit of local copies of a remote store's objects, in bytes.
pub const CACHE_BYTES: u64 = 10 << 30;

/// The URL of a data directory's default store.
pub fn default_url(data_dir: &Path) -> String {
    format!("file://{}", data_dir.join("store").display())
}

/// Checks that `url` can name a store.
///
/// # Errors
/// The message says which URLs can.
pub fn check(url: &str) -> Result<(), String> {
    if is_remote(url) {
        return Ok(());
    }
    directory(url).map(|_| ())
}

/// Whether `url` names a store that is reached over the network.
pub fn is_remote(url: &str) -> bool {
    REMOTE.iter().any(|scheme| url.starts_with(scheme))
}

/// Opens the store that `url` names. A remote store is cached in `data_dir`, in at most
/// `cache_bytes`. Blocking.
///
/// # Errors
/// The URL is invalid, another process has the store or the cache open, or an I/O
/// operation fails.
pub fn open(url: &str, data_dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Place>, ServerError> {
    let failed = |source| ServerError::io(format!("cannot open the store {url}"), source);
    if is_remote(url) {
        return Ok(Arc::new(
            remote(url, data_dir, cache_bytes).map_err(failed)?,
        ));
    }
    let dir =
        directory(url).map_err(|why| failed(io::Error::new(io::ErrorKind::InvalidInput, why)))?;
    Ok(Arc::new(LocalPlace::open(&dir).map_err(failed)?))
}

fn remote(url: &str, data_dir: &Path, cache_bytes: u64) -> io::Result<ObjectPlace> {
    let bucket = Bucket::open(url, BucketConfig::default())?;
    // Without conditional creates, two servers could both own a manifest.
    bucket.check().map_err(io::Error::other)?;
    let config = CacheConfig {
        max_bytes: cache_bytes,
        ..CacheConfig::default()
    };
    let cache = DiskCache::open(&data_dir.join("cache"), config, bucket)?;
    Ok(ObjectPlace::new(cache))
}

fn directory(url: &str) -> Result<PathBuf, String> {
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err(
            "use the URL of a directory, such as file:///srv/xylem/store, or of an object store: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX"
                .to_owned(),
        ),
    }
}
