//! Requests to an object store, for async callers. Each request is tried until
//! it succeeds, cannot succeed, or its policy gives up.

use crate::attempts::Attempts;
use crate::error::{Failure, ObjectError, Reason};
use crate::open::{self, BucketConfig, OpenError, Opened};
use crate::place::{BucketStats, Counters, Place, add};
use crate::retry::Retry;
use crate::trouble::Trouble;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::{Handle, Runtime};

/// Objects removed with one request: the most that S3 takes.
const DELETED_AT_ONCE: usize = 1000;

/// The outcome of creating an object only if it is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object exists and is durable.
    Done,
    /// Something else has the name; nothing was changed.
    Exists,
}

/// A place in an object store, for async callers. Clones are the same place.
///
/// Names are paths below the place's prefix, such as `branches/0123…/x`. An
/// object is written once, whole, and never changed.
#[derive(Clone)]
pub struct Objects {
    place: Arc<Place>,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Objects({})", self.url())
    }
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
        let handle = runtime.handle().clone();
        Ok(Objects::new(opened, config, handle, Some(runtime)))
    }

    pub(crate) fn with_store(
        store: Arc<dyn ObjectStore>,
        url: &str,
        config: BucketConfig,
    ) -> std::io::Result<Objects> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let opened = Opened::whole(store, url);
        Ok(Objects::new(opened, config, handle, Some(runtime)))
    }

    /// All of an open store, called `url`. Blocking callers and uploads run on
    /// the runtime of `handle`.
    pub fn on(
        handle: Handle,
        store: Arc<dyn ObjectStore>,
        url: &str,
        config: BucketConfig,
    ) -> Objects {
        Objects::new(Opened::whole(store, url), config, handle, None)
    }

    fn new(
        opened: Opened,
        config: BucketConfig,
        handle: Handle,
        runtime: Option<Runtime>,
    ) -> Objects {
        Objects {
            place: Arc::new(Place::opened(opened, config, handle, runtime)),
        }
    }

    /// The folder `name` of this place, which has trouble of its own. Requests
    /// there count in [`Objects::stats`] of both.
    pub fn folder(&self, name: &str) -> Objects {
        Objects {
            place: Arc::new(self.place.folder(name, self.retry())),
        }
    }

    /// The same place with trouble of its own, where requests are tried again
    /// as `retry` says.
    pub fn with_retry(&self, retry: Retry) -> Objects {
        Objects {
            place: Arc::new(self.place.folder("", retry)),
        }
    }

    /// The place's URL for messages, without settings and secrets.
    pub fn url(&self) -> &str {
        &self.place.url
    }

    /// The URL of the object or folder `name`, for people.
    pub fn name_of(&self, name: &str) -> String {
        self.place.name_of(name)
    }

    /// The store itself. Nothing is tried again there.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.place.store.api
    }

    /// How the store was opened.
    pub fn config(&self) -> &BucketConfig {
        &self.place.store.config
    }

    /// How failed requests are tried again in this place.
    pub fn retry(&self) -> Retry {
        self.place.retry
    }

    /// The runtime of connections, blocking callers and uploads.
    pub fn handle(&self) -> &Handle {
        &self.place.store.handle
    }

    /// Why requests in this place are tried again at this moment.
    pub fn trouble(&self) -> Option<Trouble> {
        self.place.trouble.now()
    }

    /// The requests made so far.
    pub fn stats(&self) -> BucketStats {
        self.counters().read()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.place.store.counters
    }

    /// Where `name` is in the store.
    pub fn path(&self, name: &str) -> Path {
        self.place.path(name)
    }

    /// `operation` on `name`, not attempted yet.
    pub(crate) fn attempts<'a>(&'a self, operation: &'static str, name: &'a str) -> Attempts<'a> {
        Attempts::new(&self.place, operation, name)
    }

    fn folder_path(&self, name: &str) -> Option<Path> {
        Some(self.path(name)).filter(|path| !path.as_ref().is_empty())
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
        let mut attempts = self.attempts(operation, name);
        loop {
            let failure = match attempts.attempt(request()).await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if let Err(failure) = attempts.wait(failure).await {
                return Err(attempts.error(failure, false));
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
            let found = self.store().head(&path).await;
            Ok(found.map_err(Failure::of_lookup)?.size)
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

    /// The first `count` bytes, or all if the object has fewer.
    ///
    /// # Errors
    /// [`Reason::NotFound`], or when the store does not answer.
    pub async fn get_first(&self, name: &str, count: u64) -> Result<Bytes, ObjectError> {
        let path = self.path(name);
        self.retried("get", name, || async {
            match self.get_once(&path, Some(0..count)).await {
                Err(Failure::Final {
                    reason: Reason::TooShort,
                    ..
                }) => self.get_once(&path, None).await,
                other => other,
            }
        })
        .await
    }

    async fn get_once(&self, path: &Path, range: Option<Range<u64>>) -> Result<Bytes, Failure> {
        let options = GetOptions {
            range: range.clone().map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let result = match self.store().get_opts(path, options).await {
            Ok(result) => result,
            Err(e) => {
                let failure = Failure::of_lookup(e);
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
        self.body(result).await
    }

    /// The bytes of an answer, all of them: fewer are a failure that passes.
    async fn body(&self, answer: GetResult) -> Result<Bytes, Failure> {
        let wanted = answer.range.end - answer.range.start;
        let bytes = answer.bytes().await?;
        add(&self.counters().read_bytes, bytes.len() as u64);
        if bytes.len() as u64 != wanted {
            return Err(Failure::Transient {
                source: format!("{} of {wanted} bytes arrived", bytes.len()).into(),
                sent: false,
            });
        }
        Ok(bytes)
    }

    async fn check_size(&self, path: &Path, range: &Range<u64>) -> Result<(), Failure> {
        let found = self.store().head(path).await;
        let size = found.map_err(Failure::of_lookup)?.size;
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
            let found = self.store().list_with_delimiter(path.as_ref()).await?;
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
            let found = self.store().list_with_offset(path.as_ref(), &after);
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
            let found = self.store().list_with_delimiter(path.as_ref()).await?;
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
        Ok(self.store().list(path).try_collect().await?)
    }

    /// Creates an object unless the name is taken.
    ///
    /// An attempt of unknown outcome is made again. When the name turns out to
    /// be taken, the object that has it is read: if it holds `bytes`, it is
    /// ours. Two writers must therefore never write equal bytes under one name.
    ///
    /// # Errors
    /// When the store does not answer or refuses. If
    /// [`ObjectError::outcome_unknown`], the object may be there or appear
    /// later; the same call with the same bytes settles it.
    pub async fn put_new(&self, name: &str, bytes: Bytes) -> Result<Created, ObjectError> {
        let path = self.path(name);
        let mut attempts = self.attempts("create", name);
        let mut unknown = false;
        loop {
            let put = attempts.attempt(self.put_once(&path, bytes.clone())).await;
            let failure = match put {
                Ok(true) => return Ok(Created::Done),
                Ok(false) => match self.settle(&path, &bytes, &mut attempts).await {
                    Ok(created) => return Ok(created),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            unknown |= match &failure {
                Failure::Transient { sent, .. } => *sent,
                // A directory may have taken it and then failed to sync.
                Failure::Final { reason, .. } => {
                    self.place.store.local.is_some() && *reason == Reason::Refused
                }
            };
            if let Err(failure) = attempts.wait(failure).await {
                return Err(attempts.error(failure, unknown));
            }
        }
    }

    /// Puts an object; false when the name is taken.
    async fn put_once(&self, path: &Path, bytes: Bytes) -> Result<bool, Failure> {
        let size = bytes.len() as u64;
        let payload = PutPayload::from_bytes(bytes);
        let put = self.store().put_opts(path, payload, PutMode::Create.into());
        match put.await.map_err(Failure::from) {
            Ok(_) => {
                add(&self.counters().written_bytes, size);
                Ok(true)
            }
            Err(Failure::Final {
                reason: Reason::Exists,
                ..
            }) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Finds out whose object has a name that is taken. Only the look is made
    /// again when it fails, with a time limit of its own each time: an upload
    /// that takes long must not be repeated for it. Fails when nothing has the
    /// name after all, or when the attempts give up.
    async fn settle(
        &self,
        path: &Path,
        bytes: &Bytes,
        attempts: &mut Attempts<'_>,
    ) -> Result<Created, Failure> {
        loop {
            match attempts.attempt(self.holder(path, bytes)).await {
                Ok(created) => return Ok(created),
                // S3 answers "conflict" while another writer is at work, which
                // may still fail.
                Err(Failure::Final {
                    reason: Reason::NotFound,
                    source,
                    ..
                }) => {
                    return Err(Failure::Transient {
                        source: format!(
                            "the store says that the name is taken, but has no such object: {source}"
                        )
                        .into(),
                        sent: false,
                    });
                }
                Err(failure) => attempts.wait(failure).await?,
            }
        }
    }

    /// Compares the object that has a name with `bytes`. Its size comes before
    /// its content, so a longer one is not read.
    async fn holder(&self, path: &Path, bytes: &Bytes) -> Result<Created, Failure> {
        let found = self.store().get_opts(path, GetOptions::default()).await;
        let found = found.map_err(Failure::of_lookup)?;
        if found.meta.size != bytes.len() as u64 {
            return Ok(Created::Exists);
        }
        if self.body(found).await? != *bytes {
            return Ok(Created::Exists);
        }
        self.sync_name(path).await?;
        Ok(Created::Done)
    }

    /// Makes the name of an object in a directory durable: an earlier attempt
    /// may have made it and then failed to sync the directory.
    async fn sync_name(&self, path: &Path) -> Result<(), Failure> {
        let Some(dir) = &self.place.store.local else {
            return Ok(());
        };
        let file = dir.join(path.as_ref());
        let synced = tokio::task::spawn_blocking(move || {
            let parent = file.parent().unwrap_or(&file);
            std::fs::File::open(parent)?.sync_all()
        })
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        synced.map_err(|error| Failure::Final {
            reason: Reason::Refused,
            source: error.into(),
            mendable: true,
        })
    }

    /// Removes an object. Returns no error when it is not there.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn delete(&self, name: &str) -> Result<(), ObjectError> {
        let path = self.path(name);
        self.retried("delete", name, || async {
            match self.store().delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(e.into()),
            }
        })
        .await
    }

    /// Removes all objects below `folder`. After an error some objects may be
    /// left, and another call removes those.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn delete_folder(&self, folder: &str) -> Result<(), ObjectError> {
        let path = self.folder_path(folder);
        let found = self
            .retried("list", folder, || self.below(path.as_ref()))
            .await?;
        let found = found.into_iter().map(|meta| meta.location).collect();
        self.delete_paths(folder, found).await?;
        self.forget_directory(folder).await
    }

    /// Removes objects; missing ones are no error. After an error some may be
    /// left, and another call removes those.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub async fn delete_all(&self, names: &[String]) -> Result<(), ObjectError> {
        let paths = names.iter().map(|name| self.path(name)).collect();
        self.delete_paths("", paths).await
    }

    /// Removes the objects `paths`, which are below `folder`.
    async fn delete_paths(&self, folder: &str, paths: Vec<Path>) -> Result<(), ObjectError> {
        // An attempt has a time limit, so it covers one request only.
        for some in paths.chunks(DELETED_AT_ONCE) {
            let left: Mutex<BTreeSet<Path>> = Mutex::new(some.iter().cloned().collect());
            self.retried("delete", folder, || self.delete_once(&left))
                .await?;
        }
        Ok(())
    }

    /// Deletes the objects in `left`, and takes deleted ones out of it.
    async fn delete_once(&self, left: &Mutex<BTreeSet<Path>>) -> Result<(), Failure> {
        let paths: Vec<_> = left.lock().iter().cloned().map(Ok).collect();
        let mut done = self
            .store()
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

    /// A directory may hold remains of interrupted uploads.
    async fn forget_directory(&self, folder: &str) -> Result<(), ObjectError> {
        let Some(dir) = &self.place.store.local else {
            return Ok(());
        };
        let dir = dir.join(self.path(folder).as_ref());
        self.retried("delete", folder, || async {
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::Final {
                    reason: Reason::Refused,
                    source: e.into(),
                    mendable: true,
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
            "the object has {size} bytes, too few for the range {} to {}",
            range.start, range.end
        ),
    )
}
