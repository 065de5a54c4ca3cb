//! Counters of a branch, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that many threads raise.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// Counters of a branch since it was opened, and what it holds now.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct BranchStats {
            $($(#[$doc])* pub $name: u64,)*
            /// Layer files.
            pub layers: u64,
            /// Their bytes.
            pub layer_bytes: u64,
            /// Bytes of memory in the open layer.
            pub open_layer_bytes: u64,
            /// Bytes of memory in layers that wait to be flushed.
            pub frozen_layer_bytes: u64,
            /// Layers that wait to be flushed.
            pub frozen_layers: u64,
            /// Bytes of delta layers.
            pub delta_bytes: u64,
            /// Bytes of image layers.
            pub image_bytes: u64,
            /// Bytes of versions, before packing, that newer ones in the same
            /// layer follow: about what folding would take away.
            pub old_bytes: u64,
            /// Runs of layers: what a read may have to look into.
            pub runs: u64,
            /// Bytes of all tablespaces as files, as of the last look.
            pub database_bytes: u64,
            /// Bytes of layers that wait to be merged, as of the last look.
            pub merge_debt_bytes: u64,
            /// Its forks.
            pub forks: u64,
            /// Where the history kept begins; 0 while there is none.
            pub oldest_lsn: u64,
            /// How far back the history kept reaches, in microseconds; 0 when
            /// that is not known.
            pub history_us: u64,
            /// Bytes that the scrub under way has still to read.
            pub scrub_left_bytes: u64,
            /// Damage that the last scrub found.
            pub scrub_damaged: u64,
            /// When that ended, in microseconds since 1970; 0: never.
            pub scrub_ended_us: u64,
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> BranchStats {
                BranchStats { $($name: self.$name.get(),)* ..BranchStats::default() }
            }
        }
    };
}

counters! {
    /// Mini-transactions ingested.
    mtrs,
    /// Bytes of redo ingested.
    redo_bytes,
    /// Side-file operations ingested.
    file_ops,
    /// Times at which the clock that stamps the WAL was set, or not watched.
    clock_steps,
    /// Times that ingest waited for memory.
    ingest_waits,
    /// Layers flushed.
    flushes,
    /// Bytes of layers that flushes wrote.
    flushed_bytes,
    /// Flushes that failed and were tried again.
    flush_failures,
    /// Page images written by flushes and merges.
    images_written,
    /// Merges of layers that were finished.
    merges,
    /// Bytes of layers that merges wrote.
    merged_bytes,
    /// Merges that failed and were put off.
    merge_failures,
    /// Keys found that cannot be folded.
    unfoldable_keys,
    /// Scrubs that came to their end.
    scrubs,
    /// Bytes that scrubs read.
    scrubbed_bytes,
    /// Damage that scrubs found, each time they found it.
    scrub_damage,
    /// Trims of the WAL that failed.
    trim_failures,
    /// Pages asked for: the sum of the next three, and errors.
    get_pages,
    /// Reads of pages that their versions do not make.
    unreadable_pages,
    /// Pages answered from the page cache as they stood there.
    page_cache_hits,
    /// Pages brought forward from an older version in the page cache.
    page_cache_forwarded,
    /// Pages built without the page cache.
    page_cache_misses,
    /// Runs of records applied to pages.
    records_applied,
    /// Blocks found in the block cache.
    block_cache_hits,
    /// Blocks read from layer files.
    blocks_read,
    /// Blocks that were bad on local disk and good in the store.
    blocks_repaired,
    /// Layer files that reads of pages looked into for them.
    read_layers,
    /// Layers that a read looked into.
    layers_visited,
    /// Layers that a filter let a read pass by.
    layers_skipped,
}
