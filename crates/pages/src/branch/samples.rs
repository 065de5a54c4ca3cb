//! Samples of time: by when everything up to an LSN was in the WAL.
//!
//! A sample tells the time twice: as the server's clock told it, and as time
//! that a steady clock has seen pass. People name moments by the first. The
//! second alone decides how long history is kept, so no clock that is set wrong
//! throws any away.
//!
//! The first mtr of every [`SAMPLE_US`] is sampled, so those that end between
//! two samples came within that time of the first. The samples are versions of
//! one key, so looking a time up is a binary search over LSNs.
//!
//! The server's clock may be set back or forth. Each sample names the first one
//! of its *stretch*: between the two the clock only went on.

use crate::layer::key::{Key, state_key};
use parking_lot::Mutex;
use xylem_types::Lsn;

/// Time between two samples while redo comes, in microseconds.
pub(crate) const SAMPLE_US: u64 = 10_000;
/// The longest gap in the clock's time within a stretch, in microseconds: less
/// than people mean by a time of day, more than a server takes to start again.
pub(crate) const PAUSE_US: u64 = 60_000_000;
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

/// How much time a steady clock has seen pass for a branch.
///
/// It goes on with the entries of the WAL, and beyond the last one with this
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
    pub(crate) fn now(&self, now_us: u64) -> Option<u64> {
        let (passed, at) = (*self.0.lock())?;
        Some(passed.saturating_add(now_us.saturating_sub(at)))
    }
}

/// The horizon that was found last: while nothing changes it stays until the
/// next sample is as old.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) reach: (Lsn, Lsn),
    /// For ages from the first of these times on and before the second.
    pub(super) from_us: u64,
    pub(super) until_us: u64,
    pub(super) lsn: Option<Lsn>,
}

/// The result of the last search for the horizon.
#[derive(Debug, Default)]
pub(crate) struct Horizon(pub(super) Mutex<Option<Found>>);

/// The times of the entries that ingest reads, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// The sample that would be taken now.
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

    /// Takes in an entry's time. `stepped`: nothing tells how long after the
    /// entry before that is.
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
            // Entries read again after a start may be older than the sample.
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
