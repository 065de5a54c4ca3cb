//! The requests of a WAL to its folder in an object store: create if absent,
//! read, list, remove.

use crate::failure::Failure;
use bytes::Bytes;
use std::io;
use std::time::Duration;
use tokio::time::Instant;
use xylem_objects::{Created, ObjectError, Objects, Reason, Retry};

/// How the making of an object ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// The object holds our bytes.
    Ours,
    /// Another object has the name, with these bytes.
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

/// One folder of an object store. A request fails only where its policy of
/// retries gives up.
#[derive(Debug)]
pub(crate) struct Remote {
    objects: Objects,
}

impl Remote {
    /// The folder `objects`, where requests are tried again as `retry` says.
    pub fn new(objects: &Objects, retry: Retry) -> Remote {
        Remote {
            objects: objects.with_retry(retry),
        }
    }

    /// Why requests are tried again at this moment.
    pub fn trouble(&self) -> Option<Failure> {
        let trouble = self.objects.trouble();
        trouble.map(|trouble| Failure::from(&*trouble.error))
    }

    /// Waits until the store has answered no request for as long as `patience`,
    /// and returns why.
    pub async fn silent_for(&self, patience: Duration) -> Failure {
        loop {
            let next = match self.objects.trouble() {
                Some(trouble) if trouble.since.elapsed() >= patience => {
                    return Failure::from(&*trouble.error);
                }
                Some(trouble) => trouble.since + patience,
                None => Instant::now() + patience,
            };
            tokio::time::sleep_until(next).await;
        }
    }

    /// Where `name` is, for messages.
    pub fn place(&self, name: &str) -> String {
        self.objects.name_of(name)
    }

    /// Makes the object `name` if there is none. A put of unknown outcome is
    /// settled by [`Objects::put_new`]: our bytes under the name are ours,
    /// whichever attempt put them there.
    ///
    /// This loop is written by hand because it settles whose object has the
    /// name; its waits come from the policy of retries.
    pub async fn make(&self, name: &str, bytes: &Bytes) -> Result<Made, Failure> {
        let mut waits = None;
        loop {
            if self.objects.put_new(name, bytes.clone()).await? == Created::Done {
                return Ok(Made::Ours);
            }
            match self.get(name).await? {
                Some(there) if there == *bytes => return Ok(Made::Ours),
                Some(there) => return Ok(Made::Taken(there)),
                // It was removed meanwhile.
                None => {
                    let (retry, config) = (self.objects.retry(), self.objects.config());
                    let waits = waits.get_or_insert_with(|| retry.waits(&config.entropy));
                    tokio::time::sleep(waits.next_wait()).await;
                }
            }
        }
    }

    /// An object's bytes, `None` when it is not there.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Failure> {
        found(self.objects.get(name).await)
    }

    /// An object's first bytes, up to `count`; `None` when it is not there.
    pub async fn get_head(&self, name: &str, count: u64) -> Result<Option<Bytes>, Failure> {
        found(self.objects.get_first(name, count).await)
    }

    /// The folders directly below this one, sorted.
    pub async fn folders(&self) -> Result<Vec<String>, Failure> {
        let mut names = self.objects.folders("").await?;
        names.sort_unstable();
        Ok(names)
    }

    /// The objects directly in a folder, in no order.
    pub async fn list(&self, folder: &str) -> Result<Vec<Listed>, Failure> {
        let found = self.objects.list(folder).await?;
        let listed = |(name, bytes)| Listed { name, bytes };
        Ok(found.into_iter().map(listed).collect())
    }

    /// Removes objects; those that are not there count as removed.
    pub async fn remove(&self, names: &[String]) -> Result<(), Failure> {
        Ok(self.objects.delete_all(names).await?)
    }
}

fn found(read: Result<Bytes, ObjectError>) -> Result<Option<Bytes>, Failure> {
    match read {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.reason == Reason::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl From<&ObjectError> for Failure {
    fn from(error: &ObjectError) -> Failure {
        Failure::new(error.context(), io::Error::new(error.kind(), error.why()))
    }
}

impl From<ObjectError> for Failure {
    fn from(error: ObjectError) -> Failure {
        Failure::from(&error)
    }
}
