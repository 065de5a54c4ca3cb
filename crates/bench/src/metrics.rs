//! The metrics of a Xylem server (docs/metrics.md).

use anyhow::{Context, Result};

/// The values at one moment.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Names with labels as they were printed, and values.
    values: Vec<(String, f64)>,
}

impl Metrics {
    /// Parses the OpenMetrics text format. What is no sample is skipped.
    pub fn parse(text: &str) -> Metrics {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let value = |line: &str| {
            // Labels may contain spaces. Neither timestamps nor exemplars are expected.
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Metrics {
            values: samples.filter_map(value).collect(),
        }
    }

    /// The sum over all branches and other labels.
    ///
    /// # Errors
    /// When the server has no such metric.
    pub fn sum(&self, name: &str) -> Result<f64> {
        let mut found = self
            .values
            .iter()
            .filter(|(full, _)| full.split('{').next() == Some(name))
            .map(|(_, value)| *value)
            .peekable();
        found
            .peek()
            .with_context(|| format!("the server has no metric {name}"))?;
        Ok(found.sum())
    }
}
