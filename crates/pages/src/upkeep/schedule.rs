//! The scheduler: gives threads to branches that have something to do.
//!
//! One thread looks at all branches in turn and does no work that can wait for
//! a disk: each piece of work is done by a thread of its own, a few at a time. A
//! branch gets a thread before any gets a second one; when no other waits,
//! merges of one branch run side by side. A branch whose layers or manifest the
//! store refuses holds up nobody:
//!
//! - while it waits for its manifest to be written, it counts for nothing in
//!   how many may work, and gets no second thread;
//! - a merge that failed comes back later, after a pause that doubles, and of
//!   what failed only one is tried at a time, beside those that work.

use super::turn::{Event, Turn};
use crate::branch::jobs::Which;
use crate::branch::shared::Shared;
use crate::store::Store;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;
use xylem_ambient::Clock;
use xylem_types::BranchId;

/// Between two looks at whether there is something to do.
const TICK: Duration = Duration::from_millis(500);
/// Threads that work at a time, for all branches.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=8;

/// See the module.
struct Schedule {
    /// Threads that may work at a time at what did not fail last.
    workers: usize,
    /// As `workers`, for a branch that has a thread already.
    workers_more: usize,
    turns: HashMap<BranchId, Turn>,
    /// The places in the list of branches where the next round begins: for a
    /// thread, for one more, for work that failed before.
    first: usize,
    first_more: usize,
    first_troubled: usize,
    end: SyncSender<(BranchId, Event)>,
}

/// The thread, which ends with the store.
pub(super) fn run(store: &Weak<Store>, pace: &Clock) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (cores / 2).clamp(*WORKERS.start(), *WORKERS.end());
    let (end, ended) = sync_channel(64);
    let mut schedule = Schedule {
        workers,
        // Further threads of a branch leave one for the next branch, where
        // there are more than two.
        workers_more: workers.max(3) - 1,
        turns: HashMap::new(),
        first: 0,
        first_more: 0,
        first_troubled: 0,
        end,
    };
    while let Some(mut branches) = store.upgrade().map(|s| s.live()) {
        branches.retain(|b| b.is_begun.load(Ordering::Acquire));
        schedule.round(&branches, pace);
        // Closing the store must not wait for this thread's hold on it.
        drop(branches);
        schedule.take_events(&ended, pace);
    }
}

impl Schedule {
    /// Gives threads to branches.
    fn round(&mut self, branches: &[Arc<Shared>], pace: &Clock) {
        self.turns
            .retain(|id, turn| turn.is_running() || branches.iter().any(|b| b.id == *id));
        for branch in branches.iter().filter(|b| !b.stopped()) {
            branch.flush_when_old();
        }
        let (mut sound, troubled) = self.working(branches);
        let waits = self.first_threads(branches, &mut sound, pace);
        self.troubled_thread(branches, troubled);
        if !waits {
            self.more_threads(branches, sound);
        }
    }

    /// One thread for each branch that has none. Returns whether a branch has
    /// to wait for one; the next round begins there.
    fn first_threads(&mut self, branches: &[Arc<Shared>], sound: &mut usize, pace: &Clock) -> bool {
        let mut waits = false;
        for (at, branch) in open(branches, self.first) {
            let new = || Turn::new(pace.instant());
            let turn = self.turns.entry(branch.id).or_insert_with(new);
            if turn.sound.working == 0 && turn.is_due(branch, Which::Sound) {
                if *sound < self.workers {
                    turn.begin(branch, Which::Sound, &self.end);
                    *sound += 1;
                } else if !waits {
                    (self.first, waits) = (at, true);
                }
            }
        }
        waits
    }

    /// One thread for something that failed before.
    fn troubled_thread(&mut self, branches: &[Arc<Shared>], mut troubled: usize) {
        for (at, branch) in open(branches, self.first_troubled) {
            if let Some(turn) = self.turns.get_mut(&branch.id)
                && troubled + turn.troubled.working == 0
                && turn.is_due(branch, Which::Failed)
            {
                turn.begin(branch, Which::Failed, &self.end);
                troubled += 1;
                self.first_troubled = at + 1;
            }
        }
    }

    /// Further threads for branches that have one.
    fn more_threads(&mut self, branches: &[Arc<Shared>], mut sound: usize) {
        for (at, branch) in open(branches, self.first_more) {
            if sound >= self.workers_more {
                break;
            }
            if let Some(turn) = self.turns.get_mut(&branch.id)
                && !branch.publish_fails.load(Ordering::Acquire)
                && turn.sound.working > 0
                && turn.is_due(branch, Which::Sound)
            {
                turn.begin(branch, Which::Sound, &self.end);
                sound += 1;
                self.first_more = at + 1;
            }
        }
    }

    /// Threads at work at what did not fail last, and at what did. Those that
    /// wait for a manifest take nothing from others.
    fn working(&self, branches: &[Arc<Shared>]) -> (usize, usize) {
        let waits = |id: &BranchId| {
            let branch = branches.iter().find(|b| b.id == *id);
            branch.is_none_or(|b| b.publish_fails.load(Ordering::Acquire))
        };
        let counted = || self.turns.iter().filter(|(id, _)| !waits(id));
        let sound = counted().map(|(_, t)| t.sound.working).sum();
        (sound, counted().map(|(_, t)| t.troubled.working).sum())
    }

    /// Waits for something to happen, and takes note of all that has.
    fn take_events(&mut self, events: &Receiver<(BranchId, Event)>, pace: &Clock) {
        let mut next = events.recv_timeout(TICK);
        loop {
            match next {
                Ok((id, event)) => {
                    if let Some(turn) = self.turns.get_mut(&id) {
                        turn.take(event, pace.instant());
                    }
                }
                // It cannot be cut off: this thread has a sender, too.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
            next = events.recv_timeout(Duration::ZERO);
        }
    }
}

/// The branches that do not stop and their places, all once, beginning at place
/// `first`.
fn open(branches: &[Arc<Shared>], first: usize) -> impl Iterator<Item = (usize, &Arc<Shared>)> {
    let many = branches.len();
    let places = (0..many).map(move |n| (first + n) % many);
    let all = places.filter_map(|at| Some((at, branches.get(at)?)));
    all.filter(|(_, branch)| !branch.stopped())
}
