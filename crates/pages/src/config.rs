//! The settings of a store.

use std::time::Duration;
use xylem_ambient::{Clock, Entropy};

/// The settings of a store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Memory for open layers, frozen layers, indexes and caches of all
    /// branches together, in bytes.
    pub memory_bytes: u64,
    /// Redo bytes an open layer holds before it is frozen and flushed. A
    /// quarter of `memory_bytes` is the most that is used.
    pub open_layer_bytes: u64,
    /// A page that gathered this many bytes of redo since its last image, in
    /// one flush or in layers that are merged, gets a new image there. So a
    /// read applies at most about as much of each run of layers.
    pub image_after_bytes: u64,
    /// As `image_after_bytes`, for the number of mtrs.
    pub image_after_mtrs: u32,
    /// A page whose read has to gather this much more from memory is built, so
    /// that the next one need not: bytes of redo and 64 for each mtr.
    pub long_chain_bytes: u64,
    /// Most bytes of a layer that a merge writes, about.
    pub merged_layer_bytes: u64,
    /// An open layer is flushed when it has been open for so long.
    pub flush_after: Duration,
    /// How far back every LSN stays readable: time that the steady clock of a
    /// running server has seen pass.
    pub history: Duration,
    /// Tells the time: the same clock as the WAL's. What threads of the store
    /// wait for, such as the pause after a failed merge, goes by the system's
    /// steady clock instead, so that a clock that stands still holds up nobody.
    pub clock: Clock,
    /// Where the random parts of file names and writer ids come from.
    pub entropy: Entropy,
    /// Whether the WAL is trimmed behind what layers durably hold.
    pub trim_wal: bool,
    /// Bytes that the background scrub reads from the store in a second, over
    /// all branches; 0: there is none.
    pub scrub_bytes_per_second: u64,
    /// The least time between two background scrubs of a branch.
    pub scrub_pause: Duration,
}

impl Default for StoreConfig {
    /// 512 MiB of memory.
    fn default() -> StoreConfig {
        StoreConfig {
            memory_bytes: 512 << 20,
            open_layer_bytes: 64 << 20,
            image_after_bytes: 32 << 10,
            image_after_mtrs: 512,
            long_chain_bytes: 512 << 10,
            merged_layer_bytes: 128 << 20,
            flush_after: Duration::from_secs(300),
            history: Duration::from_secs(7 * 24 * 3600),
            clock: Clock::system(),
            entropy: Entropy::system(),
            trim_wal: true,
            scrub_bytes_per_second: 2 << 20,
            scrub_pause: Duration::from_secs(3600),
        }
    }
}
