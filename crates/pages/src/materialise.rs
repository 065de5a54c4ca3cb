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

    fn seal(&self, bytes: &mut [u8], raw: u32) -> Result<(), String> {
        xylem_redo::seal(bytes, flags(raw)?);
        Ok(())
    }
}
