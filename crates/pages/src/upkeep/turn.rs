//! The turns of a branch: whether it is due, and the threads that work for it.

use super::compact::{Did, Errand};
use super::fault::Fault;
use super::threads::start;
use crate::branch::backoff::{Backoff, PAUSE_MAX};
use crate::branch::jobs::Which;
use crate::branch::shared::Shared;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use xylem_types::BranchId;

/// A branch that has not changed is looked at so often: its horizon moves on.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How a turn of a branch ended.
#[derive(Clone, Copy)]
pub(super) enum Outcome {
    /// A piece was done, or failed and is put off; there may be more.
    Busy,
    /// A piece was done, and it could not be told whether to begin another
    /// merge.
    Unplanned,
    /// There is nothing to do.
    Idle,
    /// It could not be told what there is to do, or files not be removed; it
    /// makes sense to try again.
    Failed,
    /// The branch stops, or can do nothing any more.
    Over,
}

/// News from a thread that works for a branch.
pub(super) enum Event {
    /// It knows what to do.
    Begun(Which),
    Ended {
        /// It never began.
        looked: bool,
        outcome: Outcome,
        errand: Errand,
        /// How much had changed when it looked.
        seen: u64,
    },
}

/// Threads of one kind at work.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Threads {
    pub(super) working: usize,
    /// One of them does not know yet what to do: no other begins.
    looking: bool,
}

/// A branch as the scheduler knows it from turn to turn.
pub(super) struct Turn {
    /// At what did not fail last.
    pub(super) sound: Threads,
    /// At what did.
    pub(super) troubled: Threads,
    /// To look for what there is to do failed.
    backoff: Backoff,
    not_before: Instant,
    /// How much had changed when there was nothing to do.
    idle_at: Option<u64>,
}

impl Turn {
    pub(super) fn new(now: Instant) -> Turn {
        Turn {
            sound: Threads::default(),
            troubled: Threads::default(),
            backoff: Backoff::default(),
            not_before: now,
            idle_at: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.sound.working + self.troubled.working > 0
    }

    fn threads(&mut self, which: Which) -> &mut Threads {
        match which {
            Which::Failed => &mut self.troubled,
            Which::Any | Which::Sound => &mut self.sound,
        }
    }

    /// Whether there may be something to do for one more thread.
    pub(super) fn is_due(&self, branch: &Shared, which: Which) -> bool {
        let looking = match which {
            Which::Failed => self.troubled.looking,
            Which::Any | Which::Sound => self.sound.looking,
        };
        let goes_on = || branch.jobs.has(which) && branch.ancestors_behind().is_none();
        !looking && (self.may_plan(branch, which) || goes_on())
    }

    /// Whether there may be a merge to begin.
    fn may_plan(&self, branch: &Shared, which: Which) -> bool {
        let now = branch.resources.pace.instant();
        // One that had nothing to do is due as soon as something changes.
        let due =
            || now >= self.not_before || self.idle_at.is_some_and(|at| at != branch.changes());
        self.backoff.is_failing() == (which == Which::Failed) && self.backoff.is_over(now) && due()
    }

    pub(super) fn begin(
        &mut self,
        branch: &Arc<Shared>,
        which: Which,
        events: &SyncSender<(BranchId, Event)>,
    ) {
        let now = branch.resources.pace.instant();
        let plan = self.may_plan(branch, which);
        let errand = Errand { plan, which };
        let threads = self.threads(which);
        threads.working += 1;
        threads.looking = true;
        let (branch, events, id) = (Arc::clone(branch), events.clone(), branch.id);
        let started = start("pages-merge", move || {
            let mut report = Report {
                events,
                id,
                looked: true,
                outcome: Outcome::Failed,
                errand,
                seen: branch.changes(),
            };
            let outcome = turn(&branch, errand, || report.begun());
            report.outcome = outcome;
            // Before the turn is over for others: they may close the store.
            drop(branch);
        });
        if let Err(error) = started {
            tracing::error!(branch_id = %id, %error, "no thread for upkeep");
            let event = Event::Ended {
                looked: true,
                outcome: Outcome::Failed,
                errand,
                seen: 0,
            };
            self.take(event, now);
        }
    }

    pub(super) fn take(&mut self, event: Event, now: Instant) {
        let (looked, outcome, errand, seen) = match event {
            Event::Begun(which) => {
                self.threads(which).looking = false;
                return;
            }
            Event::Ended {
                looked,
                outcome,
                errand,
                seen,
            } => (looked, outcome, errand, seen),
        };
        let threads = self.threads(errand.which);
        threads.working = threads.working.saturating_sub(1);
        threads.looking &= !looked;
        if matches!(outcome, Outcome::Idle) && !errand.plan {
            // Another took what there was to go on with.
            return;
        }
        self.idle_at = None;
        self.not_before = now;
        match outcome {
            Outcome::Busy => {}
            Outcome::Unplanned => self.backoff.failed(now),
            Outcome::Idle => {
                self.idle_at = Some(seen);
                self.not_before += LOOK_EVERY;
            }
            Outcome::Failed => self.backoff.failed(now),
            Outcome::Over => self.not_before += PAUSE_MAX,
        }
        if errand.plan && matches!(outcome, Outcome::Busy | Outcome::Idle) {
            self.backoff.succeeded();
        }
    }
}

/// Tells how the work of a thread ends, even if it panics: what counts as at
/// work keeps others away.
struct Report {
    events: SyncSender<(BranchId, Event)>,
    id: BranchId,
    looked: bool,
    outcome: Outcome,
    errand: Errand,
    seen: u64,
}

impl Report {
    fn begun(&mut self) {
        self.looked = false;
        self.send(Event::Begun(self.errand.which));
    }

