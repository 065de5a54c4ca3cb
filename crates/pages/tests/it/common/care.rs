//! Scrubs places for tests.

use std::ops::ControlFlow;
use std::path::Path;
use xylem_pages::Store;
use xylem_pages::place::{Place, ReadOnlyPlace};
use xylem_pages::scrub::{Finding, ScrubEvent, ScrubOptions, ScrubReport, Tell, scrub_place};
use xylem_types::BranchId;

/// Collects what a scrub finds.
pub fn collect(scrub: impl FnOnce(&mut Tell<'_>) -> ScrubReport) -> (ScrubReport, Vec<Finding>) {
    let mut findings = Vec::new();
    let report = scrub(&mut |event| {
        if let ScrubEvent::Finding(finding) = event {
            findings.push(finding.clone());
        }
        ControlFlow::Continue(())
    });
    (report, findings)
}

/// Scrubs the place `dir` as nobody's.
pub fn scrub(dir: &Path) -> (ScrubReport, Vec<Finding>) {
    let place = ReadOnlyPlace::open(dir).unwrap();
    collect(|tell| scrub_place(&place, &ScrubOptions::default(), tell).unwrap())
}

/// Scrubs what is open.
pub fn scrub_store(store: &Store) -> (ScrubReport, Vec<Finding>) {
    collect(|tell| store.scrub(&ScrubOptions::default(), tell))
}

/// There is no damage, whatever else lies about.
pub fn undamaged(dir: &Path) {
    undamaged_in(&ReadOnlyPlace::open(dir).unwrap(), None);
}

/// As [`undamaged`], in any place; of these branches, or of all there are
/// traces of.
pub fn undamaged_in(place: &dyn Place, branches: Option<Vec<BranchId>>) {
    let options = ScrubOptions {
        branches,
        ..ScrubOptions::default()
    };
    let (report, findings) = collect(|tell| scrub_place(place, &options, tell).unwrap());
    assert!(report.is_clean(), "{findings:?}");
}

/// There is nothing but what belongs there.
pub fn clean(dir: &Path) {
    let (report, findings) = scrub(dir);
    assert!(report.is_clean() && findings.is_empty(), "{findings:?}");
    assert_eq!(report.progress.layers_done, report.progress.layers);
    assert_eq!(report.progress.branches_done, report.progress.branches);
}
