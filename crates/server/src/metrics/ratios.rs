//! How much more is written, read and kept than must be: ratios of what the
//! page store counts since a branch was opened.

use super::BranchLabel;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use xylem_pages::BranchStats;

type Ratio = Family<BranchLabel, Gauge<f64, AtomicU64>>;

/// Name, help, what is divided by what.
const RATIOS: [(&str, &str, Parts); 3] = [
    (
        "write_amplification",
        "Bytes of layers written for each byte of redo, since the branch was opened",
        |s| (s.flushed_bytes + s.merged_bytes, s.redo_bytes),
    ),
    (
        "read_amplification",
        "Layer files looked into for each page asked for, since the branch was opened",
        |s| (s.read_layers, s.get_pages),
    ),
    (
        "space_amplification",
        "Bytes of the branch's own layers for each byte of its tablespaces",
        |s| (s.layer_bytes, s.database_bytes),
    ),
];

type Parts = fn(&BranchStats) -> (u64, u64);

/// All of them.
#[derive(Default)]
pub(super) struct Ratios([Ratio; 3]);

impl Ratios {
    pub(super) fn register(&self, registry: &mut Registry) {
        for ((name, help, _), family) in RATIOS.iter().zip(&self.0) {
            registry.register(*name, *help, family.clone());
        }
    }

    /// Sets those of one branch, or forgets a branch that is no more. A ratio
    /// whose divisor is not known is 0.
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
