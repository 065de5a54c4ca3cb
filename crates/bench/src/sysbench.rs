//! What sysbench prints.

use anyhow::{Context, Result};

/// The number of transactions in the report of a run.
pub fn transactions(report: &str) -> Result<u64> {
    let count = transactions_line(report).and_then(|line| line.split_whitespace().next());
    count
        .and_then(|count| count.parse().ok())
        .with_context(|| format!("no transactions in: {report}"))
}

/// The transactions per second in the report of a run.
pub fn per_second(report: &str) -> Result<f64> {
    let rate = transactions_line(report).and_then(|line| {
        let (_, rest) = line.split_once('(')?;
        rest.split_whitespace().next()
    });
    rate.and_then(|rate| rate.parse().ok())
        .with_context(|| format!("no transactions per second in: {report}"))
}

fn transactions_line(report: &str) -> Option<&str> {
    let lines = report.lines();
    lines
        .map(str::trim)
        .find_map(|line| line.strip_prefix("transactions:"))
}

/// The transactions per second in the lines that `--report-interval=1` prints, such as
/// `[ 7s ] thds: 16 tps: 1234.56 qps: …`.
pub fn seconds(report: &str) -> Result<Vec<f64>> {
    report
        .lines()
        .filter(|line| line.starts_with("[ ") && line.contains("s ] thds:"))
        .map(|line| {
            let (_, rest) = line.split_once(" tps: ")?;
            rest.split_whitespace().next()?.parse().ok()
        })
        .collect::<Option<Vec<f64>>>()
        .filter(|seconds| !seconds.is_empty())
        .with_context(|| format!("no throughput per second in: {report}"))
}
