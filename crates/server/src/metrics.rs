//! The server's metrics; docs/metrics.md lists names and units.
//!
//! Counters and histograms are updated when an event occurs. Gauges mirror state that is
//! kept elsewhere, and are set at each scrape.

mod ratios;

use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use ratios::Ratios;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use xylem_pages::BranchStats;
use xylem_wal::BackupStatus;

/// Buckets in seconds: from the time of a cached page to that of a cold disk.
const PAGE_BUCKETS: [f64; 16] = [
    5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5, 1.0,
    5.0,
];
/// Buckets in seconds: from the fsync of a fast disk to that of a slow one.
const WAL_BUCKETS: [f64; 13] = [
    5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.5, 2.5,
];

/// The label of all metrics of a branch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BranchLabel {
    branch: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReadLabels {
    branch: String,
    result: ReadResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabels {
    kind: StreamKind,
}

/// How a page read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are label values")]
pub enum ReadResult {
    /// Answered from the cache, without waiting.
    cached,
    /// Read from layers, or answered after a wait.
    read,
    /// The tablespace or page does not exist.
    not_found,
    /// The LSN was not reached in time.
    timeout,
    /// Refused: an old epoch, or an LSN older than the history.
    refused,
    /// Any other failure.
    failed,
}

impl ReadResult {
    /// All results, in the order of their discriminants.
    const ALL: [ReadResult; 6] = [
        ReadResult::cached,
        ReadResult::read,
        ReadResult::not_found,
        ReadResult::timeout,
        ReadResult::refused,
        ReadResult::failed,
    ];
}

/// The call of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are label values")]
pub enum StreamKind {
    /// PageStream.
    pages,
    /// StreamWAL.
    wal,
    /// BaseBackup.
    backup,
}

#[derive(Clone)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(self.0.iter().copied())
    }
}

type Gauges = Family<BranchLabel, Gauge>;
type Lags = Family<BranchLabel, Gauge<f64, AtomicU64>>;
type Seconds = Family<BranchLabel, Histogram, Buckets>;

/// Every metric of a server.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Calls and connections refused for lack of a valid token.
    pub unauthenticated: Counter,
    /// Connections without TLS where it is required, and failed handshakes.
    pub tls_failures: Counter,
    page_reads: Family<ReadLabels, Counter>,
    page_read_seconds: Seconds,
    page_bytes: Family<BranchLabel, Counter>,
    wal_received: Family<BranchLabel, Counter>,
    wal_frames: Family<BranchLabel, Counter>,
    wal_appends: Family<BranchLabel, Counter>,
    wal_durable_seconds: Seconds,
    wal_throttled_seconds: Family<BranchLabel, Counter<f64, AtomicU64>>,
    wal_refused: Family<BranchLabel, Counter>,
    attaches: Family<BranchLabel, Counter>,
    streams: Family<StreamLabels, Gauge>,
    durable_lsn: Gauges,
    applied_lsn: Gauges,
    lag_bytes: Gauges,
    epoch: Gauges,
    wal_bytes: Gauges,
    wal_backup_seconds: Lags,
    wal_backup_bytes: Gauges,
    wal_backup_up: Gauges,
    layer_bytes: Gauges,
    branch_up: Gauges,
    memory_used: Gauge,
    memory_budget: Gauge,
    mirrored: Vec<(Family<BranchLabel, Counter>, Read)>,
    held: Vec<(Gauges, Read)>,
    ratios: Ratios,
}

/// Reads one value from the page store's statistics.
type Read = fn(&BranchStats) -> u64;

