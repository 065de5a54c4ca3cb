//! Write, read and space amplification, computed from the page store's counters since a
//! branch was opened.

use super::BranchLabel;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use xylem_pages::BranchStats;

type Ratio = Family<BranchLabel, Gauge<f64, AtomicU64>>;

/// Name, help, dividend and divisor.
const RATIOS: [(&str, &str, Parts); 3] = [
    (
        "write_amplification",
        "Layer bytes written per byte of redo since the branch was opened",
        |s| (s.flushed_bytes + s.merged_bytes, s.redo_bytes),
    ),
    (
        "read_amplification",
        "Layer files searched per page read since the branch was opened",
        |s| (s.read_layers, s.get_pages),
    ),
    (
        "space_amplification",
        "Bytes of the branch's own layers per byte of its tablespaces",
        |s| (s.layer_bytes, s.database_bytes),
    ),
];

type Parts = fn(&BranchStats) -> (u64, u64);

#[derive(Default)]
pub(super) struct Ratios([Ratio; 3]);

impl Ratios {
    pub(super) fn register(&self, registry: &mut Registry) {
        for ((name, help, _), family) in RATIOS.iter().zip(&self.0) {
            registry.register(*name, *help, family.clone());
        }
    }

    /// Sets the ratios of a branch, or removes them if `stats` is `None`. A ratio whose
    /// divisor is 0 is 0.
    pub(super) fn set(&self, label: &BranchLabel, stats: Option<&BranchStats>) {
        for ((_, _, parts), family) in RATIOS.iter().zip(&self.0) {
            let Some((above, below)) = stats.map(parts) else {
                family.remove(label);
                continue;
            };
            let ratio = match below {
                0 => 0.0,
                below => above as f64 / below as f64,
            };
            family.get_or_create(label).set(ratio);
        }
    }
}
