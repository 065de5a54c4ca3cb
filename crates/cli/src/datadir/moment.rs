//! `--at`: a moment of a branch, and the LSN that it is.

use crate::control::Control;
use crate::failure::Failure;
use anyhow::Result;
use std::time::{Duration, Instant};
use xylem_types::BranchName;

/// How long what is durable is waited for to be applied.
const PATIENCE: Duration = Duration::from_secs(5);
/// The LSN at which a branch without anything in it stands.
const EMPTY: u64 = 12_288;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// An LSN.
    Lsn(u64),
    /// A time.
    Time(jiff::Timestamp),
}

/// Reads a decimal LSN or a time as RFC 3339 has it.
///
/// # Errors
/// Says what is understood.
pub fn parse(text: &str) -> Result<At, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let lsn = text
            .parse()
            .map_err(|_| "the LSN is too large".to_owned())?;
        return Ok(At::Lsn(lsn));
    }
    text.parse::<jiff::Timestamp>().map(At::Time).map_err(|_| {
        format!(
            "{text:?} is neither an LSN (a decimal number) nor a time such as 2026-11-22T14:05:00Z"
        )
    })
}

/// The LSN of `branch` that is meant; without `at`, one that shows everything
/// that is durable now.
///
/// # Errors
/// When there is no such branch, nothing in it, or it was elsewhere then.
pub async fn resolve(control: &Control, branch: &BranchName, at: Option<&At>) -> Result<u64> {
    let began = Instant::now();
    let mut durable = None;
    let applied = loop {
        let branches = control.branches().await?;
        let Some(found) = branches.iter().find(|b| b.name == branch.as_str()) else {
            return Err(Failure::new(
                format!("there is no branch {branch}"),
                "`xylem branch ls` shows the branches there are",
            ));
        };
        let wanted = *durable.get_or_insert(found.last_lsn);
        // What a compute that was killed sent last may never be applied.
        if found.applied_lsn >= wanted || began.elapsed() > PATIENCE {
            break found.applied_lsn;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    if applied <= EMPTY {
        return Err(Failure::new(
            format!("branch {branch} is empty"),
            "start its compute first, which makes MariaDB's own tables",
        ));
    }
    match at {
        None => Ok(applied),
        Some(At::Lsn(lsn)) if *lsn <= applied && *lsn > EMPTY => Ok(*lsn),
        Some(At::Lsn(lsn)) => Err(Failure::new(
            format!("branch {branch} has no LSN {lsn}: it goes to {applied}"),
            "`xylem branch show` says how far a branch goes",
        )),
        Some(At::Time(time)) => Err(Failure::new(
            format!("this server cannot tell at which LSN branch {branch} was at {time}"),
            "give an LSN",
        )),
    }
}
