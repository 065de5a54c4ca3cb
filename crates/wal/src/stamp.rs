//! The times of a WAL's entries, and how the WAL notices that the system clock
//! was set.

use xylem_ambient::Clock;

/// The wall clock and the steady clock of a process may drift apart by this
/// before the wall clock counts as set, in microseconds. Steering by a time
/// server stays far below this.
pub(crate) const STEP_US: u64 = 10_000_000;

/// When an entry is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Microseconds since 1970.
    pub time_us: u64,
    /// The steady clock does not vouch for the time since the entry before.
    pub stepped: bool,
}

/// Gives the entries of one WAL their times, one writer at a time.
///
/// While the wall clock and the steady clock agree, times follow the wall clock
/// and never go back. Where they differ by more than [`STEP_US`], the wall
/// clock was set, or the machine slept: the entry takes the wall clock's time,
/// earlier or later, and is marked. A WAL that is opened expects that no time
/// has passed since its last entry, because no steady clock tells; so after a
/// pause its first entry is marked too.
#[derive(Debug)]
pub(crate) struct Stamps {
    clock: Clock,
    /// When the WAL was opened, by the steady clock.
    opened_us: u64,
    /// The wall clock and the steady clock when they last agreed.
    agreed: Option<(u64, u64)>,
}

impl Stamps {
    /// For a WAL that is opened now.
    pub fn new(clock: Clock) -> Stamps {
        Stamps {
            opened_us: clock.steady_us(),
            clock,
            agreed: None,
        }
    }

    /// The stamp of an entry written now; `last_us` is the time of the entry
    /// before, 0 when there is none, and becomes that of this one.
    pub fn next(&mut self, last_us: &mut u64) -> Stamp {
        let (now, steady) = (self.clock.now_us(), self.clock.steady_us());
        let first = self.agreed.is_none();
        let (wall, since) = *self.agreed.get_or_insert((*last_us, self.opened_us));
        let expected = wall.saturating_add(steady.saturating_sub(since));
        let begins = first && *last_us == 0;
        let stepped = !begins && now.abs_diff(expected) > STEP_US;
        if begins || stepped {
            self.agreed = Some((now, steady));
        }
        if stepped && (!first || now < *last_us) {
            tracing::warn!(
                now_us = now,
                expected_us = expected,
                "the system clock jumped, or the machine slept: history is kept by the steady clock, and a moment between the two times can only be named by its LSN"
            );
        }
        *last_us = match stepped {
            true => now,
            false => now.max(*last_us),
        };
        Stamp {
            time_us: *last_us,
            stepped,
        }
    }
}
