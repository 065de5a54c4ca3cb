//! Requests to an object store, for async callers: each one is tried until it
//! is done, or cannot be, or the time is over.

use crate::error::{Failure, ObjectError, Reason};
use crate::open::{self, BucketConfig, OpenError, Opened};
use crate::retry::Backoff;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Runtime;

/// What came of creating an object only if it is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there, and durable.
    Done,
    /// Something else has the name; nothing was changed.
    Exists,
}

/// What was asked of the store so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketStats {
    /// Attempts made; parts of large uploads count each, not their retries.
    pub requests: u64,
    /// Of these, the ones that came after a failed one.
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
    retries: AtomicU64,
    failures: AtomicU64,
    read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// The runtime that connections live on. It is let go without waiting, so
/// that its owner may be dropped anywhere.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    local: Option<PathBuf>,
    config: BucketConfig,
    counters: Counters,
    handle: tokio::runtime::Handle,
    _runtime: Background,
}

/// A place in an object store, for async callers. Clones are the same place.
///
/// Names are paths below the place's prefix, such as `branches/0123…/x`. An
/// object is written once, whole, and never changed.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("xylem-objects")
        .enable_all()
        .build()
}

impl Objects {
    pub(crate) fn open(url: &str, config: BucketConfig) -> Result<Objects, OpenError> {
        let runtime = runtime().map_err(|source| OpenError::Io {
            url: url.to_owned(),
            source,
        })?;
        let opened = open::open(url, &config, runtime.handle())?;
        Ok(Objects::new(opened, config, runtime))
    }

    pub(crate) fn with_store(
        store: Arc<dyn ObjectStore>,
        url: &str,
        config: BucketConfig,
    ) -> std::io::Result<Objects> {
        let opened = Opened {
            store,
            prefix: Path::default(),
            url: url.to_owned(),
            local: None,
        };
        Ok(Objects::new(opened, config, runtime()?))
    }

    fn new(opened: Opened, config: BucketConfig, runtime: Runtime) -> Objects {
        Objects {
            inner: Arc::new(Inner {
                store: opened.store,
                prefix: opened.prefix,
                url: opened.url,
                local: opened.local,
                config,
                counters: Counters::default(),
                handle: runtime.handle().clone(),
                _runtime: Background(Some(runtime)),
            }),
        }
    }

