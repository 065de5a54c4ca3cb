//! Reads durable entries from the segment files, with a buffer ahead.

use super::segments::{Name, Segment};
use super::shared::{Health, Shared};
use crate::disk::DiskFile;
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, payload};
use crate::{Entry, Lent, LentRecord, Position, WalError, WalReader};
use std::io;
use std::sync::Arc;

/// The most of its buffer that a reader keeps while it waits at the end.
const IDLE_BYTES: usize = 64 << 10;

/// A place in the WAL, and what was read from there on.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    /// The place after the last entry given.
    position: Position,
    open: Option<Open>,
    /// Its first `filled` bytes are those of the WAL from `buffer_at` on; all of
    /// one segment.
    buffer: Vec<u8>,
    filled: usize,
    buffer_at: Position,
}

/// The segment file that is read.
struct Open {
    segment: Segment,
    file: Arc<dyn DiskFile>,
    /// Durable bytes of the segment end here, as far as was known.
    known: Position,
}

impl Reader {
    /// A reader at `position`, which must be between two entries.
    pub fn open(shared: Arc<Shared>, position: Position) -> Result<Reader, WalError> {
        let durable = shared.durable_now();
        if position > durable || position < shared.segments.read().first() {
            return Err(WalError::NoSuchPosition(position));
        }
        let mut reader = Reader {
            shared,
            position,
            open: None,
            buffer: Vec::new(),
            filled: 0,
            buffer_at: position,
        };
        if position == durable {
            return Ok(reader);
        }
        match reader.entry() {
            Ok(_) => Ok(reader),
            Err(WalError::Corrupt(why)) => Err(reader
                .in_between(position)
                .unwrap_or(WalError::Corrupt(why))),
            Err(e) => Err(e),
        }
    }

    /// Whether `position` is inside of an entry, and not at an entry that is
    /// damaged. Walks the segment up to there.
    fn in_between(&self, position: Position) -> Option<WalError> {
        let (segment, _) = self.shared.segments.read().find(position)?;
        let mut walker = Reader {
            shared: Arc::clone(&self.shared),
            position: segment.first,
            open: None,
            buffer: Vec::new(),
            filled: 0,
            buffer_at: segment.first,
        };
        while walker.position < position {
            let (header, _) = walker.entry().ok()?;
            walker.position.0 += header.total();
        }
        (walker.position > position).then_some(WalError::NoSuchPosition(position))
    }

    /// The header and payload of the entry at `position`, which is durable.
    fn entry(&mut self) -> Result<(EntryHeader, &[u8]), WalError> {
        let head = self.bytes(ENTRY_HEADER_BYTES as u64)?;
        let salt = head.salt;
        let Some(header) = EntryHeader::decode_prefix(salt, head.bytes) else {
            return Err(self.broken("an entry's header fails its checksum"));
        };
        if header.position != self.position {
            return Err(self.broken("an entry that belongs elsewhere"));
        }
        let whole = self.bytes(header.total())?;
        let payload = &whole.bytes[ENTRY_HEADER_BYTES..];
        if crc32c::crc32c(payload) != header.payload_crc {
            return Err(self.broken("an entry's payload fails its checksum"));
        }
        // Borrowed anew, because a failure above needs all of `self`.
        Ok((
            header,
            &self.bytes(header.total())?.bytes[ENTRY_HEADER_BYTES..],
        ))
    }

