//! What the log asks of an object store, tried until the store answers: to
//! make an object that is not there, to read, to list, to remove.

#[cfg(test)]
mod tests;

use crate::BoxFuture;
use crate::failure::Failure;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error as StoreError, GetOptions, GetRange, ObjectStore, PutMode, PutOptions};
use parking_lot::Mutex;
use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use xylem_ambient::Entropy;

/// How failed requests are tried again: for ever, with waits that double, also
/// those that are refused for a reason that somebody may mend meanwhile:
/// credentials that have expired, a permission, a wrong clock, a bucket or a
/// mount that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The longest that the first wait may be. Waits are random, between half
    /// and all of what they may be.
    pub first_wait: Duration,
    /// What waits grow to.
    pub longest_wait: Duration,
    /// A request without an answer by then has failed; what it did is unknown.
    pub attempt: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(5),
            attempt: Duration::from_secs(30),
        }
    }
}

/// How the making of an object ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// It is there, with our bytes.
    Ours,
    /// Something else has the name: these bytes.
    Taken(Bytes),
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name below the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// All that stands under one prefix of an object store.
#[derive(Debug)]
pub(crate) struct Remote {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    retry: Retry,
    entropy: Entropy,
    /// Why the store does not answer, while it does not, and since when.
    trouble: Mutex<Option<(Failure, Instant)>>,
}

