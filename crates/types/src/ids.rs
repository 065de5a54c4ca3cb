//! Identifiers: small, `Copy` where they can be, ordered as people expect.

use std::fmt;

/// A position in a branch's redo stream, in bytes. InnoDB's own LSN (10.8 and
/// later): every byte of the stream counts, there are no block headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Before everything.
    pub const ZERO: Lsn = Lsn(0);
    /// Where the redo stream of a newly created InnoDB begins
    /// (`log_t::FIRST_LSN` in `log0log.h`).
    pub const FIRST: Lsn = Lsn(12288);
    /// After everything.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position `bytes` further on; `None` past the end of the number line.
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// Bytes from `earlier` to `self`, 0 when `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An InnoDB tablespace id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u32);

impl fmt::Display for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A page's number within its tablespace, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u32);

impl fmt::Display for PageNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A page: tablespace and number. Displayed as `space:page`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId {
    /// The tablespace.
    pub space: SpaceId,
    /// The page's number within it.
    pub page: PageNo,
}

impl PageId {
    /// The page `page` of tablespace `space`.
    pub const fn new(space: u32, page: u32) -> PageId {
        PageId {
            space: SpaceId(space),
            page: PageNo(page),
        }
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.space, self.page)
    }
}

/// The number of a compute's right to write a branch. The newest wins; frames
/// and reads of an older one are refused. 0 means "no epoch was ever given".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A frame's number within its epoch: 1, 2, 3, … without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameSeq(pub u64);

impl fmt::Display for FrameSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A branch's identity: random, never reused, unlike its name. Displayed and
/// stored in paths as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchId(pub u128);

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for BranchId {
    type Err = std::num::ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(s, 16).map(BranchId)
    }
}

/// A branch's name: 1 to 63 characters from `a-z A-Z 0-9 . _ -`, beginning
/// with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchName(String);

/// A branch name that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchNameError(String);

impl fmt::Display for BranchNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} cannot name a branch: use 1 to 63 of a-z A-Z 0-9 . _ - and begin with a letter or digit",
            self.0
        )
    }
}

impl std::error::Error for BranchNameError {}

impl BranchName {
    /// The branch every project begins with.
    pub fn main() -> BranchName {
        BranchName("main".to_owned())
    }

    /// Checks `name`.
    ///
    /// # Errors
    /// When it is empty, longer than 63 bytes, or has a character that is not
    /// allowed.
    pub fn parse(name: &str) -> Result<BranchName, BranchNameError> {
        let ok = (1..=63).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && name
                .as_bytes()
                .first()
                .is_some_and(u8::is_ascii_alphanumeric);
        if ok {
            Ok(BranchName(name.to_owned()))
        } else {
            Err(BranchNameError(name.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
