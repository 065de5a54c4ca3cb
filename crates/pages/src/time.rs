//! When the branch was where: samples that ingest takes of the log's times.
//!
//! A sample (LSN, time) says that everything up to the LSN was in the log by
//! then. The first mtr of every [`SAMPLE_US`] is sampled, so those that end
//! between two samples came within that time of the first. The samples are
//! versions of one key, so looking a time up is a binary search over LSNs.

use crate::api::{ReadAt, ReadError};
use crate::branch::{Branch, Shared};
use crate::key::{Key, state_key};
use xylem_types::Lsn;

/// Time between two samples while redo comes, in microseconds.
pub(crate) const SAMPLE_US: u64 = 10_000;

/// The key of the samples.
pub(crate) fn time_key() -> Key {
    state_key("time")
}

/// The LSN and time of the newest sample at or before `at`.
fn sample(shared: &Shared, at: Lsn) -> Result<Option<(Lsn, u64)>, ReadError> {
    let layers = shared.snapshot();
    let found = layers.view(shared.source()).image(&time_key(), at)?;
    Ok(found.and_then(|(lsn, raw)| Some((lsn, u64::from_le_bytes(raw.try_into().ok()?)))))
}

impl Shared {
    /// The newest LSN of which it is certain that it was in the log at
    /// `time_us`; none when that is before the history kept.
    pub(crate) fn lsn_by(&self, time_us: u64) -> Result<Option<Lsn>, ReadError> {
        self.resolve(ReadAt::Newest)?;
        // In this order: history is folded up to what was the newest once.
        let Some(oldest) = self.oldest() else {
            return Ok(None);
        };
        let newest = self.newest().max(oldest);
        let by = |at: Lsn| Ok(sample(self, at)?.map(|(lsn, time)| (lsn, time, time <= time_us)));
        let mut found = None;
        // `low` is not after the time, `high` is.
        let (mut low, mut high) = (oldest.0, newest.0.saturating_add(1));
        match by(oldest)? {
            Some((_, _, false)) => return Ok(None),
            Some((lsn, time, true)) => found = Some((lsn, time)),
            // The history begins before the first sample.
            None => {}
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match by(Lsn(middle))? {
                // From the sample on all is after the time.
                Some((lsn, _, false)) => high = lsn.0.max(low + 1),
                Some((lsn, time, true)) => {
                    low = middle;
                    found = Some((lsn, time));
                }
                None => low = middle,
            }
        }
        Ok(found.map(|(lsn, time)| {
            let all_sampled = time.saturating_add(SAMPLE_US) <= time_us;
            // What ended since the sample did so before the time, or may not.
            let until = if all_sampled { Lsn(low) } else { lsn };
            until.max(oldest)
        }))
    }
}

impl Branch {
    /// The LSN that shows everything that was durable at `time_us` but perhaps
    /// its last 10 ms, and nothing later; microseconds since 1970, by the
    /// server's clock. Blocking.
    ///
    /// # Errors
    /// [`ReadError::TimeOutside`] when the time is before the history kept,
    /// and as for any read.
    pub fn lsn_at(&self, time_us: u64) -> Result<Lsn, ReadError> {
        let s = &*self.shared;
        match s.lsn_by(time_us)? {
            Some(lsn) => Ok(lsn),
            None => Err(ReadError::TimeOutside {
                time_us,
                oldest: s.oldest().unwrap_or_default(),
                oldest_us: match s.oldest() {
                    Some(oldest) => sample(s, oldest)?.map(|(_, time)| time),
                    None => None,
                },
            }),
        }
    }

    /// When everything up to `lsn` was durable, about; none when that is not
    /// known. Blocking.
    ///
    /// # Errors
    /// As for any read.
    pub fn time_at(&self, lsn: Lsn) -> Result<Option<u64>, ReadError> {
        self.shared.resolve(ReadAt::Lsn(lsn))?;
        Ok(sample(&self.shared, lsn)?.map(|(_, time)| time))
    }
}
