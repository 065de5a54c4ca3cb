//! The backend on this machine's disk: preallocated segment files, one writer at a
//! time, one fdatasync for everything that came while the last one ran.
//!
//! `docs/formats/wal.md` draws the files and says what a crash does to them.

mod config;
mod create;
mod format;
mod prepare;
mod reader;
mod recover;
mod remains;
mod scan;
mod segments;
mod shared;
#[cfg(test)]
mod tests;
mod writer;

use crate::disk::{Disk, os, os::OsDisk};
use crate::entry::payload;
use crate::line::Taken;
use crate::queue::{self, Queued};
use crate::{BoxFuture, CheckedFrame, Durable, Position, Wal, WalError, WalReader, Writer};
pub use config::LocalWalConfig;
pub(crate) use create::Maker;
pub(crate) use reader::Reader;
use segments::Name;
use shared::{Closing, Health, Shared};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;
use xylem_types::{Epoch, FrameSeq, Lsn};

/// A branch's WAL in a directory of this machine.
///
/// Dropped without [`Wal::close`] it ends as in a crash: entries that were not
/// durable may be lost. Both wait for the write that is under way.
pub struct LocalWal {
    shared: Arc<Shared>,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl LocalWal {
    /// Whether `dir` holds a WAL, or parts of one. False also for a WAL whose
    /// restore was interrupted.
    ///
    /// # Errors
    /// The system's error, unless there is no such directory.
    pub fn is_in(dir: &Path) -> std::io::Result<bool> {
        let names = match os::names(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            names => names?,
        };
        let whole = !names.iter().any(|name| name == segments::UNFINISHED);
        let mut names = names.iter().filter_map(|name| Name::parse(name));
        Ok(whole && names.any(|name| matches!(name, Name::Segment(_))))
    }

    /// Opens the WAL in `dir`, which is created if it does not exist, and
    /// recovers it after a crash. Blocking.
    ///
    /// # Errors
    /// [`WalError::Corrupt`] when something durable is damaged;
    /// [`WalError::Io`], of kind `WouldBlock` when another owner has it open.
    pub fn open(dir: &Path, config: LocalWalConfig) -> Result<LocalWal, WalError> {
        LocalWal::open_on(Arc::new(OsDisk::new(dir, config.entropy.clone())), config)
    }

    /// As [`LocalWal::open`], on any [`Disk`].
    ///
    /// # Errors
    /// As [`LocalWal::open`].
    pub fn open_on(disk: Arc<dyn Disk>, config: LocalWalConfig) -> Result<LocalWal, WalError> {
        config.check()?;
        let recovered = recover::recover(&*disk, &config)?;
        let (sender, durable) = watch::channel(recovered.durable);
        let shared = Arc::new(Shared::new(disk, config, &recovered, durable));
        let pen = writer::Writer::new(&shared, sender, recovered.active, recovered.time_us);
        *shared.pen.lock() = Some(pen);
        let writer = {
            let (owner, shared) = (Arc::clone(&shared), Arc::clone(&shared));
            std::thread::Builder::new()
                .name("xylem-wal".to_owned())
                .stack_size(256 << 10)
                .spawn(move || writer::run(&shared, recovered.lock))
                .map_err(|source| {
                    // The pen refers to `shared`, which has it.
                    owner.pen.lock().take();
                    WalError::Io {
                        context: "start the WAL's writer thread".to_owned(),
                        source,
                    }
                })?
        };
        Ok(LocalWal {
            shared,
            writer: Some(writer),
        })
    }

    /// The source that the backup reads from.
    pub(crate) fn source(&self) -> Source {
        Source {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Waits until everything before `end` is durable.
    async fn wait(&self, end: Position) -> Result<(), WalError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.shared.state.lock();
                if state.durable.position >= end {
                    return Ok(());
                }
                state.health.check()?;
            }
            changed.await;
        }
    }

    async fn seal_now(&self) -> Result<Durable, WalError> {
        let durable = {
            let mut state = self.shared.state.lock();
            state.check_open()?;
            let Some(epoch) = state.queue.line.seal() else {
                return Err(WalError::Corrupt(
                    "there is no further epoch number".to_owned(),
                ));
            };
            let lsn = state.queue.line.lsn;
            state.queue.push(Queued::mark(payload::SEAL, epoch, lsn));
            Durable {
                epoch,
                seq: FrameSeq(0),
                lsn,
                position: Position(state.queue.accepted),
            }
        };
        self.shared.work.notify_all();
        // Appends of the fenced epoch that wait for room have waited in vain.
        self.shared.changed.notify_waiters();
        self.wait(durable.position).await?;
        Ok(durable)
    }

