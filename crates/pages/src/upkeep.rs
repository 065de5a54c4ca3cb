//! What a store does by itself: flushes old open layers, merges, folds. One
//! thread for all branches, in turns of one piece each.

use crate::api::StoreError;
use crate::branch::{Branch, Shared};
use crate::flush::Fault;
use crate::scrub::background::Background;
use crate::store::Store;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use xylem_types::BranchId;

/// Between two looks at whether there is something to do.
const TICK: Duration = Duration::from_millis(500);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What is known of a branch from turn to turn.
#[derive(Default)]
struct Turn {
    unfoldable: HashSet<Vec<u8>>,
    /// After a failure: not before this, and how long the pause was.
    not_before: Option<(Instant, Duration)>,
    /// The same of removing files.
    remove_not_before: Option<(Instant, Duration)>,
}

/// Whether a pause is still under way.
fn pauses(not_before: Option<(Instant, Duration)>) -> bool {
    not_before.is_some_and(|(at, _)| Instant::now() < at)
}

/// The pause after one more failure.
fn longer(before: Option<(Instant, Duration)>) -> Option<(Instant, Duration)> {
    let pause = before.map_or(PAUSE_MIN, |(_, p)| (p * 2).min(PAUSE_MAX));
    Some((Instant::now() + pause, pause))
}

impl Store {
    /// Starts the thread, which ends with the store; with
    /// [`Store::start_ingest`], and for the same reason not before every
    /// branch is open: until then nobody knows what must be kept for them.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_upkeep(self: &Arc<Store>) -> Result<(), StoreError> {
        let store = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("pages-upkeep".to_owned())
            .spawn(move || run(&store))
            .map(|_| ())
            .map_err(|source| StoreError::Io {
                context: "start thread pages-upkeep".to_owned(),
                source,
            })
    }
}

fn run(store: &Weak<Store>) {
    let mut turns: HashMap<BranchId, Turn> = HashMap::new();
    let mut scrub = Background::new();
    while let Some(branches) = store.upgrade().map(|s| s.live()) {
        let mut busy = false;
        turns.retain(|id, _| branches.iter().any(|b| b.id == *id));
        for branch in branches.iter().filter(|b| !b.stopped()) {
            branch.flush_when_old();
            branch.look();
            let of = turns.entry(branch.id).or_default();
            busy |= turn(branch, of);
            remove_left(branch, of);
        }
        scrub.turn(&branches);
        // Whoever closes the store must not wait for this thread's hold on it.
        drop(branches);
        if !busy {
            #[expect(clippy::disallowed_methods, reason = "nothing waits for this thread")]
            std::thread::sleep(TICK);
        }
    }
}

/// One piece of work. `false`: there was none.
fn turn(branch: &Shared, turn: &mut Turn) -> bool {
    if pauses(turn.not_before) {
        return false;
    }
    let why = match branch.compact(&mut turn.unfoldable) {
        Ok(busy) => {
            turn.not_before = None;
            branch.health.merge.succeeded();
            return busy;
        }
        Err(Fault::Stopped) => return false,
        Err(Fault::Dead(why)) => {
            branch.fail(format!("merge of layers: {why}"));
            return false;
        }
        Err(Fault::Again(why) | Fault::Stuck(why)) => why,
    };
    branch.stats.merge_failures.add(1);
    branch.merge_failed(&why);
    if turn.not_before.is_none() {
        tracing::error!(branch = %branch.id, error = %why, "layers could not be merged; trying again");
    }
    turn.not_before = longer(turn.not_before);
    false
}

/// Removes the files of layers that were merged and that nobody reads any more.
fn remove_left(branch: &Shared, turn: &mut Turn) {
    if pauses(turn.remove_not_before) {
        return;
    }
    match branch.remove_left() {
        Ok(()) => turn.remove_not_before = None,
        Err(error) => {
            if turn.remove_not_before.is_none() {
                tracing::warn!(branch = %branch.id, %error, "a layer that was merged is not removed; trying again");
            }
            turn.remove_not_before = longer(turn.remove_not_before);
        }
    }
}

impl Branch {
    /// Merges and folds until nothing is left to do, and removes what nobody
    /// needs any more. Blocking.
    ///
    /// # Errors
    /// What went wrong, in words; nothing is lost.
    pub fn compact_now(&self) -> Result<(), String> {
        let mut unfoldable = HashSet::new();
        loop {
            match self.shared.compact(&mut unfoldable) {
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
