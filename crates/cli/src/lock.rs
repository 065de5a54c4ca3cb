//! The locks of a state directory.
//!
//! A command that changes the project as a whole holds it alone. Starts and ends of single
//! computes happen side by side: they share the project with each other, and each holds its
//! compute alone. So the start of a branch that hangs keeps no other branch from starting.
//!
//! All are locks on files (`flock(2)`), which end with the process that holds them:
//!
//! | file | held |
//! |---|---|
//! | `lock` | alone by a command that changes the project, shared by the others |
//! | `locks/queue` | alone by the one command that is next to have `lock` alone |
//! | `locks/turn` | by whoever waits for `lock`: shared by those that would share it. Commands that share it follow each other closely, and would otherwise keep one that wants it alone from it for ever |
//! | `locks/compute-NAME` | alone, in addition to `lock`, by a command that starts or ends this compute |
//! | `locks/ports` | while a port is chosen |
//! | `locks/settings` | while `project.toml` is changed by a command that shares the project |

use crate::compute::name::ComputeName;
use crate::failure::{Failure, Kind};
use crate::files;
use crate::state::StateDir;
use anyhow::{Context, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a command waits for another before it says so.
const QUIET: Duration = Duration::from_secs(1);
/// The pause between two attempts.
const POLL: Duration = Duration::from_millis(10);
/// How long a command that wants the project alone keeps others from sharing it while it
/// waits. Ordinary starts have ended by then; one that hangs would hold up all others.
const TURN: Duration = Duration::from_secs(1);
/// The time between two such turns, in which others may begin.
const BREAK: Duration = Duration::from_millis(200);

/// The right to change a project, or to start and end computes in it, until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    state: StateDir,
    limit: Duration,
}

/// The sole right to start and end a compute, until dropped.
#[derive(Debug)]
#[must_use]
pub struct ComputeLock {
    _file: File,
}

/// A lock that is held for moments only, until dropped.
#[derive(Debug)]
#[must_use]
pub struct BriefLock {
    _file: File,
}

impl StateDir {
    /// Waits for the sole right to change things here.
    ///
    /// # Errors
    /// When other commands keep it for longer than `limit`.
    pub async fn lock(&self, limit: Duration) -> Result<Lock> {
        self.lock_as(true, limit, alone(self)).await
    }

    /// Waits for the right to start and end computes, which others may have as well:
    /// [`Lock::compute`] locks a single one.
    ///
    /// # Errors
    /// When a command that changes the project takes longer than `limit`.
    pub async fn share(&self, limit: Duration) -> Result<Lock> {
        self.lock_as(false, limit, shared(self)).await
    }

    async fn lock_as(
        &self,
        is_alone: bool,
        limit: Duration,
        taking: impl Future<Output = Result<File>>,
    ) -> Result<Lock> {
        files::make_private_dir(&self.locks())?;
        let file = wait(self, &whole(self), limit, taking).await?;
        if is_alone {
            note_holder(&file);
        } else {
            // The one that was noted before has ended.
            let _ = file.set_len(0);
        }
        Ok(Lock {
            _file: file,
            state: self.clone(),
            limit,
        })
    }

    /// Waits until nobody else chooses a port here.
    ///
    /// # Errors
    /// When the file cannot be locked.
    pub fn lock_ports(&self) -> Result<BriefLock> {
        self.lock_briefly("ports")
    }

    /// Waits until nobody else changes the project's settings.
    ///
    /// # Errors
    /// When the file cannot be locked.
    pub fn lock_settings(&self) -> Result<BriefLock> {
        self.lock_briefly("settings")
    }

    /// Waits until nobody else makes certificates of computes.
    ///
    /// # Errors
    /// When the file cannot be locked.
    pub fn lock_certificates(&self) -> Result<BriefLock> {
        self.lock_briefly("certificates")
    }

    fn lock_briefly(&self, what: &str) -> Result<BriefLock> {
        files::make_private_dir(&self.locks())?;
        let path = self.locks().join(what);
        let file = open(&path)?;
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(BriefLock { _file: file })
    }

    /// The directory of all locks but the one on the whole.
    fn locks(&self) -> PathBuf {
        self.root().join("locks")
    }

