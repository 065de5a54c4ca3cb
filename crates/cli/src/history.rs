//! The beginning of a project. Its history may go back further, to the making of
//! the template that it was created from, but no time before its beginning means
//! anything on its branches.

use crate::control::Control;
use crate::failure::{Failure, Kind};
use crate::moment::Moment;
use crate::project::Project;
use anyhow::Result;
use jiff::Timestamp;
use std::fmt::Display;

/// Checks that the project had begun at `at`, of which a branch is to be shown or
/// created from `branch`.
///
/// # Errors
/// When it had not, with how far back the history of `branch` reaches.
pub async fn check(
    project: &Project,
    control: &Control,
    branch: &(dyn Display + Sync),
    at: Option<Moment>,
) -> Result<()> {
    let Some(Moment::Time(time)) = at else {
        return Ok(());
    };
    // On this machine; nearly always it spares asking the server.
    let created = project.created.parse::<Timestamp>();
    if created.is_ok_and(|created| time >= created) {
        return Ok(());
    }
    let Some(began) = began(control, branch).await?.filter(|began| time < *began) else {
        return Ok(());
    };
    let reach = control.resolve(branch, None, false).await?;
    let oldest = reach.oldest_time.parse::<Timestamp>();
    if oldest.is_ok_and(|oldest| oldest >= began) {
        // The server refuses the moment itself.
        return Ok(());
    }
    // The template may have been made long before, and nothing tells then which
    // LSN was there at the beginning: all that is older shows the empty database.
    let first = control
        .resolve(branch, Some(Moment::Time(began)), false)
        .await;
    let oldest = first.map_or(reach.oldest_lsn, |first| first.lsn);
    Err(Failure::of(
        Kind::Invalid,
        format!(
            "{time} is outside the history of branch {branch}, which reaches from LSN {oldest} ({began}) to LSN {} ({}): the project began at {began}",
            reach.newest_lsn, reach.newest_time
        ),
        format!("use a later time, or an LSN from {oldest} on: `--at {oldest}`"),
    ))
}

/// The time at which the project of `branch` began: its first branch, which has no
/// parent, was created then.
async fn began(control: &Control, branch: &(dyn Display + Sync)) -> Result<Option<Timestamp>> {
    let mut root = control.branch(branch).await?;
    while !root.parent_id.is_empty() {
        root = control.branch(&format!("id:{}", root.parent_id)).await?;
    }
    Ok(root.created_at.parse().ok())
}
