//! The scrub: reads everything that branches have in the store, from the store
//! itself, and checks that it is whole and fits together.
//!
//! [`Store::scrub`] checks branches that are open, while they work;
//! [`scrub_place`] checks a place that perhaps nobody has open. Both change
//! nothing. A store also scrubs by itself, slowly, in a thread of its own (`background`).

pub(crate) mod background;
mod branch;
pub(crate) mod layer;
mod place;
pub mod probe;

use crate::store::Store;
use branch::{BranchCheck, Step};
use layer::Room;
use parking_lot::Mutex;
pub use place::scrub_place;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use xylem_types::BranchId;

/// Findings of one branch that are remembered, and of one scrub that are told.
const FINDINGS_MAX: usize = 1000;
/// The most a throttled scrub sleeps before it looks whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// Bytes are not what was written, or do not fit together.
    Damaged,
    /// Something that is named is not there.
    Missing,
    /// It could not be looked at.
    Unreadable,
    /// Nothing names it. No damage: the next start of the server removes it.
    Orphan,
}

impl FindingKind {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            FindingKind::Damaged => "damaged",
            FindingKind::Missing => "missing",
            FindingKind::Unreadable => "unreadable",
            FindingKind::Orphan => "orphan",
        }
    }
}

/// Something that a scrub found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The branch.
    pub branch: BranchId,
    /// The file in its folder; empty when it is none of them.
    pub file: String,
    /// What is wrong.
    pub kind: FindingKind,
    /// The same in words.
    pub message: String,
}

impl Finding {
    /// Whether something that was stored is lost or in doubt.
    pub fn is_damage(&self) -> bool {
        matches!(self.kind, FindingKind::Damaged | FindingKind::Missing)
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "branch {}", self.branch)?;
        if !self.file.is_empty() {
            write!(f, ", {}", self.file)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault(pub(crate) FindingKind, pub(crate) String);

/// How to scrub.
#[derive(Clone, Debug, Default)]
pub struct ScrubOptions {
    /// The branches; none: all that there are.
    pub branches: Option<Vec<BranchId>>,
    /// Most bytes read from the store in a second; 0: no limit.
    pub bytes_per_second: u64,
}

/// How far a scrub is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// The branch at hand.
    pub branch: Option<BranchId>,
    /// Branches that are done.
    pub branches_done: u64,
    /// Branches in all.
    pub branches: u64,
    /// Layer files that are done.
    pub layers_done: u64,
    /// Layer files in all, as far as is known.
    pub layers: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes of layer files in all, as far as is known.
    pub bytes: u64,
}

/// What a scrub tells while it goes on.
#[derive(Debug)]
pub enum ScrubEvent<'a> {
    /// It has come so far.
    Progress(&'a ScrubProgress),
    /// It has found something.
    Finding(&'a Finding),
}

/// What came of a scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// How far it came.
    pub progress: ScrubProgress,
    /// What is lost or in doubt.
    pub damage: u64,
    /// What could not be looked at.
    pub unreadable: u64,
    /// Files that nothing names.
    pub orphans: u64,
    /// It was stopped before its end.
    pub stopped: bool,
}

impl ScrubReport {
    /// Whether all was looked at, and all is well.
    pub fn is_clean(&self) -> bool {
        self.damage == 0 && self.unreadable == 0 && !self.stopped
    }

    fn count(&mut self, finding: &Finding) {
        match finding.kind {
            FindingKind::Damaged | FindingKind::Missing => self.damage += 1,
            FindingKind::Unreadable => self.unreadable += 1,
            FindingKind::Orphan => self.orphans += 1,
        }
    }
}

/// What the newest scrub of a branch found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastScrub {
    /// When it ended, in microseconds since 1970; none: there was none yet.
    pub ended_us: Option<u64>,
    /// Bytes read.
    pub bytes: u64,
    /// Layer files.
    pub layers: u64,
    /// What it found, at most 1000 things.
    pub findings: Vec<Finding>,
}