/// Counters of the page store: name, help, value.
const MIRRORED: [(&str, &str, Read); 27] = [
    ("ingest_bytes", "Bytes of redo ingested", |s| s.redo_bytes),
    ("ingest_mtrs", "Mini-transactions ingested", |s| s.mtrs),
    ("ingest_file_ops", "Side-file operations ingested", |s| {
        s.file_ops
    }),
    (
        "clock_steps",
        "Steps of the system clock, and gaps in watching it",
        |s| s.clock_steps,
    ),
    ("ingest_waits", "Waits of ingest for memory", |s| {
        s.ingest_waits
    }),
    ("layer_flushes", "Layers flushed", |s| s.flushes),
    (
        "layer_flush_failures",
        "Flushes that failed and were retried",
        |s| s.flush_failures,
    ),
    (
        "layer_flushed_bytes",
        "Layer bytes written by flushes",
        |s| s.flushed_bytes,
    ),
    ("layer_merges", "Merges of layers finished", |s| s.merges),
    ("layer_merged_bytes", "Layer bytes written by merges", |s| {
        s.merged_bytes
    }),
    (
        "layer_merge_failures",
        "Merges that failed and were postponed",
        |s| s.merge_failures,
    ),
    (
        "unfoldable_keys",
        "Keys found whose history cannot be folded",
        |s| s.unfoldable_keys,
    ),
    (
        "unreadable_pages",
        "Reads of pages that their versions do not make",
        |s| s.unreadable_pages,
    ),
    (
        "layer_images_written",
        "Page images written by flushes",
        |s| s.images_written,
    ),
    ("wal_trim_failures", "WAL trims that failed", |s| {
        s.trim_failures
    }),
    (
        "page_cache_hits",
        "Pages answered from the page cache without changes",
        |s| s.page_cache_hits,
    ),
    (
        "page_cache_forwarded",
        "Pages built from an older version in the page cache",
        |s| s.page_cache_forwarded,
    ),
    (
        "page_cache_misses",
        "Pages built without the page cache",
        |s| s.page_cache_misses,
    ),
    (
        "block_cache_hits",
        "Layer blocks found in the block cache",
        |s| s.block_cache_hits,
    ),
    ("blocks_read", "Layer blocks read from files", |s| {
        s.blocks_read
    }),
    (
        "page_read_layers",
        "Layer files searched by page reads",
        |s| s.read_layers,
    ),
    (
        "layers_visited",
        "Layers searched by lookups of any kind",
        |s| s.layers_visited,
    ),
    (
        "layers_skipped",
        "Layers that page reads skipped because of a filter",
        |s| s.layers_skipped,
    ),
    (
        "blocks_repaired",
        "Layer blocks that were damaged on local disk and intact in the store",
        |s| s.blocks_repaired,
    ),
    ("scrubs", "Scrubs of the branch completed", |s| s.scrubs),
    ("scrub_read_bytes", "Bytes read by scrubs", |s| {
        s.scrubbed_bytes
    }),
    (
        "scrub_damage",
        "Damage found by scrubs, counted again by each scrub",
        |s| s.scrub_damage,
    ),
];

/// Gauges of the page store: name, help, value.
const HELD: [(&str, &str, Read); 16] = [
    ("layers", "Layer files", |s| s.layers),
    ("open_layer_bytes", "Memory of the open layer", |s| {
        s.open_layer_bytes
    }),
    (
        "frozen_layer_bytes",
        "Memory of layers that wait to be flushed",
        |s| s.frozen_layer_bytes,
    ),
    ("frozen_layers", "Layers that wait to be flushed", |s| {
        s.frozen_layers
    }),
    ("delta_layer_bytes", "Bytes of delta layers", |s| {
        s.delta_bytes
    }),
    ("image_layer_bytes", "Bytes of image layers", |s| {
        s.image_bytes
    }),
    (
        "layer_old_bytes",
        "Uncompressed bytes of versions that newer versions of the same key in the layer follow",
        |s| s.old_bytes,
    ),
    (
        "layer_runs",
        "Runs of layers, each of which a read may have to search",
        |s| s.runs,
    ),
    (
        "merge_debt_bytes",
        "Bytes of layers that wait to be merged or folded",
        |s| s.merge_debt_bytes,
    ),
    (
        "database_bytes",
        "Size of all tablespaces as files, updated periodically",
        |s| s.database_bytes,
    ),
    ("forks", "Child branches", |s| s.forks),
    ("oldest_lsn", "LSN at which the kept history begins", |s| {
        s.oldest_lsn
    }),
    (
        "history_seconds",
        "Time that the kept history covers",
        |s| s.history_us / 1_000_000,
    ),
    (
        "scrub_left_bytes",
        "Bytes that the background scrub has yet to read",
        |s| s.scrub_left_bytes,
    ),
    (
        "scrub_damaged",
        "Damage found by the last scrub of the branch",
        |s| s.scrub_damaged,
    ),
    (
        "scrub_ended_timestamp_seconds",
        "Time at which the last scrub of the branch ended, since 1970; 0: never",
        |s| s.scrub_ended_us / 1_000_000,
    ),
];

