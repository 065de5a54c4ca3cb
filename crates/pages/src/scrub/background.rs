//! The scrub that a store does by itself: a little now and then in a thread of
//! its own, one branch after the other, over and over.

use super::branch::{BranchCheck, Step};
use super::layer::Room;
use crate::branch::shared::Shared;
use crate::resources::Resources;
use crate::store::Store;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use xylem_types::BranchId;

/// Between two turns.
const TICK: Duration = Duration::from_millis(500);
/// After the start other things come first.
const FIRST: Duration = Duration::from_secs(60);
/// How much of its rate the scrub saves up. More is lost, so that a thread that
/// was busy does not make up for it with a burst.
const SAVED: Duration = Duration::from_secs(4);
/// The least of a turn, so that a small rate comes to whole blocks.
const LEAST: f64 = 64.0 * 1024.0;
/// Findings of one scrub of a branch that are logged.
const LOGGED_MAX: usize = 16;

/// Where the scrub stands.
struct Background {
    current: Option<BranchCheck>,
    /// Findings of the branch at hand that were looked at.
    told: usize,
    /// When each branch was begun the last time.
    begun: HashMap<BranchId, Instant>,
    not_before: Option<Instant>,
    /// Bytes that may be read, and since when that was counted. It may be
    /// below 0: a block is read whole.
    allowed: f64,
    counted: Option<Instant>,
}

impl Background {
    fn new() -> Background {
        Background {
            current: None,
            told: 0,
            begun: HashMap::new(),
            not_before: None,
            allowed: 0.0,
            counted: None,
        }
    }

    /// Reads as much as the rate allows by now.
    fn turn(&mut self, branches: &[Arc<Shared>]) {
        let Some(resources) = branches.first().map(|b| Arc::clone(&b.resources)) else {
            return;
        };
        let config = &resources.config;
        let rate = config.scrub_bytes_per_second as f64;
        if rate == 0.0 {
            return;
        }
        let now = resources.pace.instant();
        let first = FIRST.min(config.scrub_pause);
        if now < *self.not_before.get_or_insert(now + first) {
            self.counted = Some(now);
            return;
        }
        let counted = self.counted.replace(now).unwrap_or(now);
        let passed = now.duration_since(counted);
        let saved = (rate * SAVED.as_secs_f64()).max(LEAST);
        self.allowed = (self.allowed + rate * passed.as_secs_f64()).min(saved);
        while self.allowed > 0.0 && self.begin_branch(branches, &resources, now) {
            if !self.step(branches) {
                return;
            }
        }
    }

    /// Makes sure that there is a branch at hand. Returns whether there is one.
    fn begin_branch(
        &mut self,
        branches: &[Arc<Shared>],
        resources: &Resources,
        now: Instant,
    ) -> bool {
        if self.current.is_some() {
            return true;
        }
        let Some(shared) = self.next(branches, resources, now) else {
            self.begun
                .retain(|id, _| branches.iter().any(|b| b.id == *id));
            return false;
        };
        let room = Room::of(resources.config.memory_bytes);
        self.begun.insert(shared.id, now);
        self.told = 0;
        self.current = Some(BranchCheck::live(shared, room));
        true
    }

    /// Goes on with the branch at hand by about one block. Returns whether it
    /// makes sense to go on now.
    fn step(&mut self, branches: &[Arc<Shared>]) -> bool {
        let Some(check) = &mut self.current else {
            return true;
        };
        let step = check.step();
        for finding in check.findings().get(self.told..).unwrap_or_default() {
            self.told += 1;
            if finding.is_damage() && self.told <= LOGGED_MAX {
                tracing::error!(branch_id = %finding.branch, file = %finding.file, "the scrub found damage in the store: {}", finding.message);
            }
        }
        if let Some(shared) = branches.iter().find(|b| b.id == check.id()) {
            let left = check.bytes_left();
            shared.health.scrub_left.store(left, Ordering::Relaxed);
        }
        match step {
            Step::Read(bytes) => self.allowed -= bytes as f64,
            Step::Busy => return false,
            Step::Done => {
                if let Some(check) = self.current.take() {
                    check.remember();
                }
            }
        }
        true
    }

    /// The branch that was not begun for the longest time, of those that are
    /// due; of several that were never begun any one.
    fn next<'b>(
        &self,
        branches: &'b [Arc<Shared>],
        resources: &Resources,
        now: Instant,
    ) -> Option<&'b Arc<Shared>> {
        let pause = resources.config.scrub_pause;
        let due = |b: &&Arc<Shared>| {
            let begun = self.begun.get(&b.id);
            begun.is_none_or(|at| now.saturating_duration_since(*at) >= pause)
        };
        // Without a random number the first of them.
        let any = || resources.random().unwrap_or_default();
        let age = |b: &&Arc<Shared>| (self.begun.get(&b.id).copied(), any());
        let open = branches.iter().filter(|b| !b.stopped());
        open.filter(due).min_by_key(age)
    }
}

/// The thread, which ends with the store.
pub(crate) fn run(store: &Weak<Store>) {
    let mut scrub = Background::new();
    while let Some(branches) = store.upgrade().map(|s| s.live()) {
        scrub.turn(&branches);
        // Closing the store must not wait for this thread's hold on it.
        drop(branches);
        #[expect(clippy::disallowed_methods, reason = "nothing waits for this thread")]
        std::thread::sleep(TICK);
    }
}