impl Remote {
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        retry: Retry,
        entropy: Entropy,
    ) -> Remote {
        Remote {
            store,
            prefix,
            retry,
            entropy,
            trouble: Mutex::new(None),
        }
    }

    /// Why requests are tried again at this moment.
    pub fn trouble(&self) -> Option<Failure> {
        self.trouble
            .lock()
            .as_ref()
            .map(|(failure, _)| failure.clone())
    }

    /// Waits until the store has not answered for so long, and says why.
    pub async fn silent_for(&self, patience: Duration) -> Failure {
        loop {
            let next = match &*self.trouble.lock() {
                Some((failure, since)) if since.elapsed() >= patience => return failure.clone(),
                Some((_, since)) => *since + patience,
                None => Instant::now() + patience,
            };
            tokio::time::sleep_until(next).await;
        }
    }

    /// Where `name` is, for messages.
    pub fn place(&self, name: &str) -> String {
        format!("{}/{}", self.store, self.path(name))
    }

    /// Makes the object `name` if there is none. A request whose outcome is
    /// unknown is made again; an object that is there then is read, to see
    /// whose it is.
    ///
    /// # Errors
    /// What no other try will change.
    pub async fn make(&self, name: &str, bytes: &Bytes) -> Result<Made, Failure> {
        let path = self.path(name);
        let request = || -> BoxFuture<'_, _> {
            let (store, path, bytes) = (Arc::clone(&self.store), path.clone(), bytes.clone());
            Box::pin(async move {
                let options = PutOptions::from(PutMode::Create);
                match store.put_opts(&path, bytes.into(), options).await {
                    Ok(_) => Ok(true),
                    Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                        Ok(false)
                    }
                    Err(e) => Err(e),
                }
            })
        };
        loop {
            if self.tried("make", &path, &request).await? {
                return Ok(Made::Ours);
            }
            match self.get(name).await? {
                Some(there) if there == *bytes => return Ok(Made::Ours),
                Some(there) => return Ok(Made::Taken(there)),
                // Removed meanwhile, or another's request that came to nothing.
                None => tokio::time::sleep(self.jitter(self.retry.first_wait)).await,
            }
        }
    }

    /// An object's bytes, `None` when it is not there.
    ///
    /// # Errors
    /// What no other try will change.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Failure> {
        self.read(name, None).await
    }

    /// An object's first bytes, up to `count`; the object must have some.
    ///
    /// # Errors
    /// What no other try will change.
    pub async fn get_head(&self, name: &str, count: u64) -> Result<Option<Bytes>, Failure> {
        self.read(name, Some(count)).await
    }

    async fn read(&self, name: &str, count: Option<u64>) -> Result<Option<Bytes>, Failure> {
        let path = self.path(name);
        self.tried("read", &path, &|| {
            let (store, path) = (Arc::clone(&self.store), path.clone());
            Box::pin(async move {
                let options = GetOptions {
                    range: count.map(|count| GetRange::Bounded(0..count)),
                    ..GetOptions::default()
                };
                match store.get_opts(&path, options).await {
                    Ok(found) => Ok(Some(found.bytes().await?)),
                    Err(StoreError::NotFound { .. }) => Ok(None),
                    Err(e) => Err(e),
                }
            })
        })
        .await
    }

    /// The folders directly below the prefix, sorted.
    ///
    /// # Errors
    /// What no other try will change.
    pub async fn folders(&self) -> Result<Vec<String>, Failure> {
        let request = || -> BoxFuture<'_, _> {
            let (store, path) = (Arc::clone(&self.store), self.prefix.clone());
            Box::pin(async move { store.list_with_delimiter(Some(&path)).await })
        };
        let found = self.tried("list", &self.prefix, &request).await?;
        let last = |path: &Path| path.parts().next_back().map(|p| p.as_ref().to_owned());
        let mut names: Vec<String> = found.common_prefixes.iter().filter_map(last).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The objects directly in a folder, in no order.
    ///
    /// # Errors
    /// What no other try will change.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, Failure> {
        let path = self.path(folder);
        let request = || -> BoxFuture<'_, _> {
            let (store, path) = (Arc::clone(&self.store), path.clone());
            Box::pin(async move { store.list(Some(&path)).try_collect::<Vec<_>>().await })
        };
        let found = self.tried("list", &path, &request).await?;
        let depth = path.parts().count() + 1;
        let listed = |meta: &object_store::ObjectMeta| {
            let name = meta.location.parts().next_back()?.as_ref().to_owned();
            (meta.location.parts().count() == depth).then_some(Listed {
                name,
                bytes: meta.size,
            })
        };
        Ok(found.iter().filter_map(listed).collect())
    }

    /// Removes objects; those that are not there count as removed.
    ///
    /// # Errors
    /// What no other try will change.
    pub async fn remove(&self, names: &[String]) -> Result<(), Failure> {
        if names.is_empty() {
            return Ok(());
        }
        let paths: Vec<Path> = names.iter().map(|name| self.path(name)).collect();
        self.tried("remove objects of", &self.prefix, &|| {
            let (store, paths) = (Arc::clone(&self.store), paths.clone());
            Box::pin(async move {
                let paths = futures::stream::iter(paths.into_iter().map(Ok)).boxed();
                let mut removed = store.delete_stream(paths);
                while let Some(one) = removed.next().await {
                    match one {
                        Ok(_) | Err(StoreError::NotFound { .. }) => {}
                        Err(e) => return Err(e),
                    }
                }
                Ok(())
            })
        })
        .await
    }

    fn path(&self, name: &str) -> Path {
        name.split('/')
            .filter(|part| !part.is_empty())
            .fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Makes a request until it is answered.
    async fn tried<'a, T>(
        &'a self,
        what: &str,
        path: &Path,
        request: &(dyn Fn() -> BoxFuture<'a, Result<T, StoreError>> + Sync),
    ) -> Result<T, Failure> {
        let mut longest = self.retry.first_wait;
        loop {
            let error = match tokio::time::timeout(self.retry.attempt, request()).await {
                Ok(Ok(done)) => {
                    if self.trouble.lock().take().is_some() {
                        tracing::info!(store = %self.store, "the object store answers again");
                    }
                    return Ok(done);
                }
                Ok(Err(e)) => e,
                Err(_) => StoreError::Generic {
                    store: "request",
                    source: Box::new(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("no answer within {:?}", self.retry.attempt),
                    )),
                },
            };
            let (kind, hint) = (kind(&error), hint(&error));
            if !may_pass(&error) {
                let said = format!(
                    "{error}; the store will not do this as it is asked, however often: check its settings and what it is"
                );
                return Err(Failure::new(
                    format!("{what} {}/{path}", self.store),
                    io::Error::new(kind, said),
                ));
            }
            let failure = Failure::new(
                format!("{what} {}/{path}", self.store),
                match hint {
                    Some(hint) => io::Error::new(kind, format!("{error}; {hint}")),
                    None => io::Error::new(kind, error),
                },
            );
            let wait = self.jitter(longest);
            tracing::warn!(
                error = %failure.source,
                again_in = ?wait,
                "{} failed and is tried again",
                failure.context
            );
            {
                let mut trouble = self.trouble.lock();
                let since = trouble
                    .as_ref()
                    .map_or_else(Instant::now, |(_, since)| *since);
                *trouble = Some((failure, since));
            }
            tokio::time::sleep(wait).await;
            longest = (longest * 2).min(self.retry.longest_wait);
        }
    }

    /// Between half and all of `longest`.
    fn jitter(&self, longest: Duration) -> Duration {
        let random = self.entropy.next().unwrap_or_default() as u32;
        longest.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }
}