/// The counters of one branch, so that updates need no lookup.
pub struct BranchMetrics {
    /// Reads by result, in the order of [`ReadResult`].
    reads: [Counter; 6],
    read_seconds: Histogram,
    page_bytes: Counter,
    /// Payload bytes of frames received from computes.
    pub wal_received: Counter,
    /// Frames received from computes.
    pub wal_frames: Counter,
    /// Groups of frames handed to the WAL.
    pub wal_appends: Counter,
    /// Time from handing a group to the WAL until the group is known to be durable.
    pub wal_durable_seconds: Histogram,
    /// Time for which pacing delayed writers.
    pub wal_throttled_seconds: Counter<f64, AtomicU64>,
    /// Frames rejected because they are damaged or their redo is invalid.
    pub wal_refused: Counter,
    /// Epochs created.
    pub attaches: Counter,
}

/// The state of a branch at a scrape.
#[derive(Debug, Default)]
pub struct BranchState {
    /// The end of the durable redo.
    pub durable_lsn: u64,
    /// The LSN up to which page reads can see changes.
    pub applied_lsn: u64,
    /// The newest epoch.
    pub epoch: u64,
    /// Bytes that the WAL takes in its store.
    pub wal_bytes: u64,
    /// The progress of the WAL's backup, if it has one.
    pub backup: Option<BackupStatus>,
    /// Bytes of layers.
    pub layer_bytes: u64,
    /// The WAL and ingest work.
    pub up: bool,
    /// The statistics of the page store.
    pub stats: BranchStats,
}

