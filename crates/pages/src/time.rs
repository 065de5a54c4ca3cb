//! When the branch was where: samples that ingest takes of the log's times.
//!
//! A sample says by when everything up to its LSN was in the log, twice: as the
//! server's clock told, and as time that a steady clock has seen pass. People
//! name moments by the first. The second alone decides how long history is
//! kept, so no clock that is set wrong throws any away.
//!
//! The first mtr of every [`SAMPLE_US`] is sampled, so those that end between
//! two samples came within that time of the first. The samples are versions of
//! one key, so looking a time up is a binary search over LSNs.
//!
//! The server's clock may be set back or forth. Each sample names the first one
//! of its *stretch*: between the two the clock only went on. A moment is looked
//! for in every stretch that is left. What one clock face showed twice, or
//! jumped over, is an error that names the LSNs.

use crate::api::{ReadAt, ReadError, time_text};
use crate::branch::{Branch, Shared};
use crate::key::{Key, state_key};
use parking_lot::Mutex;
use std::time::Duration;
use xylem_types::Lsn;

/// Time between two samples while redo comes, in microseconds.
pub(crate) const SAMPLE_US: u64 = 10_000;
/// What the clock may leave out within a stretch, in microseconds: less than
/// what people mean by a time of day, more than a server takes to start again.
pub(crate) const PAUSE_US: u64 = 60_000_000;
/// Stretches that are looked into for a moment.
const STRETCHES_MAX: usize = 1000;

/// The key of the samples.
pub(crate) fn time_key() -> Key {
    state_key("time")
}

/// One sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Microseconds since 1970, by the server's clock.
    pub(crate) wall_us: u64,
    /// Microseconds that a steady clock has seen pass, from anywhere.
    pub(crate) steady_us: u64,
    /// The LSN of the first sample of its stretch.
    pub(crate) since: Lsn,
}

impl Sample {
    pub(crate) fn encode(&self) -> [u8; 24] {
        let mut out = [0; 24];
        out[..8].copy_from_slice(&self.wall_us.to_le_bytes());
        out[8..16].copy_from_slice(&self.steady_us.to_le_bytes());
        out[16..].copy_from_slice(&self.since.0.to_le_bytes());
        out
    }

    pub(crate) fn decode(raw: &[u8]) -> Option<Sample> {
        let number = |at: usize| Some(u64::from_le_bytes(raw.get(at..at + 8)?.try_into().ok()?));
        let wall_us = number(0)?;
        match raw.len() {
            // From before clocks were compared.
            8 => Some(Sample {
                wall_us,
                steady_us: wall_us,
                since: Lsn::ZERO,
            }),
            24 => Some(Sample {
                wall_us,
                steady_us: number(8)?,
                since: Lsn(number(16)?),
            }),
            _ => None,
        }
    }
}

/// The LSN of the newest sample at or before `at`, and what it says.
pub(crate) fn sample(shared: &Shared, at: Lsn) -> Result<Option<(Lsn, Sample)>, ReadError> {
    let layers = shared.snapshot();
    let found = layers.view(shared.source()).image(&time_key(), at)?;
    Ok(found.and_then(|(lsn, raw)| Some((lsn, Sample::decode(&raw)?))))
}

/// How much time a steady clock has seen pass for a branch.
///
/// It goes on with the entries of the log, and beyond the last one with this
/// process's steady clock. What passes while no server runs does not count:
/// nothing tells how much it was.
#[derive(Debug, Default)]
pub(crate) struct Measured(Mutex<Option<(u64, u64)>>);

impl Measured {
    /// Ingest has come to where so much had passed.
    pub(crate) fn set(&self, steady_us: u64, now_us: u64) {
        *self.0.lock() = Some((steady_us, now_us));
    }

    /// How much has passed when this process's steady clock says `now_us`; none
    /// before ingest begins.
    fn now(&self, now_us: u64) -> Option<u64> {
        let (passed, at) = (*self.0.lock())?;
        Some(passed.saturating_add(now_us.saturating_sub(at)))
    }
}

/// The horizon that was found last: while nothing changes it stays until the
/// next sample is as old.
#[derive(Clone, Copy, Debug)]
struct Found {
    reach: (Lsn, Lsn),
    /// For ages from the first of these times on and before the second.
    from_us: u64,
    until_us: u64,
    lsn: Option<Lsn>,
}

/// See [`Shared::lsn_of_age`].
#[derive(Debug, Default)]
pub(crate) struct Horizon(Mutex<Option<Found>>);

