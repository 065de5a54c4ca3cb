//! Looks at manifests without taking part: for the scrub, and for people.

use super::{Ancestor, Manifest, Merging, Parsed, name_of, newest, number_of, parse};
use crate::codec::Dec;
use crate::files::Files;
use crate::inspect::{AncestorInfo, LayerInfo, ManifestInfo, ResumeInfo, key_text};
use crate::scrub::{Fault, FindingKind};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use xylem_types::{BranchId, Lsn};

/// What a branch's manifests in the store say.
pub(crate) struct Stored {
    pub(crate) manifest: Manifest,
    /// Bytes read.
    pub(crate) read: u64,
}

/// The number of the newest manifest in a list of files.
pub(crate) fn newest_of(list: &[(String, u64)]) -> Option<u64> {
    newest(list)
}

/// The number of the manifest that a file of this name is.
pub(crate) fn number(name: &str) -> Option<u64> {
    number_of(name)
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
        ancestor: base.ancestor,
        next_layer: base.next_layer,
        ..Manifest::root()
    };
    manifest.apply(base.edit);
    let wrong = |number, what| (name_of(number), Fault(FindingKind::Damaged, what));
    manifest.fits().map_err(|e| wrong(at, e))?;
    while let Some((number, parsed)) = edits.pop() {
        if parsed.next_layer < manifest.next_layer || parsed.ancestor != manifest.ancestor {
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

impl Manifest {
    /// Its number.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The number of the oldest manifest that counts: a snapshot.
    pub(crate) fn first(&self) -> u64 {
        self.number.saturating_sub(self.edits.into())
    }

    /// Whether it says the same as `other` of the same number.
    pub(crate) fn agrees(&self, other: &Manifest) -> bool {
        self.layers == other.layers
            && self.ancestor == other.ancestor
            && self.resume == other.resume
            && self.oldest == other.oldest
            && self.merging == other.merging
    }

    /// What must hold of its layers whatever was changed last.
    fn fits(&self) -> Result<(), String> {
        let mut numbers = BTreeSet::new();
        let mut names = BTreeSet::new();
        for l in &self.layers {
            let digits = l.name.split('-').next().unwrap_or_default();
            if u64::from_str_radix(digits, 16) != Ok(l.number) || l.number >= self.next_layer {
                return Err(format!("layer {} cannot have number {}", l.name, l.number));
            }
            if !numbers.insert(l.number) || !names.insert(&l.name) {
                return Err(format!("layer {} is there twice", l.name));
            }
            if l.first_key > l.last_key || l.start > l.end || l.keys == 0 {
                return Err(format!("layer {} has a range that cannot be", l.name));
            }
        }
        Merging::fit(&self.merging, |n| numbers.contains(&n))
    }
}

/// Reads one manifest file, whosever it is.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn info(raw: &[u8]) -> Result<ManifestInfo, String> {
    let ids = raw.get(16..40).ok_or("too short to be a manifest")?;
    let mut d = Dec(ids);
    let (Some(branch), Some(number)) = (d.u128(), d.u64()) else {
        return Err("too short to be a manifest".into());
    };
    let branch = BranchId(branch);
    let p = parse(raw, branch, number)?;
    let inputs = Merging::inputs_of(&p.edit.merging);
    let layer = |l: &crate::layer::LayerMeta| LayerInfo::of(l, inputs.contains(&l.number));
    Ok(ManifestInfo {
        branch,
        number,
        snapshot: p.snapshot,
        writer: p.writer,
        ancestor: p.ancestor.map(AncestorInfo::of),
        oldest: p.edit.oldest,
        resume: ResumeInfo::of(p.edit.resume),
        next_layer: p.next_layer,
        added: p.edit.add.iter().map(layer).collect(),
        removed: p.edit.remove,
        narrowed: p
            .edit
            .narrow
            .iter()
            .map(|(n, key)| (*n, key_text(key)))
            .collect(),
        merging: inputs,
    })
}

/// The layers after `manifests` of one branch, which follow one another from a
/// snapshot on.
///
/// # Errors
/// Why they do not.
pub(crate) fn replay(raws: &[Vec<u8>]) -> Result<Vec<LayerInfo>, String> {
    let mut parsed: Vec<(BranchId, u64, Parsed)> = Vec::new();
    for raw in raws {
        let head = info(raw)?;
        let p = parse(raw, head.branch, head.number)?;
        parsed.push((head.branch, head.number, p));
    }
    parsed.sort_by_key(|(_, number, _)| *number);
    let Some(base) = parsed.iter().rposition(|(_, _, p)| p.snapshot) else {
        return Err("there is no snapshot among them".into());
    };
    let mut m = Manifest::root();
    let mut before: Option<(BranchId, u64)> = None;
    for (branch, number, p) in parsed.drain(base..) {
        if let Some((of, last)) = before
            && (of != branch || last + 1 != number)
        {
            return Err(format!("manifest {number} does not follow number {last}"));
        }
        before = Some((branch, number));
        m.next_layer = p.next_layer;
        m.apply(p.edit);
    }
    let inputs = Merging::inputs_of(&m.merging);
    let layer = |l: &crate::layer::LayerMeta| LayerInfo::of(l, inputs.contains(&l.number));
    Ok(m.layers.iter().map(layer).collect())
}

/// Where a branch that leaves another at `a` cannot have left it.
pub(crate) fn misplaced(a: &Ancestor, of: &Manifest) -> Option<String> {
    let begins = of.ancestor.map_or(Lsn::ZERO, |a| a.lsn);
    (a.lsn < begins).then(|| {
        format!(
            "it left branch {} at LSN {}, and that begins at {begins}",
            a.branch, a.lsn
        )
    })
}