impl Metrics {
    /// Creates and registers all metrics.
    pub fn new() -> Metrics {
        let metrics = Metrics {
            registry: Mutex::new(Registry::with_prefix("xylem")),
            unauthenticated: Counter::default(),
            tls_failures: Counter::default(),
            page_reads: Family::default(),
            page_read_seconds: Family::new_with_constructor(Buckets(&PAGE_BUCKETS)),
            page_bytes: Family::default(),
            wal_received: Family::default(),
            wal_frames: Family::default(),
            wal_appends: Family::default(),
            wal_durable_seconds: Family::new_with_constructor(Buckets(&WAL_BUCKETS)),
            wal_throttled_seconds: Family::default(),
            wal_refused: Family::default(),
            attaches: Family::default(),
            streams: Family::default(),
            durable_lsn: Gauges::default(),
            applied_lsn: Gauges::default(),
            lag_bytes: Gauges::default(),
            epoch: Gauges::default(),
            wal_bytes: Gauges::default(),
            wal_backup_seconds: Lags::default(),
            wal_backup_bytes: Gauges::default(),
            wal_backup_up: Gauges::default(),
            layer_bytes: Gauges::default(),
            branch_up: Gauges::default(),
            memory_used: Gauge::default(),
            memory_budget: Gauge::default(),
            mirrored: MIRRORED
                .map(|(_, _, read)| (Family::default(), read))
                .into(),
            held: HELD.map(|(_, _, read)| (Family::default(), read)).into(),
            ratios: Ratios::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&self) {
        let registry = &mut *self.registry.lock();
        let m = self;
        registry.register("page_reads", "Page reads by result", m.page_reads.clone());
        registry.register_with_unit(
            "page_read",
            "Time from a page request to its answer",
            Unit::Seconds,
            m.page_read_seconds.clone(),
        );
        registry.register_with_unit(
            "page_read",
            "Bytes of pages returned",
            Unit::Bytes,
            m.page_bytes.clone(),
        );
        registry.register_with_unit(
            "wal_received",
            "Payload bytes of frames received",
            Unit::Bytes,
            m.wal_received.clone(),
        );
        registry.register("wal_frames", "Frames received", m.wal_frames.clone());
        registry.register(
            "wal_appends",
            "Groups of frames handed to the WAL",
            m.wal_appends.clone(),
        );
        registry.register_with_unit(
            "wal_durable",
            "Time from handing frames to the WAL until they are known to be durable",
            Unit::Seconds,
            m.wal_durable_seconds.clone(),
        );
        registry.register_with_unit(
            "wal_throttled",
            "Time for which writers were delayed because ingest or merges lag",
            Unit::Seconds,
            m.wal_throttled_seconds.clone(),
        );
        registry.register(
            "wal_refused",
            "Frames rejected because they are damaged or their redo is invalid",
            m.wal_refused.clone(),
        );
        registry.register(
            "unauthenticated",
            "Calls and connections refused for lack of a valid token",
            m.unauthenticated.clone(),
        );
        registry.register(
            "tls_failures",
            "Connections without TLS where it is required, and failed handshakes",
            m.tls_failures.clone(),
        );
        registry.register("attaches", "Attaches of computes", m.attaches.clone());
        registry.register("streams", "Open streams", m.streams.clone());
        registry.register(
            "durable_lsn",
            "End of the durable redo",
            m.durable_lsn.clone(),
        );
        registry.register(
            "applied_lsn",
            "LSN up to which page reads can see changes",
            m.applied_lsn.clone(),
        );
        registry.register_with_unit(
            "ingest_lag",
            "Durable redo that is not applied yet",
            Unit::Bytes,
            m.lag_bytes.clone(),
        );
        registry.register("epoch", "The newest epoch", m.epoch.clone());
        registry.register_with_unit(
            "wal",
            "Size of the WAL in its store",
            Unit::Bytes,
            m.wal_bytes.clone(),
        );
        registry.register_with_unit(
            "wal_backup_lag",
            "Age of the oldest WAL entry that the backup in the object store lacks",
            Unit::Seconds,
            m.wal_backup_seconds.clone(),
        );
        registry.register_with_unit(
            "wal_backup",
            "Size of the WAL backup that this server wrote to the object store",
            Unit::Bytes,
            m.wal_backup_bytes.clone(),
        );
        registry.register(
            "wal_backup_up",
            "1 while the WAL is copied to the object store, 0 when copying has ended",
            m.wal_backup_up.clone(),
        );
        registry.register_with_unit(
            "layer",
            "Size of the branch's own layers",
            Unit::Bytes,
            m.layer_bytes.clone(),
        );
        registry.register(
            "branch_up",
            "1 while the branch is open and its WAL and ingest work, else 0",
            m.branch_up.clone(),
        );
        registry.register_with_unit(
            "memory_used",
            "Memory that pages and WALs use",
            Unit::Bytes,
            m.memory_used.clone(),
        );
        registry.register_with_unit(
            "memory_budget",
            "Limit of the memory that pages and WALs use",
            Unit::Bytes,
            m.memory_budget.clone(),
        );
        for ((name, help, _), (family, _)) in MIRRORED.iter().zip(&m.mirrored) {
            registry.register(*name, *help, family.clone());
        }
        for ((name, help, _), (family, _)) in HELD.iter().zip(&m.held) {
            registry.register(*name, *help, family.clone());
        }
        m.ratios.register(registry);
    }

    /// The counters of branch `name`, created at first use.
    pub fn branch(&self, name: &str) -> BranchMetrics {
        let label = BranchLabel {
            branch: name.to_owned(),
        };
        BranchMetrics {
            reads: ReadResult::ALL.map(|result| {
                self.page_reads
                    .get_or_create(&ReadLabels {
                        branch: name.to_owned(),
                        result,
                    })
                    .clone()
            }),
            read_seconds: self.page_read_seconds.get_or_create(&label).clone(),
            page_bytes: self.page_bytes.get_or_create(&label).clone(),
            wal_received: self.wal_received.get_or_create(&label).clone(),
            wal_frames: self.wal_frames.get_or_create(&label).clone(),
            wal_appends: self.wal_appends.get_or_create(&label).clone(),
            wal_durable_seconds: self.wal_durable_seconds.get_or_create(&label).clone(),
            wal_throttled_seconds: self.wal_throttled_seconds.get_or_create(&label).clone(),
            wal_refused: self.wal_refused.get_or_create(&label).clone(),
            attaches: self.attaches.get_or_create(&label).clone(),
        }
    }

    /// Sets `branch_up` to 0 for a branch that is not open.
    pub fn set_closed(&self, name: &str) {
        // Values of the time when the branch was open would look current.
        self.forget_branch(name);
        let label = BranchLabel {
            branch: name.to_owned(),
        };
        self.branch_up.get_or_create(&label).set(0);
    }

    /// Removes the metrics of branch `name`.
    pub fn forget_branch(&self, name: &str) {
        let label = BranchLabel {
            branch: name.to_owned(),
        };
        for result in ReadResult::ALL {
            self.page_reads.remove(&ReadLabels {
                branch: name.to_owned(),
                result,
            });
        }
        self.page_read_seconds.remove(&label);
        self.wal_durable_seconds.remove(&label);
        self.wal_throttled_seconds.remove(&label);
        self.wal_refused.remove(&label);
        for counter in [
            &self.page_bytes,
            &self.wal_received,
            &self.wal_frames,
            &self.wal_appends,
            &self.attaches,
        ] {
            counter.remove(&label);
        }
        for gauge in [
            &self.durable_lsn,
            &self.applied_lsn,
            &self.lag_bytes,
            &self.epoch,
            &self.wal_bytes,
            &self.wal_backup_bytes,
            &self.wal_backup_up,
            &self.layer_bytes,
            &self.branch_up,
        ] {
            gauge.remove(&label);
        }
        self.wal_backup_seconds.remove(&label);
        for (family, _) in &self.held {
            family.remove(&label);
        }
        for (family, _) in &self.mirrored {
            family.remove(&label);
        }
        self.ratios.set(&label, None);
    }

    /// Counts a stream until the guard is dropped.
    pub fn stream(&self, kind: StreamKind) -> StreamGuard {
        let gauge = self.streams.get_or_create(&StreamLabels { kind }).clone();
        gauge.inc();
        StreamGuard(gauge)
    }

    /// Sets the metrics that mirror the state of branch `name`.
    pub fn set_branch(&self, name: &str, state: &BranchState) {
        let label = BranchLabel {
            branch: name.to_owned(),
        };
        let set = |family: &Gauges, value: u64| {
            family
                .get_or_create(&label)
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.durable_lsn, state.durable_lsn);
        set(&self.applied_lsn, state.applied_lsn);
        set(
            &self.lag_bytes,
            state.durable_lsn.saturating_sub(state.applied_lsn),
        );
        set(&self.epoch, state.epoch);
        set(&self.wal_bytes, state.wal_bytes);
        if let Some(backup) = &state.backup {
            set(&self.wal_backup_bytes, backup.stored_bytes);
            set(&self.wal_backup_up, u64::from(!backup.failed));
            let gauge = self.wal_backup_seconds.get_or_create(&label);
            gauge.set(backup.age.unwrap_or_default().as_secs_f64());
        }
        set(&self.layer_bytes, state.layer_bytes);
        set(&self.branch_up, u64::from(state.up));
        for (family, read) in &self.held {
            set(family, read(&state.stats));
        }
        self.ratios.set(&label, Some(&state.stats));
        for (family, read) in &self.mirrored {
            let counter = family.get_or_create(&label);
            counter.inc_by(read(&state.stats).saturating_sub(counter.get()));
        }
    }

    /// Sets the gauges of the whole server.
    pub fn set_memory(&self, used: u64, budget: u64) {
        self.memory_used
            .set(i64::try_from(used).unwrap_or(i64::MAX));
        self.memory_budget
            .set(i64::try_from(budget).unwrap_or(i64::MAX));
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl BranchMetrics {
    /// Counts a page read.
    pub fn read(&self, result: ReadResult, bytes: usize, took: Duration) {
        self.reads[result as usize].inc();
        self.page_bytes.inc_by(bytes as u64);
        self.read_seconds.observe(took.as_secs_f64());
    }
}

/// An open stream, counted until dropped.
pub struct StreamGuard(Gauge);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
