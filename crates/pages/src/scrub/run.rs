//! A scrub on demand, under way: checks branch after branch at a rate, and
//! tells of what it finds.

use super::branch::{BranchCheck, Step};
use super::report::{ScrubEvent, ScrubOptions, ScrubReport, Tell};
use crate::finding::{FINDINGS_MAX, Finding};
use std::time::{Duration, Instant};
use xylem_ambient::Clock;

/// The most a throttled scrub sleeps before it looks whether to stop.
const NAP: Duration = Duration::from_millis(50);

/// Keeps to a rate. It goes by the system's clock, since it says how long a
/// thread sleeps.
struct Throttle {
    /// Bytes in a second; 0: no limit.
    rate: u64,
    clock: Clock,
    begin: Instant,
    bytes: u64,
}

impl Throttle {
    fn new(rate: u64) -> Throttle {
        let clock = Clock::system();
        Throttle {
            rate,
            begin: clock.instant(),
            clock,
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
        let passed = self.clock.instant().duration_since(self.begin);
        due.saturating_sub(passed)
    }
}

/// A scrub on demand, under way.
pub(super) struct Run<'a> {
    throttle: Throttle,
    pub(super) report: ScrubReport,
    told: usize,
    tell: &'a mut Tell<'a>,
}

impl<'a> Run<'a> {
    pub(super) fn new(options: &ScrubOptions, tell: &'a mut Tell<'a>) -> Run<'a> {
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

    pub(super) fn found(&mut self, finding: &Finding) {
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
    pub(super) fn branch(&mut self, mut check: BranchCheck) -> BranchCheck {
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
