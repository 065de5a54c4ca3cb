//! The backup of a local WAL in an object store. Entries are copied
//! continuously, so that a lost disk costs at most the configured interval, and
//! [`restore()`] makes a directory of them again.
//!
//! `docs/formats/wal.md`, "Backup", draws the objects and says which of them
//! count.

mod config;
mod copier;
mod format;
mod line;
mod restore;

use crate::disk::{Disk, os::OsDisk};
use crate::failure::Failure;
use crate::remote::Remote;
use crate::{LocalWal, LocalWalConfig, Position, WalError};
pub use config::BackupConfig;
use copier::{Shared, State};
use format::Generation;
use line::Fault;
use parking_lot::Mutex;
pub use restore::{Floor, Restored};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use xylem_objects::Objects;

/// How far a backup is.
#[derive(Debug)]
pub struct BackupStatus {
    /// Everything before this place is in the store. `None` while that is not
    /// known.
    pub position: Option<Position>,
    /// The age of the first durable entry that is not in the store, or an upper
    /// limit where that entry was not read; `None` when the store has all
    /// entries.
    pub age: Option<Duration>,
    /// Bytes of the backup's objects.
    pub stored_bytes: u64,
    /// Why copying does not go on: for a while, or, after the backup has ended,
    /// for good. Also set when objects in the store are damaged.
    pub trouble: Option<WalError>,
    /// It has ended with an error: nothing more is copied.
    pub failed: bool,
}

/// Copies a local WAL to an object store while it is written.
///
/// Dropped without [`Backup::close`], copying stops at once.
pub struct Backup {
    shared: Arc<Shared>,
    durable: watch::Receiver<crate::Durable>,
    task: AbortHandle,
}

impl Backup {
    /// Begins to copy `wal` to the objects in the folder `objects`, where
    /// nothing else may be. A copy of the same WAL that is there is continued.
    /// Returns at once, whether the store answers or not.
    ///
    /// `generation` is this server's right to write the branch, as a number:
    /// never given twice, greater than that of every server before. The backup
    /// that begins with a greater one counts; this one ends when it finds a
    /// greater one, and can do that one no harm before.
    ///
    /// # Errors
    /// [`WalError::Io`] when the configuration is wrong.
    pub fn start(
        wal: &LocalWal,
        objects: &Objects,
        generation: u64,
        config: BackupConfig,
    ) -> Result<Backup, WalError> {
        config.check()?;
        let writer = config.entropy.next().map_err(|source| WalError::Io {
            context: "draw the random bytes of a backup's writer".to_owned(),
            source,
        })?;
        let remote = Remote::new(objects, config.retry);
        let source = wal.source();
        let durable = source.durable();
        let state = State {
            behind_us: Some(config.clock.now_us()),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            remote,
            generation: Generation(generation),
            state: Mutex::new(state),
            work: Notify::new(),
            changed: Notify::new(),
            closing: watch::channel(false).0,
            config,
        });
        let copier = copier::run(copier::Ending(Arc::clone(&shared)), source, writer);
        let task = shared.config.runtime.spawn(copier).abort_handle();
        Ok(Backup {
            shared,
            durable,
            task,
        })
    }

    /// How far it is.
    pub fn status(&self) -> BackupStatus {
        let end = self.durable.borrow().position();
        let failure = copier::trouble(&self.shared);
        let state = self.shared.state.lock();
        let ended = state.ended.as_ref().and_then(|e| e.as_ref().err());
        let now = self.shared.config.clock.now_us();
        let behind = state.position.unwrap_or_default() < end;
        let since = state.oldest_us.or(state.behind_us).unwrap_or(now);
        let damage = state.damage.clone().map(WalError::Corrupt);
        BackupStatus {
            position: state.position,
            age: behind.then(|| Duration::from_micros(now.saturating_sub(since))),
            stored_bytes: state.stored_bytes,
            trouble: match ended {
                Some(fault) => Some(fault.error()),
                None => failure.map(|failure| failure.error()).or(damage),
            },
            failed: ended.is_some(),
        }
    }

    /// Waits until everything before `position` is in the store, without
    /// waiting for the interval. If an epoch is given to a compute only after
    /// its seal is in the store, a server that has only the backup does not
    /// give it out again.
    ///
    /// # Errors
    /// Why the backup has ended.
    pub async fn reach(&self, position: Position) -> Result<(), WalError> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.shared.state.lock();
                // A WAL without entries has no known position, and needs none.
                if state.position.unwrap_or_default() >= position {
                    return Ok(());
                }
                if let Some(ended) = &state.ended {
                    return Err(match ended {
                        Err(fault) => fault.error(),
                        Ok(()) => WalError::Closed,
                    });
                }
                state.reach = state.reach.max(position);
            }
            self.shared.work.notify_one();
            changed.await;
        }
    }

    /// Waits until the backup ends, and says how.
    pub fn ended(&self) -> impl Future<Output = Result<(), WalError>> + Send + 'static {
        let shared = Arc::clone(&self.shared);
        async move { ended(&shared).await }
    }

    /// Marks entries before `before` as no longer needed. Their objects are
    /// removed later, in the background.
    pub fn trim(&self, before: Position) {
        let mut state = self.shared.state.lock();
        state.trim = state.trim.max(before);
        drop(state);
        self.shared.work.notify_one();
    }

    /// Copies what is durable, then ends.
    ///
    /// # Errors
    /// Why the backup has ended before that.
    pub async fn close(&self) -> Result<(), WalError> {
        self.shared.closing.send_replace(true);
        self.shared.work.notify_one();
        ended(&self.shared).await
    }
}