/// The times of the entries that ingest reads, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// What a sample taken now says.
    now: Option<Sample>,
    /// A stretch has begun that has no sample yet.
    begins: bool,
    /// The time of the newest sample.
    sampled_us: u64,
}

impl Times {
    /// Goes on behind the newest sample there is.
    pub(crate) fn after(newest: Option<Sample>) -> Times {
        Times {
            now: newest,
            begins: newest.is_none(),
            sampled_us: 0,
        }
    }

    /// An entry's time. `stepped`: nobody knows how long after the one before
    /// that is.
    pub(crate) fn entry(&mut self, time_us: u64, stepped: bool) {
        let Some(now) = &mut self.now else {
            self.now = Some(Sample {
                wall_us: time_us,
                steady_us: time_us,
                since: Lsn::ZERO,
            });
            return;
        };
        let passed = time_us.saturating_sub(now.wall_us);
        if stepped {
            self.begins |= time_us < now.wall_us || passed > PAUSE_US;
            now.wall_us = time_us;
        } else {
            // What is read again after a start may come from before it.
            now.wall_us = now.wall_us.max(time_us);
            now.steady_us = now.steady_us.saturating_add(passed);
        }
    }

    /// Whether a sample must be taken of what comes next.
    pub(crate) fn is_due(&self) -> bool {
        let due = |now: &Sample| now.wall_us >= self.sampled_us.saturating_add(SAMPLE_US);
        self.begins || self.now.as_ref().is_some_and(due)
    }

    /// Whether there was no sample before.
    pub(crate) fn is_first(&self) -> bool {
        self.now.is_none_or(|now| now.since == Lsn::ZERO) && self.begins
    }

    /// Whether a stretch has begun that no sample tells of.
    pub(crate) fn begins(&self) -> bool {
        self.begins
    }

    /// A sample at `lsn`, if one is due.
    pub(crate) fn sample(&mut self, lsn: Lsn) -> Option<Sample> {
        if !self.is_due() {
            return None;
        }
        let now = self.now.as_mut()?;
        if std::mem::take(&mut self.begins) {
            now.since = lsn;
        }
        self.sampled_us = now.wall_us;
        Some(*now)
    }

    /// Time that a steady clock has seen pass up to the newest entry.
    pub(crate) fn steady_us(&self) -> Option<u64> {
        self.now.map(|now| now.steady_us)
    }
}

/// LSNs during which the server's clock only went on.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    low: Lsn,
    high: Lsn,
    /// What the clock said at the first sample and at the last.
    first_us: u64,
    last_us: u64,
}

impl Shared {
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
            let found = sample(self, at)?;
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
        // What ended since the sample did so before the time, or may not.
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
        self.measured.now(self.store.config.clock.steady_us())
    }

    /// How long ago the sample was taken, by steady clocks.
    pub(crate) fn age_us(&self, sample: &Sample) -> Option<u64> {
        Some(self.measured_us()?.saturating_sub(sample.steady_us))
    }

    /// The horizon: the newest LSN of which it is certain that `age` has passed
    /// since it was in the log, by steady clocks alone; none while there is no
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
        while let Some((lsn, last)) = sample(self, high)? {
            let low = last.since.max(oldest).min(high);
            let first = sample(self, low)?;
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

    /// The newest LSN of which it is certain that it was in the log when the
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
                0 => stretch.last_us.max(self.store.config.clock.now_us()),
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
}

impl Branch {
    /// The LSN that shows everything that was durable at `time_us` but perhaps
    /// its last 10 ms, and nothing later; microseconds since 1970, by the
    /// server's clock. Blocking.
    ///
    /// # Errors
    /// [`ReadError::TimeOutside`] when the time is before the history kept,
    /// [`ReadError::TimeUnclear`] when the clock was set so that it showed the
    /// time twice or never, and as for any read.
    pub fn lsn_at(&self, time_us: u64) -> Result<Lsn, ReadError> {
        let s = &*self.shared;
        match s.lsn_by(time_us)? {
            Some(lsn) => Ok(lsn),
            None => Err(ReadError::TimeOutside {
                time_us,
                oldest: s.oldest().unwrap_or_default(),
                oldest_us: match s.oldest() {
                    Some(oldest) => sample(s, oldest)?.map(|(_, sample)| sample.wall_us),
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
    pub fn time_at(&self, lsn: Lsn) -> Result<Option<u64>, ReadError> {
        self.shared.resolve(ReadAt::Lsn(lsn))?;
        Ok(sample(&self.shared, lsn)?.map(|(_, sample)| sample.wall_us))
    }
}
