//! The bytes of a backup's objects, and their names. Drawn in
//! `docs/formats/wal.md`, "Backup". Everything is little-endian.

use crate::Position;
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, u32_at, u64_at};
use std::fmt;

/// Bytes before the entries of a range; a start and a trim mark have no more.
pub(crate) const HEADER_BYTES: usize = 96;

const MAGIC: [u8; 8] = *b"XYLEMBAK";
const VERSION: u32 = 2;
const KIND_START: u32 = 1;
const KIND_RANGE: u32 = 2;
const KIND_TRIMMED: u32 = 3;
/// Bytes of the header that its checksum covers.
const COVERED_BYTES: usize = 88;
/// Stands for no generation.
const NONE: u64 = u64::MAX;

/// A server's right to write the backup, as a number. The highest that has
/// begun counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(pub u64);

impl Generation {
    /// The generation whose folder has this name.
    pub fn parse(name: &str) -> Option<Generation> {
        let parsed = Generation(u64::from_str_radix(name, 16).ok()?);
        (parsed.to_string() == name && parsed.0 != NONE).then_some(parsed)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The kinds of objects in a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Where the generation begins.
    Start,
    /// The entries from this position on.
    Range(Position),
    /// Everything before this position may be gone.
    Trimmed(Position),
}

impl Kind {
    /// The kind of a listed object; `None` when it is not the backup's.
    pub fn parse(name: &str) -> Option<Kind> {
        let position = |digits| u64::from_str_radix(digits, 16).ok().map(Position);
        let parsed = match name.strip_prefix("trimmed-") {
            Some(digits) => Kind::Trimmed(position(digits)?),
            None if name == "start" => Kind::Start,
            None => Kind::Range(position(name)?),
        };
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Start => f.write_str("start"),
            Kind::Range(position) => write!(f, "{:016x}", position.0),
            Kind::Trimmed(position) => write!(f, "trimmed-{:016x}", position.0),
        }
    }
}

/// An object's name.
pub(crate) fn name(generation: Generation, kind: Kind) -> String {
    format!("{generation}/{kind}")
}

/// The header of every object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub generation: Generation,
    pub kind: Kind,
    /// The random bytes of its writer.
    pub writer: u128,
    /// In a start, the position where the generation begins; otherwise the
    /// position in the name.
    pub position: Position,
    /// No entry before this is needed any more.
    pub first: Position,
    /// In a start, the generation whose line precedes this one, up to
    /// `position`.
    pub follows: Option<Generation>,
    /// Bytes of the entries that follow; the range ends this far behind
    /// `position`.
    pub bytes: u64,
    /// See [`Digest`].
    pub digest: u32,
    /// Everything needed before this was in the store when the object was sent.
    /// An object that is missing before it is lost; one that is missing behind
    /// it may never have arrived.
    pub whole: Position,
}

