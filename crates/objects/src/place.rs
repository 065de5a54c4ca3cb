//! A place in a store, its counters and its trouble.

use crate::open::{BucketConfig, Opened};
use crate::retry::Retry;
use crate::trouble::Watch;
use object_store::ObjectStore;
use object_store::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::{Handle, Runtime};

/// The requests made so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketStats {
    /// Attempts made; parts of large uploads count each, not their retries.
    pub requests: u64,
    /// Attempts that followed a failed one.
    pub retries: u64,
    /// Operations that failed for good.
    pub failures: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) requests: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn read(&self) -> BucketStats {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        BucketStats {
            requests: get(&self.requests),
            retries: get(&self.retries),
            failures: get(&self.failures),
            read_bytes: get(&self.read_bytes),
            written_bytes: get(&self.written_bytes),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// The runtime that connections live on. It is shut down without waiting, so
/// that its owner may be dropped anywhere.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A store, shared by all places in it.
pub(crate) struct Store {
    pub(crate) api: Arc<dyn ObjectStore>,
    /// The directory, when it is one.
    pub(crate) local: Option<PathBuf>,
    pub(crate) config: BucketConfig,
    pub(crate) counters: Counters,
    pub(crate) handle: Handle,
    _runtime: Background,
}

/// A folder of a store, with the policy that its requests follow.
pub(crate) struct Place {
    pub(crate) store: Arc<Store>,
    pub(crate) prefix: Path,
    /// For people: without settings and secrets.
    pub(crate) url: String,
    pub(crate) retry: Retry,
    pub(crate) trouble: Watch,
}

impl Place {
    /// The place that a URL names. `runtime`, if given, ends with the store.
    pub(crate) fn opened(
        opened: Opened,
        config: BucketConfig,
        handle: Handle,
        runtime: Option<Runtime>,
    ) -> Place {
        Place {
            prefix: opened.prefix,
            url: opened.url,
            retry: config.retry,
            trouble: Watch::default(),
            store: Arc::new(Store {
                api: opened.store,
                local: opened.local,
                config,
                counters: Counters::default(),
                handle,
                _runtime: Background(runtime),
            }),
        }
    }

    /// The folder `name` of this one, which has trouble of its own.
    pub(crate) fn folder(&self, name: &str, retry: Retry) -> Place {
        Place {
            store: Arc::clone(&self.store),
            prefix: self.path(name),
            url: self.name_of(name),
            retry,
            trouble: Watch::default(),
        }
    }

    /// Where `name` is in the store.
    pub(crate) fn path(&self, name: &str) -> Path {
        name.split('/')
            .filter(|part| !part.is_empty())
            .fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// The URL of `name`.
    pub(crate) fn name_of(&self, name: &str) -> String {
        match name.trim_matches('/') {
            "" => self.url.clone(),
            name => format!("{}/{name}", self.url.trim_end_matches('/')),
        }
    }
}