/// What is known of the scrubs of a branch.
#[derive(Debug, Default)]
pub(crate) struct Scrubbed {
    last: Mutex<LastScrub>,
}

impl Scrubbed {
    /// A scrub of the whole branch has ended.
    pub(crate) fn ended(&self, last: LastScrub) {
        *self.last.lock() = last;
    }

    /// The newest.
    pub(crate) fn last(&self) -> LastScrub {
        self.last.lock().clone()
    }
}

/// Whom a scrub tells; `Break` stops it.
pub type Tell<'a> = dyn FnMut(ScrubEvent<'_>) -> ControlFlow<()> + 'a;

/// Keeps to a rate.
struct Throttle {
    rate: u64,
    begin: Instant,
    bytes: u64,
}

impl Throttle {
    fn new(rate: u64) -> Throttle {
        Throttle {
            rate,
            begin: Instant::now(),
            bytes: 0,
        }
    }

    /// How long to wait now that `bytes` more were read.
    fn after(&mut self, bytes: u64) -> Duration {
        self.bytes += bytes;
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let due = Duration::from_secs_f64(self.bytes as f64 / self.rate as f64);
        due.saturating_sub(self.begin.elapsed())
    }
}

/// A scrub on demand, under way.
struct Run<'a> {
    throttle: Throttle,
    report: ScrubReport,
    told: usize,
    tell: &'a mut Tell<'a>,
}

impl<'a> Run<'a> {
    fn new(options: &ScrubOptions, tell: &'a mut Tell<'a>) -> Run<'a> {
        Run {
            throttle: Throttle::new(options.bytes_per_second),
            report: ScrubReport::default(),
            told: 0,
            tell,
        }
    }

    fn tell(&mut self, event: ScrubEvent<'_>) {
        if (self.tell)(event).is_break() {
            self.report.stopped = true;
        }
    }

    fn found(&mut self, finding: &Finding) {
        self.report.count(finding);
        self.told += 1;
        if self.told <= FINDINGS_MAX {
            self.tell(ScrubEvent::Finding(finding));
        }
    }

    /// Waits, but not for long once it is to stop.
    fn pause(&mut self, mut wait: Duration) {
        while !wait.is_zero() && !self.report.stopped {
            let nap = wait.min(NAP);
            #[expect(clippy::disallowed_methods, reason = "a rate is kept by waiting")]
            std::thread::sleep(nap);
            wait -= nap;
            let progress = self.report.progress;
            self.tell(ScrubEvent::Progress(&progress));
        }
    }

    /// Checks one branch to its end.
    fn branch(&mut self, mut check: BranchCheck) -> BranchCheck {
        let before = self.report.progress;
        self.report.progress.branch = Some(check.id());
        let mut known = 0;
        while !self.report.stopped {
            let step = check.step();
            let progress = &mut self.report.progress;
            progress.layers_done = before.layers_done + check.layers_done();
            progress.bytes_done = before.bytes_done + check.bytes_read();
            let new = check.findings().get(known..).unwrap_or_default().to_vec();
            known += new.len();
            for finding in &new {
                self.found(finding);
            }
            let progress = self.report.progress;
            self.tell(ScrubEvent::Progress(&progress));
            match step {
                Step::Read(bytes) => {
                    let wait = self.throttle.after(bytes);
                    self.pause(wait);
                }
                Step::Busy => self.pause(NAP),
                Step::Done => {
                    self.report.progress.branches_done += 1;
                    break;
                }
            }
        }
        check
    }
}

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
        let room = Room::of(self.config.memory_bytes);
        while let Some(shared) = todo.pop_front().filter(|_| !run.report.stopped) {
            let check = BranchCheck::live(&shared, room);
            // Who closes or removes it must not wait for a scrub.
            drop(shared);
            let check = run.branch(check);
            if !run.report.stopped {
                check.remember();
            }
        }
        run.report
    }
}
