//! An object that is written front to back: in one request when it is small,
//! else in parts, of which a few are on their way at a time.

use crate::attempts::Attempts;
use crate::error::{Failure, ObjectError, Reason};
use crate::objects::{Created, Objects};
use crate::place::add;
use crate::retry::Retry;
use async_trait::async_trait;
use object_store::retry::{RetryContext, RetryFailure, RetryPolicy};
use object_store::{MultipartUpload, ObjectStoreExt, PutMultipartOptions, PutPayload};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use xylem_ambient::Entropy;

/// Parts on their way at once. Memory: this and one more, times the part size.
const PARTS_AT_ONCE: usize = 2;

/// An object being written. It appears whole, when it is finished, or not at
/// all. As for [`crate::Bucket`], calls block and are not for async code.
pub struct Upload {
    objects: Objects,
    name: String,
    buffer: Vec<u8>,
    large: Option<Large>,
    written: u64,
}

/// One that goes in parts.
struct Large {
    upload: Box<dyn MultipartUpload>,
    parts: JoinSet<Result<(), Failure>>,
    finished: bool,
    objects: Objects,
}

impl Drop for Large {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.parts.abort_all();
        // This is best effort: parts that stay are invisible, and the bucket's
        // rule for incomplete uploads removes them.
        let nothing: Box<dyn MultipartUpload> = Box::new(Nothing);
        let mut upload = std::mem::replace(&mut self.upload, nothing);
        self.objects.handle().spawn(async move {
            let _ = upload.abort().await;
        });
    }
}

/// Stands in for an upload that was taken away.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl MultipartUpload for Nothing {
    fn put_part(&mut self, _: PutPayload) -> object_store::UploadPart {
        Box::pin(std::future::ready(Ok(())))
    }

    async fn complete(&mut self) -> object_store::Result<object_store::PutResult> {
        Err(object_store::Error::NotSupported {
            source: "the upload is over".into(),
        })
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        Ok(())
    }
}

impl Upload {
    pub(crate) fn new(objects: Objects, name: &str) -> Upload {
        Upload {
            objects,
            name: name.to_owned(),
            buffer: Vec::new(),
            large: None,
            written: 0,
        }
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends `bytes`; waits when too much is on its way.
    ///
    /// # Errors
    /// When the store does not answer or refuses, also to earlier bytes; then
    /// nothing of the object will be there.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let part = self.objects.config().part_bytes.max(1);
        while !bytes.is_empty() {
            // A full buffer is sent when more bytes come, so that an object
            // that fits into one request takes one.
            if self.buffer.len() >= part {
                self.send_part()?;
            }
            let n = bytes.len().min(part - self.buffer.len());
            let (now, rest) = bytes.split_at(n);
            self.buffer.extend_from_slice(now);
            self.written += n as u64;
            bytes = rest;
        }
        Ok(())
    }

    fn send_part(&mut self) -> io::Result<()> {
        let handle = self.objects.handle().clone();
        let part = std::mem::take(&mut self.buffer);
        handle.block_on(self.send(part))?;
        Ok(())
    }

    async fn send(&mut self, part: Vec<u8>) -> Result<(), ObjectError> {
        let attempts = self.objects.attempts("upload", &self.name);
        if self.large.is_none() {
            self.large = Some(begin(&self.objects, &self.name).await?);
        }
        let Some(large) = &mut self.large else {
            return Ok(());
        };
        let sent = large.send(part).await;
        sent.map_err(|failure| attempts.error(failure, false))
    }

    /// Makes the object appear, durable.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] when something else has the name; when
    /// the store does not answer or refuses.
    pub fn finish(mut self) -> io::Result<()> {
        let handle = self.objects.handle().clone();
        if self.large.is_some() {
            self.send_part()?;
        }
        handle.block_on(self.complete())?;
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), ObjectError> {
        let mut attempts = self.objects.attempts("upload", &self.name);
        let Some(large) = &mut self.large else {
            let bytes = std::mem::take(&mut self.buffer);
            return match self.objects.put_new(&self.name, bytes.into()).await? {
                Created::Done => Ok(()),
                Created::Exists => {
                    let taken = Failure::last(Reason::Exists, "the name is taken");
                    Err(attempts.error(taken, false))
                }
            };
        };
        let done = large
            .complete(&self.name, self.written, &mut attempts)
            .await;
        done.map_err(|failure| {
            let unknown = matches!(failure, Failure::Transient { sent: true, .. });
            attempts.error(failure, unknown)
        })
    }
}

