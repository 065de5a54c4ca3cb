//! Proves that a store does what everything else relies on.

use crate::error::ObjectError;
use crate::objects::{Created, Objects};
use bytes::Bytes;
use futures::future::join_all;

/// How many writers create the same object at once. Some stores make concurrent
/// writers wait a second each.
const WRITERS: usize = 4;
/// The folder of its objects.
const FOLDER: &str = "check";

/// The property that the store lacks.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// More than one writer created an object, or an object was replaced.
    #[error(
        "object store {url} does not honor create-if-absent: {what}; two servers could \
         overwrite each other's work there, so it is refused: use a store that honors \
         If-None-Match, and see docs/object-storage.md"
    )]
    CreateIfAbsent {
        /// The bucket.
        url: String,
        /// The observation.
        what: String,
    },
    /// A request had another effect than it should have.
    #[error("object store {url}: {what}")]
    Wrong {
        /// The bucket.
        url: String,
        /// The observation.
        what: String,
    },
    /// A request failed.
    #[error("cannot {doing} in the object store: {source}")]
    Failed {
        /// The operation.
        doing: &'static str,
        /// Why it failed.
        source: ObjectError,
    },
}

impl From<CheckError> for std::io::Error {
    fn from(error: CheckError) -> std::io::Error {
        std::io::Error::other(error)
    }
}

fn failed(doing: &'static str) -> impl FnOnce(ObjectError) -> CheckError {
    move |source| CheckError::Failed { doing, source }
}

impl Objects {
    /// See [`crate::Bucket::check`].
    ///
    /// # Errors
    /// The property that the store lacks.
    pub async fn check(&self) -> Result<(), CheckError> {
        let folder = format!("{FOLDER}/{:016x}", self.random()? as u64);
        let checked = self.check_in(&folder).await;
        let cleaned = self.delete_folder(&folder).await;
        checked?;
        cleaned.map_err(failed("delete objects"))
    }

    fn random(&self) -> Result<u128, CheckError> {
        let drawn = self.config().entropy.next();
        drawn.map_err(|e| self.wrong(format!("no random number for the check: {e}")))
    }

    async fn check_in(&self, folder: &str) -> Result<(), CheckError> {
        let name = format!("{folder}/race");
        let content = self.race(&name).await?;
        self.not_replaced(&name, &content).await?;
        self.readable(folder, &name, &content).await?;
        self.removable(folder, &name).await
    }

    fn dishonored(&self, what: String) -> CheckError {
        CheckError::CreateIfAbsent {
            url: self.url().to_owned(),
            what,
        }
    }

    fn wrong(&self, what: impl Into<String>) -> CheckError {
        CheckError::Wrong {
            url: self.url().to_owned(),
            what: what.into(),
        }
    }

    /// Several writers create one object, and exactly one must succeed. Returns
    /// the object's content.
    async fn race(&self, name: &str) -> Result<Bytes, CheckError> {
        let contents = (0..WRITERS)
            .map(|n| Ok(format!("writer {n}, {:032x}", self.random()?).into()))
            .collect::<Result<Vec<Bytes>, CheckError>>()?;
        let writers = contents.iter().map(|content| {
            let (objects, name, content) = (self.clone(), name.to_owned(), content.clone());
            self.handle()
                .spawn(async move { objects.put_new(&name, content).await })
        });
        let mut winners = Vec::new();
        for (done, content) in join_all(writers).await.into_iter().zip(&contents) {
            let done = done.map_err(|e| self.wrong(format!("a writer of the check died: {e}")))?;
            if done.map_err(failed("create objects"))? == Created::Done {
                winners.push(content);
            }
        }
        let [winner] = winners.as_slice() else {
            return Err(self.dishonored(format!(
                "{WRITERS} writers created the same object at once, and {} of them were told that they succeeded",
                winners.len()
            )));
        };
        let held = self.get(name).await.map_err(failed("read objects"))?;
        if held != *winner {
            return Err(self.dishonored(
                "an object does not have the content of the writer that was told that it created it"
                    .to_owned(),
            ));
        }
        Ok(held)
    }

    async fn not_replaced(&self, name: &str, content: &Bytes) -> Result<(), CheckError> {
        let other = Bytes::from(format!("latecomer, {:032x}", self.random()?));
        let put = self
            .put_new(name, other)
            .await
            .map_err(failed("create objects"))?;
        let held = self.get(name).await.map_err(failed("read objects"))?;
        if put == Created::Done || held != *content {
            return Err(self.dishonored("an existing object was replaced".to_owned()));
        }
        Ok(())
    }

    async fn readable(&self, folder: &str, name: &str, content: &Bytes) -> Result<(), CheckError> {
        let len = content.len() as u64;
        let part = self
            .get_range(name, 1..len - 1)
            .await
            .map_err(failed("read ranges of objects"))?;
        if content.get(1..content.len() - 1) != Some(&part[..]) {
            return Err(self.wrong("reading a range of an object returns other bytes"));
        }
        let size = self.size(name).await.map_err(failed("look up objects"))?;
        if size != len {
            return Err(self.wrong(format!("it reports {size} bytes for an object of {len}")));
        }
        let list = self.list(folder).await.map_err(failed("list objects"))?;
        let short = name.rsplit('/').next().unwrap_or(name);
        if !list.iter().any(|(n, s)| n == short && *s == len) {
            return Err(self.wrong("a list lacks an object that was just created"));
        }
        let folders = self.folders(FOLDER).await.map_err(failed("list objects"))?;
        if !folders.iter().any(|f| folder.ends_with(f)) {
            return Err(self.wrong("a list lacks a folder that has an object"));
        }
        Ok(())
    }

    async fn removable(&self, folder: &str, name: &str) -> Result<(), CheckError> {
        self.delete(name).await.map_err(failed("delete objects"))?;
        match self.get(name).await {
            Err(e) if e.reason == crate::Reason::NotFound => {}
            Err(e) => return Err(failed("read objects")(e)),
            Ok(_) => return Err(self.wrong("a deleted object can still be read")),
        }
        let list = self.list(folder).await.map_err(failed("list objects"))?;
        if !list.is_empty() {
            return Err(self.wrong("a deleted object is still listed"));
        }
        Ok(())
    }
}
