//! The backend in an object store: groups of entries as numbered objects, each
//! created only if absent, several at a time, acknowledged in order.
//!
//! `docs/formats/wal-objects.md` draws the objects and says why a writer that
//! has lost the line cannot win.

mod claim;
mod config;
mod end;
mod first;
mod format;
mod objects;
mod pace;
mod reader;
mod shared;
#[cfg(test)]
mod tests;
mod trim;
mod writer;

use crate::entry::payload;
use crate::failure::Failure;
use crate::line::Taken;
use crate::queue::{self, Queued};
use crate::remote::Remote;
use crate::{BoxFuture, CheckedFrame, Durable, Position, Wal, WalError, WalReader, Writer};
pub use config::ObjectWalConfig;
use format::WriterId;
use objects::{Fault, Objects};
use shared::{Closing, Mark, Owner, Shared, State};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;
use xylem_types::{Epoch, FrameSeq, Lsn};

/// A branch's WAL in an object store.
///
/// Opening a WAL that has entries takes it over. The server that had it open
/// learns so with the next object that it tries to make, and its WAL ends with
/// [`WalError::Superseded`]. An empty WAL is taken over by the first seal.
///
/// Dropped without [`Wal::close`] it ends as in a crash: entries that were not
/// durable may be lost.
pub struct ObjectWal {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 2],
}

impl ObjectWal {
    /// Opens the WAL in the folder `objects`, where nothing else may be.
    /// Reads its end only.
    ///
    /// # Errors
    /// [`WalError::Io`] when the store refuses, or has not answered for as
    /// long as `patience` allows; [`WalError::Corrupt`];
    /// [`WalError::Superseded`] when another server takes it over meanwhile.
    pub async fn open(
        objects: &xylem_objects::Objects,
        config: ObjectWalConfig,
    ) -> Result<ObjectWal, WalError> {
        config.check()?;
        let remote = Remote::new(objects, config.retry);
        let place = remote.place("");
        let runtime = config.runtime.clone();
        let opening = runtime.spawn(open(Objects { remote }, config));
        opening.await.unwrap_or_else(|e| {
            Err(WalError::Io {
                context: format!("open {place}"),
                source: io::Error::other(e),
            })
        })
    }

    /// Why the store does not answer, while requests are tried again.
    pub fn trouble(&self) -> Option<WalError> {
        let failure = self.shared.objects.remote.trouble();
        failure.map(|failure| failure.error())
    }

    /// Waits until `ready` returns a value.
    async fn until<T>(
        &self,
        mut ready: impl FnMut(&mut State) -> Result<Option<T>, WalError>,
    ) -> Result<T, WalError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(said) = ready(&mut self.shared.state.lock())? {
                return Ok(said);
            }
            changed.await;
        }
    }

    /// Waits until the line is ours.
    async fn own(&self) -> Result<(), WalError> {
        self.until(|state| {
            self.shared.check_open(state)?;
            if state.owner == Owner::No {
                state.owner = Owner::Wanted;
                self.shared.work.notify_one();
            }
            Ok((state.owner == Owner::Yes).then_some(()))
        })
        .await
    }

    /// Queues a seal or begin. The returned receiver gets the place after it.
    fn mark(&self, state: &mut State, queued: Queued) -> oneshot::Receiver<Position> {
        let (told, place) = oneshot::channel();
        let nth = state.accepted;
        state.marks.push_back(Mark { nth, told });
        state.push(queued);
        self.shared.work.notify_one();
        place
    }

    /// The place after a seal or begin, when it is durable.
    async fn marked(&self, place: oneshot::Receiver<Position>) -> Result<Position, WalError> {
        match place.await {
            Ok(position) => Ok(position),
            Err(_) => {
                self.shared.state.lock().health.check()?;
                Err(WalError::Closed)
            }
        }
    }

    async fn seal_now(&self) -> Result<Durable, WalError> {
        self.own().await?;
        let (epoch, lsn, place) = {
            let mut state = self.shared.state.lock();
            self.shared.check_open(&state)?;
            let Some(epoch) = state.queue.line.seal() else {
                return Err(WalError::Corrupt(
                    "there is no further epoch number".to_owned(),
                ));
            };
            let lsn = state.queue.line.lsn;
            let seal = Queued::mark(payload::SEAL, epoch, lsn);
            (epoch, lsn, self.mark(&mut state, seal))
        };
        // Appends of the fenced epoch that wait for room have waited in vain.
        self.shared.changed.notify_waiters();
        Ok(Durable {
            epoch,
            seq: FrameSeq(0),
            lsn,
            position: self.marked(place).await?,
        })
    }

    async fn begin_now(&self, epoch: Epoch, start: Lsn) -> Result<Durable, WalError> {
        // A fenced caller need not make the line ours.
        self.shared.state.lock().queue.line.owns(epoch)?;
        let place = if epoch == Epoch(0) {
            return Err(WalError::NotBegun { epoch });
        } else {
            self.own().await?;
            let mut state = self.shared.state.lock();
            self.shared.check_open(&state)?;
            match state.queue.line.begin(epoch, start)? {
                Taken::Next => {
                    let begin = Queued::mark(payload::BEGIN, epoch, start);
                    Ok(self.mark(&mut state, begin))
                }
                Taken::Resend => Err(state.accepted),
            }
        };
        let position = match place {
            Ok(place) => self.marked(place).await?,
            // The begin that came before is the last accepted entry.
            Err(accepted) => {
                self.until(|state| {
                    if state.durable >= accepted {
                        return Ok(Some(state.begun));
                    }
                    state.health.check().map(|()| None)
                })
                .await?
            }
        };
        Ok(Durable {
            epoch,
            seq: FrameSeq(0),
            lsn: start,
            position,
        })
    }

    async fn append_now(&self, epoch: Epoch, frames: Vec<CheckedFrame>) -> Result<(), WalError> {
        // Appends run in the order of their calls, so that one that waits for
        // room is not overtaken by the next.
        let _turn = self.shared.turn.lock().await;
        let mut queued = queue::encode(epoch, frames, self.shared.config.max_frame_bytes)?;
        {
            let state = self.shared.state.lock();
            self.shared.check_open(&state)?;
            state.queue.check(epoch, &queued)?;
        }
        let limit = self.shared.config.queue_bytes;
        self.until(|state| {
            self.shared.check_open(state)?;
            let before = state.queue.entries.len();
            let done = state.queue.accept(limit, epoch, &mut queued);
            state.count(before);
            self.shared.work.notify_one();
            Ok(done?.then_some(()))
        })
        .await
    }

    async fn close_now(&self) -> Result<(), WalError> {
        self.shared.stop(Closing::Drain);
        self.until(|state| {
            if !state.ended {
                return Ok(None);
            }
            match state.health.check() {
                Err(WalError::Closed) => Ok(Some(())),
                other => other.map(Some),
            }
        })
        .await
    }
}

