//! A tablespace's flags, the 32 bits at `FSP_SPACE_FLAGS` of its page 0.
//!
//! Source: `include/fsp0types.h` (layout), `fil_space_t::physical_size()`,
//! `zip_size()` and `full_crc32()` in `include/fil0fil.h`.

use std::fmt;
use thiserror::Error;

/// The flag of tablespaces created with `innodb_checksum_algorithm=full_crc32`.
const FULL_CRC32: u32 = 1 << 4;

/// Tablespace flags without a valid page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("tablespace flags {0:#x} do not give a valid page size")]
pub struct BadSpaceFlags(pub u32);

/// A tablespace's flags, with a valid page size.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpaceFlags(u32);

impl SpaceFlags {
    /// Checks flags as page 0 holds them.
    ///
    /// # Errors
    /// When the page size is not 4 to 64 KiB, or the compressed page size is
    /// larger than the page size.
    pub const fn new(raw: u32) -> Result<SpaceFlags, BadSpaceFlags> {
        let flags = SpaceFlags(raw);
        match flags.decode() {
            Some(_) => Ok(flags),
            None => Err(BadSpaceFlags(raw)),
        }
    }

    /// The flags InnoDB gives an ordinary tablespace of `page_size` bytes
    /// (4096 to 65536) under `innodb_checksum_algorithm=full_crc32`.
    ///
    /// # Errors
    /// When `page_size` is not one of InnoDB's.
    pub const fn full_crc32_of(page_size: usize) -> Result<SpaceFlags, BadSpaceFlags> {
        let ssize = match page_size {
            4096 => 3,
            8192 => 4,
            16384 => 5,
            32768 => 6,
            65536 => 7,
            _ => return Err(BadSpaceFlags(FULL_CRC32)),
        };
        Ok(SpaceFlags(FULL_CRC32 | ssize))
    }

    /// The 32 bits as page 0 holds them.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether the last 4 bytes of a page are a CRC-32C of all the others.
    pub const fn is_full_crc32(self) -> bool {
        self.0 & FULL_CRC32 != 0
    }

    /// `innodb_page_size`, in bytes.
    pub const fn logical_page_size(self) -> usize {
        match self.decode() {
            Some((logical, _)) => logical,
            None => 16384,
        }
    }

    /// The size in bytes of a `ROW_FORMAT=COMPRESSED` page; `None` in any other
    /// tablespace.
    pub const fn zip_size(self) -> Option<usize> {
        match self.decode() {
            Some((_, zip)) => zip,
            None => None,
        }
    }

    /// The size in bytes of a page in the file, which redo also refers to.
    pub const fn physical_page_size(self) -> usize {
        match self.decode() {
            Some((_, Some(zip))) => zip,
            Some((logical, None)) => logical,
            None => 16384,
        }
    }

    /// Whether pages may be `page_compressed` in the file.
    pub const fn is_page_compressed(self) -> bool {
        if self.is_full_crc32() {
            (self.0 >> 5) & 7 != 0
        } else {
            self.0 & 1 << 16 != 0
        }
    }

    const fn decode(self) -> Option<(usize, Option<usize>)> {
        if self.is_full_crc32() {
            return match self.0 & 15 {
                s @ 3..=7 => Some((512 << s, None)),
                _ => None,
            };
        }
        let logical = match (self.0 >> 6) & 15 {
            0 => 16384,
            s @ (3 | 4 | 6 | 7) => 512 << s,
            _ => return None,
        };
        match (self.0 >> 1) & 15 {
            0 => Some((logical, None)),
            z @ 1..=5 if 512 << z <= logical => Some((logical, Some(512 << z))),
            _ => None,
        }
    }
}

impl TryFrom<u32> for SpaceFlags {
    type Error = BadSpaceFlags;

    fn try_from(raw: u32) -> Result<SpaceFlags, BadSpaceFlags> {
        SpaceFlags::new(raw)
    }
}

impl fmt::Debug for SpaceFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpaceFlags({:#x})", self.0)
    }
}

impl fmt::Display for SpaceFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