    async fn begin_now(&self, epoch: Epoch, start: Lsn) -> Result<Durable, WalError> {
        let durable = {
            let mut state = self.shared.state.lock();
            state.check_open()?;
            if state.queue.line.begin(epoch, start)? == Taken::Next {
                state.queue.push(Queued::mark(payload::BEGIN, epoch, start));
            }
            Durable {
                epoch,
                seq: FrameSeq(0),
                lsn: start,
                position: Position(state.queue.accepted),
            }
        };
        self.shared.work.notify_all();
        self.wait(durable.position).await?;
        Ok(durable)
    }

    async fn append_now(
        &self,
        epoch: Epoch,
        frames: Vec<CheckedFrame>,
        writer: Writer,
    ) -> Result<(), WalError> {
        // Appends run in the order of their calls, so that one that waits for
        // room is not overtaken by the next.
        let _turn = self.shared.turn.lock().await;
        let mut queued = queue::encode(epoch, frames, self.shared.config.max_frame_bytes)?;
        {
            let state = self.shared.state.lock();
            state.check_open()?;
            state.queue.check(epoch, &queued)?;
        }
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let done = {
                let mut state = self.shared.state.lock();
                state.check_open()?;
                let limit = self.shared.config.queue_bytes;
                state.queue.accept(limit, epoch, &mut queued)?
            };
            // What waits for room needs the writer to make some.
            if !done || writer == Writer::Wake {
                self.shared.work.notify_all();
            }
            if done {
                return Ok(());
            }
            changed.await;
        }
    }

    async fn close_now(&self) -> Result<(), WalError> {
        self.shared.stop(Closing::Drain);
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let state = self.shared.state.lock();
                match &state.health {
                    Health::Closed if state.ended => return Ok(()),
                    failed @ Health::Failed(_) if state.ended => return failed.check(),
                    _ => {}
                }
            }
            changed.await;
        }
    }
}

/// A WAL as its backup sees it, which copies entries byte by byte. It stays
/// readable after the WAL has ended.
#[derive(Clone)]
pub(crate) struct Source {
    shared: Arc<Shared>,
}

impl Source {
    /// See [`Wal::durable`].
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.clone()
    }

    /// See [`Wal::first`].
    pub fn first(&self) -> Position {
        self.shared.segments.read().first()
    }

    /// See [`Wal::read_from`].
    pub fn reader(&self, position: Position) -> Result<Reader, WalError> {
        Reader::open(Arc::clone(&self.shared), position)
    }
}

impl Drop for LocalWal {
    fn drop(&mut self) {
        self.shared.stop(Closing::Abandon);
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(dir = %self.shared.disk.path().display(), "the WAL's writer thread panicked");
        }
    }
}

impl std::fmt::Debug for LocalWal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalWal")
            .field("dir", &self.shared.disk.path())
            .finish_non_exhaustive()
    }
}

impl Wal for LocalWal {
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
        writer: Writer,
    ) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(self.append_now(epoch, frames, writer))
    }

    fn write_queued(&self) {
        writer::write_queued(&self.shared);
    }

    fn accepted(&self, epoch: Epoch) -> Result<(FrameSeq, Lsn), WalError> {
        let state = self.shared.state.lock();
        state.queue.line.owns(epoch)?;
        Ok((state.queue.line.seq, state.queue.line.lsn))
    }

    fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.clone()
    }

    fn read_from(&self, position: Position) -> Result<Box<dyn WalReader>, WalError> {
        Ok(Box::new(reader::Reader::open(
            Arc::clone(&self.shared),
            position,
        )?))
    }

    /// Removes files and syncs the directory: blocking.
    fn trim(&self, before: Position) -> Result<(), WalError> {
        self.shared.trim(before)
    }

    fn first(&self) -> Position {
        self.shared.segments.read().first()
    }

    fn stored_bytes(&self) -> u64 {
        self.shared
            .stored
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    fn failed(&self) -> Option<WalError> {
        match &self.shared.state.lock().health {
            Health::Failed(failure) => Some(failure.error()),
            Health::Closed => Some(WalError::Closed),
            Health::Running | Health::Stalled(_) => None,
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(self.close_now())
    }
}
