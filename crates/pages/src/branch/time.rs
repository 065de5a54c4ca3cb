//! Which LSN a branch was at when, and the other way round.
//!
//! A moment is looked for in every stretch of samples that is left (see
//! `samples`). A time that the server's clock showed twice, or jumped over, is an
//! error that names the LSNs.

use super::samples::{Found, SAMPLE_US, Sample, time_key};
use super::shared::Shared;
use crate::api::ReadAt;
use crate::error::{ReadError, time_text};
use std::time::Duration;
use xylem_types::Lsn;

/// Stretches that are looked into for a moment.
const STRETCHES_MAX: usize = 1000;

/// LSNs during which the server's clock only went on.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    low: Lsn,
    high: Lsn,
    /// The clock's time at the first sample and at the last.
    first_us: u64,
    last_us: u64,
}

impl Shared {
    /// The LSN of the newest sample at or before `at`, and what it says.
    pub(crate) fn sample(&self, at: Lsn) -> Result<Option<(Lsn, Sample)>, ReadError> {
        let layers = self.snapshot();
        let found = layers.view(self.source()).image(&time_key(), at)?;
        Ok(found.and_then(|(lsn, raw)| Some((lsn, Sample::decode(&raw)?))))
    }

    /// The newest LSN from `low` to `high` of which it is certain that `read`
    /// of its sample was at most `target`; none when that is before `low`. And
    /// from where to where the target may go without changing that.
    fn search(
        &self,
        (low, high): (Lsn, Lsn),
        target: u64,
        read: impl Fn(&Sample) -> u64,
    ) -> Result<(Option<Lsn>, u64, u64), ReadError> {
        let by = |at: Lsn| {
            let found = self.sample(at)?;
            Ok(found.map(|(lsn, sample)| (lsn, read(&sample), read(&sample) <= target)))
        };
        let oldest = low;
        let mut found = None;
        let mut next = u64::MAX;
        // `low` is not after the time, `high` is.
        let (mut low, mut high) = (low.0, high.0.saturating_add(1));
        match by(oldest)? {
            Some((_, time, false)) => return Ok((None, 0, time)),
            Some((lsn, time, true)) => found = Some((lsn, time)),
            // The history begins before the first sample.
            None => {}
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match by(Lsn(middle))? {
                // From the sample on all is after the time.
                Some((lsn, time, false)) => (high, next) = (lsn.0.max(low + 1), time),
                Some((lsn, time, true)) => {
                    low = middle;
                    found = Some((lsn, time));
                }
                None => low = middle,
            }
        }
        let Some((lsn, time)) = found else {
            return Ok((None, 0, next));
        };
        let all_sampled = time.saturating_add(SAMPLE_US);
        // Mtrs since the sample ended before the time, or may not have.
        Ok(match all_sampled <= target {
            true => (Some(Lsn(low).max(oldest)), all_sampled, next),
            false => (Some(lsn.max(oldest)), time, all_sampled.min(next)),
        })
    }

    /// The oldest LSN and the newest, in that order of looking: history is
    /// folded up to what was the newest once.
    fn reach(&self) -> Result<Option<(Lsn, Lsn)>, ReadError> {
        self.resolve(ReadAt::Newest)?;
        let oldest = self.oldest();
        Ok(oldest.map(|oldest| (oldest, self.newest().max(oldest))))
    }

    /// How much time has passed for the branch by now, in microseconds.
    fn measured_us(&self) -> Option<u64> {
        self.measured.now(self.resources.config.clock.steady_us())
    }

    /// How long ago the sample was taken, by steady clocks.
    pub(crate) fn age_us(&self, sample: &Sample) -> Option<u64> {
        Some(self.measured_us()?.saturating_sub(sample.steady_us))
    }

    /// The horizon: the newest LSN of which it is certain that `age` has passed
    /// since it was in the WAL, by steady clocks alone; none while there is no
    /// such LSN in the history kept.
    pub(crate) fn lsn_of_age(&self, age: Duration) -> Result<Option<Lsn>, ReadError> {
        let Some(reach) = self.reach()? else {
            return Ok(None);
        };
        let age = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
        let Some(target) = self.measured_us().and_then(|now| now.checked_sub(age)) else {
            return Ok(None);
        };
        let known = *self.known_horizon.0.lock();
        if let Some(found) = known
            && found.reach == reach
            && (found.from_us..found.until_us).contains(&target)
        {
            return Ok(found.lsn);
        }
        let (lsn, from_us, until_us) = self.search(reach, target, |s| s.steady_us)?;
        *self.known_horizon.0.lock() = Some(Found {
            reach,
            from_us,
            until_us,
            lsn,
        });
        Ok(lsn)
    }

