//! The list of a branch's layers: numbered files, each created only if absent,
//! the newest the truth. See docs/formats/manifest.md.

use crate::api::StoreError;
use crate::codec::{Dec, put_bytes, put_varint};
use crate::files::{Files, Put};
use crate::fork::SLOTS;
use crate::layer::LayerMeta;
use std::collections::{BTreeSet, HashMap};
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

pub(crate) mod look;
#[cfg(test)]
mod tests;

const MAGIC: &[u8; 8] = b"XYMANIF\x01";
/// Of a manifest with at most one merge under way.
const VERSION: u16 = 3;
/// Of one with more: servers that run one at a time refuse it.
const VERSION_MERGES: u16 = 4;
const HEADER: usize = 64;
const PREFIX: &str = "manifest-";
/// After so many edits comes a snapshot.
const EDITS_MAX: u32 = 64;
/// Merges of a branch that may be under way.
pub(crate) const MERGES_MAX: usize = 4;
/// How often a branch is tried to be taken over while its owner writes.
const CLAIMS_MAX: usize = 100;

/// From where ingest goes on after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resume {
    /// Read the log from here: the entry that holds the first byte of the
    /// first mtr that no layer has, or the one after all that is in layers.
    pub(crate) position: Position,
    /// That mtr's LSN. Redo before it is skipped.
    pub(crate) lsn: Lsn,
    /// Side-file operations before this place are in layers and are skipped.
    pub(crate) operations: Position,
    /// Whether an epoch has begun.
    pub(crate) begun: bool,
}

/// Where a branch left another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ancestor {
    pub(crate) branch: BranchId,
    /// The last LSN they share.
    pub(crate) lsn: Lsn,
    /// Side-file operations at or after this place in the ancestor's log are
    /// not shared, whatever their LSN.
    pub(crate) position: Position,
}

/// A merge that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Merging {
    /// The layers that are not read to their end, ascending.
    pub(crate) inputs: Vec<u64>,
    /// The run of what it writes: the newest of the runs it reads. No other
    /// merge has any of them.
    pub(crate) run: u64,
    /// The end of that run.
    pub(crate) end: Lsn,
}

impl Merging {
    /// The layers that `merges` read, ascending.
    pub(crate) fn inputs_of(merges: &[Merging]) -> Vec<u64> {
        let mut inputs: Vec<u64> = merges.iter().flat_map(|m| m.inputs.clone()).collect();
        inputs.sort_unstable();
        inputs
    }

    /// What must hold of merges that run side by side: one writes each run,
    /// and one reads each layer, which `is_there`.
    fn fit(merges: &[Merging], is_there: impl Fn(u64) -> bool) -> Result<(), String> {
        if merges.len() > MERGES_MAX {
            return Err(format!("{} merges are under way", merges.len()));
        }
        if !merges.is_sorted_by(|a, b| a.run < b.run) {
            return Err("merges under way are not in the order of their runs".into());
        }
        let inputs = Merging::inputs_of(merges);
        if let Some(n) = inputs.iter().find(|n| !is_there(**n)) {
            return Err(format!("layer {n} is being merged and not there"));
        }
        let twice = inputs.windows(2).find(|w| matches!(w, [a, b] if a == b));
        match twice.and_then(|w| w.first()) {
            Some(n) => Err(format!("layer {n} is being merged twice")),
            None => Ok(()),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.inputs.len() as u64);
        for n in &self.inputs {
            put_varint(out, *n);
        }
        put_varint(out, self.run);
        put_varint(out, self.end.0);
    }

    /// One of so many inputs, whose number was read before.
    fn decode(inputs: u64, d: &mut Dec<'_>) -> Option<Merging> {
        let inputs: Option<Vec<u64>> = (0..inputs).map(|_| d.varint()).collect();
        let mut inputs = inputs?;
        inputs.sort_unstable();
        Some(Merging {
            inputs,
            run: d.varint()?,
            end: Lsn(d.varint()?),
        })
    }
}

/// What one manifest changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edit {
    pub(crate) add: Vec<LayerMeta>,
    pub(crate) remove: Vec<u64>,
    /// Layers whose first key that counts is now another.
    pub(crate) narrow: Vec<(u64, Vec<u8>)>,
    pub(crate) resume: Resume,
    /// Where the history kept begins, once that is known.
    pub(crate) oldest: Option<Lsn>,
    /// All merges that are under way then; see [`Manifest::merging_with`].
    pub(crate) merging: Vec<Merging>,
}

/// The newest manifest.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    branch: BranchId,
    /// Random: tells the manifests of this process from others'.
    writer: u128,
    number: u64,
    edits: u32,
    pub(crate) ancestor: Option<Ancestor>,
    pub(crate) resume: Resume,
    pub(crate) oldest: Option<Lsn>,
    next_layer: u64,
    /// Oldest first: by run, then by number.
    pub(crate) layers: Vec<LayerMeta>,
    /// By run.
    pub(crate) merging: Vec<Merging>,
}

fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX).filter(|d| d.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn list(files: &dyn Files, branch: BranchId) -> Result<Vec<(String, u64)>, StoreError> {
    files
        .list()
        .map_err(io(format!("branch {branch}: list its files")))
}

fn newest(list: &[(String, u64)]) -> Option<u64> {
    list.iter().filter_map(|(n, _)| number_of(n)).max()
}

fn io(context: String) -> impl FnOnce(std::io::Error) -> StoreError {
    move |source| StoreError::Io { context, source }
}

struct Parsed {
    snapshot: bool,
    writer: u128,
    ancestor: Option<Ancestor>,
    next_layer: u64,
    edit: Edit,
}

fn parse(raw: &[u8], branch: BranchId, number: u64) -> Result<Parsed, String> {
    let head = raw.get(..HEADER).ok_or("too short")?;
    let mut d = Dec(head);
    if d.take(8) != Some(MAGIC) {
        return Err("not a manifest".into());
    }
    let crc = raw.get(60..64).map(|b| Dec(b).u32());
    if crc.flatten() != raw.get(..60).map(crc32c::crc32c) {
        return Err("its header fails its CRC-32C".into());
    }
    let version = d.u16().unwrap_or(0);
    if version != VERSION && version != VERSION_MERGES {
        return Err(format!("format version {version} is not known"));
    }
    let kind = d.u8();
    d.take(5);
    if d.u128() != Some(branch.0) {
        return Err("it is another branch's".into());
    }
    if d.u64() != Some(number) {
        return Err("it has another number inside".into());
    }
    let body = raw.get(HEADER..).unwrap_or_default();
    if d.u64() != Some(body.len() as u64) || d.u32() != Some(crc32c::crc32c(body)) {
        return Err("its body fails its CRC-32C".into());
    }
    let snapshot = kind == Some(0);
    let many = version == VERSION_MERGES;
    parse_body(body, snapshot, many).ok_or_else(|| "its body is malformed".into())
}

/// With `many` there may be several merges.
fn parse_body(body: &[u8], snapshot: bool, many: bool) -> Option<Parsed> {
    let mut d = Dec(body);
    let writer = d.u128()?;
    let flags = d.u8()?;
    if flags & !7 != 0 {
        return None;
    }
    let oldest = Lsn(d.varint()?);
    let resume = Resume {
        position: Position(d.varint()?),
        lsn: Lsn(d.varint()?),
        operations: Position(d.varint()?),
        begun: flags & 1 != 0,
    };
    let ancestor = match flags & 4 != 0 {
        true => Some(Ancestor {
            branch: BranchId(d.u128()?),
            lsn: Lsn(d.varint()?),
            position: Position(d.varint()?),
        }),
        false => None,
    };
    let next_layer = d.varint()?;
    let mut edit = Edit {
        resume,
        oldest: (flags & 2 != 0).then_some(oldest),
        ..Edit::default()
    };
    for _ in 0..d.varint()? {
        edit.remove.push(d.varint()?);
    }
    for _ in 0..d.varint()? {
        edit.narrow.push((d.varint()?, d.bytes()?.to_vec()));
    }
    for _ in 0..d.varint()? {
        edit.add.push(LayerMeta::decode(&mut d)?);
    }
    let mut inputs = d.varint()?;
    while inputs > 0 {
        edit.merging.push(Merging::decode(inputs, &mut d)?);
        inputs = if many { d.varint()? } else { 0 };
    }
    d.is_empty().then_some(Parsed {
        snapshot,
        writer,
        ancestor,
        next_layer,
        edit,
    })
}

/// The manifest's bytes: with `edit` the change alone, else all of it.
fn render(m: &Manifest, edit: Option<&Edit>) -> Vec<u8> {
    let mut body = m.writer.to_le_bytes().to_vec();
    let bit = |set: bool, n: u8| u8::from(set) << n;
    body.push(bit(m.resume.begun, 0) | bit(m.oldest.is_some(), 1) | bit(m.ancestor.is_some(), 2));
    put_varint(&mut body, m.oldest.unwrap_or_default().0);
    put_varint(&mut body, m.resume.position.0);
    put_varint(&mut body, m.resume.lsn.0);
    put_varint(&mut body, m.resume.operations.0);
    if let Some(a) = &m.ancestor {
        body.extend_from_slice(&a.branch.0.to_le_bytes());
        put_varint(&mut body, a.lsn.0);
        put_varint(&mut body, a.position.0);
    }
    put_varint(&mut body, m.next_layer);
    let none = Edit::default();
    let change = edit.unwrap_or(&none);
    put_varint(&mut body, change.remove.len() as u64);
    for n in &change.remove {
        put_varint(&mut body, *n);
    }
    put_varint(&mut body, change.narrow.len() as u64);
    for (n, key) in &change.narrow {
        put_varint(&mut body, *n);
        put_bytes(&mut body, key);
    }
    let add = edit.map_or(&m.layers, |e| &e.add);
    put_varint(&mut body, add.len() as u64);
    for l in add {
        l.encode(&mut body);
    }
    for job in &m.merging {
        job.encode(&mut body);
    }
    let many = m.merging.len() > 1;
    if many || m.merging.is_empty() {
        put_varint(&mut body, 0);
    }
    let version = if many { VERSION_MERGES } else { VERSION };
    let mut out = vec![0u8; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&version.to_le_bytes());
    out[10] = u8::from(edit.is_some());
    out[16..32].copy_from_slice(&m.branch.0.to_le_bytes());
    out[32..40].copy_from_slice(&m.number.to_le_bytes());
    out[40..48].copy_from_slice(&(body.len() as u64).to_le_bytes());
    out[48..52].copy_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    let crc = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&body);
    out
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
            let Some(newest) = newest(&list) else {
                // Whoever made it, the next round takes it over.
                Manifest::create(files, branch, writer, Manifest::root())?;
                continue;
            };
            let mut manifest = match Manifest::load(files, branch, newest) {
                // Its owner may have put a snapshot in its place meanwhile.
                Err(e) if self::newest(&self::list(files, branch)?) == Some(newest) => {
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
    /// goes on at the ancestor's LSN.
    ///
    /// # Errors
    /// When it cannot be made, or there is one.
    pub(crate) fn fork(
        files: &dyn Files,
        branch: BranchId,
        writer: u128,
        ancestor: Ancestor,
    ) -> Result<(), StoreError> {
        let first = Manifest {
            ancestor: Some(ancestor),
            resume: Resume {
                lsn: ancestor.lsn,
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

    fn root() -> Manifest {
        Manifest {
            branch: BranchId(0),
            writer: 0,
            number: 1,
            edits: 0,
            ancestor: None,
            resume: Resume::default(),
            oldest: None,
            next_layer: 1,
            layers: Vec::new(),
            merging: Vec::new(),
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
            ancestor: base.ancestor,
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

    fn apply(&mut self, edit: Edit) {
        self.layers.retain(|l| !edit.remove.contains(&l.number));
        for (number, key) in edit.narrow {
            if let Some(l) = self.layers.iter_mut().find(|l| l.number == number) {
                l.first_key = key;
            }
        }
        self.layers.extend(edit.add);
        self.layers.sort_by_key(|l| (l.run, l.number));
        self.resume = edit.resume;
        self.oldest = edit.oldest;
        self.merging = edit.merging;
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
                tracing::warn!(branch = %self.branch, file = %name, error = %e, "leftover file not removed");
            }
        }
    }

    /// The merges under way when `rest` is what is left of the one that writes
    /// `run`; that may have just begun.
    pub(crate) fn merging_with(&self, run: u64, rest: Option<Merging>) -> Vec<Merging> {
        let others = self.merging.iter().filter(|m| m.run != run);
        let mut merging: Vec<Merging> = others.cloned().chain(rest).collect();
        merging.sort_by_key(|m| m.run);
        merging
    }

    /// A number for a layer, never given out before.
    pub(crate) fn allocate(&mut self) -> u64 {
        let n = self.next_layer;
        self.next_layer += 1;
        n
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
    /// follows a put (layers deleted, the log trimmed, manifests removed)
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
                // What stays is removed at the next start.
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

    /// What must hold of every edit, else a read could miss a version.
    fn check(&self, edit: &Edit) -> Result<(), String> {
        if edit.resume.lsn < self.resume.lsn || edit.resume.operations < self.resume.operations {
            return Err(format!(
                "resume point {:?} is behind {:?}",
                edit.resume, self.resume
            ));
        }
        for l in &edit.add {
            if l.number >= self.next_layer || self.layers.iter().any(|o| o.number == l.number) {
                return Err(format!(
                    "layer number {} was not allocated for it",
                    l.number
                ));
            }
            if l.end.bytes_since(edit.resume.lsn) > SLOTS {
                return Err(format!("layer {} ends after the resume point", l.name));
            }
        }
        let known = |n: &u64| self.layers.iter().any(|l| l.number == *n);
        let changed = edit.remove.iter().chain(edit.narrow.iter().map(|(n, _)| n));
        if let Some(n) = changed.into_iter().find(|n| !known(n)) {
            return Err(format!("layer {n} is changed and not there"));
        }
        Merging::fit(&edit.merging, |n| known(&n) && !edit.remove.contains(&n))?;
        if edit.oldest < self.oldest {
            return Err(format!(
                "the history kept begins at {:?}, and would at {:?}",
                self.oldest, edit.oldest
            ));
        }
        Ok(())
    }
}
