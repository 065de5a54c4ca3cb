//! The counters of a branch, and what it holds now.

use super::shared::Shared;
use crate::layer::format::LayerKind;
use crate::stats::BranchStats;
use std::sync::atomic::Ordering;

impl Shared {
    /// Counters since the branch was opened, and what it holds now.
    pub(crate) fn branch_stats(&self) -> BranchStats {
        let layers = self.layers();
        let mut out = self.stats.snapshot();
        out.layers = layers.files.len() as u64;
        out.layer_bytes = layers.files.iter().map(|f| f.meta.bytes).sum();
        out.open_layer_bytes = layers.open.memory();
        out.frozen_layer_bytes = layers.frozen.iter().map(|f| f.layer.memory()).sum();
        out.frozen_layers = layers.frozen.len() as u64;
        for f in layers.files.iter() {
            match f.meta.kind {
                LayerKind::Delta => out.delta_bytes += f.meta.bytes,
                LayerKind::Image => out.image_bytes += f.meta.bytes,
            }
            out.old_bytes += f.meta.old_bytes;
        }
        out.runs = layers.files.runs();
        out.database_bytes = self.health.database.lock().bytes;
        out.forks = self.forks.branches().len() as u64;
        out.oldest_lsn = self.oldest().unwrap_or_default().0;
        let looked = *self.health.looked.lock();
        out.merge_debt_bytes = looked.debt_bytes;
        let age = looked.oldest_sample.and_then(|s| self.age_us(&s));
        out.history_us = age.unwrap_or(0);
        out.scrub_left_bytes = self.health.scrub_left.load(Ordering::Relaxed);
        let scrub = self.health.scrubbed.last();
        let damage = scrub.findings.iter().filter(|f| f.is_damage()).count();
        out.scrub_damaged = damage as u64;
        out.scrub_ended_us = scrub.ended_us.unwrap_or(0);
        out
    }
}
