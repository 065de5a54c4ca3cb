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
}

impl Store {
    /// Starts the thread, which ends with the store; with
    /// [`Store::start_ingest`], and for the same reason not before every
    /// branch is open: until then nobody knows what must be kept for them.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start_upkeep(self: &Arc<Store>) -> Result<(), StoreError> {
        self.start_collapse()?;
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
            busy |= turn(branch, turns.entry(branch.id).or_default());
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
    if turn.not_before.is_some_and(|(at, _)| Instant::now() < at) {
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
    let pause = turn
        .not_before
        .map_or(PAUSE_MIN, |(_, p)| (p * 2).min(PAUSE_MAX));
    if turn.not_before.is_none() {
        tracing::error!(branch = %branch.id, error = %why, "layers could not be merged; trying again");
    }
    turn.not_before = Some((Instant::now() + pause, pause));
    false
}

impl Branch {
    /// Merges and folds until nothing is left to do. Blocking.
    ///
    /// # Errors
    /// What went wrong, in words; nothing is lost.
    pub fn compact_now(&self) -> Result<(), String> {
        let mut unfoldable = HashSet::new();
        loop {
            match self.shared.compact(&mut unfoldable) {
                Ok(true) => {}
                Ok(false) | Err(Fault::Stopped) => return Ok(()),
                Err(Fault::Dead(why) | Fault::Again(why) | Fault::Stuck(why)) => return Err(why),
            }
        }
    }
}