async fn ended(shared: &Shared) -> Result<(), WalError> {
    loop {
        let changed = shared.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if let Some(ended) = &shared.state.lock().ended {
            return ended.clone().map_err(|fault: Fault| fault.error());
        }
        changed.await;
    }
}

/// Where a backup ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The place after the last entry that [`restore()`] would find; 0 where
    /// there is none.
    pub position: Position,
    /// The damage that would make a restore fail. The position then follows
    /// from the names and lengths of objects alone.
    pub damage: Option<String>,
}

/// Finds the end of the entries in the folder `objects`.
///
/// # Errors
/// [`WalError::Io`] when the store refuses, or is silent for as long as the
/// configuration has patience.
pub async fn end(objects: &Objects, config: BackupConfig) -> Result<End, WalError> {
    config.check()?;
    let looking = |remote: Arc<Remote>, _| -> crate::BoxFuture<'static, _> {
        Box::pin(async move {
            match line::find(&remote).await {
                Ok(line) => {
                    let last = line.and_then(|line| line.ranges.last().map(|range| range.end));
                    Ok(End {
                        position: last.unwrap_or_default(),
                        damage: None,
                    })
                }
                Err(Fault::Corrupt(why)) => {
                    let listed = line::listed(&remote).await.map_err(|fault| fault.error())?;
                    Ok(End {
                        position: listed.map(|(_, end)| end).unwrap_or_default(),
                        damage: Some(why),
                    })
                }
                Err(fault) => Err(fault.error()),
            }
        })
    };
    patiently(objects, config, "look at the backup in", looking).await
}

/// Does `work`, unless the store is silent for as long as the configuration
/// has patience.
async fn patiently<T: Send + 'static>(
    objects: &Objects,
    config: BackupConfig,
    what: &'static str,
    work: impl FnOnce(Arc<Remote>, BackupConfig) -> crate::BoxFuture<'static, Result<T, WalError>>,
) -> Result<T, WalError> {
    let remote = Remote::new(objects, config.retry);
    let remote = Arc::new(remote);
    let (runtime, patience) = (config.runtime.clone(), config.patience);
    let working = work(Arc::clone(&remote), config);
    let place = remote.place("");
    let working = runtime.spawn(async move {
        tokio::select! {
            done = working => done,
            trouble = remote.silent_for(patience) => Err(trouble.error()),
        }
    });
    working.await.unwrap_or_else(|e| {
        let failure = Failure::new(format!("{what} {place}"), io::Error::other(e));
        Err(failure.error())
    })
}

impl Drop for Backup {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("place", &self.shared.remote.place(""))
            .field("generation", &self.shared.generation.0)
            .finish_non_exhaustive()
    }
}

/// Restores the WAL that was backed up in the folder `objects` to the directory
/// `dir`, which must hold no WAL. [`LocalWal::open`] then finds the same
/// entries at the same positions and a seal behind them, so that no compute of
/// the lost WAL continues and no epoch is given out twice. If the backup ends
/// before `floor`, or there is none, the WAL has that seal alone, at `floor`.
///
/// `generation` is a server's right as in [`Backup::start`], which needs a
/// greater one afterwards. Anything that a server of a lesser generation copies
/// from now on is outside of the line, so the restored entries stay as they
/// are.
///
/// Entries that are neither in the backup nor in the page store are lost with
/// their disk.
///
/// # Errors
/// [`WalError::Corrupt`] with the object that is missing or damaged; the
/// directory then does not open as a WAL, and can be restored again.
/// [`WalError::Superseded`] when a generation as great has begun.
/// [`WalError::Io`], of kind `AlreadyExists` when `dir` holds a WAL.
pub async fn restore(
    objects: &Objects,
    generation: u64,
    dir: &std::path::Path,
    floor: Floor,
    wal: LocalWalConfig,
    config: BackupConfig,
) -> Result<Restored, WalError> {
    let disk = Arc::new(OsDisk::new(dir, config.entropy.clone()));
    restore_on(objects, generation, disk, floor, wal, config).await
}

/// As [`restore()`], on any [`Disk`].
///
/// # Errors
/// As [`restore()`].
pub async fn restore_on(
    objects: &Objects,
    generation: u64,
    disk: Arc<dyn Disk>,
    floor: Floor,
    wal: LocalWalConfig,
    config: BackupConfig,
) -> Result<Restored, WalError> {
    config.check()?;
    let generation = Generation(generation);
    let restoring = move |remote: Arc<Remote>, config| -> crate::BoxFuture<'static, _> {
        Box::pin(
            async move { restore::restore(&remote, generation, disk, floor, wal, &config).await },
        )
    };
    patiently(objects, config, "restore a WAL from", restoring).await
}
