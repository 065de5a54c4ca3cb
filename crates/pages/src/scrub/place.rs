//! Scrubs a place that no server of this process has open.

use super::branch::BranchCheck;
use super::layer::Room;
use super::report::{ScrubOptions, ScrubReport, Tell};
use super::run::Run;
use crate::finding::{Finding, FindingKind};
use crate::manifest::format::newest_of;
use crate::manifest::record::BranchPoint;
use crate::manifest::stored;
use crate::manifest::version::Manifest;
use crate::place::{Place, branch_folder};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use xylem_types::{BranchId, Lsn};

/// The folder with one folder for each branch.
const BRANCHES: &str = "branches";
/// Memory for it, of which a scrub takes its share.
const MEMORY: u64 = 1 << 30;

/// The branches looked at so far.
#[derive(Default)]
struct Known {
    manifests: BTreeMap<BranchId, Option<Manifest>>,
    branch_points: Vec<(BranchId, BranchPoint)>,
}

/// Checks everything that branches have in `place`, found by their folders,
/// whether or not a server has it open. `tell` hears of it and may stop it.
/// Blocking, for as long as reading all of it takes.
///
/// With [`ScrubOptions::branches`] given these are the branches that there
/// are: one of them that has nothing is missing, and another's folder is of no
/// branch any more.
///
/// # Errors
/// When the place cannot be listed.
pub fn scrub_place<'a>(
    place: &dyn Place,
    options: &ScrubOptions,
    tell: &'a mut Tell<'a>,
) -> io::Result<ScrubReport> {
    let mut found: Vec<BranchId> = Vec::new();
    for name in place.folders(BRANCHES)? {
        // No branch has another name.
        found.extend(name.parse::<BranchId>().ok().filter(|id| {
            // Digits may be written in other ways.
            branch_folder(*id).ends_with(&name)
        }));
    }
    found.sort_unstable();
    let mut run = Run::new(options, tell);
    let ids = match &options.branches {
        None => found.clone(),
        Some(only) => {
            for id in found.iter().filter(|id| !only.contains(id)) {
                run.found(&of_branch(
                    *id,
                    FindingKind::Orphan,
                    "its folder is of no branch; the next start of the server removes it",
                ));
            }
            only.clone()
        }
    };
    run.report.progress.branches = ids.len() as u64;
    for id in ids.iter().filter(|id| found.contains(id)) {
        for (name, bytes) in place.folder(&branch_folder(*id))?.list()? {
            if name.ends_with(".layer") {
                run.report.progress.layers += 1;
                run.report.progress.bytes += bytes;
            }
        }
    }
    let mut known = Known::default();
    for id in ids {
        if run.report.stopped {
            break;
        }
        if !found.contains(&id) {
            let what = "nothing of it is in the store";
            run.found(&of_branch(id, FindingKind::Missing, what));
            run.report.progress.branches_done += 1;
            continue;
        }
        let files = place.folder(&branch_folder(id))?;
        let check = run.branch(BranchCheck::stored(id, files, Room::of(MEMORY)));
        if let Some(point) = check.branch_point() {
            known.branch_points.push((id, *point));
        }
        known.manifests.insert(id, check.manifest().cloned());
    }
    if !run.report.stopped {
        check_branch_points(place, &found, known, &mut run)?;
    }
    Ok(run.report)
}

fn of_branch(branch: BranchId, kind: FindingKind, message: &str) -> Finding {
    Finding {
        branch,
        file: String::new(),
        kind,
        message: message.to_owned(),
    }
}

/// Checks that the parent of every branch is there and begins before its
/// branch point.
fn check_branch_points(
    place: &dyn Place,
    found: &[BranchId],
    mut known: Known,
    run: &mut Run<'_>,
) -> io::Result<()> {
    let mut todo = std::mem::take(&mut known.branch_points);
    while let Some((id, point)) = todo.pop() {
        let manifest = match known.manifests.entry(point.parent) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let manifest = match found.contains(&point.parent) {
                    true => newest(place, point.parent)?,
                    false => None,
                };
                if let Some(next) = manifest.as_ref().and_then(|m| m.branch_point) {
                    todo.push((point.parent, next));
                }
                unknown.insert(manifest)
            }
        };
        match manifest {
            Some(manifest) => {
                if let Some(what) = misplaced(&point, manifest) {
                    run.found(&of_branch(id, FindingKind::Damaged, &what));
                }
            }
            None => {
                let what = format!(
                    "it left branch {} at LSN {}, and that cannot be read or is not there",
                    point.parent, point.lsn
                );
                run.found(&of_branch(id, FindingKind::Missing, &what));
            }
        }
    }
    Ok(())
}

/// The newest manifest of a branch that was not asked for.
fn newest(place: &dyn Place, id: BranchId) -> io::Result<Option<Manifest>> {
    let files = place.folder(&branch_folder(id))?;
    let list = files.list()?;
    let number = newest_of(&list);
    let stored = number.and_then(|n| stored::load(&*files, id, &list, n).ok());
    Ok(stored.map(|s| s.manifest))
}

/// Says why a branch cannot have left the branch of manifest `parent` at
/// `point`: that one begins later.
fn misplaced(point: &BranchPoint, parent: &Manifest) -> Option<String> {
    let begins = parent.branch_point.map_or(Lsn::ZERO, |p| p.lsn);
    (point.lsn < begins).then(|| {
        format!(
            "it left branch {} at LSN {}, and that begins at {begins}",
            point.parent, point.lsn
        )
    })
}
