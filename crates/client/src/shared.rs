//! What all connections of one initialisation share.

use crate::config::{Config, Limits};
use crate::grpc::{Code, Metadata, RpcStatus};
use crate::log::{self, Level, Reachability, Stalls};
use crate::redo::Queue;
use crate::stats::Stats;
use crate::status::{Error, Status};
use crate::threads::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

/// Shared by the threads of the library and its callers.
#[derive(Debug)]
pub struct Shared {
    /// What the library was started with.
    pub config: Config,
    /// What may change since.
    pub limits: Limits,
    /// The head of every request.
    pub metadata: Metadata,
    /// Counters.
    pub stats: Stats,
    /// Whether the server is there.
    pub reach: Reachability,
    /// What a server that is there makes wait.
    pub stalls: Stalls,
    /// The redo stream, once it has begun; never for a reader.
    pub redo: OnceLock<std::sync::Arc<Queue>>,
    fenced: AtomicBool,
}

impl Shared {
    /// Checks what can be checked without the server.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: Config) -> Result<Shared, Error> {
        let metadata = Metadata::new(
            config.server(),
            &config.branch,
            config.epoch,
            config.token.as_deref(),
        )?;
        Ok(Shared {
            limits: Limits::new(
                config.request_timeout_ms,
                config.retry_limit_ms,
                config.clock.clone(),
            ),
            metadata,
            stats: Stats::default(),
            reach: Reachability::new(config.server()),
            stalls: Stalls::new(config.server()),
            redo: OnceLock::new(),
            fenced: AtomicBool::new(false),
            config,
        })
    }

    /// Whether something waits for long.
    pub fn is_stalled(&self) -> bool {
        self.stalls.any() || self.reach.is_lost()
    }

    /// Whether a newer compute owns the branch. Once it does, it always does.
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// The error that every call gets after that.
    pub fn fenced_error(&self) -> Error {
        Error::new(
            Status::Fenced,
            format!(
                "branch {} is owned by a newer compute than epoch {}: stop this server",
                self.config.branch, self.config.epoch
            ),
        )
    }

    /// The server refused the epoch: ends redo here and now; page connections
    /// see it at their next look.
    pub fn fence(&self, message: &str) {
        if !self.fenced.swap(true, Ordering::AcqRel) {
            let error = self.fenced_error();
            remember(&error);
            log::write(
                Level::Error,
                &format!("{} (the page server says: {message})", error.message),
            );
            if let Some(redo) = self.redo.get() {
                redo.fail(error);
            }
        }
    }

    /// What a call that ended with `status` ends with; fences if need be.
    pub fn refused(&self, status: &RpcStatus, what: &str) -> Error {
        if status.code == Code::FailedPrecondition {
            self.fence(&status.message);
            return self.fenced_error();
        }
        Error::new(
            status.code.status(),
            format!(
                "{what}: page server {} answers: {status}",
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

/// The newest error of the library, empty when there was none.
pub fn last_error() -> String {
    lock(&LAST_ERROR).clone()
}