    /// The stretches of the history kept, newest first.
    fn stretches(&self, (oldest, newest): (Lsn, Lsn)) -> Result<Vec<Stretch>, ReadError> {
        let mut all = Vec::new();
        let mut high = newest;
        while let Some((lsn, last)) = self.sample(high)? {
            let low = last.since.max(oldest).min(high);
            let first = self.sample(low)?;
            all.push(Stretch {
                low,
                high,
                // None: the history kept begins before it.
                first_us: first.map_or(0, |(_, first)| first.wall_us),
                last_us: last.wall_us,
            });
            let goes_on = low > oldest && lsn > oldest && all.len() < STRETCHES_MAX;
            match low.0.checked_sub(1) {
                Some(before) if goes_on => high = Lsn(before),
                _ => break,
            }
        }
        Ok(all)
    }

    /// The newest LSN of which it is certain that it was in the WAL when the
    /// server's clock said `time_us`; none when that is before the history kept.
    fn lsn_by(&self, time_us: u64) -> Result<Option<Lsn>, ReadError> {
        let Some(reach) = self.reach()? else {
            return Ok(None);
        };
        let stretches = self.stretches(reach)?;
        let unclear = |why: String| {
            Err(ReadError::TimeUnclear {
                time_us,
                message: why,
            })
        };
        if stretches.len() >= STRETCHES_MAX {
            return unclear(format!(
                "the server's clock was set {STRETCHES_MAX} times or more since; name an LSN"
            ));
        }
        let mut shown: Option<Stretch> = None;
        for (nth, stretch) in stretches.iter().enumerate() {
            let until = match nth {
                // It goes on until now; with no other clock, for ever.
                0 if stretches.len() == 1 => u64::MAX,
                0 => stretch.last_us.max(self.resources.config.clock.now_us()),
                _ => stretch.last_us,
            };
            if !(stretch.first_us..=until).contains(&time_us) {
                continue;
            }
            if let Some(later) = shown {
                return unclear(format!(
                    "the server's clock was set back and showed this time twice, \
                     between LSN {} and {} and again between LSN {} and {}; name one of those LSNs",
                    stretch.low, stretch.high, later.low, later.high
                ));
            }
            shown = Some(*stretch);
        }
        if let Some(stretch) = shown {
            let (lsn, ..) = self.search((stretch.low, stretch.high), time_us, |s| s.wall_us)?;
            return Ok(lsn);
        }
        // The newest one that it comes after.
        for pair in stretches.windows(2) {
            let [after, before] = pair else { continue };
            if before.last_us >= time_us {
                continue;
            }
            return unclear(format!(
                "the server's clock went from {} at LSN {} to {} at LSN {}, and nothing tells how \
                 much time passed in between: it was set, the machine slept, or no server ran; \
                 name LSN {} for all that was there before",
                time_text(before.last_us),
                before.high,
                time_text(after.first_us),
                after.low,
                before.high
            ));
        }
        Ok(None)
    }

    /// The LSN that shows everything that was durable at `time_us` but perhaps
    /// its last 10 ms, and nothing later; microseconds since 1970, by the
    /// server's clock. Blocking.
    ///
    /// # Errors
    /// [`ReadError::TimeOutside`] when the time is before the history kept,
    /// [`ReadError::TimeUnclear`] when the clock was set so that it showed the
    /// time twice or never, and as for any read.
    pub(crate) fn lsn_at(&self, time_us: u64) -> Result<Lsn, ReadError> {
        match self.lsn_by(time_us)? {
            Some(lsn) => Ok(lsn),
            None => Err(ReadError::TimeOutside {
                time_us,
                oldest: self.oldest().unwrap_or_default(),
                oldest_us: match self.oldest() {
                    Some(oldest) => self.sample(oldest)?.map(|(_, sample)| sample.wall_us),
                    None => None,
                },
            }),
        }
    }

    /// When everything up to `lsn` was durable, about, as the server's clock
    /// said then; none when that is not known. Blocking.
    ///
    /// # Errors
    /// As for any read.
    pub(crate) fn time_at(&self, lsn: Lsn) -> Result<Option<u64>, ReadError> {
        self.resolve(ReadAt::Lsn(lsn))?;
        Ok(self.sample(lsn)?.map(|(_, sample)| sample.wall_us))
    }
}
