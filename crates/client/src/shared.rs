//! The state that all connections of one initialisation share.

use crate::config::{Config, Limits};
use crate::log::{self, Level, Reachability, Stalls};
use crate::redo::Queue;
use crate::refusal::{Code, Refusal};
use crate::stats::Stats;
use crate::status::{Error, Status};
use crate::threads::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

/// Shared by the threads of the library and its callers.
#[derive(Debug)]
pub struct Shared {
    /// The configuration that the library was started with.
    pub config: Config,
    /// The limits that can change later.
    pub limits: Limits,
    /// Counters.
    pub stats: Stats,
    /// Whether the server is reachable.
    pub reach: Reachability,
    /// Long waits for a server that responds.
    pub stalls: Stalls,
    /// The redo stream, once it has begun. A reader has none.
    pub redo: OnceLock<std::sync::Arc<Queue>>,
    fenced: AtomicBool,
    ending: AtomicBool,
}

impl Shared {
    /// The state of a library with this configuration.
    pub fn new(config: Config) -> Shared {
        Shared {
            limits: Limits::new(
                config.request_timeout_ms,
                config.retry_limit_ms,
                config.clock.clone(),
            ),
            stats: Stats::default(),
            reach: Reachability::new(config.server()),
            stalls: Stalls::new(config.server()),
            redo: OnceLock::new(),
            fenced: AtomicBool::new(false),
            ending: AtomicBool::new(false),
            config,
        }
    }

    /// Whether something has a long wait, or the server is unreachable.
    pub fn is_stalled(&self) -> bool {
        self.stalls.any() || self.reach.is_lost()
    }

    /// Whether a newer compute owns the branch. This never becomes false again.
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// Whether the library is being shut down. Attempts to connect end then.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Notes that the library is being shut down.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// The error of every call after the compute was fenced.
    pub fn fenced_error(&self) -> Error {
        Error::new(
            Status::Fenced,
            format!(
                "a newer compute than epoch {} owns branch {}; stop this server",
                self.config.epoch, self.config.branch
            ),
        )
    }

    /// Notes that the server refused the epoch. The redo stream ends at once;
    /// page connections notice it at their next check.
    pub fn fence(&self, message: &str) {
        if !self.fenced.swap(true, Ordering::AcqRel) {
            let error = self.fenced_error();
            remember(&error);
            log::write(
                Level::Error,
                &format!("{} (the page server's answer: {message})", error.message),
            );
            if let Some(redo) = self.redo.get() {
                redo.fail(error);
            }
        }
    }

    /// The error of a request that the server refused. Fences the compute if the
    /// refusal says so.
    pub fn refused(&self, refusal: &Refusal, what: &str) -> Error {
        if refusal.code == Code::FailedPrecondition {
            self.fence(&refusal.message);
            return self.fenced_error();
        }
        Error::new(
            refusal.code.status(),
            format!(
                "{what}: page server {} answered: {refusal}",
                self.config.server()
            ),
        )
    }
}

static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

/// Keeps the error for `xylem_last_error`.
pub fn remember(error: &Error) {
    lock(&LAST_ERROR).clone_from(&error.message);
}

/// The message of the library's newest error; empty if there was none.
pub fn last_error() -> String {
    lock(&LAST_ERROR).clone()
}
