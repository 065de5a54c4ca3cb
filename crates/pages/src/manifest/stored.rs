//! Reads manifests from the store itself without taking part: for the scrub.

use super::format::{Parsed, name_of, parse};
use super::version::Manifest;
use crate::finding::{Fault, FindingKind};
use crate::place::Files;
use std::collections::BTreeMap;
use std::io;
use xylem_types::BranchId;

/// The newest manifest that the store has of a branch.
pub(crate) struct Stored {
    pub(crate) manifest: Manifest,
    /// Bytes read.
    pub(crate) read: u64,
}

/// Reads manifest `number` of the files `list` and those it stands on, from
/// the store itself, and checks that each follows from the one before. What is
/// wrong comes with the file's name.
pub(crate) fn load(
    files: &dyn Files,
    branch: BranchId,
    list: &[(String, u64)],
    number: u64,
) -> Result<Stored, (String, Fault)> {
    let sizes: BTreeMap<&str, u64> = list.iter().map(|(n, s)| (n.as_str(), *s)).collect();
    let mut read = 0;
    let mut edits: Vec<(u64, Parsed)> = Vec::new();
    let mut at = number;
    let base = loop {
        let name = name_of(at);
        let wrong = |kind, what: String| (name.clone(), Fault(kind, what));
        let Some(bytes) = sizes.get(name.as_str()) else {
            return Err(wrong(FindingKind::Missing, "it is missing".into()));
        };
        let raw = read_whole(files, &name, *bytes).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => wrong(FindingKind::Missing, "it is missing".into()),
            io::ErrorKind::UnexpectedEof => {
                wrong(FindingKind::Damaged, "the file is too short".into())
            }
            _ => wrong(FindingKind::Unreadable, format!("it cannot be read: {e}")),
        })?;
        read += bytes;
        let parsed = parse(&raw, branch, at).map_err(|e| wrong(FindingKind::Damaged, e))?;
        if parsed.snapshot {
            break parsed;
        }
        edits.push((at, parsed));
        at = match at.checked_sub(1) {
            Some(before) if before > 0 => before,
            _ => {
                let what = "there is no snapshot before it".to_owned();
                return Err(wrong(FindingKind::Missing, what));
            }
        };
    };
    let mut manifest = Manifest {
        branch,
        writer: base.writer,
        number: at,
        edits: 0,
        branch_point: base.branch_point,
        next_layer: base.next_layer,
        ..Manifest::root()
    };
    manifest.apply(base.edit);
    let wrong = |number, what| (name_of(number), Fault(FindingKind::Damaged, what));
    manifest.fits().map_err(|e| wrong(at, e))?;
    while let Some((number, parsed)) = edits.pop() {
        if parsed.next_layer < manifest.next_layer || parsed.branch_point != manifest.branch_point {
            return Err(wrong(
                number,
                "it does not follow from the one before it".into(),
            ));
        }
        manifest.next_layer = parsed.next_layer;
        let follows = manifest.check(&parsed.edit);
        follows.map_err(|e| wrong(number, format!("it does not follow: {e}")))?;
        manifest.apply(parsed.edit);
        manifest.writer = parsed.writer;
        manifest.number = number;
        manifest.edits += 1;
        manifest.fits().map_err(|e| wrong(number, e))?;
    }
    Ok(Stored { manifest, read })
}

fn read_whole(files: &dyn Files, name: &str, bytes: u64) -> io::Result<Vec<u8>> {
    let mut raw = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    files.open_uncached(name)?.read_at(0, &mut raw)?;
    Ok(raw)
}
