//! Checks the pages of a directory before anything is done with it.

use super::tally::{BadFile, Tally};
use crate::meter::{Meter, watched};
use crate::progress::Progress;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use xylem_ambient::Clock;
use xylem_datadir::classify;
use xylem_datadir::pages;
use xylem_datadir::survey::Survey;
use xylem_datadir::tablespace::Tablespace;
use xylem_types::Lsn;

/// Checks every page.
///
/// # Errors
/// When a file cannot be read.
pub async fn all(survey: &Arc<Survey>, clock: &Clock, progress: &Progress) -> Result<Tally> {
    check(survey, |_| true, clock, progress).await
}

/// Checks the pages that MariaDB is started on, with `whole` all: on damaged ones
/// MariaDB would end in its own way. If one of them is bad all others are checked,
/// too, so that people learn of everything at once. `None`: none is bad.
///
/// # Errors
/// When a file cannot be read.
pub async fn before_conversion(
    survey: &Arc<Survey>,
    whole: bool,
    clock: &Clock,
    progress: &Progress,
) -> Result<Option<Vec<BadFile>>> {
    let first =
        move |s: &Tablespace| whole || !s.name.contains('/') || classify::is_system(&s.name);
    let found = check(survey, first, clock, progress).await?.bad;
    if found.is_empty() {
        return Ok(None);
    }
    let rest = check(survey, move |s| !first(s), clock, progress)
        .await?
        .bad;
    let by_name: BTreeMap<String, BadFile> = found
        .into_iter()
        .chain(rest)
        .map(|b| (b.name.clone(), b))
        .collect();
    Ok(Some(by_name.into_values().collect()))
}

/// Checks the pages of those tablespaces that are `wanted`.
async fn check(
    survey: &Arc<Survey>,
    wanted: impl Fn(&Tablespace) -> bool + Send + 'static,
    clock: &Clock,
    progress: &Progress,
) -> Result<Tally> {
    // Without the end of the redo log all LSNs are fine.
    let end = survey.stopped.as_ref().map_or(Lsn::MAX, |s| s.end);
    let spaces = survey.spaces().filter(|s| wanted(s));
    let meter = Meter::new(spaces.map(Tablespace::bytes).sum(), clock);
    let (survey, counted) = (Arc::clone(survey), Arc::clone(&meter));
    watched(progress, "checking pages", &meter, move || {
        let mut tally = Tally::default();
        for space in survey.spaces().filter(|s| wanted(s)) {
            let found = pages::scan::<anyhow::Error>(
                space,
                end,
                |_, _| Ok(()),
                |bytes| Ok(counted.add(bytes)?),
            )
            .with_context(|| format!("cannot read {}", space.name))?;
            tally.add(space, found);
        }
        Ok(tally)
    })
    .await
}
