//! How the backend in an object store is set up.

use crate::{Memory, WalError};
use std::io;
use std::time::Duration;
use tokio::runtime::Handle;
use xylem_ambient::{Clock, Entropy};
use xylem_objects::{GiveUp, Retry};

/// How an [`crate::ObjectWal`] uses its store and memory.
#[derive(Clone, Debug)]
pub struct ObjectWalConfig {
    /// Where requests run. It must have a thread to spare for them while a
    /// reader waits for one: a runtime of several threads, with timers.
    pub runtime: Handle,
    /// Bytes of entries in one object at most (or one entry).
    pub object_bytes: u64,
    /// Bytes of frames in memory, accepted and not yet durable. A single frame
    /// may exceed it when nothing else waits.
    pub queue_bytes: u64,
    /// The largest payload of a frame.
    pub max_frame_bytes: u64,
    /// How long the first of several entries waits for others to share its
    /// object, also when one could be sent at once. Each object is a request
    /// that a store may charge for.
    pub linger: Duration,
    /// Objects on their way at a time, at most. Entries that come meanwhile
    /// share the next one.
    pub puts_max: usize,
    /// Whether the number of objects on their way, and how often they are sent,
    /// follow the latency that is measured. Otherwise `puts_max` of them are
    /// sent as soon as there are entries.
    pub adaptive: bool,
    /// Objects sent in a second at most, where that is adaptive.
    pub puts_per_second: u32,
    /// Whether an object that takes far longer than is usual, while others wait
    /// for it, is put a second time.
    pub hedge: bool,
    /// Bytes of the newest objects that are kept for readers.
    pub cache_bytes: u64,
    /// How far a reader fetches ahead: about this many bytes, and as many
    /// objects as `read_ahead_objects` says.
    pub read_ahead_bytes: u64,
    /// See `read_ahead_bytes`.
    pub read_ahead_objects: usize,
    /// How requests are tried again: for ever, so that a WAL outlives a store
    /// that is away, or refuses until an operator mends it.
    pub retry: Retry,
    /// How long opening and reading wait for a store that does not answer. The
    /// writer waits for ever.
    pub patience: Duration,
    /// How long closing waits for what is queued.
    pub drain: Duration,
    /// The memory budget of all WALs together. `queue_bytes` counts in it.
    pub memory: Memory,
    /// Where entries get their time from.
    pub clock: Clock,
    /// The source of the random bytes that tell writers apart.
    pub entropy: Entropy,
}

impl ObjectWalConfig {
    /// The defaults, with requests that run on `runtime`.
    pub fn new(runtime: Handle) -> ObjectWalConfig {
        ObjectWalConfig {
            runtime,
            object_bytes: 4 << 20,
            queue_bytes: 32 << 20,
            max_frame_bytes: 8 << 20,
            linger: Duration::ZERO,
            puts_max: 16,
            adaptive: true,
            puts_per_second: 2000,
            hedge: true,
            cache_bytes: 16 << 20,
            read_ahead_bytes: 16 << 20,
            read_ahead_objects: 32,
            retry: Retry::forever(),
            patience: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            memory: Memory::default(),
            clock: Clock::system(),
            entropy: Entropy::system(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), WalError> {
        let wrong = if self.max_frame_bytes > 1 << 30 || self.object_bytes > 1 << 30 {
            // Lengths and offsets in an object are 32 bits wide.
            "object_bytes and max_frame_bytes may be 1 GiB at most"
        } else if self.puts_max == 0 || self.puts_per_second == 0 || self.read_ahead_objects == 0 {
            "puts_max, puts_per_second and read_ahead_objects must be 1 at least"
        } else if self.retry.give_up != GiveUp::Never {
            "retry must never give up: a WAL ends when a request fails"
        } else {
            return Ok(());
        };
        Err(WalError::Io {
            context: "configuration of the object-store WAL".to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, wrong),
        })
    }
}
