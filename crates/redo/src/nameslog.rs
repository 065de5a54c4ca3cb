//! The start of a log file that tells InnoDB where tablespaces are, as the log
//! of a server that crashed does.
//!
//! InnoDB finds a tablespace's file by the name in its dictionary, unless the
//! log says otherwise: a RENAME or TRUNCATE that was cut in half is only seen
//! by FILE_ records. `fil_names_clear()` in `fil0fil.cc` writes them at each
//! checkpoint, before its FILE_CHECKPOINT.

use crate::logfile::{START_OFFSET, checkpoint_mtr, log_file};
use crate::varint;
use crc32c::crc32c;
use xylem_types::{Lsn, SpaceId};

/// FILE_MODIFY, without the length.
const FILE_MODIFY: u8 = 0xb0;

/// The first bytes of an `ib_logfile0` of `file_size` bytes whose checkpoint is
/// at `start`, and which says that the file of each tablespace is `names`
/// (relative to the data directory, ending in `.ibd`). InnoDB recovers from it:
/// there are no pages to bring forward, but what was under way is rolled back
/// as after a crash. `None` when they do not fit.
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
        // No page.
        varint::encode(&mut fields, 0);
        fields.extend_from_slice(b"./");
        fields.extend_from_slice(name.as_bytes());
        let from = file.len();
        record(&mut file, FILE_MODIFY, &fields);
        let crc = crc32c(file.get(from..)?);
        file.push(1);
        file.extend_from_slice(&crc.to_be_bytes());
    }
    file.extend_from_slice(&checkpoint_mtr(start));
    // All of it is in the ring's first turn.
    (file.len() as u64 <= file_size).then_some(file)
}

/// A record: its kind and length, then its fields (`mtr0types.h`).
fn record(out: &mut Vec<u8>, kind: u8, fields: &[u8]) {
    if let Some(short) = u8::try_from(fields.len()).ok().filter(|n| *n < 16) {
        out.push(kind | short);
        out.extend_from_slice(fields);
        return;
    }
    // The length counts its own bytes.
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
