//! Proves that a store does what everything else relies on.

use crate::error::ObjectError;
use crate::objects::{Created, Objects};
use bytes::Bytes;
use futures::future::join_all;

/// How many create the same object at once. Some stores let those who come
/// together wait a second each.
const WRITERS: usize = 4;
/// The folder of its objects.
const FOLDER: &str = "check";

/// What the store does not do.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It let more than one create an object, or replaced one.
    #[error(
        "object store {url} does not honour create-if-absent: {what}; two servers could \
         overwrite each other's work there, so it is refused: use a store that honours \
         If-None-Match, and see docs/object-storage.md"
    )]
    CreateIfAbsent {
        /// The bucket.
        url: String,
        /// What was seen.
        what: String,
    },
    /// It does something else than it was asked for.
    #[error("object store {url}: {what}")]
    Wrong {
        /// The bucket.
        url: String,
        /// What was seen.
        what: String,
    },
    /// A request failed.
    #[error("cannot {doing} in the object store: {source}")]
    Failed {
        /// What was tried.
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
    /// What the store does not do.
    pub async fn check(&self) -> Result<(), CheckError> {
        let folder = format!("{FOLDER}/{:016x}", self.random()? as u64);
        let checked = self.check_in(&folder).await;
        let cleaned = self.delete_folder(&folder).await;
        checked?;
        cleaned.map_err(failed("delete objects"))
    }

    fn random(&self) -> Result<u128, CheckError> {
        let drawn = self.config().entropy.next();
        drawn.map_err(|e| self.wrong(format!("the system has no random numbers: {e}")))
    }

    async fn check_in(&self, folder: &str) -> Result<(), CheckError> {
        let name = format!("{folder}/race");
        let content = self.race(&name).await?;
        self.not_replaced(&name, &content).await?;
        self.readable(folder, &name, &content).await?;
        self.removable(folder, &name).await
    }

    fn dishonoured(&self, what: String) -> CheckError {
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

    /// Several create one object: exactly one must succeed. Answers what it
    /// then holds.
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
            return Err(self.dishonoured(format!(
                "of {WRITERS} that created the same object at once, {} were told that they did",
                winners.len()
            )));
        };
        let held = self.get(name).await.map_err(failed("read objects"))?;
        if held != *winner {
            return Err(self.dishonoured(
                "the one that was told that it created an object is not the one whose content it has"
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
            return Err(self.dishonoured("an object that was there was replaced".to_owned()));
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
            return Err(self.wrong("reading a range of an object gives something else"));
        }
        let size = self.size(name).await.map_err(failed("look up objects"))?;
        if size != len {
            return Err(self.wrong(format!("an object of {len} bytes is said to have {size}")));
        }
        let list = self.list(folder).await.map_err(failed("list objects"))?;
        let short = name.rsplit('/').next().unwrap_or(name);
        if !list.iter().any(|(n, s)| n == short && *s == len) {
            return Err(self.wrong("an object that was just created is not listed"));
        }
        let folders = self.folders(FOLDER).await.map_err(failed("list objects"))?;
        if !folders.iter().any(|f| folder.ends_with(f)) {
            return Err(self.wrong("a folder with an object is not listed"));
        }
        Ok(())
    }

    async fn removable(&self, folder: &str, name: &str) -> Result<(), CheckError> {
        self.delete(name).await.map_err(failed("delete objects"))?;
        match self.get(name).await {
            Err(e) if e.reason == crate::Reason::NotFound => {}
            Err(e) => return Err(failed("read objects")(e)),
            Ok(_) => return Err(self.wrong("an object that was deleted is still there")),
        }
        let list = self.list(folder).await.map_err(failed("list objects"))?;
        if !list.is_empty() {
            return Err(self.wrong("an object that was deleted is still listed"));
        }
        Ok(())
    }
}