    fn send(&self, event: Event) {
        // No receiver: the store is gone.
        let _ = self.events.send((self.id, event));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.send(Event::Ended {
            looked: self.looked,
            outcome: self.outcome,
            errand: self.errand,
            seen: self.seen,
        });
    }
}

/// One piece of work. `begun` is called once it is known which.
fn turn(branch: &Shared, errand: Errand, begun: impl FnOnce()) -> Outcome {
    if errand.plan {
        branch.look();
    }
    let outcome = merge_piece(branch, errand, begun);
    match (remove_left(branch), outcome) {
        // A file that could not be removed is tried again after a pause.
        (false, Outcome::Idle) => Outcome::Failed,
        (_, outcome) => outcome,
    }
}

fn merge_piece(branch: &Shared, errand: Errand, begun: impl FnOnce()) -> Outcome {
    let failing = || branch.health.merge.is_failing();
    let (fault, again, outcome) = match branch.compact(errand, begun) {
        Ok(Did::Failed { fault, again }) => (fault, again, Outcome::Busy),
        Ok(Did::Piece {
            unplanned: Some(fault),
        }) => (fault, failing(), Outcome::Unplanned),
        Ok(did) => {
            if errand.plan && !branch.jobs.is_failing() {
                branch.health.merge.succeeded();
            }
            return match did {
                Did::Nothing => Outcome::Idle,
                _ => Outcome::Busy,
            };
        }
        Err(fault) => (fault, failing(), Outcome::Failed),
    };
    let why = match fault {
        Fault::Stopped => return Outcome::Over,
        Fault::Dead(why) => {
            branch.fail(format!("merge of layers: {why}"));
            return Outcome::Over;
        }
        Fault::Again(why) | Fault::Stuck(why) => why,
    };
    branch.stats.merge_failures.add(1);
    if !again {
        tracing::error!(branch_id = %branch.id, error = %why, "layers could not be merged; trying again");
    }
    branch.health.merge.failed(branch.now_us(), &why);
    outcome
}

/// Removes the files of layers that were merged and have no readers any more.
/// Returns false when the store refused.
fn remove_left(branch: &Shared) -> bool {
    let Some(removed) = branch.try_remove_left() else {
        return true;
    };
    let failed_before = branch
        .removal_fails
        .swap(removed.is_err(), Ordering::AcqRel);
    if let Err(error) = &removed
        && !failed_before
    {
        tracing::warn!(branch_id = %branch.id, %error, "a layer that was merged is not removed; trying again");
    }
    removed.is_ok()
}

impl Shared {
    /// Merges and folds until nothing is left to do, and removes files that are
    /// not needed any more. It waits for merges of upkeep or another caller.
    /// Blocking.
    ///
    /// # Errors
    /// The failure in words; nothing is lost.
    pub(crate) fn compact_now(&self) -> Result<(), String> {
        let errand = Errand {
            plan: true,
            which: Which::Any,
        };
        loop {
            let seen = self.jobs.ended();
            match self.compact(errand, || {}) {
                Ok(Did::Piece { .. }) => {}
                // The work of others may leave something to do.
                Ok(Did::Nothing) if self.jobs.wait_for_others(seen, || self.stopped()) => {}
                Ok(Did::Nothing) | Err(Fault::Stopped) => {
                    // A file that stays is tried again, at the latest by the next start.
                    let _ = self.remove_left();
                    return Ok(());
                }
                Ok(Did::Failed { fault, .. }) | Err(fault) => match fault {
                    Fault::Stopped => return Ok(()),
                    Fault::Dead(why) | Fault::Again(why) | Fault::Stuck(why) => return Err(why),
                },
            }
        }
    }
}
