//! What is computed from measured values.

use std::time::Duration;

/// Whether higher or lower values are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Rates.
    Higher,
    /// Times and costs.
    Lower,
}

impl Better {
    /// How good `value` is in comparison with `base`: 1 is equal, and more is better.
    /// `None` where one of them is missing or 0.
    pub fn ratio(self, value: f64, base: f64) -> Option<f64> {
        let ratio = match self {
            Better::Higher => value / base,
            Better::Lower => base / value,
        };
        (value > 0.0 && base > 0.0).then_some(ratio)
    }
}

/// The median; NaN if there are no values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which `part` of the values are; NaN if there are none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part) as usize;
    let last = sorted.len().saturating_sub(1);
    sorted.get(at.min(last)).copied().unwrap_or(f64::NAN)
}

/// The steadiness of a long run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steadiness {
    /// Throughput in the median second.
    pub median: f64,
    /// Throughput in the worst second, as a part of the median one.
    pub worst: f64,
}

/// Computes the steadiness from the throughput of each second.
pub fn steadiness(seconds: &[f64]) -> Steadiness {
    let median = median(seconds);
    let worst = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    Steadiness {
        median,
        worst: worst / median,
    }
}

/// The longest time within which a counter did not grow, as far as samples of it show:
/// each is the time since the start and the counter. The stretch reaches from the last
/// sample before the counter stood still to the first one that shows growth, so it is
/// too long by up to two sampling intervals, and never too short.
pub fn longest_standstill(samples: &[(Duration, u64)]) -> Duration {
    let mut longest = Duration::ZERO;
    let Some(&(mut since, mut count)) = samples.first() else {
        return longest;
    };
    for &(at, now) in samples {
        longest = longest.max(at.saturating_sub(since));
        if now > count {
            (since, count) = (at, now);
        }
    }
    longest
}

/// The order in which `count` sides are measured in a turn: forward and backward in
/// turns, so that none of them always comes first.
pub fn order(turn: u32, count: usize) -> Vec<usize> {
    match turn % 2 {
        0 => (0..count).collect(),
        _ => (0..count).rev().collect(),
    }
}