    /// The next `count` bytes of the segment.
    fn bytes(&mut self, count: u64) -> Result<Head<'_>, WalError> {
        let open = match self.open.take() {
            Some(open) if self.position < open.known => open,
            other => self.find(other)?,
        };
        let open = self.open.insert(open);
        let left = open.known.0 - self.position.0;
        if count > left {
            return Err(self.broken("an entry reaches beyond what is durable"));
        }
        let salt = open.segment.salt;
        if self.position < self.buffer_at || self.position.0 + count > self.have() {
            self.fill(count, left)?;
        }
        let from = (self.position.0 - self.buffer_at.0) as usize;
        Ok(Head {
            salt,
            bytes: &self.buffer[from..from + count as usize],
        })
    }

    /// The place at which the buffer ends.
    fn have(&self) -> u64 {
        self.buffer_at.0 + self.filled as u64
    }

    /// Reads on from the end of what the buffer has from `position` on, until
    /// that is `count` bytes or more; `left` bytes can be read.
    fn fill(&mut self, count: u64, left: u64) -> Result<(), WalError> {
        let kept = match self.position >= self.buffer_at && self.position.0 <= self.have() {
            true => (self.have() - self.position.0) as usize,
            false => 0,
        };
        self.buffer.copy_within(self.filled - kept..self.filled, 0);
        (self.buffer_at, self.filled) = (self.position, kept);
        let kept = kept as u64;
        let ahead = self
            .shared
            .config
            .read_ahead_bytes
            .min(left.saturating_sub(kept));
        let end = kept + ahead.max(count.saturating_sub(kept));
        let end = usize::try_from(end).map_err(|e| WalError::Io {
            context: "read the WAL".to_owned(),
            source: io::Error::other(e),
        })?;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        let Some(open) = &self.open else {
            return Err(self.broken("its segment is not open"));
        };
        let at = open.segment.offset(self.position) + kept;
        if let Err(source) = open.file.read_at(&mut self.buffer[self.filled..end], at) {
            return Err(self.unreadable(source));
        }
        self.filled = end;
        Ok(())
    }

    /// Opens the segment of `position`, or finds the new end of the open one.
    fn find(&mut self, old: Option<Open>) -> Result<Open, WalError> {
        // The order matters: the durable end may grow in between, but the end
        // of a finished segment does not.
        let durable = self.shared.durable_now();
        let Some((segment, end)) = self.shared.segments.read().find(self.position) else {
            return Err(WalError::NoSuchPosition(self.position));
        };
        let known = end.map_or(durable, |end| end.min(durable));
        match old {
            Some(open) if open.segment == segment => Ok(Open { known, ..open }),
            _ => {
                self.filled = 0;
                let name = Name::Segment(segment.number).to_string();
                let file = self
                    .shared
                    .disk
                    .open(&name)
                    .map_err(|e| self.unreadable(e))?;
                Ok(Open {
                    segment,
                    file,
                    known,
                })
            }
        }
    }

    fn unreadable(&self, source: io::Error) -> WalError {
        self.gone().unwrap_or_else(|| WalError::Io {
            context: format!("read {}", self.place()),
            source,
        })
    }

    fn broken(&self, why: &str) -> WalError {
        self.gone()
            .unwrap_or_else(|| WalError::Corrupt(format!("{}: {why}", self.place())))
    }

    /// The bytes read may belong to another segment by now, because trimmed
    /// files are reused.
    fn gone(&self) -> Option<WalError> {
        if self.position < self.shared.segments.read().first() {
            return Some(WalError::NoSuchPosition(self.position));
        }
        let state = self.shared.state.lock();
        match &state.health {
            Health::Running | Health::Stalled(_) => None,
            // The directory may be another owner's.
            Health::Failed(failure) => Some(failure.error()),
            Health::Closed => Some(WalError::Closed),
        }
    }

    fn place(&self) -> String {
        match self.shared.segments.read().find(self.position) {
            Some((segment, _)) => {
                let path = self.shared.path(Name::Segment(segment.number));
                format!("{path} at byte {}", segment.offset(self.position))
            }
            None => format!(
                "{} at position {}",
                self.shared.disk.path().display(),
                self.position.0
            ),
        }
    }

    /// Whether there is a durable entry here.
    fn is_ready(&mut self) -> Result<bool, WalError> {
        if self.position < self.shared.segments.read().first() {
            return Err(WalError::NoSuchPosition(self.position));
        }
        if self.position >= self.shared.durable_now() {
            if self.buffer.capacity() > IDLE_BYTES {
                self.buffer = Vec::new();
                self.filled = 0;
            }
            return Ok(false);
        }
        Ok(true)
    }

    /// The place after the last entry given.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The header of the next durable entry, without moving behind it.
    pub fn peek(&mut self) -> Result<Option<EntryHeader>, WalError> {
        if !self.is_ready()? {
            return Ok(None);
        }
        Ok(Some(self.entry()?.0))
    }

    /// Passes the header and payload of the next durable entry to `take`, which
    /// returns whether it took the entry. Returns false also when there is no
    /// entry.
    pub fn pass(
        &mut self,
        take: impl FnOnce(&EntryHeader, &[u8]) -> bool,
    ) -> Result<bool, WalError> {
        if !self.is_ready()? {
            return Ok(false);
        }
        let (header, payload) = self.entry()?;
        if !take(&header, payload) {
            return Ok(false);
        }
        self.position.0 += header.total();
        Ok(true)
    }
}

/// Bytes of a segment.
struct Head<'a> {
    salt: u64,
    bytes: &'a [u8],
}

fn lent<'a>(header: &EntryHeader, record: LentRecord<'a>) -> Lent<'a> {
    Lent {
        next: Position(header.position.0 + header.total()),
        time_us: header.time_us,
        stepped: header.stepped,
        record,
    }
}

impl WalReader for Reader {
    fn lend(&mut self, take: &mut dyn FnMut(Lent<'_>)) -> Result<bool, WalError> {
        if !self.is_ready()? {
            return Ok(false);
        }
        let (header, bytes) = self.entry()?;
        if header.kind == payload::REDO {
            let start = header.lsn;
            take(lent(&header, LentRecord::Redo { start, bytes }));
        } else {
            let decoded = payload::decode(&header, bytes);
            let record = decoded.map_err(|why| self.broken(&why))?;
            take(lent(&header, LentRecord::Other(&record)));
        }
        self.position.0 += header.total();
        Ok(true)
    }

    fn next(&mut self) -> Result<Option<Entry>, WalError> {
        if !self.is_ready()? {
            return Ok(None);
        }
        let (header, payload) = self.entry()?;
        let decoded = payload::decode(&header, payload);
        let record = decoded.map_err(|why| self.broken(&why))?;
        self.position.0 += header.total();
        Ok(Some(Entry {
            next: self.position,
            epoch: header.epoch,
            time_us: header.time_us,
            stepped: header.stepped,
            record,
        }))
    }
}
