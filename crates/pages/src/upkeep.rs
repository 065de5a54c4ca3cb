//! What a store does by itself: flushes old open layers, merges, folds.
//!
//! One thread looks at all branches in turn and does no work that can wait for
//! a disk: each piece of it is a thread's, a few at a time. A branch gets a
//! thread before any gets a second one; when no other waits, merges of one
//! branch run side by side. So a branch whose layers or manifest the store
//! refuses holds up nobody:
//!
//! - while it waits for its manifest to be written, it counts for nothing in
//!   how many may work, and gets no second thread;
//! - a merge that failed comes back later, after a pause that doubles, and of
//!   what failed only one is tried at a time, beside those that work.

use crate::api::StoreError;
use crate::branch::{Branch, Shared};
use crate::compact::jobs::Which;
use crate::compact::{Did, Errand};
use crate::flush::Fault;
use crate::scrub::background::Background;
use crate::store::Store;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use xylem_types::BranchId;

/// Between two looks at whether there is something to do.
const TICK: Duration = Duration::from_millis(500);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A branch that has not changed is looked at so often: its horizon moves on.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Threads that work at a time, for all branches.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=8;

/// A pause after a failure, which doubles with each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff(Option<(Duration, Instant)>);

impl Backoff {
    pub(crate) fn failed(&mut self) {
        let pause = self.0.map_or(PAUSE_MIN, |(p, _)| (p * 2).min(PAUSE_MAX));
        self.0 = Some((pause, Instant::now() + pause));
    }

    /// To try again makes little sense.
    pub(crate) fn failed_for_long(&mut self) {
        self.0 = Some((PAUSE_MAX, Instant::now() + PAUSE_MAX));
    }

    pub(crate) fn succeeded(&mut self) {
        self.0 = None;
    }

    pub(crate) fn is_failing(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_none_or(|(_, until)| Instant::now() >= until)
    }
}

