//! Copies of data files, with holes in place of zeros.

use crate::tablespace::Tablespace;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;
/// Zeros of this length become a hole.
const HOLE_BYTES: usize = 64 << 10;

/// Copies a file; `copied` is told how many bytes were read, and may end it.
///
/// # Errors
/// When reading or writing fails, or `to` is there.
pub fn file(
    from: &Path,
    to: &Path,
    mut copied: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    let out = create(to)?;
    let len = append(from, &out, 0, &mut copied)?;
    out.set_len(len)
}

/// Copies a tablespace into one file.
///
/// # Errors
/// When reading or writing fails, or `to` is there.
pub fn tablespace(
    space: &Tablespace,
    to: &Path,
    mut copied: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<()> {
    let out = create(to)?;
    let mut at = 0;
    for part in space.paths() {
        at += append(part, &out, at, &mut copied)?;
    }
    out.set_len(at)
}

fn create(to: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
}

/// Copies `from`, without its zeros, to byte `base` of `out`; returns its length.
fn append(
    from: &Path,
    out: &File,
    base: u64,
    copied: &mut impl FnMut(u64) -> io::Result<()>,
) -> io::Result<u64> {
    let file = File::open(from)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut at = 0u64;
    loop {
        let count = match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(at),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let got = buffer.get(..count).unwrap_or_default();
        let mut start = base + at;
        for piece in got.chunks(HOLE_BYTES) {
            if piece.iter().any(|b| *b != 0) {
                out.write_all_at(piece, start)?;
            }
            start += piece.len() as u64;
        }
        at += count as u64;
        copied(count as u64)?;
    }
}
