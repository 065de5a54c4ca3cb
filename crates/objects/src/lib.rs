//! Object stores: opening by URL, create-if-absent, retries, a cache on local disk.
//!
//! A [`Bucket`] is a place in an object store, for threads; [`Objects`] is the
//! same for async callers. See docs/object-storage.md.

mod attempts;
mod bucket;
pub mod cache;
mod check;
mod error;
mod objects;
mod open;
mod place;
mod retry;
#[cfg(feature = "testing")]
pub mod testing;
mod trouble;
mod upload;

pub use bucket::Bucket;
pub use cache::{CacheConfig, CacheStats, CacheWriter, CachedObject, DiskCache};
pub use check::CheckError;
pub use error::{ObjectError, Reason, outcome_unknown};
pub use objects::{Created, Objects};
pub use open::{BucketConfig, OpenError};
pub use place::BucketStats;
pub use retry::{GiveUp, Retry, Waits};
pub use trouble::Trouble;
pub use upload::Upload;
