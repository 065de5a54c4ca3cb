//! The merges of a branch that are under way, and the threads at work on them.
//!
//! The manifest has each merge of which a piece was published; this list has
//! those and the ones that are only begun. Two merges never share a run, so a
//! merge goes by the run that it writes.

use super::backoff::Backoff;
use crate::manifest::record::Merging;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::time::Instant;
use xylem_ambient::Clock;

struct Job {
    merging: Merging,
    /// A thread does a piece of it.
    busy: bool,
    backoff: Backoff,
}

#[derive(Default)]
struct State {
    /// By run, oldest first.
    jobs: Vec<Job>,
    /// Threads that look for a piece of work or do one.
    at_work: usize,
    /// Callers that want nobody to be at work for a moment.
    resting: usize,
    /// Pieces that were done or failed.
    ended: u64,
}

/// See the module.
pub(crate) struct Jobs {
    /// Never held for longer than it takes to look.
    state: Mutex<State>,
    changed: Condvar,
    /// Held while the next merge is chosen, which may take a look at layers.
    planning: Mutex<()>,
    /// Paces attempts after a failure.
    pace: Clock,
}

/// Selects merges under way to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Any that no thread works at.
    Any,
    /// Those that no thread works at and whose last piece did not fail.
    Sound,
    /// Those whose last piece failed, and whose pause is over.
    Failed,
}

impl Job {
    fn is_free(&self, which: Which, now: Instant) -> bool {
        !self.busy
            && match which {
                Which::Any => true,
                Which::Sound => !self.backoff.is_failing(),
                Which::Failed => self.backoff.is_failing() && self.backoff.is_over(now),
            }
    }
}

impl State {
    fn job(&mut self, run: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|j| j.merging.run == run)
    }
}

impl Jobs {
    /// Goes on with what a manifest has.
    pub(crate) fn new(merging: &[Merging], pace: Clock) -> Jobs {
        let jobs = Jobs {
            state: Mutex::default(),
            changed: Condvar::new(),
            planning: Mutex::new(()),
            pace,
        };
        for merging in merging {
            jobs.state.lock().jobs.push(Job {
                merging: merging.clone(),
                busy: false,
                backoff: Backoff::default(),
            });
        }
        jobs
    }

    /// All of them, by run.
    pub(crate) fn all(&self) -> Vec<Merging> {
        let state = self.state.lock();
        state.jobs.iter().map(|j| j.merging.clone()).collect()
    }

    /// Whether there is one to go on with.
    pub(crate) fn has(&self, which: Which) -> bool {
        let now = self.pace.instant();
        let state = self.state.lock();
        state.jobs.iter().any(|j| j.is_free(which, now))
    }

    /// Whether one of them failed last.
    pub(crate) fn is_failing(&self) -> bool {
        let state = self.state.lock();
        state.jobs.iter().any(|j| j.backoff.is_failing())
    }

    /// Pieces that were done or failed since the branch was opened.
    pub(crate) fn ended(&self) -> u64 {
        self.state.lock().ended
    }

    /// Begins to work, once no caller holds a [`Rest`]. None: the branch has
    /// `stopped`.
    pub(crate) fn work(&self, stopped: impl Fn() -> bool) -> Option<AtWork<'_>> {
        let mut state = self.state.lock();
        while state.resting > 0 && !stopped() {
            self.changed.wait(&mut state);
        }
        if stopped() {
            return None;
        }
        state.at_work += 1;
        Some(AtWork(self))
    }

    /// Keeps threads from work while the guard lives; none when one is at work.
    pub(crate) fn rest(&self) -> Option<Rest<'_>> {
        let mut state = self.state.lock();
        if state.at_work > 0 {
            return None;
        }
        state.resting += 1;
        Some(Rest(self))
    }

    /// Waits until no thread is at work. The caller has stopped the branch, so
    /// none begins again.
    pub(crate) fn wait_for_all(&self) {
        let mut state = self.state.lock();
        // Waiting threads must see the stop.
        self.changed.notify_all();
        while state.at_work > 0 {
            self.changed.wait(&mut state);
        }
    }

    /// Waits until more pieces than `seen` have ended: then there may be
    /// something to do. `false`: no thread is at work any more, or the branch has
    /// `stopped`.
    pub(crate) fn wait_for_others(&self, seen: u64, stopped: impl Fn() -> bool) -> bool {
        let mut state = self.state.lock();
        while state.ended == seen && state.at_work > 0 && !stopped() {
            self.changed.wait(&mut state);
        }
        state.ended != seen && !stopped()
    }
}

