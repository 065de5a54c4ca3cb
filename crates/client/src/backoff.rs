//! Exponential backoff with full jitter. Each wait is uniform between zero and a
//! ceiling that doubles, so that computes do not all reconnect at the same
//! moment when their server comes back.

use std::time::Duration;
use xylem_ambient::Entropy;

/// The first ceiling.
const FIRST: Duration = Duration::from_millis(20);
/// The highest ceiling.
const CEILING: Duration = Duration::from_secs(2);

/// A source of jitter. xorshift64* is good enough for this purpose.
#[derive(Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// A source with this seed.
    pub fn new(seed: u64) -> Jitter {
        // xorshift never leaves the state zero.
        Jitter(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    /// A source whose seed comes from `entropy`, so that it differs between
    /// processes and connections. Without entropy the seed is constant.
    pub fn from(entropy: &Entropy) -> Jitter {
        let seed = entropy.next().unwrap_or_default();
        Jitter::new((seed >> 64) as u64 ^ seed as u64)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The time to wait before attempt `attempt`; 1 is the first retry.
    pub fn wait(&mut self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        let ceiling = FIRST.saturating_mul(1 << doublings).min(CEILING);
        let micros = u64::try_from(ceiling.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        Duration::from_micros(self.next() % (micros + 1))
    }
}