    /// What it is, for people: a URL without settings and secrets.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// The store itself. Nothing is tried again there.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.store
    }

    /// How it was opened.
    pub fn config(&self) -> &BucketConfig {
        &self.inner.config
    }

    /// The runtime that its connections live on.
    pub fn handle(&self) -> &tokio::runtime::Handle {
        &self.inner.handle
    }

    /// What was asked of the store so far.
    pub fn stats(&self) -> BucketStats {
        let c = &self.inner.counters;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        BucketStats {
            requests: get(&c.requests),
            retries: get(&c.retries),
            failures: get(&c.failures),
            read_bytes: get(&c.read_bytes),
            written_bytes: get(&c.written_bytes),
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Where `name` is in the store.
    pub fn path(&self, name: &str) -> Path {
        name.split('/')
            .filter(|part| !part.is_empty())
            .fold(self.inner.prefix.clone(), |path, part| path.join(part))
    }

    fn folder_path(&self, name: &str) -> Option<Path> {
        Some(self.path(name)).filter(|path| !path.as_ref().is_empty())
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.inner.config.retry)
    }

    pub(crate) fn error(
        &self,
        operation: &'static str,
        name: &str,
        backoff: &Backoff,
        failure: Failure,
        outcome_unknown: bool,
    ) -> ObjectError {
        let (reason, source) = match failure {
            Failure::Transient { source, .. } => (Reason::Unavailable, source),
            Failure::Final { reason, source } => (reason, source),
        };
        if !matches!(reason, Reason::NotFound | Reason::Exists) {
            add(&self.inner.counters.failures, 1);
        }
        ObjectError {
            reason,
            operation,
            url: self.inner.url.clone(),
            name: name.to_owned(),
            attempts: backoff.attempts,
            elapsed: backoff.elapsed(),
            outcome_unknown,
            source,
        }
    }

    /// One attempt with a time limit.
    pub(crate) async fn attempt<T>(
        &self,
        backoff: &mut Backoff,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        backoff.attempts += 1;
        add(&self.inner.counters.requests, 1);
        if backoff.attempts > 1 {
            add(&self.inner.counters.retries, 1);
        }
        let limit = self.inner.config.retry.attempt_timeout;
        match tokio::time::timeout(limit, request).await {
            Ok(result) => result,
            Err(_) => Err(Failure::timeout(limit)),
        }
    }

    /// Waits before the next attempt; answers the failure back when there is
    /// none.
    pub(crate) async fn wait(
        &self,
        backoff: &mut Backoff,
        failure: Failure,
    ) -> Result<(), Failure> {
        let Failure::Transient { source, .. } = &failure else {
            return Err(failure);
        };
        let Some(wait) = backoff.next_wait() else {
            return Err(failure);
        };
        // One that is tried for long is worth a look before it fails.
        if backoff.attempts == 4 {
            tracing::warn!(
                url = %self.inner.url, error = %source, attempts = backoff.attempts,
                "the object store does not do what it is asked; trying on"
            );
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// Tries until it is done. For what may be done twice.
    pub(crate) async fn retried<T, F>(
        &self,
        operation: &'static str,
        name: &str,
        mut request: impl FnMut() -> F,
    ) -> Result<T, ObjectError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut backoff = self.backoff();
        loop {
            let failure = match self.attempt(&mut backoff, request()).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if let Err(failure) = self.wait(&mut backoff, failure).await {
                return Err(self.error(operation, name, &backoff, failure, false));
            }
        }
    }

    /// The object's size in bytes.
    ///
    /// # Errors
    /// [`Reason::NotFound`], or when the store does not answer.
    pub async fn size(&self, name: &str) -> Result<u64, ObjectError> {
        let path = self.path(name);
        self.retried("look up", name, || async {
            Ok(self.inner.store.head(&path).await?.size)
        })
        .await
    }

    /// A whole object.
    ///
    /// # Errors
    /// [`Reason::NotFound`], or when the store does not answer.
    pub async fn get(&self, name: &str) -> Result<Bytes, ObjectError> {
        let path = self.path(name);
        self.retried("get", name, || self.get_once(&path, None))
            .await
    }

    /// The bytes of `range`, all of them.
    ///
    /// # Errors
    /// [`Reason::TooShort`] when the object ends before; [`Reason::NotFound`],
    /// or when the store does not answer.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, ObjectError> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = self.path(name);
        self.retried("get", name, || self.get_once(&path, Some(range.clone())))
            .await
    }

    async fn get_once(&self, path: &Path, range: Option<Range<u64>>) -> Result<Bytes, Failure> {
        let options = GetOptions {
            range: range.clone().map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let result = match self.inner.store.get_opts(path, options).await {
            Ok(result) => result,
            Err(e) => {
                let failure = Failure::from(e);
                // Stores say in different ways that a range begins after the end.
                if let (Failure::Final { reason, .. }, Some(range)) = (&failure, &range)
                    && *reason == Reason::Refused
                {
                    self.check_size(path, range).await?;
                }
                return Err(failure);
            }
        };
        if let Some(range) = range
            && result.range != range
        {
            return Err(too_short(&range, result.meta.size));
        }
        let wanted = result.range.end - result.range.start;
        let bytes = result.bytes().await?;
        add(&self.inner.counters.read_bytes, bytes.len() as u64);
        if bytes.len() as u64 != wanted {
            return Err(Failure::Transient {
                source: format!("{} of {wanted} bytes arrived", bytes.len()).into(),
                sent: false,
            });
        }
        Ok(bytes)
    }

    async fn check_size(&self, path: &Path, range: &Range<u64>) -> Result<(), Failure> {
        let size = self.inner.store.head(path).await?.size;
        match size < range.end {
            true => Err(too_short(range, size)),
            false => Ok(()),
        }
    }

    /// Names and sizes of the objects directly in `folder`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list(&self, folder: &str) -> Result<Vec<(String, u64)>, ObjectError> {
        let path = self.folder_path(folder);
        self.retried("list", folder, || async {
            let found = self.inner.store.list_with_delimiter(path.as_ref()).await?;
            Ok(found
                .objects
                .into_iter()
                // Some stores list the folder itself.
                .filter(|meta| Some(&meta.location) != path.as_ref())
                .filter_map(|meta| Some((meta.location.filename()?.to_owned(), meta.size)))
                .collect())
        })
        .await
    }

    /// Names of the objects directly in `folder` that come after `name`. Stores
    /// that list in order answer with these alone.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_after(&self, folder: &str, name: &str) -> Result<Vec<String>, ObjectError> {
        let path = self.folder_path(folder);
        let after = self.path(&format!("{folder}/{name}"));
        let depth = after.parts().count();
        self.retried("list", folder, || async {
            let found = self.inner.store.list_with_offset(path.as_ref(), &after);
            let found: Vec<ObjectMeta> = found.try_collect().await?;
            Ok(found
                .into_iter()
                .filter(|meta| meta.location.parts().count() == depth)
                .filter_map(|meta| Some(meta.location.filename()?.to_owned()))
                .collect())
        })
        .await
    }

    /// Names of the folders directly in `folder`. Those whose last object is
    /// gone may be among them for a while.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn folders(&self, folder: &str) -> Result<Vec<String>, ObjectError> {
        let path = self.folder_path(folder);
        self.retried("list", folder, || async {
            let found = self.inner.store.list_with_delimiter(path.as_ref()).await?;
            Ok(found
                .common_prefixes
                .into_iter()
                .filter_map(|path| Some(path.filename()?.to_owned()))
                .collect())
        })
        .await
    }

    /// Names, relative to `folder`, and sizes of all objects below it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list_below(&self, folder: &str) -> Result<Vec<(String, u64)>, ObjectError> {
        let path = self.folder_path(folder);
        self.retried("list", folder, || async {
            let found = self.below(path.as_ref()).await?;
            let start = path.as_ref().map_or(0, |p| p.as_ref().len() + 1);
            Ok(found
                .into_iter()
                .filter_map(|meta| {
                    let name = meta.location.as_ref().get(start..)?;
                    Some((name.to_owned(), meta.size))
                })
                .collect())
        })
        .await
    }

    async fn below(&self, path: Option<&Path>) -> Result<Vec<ObjectMeta>, Failure> {
        Ok(self.inner.store.list(path).try_collect().await?)
    }

    /// Creates an object unless the name is taken.
    ///
    /// An attempt whose outcome is not known is made again, and when the name
    /// turns out to be taken, what has it is read: if it holds `bytes`, it is
    /// ours. So let no two writers write equal bytes under one name.
    ///
    /// # Errors
    /// When the store does not answer or refuses. If
    /// [`ObjectError::outcome_unknown`], the object may be there or appear
    /// later; the same call with the same bytes settles it.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<Created, ObjectError> {
        let path = self.path(name);
        let mut backoff = self.backoff();
        let mut unknown = false;
        loop {
            let put = self.put_once(&path, bytes.clone());
            let failure = match self.attempt(&mut backoff, put).await {
                Ok(created) => return Ok(created),
                Err(failure) => failure,
            };
            unknown |= match &failure {
                Failure::Transient { sent, .. } => *sent,
                // A directory may have taken it and then failed to sync.
                Failure::Final { reason, .. } => {
                    self.inner.local.is_some() && *reason == Reason::Refused
                }
            };
            if let Err(failure) = self.wait(&mut backoff, failure).await {
                return Err(self.error("create", name, &backoff, failure, unknown));
            }
        }
    }

    async fn put_once(&self, path: &Path, bytes: Bytes) -> Result<Created, Failure> {
        let payload = PutPayload::from_bytes(bytes.clone());
        let put = self
            .inner
            .store
            .put_opts(path, payload, PutMode::Create.into());
        match put.await.map_err(Failure::from) {
            Ok(_) => {
                add(&self.inner.counters.written_bytes, bytes.len() as u64);
                return Ok(Created::Done);
            }
            Err(Failure::Final {
                reason: Reason::Exists,
                ..
            }) => {}
            Err(failure) => return Err(failure),
        }
        let held = match self.inner.store.head(path).await {
            Ok(meta) if meta.size != bytes.len() as u64 => return Ok(Created::Exists),
            Ok(_) => self.get_once(path, None).await,
            Err(e) => Err(e.into()),
        };
        match held {
            Ok(held) if held == bytes => Ok(Created::Done),
            Ok(_) => Ok(Created::Exists),
            // S3 answers "conflict" while another is at it, who may yet fail.
            Err(Failure::Final {
                reason: Reason::NotFound,
                source,
            }) => Err(Failure::Transient {
                source: format!("the name was taken, but nothing has it: {source}").into(),
                sent: false,
            }),
            Err(failure) => Err(failure),
        }
    }

    /// Removes an object. One that is not there is no error.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let path = self.path(name);
        self.retried("delete", name, || async {
            match self.inner.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(e.into()),
            }
        })
        .await
    }

    /// Removes all objects below `folder`. It may leave some behind on an
    /// error; called again it goes on.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn delete_folder(&self, folder: &str) -> Result<(), ObjectError> {
        let path = self.folder_path(folder);
        let found = self
            .retried("list", folder, || self.below(path.as_ref()))
            .await?;
        // An attempt has a time limit, so it is one request's worth.
        for some in found.chunks(500) {
            let left: Mutex<BTreeSet<Path>> =
                Mutex::new(some.iter().map(|m| m.location.clone()).collect());
            self.retried("delete", folder, || self.delete_all(&left))
                .await?;
        }
        self.forget_directory(folder).await
    }

    /// Deletes what is `left`, and takes out what was deleted.
    async fn delete_all(&self, left: &Mutex<BTreeSet<Path>>) -> Result<(), Failure> {
        let paths: Vec<_> = left.lock().iter().cloned().map(Ok).collect();
        let mut done = self
            .inner
            .store
            .delete_stream(futures::stream::iter(paths).boxed());
        let mut failed = None;
        while let Some(one) = done.next().await {
            match one {
                Ok(path) => {
                    left.lock().remove(&path);
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => failed = Some(e),
            }
        }
        failed.map_or(Ok(()), |e| Err(e.into()))
    }

    /// A directory may hold what uploads left that were cut off.
    async fn forget_directory(&self, folder: &str) -> Result<(), ObjectError> {
        let Some(dir) = &self.inner.local else {
            return Ok(());
        };
        let dir = dir.join(self.path(folder).as_ref());
        self.retried("delete", folder, || async {
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::Final {
                    reason: Reason::Refused,
                    source: e.into(),
                }),
                _ => Ok(()),
            }
        })
        .await
    }
}

fn too_short(range: &Range<u64>, size: u64) -> Failure {
    Failure::last(
        Reason::TooShort,
        format!(
            "bytes {} to {} are wanted, but it has {size}",
            range.start, range.end
        ),
    )
}
