//! Versions on their way into a layer in memory: whole mtrs as they came, with
//! the places of the pages' runs in them, and versions of other keys.

use crate::layer::chain::Kind;
use crate::layer::key::Key;
use xylem_types::Lsn;

/// Bits of a length that stands beside a [`Kind`].
pub(crate) const LEN_MASK: u32 = (1 << 30) - 1;

/// A length and a kind in one number.
pub(crate) fn len_kind(len: u32, kind: Kind) -> u32 {
    len & LEN_MASK | (kind as u32) << 30
}

/// The kind of [`len_kind`].
pub(crate) fn kind_of(len_kind: u32) -> Kind {
    Kind::from_u8((len_kind >> 30) as u8).unwrap_or(Kind::Delta)
}

/// Consecutive records of one page.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    /// The page, as a number.
    pub(crate) page: u64,
    /// The place of the first record in [`Mtrs::bytes`].
    pub(crate) start: u32,
    /// See [`len_kind`].
    pub(crate) len_kind: u32,
}

/// The end of an mtr.
#[derive(Clone, Copy)]
pub(crate) struct MtrEnd {
    /// In [`Mtrs::bytes`].
    pub(crate) byte: u32,
    /// In [`Mtrs::runs`].
    pub(crate) run: u32,
    /// Whether it says something about tablespaces or their files.
    pub(crate) has_events: bool,
}

/// Whole mtrs, one after the other. Nothing of them is copied: runs point into
/// their bytes, which become part of the layer as they are.
#[derive(Default)]
pub(crate) struct Mtrs {
    /// The LSN of the first byte.
    pub(crate) start: Lsn,
    pub(crate) bytes: Vec<u8>,
    pub(crate) ends: Vec<MtrEnd>,
    pub(crate) runs: Vec<Run>,
}

impl Mtrs {
    /// Where mtr number `n` begins, as the end of the one before it.
    fn begin(&self, n: usize) -> MtrEnd {
        let before = n.checked_sub(1).and_then(|n| self.ends.get(n));
        before.copied().unwrap_or(MtrEnd {
            byte: 0,
            run: 0,
            has_events: false,
        })
    }

    /// Mtr number `n`: the LSN of its first byte, and its bytes.
    pub(crate) fn mtr(&self, n: usize) -> (Lsn, &[u8]) {
        let from = self.begin(n).byte;
        let to = self.ends.get(n).map_or(from, |e| e.byte);
        let bytes = self.bytes.get(from as usize..to as usize);
        (self.lsn(from), bytes.unwrap_or_default())
    }

    /// The LSN of the byte at `at`.
    pub(crate) fn lsn(&self, at: u32) -> Lsn {
        Lsn(self.start.0.saturating_add(u64::from(at)))
    }

    /// Bytes and runs of those from number `from` on and before number `to`.
    pub(crate) fn size(&self, from: usize, to: usize) -> (usize, usize) {
        let (begin, end) = (self.begin(from), self.begin(to));
        let bytes = end.byte - begin.byte;
        (bytes as usize, (end.run - begin.run) as usize)
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.runs.clear();
    }
}

/// Consecutive ones of some [`Mtrs`]; by default none.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stretch<'a> {
    bytes: &'a [u8],
    /// The place of the bytes in all.
    at: u32,
    start: Lsn,
    ends: &'a [MtrEnd],
    runs: &'a [Run],
    /// The number of runs before.
    runs_before: u32,
}

impl<'a> Stretch<'a> {
    /// Those from number `from` on and before number `to`.
    pub(crate) fn new(mtrs: &'a Mtrs, from: usize, to: usize) -> Stretch<'a> {
        let (begin, end) = (mtrs.begin(from), mtrs.begin(to));
        let bytes = mtrs.bytes.get(begin.byte as usize..end.byte as usize);
        let runs = mtrs.runs.get(begin.run as usize..end.run as usize);
        Stretch {
            bytes: bytes.unwrap_or_default(),
            at: begin.byte,
            start: mtrs.start,
            ends: mtrs.ends.get(from..to).unwrap_or_default(),
            runs: runs.unwrap_or_default(),
            runs_before: begin.run,
        }
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The place of a run in [`Stretch::bytes`].
    pub(crate) fn place(&self, run: &Run) -> u32 {
        run.start - self.at
    }

    /// The runs of each mtr, with its end.
    pub(crate) fn runs(self) -> impl Iterator<Item = (Lsn, &'a [Run])> {
        let mut rest = self.runs;
        let mut before = self.runs_before;
        self.ends.iter().map(move |end| {
            let count = (end.run - before) as usize;
            let (runs, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            (rest, before) = (after, end.run);
            (Lsn(self.start.0.saturating_add(u64::from(end.byte))), runs)
        })
    }

    /// The number of runs.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }
}

/// A version of a key that is no page.
#[derive(Clone, Copy)]
pub(crate) struct Staged {
    pub(crate) lsn: Lsn,
    /// In the bytes of its [`Batch`].
    pub(crate) start: u32,
    /// See [`len_kind`].
    pub(crate) len_kind: u32,
}

/// Versions of keys that are no pages.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) others: Vec<(Vec<u8>, Staged)>,
}

impl Batch {
    /// Adds a version.
    pub(crate) fn other(&mut self, key: Key, lsn: Lsn, kind: Kind, bytes: &[u8]) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        let staged = Staged {
            lsn,
            start,
            len_kind: len_kind(bytes.len() as u32, kind),
        };
        self.others.push((key.encode(), staged));
    }

    /// Its end, to come back to.
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.bytes.len(), self.others.len())
    }

    /// Forgets what came after `mark`.
    pub(crate) fn roll_back(&mut self, mark: (usize, usize)) {
        self.bytes.truncate(mark.0);
        self.others.truncate(mark.1);
    }

    /// Bytes of values in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Versions in it.
    pub(crate) fn len(&self) -> usize {
        self.others.len()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.others.clear();
    }
}
