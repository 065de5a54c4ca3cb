//! The interface to the storage engine: bytes and records in, bytes out.
//! Everything else in this crate but ingest is engine-neutral.

use xylem_redo::SpaceFlags;
use xylem_types::{Lsn, PageId};

/// Turns records into pages. Pure.
pub(crate) trait Materialise: Send + Sync {
    /// The size in bytes of a page of a tablespace with these flags.
    fn page_bytes(&self, flags: u32) -> Result<usize, String>;

    /// Applies the records that the mtr ending at `lsn` has for `page`.
    fn apply(
        &self,
        bytes: &mut [u8],
        page: PageId,
        flags: u32,
        lsn: Lsn,
        records: &[u8],
    ) -> Result<(), String>;

    /// The LSN that the page itself says it was changed at last; zero for a page that
    /// says nothing.
    fn lsn(&self, bytes: &[u8]) -> Lsn;

    /// Refuses an image that is said to be the page as of `lsn` and is of later:
    /// records applied to a page that has them already do not always fail.
    fn check_image(&self, bytes: &[u8], lsn: Lsn) -> Result<(), String> {
        match self.lsn(bytes) {
            says if says > lsn => Err(format!("its image of LSN {lsn} is as of LSN {says}")),
            _ => Ok(()),
        }
    }

    /// Makes the page valid for its reader: its checksum.
    fn seal(&self, bytes: &mut [u8], flags: u32) -> Result<(), String>;
}

/// The storage engine of MariaDB.
pub(crate) struct InnoDb;

fn flags(raw: u32) -> Result<SpaceFlags, String> {
    SpaceFlags::new(raw).map_err(|e| e.to_string())
}

impl Materialise for InnoDb {
    fn page_bytes(&self, raw: u32) -> Result<usize, String> {
        Ok(flags(raw)?.physical_page_size())
    }

    fn apply(
        &self,
        bytes: &mut [u8],
        page: PageId,
        raw: u32,
        lsn: Lsn,
        records: &[u8],
    ) -> Result<(), String> {
        xylem_redo::apply(bytes, page, flags(raw)?, lsn, records)
            .map(|_| ())
            .map_err(|e| e.to_string())
    }

    fn lsn(&self, bytes: &[u8]) -> Lsn {
        xylem_redo::page_lsn(bytes).unwrap_or(Lsn::ZERO)
    }

    fn seal(&self, bytes: &mut [u8], raw: u32) -> Result<(), String> {
        xylem_redo::seal(bytes, flags(raw)?);
        Ok(())
    }
}
