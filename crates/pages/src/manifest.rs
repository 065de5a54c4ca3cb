//! The list of a branch's layers: numbered files, each created only if absent,
//! the newest the truth. See docs/formats/manifest.md.

use crate::api::StoreError;
use crate::codec::{Dec, put_varint};
use crate::files::{Files, Put};
use crate::layer::LayerMeta;
use std::collections::{BTreeSet, HashMap};
use xylem_types::{BranchId, Lsn};
use xylem_wal::Position;

#[cfg(test)]
mod tests;

const MAGIC: &[u8; 8] = b"XYMANIF\x01";
const VERSION: u16 = 1;
const HEADER: usize = 64;
const PREFIX: &str = "manifest-";
/// After so many edits comes a snapshot.
const EDITS_MAX: u32 = 64;

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

/// What one manifest changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edit {
    pub(crate) add: Vec<LayerMeta>,
    pub(crate) remove: Vec<u64>,
    pub(crate) resume: Resume,
    /// Where the branch's history begins, once that is known.
    pub(crate) oldest: Option<Lsn>,
}

/// The newest manifest.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    branch: BranchId,
    number: u64,
    edits: u32,
    pub(crate) resume: Resume,
    pub(crate) oldest: Option<Lsn>,
    next_layer: u64,
    /// Oldest first.
    pub(crate) layers: Vec<LayerMeta>,
}

fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:016x}")
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX).filter(|d| d.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

fn io(context: String) -> impl FnOnce(std::io::Error) -> StoreError {
    move |source| StoreError::Io { context, source }
}

struct Parsed {
    snapshot: bool,
    oldest: Option<Lsn>,
    resume: Resume,
    next_layer: u64,
    remove: Vec<u64>,
    add: Vec<LayerMeta>,
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
    let version = d.u16();
    if version != Some(VERSION) {
        return Err(format!(
            "format version {} is not known",
            version.unwrap_or(0)
        ));
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
    parse_body(body, snapshot).ok_or_else(|| "its body is malformed".into())
}

fn parse_body(body: &[u8], snapshot: bool) -> Option<Parsed> {
    let mut d = Dec(body);
    let flags = d.u8()?;
    // Bit 2 would say that an ancestor follows: none in this version.
    if flags & !3 != 0 {
        return None;
    }
    let oldest = Lsn(d.varint()?);
    let resume = Resume {
        position: Position(d.varint()?),
        lsn: Lsn(d.varint()?),
        operations: Position(d.varint()?),
        begun: flags & 1 != 0,
    };
    let next_layer = d.varint()?;
    let mut remove = Vec::new();
    for _ in 0..d.varint()? {
        remove.push(d.varint()?);
    }
    let mut add = Vec::new();
    for _ in 0..d.varint()? {
        add.push(LayerMeta::decode(&mut d)?);
    }
    let oldest = (flags & 2 != 0).then_some(oldest);
    d.is_empty().then_some(Parsed {
        snapshot,
        oldest,
        resume,
        next_layer,
        remove,
        add,
    })
}

fn render(m: &Manifest, snapshot: bool, remove: &[u64], add: &[LayerMeta]) -> Vec<u8> {
    let mut body = vec![u8::from(m.resume.begun) | u8::from(m.oldest.is_some()) << 1];
    put_varint(&mut body, m.oldest.unwrap_or_default().0);
    put_varint(&mut body, m.resume.position.0);
    put_varint(&mut body, m.resume.lsn.0);
    put_varint(&mut body, m.resume.operations.0);
    put_varint(&mut body, m.next_layer);
    put_varint(&mut body, remove.len() as u64);
    for n in remove {
        put_varint(&mut body, *n);
    }
    put_varint(&mut body, add.len() as u64);
    for l in add {
        l.encode(&mut body);
    }
    let mut out = vec![0u8; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..10].copy_from_slice(&VERSION.to_le_bytes());
    out[10] = u8::from(!snapshot);
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
    /// Reads the newest manifest, or makes the first; removes files that none
    /// refers to.
    pub(crate) fn open(files: &dyn Files, branch: BranchId) -> Result<Manifest, StoreError> {
        let list = files
            .list()
            .map_err(io(format!("branch {branch}: list its files")))?;
        let numbers: BTreeSet<u64> = list.iter().filter_map(|(n, _)| number_of(n)).collect();
        let manifest = match numbers.last() {
            Some(newest) => Manifest::load(files, branch, *newest)?,
            None => Manifest::first(files, branch)?,
        };
        manifest.check_files(&list)?;
        manifest.sweep(files, &list);
        Ok(manifest)
    }

    fn first(files: &dyn Files, branch: BranchId) -> Result<Manifest, StoreError> {
        let m = Manifest {
            branch,
            number: 1,
            edits: 0,
            resume: Resume::default(),
            oldest: None,
            next_layer: 1,
            layers: Vec::new(),
        };
        let name = name_of(1);
        let context = format!("branch {branch}: create {name}");
        match files
            .put_new(&name, &render(&m, true, &[], &[]))
            .map_err(io(context))?
        {
            Put::Exists => Err(StoreError::Corrupt(format!(
                "branch {branch}: {name} appeared while it was created: another process has the branch open"
            ))),
            Put::Done | Put::NotSynced => Ok(m),
        }
    }

    fn load(files: &dyn Files, branch: BranchId, newest: u64) -> Result<Manifest, StoreError> {
        let mut edits = Vec::new();
        let mut number = newest;
        let (base, oldest_read) = loop {
            let name = name_of(number);
            let raw = files
                .read(&name)
                .map_err(io(format!("branch {branch}: read {name}")))?;
            let p = parse(&raw, branch, number)
                .map_err(|e| StoreError::Corrupt(format!("branch {branch}: {name}: {e}")))?;
            if p.snapshot {
                break (p, number);
            }
            edits.push(p);
            number = number.checked_sub(1).ok_or_else(|| {
                StoreError::Corrupt(format!("branch {branch}: no snapshot among its manifests"))
            })?;
        };
        let mut m = Manifest {
            branch,
            number: newest,
            edits: (newest - oldest_read) as u32,
            resume: base.resume,
            oldest: base.oldest,
            next_layer: base.next_layer,
            layers: base.add,
        };
        while let Some(e) = edits.pop() {
            m.layers.retain(|l| !e.remove.contains(&l.number));
            m.layers.extend(e.add);
            m.resume = e.resume;
            m.oldest = e.oldest;
            m.next_layer = e.next_layer;
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
                tracing::warn!(branch = %self.branch, file = %name, error = %e, "leftover file not removed");
            }
        }
    }

    /// A number for a layer, never given out before.
    pub(crate) fn allocate(&mut self) -> u64 {
        let n = self.next_layer;
        self.next_layer += 1;
        n
    }

    /// Makes `edit` part of the truth. On an error nothing has changed, except
    /// that layer numbers may stay unused.
    pub(crate) fn publish(&mut self, files: &dyn Files, edit: Edit) -> Result<Put, StoreError> {
        self.check(&edit).map_err(|e| {
            StoreError::Corrupt(format!("branch {}: refused a manifest: {e}", self.branch))
        })?;
        let mut next = self.clone();
        next.number += 1;
        next.layers.retain(|l| !edit.remove.contains(&l.number));
        next.layers.extend(edit.add.iter().cloned());
        next.resume = edit.resume;
        next.oldest = edit.oldest;
        let snapshot = self.edits + 1 >= EDITS_MAX;
        next.edits = if snapshot { 0 } else { self.edits + 1 };
        let raw = if snapshot {
            render(&next, true, &[], &next.layers)
        } else {
            render(&next, false, &edit.remove, &edit.add)
        };
        let name = name_of(next.number);
        let context = format!("branch {}: create {name}", self.branch);
        let put = files.put_new(&name, &raw).map_err(io(context))?;
        if put == Put::Exists {
            return Err(StoreError::Corrupt(format!(
                "branch {}: {name} is there already: another process has the branch open",
                self.branch
            )));
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
            if l.end > edit.resume.lsn {
                return Err(format!("layer {} ends after the resume point", l.name));
            }
        }
        Ok(())
    }
}