    fn compute_lock(&self, name: &ComputeName) -> PathBuf {
        self.locks().join(format!("compute-{}", name.file_name()))
    }

    /// Removes the lock of a compute whose directory is gone. The caller has it, or the
    /// project alone.
    pub fn forget_lock(&self, name: &ComputeName) {
        // A file that is left over does no harm.
        let _ = std::fs::remove_file(self.compute_lock(name));
    }
}

impl Lock {
    /// Waits for the sole right to start and end the compute `name`.
    ///
    /// # Errors
    /// When another command keeps it for longer than this lock was waited for at most.
    pub async fn compute(&self, name: &ComputeName) -> Result<ComputeLock> {
        self.compute_within(name, self.limit).await
    }

    /// As [`Lock::compute`], without waiting.
    ///
    /// # Errors
    /// When another command has it.
    pub async fn try_compute(&self, name: &ComputeName) -> Result<ComputeLock> {
        self.compute_within(name, Duration::ZERO).await
    }

    async fn compute_within(&self, name: &ComputeName, limit: Duration) -> Result<ComputeLock> {
        let path = self.state.compute_lock(name);
        let file = wait(&self.state, &path, limit, take(&path, File::try_lock)).await?;
        note_holder(&file);
        Ok(ComputeLock { _file: file })
    }
}

fn whole(state: &StateDir) -> PathBuf {
    state.root().join("lock")
}

fn turn(state: &StateDir) -> PathBuf {
    state.locks().join("turn")
}

async fn alone(state: &StateDir) -> Result<File> {
    // One at a time: the turns of many would leave no break in which others may begin.
    let _next = take(&state.locks().join("queue"), File::try_lock).await?;
    loop {
        let _turn = take(&turn(state), File::try_lock).await?;
        let whole = whole(state);
        let taking = take(&whole, File::try_lock);
        if let Ok(taken) = tokio::time::timeout(TURN, taking).await {
            return taken;
        }
        drop(_turn);
        tokio::time::sleep(BREAK).await;
    }
}

async fn shared(state: &StateDir) -> Result<File> {
    let _turn = take(&turn(state), File::try_lock_shared).await?;
    take(&whole(state), File::try_lock_shared).await
}

/// Notes that this process has the lock on `file` alone.
fn note_holder(mut file: &File) {
    file.set_len(0)
        .and_then(|()| writeln!(file, "pid {}", std::process::id()))
        .ok();
}

/// Waits for `taking`, the lock on the file `path`, for `limit` at most.
async fn wait(
    state: &StateDir,
    path: &Path,
    limit: Duration,
    taking: impl Future<Output = Result<File>>,
) -> Result<File> {
    let mut taking = std::pin::pin!(taking);
    let silent = limit.min(QUIET);
    let mut taken = tokio::time::timeout(silent, &mut taking).await;
    if taken.is_err() && limit > silent {
        eprintln!("waiting for another xylem command{}", holder(path));
        taken = tokio::time::timeout(limit - silent, &mut taking).await;
    }
    let Ok(file) = taken else {
        return Err(Failure::unchanged(
            Kind::Conflict,
            format!(
                "another xylem command{} is still changing {}",
                holder(path),
                state.root().display()
            ),
            "wait for it to end, or end it if it hangs",
        ));
    };
    file
}

/// The process that has the lock on `path` alone, as it has noted itself: ` (pid 17)`.
fn holder(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    match text.trim() {
        "" => String::new(),
        process => format!(" ({process})"),
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(files::SECRET)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Tries to lock the file `path` until that succeeds.
async fn take(path: &Path, try_lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<File> {
    let failed = || format!("cannot lock {}", path.display());
    let mut file = open(path)?;
    loop {
        match try_lock(&file) {
            // Its last owner may have removed it.
            Ok(()) if is_at(&file, path).with_context(failed)? => return Ok(file),
            Ok(()) => file = open(path)?,
            Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Whether `file` is the one that has the name `path` now.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = match std::fs::metadata(path) {
        Ok(here) => here,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let file = file.metadata()?;
    Ok((file.dev(), file.ino()) == (here.dev(), here.ino()))
}
