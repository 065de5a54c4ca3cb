//! How the local backend is set up.

use super::format::SEGMENT_HEADER_BYTES;
use crate::entry::ENTRY_HEADER_BYTES;
use crate::{Memory, WalError};
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};

/// How a [`crate::LocalWal`] uses its directory and memory.
#[derive(Clone, Debug)]
pub struct LocalWalConfig {
    /// Bytes of a segment file, the unit of trimming. A WAL that was never
    /// sealed has no segment, and the first few segments are smaller, so that
    /// an idle branch takes little room.
    pub segment_bytes: u64,
    /// Bytes of frames in memory, accepted and not yet durable. A single frame
    /// may exceed it when nothing else waits.
    pub queue_bytes: u64,
    /// The largest payload of a frame.
    pub max_frame_bytes: u64,
    /// Bytes written before an fdatasync at most (or one entry).
    pub batch_bytes: u64,
    /// Bytes a reader fetches at once.
    pub read_ahead_bytes: u64,
    /// The number of trimmed segment files that are kept for reuse. A reused
    /// file need not be filled with zeros.
    pub spare_segments: usize,
    /// How long to wait before trying again for room on a full disk.
    pub retry: Duration,
    /// The memory budget of all WALs together. `queue_bytes` counts in it.
    pub memory: Memory,
    /// Where entries get their time from.
    pub clock: Clock,
    /// Where segments get their salts from.
    pub entropy: Entropy,
}

impl Default for LocalWalConfig {
    fn default() -> LocalWalConfig {
        LocalWalConfig {
            segment_bytes: 64 << 20,
            queue_bytes: 32 << 20,
            max_frame_bytes: 8 << 20,
            batch_bytes: 4 << 20,
            read_ahead_bytes: 1 << 20,
            spare_segments: 2,
            retry: Duration::from_secs(1),
            memory: Memory::default(),
            clock: Clock::system(),
            entropy: Entropy::system(),
        }
    }
}

impl LocalWalConfig {
    /// Bytes of the smallest segment that takes any frame.
    pub(crate) fn segment_bytes_min(&self) -> u64 {
        SEGMENT_HEADER_BYTES
            .saturating_add(ENTRY_HEADER_BYTES as u64)
            .saturating_add(self.max_frame_bytes)
    }

    /// Bytes of segment `number`: doubling from the smallest.
    pub(crate) fn segment_bytes_of(&self, number: u64) -> u64 {
        let doublings = u32::try_from(number.saturating_sub(1)).unwrap_or(u32::MAX);
        let grown = self
            .segment_bytes_min()
            .saturating_mul(2u64.saturating_pow(doublings));
        grown.min(self.segment_bytes)
    }

    pub(crate) fn check(&self) -> Result<(), WalError> {
        let wrong = if self.segment_bytes < self.segment_bytes_min() {
            format!(
                "segment_bytes is {}, less than the {} that the largest frame takes",
                self.segment_bytes,
                self.segment_bytes_min()
            )
        } else if self.segment_bytes > 1 << 32
            || self.batch_bytes > 1 << 30
            || self.max_frame_bytes > 1 << 30
        {
            // `length` and `behind` in an entry's header are 32 bits wide.
            "segment_bytes may be 4 GiB, batch_bytes and max_frame_bytes 1 GiB at most".to_owned()
        } else {
            return Ok(());
        };
        Err(WalError::Io {
            context: "configuration of the local WAL".to_owned(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, wrong),
        })
    }
}