/// How a turn of a branch ended.
#[derive(Clone, Copy)]
enum Outcome {
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

/// What a thread that works for a branch tells of.
enum Event {
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
struct Threads {
    working: usize,
    /// One of them does not know yet what to do: no other begins.
    looking: bool,
}

/// What is known of a branch from turn to turn.
struct Turn {
    /// At what did not fail last.
    sound: Threads,
    /// At what did.
    troubled: Threads,
    /// To look for what there is to do failed.
    backoff: Backoff,
    not_before: Instant,
    /// How much had changed when there was nothing to do.
    idle_at: Option<u64>,
}

impl Store {
    /// Starts the threads, which end with the store; with
    /// [`Store::start_ingest`], and for the same reason not before every
    /// branch is open: until then nobody knows what must be kept for them.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_upkeep(self: &Arc<Store>) -> Result<(), StoreError> {
        self.start_collapse()?;
        let store = Arc::downgrade(self);
        start("pages-upkeep", move || run(&store))?;
        let store = Arc::downgrade(self);
        start("pages-scrub", move || scrub(&store))
    }
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread
        .spawn(run)
        .map(|_| ())
        .map_err(|source| StoreError::Io {
            context: format!("start thread {name}"),
            source,
        })
}

fn scrub(store: &Weak<Store>) {
    let mut scrub = Background::new();
    while let Some(branches) = store.upgrade().map(|s| s.live()) {
        scrub.turn(&branches);
        // Whoever closes the store must not wait for this thread's hold on it.
        drop(branches);
        #[expect(clippy::disallowed_methods, reason = "nothing waits for this thread")]
        std::thread::sleep(TICK);
    }
}

fn run(store: &Weak<Store>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = (cores / 2).clamp(*WORKERS.start(), *WORKERS.end());
    // Further threads of a branch leave one to whoever comes next, where there
    // are more than two.
    let workers_more = workers.max(3) - 1;
    let (end, ended) = sync_channel(64);
    let mut turns: HashMap<BranchId, Turn> = HashMap::new();
    // Whose turn it is: for a thread, for one more, for what failed before.
    let (mut first, mut first_more, mut first_troubled) = (0, 0, 0);
    while let Some(mut branches) = store.upgrade().map(|s| s.live()) {
        branches.retain(|b| b.is_begun.load(Ordering::Acquire));
        turns.retain(|id, turn| turn.is_running() || branches.iter().any(|b| b.id == *id));
        for branch in branches.iter().filter(|b| !b.stopped()) {
            branch.flush_when_old();
        }
        let (mut sound, mut troubled) = working(&turns, &branches);
        let mut waits = false;
        for at in from(first, branches.len()) {
            let Some(branch) = branches.get(at).filter(|b| !b.stopped()) else {
                continue;
            };
            let turn = turns.entry(branch.id).or_insert_with(Turn::new);
            if turn.sound.working == 0 && turn.is_due(branch, Which::Sound) {
                if sound < workers {
                    turn.begin(branch, Which::Sound, &end);
                    sound += 1;
                } else if !waits {
                    (first, waits) = (at, true);
                }
            }
        }
        for at in from(first_troubled, branches.len()) {
            let Some(branch) = branches.get(at).filter(|b| !b.stopped()) else {
                continue;
            };
            if let Some(turn) = turns.get_mut(&branch.id)
                && troubled + turn.troubled.working == 0
                && turn.is_due(branch, Which::Failed)
            {
                turn.begin(branch, Which::Failed, &end);
                troubled += 1;
                first_troubled = at + 1;
            }
        }
        for at in from(first_more, branches.len()) {
            if waits || sound >= workers_more {
                break;
            }
            let Some(branch) = branches.get(at).filter(|b| !b.stopped()) else {
                continue;
            };
            if let Some(turn) = turns.get_mut(&branch.id)
                && !branch.publish_fails.load(Ordering::Acquire)
                && turn.sound.working > 0
                && turn.is_due(branch, Which::Sound)
            {
                turn.begin(branch, Which::Sound, &end);
                sound += 1;
                first_more = at + 1;
            }
        }
        // Whoever closes the store must not wait for this thread's hold on it.
        drop(branches);
        take_events(&mut turns, &ended);
    }
}

/// All of so many, beginning with the `first`.
fn from(first: usize, many: usize) -> impl Iterator<Item = usize> {
    (0..many).map(move |n| (first + n) % many)
}

/// Waits for something to happen, and takes note of all that has.
fn take_events(turns: &mut HashMap<BranchId, Turn>, events: &Receiver<(BranchId, Event)>) {
    let mut next = events.recv_timeout(TICK);
    loop {
        match next {
            Ok((id, event)) => {
                if let Some(turn) = turns.get_mut(&id) {
                    turn.take(event);
                }
            }
            // It cannot be cut off: this thread has a sender, too.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        next = events.recv_timeout(Duration::ZERO);
    }
}

/// Threads at work at what did not fail last, and at what did. Those that wait
/// for a manifest take nothing from others.
fn working(turns: &HashMap<BranchId, Turn>, branches: &[Arc<Shared>]) -> (usize, usize) {
    let waits = |id: &BranchId| {
        let branch = branches.iter().find(|b| b.id == *id);
        branch.is_none_or(|b| b.publish_fails.load(Ordering::Acquire))
    };
    let counted = || turns.iter().filter(|(id, _)| !waits(id));
    let sound = counted().map(|(_, t)| t.sound.working).sum();
    (sound, counted().map(|(_, t)| t.troubled.working).sum())
}

impl Turn {
    fn new() -> Turn {
        Turn {
            sound: Threads::default(),
            troubled: Threads::default(),
            backoff: Backoff::default(),
            not_before: Instant::now(),
            idle_at: None,
        }
    }

    fn is_running(&self) -> bool {
        self.sound.working + self.troubled.working > 0
    }

    fn threads(&mut self, which: Which) -> &mut Threads {
        match which {
            Which::Failed => &mut self.troubled,
            Which::Any | Which::Sound => &mut self.sound,
        }
    }

    /// Whether there may be something to do for one more thread.
    fn is_due(&self, branch: &Shared, which: Which) -> bool {
        let looking = match which {
            Which::Failed => self.troubled.looking,
            Which::Any | Which::Sound => self.sound.looking,
        };
        let goes_on = || branch.jobs.has(which) && branch.ancestor_behind().is_none();
        !looking && (self.may_plan(branch, which) || goes_on())
    }

    /// Whether there may be a merge to begin.
    fn may_plan(&self, branch: &Shared, which: Which) -> bool {
        // One that had nothing to do is due as soon as something changes.
        let due = || {
            Instant::now() >= self.not_before
                || self.idle_at.is_some_and(|at| at != branch.changes())
        };
        self.backoff.is_failing() == (which == Which::Failed) && self.backoff.is_over() && due()
    }

    fn begin(
        &mut self,
        branch: &Arc<Shared>,
        which: Which,
        events: &SyncSender<(BranchId, Event)>,
    ) {
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
            tracing::error!(branch = %id, %error, "no thread for upkeep");
            self.take(Event::Ended {
                looked: true,
                outcome: Outcome::Failed,
                errand,
                seen: 0,
            });
        }
    }

    fn take(&mut self, event: Event) {
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
        self.not_before = Instant::now();
        match outcome {
            Outcome::Busy => {}
            Outcome::Unplanned => self.backoff.failed(),
            Outcome::Idle => {
                self.idle_at = Some(seen);
                self.not_before += LOOK_EVERY;
            }
            Outcome::Failed => self.backoff.failed(),
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
        // What could not be removed is tried again after a pause.
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
        tracing::error!(branch = %branch.id, error = %why, "layers could not be merged; trying again");
    }
    branch.merge_failed(&why);
    outcome
}

/// Removes the files of layers that were merged and that nobody reads any more.
/// False when the store did not let it.
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
        tracing::warn!(branch = %branch.id, %error, "a layer that was merged is not removed; trying again");
    }
    removed.is_ok()
}

impl Branch {
    /// Merges and folds until nothing is left to do, and removes what nobody
    /// needs any more. It waits for what upkeep, or another caller, is at.
    /// Blocking.
    ///
    /// # Errors
    /// What went wrong, in words; nothing is lost.
    pub fn compact_now(&self) -> Result<(), String> {
        let s = &*self.shared;
        let errand = Errand {
            plan: true,
            which: Which::Any,
        };
        loop {
            let seen = s.jobs.ended();
            match s.compact(errand, || {}) {
                Ok(Did::Piece { .. }) => {}
                // What others do now may leave something to do.
                Ok(Did::Nothing) if s.jobs.wait_for_others(seen, || s.stopped()) => {}
                Ok(Did::Nothing) | Err(Fault::Stopped) => {
                    // What stays is tried again, at the latest by the next start.
                    let _ = s.remove_left();
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
