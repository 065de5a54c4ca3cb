//! Makes the directory of a WAL that begins with the entries of a backup, or at
//! the position where another WAL has ended.
//!
//! A marker file exists until the directory is complete, so a WAL that is half
//! made does not open.

use super::config::LocalWalConfig;
use super::format::SEGMENT_HEADER_BYTES;
use super::prepare::{self, PrepareError};
use super::segments::{Name, Segment, UNFINISHED};
use crate::disk::{Disk, DiskFile};
use crate::entry::EntryHeader;
use crate::{Position, WalError};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The highest position at which a WAL can be made to begin; behind it there is
/// room for ever.
const POSITION_MAX: u64 = 1 << 62;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 20;

/// A WAL that is being made.
pub(crate) struct Maker {
    disk: Arc<dyn Disk>,
    config: LocalWalConfig,
    /// The segment that is written.
    active: Option<(Segment, Arc<dyn DiskFile>)>,
    /// The number of the next one.
    number: u64,
    /// The place after the last entry.
    end: Position,
    /// Entries that are not written yet, and stand before `end`.
    buffer: Vec<u8>,
    _lock: Box<dyn Send>,
}

impl Maker {
    /// Begins a WAL whose first entry is at `first`, in a directory that has
    /// no WAL, or one that was half made.
    pub fn begin(
        disk: Arc<dyn Disk>,
        config: LocalWalConfig,
        first: Position,
    ) -> Result<Maker, WalError> {
        config.check()?;
        if first.0 > POSITION_MAX {
            return Err(WalError::Io {
                context: format!("make a WAL in {}", disk.path().display()),
                source: io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "position {} is higher than {POSITION_MAX}, the highest at which a WAL can begin",
                        first.0
                    ),
                ),
            });
        }
        let failed = |what: &str, source| WalError::Io {
            context: format!("{what} {}", disk.path().display()),
            source,
        };
        let lock = disk.lock().map_err(|e| failed("lock", e))?;
        let names = disk.list().map_err(|e| failed("list", e))?;
        let half_made = names.iter().any(|name| name == UNFINISHED);
        let old: Vec<Name> = names.iter().filter_map(|name| Name::parse(name)).collect();
        if !half_made && old.iter().any(|name| matches!(name, Name::Segment(_))) {
            let there = io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is a WAL; move it away first",
            );
            return Err(failed("make a WAL in", there));
        }
        // Each step is durable before the next, so that no segment of this WAL
        // exists without the marker.
        disk.create(UNFINISHED)
            .and_then(|_| disk.sync_dir())
            .map_err(|e| failed("begin a WAL in", e))?;
        for name in old {
            disk.remove(&name.to_string())
                .map_err(|e| failed("remove the remains of a half made WAL from", e))?;
        }
        // A segment 1 without a first entry is a WAL without entries. In a
        // restored WAL that would be damage, unless it begins at position 0.
        let number = if first == Position(0) { 1 } else { 2 };
        Ok(Maker {
            disk,
            config,
            active: None,
            number,
            end: first,
            buffer: Vec::new(),
            _lock: lock,
        })
    }

    /// The place after the last entry.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Adds an entry, which is at `end`.
    pub fn push(&mut self, header: &EntryHeader, payload: &[u8]) -> Result<(), WalError> {
        let room = self.active.as_ref().map_or(0, |(segment, _)| {
            segment.bytes - segment.offset(self.end).min(segment.bytes)
        });
        if header.total() > room {
            self.next_segment(header.total())?;
        }
        let Some((segment, _)) = &self.active else {
            return Ok(());
        };
        let header = EntryHeader {
            // The whole WAL is made durable before it can be opened.
            behind: 0,
            position: self.end,
            ..*header
        };
        self.buffer.extend(header.encode(segment.salt));
        self.buffer.extend(payload);
        self.end.0 += header.total();
        if self.buffer.len() >= WRITE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    /// Makes everything durable and removes the marker.
    pub fn finish(mut self) -> Result<(), WalError> {
        self.write()?;
        self.sync()?;
        self.disk
            .remove(UNFINISHED)
            .and_then(|()| self.disk.sync_dir())
            .map_err(|e| self.failed("finish the WAL in", e))
    }

    fn next_segment(&mut self, entry_bytes: u64) -> Result<(), WalError> {
        self.write()?;
        self.sync()?;
        let bytes = self
            .config
            .segment_bytes_of(self.number)
            .max(SEGMENT_HEADER_BYTES + entry_bytes);
        let stored = AtomicU64::new(0);
        let made = prepare::make(&*self.disk, None, &stored, self.number, bytes, &|| false);
        let made = made.map_err(|e| match e {
            PrepareError::Again(f) | PrepareError::Fatal(f) => f.error(),
            PrepareError::Stopped => WalError::Closed,
        })?;
        self.number += 1;
        self.active = Some((Segment::begin(made.header, self.end), made.file));
        Ok(())
    }

    fn write(&mut self) -> Result<(), WalError> {
        let Some((segment, file)) = &self.active else {
            return Ok(());
        };
        let from = Position(self.end.0 - self.buffer.len() as u64);
        let written = file.write_at(&mut [IoSlice::new(&self.buffer)], segment.offset(from));
        written.map_err(|e| self.failed("write the WAL in", e))?;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&self) -> Result<(), WalError> {
        match &self.active {
            Some((_, file)) => file.sync().map_err(|e| self.failed("sync the WAL in", e)),
            None => Ok(()),
        }
    }

    fn failed(&self, what: &str, source: io::Error) -> WalError {
        WalError::Io {
            context: format!("{what} {}", self.disk.path().display()),
            source,
        }
    }
}
