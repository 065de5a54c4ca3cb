//! The versions of one key that a read needs, gathered from newest to oldest.

use xylem_types::Lsn;

/// The kind of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Changes what was before it.
    Delta = 0,
    /// A delta that does not depend on what was before it.
    Fresh = 1,
    /// The whole value.
    Image = 2,
}

impl Kind {
    pub(crate) fn from_u8(v: u8) -> Option<Kind> {
        match v {
            0 => Some(Kind::Delta),
            1 => Some(Kind::Fresh),
            2 => Some(Kind::Image),
            _ => None,
        }
    }

    /// Whether a walk towards older versions ends here.
    pub(crate) fn ends_walk(self) -> bool {
        self != Kind::Delta
    }
}

/// Which versions of a key a read wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    /// None newer than this.
    pub(crate) at: Lsn,
    /// None at or before this: the reader has the value as of then. Only for
    /// pages, whose versions of one LSN never lie in two layers.
    pub(crate) above: Option<Lsn>,
    /// None before this: the tablespace was created or truncated there.
    pub(crate) floor: Lsn,
}

impl Want {
    /// All versions up to `at`.
    pub(crate) fn at(at: Lsn) -> Want {
        Want {
            at,
            above: None,
            floor: Lsn::ZERO,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    lsn: Lsn,
    kind: Kind,
    start: usize,
    len: usize,
}

/// How much of a history is taken: whole LSNs until one of these is used up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pub(crate) versions: usize,
    pub(crate) bytes: usize,
    /// The LSN of the last version taken.
    pub(crate) last: Option<Lsn>,
    /// There was more.
    pub(crate) spent: bool,
}

impl Budget {
    /// Whether a version is taken.
    fn take(&mut self, lsn: Lsn, bytes: usize) -> bool {
        if (self.versions == 0 || self.bytes == 0) && self.last != Some(lsn) {
            self.spent = true;
        }
        if !self.spent {
            self.versions = self.versions.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
            self.last = Some(lsn);
        }
        !self.spent
    }
}

/// The versions found, newest first; complete once [`Chain::done`].
#[derive(Debug, Default)]
pub(crate) struct Chain {
    buf: Vec<u8>,
    pieces: Vec<Piece>,
    done: bool,
    budget: Option<Budget>,
    /// Layer files looked into.
    pub(crate) visited: u64,
}

impl Chain {
    /// For all versions, also those before one that a read would end at.
    pub(crate) fn history(budget: Budget) -> Chain {
        Chain {
            budget: Some(budget),
            ..Chain::default()
        }
    }

    /// The rest of the budget.
    pub(crate) fn budget(&self) -> Option<Budget> {
        self.budget
    }

    /// Whether all versions are wanted, not just what makes a value.
    pub(crate) fn is_history(&self) -> bool {
        self.budget.is_some()
    }

    /// Versions gathered, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.pieces.len(), self.buf.len())
    }

    /// Whether nothing older is needed.
    pub(crate) fn done(&self) -> bool {
        self.done
    }

    /// Nothing older is needed.
    pub(crate) fn finish(&mut self) {
        self.done = true;
    }

    /// Offers the next older version. Returns whether more are wanted.
    pub(crate) fn offer(&mut self, want: &Want, lsn: Lsn, kind: Kind, bytes: &[u8]) -> bool {
        if lsn > want.at {
            return true;
        }
        if lsn < want.floor || want.above.is_some_and(|above| lsn <= above) {
            self.done = true;
            return false;
        }
        if let Some(budget) = &mut self.budget
            && !budget.take(lsn, bytes.len())
        {
            self.done = true;
            return false;
        }
        let start = self.buf.len();
        self.buf.extend_from_slice(bytes);
        self.pieces.push(Piece {
            lsn,
            kind,
            start,
            len: bytes.len(),
        });
        self.done = kind.ends_walk() && self.budget.is_none();
        !self.done
    }

    /// No version was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The LSN of the newest version.
    pub(crate) fn newest(&self) -> Option<Lsn> {
        self.pieces.first().map(|p| p.lsn)
    }

    /// Whether the oldest version needs nothing before it.
    pub(crate) fn is_self_contained(&self) -> bool {
        self.pieces.last().is_some_and(|p| p.kind.ends_walk())
    }

    /// The versions, newest first.
    pub(crate) fn backward(&self) -> impl Iterator<Item = (Lsn, Kind, &[u8])> {
        self.pieces.iter().map(|p| {
            let bytes = self.buf.get(p.start..p.start + p.len).unwrap_or_default();
            (p.lsn, p.kind, bytes)
        })
    }

    /// The versions, oldest first.
    pub(crate) fn forward(&self) -> impl Iterator<Item = (Lsn, Kind, &[u8])> {
        self.pieces.iter().rev().map(|p| {
            let bytes = self.buf.get(p.start..p.start + p.len).unwrap_or_default();
            (p.lsn, p.kind, bytes)
        })
    }

    /// The newest version's bytes if it is an image.
    pub(crate) fn image(&self) -> Option<(Lsn, &[u8])> {
        let p = self.pieces.first().filter(|p| p.kind == Kind::Image)?;
        Some((p.lsn, self.buf.get(p.start..p.start + p.len)?))
    }
}
