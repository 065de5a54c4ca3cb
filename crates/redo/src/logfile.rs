//! The start of an `ib_logfile0`, and the offset of an LSN in the file.
//!
//! ```text
//!     0  header block, 512 bytes used, CRC-32C at 508
//!  4096  checkpoint block 1, 64 bytes used, CRC-32C at 60
//!  8192  checkpoint block 2
//! 12288  redo, a ring to the end of the file
//! ```
//!
//! Source: `log_t::header_write()` in `log0log.cc`, `log_t::write_checkpoint()`
//! in `buf0flu.cc`, `recv_sys_t::find_checkpoint()` in `log0recv.cc`,
//! `log0log.h`.

use crate::LogHeaderError;
use crate::bytes::{be32, be64, put};
use crc32c::crc32c;
use xylem_types::Lsn;

/// The offset of redo in a log file, in bytes. It is also the lowest valid LSN.
pub const START_OFFSET: u64 = 12288;
/// The size in bytes of a [`checkpoint_mtr`] (`SIZE_OF_FILE_CHECKPOINT`).
pub const CHECKPOINT_MTR_LEN: usize = 16;

/// `log_t::FORMAT_10_8`: "Phys".
const FORMAT_10_8: u32 = 0x5068_7973;
const CHECKPOINTS: [usize; 2] = [4096, 8192];
const HEADER_CRC: usize = 508;
const CHECKPOINT_CRC: usize = 60;
const CREATOR: usize = 16;
const CREATOR_END: usize = 48;
/// The program that created the file. InnoDB shows it in errors. It must not
/// begin with "Backup ", by which InnoDB recognizes a restored backup.
const CREATOR_NAME: &[u8] = b"Xylem";

/// The header and newest checkpoint of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHeader {
    /// The LSN at [`START_OFFSET`].
    pub first_lsn: Lsn,
    /// The program that created the file.
    pub creator: String,
    /// Where recovery begins to apply redo.
    pub checkpoint_lsn: Lsn,
    /// Where the checkpoint's FILE_MODIFY and FILE_CHECKPOINT records begin.
    pub checkpoint_end_lsn: Lsn,
}

/// Maps LSNs to offsets in a log file, which is a ring after the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogGeometry {
    first_lsn: Lsn,
    capacity: u64,
}

impl LogGeometry {
    /// The geometry of a file of `file_size` bytes whose redo begins at
    /// `first_lsn`; `None` if the file has no room for redo.
    pub fn new(first_lsn: Lsn, file_size: u64) -> Option<LogGeometry> {
        let capacity = file_size.checked_sub(START_OFFSET).filter(|&c| c > 0)?;
        Some(LogGeometry {
            first_lsn,
            capacity,
        })
    }

    /// Bytes of redo that the file holds.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The file offset of `lsn` (`log_t::calc_lsn_offset()`); `None` if `lsn` is
    /// below the file's first LSN.
    pub fn offset(&self, lsn: Lsn) -> Option<u64> {
        let distance = lsn.0.checked_sub(self.first_lsn.0)?;
        Some(START_OFFSET + distance % self.capacity)
    }

    /// The value of an end byte at `lsn` (`log_t::get_sequence_bit()`): 1 in the
    /// first turn of the ring, then 0, and so on. `None` if `lsn` is below the
    /// file's first LSN.
    pub fn sequence_bit(&self, lsn: Lsn) -> Option<u8> {
        let distance = lsn.0.checked_sub(self.first_lsn.0)?;
        Some(u8::from((distance / self.capacity).is_multiple_of(2)))
    }
}

/// The mini-transaction at `lsn` that ends a checkpoint at `lsn`: one
/// FILE_CHECKPOINT record. Its end byte is that of the first turn of the ring.
pub fn checkpoint_mtr(lsn: Lsn) -> [u8; CHECKPOINT_MTR_LEN] {
    let l = lsn.0.to_be_bytes();
    let mut mtr = [0; CHECKPOINT_MTR_LEN];
    let record = [0xfa, 0, 0, l[0], l[1], l[2], l[3], l[4], l[5], l[6], l[7]];
    let (body, tail) = mtr.split_at_mut(record.len());
    body.copy_from_slice(&record);
    let crc = crc32c(&record).to_be_bytes();
    tail.copy_from_slice(&[1, crc[0], crc[1], crc[2], crc[3]]);
    mtr
}

