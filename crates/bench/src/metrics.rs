//! The metrics of a Xylem server (docs/metrics.md).

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The values at one moment.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Names with labels as they were printed, and values.
    values: Vec<(String, f64)>,
}

impl Metrics {
    /// Reads the metrics of the server whose HTTP address is `address`, with the token
    /// that it asks for, if any.
    pub fn scrape(address: &str, token: Option<&str>) -> Result<Metrics> {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        let ask = || -> Result<String> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            write!(
                stream,
                "GET /metrics HTTP/1.1\r\nHost: {address}\r\n{token}Connection: close\r\n\r\n"
            )?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        let text = ask().with_context(|| format!("cannot read metrics from {address}"))?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP response")?;
        ensure!(head.contains(" 200 "), "no metrics: {head}");
        Ok(Metrics::parse(body))
    }

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
