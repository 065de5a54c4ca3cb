//! The scrub: reads everything that branches have in the store, from the store
//! itself, and checks that it is whole and fits together.
//!
//! [`Store::scrub`] checks branches that are open, while they work;
//! [`scrub_place`] checks a place that need not be open. Both change nothing. A store also scrubs by itself, slowly, in a thread of its own
//! (`background`).

pub(crate) mod background;
mod branch;
pub(crate) mod layer;
mod place;
pub mod probe;
mod report;
mod run;

pub use crate::finding::{Finding, FindingKind, LastScrub};
use crate::store::Store;
use branch::BranchCheck;
use layer::Room;
pub use place::scrub_place;
pub use report::{ScrubEvent, ScrubOptions, ScrubProgress, ScrubReport, Tell};
use run::Run;
use std::collections::VecDeque;
use xylem_types::BranchId;

impl Store {
    /// Checks everything that the branches which are open have in the store,
    /// while they work; `tell` hears of it and may stop it. Blocking, for as
    /// long as reading all of it takes.
    pub fn scrub<'a>(&self, options: &ScrubOptions, tell: &'a mut Tell<'a>) -> ScrubReport {
        let live = self.live();
        let wanted = |id: BranchId| {
            let only = options.branches.as_ref();
            only.is_none_or(|only| only.contains(&id))
        };
        let mut todo: VecDeque<_> = live.into_iter().filter(|b| wanted(b.id)).collect();
        let mut run = Run::new(options, tell);
        run.report.progress.branches = todo.len() as u64;
        for shared in &todo {
            let layers = shared.layers();
            run.report.progress.layers += layers.files.len() as u64;
            let bytes: u64 = layers.files.iter().map(|f| f.meta.bytes).sum();
            run.report.progress.bytes += bytes;
        }
        let room = Room::of(self.config().memory_bytes);
        while let Some(shared) = todo.pop_front().filter(|_| !run.report.stopped) {
            let check = BranchCheck::live(&shared, room);
            // Closing or removing it must not wait for a scrub.
            drop(shared);
            let check = run.branch(check);
            if !run.report.stopped {
                check.remember();
            }
        }
        run.report
    }
}