/// A thread that is at work; see [`Jobs::work`].
pub(crate) struct AtWork<'a>(&'a Jobs);

impl<'a> AtWork<'a> {
    /// Only one chooses the next merge while the guard lives.
    pub(crate) fn plan(&self) -> MutexGuard<'a, ()> {
        self.0.planning.lock()
    }

    /// Goes on with one of those under way. The newest is the shortest, and
    /// takes most runs away for what it reads.
    pub(crate) fn take(&self, which: Which) -> Option<Claim<'a>> {
        let now = self.0.pace.instant();
        let mut state = self.0.state.lock();
        let mut newest_first = state.jobs.iter_mut().rev();
        let job = newest_first.find(|j| j.is_free(which, now))?;
        job.busy = true;
        let merging = job.merging.clone();
        Some(Claim {
            jobs: self.0,
            merging,
            over: false,
        })
    }

    /// Begins another, which shares no run with those under way. The caller
    /// has looked that there is room for it, and holds [`AtWork::plan`].
    pub(crate) fn add(&self, merging: Merging) -> Claim<'a> {
        let mut state = self.0.state.lock();
        let at = state.jobs.partition_point(|j| j.merging.run < merging.run);
        let job = Job {
            merging: merging.clone(),
            busy: true,
            backoff: Backoff::default(),
        };
        state.jobs.insert(at, job);
        Claim {
            jobs: self.0,
            merging,
            over: false,
        }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.state.lock().at_work -= 1;
        self.0.changed.notify_all();
    }
}

/// See [`Jobs::rest`].
pub(crate) struct Rest<'a>(&'a Jobs);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.0.state.lock().resting -= 1;
        self.0.changed.notify_all();
    }
}

/// A merge that one thread works at.
pub(crate) struct Claim<'a> {
    jobs: &'a Jobs,
    pub(crate) merging: Merging,
    over: bool,
}

impl Claim<'_> {
    /// Ends a piece that was done and is in the list of layers; `rest` is left.
    pub(crate) fn done(mut self, rest: Option<Merging>) {
        let run = self.merging.run;
        self.end(|state| match (rest, state.job(run)) {
            (Some(rest), Some(job)) => {
                job.merging = rest;
                job.backoff.succeeded();
            }
            _ => state.jobs.retain(|j| j.merging.run != run),
        });
    }

    /// Ends a piece that failed. It is tried again after a pause, a long one when
    /// trying makes `no_sense`. Returns whether the attempt before failed, too.
    pub(crate) fn failed(mut self, no_sense: bool) -> bool {
        let run = self.merging.run;
        let now = self.jobs.pace.instant();
        let mut again = false;
        self.end(|state| {
            if let Some(job) = state.job(run) {
                again = job.backoff.is_failing();
                match no_sense {
                    true => job.backoff.failed_for_long(now),
                    false => job.backoff.failed(now),
                }
            }
        });
        again
    }

    /// Gives the job back, as `change` makes it: both at once, so that no thread
    /// sees one without the other.
    fn end(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.jobs.state.lock();
        if let Some(job) = state.job(self.merging.run) {
            job.busy = false;
        }
        change(&mut state);
        state.ended += 1;
        self.over = true;
        self.jobs.changed.notify_all();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // A merge that panics once does so again.
        let panics = std::thread::panicking();
        let run = self.merging.run;
        let now = self.jobs.pace.instant();
        self.end(|state| {
            if let Some(job) = state.job(run).filter(|_| panics) {
                job.backoff.failed_for_long(now);
            }
        });
    }
}