impl Header {
    /// The salt of its entries' checksums.
    pub fn salt(&self) -> u64 {
        self.writer as u64
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let kind = match self.kind {
            Kind::Start => KIND_START,
            Kind::Range(_) => KIND_RANGE,
            Kind::Trimmed(_) => KIND_TRIMMED,
        };
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&kind.to_le_bytes());
        out[16..24].copy_from_slice(&self.generation.0.to_le_bytes());
        out[24..40].copy_from_slice(&self.writer.to_le_bytes());
        out[40..48].copy_from_slice(&self.position.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.first.0.to_le_bytes());
        let follows = self.follows.map_or(NONE, |g| g.0);
        out[56..64].copy_from_slice(&follows.to_le_bytes());
        out[64..72].copy_from_slice(&self.bytes.to_le_bytes());
        out[72..76].copy_from_slice(&self.digest.to_le_bytes());
        out[76..84].copy_from_slice(&self.whole.0.to_le_bytes());
        let crc = crc32c::crc32c(&out[..COVERED_BYTES]);
        out[COVERED_BYTES..COVERED_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of an object of that name, or says what is wrong.
    pub fn decode(generation: Generation, kind: Kind, bytes: &[u8]) -> Result<Header, String> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(format!("an object of {} bytes", bytes.len()));
        };
        if bytes[0..8] != MAGIC {
            return Err("not an object of a WAL's backup: wrong magic".to_owned());
        }
        // The version is checked first, because another version may have
        // another checksum.
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!(
                "format version {version}, this program reads {VERSION}: restore with the program that wrote it"
            ));
        }
        if crc32c::crc32c(&bytes[..COVERED_BYTES]) != u32_at(bytes, COVERED_BYTES) {
            return Err("the header fails its checksum".to_owned());
        }
        let position = Position(u64_at(bytes, 40));
        let said = match u32_at(bytes, 12) {
            KIND_START => Kind::Start,
            KIND_RANGE => Kind::Range(position),
            KIND_TRIMMED => Kind::Trimmed(position),
            other => return Err(format!("an object of unknown kind {other}")),
        };
        let of = Generation(u64_at(bytes, 16));
        if said != kind || of != generation {
            return Err(format!("its header says it is {}", name(of, said)));
        }
        let mut writer = [0; 16];
        writer.copy_from_slice(&bytes[24..40]);
        let header = Header {
            generation,
            kind,
            writer: u128::from_le_bytes(writer),
            position,
            first: Position(u64_at(bytes, 48)),
            follows: Some(Generation(u64_at(bytes, 56))).filter(|g| g.0 != NONE),
            bytes: u64_at(bytes, 64),
            digest: u32_at(bytes, 72),
            whole: Position(u64_at(bytes, 76)),
        };
        let is_range = matches!(kind, Kind::Range(_));
        let ahead = header.whole > position;
        if is_range != (header.bytes > 0)
            || ahead
            || header.follows.is_some_and(|g| g >= generation)
        {
            return Err("the header contradicts itself".to_owned());
        }
        Ok(header)
    }
}

/// A checksum of entries that does not depend on where they stand. It covers
/// their headers, with 0 for salt and *behind*; the headers hold the payloads'
/// checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest(pub u32);

impl Digest {
    /// Adds one more entry.
    pub fn add(&mut self, header: &EntryHeader) {
        let plain = EntryHeader {
            behind: 0,
            ..*header
        };
        self.0 = crc32c::crc32c_append(self.0, &plain.encode(0));
    }
}

/// Walks a range's entries, checks every byte, and passes each entry to `take`.
/// Fails with the byte of the object and the damage there, or with the error of
/// `take`.
pub(crate) fn walk<E: From<(u64, String)>>(
    header: &Header,
    object: &[u8],
    mut take: impl FnMut(&EntryHeader, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    if object.len() as u64 != (HEADER_BYTES as u64).saturating_add(header.bytes) {
        let why = format!(
            "it has {} bytes, its header says {} of entries",
            object.len(),
            header.bytes
        );
        return Err((0, why).into());
    }
    let mut digest = Digest::default();
    let mut at = HEADER_BYTES;
    while let Some(rest) = object.get(at..).filter(|rest| !rest.is_empty()) {
        let wrong = |why: &str| Err((at as u64, why.to_owned()).into());
        let Some(entry) = EntryHeader::decode_prefix(header.salt(), rest) else {
            return wrong("an entry's header fails its checksum");
        };
        let position = header.position.0.checked_add((at - HEADER_BYTES) as u64);
        if Some(entry.position.0) != position {
            return wrong("an entry that belongs elsewhere");
        }
        let total = usize::try_from(entry.total()).unwrap_or(usize::MAX);
        let Some(payload) = rest.get(ENTRY_HEADER_BYTES..total) else {
            return wrong("an entry reaches beyond the object");
        };
        if crc32c::crc32c(payload) != entry.payload_crc {
            return wrong("an entry's payload fails its checksum");
        }
        digest.add(&entry);
        take(&entry, payload)?;
        at += total;
    }
    if digest.0 != header.digest {
        return Err((0, "the entries are not those of the header".to_owned()).into());
    }
    Ok(())
}
