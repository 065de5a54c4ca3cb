//! The health of a branch: failures that last, and the result of upkeep's last
//! look at its layers.

use super::samples::Sample;
use crate::finding::Scrubbed;
use parking_lot::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use xylem_types::Lsn;

/// Troubles of one kind that are remembered.
const TROUBLES_MAX: usize = 20;

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When it failed last, in microseconds since 1970.
    pub time_us: u64,
    /// The error in words.
    pub message: String,
}

/// The last failure of some work, until that succeeds again.
#[derive(Debug, Default)]
pub(crate) struct Failing(Mutex<Option<Trouble>>);

impl Failing {
    pub(crate) fn failed(&self, time_us: u64, why: &str) {
        *self.0.lock() = Some(Trouble {
            time_us,
            message: why.to_owned(),
        });
    }

    pub(crate) fn succeeded(&self) {
        self.0.lock().take();
    }

    /// It has failed and did not succeed since.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.lock().is_some()
    }

    pub(crate) fn last(&self) -> Option<Trouble> {
        self.0.lock().clone()
    }
}

/// Troubles of one kind: the first ones, one for each subject.
#[derive(Debug, Default)]
pub(crate) struct Troubles(Mutex<Vec<Trouble>>);

impl Troubles {
    /// Notes one, whose message begins with its subject. Returns whether it is the first
    /// of its subject, which people should have.
    pub(crate) fn note(&self, time_us: u64, subject: &str, message: String) -> bool {
        let mut all = self.0.lock();
        if let Some(known) = all.iter_mut().find(|t| t.message.starts_with(subject)) {
            known.time_us = time_us;
            return false;
        }
        let is_news = all.len() < TROUBLES_MAX;
        if is_news {
            all.push(Trouble { time_us, message });
        }
        is_news
    }

    pub(crate) fn all(&self) -> Vec<Trouble> {
        self.0.lock().clone()
    }
}

/// The result of a look at layers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Looked {
    /// When, by the clock that paces upkeep; none: never.
    pub(crate) at: Option<Instant>,
    pub(crate) debt_bytes: u64,
    /// One of the merges to do folds history.
    pub(crate) folds: bool,
    pub(crate) horizon: Option<Lsn>,
    pub(crate) oldest: Option<Lsn>,
    pub(crate) oldest_sample: Option<Sample>,
    pub(crate) newest_sample: Option<Sample>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) flush: Failing,
    pub(crate) merge: Failing,
    /// Keys that cannot be folded.
    pub(crate) unfoldable: Troubles,
    /// Pages that their versions do not make.
    pub(crate) unreadable: Troubles,
    pub(crate) scrubbed: Scrubbed,
    /// Bytes that the scrub under way in the background has still to read.
    pub(crate) scrub_left: AtomicU64,
    pub(crate) looked: Mutex<Looked>,
    pub(crate) database: Mutex<Database>,
}

/// How large the database is, and as of which LSN.
#[derive(Debug, Default)]
pub(crate) struct Database {
    /// When it was measured, by the clock that paces upkeep; none: never.
    pub(crate) at: Option<Instant>,
    pub(crate) lsn: Lsn,
    /// Bytes of all tablespaces as files.
    pub(crate) bytes: u64,
}