/// The first bytes of an `ib_logfile0` with which InnoDB starts as after a clean
/// shutdown at `start_lsn`: the header, two checkpoints, and the checkpoint
/// mini-transaction, 12304 bytes. InnoDB writes new redo after it, from
/// `start_lsn` + [`CHECKPOINT_MTR_LEN`] on.
///
/// The caller extends the file with zeros to `file_size`, which must be the
/// value of `innodb_log_file_size`, a multiple of 4096. The bytes returned do
/// not depend on it: in a file of any size that InnoDB accepts, they are in the
/// first turn of the ring.
pub fn log_file(start_lsn: Lsn, file_size: u64) -> Vec<u8> {
    let mut file = vec![0; START_OFFSET as usize];
    // Cannot fail: every offset is within the buffer.
    let _ = write_header(&mut file, start_lsn);
    file.extend_from_slice(&checkpoint_mtr(start_lsn));
    file.truncate(usize::try_from(file_size).unwrap_or(usize::MAX));
    file
}

fn write_header(file: &mut [u8], start: Lsn) -> Option<()> {
    let lsn = start.0.to_be_bytes();
    put(file, 0, &FORMAT_10_8.to_be_bytes())?;
    put(file, 8, &lsn)?;
    put(file, CREATOR, CREATOR_NAME)?;
    let crc = crc32c(file.get(..HEADER_CRC)?);
    put(file, HEADER_CRC, &crc.to_be_bytes())?;
    for at in CHECKPOINTS {
        put(file, at, &lsn)?;
        put(file, at + 8, &lsn)?;
        let crc = crc32c(file.get(at..at + CHECKPOINT_CRC)?);
        put(file, at + CHECKPOINT_CRC, &crc.to_be_bytes())?;
    }
    Some(())
}

/// Reads the first [`START_OFFSET`] bytes of an `ib_logfile0`.
///
/// # Errors
/// [`LogHeaderError`] when the file is not of MariaDB 10.8 or later, is
/// encrypted, or has no valid checkpoint.
pub fn read_log_file_header(file: &[u8]) -> Result<LogHeader, LogHeaderError> {
    if (file.len() as u64) < START_OFFSET {
        return Err(LogHeaderError::Short { got: file.len() });
    }
    read_header(file).unwrap_or(Err(LogHeaderError::Short { got: file.len() }))
}

fn read_header(file: &[u8]) -> Option<Result<LogHeader, LogHeaderError>> {
    let format = be32(file, 0)?;
    if format != FORMAT_10_8 || be32(file, 4)? != 0 {
        return Some(Err(LogHeaderError::Format { format }));
    }
    let stored = be32(file, HEADER_CRC)?;
    let computed = crc32c(file.get(..HEADER_CRC)?);
    if stored != computed {
        return Some(Err(LogHeaderError::Checksum { stored, computed }));
    }
    if be32(file, CREATOR_END)? != 0 {
        return Some(Err(LogHeaderError::Encrypted));
    }
    let first_lsn = Lsn(be64(file, 8)?);
    if first_lsn.0 < START_OFFSET {
        return Some(Err(LogHeaderError::FirstLsn(first_lsn)));
    }
    let creator = file.get(CREATOR..CREATOR_END)?;
    let creator = creator.split(|&b| b == 0).next().unwrap_or_default();
    let mut newest: Option<(Lsn, Lsn)> = None;
    for at in CHECKPOINTS {
        let (lsn, end) = (Lsn(be64(file, at)?), Lsn(be64(file, at + 8)?));
        let valid = lsn >= first_lsn
            && end >= lsn
            && file
                .get(at + 16..at + CHECKPOINT_CRC)?
                .iter()
                .all(|&b| b == 0)
            && crc32c(file.get(at..at + CHECKPOINT_CRC)?) == be32(file, at + CHECKPOINT_CRC)?;
        if valid && newest.is_none_or(|(best, _)| lsn >= best) {
            newest = Some((lsn, end));
        }
    }
    let Some((checkpoint_lsn, checkpoint_end_lsn)) = newest else {
        return Some(Err(LogHeaderError::NoCheckpoint));
    };
    Some(Ok(LogHeader {
        first_lsn,
        creator: String::from_utf8_lossy(creator).into_owned(),
        checkpoint_lsn,
        checkpoint_end_lsn,
    }))
}