/// Whether another try may do, be it that somebody has to mend something first.
fn may_pass(error: &StoreError) -> bool {
    match error {
        StoreError::Generic { .. } => match http_status(error) {
            Some(400) => PASSING.iter().any(|code| error.to_string().contains(code)),
            Some(401 | 403 | 408 | 425 | 429 | 500..) | None => true,
            Some(_) => false,
        },
        // Where an object may be missing, the caller has looked for that.
        StoreError::NotFound { .. }
        | StoreError::PermissionDenied { .. }
        | StoreError::Unauthenticated { .. }
        | StoreError::JoinError { .. } => true,
        _ => false,
    }
}

/// Codes with which S3 and its kin answer 400 to what may succeed later: a
/// request that arrived too slowly, credentials that have run out, a clock.
const PASSING: [&str; 6] = [
    SLOW,
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestExpired",
    "RequestTimeTooSkewed",
];

/// Of those, the first.
const SLOW: &str = "RequestTimeout";

/// What somebody can do about a request that is tried again.
fn hint(error: &StoreError) -> Option<&'static str> {
    match kind(error) {
        io::ErrorKind::PermissionDenied => Some(
            "check that the credentials have not expired and may read, write, list and delete, and that this machine's clock is right",
        ),
        io::ErrorKind::NotFound => Some("check that the bucket or folder exists"),
        io::ErrorKind::ReadOnlyFilesystem => Some("mount it writable again"),
        _ => None,
    }
}

/// The HTTP status that an error carries. The type that has it is private to
/// `object_store`, so it is read from the message.
fn http_status(error: &StoreError) -> Option<u16> {
    const MARK: &str = "status code: ";
    let text = error.to_string();
    let at = text.find(MARK)? + MARK.len();
    text.get(at..at + 3)?.parse().ok()
}

/// What the system said, where a file system is the store.
fn io_kind(error: &StoreError) -> Option<io::ErrorKind> {
    let mut at: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = at {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        at = e.source();
    }
    None
}

fn kind(error: &StoreError) -> io::ErrorKind {
    match error {
        StoreError::NotFound { .. } => io::ErrorKind::NotFound,
        StoreError::AlreadyExists { .. } | StoreError::Precondition { .. } => {
            io::ErrorKind::AlreadyExists
        }
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        StoreError::NotSupported { .. } | StoreError::NotImplemented { .. } => {
            io::ErrorKind::Unsupported
        }
        StoreError::InvalidPath { .. } => io::ErrorKind::InvalidInput,
        StoreError::Generic { .. } if is_denial(error) => io::ErrorKind::PermissionDenied,
        _ => io_kind(error).unwrap_or(io::ErrorKind::Other),
    }
}

/// Whether an answer that may pass says that credentials or clock are not good.
fn is_denial(error: &StoreError) -> bool {
    let said = |code: &&str| *code != SLOW && error.to_string().contains(code);
    match http_status(error) {
        Some(400) => PASSING.iter().any(said),
        status => matches!(status, Some(401 | 403)),
    }
}
