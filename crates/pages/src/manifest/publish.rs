//! Manifests in the store: numbered files, each created only if absent, the
//! newest the truth. See docs/formats/manifest.md.

use super::format::{name_of, newest_of, number_of, parse, render};
use super::record::{BranchPoint, Edit, Resume};
use super::version::Manifest;
use crate::error::StoreError;
use crate::place::{Files, Put};
use std::collections::{BTreeSet, HashMap};
use xylem_types::BranchId;

#[cfg(test)]
mod tests;

/// After so many edits comes a snapshot.
const EDITS_MAX: u32 = 64;
/// How often a branch is tried to be taken over while its owner writes.
const CLAIMS_MAX: usize = 100;

fn list(files: &dyn Files, branch: BranchId) -> Result<Vec<(String, u64)>, StoreError> {
    files
        .list()
        .map_err(io(format!("branch {branch}: list its files")))
}

fn io(context: String) -> impl FnOnce(std::io::Error) -> StoreError {
    move |source| StoreError::Io { context, source }
}

impl Manifest {
    /// Reads the newest manifest, or makes the first, and takes the branch
    /// over: another process that has it open can no longer publish. Removes
    /// files that no manifest refers to.
    pub(crate) fn open(
        files: &dyn Files,
        branch: BranchId,
        writer: u128,
    ) -> Result<Manifest, StoreError> {
        for _ in 0..CLAIMS_MAX {
            let list = list(files, branch)?;
            let Some(newest) = newest_of(&list) else {
                // The next round takes it over, whichever process made it.
                Manifest::create(files, branch, writer, Manifest::root())?;
                continue;
            };
            let mut manifest = match Manifest::load(files, branch, newest) {
                // Its owner may have put a snapshot in its place meanwhile.
                Err(e) if newest_of(&self::list(files, branch)?) == Some(newest) => {
                    return Err(e);
                }
                Err(_) => continue,
                Ok(m) => m,
            };
            manifest.check_files(&list)?;
            manifest.writer = writer;
            let same = Edit {
                resume: manifest.resume,
                oldest: manifest.oldest,
                merging: manifest.merging.clone(),
                ..Edit::default()
            };
            match manifest.put(files, same)? {
                Put::Exists => {}
                Put::NotSynced => return Ok(manifest),
                Put::Done => {
                    manifest.sweep(files, &list);
                    return Ok(manifest);
                }
            }
        }
        Err(StoreError::Corrupt(format!(
            "branch {branch}: another process keeps writing its manifests"
        )))
    }

    /// Makes the first manifest of a branch that leaves another. Its history
    /// goes on at the branch_point's LSN.
    ///
    /// # Errors
    /// When it cannot be made, or there is one.
    pub(crate) fn fork(
        files: &dyn Files,
        branch: BranchId,
        writer: u128,
        branch_point: BranchPoint,
    ) -> Result<(), StoreError> {
        let first = Manifest {
            branch_point: Some(branch_point),
            resume: Resume {
                lsn: branch_point.lsn,
                ..Resume::default()
            },
            ..Manifest::root()
        };
        match Manifest::create(files, branch, writer, first)? {
            Put::Done | Put::NotSynced => Ok(()),
            Put::Exists => Err(StoreError::Corrupt(format!(
                "branch {branch}: it has a manifest already"
            ))),
        }
    }

    /// Puts the first manifest of a branch.
    pub(crate) fn create(
        files: &dyn Files,
        branch: BranchId,
        writer: u128,
        mut first: Manifest,
    ) -> Result<Put, StoreError> {
        first.branch = branch;
        first.writer = writer;
        let name = name_of(1);
        files
            .put_new(&name, &render(&first, None))
            .map_err(io(format!("branch {branch}: create {name}")))
    }

    fn load(files: &dyn Files, branch: BranchId, newest: u64) -> Result<Manifest, StoreError> {
        let mut edits = Vec::new();
        let mut number = newest;
        let base = loop {
            let name = name_of(number);
            let raw = files
                .read(&name)
                .map_err(io(format!("branch {branch}: read {name}")))?;
            let p = parse(&raw, branch, number)
                .map_err(|e| StoreError::Corrupt(format!("branch {branch}: {name}: {e}")))?;
            if p.snapshot {
                break p;
            }
            edits.push(p);
            number = number.checked_sub(1).ok_or_else(|| {
                StoreError::Corrupt(format!("branch {branch}: no snapshot among its manifests"))
            })?;
        };
        let mut m = Manifest {
            branch,
            writer: edits.first().map_or(base.writer, |newest| newest.writer),
            number: newest,
            edits: (newest - number) as u32,
            branch_point: base.branch_point,
            next_layer: base.next_layer,
            ..Manifest::root()
        };
        m.apply(base.edit);
        while let Some(e) = edits.pop() {
            m.next_layer = e.next_layer;
            m.apply(e.edit);
        }
        Ok(m)
    }

