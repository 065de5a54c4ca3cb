//! The context of every command: the state directory, how to print, the clock
//! and the source of randomness.

use crate::args::Global;
use crate::failure::{Failure, Kind};
use crate::lock::Lock;
use crate::moment::{Moment, When};
use crate::progress::{Listener, Progress};
use crate::remote::Remote;
use crate::state::StateDir;
use anyhow::{Context, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use xylem_ambient::{Clock, Entropy};

/// How long a command waits for others that change the project, unless it has less time.
pub const LOCK_LIMIT: Duration = Duration::from_secs(120);

/// The context of a command.
#[derive(Clone, Debug)]
pub struct App {
    /// The state directory.
    pub state: StateDir,
    /// Print JSON.
    pub json: bool,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// The API of a server elsewhere, if that is to do the work.
    pub remote: Option<Arc<Remote>>,
    /// Takes the progress, in place of the terminal.
    pub listener: Option<Listener>,
    /// Asked whether a command that has the lock may still do its work.
    pub check: Option<Check>,
    /// How long to wait for other commands that change the project.
    pub lock_limit: Duration,
    /// Cancelled when commands that have not begun to change anything must give up.
    pub stopping: CancellationToken,
    /// Cancelled when an import or an export must end and leave nothing.
    pub cancelled: CancellationToken,
    /// The state directory as `--dir` named it.
    asked: Option<PathBuf>,
}

impl App {
    /// From the options that every command takes.
    ///
    /// # Errors
    /// When the current directory cannot be told, or options contradict each other.
    pub fn new(global: &Global, clock: Clock, entropy: Entropy) -> Result<App> {
        if global.server.is_some() && global.dir.is_some() {
            return Err(Failure::usage(
                "--dir (or XYLEM_DIR) is a project on this machine, and --server (or XYLEM_SERVER) one elsewhere",
                "leave one of them out, or unset the variable",
            ));
        }
        Ok(App {
            state: StateDir::find(global.dir.as_deref())?,
            json: global.json,
            remote: Remote::find(global, &clock, &entropy)?.map(Arc::new),
            clock,
            entropy,
            listener: None,
            check: None,
            lock_limit: LOCK_LIMIT,
            stopping: CancellationToken::new(),
            cancelled: CancellationToken::new(),
            asked: global.dir.clone(),
        })
    }

    /// A context for the state directory `dir`.
    ///
    /// # Errors
    /// As for [`App::new`].
    pub fn at(dir: &Path, clock: Clock, entropy: Entropy) -> Result<App> {
        let global = Global {
            dir: Some(dir.to_owned()),
            ..Global::default()
        };
        App::new(&global, clock, entropy)
    }

    /// The same for the errors of clients elsewhere: commands in them do not name this
    /// machine's state directory.
    pub fn for_clients(self) -> App {
        App {
            asked: None,
            ..self
        }
    }

    /// Does `work` unless it is cancelled, before or meanwhile.
    ///
    /// # Errors
    /// Those of `work`, and that it was cancelled.
    pub async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(match self.stopping.is_cancelled() {
                true => Failure::of(
                    Kind::Unavailable,
                    "this process is stopping: the work was cancelled, and has left nothing",
                    "begin again in a moment",
                ),
                false => {
                    Failure::of(Kind::Conflict, "it was cancelled, and has left nothing", "")
                }
            }),
            done = work => done,
        }
    }

    /// The time of day.
    ///
    /// # Errors
    /// When the clock is further away than a timestamp reaches.
    pub fn now(&self) -> Result<Timestamp> {
        let us = i64::try_from(self.clock.now_us()).context("the clock is out of range")?;
        Timestamp::from_microsecond(us).context("the clock is out of range")
    }

    /// The moment that people mean by `when`, now and in this machine's time zone.
    ///
    /// # Errors
    /// When it is a local time that the clocks skipped or showed twice.
    pub fn moment(&self, when: Option<When>) -> Result<Option<Moment>> {
        let Some(when) = when else { return Ok(None) };
        let moment = when.resolve(self.now()?, &TimeZone::system());
        moment.map(Some).map_err(|what| Failure::usage(what, ""))
    }

    /// A further command, as it must be typed to mean this state directory.
    pub fn command(&self, rest: &str) -> String {
        if let Some(remote) = &self.remote {
            return remote.command(rest);
        }
        let by_env = std::env::var_os(crate::state::VARIABLE).is_some_and(|v| !v.is_empty());
        match &self.asked {
            Some(dir) if !by_env && dir != Path::new(".xylem") => {
                format!(
                    "xylem --dir {} {rest}",
                    shell_word(&self.state.root().to_string_lossy())
                )
            }
            _ => format!("xylem {rest}"),
        }
    }

    /// A line on the terminal that shows progress, or what takes its place.
    pub fn progress(&self) -> Progress {
        match &self.listener {
            Some(listener) => Progress::told_to(listener.clone()),
            None => Progress::new(true),
        }
    }

    /// Waits for the sole right to change the state directory.
    ///
    /// # Errors
    /// When another command keeps it for longer than `lock_limit`, or this process is
    /// stopping.
    pub async fn lock(&self) -> Result<Lock> {
        self.wait_for(self.state.lock(self.lock_limit)).await
    }

    /// Waits for the right to start and end computes, which other commands may have as
    /// well.
    ///
    /// # Errors
    /// As for [`App::lock`].
    pub async fn share(&self) -> Result<Lock> {
        self.wait_for(self.state.share(self.lock_limit)).await
    }

    /// Asks whether the command may still do its work.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<()> {
        self.check.as_ref().map_or(Ok(()), Check::run)
    }

    async fn wait_for(&self, lock: impl Future<Output = Result<Lock>>) -> Result<Lock> {
        let lock = tokio::select! {
            biased;
            () = self.stopping.cancelled() => Err(Failure::unchanged(
                Kind::Unavailable,
                "this process is stopping, and nothing was changed",
                "try again in a moment",
            )),
            lock = lock => lock,
        };
        self.check()?;
        lock
    }
}

/// A question that is asked before a command changes something.
#[derive(Clone)]
pub struct Check(Arc<dyn Fn() -> Result<()> + Send + Sync>);

impl Check {
    /// The question `asked`, which fails where the answer is no.
    pub fn new(asked: impl Fn() -> Result<()> + Send + Sync + 'static) -> Check {
        Check(Arc::new(asked))
    }

    fn run(&self) -> Result<()> {
        (self.0)()
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").finish_non_exhaustive()
    }
}

/// `text` as one word of a shell command.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
