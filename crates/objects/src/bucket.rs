//! A place in an object store, for threads.

use crate::check::CheckError;
use crate::error::{Failure, Reason};
use crate::objects::{Created, Objects};
use crate::open::{BucketConfig, OpenError};
use crate::place::BucketStats;
use crate::upload::Upload;
use bytes::Bytes;
use object_store::ObjectStore;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A place in an object store. Clones are the same place.
///
/// All calls block the calling thread until the request has succeeded or failed
/// for good. They may come from any thread, including those of
/// `spawn_blocking`, but panic in async code, which uses [`Bucket::objects`].
#[derive(Clone)]
pub struct Bucket {
    objects: Objects,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bucket({})", self.url())
    }
}

impl Bucket {
    /// Opens `file:///DIR`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`,
    /// `az://CONTAINER/PREFIX` or `memory:///`. Settings come from the
    /// provider's environment variables, then from `config`, then from the
    /// URL's query. Nothing is asked of the store yet: see [`Bucket::check`].
    ///
    /// # Errors
    /// When the URL or a setting is not understood.
    pub fn open(url: &str, config: BucketConfig) -> Result<Bucket, OpenError> {
        Ok(Bucket {
            objects: Objects::open(url, config)?,
        })
    }

    /// Wraps an open store, called `url`.
    ///
    /// # Errors
    /// When no threads can be started.
    pub fn with_store(
        store: Arc<dyn ObjectStore>,
        url: &str,
        config: BucketConfig,
    ) -> io::Result<Bucket> {
        Ok(Bucket {
            objects: Objects::with_store(store, url, config)?,
        })
    }

    /// The same place for async callers.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// The place's URL for messages, without settings and secrets.
    pub fn url(&self) -> &str {
        self.objects.url()
    }

    /// The requests made so far.
    pub fn stats(&self) -> BucketStats {
        self.objects.stats()
    }

    fn wait<T>(&self, request: impl Future<Output = T>) -> T {
        self.objects.handle().block_on(request)
    }

    /// Proves the properties that all other code relies on: of several writers
    /// that create one object only one succeeds, no object is replaced, and
    /// written objects can be read, listed and deleted.
    ///
    /// # Errors
    /// The property that the store lacks.
    pub fn check(&self) -> Result<(), CheckError> {
        self.wait(self.objects.check())
    }

    /// The object's size in bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or when the store does not answer.
    pub fn size(&self, name: &str) -> io::Result<u64> {
        Ok(self.wait(self.objects.size(name))?)
    }

    /// A whole object.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or when the store does not answer.
    pub fn get(&self, name: &str) -> io::Result<Bytes> {
        Ok(self.wait(self.objects.get(name))?)
    }

    /// The bytes of `range`, all of them.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the object ends before;
    /// [`io::ErrorKind::NotFound`], or when the store does not answer.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        Ok(self.wait(self.objects.get_range(name, range))?)
    }

    /// Names and sizes of the objects directly in `folder`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        Ok(self.wait(self.objects.list(folder))?)
    }

    /// Names of the objects directly in `folder` that come after `name`.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn list_after(&self, folder: &str, name: &str) -> io::Result<Vec<String>> {
        Ok(self.wait(self.objects.list_after(folder, name))?)
    }

    /// Names of the folders directly in `folder`. Those whose last object is
    /// gone may be among them for a while.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn folders(&self, folder: &str) -> io::Result<Vec<String>> {
        Ok(self.wait(self.objects.folders(folder))?)
    }

    /// Names, relative to `folder`, and sizes of all objects below it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn list_below(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        Ok(self.wait(self.objects.list_below(folder))?)
    }

    /// Creates an object unless the name is taken: see [`Objects::put_new`].
    ///
    /// # Errors
    /// As there; [`crate::outcome_unknown`] tells whether it may have happened.
    pub fn put_new(&self, name: &str, bytes: impl Into<Bytes>) -> io::Result<Created> {
        Ok(self.wait(self.objects.put_new(name, bytes.into()))?)
    }

    /// Begins an object that is written front to back.
    pub fn begin(&self, name: &str) -> Upload {
        Upload::new(self.objects.clone(), name)
    }

    /// Uploads the first `len` bytes of `file` as the object `name`, again
    /// from the start if need be.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when something else has the name; when
    /// the file cannot be read; when the store does not answer or refuses.
    pub fn upload(&self, name: &str, file: &File, len: u64) -> io::Result<()> {
        let mut attempts = self.objects.attempts("upload", name);
        loop {
            attempts.note_attempt();
            let error = match self.upload_once(name, file, len) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again =
                crate::ObjectError::of(&error).is_some_and(|e| e.reason == Reason::Unavailable);
            let failure = Failure::Transient {
                source: error.to_string().into(),
                sent: true,
            };
            if !again || self.wait(attempts.wait(failure)).is_err() {
                return Err(error);
            }
        }
    }

    fn upload_once(&self, name: &str, file: &File, len: u64) -> io::Result<()> {
        let mut upload = self.begin(name);
        let mut buffer = vec![0; (1 << 20).min(len as usize)];
        let mut at = 0;
        while at < len {
            let n = buffer.len().min((len - at) as usize);
            let Some(part) = buffer.get_mut(..n) else {
                break;
            };
            file.read_exact_at(part, at)?;
            upload.write(part)?;
            at += n as u64;
        }
        upload.finish()
    }

    /// Removes an object. Returns no error when it is not there.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub fn delete(&self, name: &str) -> io::Result<()> {
        Ok(self.wait(self.objects.delete(name))?)
    }

    /// Removes all objects below `folder`. After an error some objects may be
    /// left, and another call removes those.
    ///
    /// # Errors
    /// When the store does not answer or refuses.
    pub fn delete_folder(&self, folder: &str) -> io::Result<()> {
        Ok(self.wait(self.objects.delete_folder(folder))?)
    }
}