/// Opens a WAL, on the runtime that it is to use.
async fn open(objects: Objects, config: ObjectWalConfig) -> Result<ObjectWal, WalError> {
    let id = config.entropy.next().map_err(|source| WalError::Io {
        context: "draw the random bytes of a WAL's writer".to_owned(),
        source,
    })?;
    let id = WriterId(id);
    let found = tokio::time::timeout(config.patience, async {
        let mut end = end::find(&objects, end::Sure::Nearly).await?;
        let mut owner = Owner::No;
        if end.next > 0 {
            end = claim::claim(&objects, id, end).await?;
            owner = Owner::Yes;
        }
        Ok::<_, Fault>((end, owner))
    });
    let late = |objects: &Objects| {
        let silent = Failure::new(
            format!("open {}", objects.remote.place("")),
            io::Error::from(io::ErrorKind::TimedOut),
        );
        objects.remote.trouble().unwrap_or(silent).error()
    };
    let (end, owner) = match found.await {
        Ok(found) => found.map_err(|fault| fault.error())?,
        Err(_) => return Err(late(&objects)),
    };
    let (sender, durable) = watch::channel(end.durable());
    let patience = config.patience;
    let shared = Arc::new(Shared::new(objects, config, &end, owner, durable));
    match tokio::time::timeout(patience, shared.find_beginning(&end)).await {
        Ok(found) => found.map_err(|fault| fault.error())?,
        Err(_) => return Err(late(&shared.objects)),
    }
    let runtime = &shared.config.runtime;
    let writer = runtime.spawn(writer::run(Arc::clone(&shared), sender, id, end));
    let trimmer = runtime.spawn(trim::run(Arc::clone(&shared)));
    let tasks = [writer.abort_handle(), trimmer.abort_handle()];
    Ok(ObjectWal { shared, tasks })
}

impl Drop for ObjectWal {
    fn drop(&mut self) {
        self.shared.stop(Closing::Abandon);
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl std::fmt::Debug for ObjectWal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectWal")
            .field("place", &self.shared.objects.remote.place(""))
            .finish_non_exhaustive()
    }
}

impl Wal for ObjectWal {
    fn seal(&self) -> BoxFuture<'_, Result<Durable, WalError>> {
        Box::pin(self.seal_now())
    }

    fn begin(&self, epoch: Epoch, start: Lsn) -> BoxFuture<'_, Result<Durable, WalError>> {
        Box::pin(self.begin_now(epoch, start))
    }

    fn append_checked(
        &self,
        epoch: Epoch,
        frames: Vec<CheckedFrame>,
        _: Writer,
    ) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(self.append_now(epoch, frames))
    }

    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), WalError> {
        let state = self.shared.state.lock();
        state.queue.line.owns(epoch)?;
        Ok((state.queue.line.seq, state.queue.line.lsn))
    }

    fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.clone()
    }

    /// Waits for the store where `position` is not among the newest entries:
    /// blocking.
    fn read_from(&self, position: Position) -> Result<Box<dyn WalReader>, WalError> {
        Ok(Box::new(reader::Reader::open(
            Arc::clone(&self.shared),
            position,
        )?))
    }

    /// Returns at once; the objects are removed a while later.
    fn trim(&self, before: Position) -> Result<(), WalError> {
        let state = self.shared.state.lock();
        state.health.check()?;
        if before > self.shared.durable_now() {
            return Err(WalError::NoSuchPosition(before));
        }
        let number = format::number_and_index(before).0.min(state.known);
        if self.shared.first.fetch_max(number, Ordering::SeqCst) < number {
            self.shared.cache.lock().forget_before(number);
            self.shared.trim.notify_one();
        }
        Ok(())
    }

    fn first(&self) -> Position {
        format::position(self.shared.first(), 0)
    }

    fn stored_bytes(&self) -> u64 {
        self.shared.stored()
    }

    fn failed(&self) -> Option<WalError> {
        self.shared.state.lock().health.check().err()
    }

    fn close(&self) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(self.close_now())
    }
}
