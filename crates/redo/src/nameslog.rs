//! The start of a log file that names the files of tablespaces, as the redo log
//! of a crashed server does.
//!
//! InnoDB finds a tablespace's file by the name in its dictionary, unless the
//! redo log names another one. After an unfinished RENAME or TRUNCATE, only the
//! FILE_ records in the redo log hold the right name. `fil_names_clear()` in
//! `fil0fil.cc` writes them at each checkpoint, before its FILE_CHECKPOINT.

use crate::logfile::{START_OFFSET, checkpoint_mtr, log_file};
use crate::varint;
use crc32c::crc32c;
use xylem_types::{Lsn, SpaceId};

/// The first byte of FILE_MODIFY, without the length.
const FILE_MODIFY: u8 = 0xb0;

/// The first bytes of an `ib_logfile0` of `file_size` bytes with a checkpoint at
/// `start`; `None` if they do not fit. `names` gives the file of each tablespace,
/// relative to the data directory and ending in `.ibd`.
///
/// InnoDB starts from it as after a crash: there is no redo to apply, but
/// InnoDB rolls back the transactions that were active.
///
/// `start` must not be below the LSN of any page.
pub fn log_file_naming<'a>(
    start: Lsn,
    names: impl IntoIterator<Item = (SpaceId, &'a str)>,
    file_size: u64,
) -> Option<Vec<u8>> {
    let mut file = log_file(start, file_size);
    file.truncate(usize::try_from(START_OFFSET).ok()?);
    for (space, name) in names {
        let mut fields = Vec::with_capacity(name.len() + 8);
        varint::encode(&mut fields, space.0);
        // The page number is always 0.
        varint::encode(&mut fields, 0);
        fields.extend_from_slice(b"./");
        fields.extend_from_slice(name.as_bytes());
        let from = file.len();
        record(&mut file, FILE_MODIFY, &fields);
        let crc = crc32c(file.get(from..)?);
        // The end byte of the ring's first turn, which all of this is in.
        file.push(1);
        file.extend_from_slice(&crc.to_be_bytes());
    }
    file.extend_from_slice(&checkpoint_mtr(start));
    (file.len() as u64 <= file_size).then_some(file)
}

/// Appends a record: kind, length and fields (`mtr0types.h`).
fn record(out: &mut Vec<u8>, kind: u8, fields: &[u8]) {
    if let Some(short) = u8::try_from(fields.len()).ok().filter(|n| *n < 16) {
        out.push(kind | short);
        out.extend_from_slice(fields);
        return;
    }
    // The length includes its own bytes.
    let mut length = Vec::new();
    for own in 1..=3 {
        let add = (fields.len() + own).saturating_sub(15);
        length.clear();
        varint::encode(&mut length, u32::try_from(add).unwrap_or(u32::MAX));
        if length.len() == own {
            break;
        }
    }
    out.push(kind);
    out.extend_from_slice(&length);
    out.extend_from_slice(fields);
}
