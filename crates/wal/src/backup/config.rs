//! How a backup is set up.

use crate::WalError;
use std::io;
use std::time::Duration;
use tokio::runtime::Handle;
use xylem_ambient::{Clock, Entropy};
use xylem_objects::{GiveUp, Retry};

/// How a [`crate::Backup`] copies.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// Where requests run, and files are read.
    pub runtime: Handle,
    /// The greatest age of an entry that is not in the store, as long as the
    /// store answers: the most that a lost disk costs.
    pub interval: Duration,
    /// The most bytes of entries in one object (or one entry). When this much
    /// has accumulated, it is copied without waiting for the interval.
    pub object_bytes: u64,
    /// Objects on their way at a time; each is in memory until it has arrived.
    pub puts_max: usize,
    /// How requests are tried again: for ever, so that copying outlives a store
    /// that is away, or refuses until an operator mends it.
    pub retry: Retry,
    /// How long restoring waits for a store that does not answer. Copying
    /// waits for ever.
    pub patience: Duration,
    /// How long closing waits for entries that are not copied.
    pub drain: Duration,
    /// The clock of the WAL, which tells how old entries are.
    pub clock: Clock,
    /// The source of the random bytes that tell writers apart.
    pub entropy: Entropy,
}

impl BackupConfig {
    /// The defaults, with requests that run on `runtime`.
    pub fn new(runtime: Handle) -> BackupConfig {
        BackupConfig {
            runtime,
            interval: Duration::from_secs(1),
            object_bytes: 4 << 20,
            puts_max: 4,
            retry: Retry::forever(),
            patience: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            clock: Clock::system(),
            entropy: Entropy::system(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), WalError> {
        let forever = self.retry.give_up == GiveUp::Never;
        if self.object_bytes <= 1 << 30 && self.puts_max > 0 && forever {
            return Ok(());
        }
        Err(WalError::Io {
            context: "configuration of the WAL's backup".to_owned(),
            source: io::Error::new(
                io::ErrorKind::InvalidInput,
                "object_bytes may be 1 GiB at most, puts_max must be 1 at least, retry must never give up",
            ),
        })
    }
}
