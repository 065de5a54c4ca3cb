//! The store that a URL names: where everything durable of a project lives.

use crate::error::ServerError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_objects::{Bucket, BucketConfig, CacheConfig, DiskCache};
use xylem_pages::place::{LocalPlace, ObjectPlace, Place};

/// URLs of stores that are not a directory.
const REMOTE: [&str; 4] = ["s3://", "gs://", "az://", "azure://"];

/// Bytes of local disk that copies of a remote store's objects may take.
pub const CACHE_BYTES: u64 = 10 << 30;

/// The URL of the store that a data directory has when nobody says otherwise.
pub fn default_url(data_dir: &Path) -> String {
    format!("file://{}", data_dir.join("store").display())
}

/// Whether `url` can name a store.
///
/// # Errors
/// Says what can.
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

/// Opens the store that `url` names. One that is remote is cached in
/// `data_dir`, in at most `cache_bytes`. Blocking.
///
/// # Errors
/// When the URL makes no sense, another process has the store or the cache
/// open, or as the system or the store says.
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
    // Two servers must not both believe that a manifest is theirs.
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
