//! The scrub that a store does by itself: a little now and then in a thread of
//! its own, one branch after the other, over and over.

use super::branch::{BranchCheck, Step};
use super::layer::Room;
use crate::branch::Shared;
use crate::store::random;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use xylem_types::BranchId;

/// After the start other things come first.
const FIRST: Duration = Duration::from_secs(60);
/// What was not used in this time is lost: a busy thread does not make up for
/// it with a burst.
const SAVED: Duration = Duration::from_secs(4);
/// The least of a turn, so that a small rate comes to whole blocks.
const LEAST: f64 = 64.0 * 1024.0;
/// Things that are logged of one scrub of a branch.
const LOGGED_MAX: usize = 16;

/// Where it stands.
pub(crate) struct Background {
    current: Option<BranchCheck>,
    /// Findings of the branch at hand that were looked at.
    told: usize,
    /// When each branch was begun the last time.
    begun: HashMap<BranchId, Instant>,
    not_before: Option<Instant>,
    /// Bytes that may be read, and since when that was counted. It may be
    /// below 0: a block is read whole.
    allowed: f64,
    counted: Instant,
}

impl Background {
    pub(crate) fn new() -> Background {
        Background {
            current: None,
            told: 0,
            begun: HashMap::new(),
            not_before: None,
            allowed: 0.0,
            counted: Instant::now(),
        }
    }

    /// Reads as much as the rate allows by now.
    pub(crate) fn turn(&mut self, branches: &[Arc<Shared>]) {
        let Some(store) = branches.first().map(|b| Arc::clone(&b.store)) else {
            return;
        };
        let config = &store.config;
        let rate = config.scrub_bytes_per_second as f64;
        if rate == 0.0 {
            return;
        }
        let now = Instant::now();
        let first = FIRST.min(config.scrub_pause);
        if now < *self.not_before.get_or_insert(now + first) {
            self.counted = now;
            return;
        }
        let passed = now.duration_since(std::mem::replace(&mut self.counted, now));
        let saved = (rate * SAVED.as_secs_f64()).max(LEAST);
        self.allowed = (self.allowed + rate * passed.as_secs_f64()).min(saved);
        while self.allowed > 0.0 {
            let Some(check) = &mut self.current else {
                match self.next(branches, config.scrub_pause) {
                    Some(shared) => {
                        let room = Room::of(config.memory_bytes);
                        self.begun.insert(shared.id, now);
                        self.told = 0;
                        self.current = Some(BranchCheck::live(shared, room));
                    }
                    None => {
                        self.begun
                            .retain(|id, _| branches.iter().any(|b| b.id == *id));
                        return;
                    }
                }
                continue;
            };
            let step = check.step();
            for finding in check.findings().get(self.told..).unwrap_or_default() {
                self.told += 1;
                if finding.is_damage() && self.told <= LOGGED_MAX {
                    tracing::error!(branch = %finding.branch, file = %finding.file, "the scrub found damage in the store: {}", finding.message);
                }
            }
            if let Some(shared) = branches.iter().find(|b| b.id == check.id()) {
                let left = check.bytes_left();
                shared.health.scrub_left.store(left, Ordering::Relaxed);
            }
            match step {
                Step::Read(bytes) => self.allowed -= bytes as f64,
                Step::Busy => return,
                Step::Done => {
                    if let Some(check) = self.current.take() {
                        check.remember();
                    }
                }
            }
        }
    }

    /// The branch that was not begun for the longest time, of those that are
    /// due; of several that were never begun any one.
    fn next<'b>(&self, branches: &'b [Arc<Shared>], pause: Duration) -> Option<&'b Arc<Shared>> {
        let due = |b: &&Arc<Shared>| self.begun.get(&b.id).is_none_or(|at| at.elapsed() >= pause);
        let age = |b: &&Arc<Shared>| (self.begun.get(&b.id).copied(), random());
        let open = branches.iter().filter(|b| !b.stopped());
        open.filter(due).min_by_key(age)
    }
}