/// Begins an upload in parts. Such an upload takes no condition, so look first:
/// names are unique, and a taken name was given out twice.
async fn begin(objects: &Objects, name: &str) -> Result<Large, ObjectError> {
    let path = objects.path(name);
    let retry = PartRetry {
        retry: objects.retry(),
        entropy: objects.config().entropy.clone(),
    };
    let upload = objects
        .retried("upload", name, || async {
            match objects.store().head(&path).await {
                Ok(_) => return Err(Failure::last(Reason::Exists, "the name is taken")),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
            let options = PutMultipartOptions::default().with_retry_policy(Arc::new(retry.clone()));
            Ok(objects.store().put_multipart_opts(&path, options).await?)
        })
        .await?;
    Ok(Large {
        upload,
        parts: JoinSet::new(),
        finished: false,
        objects: objects.clone(),
    })
}

impl Large {
    async fn send(&mut self, part: Vec<u8>) -> Result<(), Failure> {
        while self.parts.len() >= PARTS_AT_ONCE {
            self.one_done().await?;
        }
        let counters = self.objects.counters();
        add(&counters.requests, 1);
        add(&counters.written_bytes, part.len() as u64);
        let retry = self.objects.retry();
        let put = self.upload.put_part(part.into());
        // `object_store` retries a part as `PartRetry` says; this limit is for
        // a part that hangs for ever.
        let limit = retry.give_up.limit().map_or(Duration::MAX, |limit| {
            limit.saturating_add(retry.attempt_timeout)
        });
        self.parts.spawn_on(
            async move {
                match tokio::time::timeout(limit, put).await {
                    Ok(put) => Ok(put?),
                    Err(_) => Err(Failure::timeout(limit)),
                }
            },
            self.objects.handle(),
        );
        Ok(())
    }

    async fn one_done(&mut self) -> Result<(), Failure> {
        match self.parts.join_next().await {
            None => Ok(()),
            Some(Ok(done)) => done,
            Some(Err(e)) => Err(Failure::Transient {
                source: e.into(),
                sent: false,
            }),
        }
    }

    async fn complete(
        &mut self,
        name: &str,
        written: u64,
        attempts: &mut Attempts<'_>,
    ) -> Result<(), Failure> {
        while !self.parts.is_empty() {
            self.one_done().await?;
        }
        let objects = self.objects.clone();
        loop {
            let complete = async { Ok(self.upload.complete().await?) };
            let failure = match attempts.attempt(complete).await {
                Ok(_) => {
                    self.finished = true;
                    return Ok(());
                }
                Err(failure) => failure,
            };
            // The answer may be what was lost.
            if objects.size(name).await.is_ok_and(|size| size == written) {
                self.finished = true;
                return Ok(());
            }
            attempts.wait(failure).await?;
        }
    }
}

/// When a part is sent again: as anything else is.
#[derive(Clone, Debug)]
struct PartRetry {
    retry: Retry,
    entropy: Entropy,
}

#[async_trait]
impl RetryPolicy for PartRetry {
    async fn retry(&self, context: RetryContext) -> bool {
        let again = match context.failure {
            RetryFailure::Status(status) => {
                matches!(status.as_u16(), 200..300 | 408 | 425 | 429 | 500..)
            }
            _ => true,
        };
        let skipped = context.attempt.saturating_sub(1).min(15);
        let wait = self.retry.waits(&self.entropy).nth_wait(skipped);
        let late = |limit| context.elapsed + wait >= limit;
        if !again || self.retry.give_up.limit().is_some_and(late) {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}
