//! Whether a series of samples grows: the slope of the straight line that fits them best.

use crate::soak::SAMPLES_MIN;
use std::time::Duration;

/// Samples of one value, and when they were taken.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<(f64, f64)>);

/// The straight line through a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The mean of the values.
    pub mean: f64,
    /// The growth of the line in an hour.
    pub per_hour: f64,
    /// Its growth between the first and the last sample.
    pub total: f64,
}

/// How much a value may grow during a run.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// In the value's unit.
    pub amount: f64,
    /// In addition, this part of its mean.
    pub part: f64,
}

impl Bound {
    /// The growth that is allowed to a value of this mean.
    pub fn of(self, mean: f64) -> f64 {
        self.amount + self.part * mean
    }
}

impl Series {
    /// Adds a sample.
    pub fn push(&mut self, at: Duration, value: f64) {
        self.0.push((at.as_secs_f64(), value));
    }

    /// The samples that were taken at `from` or later.
    pub fn since(&self, from: Duration) -> Series {
        let from = from.as_secs_f64();
        Series(
            self.0
                .iter()
                .copied()
                .filter(|(at, _)| *at >= from)
                .collect(),
        )
    }

    /// Fits a line by least squares; `None` if there are too few samples.
    pub fn growth(&self) -> Option<Growth> {
        let (first, last) = (self.0.first()?.0, self.0.last()?.0);
        let count = self.0.len();
        if count < SAMPLES_MIN {
            return None;
        }
        let mean_of =
            |value: fn(&(f64, f64)) -> f64| self.0.iter().map(value).sum::<f64>() / count as f64;
        let (middle, mean) = (mean_of(|sample| sample.0), mean_of(|sample| sample.1));
        let (mut with, mut alone) = (0.0, 0.0);
        for (at, value) in &self.0 {
            with += (at - middle) * (value - mean);
            alone += (at - middle).powi(2);
        }
        let slope = with / alone;
        Some(Growth {
            mean,
            per_hour: slope * 3_600.0,
            total: slope * (last - first),
        })
    }
}

#[cfg(test)]
mod tests;