    fn check_files(&self, list: &[(String, u64)]) -> Result<(), StoreError> {
        let sizes: HashMap<&str, u64> = list.iter().map(|(n, s)| (n.as_str(), *s)).collect();
        for l in &self.layers {
            let found = sizes.get(l.name.as_str()).copied();
            if found != Some(l.bytes) {
                return Err(StoreError::Corrupt(format!(
                    "branch {}: layer {} should have {} bytes and {}",
                    self.branch,
                    l.name,
                    l.bytes,
                    found.map_or("is missing".to_owned(), |n| format!("has {n}"))
                )));
            }
        }
        Ok(())
    }

    /// Removes what a crash left over. Best effort: what stays is removed at
    /// the next start.
    fn sweep(&self, files: &dyn Files, list: &[(String, u64)]) {
        let oldest = self.number - u64::from(self.edits);
        let used: BTreeSet<&str> = self.layers.iter().map(|l| l.name.as_str()).collect();
        for (name, _) in list {
            let leftover = name.ends_with(".tmp")
                || name.ends_with(".layer") && !used.contains(name.as_str())
                || number_of(name).is_some_and(|n| n < oldest);
            if leftover && let Err(e) = files.remove(name) {
                tracing::warn!(branch_id = %self.branch, file = %name, error = %e, "leftover file not removed");
            }
        }
    }

    /// Makes `edit` part of the truth. On an error nothing has changed in
    /// memory, except that layer numbers may stay unused; whether the store
    /// has it is not known, so it must be published again as it is, and the
    /// layers it names must stay until it was.
    pub(crate) fn publish(&mut self, files: &dyn Files, edit: Edit) -> Result<Put, StoreError> {
        self.check(&edit).map_err(|e| {
            StoreError::Corrupt(format!("branch {}: refused a manifest: {e}", self.branch))
        })?;
        match self.put(files, edit)? {
            Put::Exists => Err(StoreError::Taken(self.branch)),
            put => Ok(put),
        }
    }

    /// Puts the next manifest. [`Put::Exists`]: the branch is another's now,
    /// and nothing has changed in memory.
    ///
    /// A number that was used is free again once a snapshot has come after it,
    /// so that a put succeeded does not say that this process still has the
    /// branch: it may have been held up while another went on far beyond. What
    /// follows a put (layers deleted, the WAL trimmed, manifests removed)
    /// relies on it, so each put is proved by a look behind it.
    fn put(&mut self, files: &dyn Files, edit: Edit) -> Result<Put, StoreError> {
        let mut next = self.clone();
        next.number += 1;
        let snapshot = self.edits + 1 >= EDITS_MAX;
        next.edits = if snapshot { 0 } else { self.edits + 1 };
        next.apply(edit.clone());
        let raw = render(&next, (!snapshot).then_some(&edit));
        let name = name_of(next.number);
        let context = |what: &str| format!("branch {}: {what} {name}", self.branch);
        let mut put = files.put_new(&name, &raw).map_err(io(context("create")))?;
        if put == Put::Exists {
            // An attempt whose outcome was not known may have succeeded.
            if files.read(&name).map_err(io(context("read")))? != raw {
                return Ok(put);
            }
            put = Put::NotSynced;
        }
        // After the put: before it, the answer could be out of date by then.
        if !next.is_newest(files)? {
            return Ok(Put::Exists);
        }
        let first_old = self.number - u64::from(self.edits);
        let last_old = self.number;
        *self = next;
        if snapshot && put == Put::Done {
            for n in first_old..=last_old {
                // The next start removes a file that stays.
                let _ = files.remove(&name_of(n));
            }
        }
        Ok(put)
    }

    /// Whether it, which is in the store, is the newest there, and the one
    /// before it is there as well, which goes only after a newer snapshot or
    /// with the whole branch.
    fn is_newest(&self, files: &dyn Files) -> Result<bool, StoreError> {
        let before = self.number.saturating_sub(1);
        let after = files
            .after(&name_of(before.saturating_sub(1)))
            .map_err(io(format!("branch {}: list its manifests", self.branch)))?;
        let there: Vec<u64> = after.iter().filter_map(|n| number_of(n)).collect();
        Ok(there.iter().max() == Some(&self.number) && there.contains(&before))
    }
}
