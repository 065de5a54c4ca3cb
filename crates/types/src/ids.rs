//! Identifiers: LSNs, pages, epochs, frames and branches.

use std::fmt;

/// A byte position in a branch's redo stream: InnoDB's LSN of MariaDB 10.8 and
/// later. Every byte of the stream counts; there are no block headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Below every position.
    pub const ZERO: Lsn = Lsn(0);
    /// Where the redo stream of a newly created InnoDB begins
    /// (`log_t::FIRST_LSN` in `log0log.h`).
    pub const FIRST: Lsn = Lsn(12288);
    /// Above every position.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// The position `bytes` later; `None` on overflow.
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// Bytes from `earlier` to `self`; 0 if `earlier` is not earlier.
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

/// A number that identifies one attach of a compute to a branch. Only the newest
/// epoch may write the branch; the server refuses frames and reads of an older
/// one. 0 means that no epoch was ever given.
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

/// A branch's permanent id. It is random and never reused, unlike the name.
/// Displayed, and written in paths, as 32 lower-case hexadecimal digits.
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

/// A branch's name, such as `main` or `feature/login`.
///
/// ```text
/// name = part *( "/" part )              at most 200 bytes in all
/// part = alnum *( alnum / "." / "_" / "-" )
/// alnum = a-z / A-Z / 0-9
/// ```
///
/// Every part begins with a letter or digit, so a name never begins or ends
/// with `/`, has no empty part, and no part is `.`, `..` or an option. `@` and
/// `:` are reserved for read-only computes (`main@1`) and ids (`id:…`). Parts
/// say nothing about parent branches: `feature` and `feature/login` may both
/// exist, unrelated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchName(String);

/// The text is not a valid [`BranchName`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchNameError(String);

impl fmt::Display for BranchNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} cannot name a branch: use at most {} of a-z A-Z 0-9 . _ - and / between parts, each of which begins with a letter or digit",
            self.0,
            BranchName::MAX_BYTES
        )
    }
}

impl std::error::Error for BranchNameError {}

impl BranchName {
    /// The name of the branch that every project begins with.
    pub fn main() -> BranchName {
        BranchName("main".to_owned())
    }

    /// The longest name, in bytes. Even with the number of a read-only compute
    /// appended, it fits into the name of one directory (255 bytes).
    pub const MAX_BYTES: usize = 200;

    /// Replaces `/` in [`BranchName::file_name`]. No branch name contains it.
    const SLASH_IN_FILES: &str = "+";

    /// Checks `name` against the grammar of [`BranchName`].
    ///
    /// # Errors
    /// When `name` does not follow it.
    pub fn parse(name: &str) -> Result<BranchName, BranchNameError> {
        let part_ok = |part: &str| {
            part.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                && part
                    .as_bytes()
                    .first()
                    .is_some_and(u8::is_ascii_alphanumeric)
        };
        if name.len() <= Self::MAX_BYTES && name.split('/').all(part_ok) {
            Ok(BranchName(name.to_owned()))
        } else {
            Err(BranchNameError(name.to_owned()))
        }
    }

    /// The name as one component of a path: `feature/login` becomes
    /// `feature+login`. Different branches have different file names.
    pub fn file_name(&self) -> String {
        self.0.replace('/', Self::SLASH_IN_FILES)
    }

    /// The branch name whose [`BranchName::file_name`] is `file`.
    ///
    /// # Errors
    /// When no branch name has this file name.
    pub fn from_file_name(file: &str) -> Result<BranchName, BranchNameError> {
        if file.contains('/') {
            return Err(BranchNameError(file.to_owned()));
        }
        BranchName::parse(&file.replace(Self::SLASH_IN_FILES, "/"))
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
