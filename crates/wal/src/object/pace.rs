//! How often objects are sent, and how many are on their way: as much as makes
//! commits faster on the store as it is measured, and no more.
//!
//! A commit waits for the next object to be sent and then for one put. Objects
//! are therefore sent at even distances, `per_latency` of them in the time that
//! a put takes, whatever the number of clients; what comes in between shares an
//! object. A commit then waits half a distance on average, at four objects to a
//! latency an eighth of it and at eight a sixteenth. Even distances do more than
//! the number: objects that are sent together come back together, and so do the
//! next commits of the clients who waited for them.
//!
//! More objects help only while they do not raise the latency. `usual` is the
//! median of a round of puts, `bare` the lowest median of late. `per_latency`
//! grows by one while `usual` is near `bare`, and falls by one when it is far
//! above, as in TCP Vegas. Medians take the place of Vegas's single round trips,
//! because puts have a long tail: their minimum is far below what is usual.
//! The distance grows with the latency, so the number of objects on their way
//! stays the same.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Objects to a latency, at first and at least.
const PER_LATENCY_MIN: u32 = 2;
/// Objects on their way for each of `per_latency`, at most, so that slow ones
/// among them do not hold back the others.
const SLACK: usize = 2;
/// Puts whose median decides at what distance objects are sent: a few, because
/// a distance that follows a growing latency late makes it swing.
const RECENT: usize = 5;
/// Puts whose median decides on `per_latency`.
const ROUND: usize = 16;
/// How long the bare latency is believed. Then it is measured anew with few
/// objects on their way, because the store may have become slower for good.
const BARE_LASTS: Duration = Duration::from_secs(30);
/// Objects are never sent at a greater distance than this, however slow the
/// store was.
const DISTANCE_MAX: Duration = Duration::from_millis(50);
/// Larger objects take longer because of their size.
const SAMPLE_BYTES_MAX: u64 = 256 << 10;
/// A put is late when it takes so many times the usual latency, and this time.
const LATE: u32 = 4;
const LATE_MIN: Duration = Duration::from_millis(20);
/// Requests may come early by this time's worth.
const BURST: Duration = Duration::from_millis(100);

/// When the next object may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Go {
    Now,
    /// At that moment, or when something changes.
    At(Instant),
    /// When one has arrived.
    Arrival,
}

/// The rule, and what it has measured.
#[derive(Debug)]
pub(crate) struct Pace {
    puts_max: usize,
    per_latency_max: u32,
    /// The time that each request takes up of what is allowed.
    request: Duration,
    /// When the requests so far are paid off.
    paid: Option<Instant>,
    last_sent: Option<Instant>,
    per_latency: u32,
    /// Puts that began before this say nothing of `per_latency`.
    since: Option<Instant>,
    /// Whether the rule has held back an object in this round. Where it has
    /// not, more objects would change nothing.
    held_back: bool,
    /// The latencies that the distance follows.
    recent: VecDeque<Duration>,
    round: Vec<Duration>,
    usual: Option<Duration>,
    bare: Option<Duration>,
    bare_until: Option<Instant>,
}

impl Pace {
    pub fn new(puts_max: usize, puts_per_second: u32) -> Pace {
        let most = u32::try_from(puts_max / SLACK).unwrap_or(u32::MAX).max(1);
        Pace {
            puts_max,
            per_latency_max: most,
            request: Duration::from_secs(1) / puts_per_second,
            paid: None,
            last_sent: None,
            per_latency: PER_LATENCY_MIN.min(most),
            since: None,
            held_back: false,
            recent: VecDeque::with_capacity(RECENT),
            round: Vec::with_capacity(ROUND),
            usual: None,
            bare: None,
            bare_until: None,
        }
    }

    /// When the next object may be sent, with so many on their way; one that is
    /// `full` gains nothing by waiting for more entries.
    pub fn next(&mut self, now: Instant, under_way: usize, full: bool) -> Go {
        let most = (self.per_latency as usize * SLACK).min(self.puts_max);
        if under_way >= most {
            self.held_back = true;
            return Go::Arrival;
        }
        let early = self.paid.and_then(|paid| paid.checked_sub(BURST));
        let mut at = early.unwrap_or(now);
        if under_way > 0
            && !full
            && let Some(last) = self.last_sent
        {
            at = at.max(last + self.distance());
        }
        if at > now {
            self.held_back = true;
            return Go::At(at);
        }
        Go::Now
    }

    fn distance(&self) -> Duration {
        let mut recent: Vec<Duration> = self.recent.iter().copied().collect();
        recent.sort_unstable();
        let latency = recent.get(recent.len() / 2).copied().unwrap_or_default();
        (latency / self.per_latency).min(DISTANCE_MAX)
    }

    /// How long a put of so many bytes takes when it is late; `None` where that
    /// is not known.
    pub fn late(&self, bytes: u64) -> Option<Duration> {
        let usual = self.usual.filter(|_| bytes <= SAMPLE_BYTES_MAX)?;
        Some((usual * LATE).max(LATE_MIN))
    }

    pub fn sent(&mut self, now: Instant) {
        self.last_sent = Some(now);
        self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)) + self.request);
    }

    /// Takes the latency of a put of so many bytes.
    pub fn arrived(&mut self, now: Instant, took: Duration, bytes: u64) {
        if bytes > SAMPLE_BYTES_MAX {
            return;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        let before = |since| now.checked_sub(took).is_none_or(|sent| sent < since);
        if self.since.is_some_and(before) {
            return;
        }
        self.usual.get_or_insert(took);
        self.round.push(took);
        if self.round.len() == ROUND {
            self.round.sort_unstable();
            let median = self.round[ROUND / 2];
            self.judge(now, median);
            self.round.clear();
        }
    }

    fn judge(&mut self, now: Instant, median: Duration) {
        self.usual = Some(median);
        let before = self.per_latency;
        let least = PER_LATENCY_MIN.min(self.per_latency_max);
        if self.bare_until.is_some_and(|until| now >= until) {
            self.bare = None;
            self.bare_until = None;
            self.per_latency = least;
        } else {
            let bare = self.bare.map_or(median, |bare| bare.min(median));
            self.bare = Some(bare);
            self.bare_until.get_or_insert(now + BARE_LASTS);
            if median > bare * 2 {
                self.per_latency = (self.per_latency - 1).max(least);
            } else if median < bare * 3 / 2 && self.held_back {
                self.per_latency = (self.per_latency + 1).min(self.per_latency_max);
            }
        }
        self.held_back = false;
        if self.per_latency != before {
            self.since = Some(now);
        }
    }
}
