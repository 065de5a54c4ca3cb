//! What a store does by itself: flushes old open layers, merges, folds.
//!
//! One thread looks at all branches in turn and does no work that can wait for
//! a disk: each piece of it is a thread's, a few at a time. So a branch whose
//! layers or manifest the store refuses holds up nobody:
//!
//! - while it waits for its manifest to be written, it counts for nothing in
//!   how many may work;
//! - what failed comes back later, after a pause that doubles, and of branches
//!   that failed only one is tried at a time, beside those that work.

use crate::api::StoreError;
use crate::branch::{Branch, Shared};
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
/// Branches that work at a time.
const WORKERS: std::ops::RangeInclusive<usize> = 2..=8;

/// How a turn of a branch ended.
enum Outcome {
    /// A piece was done, and there may be more.
    Busy,
    /// There is nothing to do.
    Idle,
    /// It failed, and it makes sense to try again.
    Failed,
    /// The branch stops, or can do nothing any more.
    Over,
}

/// What is known of a branch from turn to turn.
struct Turn {
    /// A thread works for it.
    running: bool,
    /// After a failure: how long it pauses.
    pause: Option<Duration>,
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
    let (end, ended) = sync_channel(64);
    let mut turns: HashMap<BranchId, Turn> = HashMap::new();
    // Whose turn it is: where the last round stopped.
    let mut first = 0;
    while let Some(branches) = store.upgrade().map(|s| s.live()) {
        turns.retain(|id, turn| turn.running || branches.iter().any(|b| b.id == *id));
        for branch in branches.iter().filter(|b| !b.stopped()) {
            branch.flush_when_old();
        }
        for n in 0..branches.len() {
            let at = (first + n) % branches.len();
            let Some(branch) = branches.get(at).filter(|b| !b.stopped()) else {
                continue;
            };
            if !turns.get(&branch.id).is_none_or(|t| t.is_due(branch)) {
                continue;
            }
            let troubled = turns.get(&branch.id).is_some_and(|t| t.pause.is_some());
            if !has_worker(&turns, &branches, workers, troubled) {
                first = if troubled { first } else { at };
                continue;
            }
            let turn = turns.entry(branch.id).or_insert_with(Turn::new);
            turn.begin(branch, &end);
        }
        // Whoever closes the store must not wait for this thread's hold on it.
        drop(branches);
        take_ended(&mut turns, &ended);
    }
}

/// Waits for a turn to end, and takes note of all that have.
fn take_ended(turns: &mut HashMap<BranchId, Turn>, ended: &Receiver<(BranchId, Outcome, u64)>) {
    let mut next = ended.recv_timeout(TICK);
    loop {
        match next {
            Ok((id, outcome, seen)) => {
                if let Some(turn) = turns.get_mut(&id) {
                    turn.end(outcome, seen);
                }
            }
            // It cannot be cut off: this thread has a sender, too.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
        next = ended.recv_timeout(Duration::ZERO);
    }
}

/// Whether one more may work. Those that failed before have one thread for all
/// of them; who waits for its manifest takes nothing from others.
fn has_worker(
    turns: &HashMap<BranchId, Turn>,
    branches: &[Arc<Shared>],
    workers: usize,
    troubled: bool,
) -> bool {
    let waits = |id: &BranchId| {
        let branch = branches.iter().find(|b| b.id == *id);
        branch.is_none_or(|b| b.publish_fails.load(Ordering::Acquire))
    };
    let working = turns.iter().filter(|(id, t)| t.running && !waits(id));
    let alike = working.filter(|(_, t)| t.pause.is_some() == troubled);
    alike.count() < if troubled { 1 } else { workers }
}

impl Turn {
    fn new() -> Turn {
        Turn {
            running: false,
            pause: None,
            not_before: Instant::now(),
            idle_at: None,
        }
    }

    fn is_due(&self, branch: &Shared) -> bool {
        if self.running {
            return false;
        }
        // One that had nothing to do is due as soon as something changes.
        Instant::now() >= self.not_before || self.idle_at.is_some_and(|at| at != branch.changes())
    }

    fn begin(&mut self, branch: &Arc<Shared>, end: &SyncSender<(BranchId, Outcome, u64)>) {
        let (branch, end, id) = (Arc::clone(branch), end.clone(), branch.id);
        self.running = true;
        let started = start("pages-merge", move || {
            let seen = branch.changes();
            let outcome = turn(&branch);
            // Before the turn is over for others: they may close the store.
            drop(branch);
            // No receiver: the store is gone.
            let _ = end.send((id, outcome, seen));
        });
        if let Err(error) = started {
            tracing::error!(branch = %id, %error, "no thread for upkeep");
            self.end(Outcome::Failed, 0);
        }
    }

    fn end(&mut self, outcome: Outcome, seen: u64) {
        self.running = false;
        self.idle_at = None;
        self.not_before = Instant::now();
        match outcome {
            Outcome::Busy => self.pause = None,
            Outcome::Idle => {
                self.pause = None;
                self.idle_at = Some(seen);
                self.not_before += LOOK_EVERY;
            }
            Outcome::Failed => {
                let pause = self.pause.map_or(PAUSE_MIN, |p| (p * 2).min(PAUSE_MAX));
                self.pause = Some(pause);
                self.not_before += pause;
            }
            Outcome::Over => self.not_before += PAUSE_MAX,
        }
    }
}

/// One piece of work.
fn turn(branch: &Shared) -> Outcome {
    branch.look();
    let outcome = merge_piece(branch);
    match (remove_left(branch), outcome) {
        // What could not be removed is tried again after a pause.
        (false, Outcome::Idle) => Outcome::Failed,
        (_, outcome) => outcome,
    }
}

fn merge_piece(branch: &Shared) -> Outcome {
    let why = match branch.compact() {
        Ok(busy) => {
            branch.health.merge.succeeded();
            return if busy { Outcome::Busy } else { Outcome::Idle };
        }
        Err(Fault::Stopped) => return Outcome::Over,
        Err(Fault::Dead(why)) => {
            branch.fail(format!("merge of layers: {why}"));
            return Outcome::Over;
        }
        Err(Fault::Again(why) | Fault::Stuck(why)) => why,
    };
    branch.stats.merge_failures.add(1);
    if !branch.health.merge.is_failing() {
        tracing::error!(branch = %branch.id, error = %why, "layers could not be merged; trying again");
    }
    branch.merge_failed(&why);
    Outcome::Failed
}

/// Removes the files of layers that were merged and that nobody reads any more.
/// False when the store did not let it.
fn remove_left(branch: &Shared) -> bool {
    let removed = branch.remove_left();
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
    /// needs any more. Blocking.
    ///
    /// # Errors
    /// What went wrong, in words; nothing is lost.
    pub fn compact_now(&self) -> Result<(), String> {
        loop {
            match self.shared.compact() {
                Ok(true) => {}
                Ok(false) | Err(Fault::Stopped) => {
                    // What stays is tried again, at the latest by the next start.
                    let _ = self.shared.remove_left();
                    return Ok(());
                }
                Err(Fault::Dead(why) | Fault::Again(why) | Fault::Stuck(why)) => return Err(why),
            }
        }
    }
}
