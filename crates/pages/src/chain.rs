//! The versions of one key that a read needs, gathered from newest to oldest.

use xylem_types::Lsn;

/// What a version is.
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

/// The versions found, newest first; complete once [`Chain::done`].
#[derive(Debug, Default)]
pub(crate) struct Chain {
    buf: Vec<u8>,
    pieces: Vec<Piece>,
    done: bool,
}

impl Chain {
    /// Whether nothing older is needed.
    pub(crate) fn done(&self) -> bool {
        self.done
    }

    /// Nothing older is needed.
    pub(crate) fn finish(&mut self) {
        self.done = true;
    }

    /// Offers the next older version. Answers whether more are wanted.
    pub(crate) fn offer(&mut self, want: &Want, lsn: Lsn, kind: Kind, bytes: &[u8]) -> bool {
        if lsn > want.at {
            return true;
        }
        if lsn < want.floor || want.above.is_some_and(|above| lsn <= above) {
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
        self.done = kind.ends_walk();
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
