//! The bytes of a WAL's objects, and their names. Drawn in
//! `docs/formats/wal-objects.md`. Everything is little-endian.

use crate::Position;
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, payload, u32_at, u64_at};
use crate::queue::Queued;
use crate::stamp::Stamp;
use crate::{Record, WalError};
use bytes::Bytes;
use std::fmt;
use std::ops::Range;

/// Bytes before an object's entries. An object of exactly this length is a
/// claim: no object of entries is so short.
pub(crate) const HEADER_BYTES: usize = 96;
/// The most entries in one object, limited by the bits of a position.
pub(crate) const ENTRIES_MAX: usize = 1 << INDEX_BITS;

/// Bits of a position that count entries within an object.
const INDEX_BITS: u32 = 16;
/// Bits of a number that count objects within a folder. A store lists this many
/// objects with one request.
const FOLDER_BITS: u32 = 9;
/// The end of object numbers, limited by the remaining bits of a position.
const NUMBER_END: u64 = 1 << (64 - INDEX_BITS);

const MAGIC: [u8; 8] = *b"XYLEMOBJ";
const VERSION: u32 = 1;
const KIND_ENTRIES: u32 = 1;
const KIND_CLAIM: u32 = 2;
/// Bytes of the header that its checksum covers.
const COVERED_BYTES: usize = 88;

/// The place before entry `index` of object `number`.
pub(crate) fn position(number: u64, index: usize) -> Position {
    Position((number << INDEX_BITS) + index as u64)
}

/// The object of a position, and the entry's index within it.
pub(crate) fn number_and_index(position: Position) -> (u64, usize) {
    (
        position.0 >> INDEX_BITS,
        (position.0 & (ENTRIES_MAX as u64 - 1)) as usize,
    )
}

/// An object's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    /// Its place in the line.
    pub number: u64,
    /// The owner's right to write it, as a number.
    pub generation: u32,
}

impl Name {
    /// The name for an object that is to be made.
    pub fn new(number: u64, generation: u32) -> Result<Name, WalError> {
        if number >= NUMBER_END {
            return Err(WalError::Corrupt(
                "there is no further object number".to_owned(),
            ));
        }
        Ok(Name { number, generation })
    }

    /// The folder that it is in.
    pub fn folder(self) -> Folder {
        Folder::of(self.number)
    }

    /// The name of a listed object, `None` for what is not the WAL's.
    pub fn parse(folder: Folder, name: &str) -> Option<Name> {
        let (number, generation) = name.split_once('-')?;
        let parsed = Name {
            number: u64::from_str_radix(number, 16).ok()?,
            generation: u32::from_str_radix(generation, 16).ok()?,
        };
        // One name for one object: no sign, no capitals, no other place.
        (parsed.to_string() == format!("{folder}/{name}")).then_some(parsed)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Name { number, generation } = self;
        write!(f, "{}/{number:012x}-{generation:08x}", self.folder())
    }
}

/// A part of the numbers, which is listed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Folder(pub u64);

impl Folder {
    /// The folder of object `number`.
    pub fn of(number: u64) -> Folder {
        Folder(number >> FOLDER_BITS)
    }

    /// The numbers in it.
    pub fn numbers(self) -> Range<u64> {
        self.0 << FOLDER_BITS..(self.0 + 1) << FOLDER_BITS
    }

    /// The folder of that name, `None` for what is not the WAL's.
    pub fn parse(name: &str) -> Option<Folder> {
        let parsed = Folder(u64::from_str_radix(name, 16).ok()?);
        (parsed.to_string() == name && parsed.0 < NUMBER_END >> FOLDER_BITS).then_some(parsed)
    }
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010x}", self.0)
    }
}

/// The random bytes of an object's writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriterId(pub u128);

impl WriterId {
    /// The salt of the entries' checksums, so that a frame's payload cannot
    /// imitate an entry.
    fn salt(self) -> u64 {
        self.0 as u64
    }
}

/// The header before an object's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Its name says the same.
    pub name: Name,
    /// Whether it is a claim, which ends its generation and begins that of its
    /// writer. A claim holds no entries.
    pub claim: bool,
    pub writer: WriterId,
    /// All objects of entries before this number were in the line when this
    /// one was made.
    pub known: u64,
    /// All objects of entries before this number had been trimmed, or were
    /// about to be.
    pub first: u64,
    /// Bytes of all objects of entries before this one, trimmed ones too.
    pub bytes_before: u64,
    /// The generation of the object of entries before this one in the line; 0
    /// where there is none, in claims, and in objects of earlier programs.
    pub generation_before: u32,
    /// Entries that follow.
    pub count: u32,
    /// Their bytes.
    pub body_bytes: u64,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let kind = if self.claim { KIND_CLAIM } else { KIND_ENTRIES };
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&kind.to_le_bytes());
        out[16..24].copy_from_slice(&self.name.number.to_le_bytes());
        out[24..32].copy_from_slice(&u64::from(self.name.generation).to_le_bytes());
        out[32..48].copy_from_slice(&self.writer.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.known.to_le_bytes());
        out[56..64].copy_from_slice(&self.first.to_le_bytes());
        out[64..72].copy_from_slice(&self.bytes_before.to_le_bytes());
        out[72..80].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[80..84].copy_from_slice(&self.count.to_le_bytes());
        out[84..88].copy_from_slice(&self.generation_before.to_le_bytes());
        let crc = crc32c::crc32c(&out[..COVERED_BYTES]);
        out[COVERED_BYTES..COVERED_BYTES + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of the object `name`, or says what is wrong with it.
    pub fn decode(name: Name, bytes: &[u8]) -> Result<Header, String> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(format!("an object of {} bytes", bytes.len()));
        };
        if bytes[0..8] != MAGIC {
            return Err("not an object of a WAL: wrong magic".to_owned());
        }
        // The version is checked first, because another version may have
        // another checksum.
        let version = u32_at(bytes, 8);
        if version != VERSION {
            return Err(format!(
                "format version {version}, this program reads {VERSION}: open the WAL with the program that wrote it"
            ));
        }
        if crc32c::crc32c(&bytes[..COVERED_BYTES]) != u32_at(bytes, COVERED_BYTES) {
            return Err("the header fails its checksum".to_owned());
        }
        let claim = match u32_at(bytes, 12) {
            KIND_ENTRIES => false,
            KIND_CLAIM => true,
            other => return Err(format!("an object of unknown kind {other}")),
        };
        let (number, generation) = (u64_at(bytes, 16), u64_at(bytes, 24));
        if (number, generation) != (name.number, u64::from(name.generation)) {
            return Err(format!(
                "its header says it is object {number} of generation {generation}"
            ));
        }
        let mut writer = [0; 16];
        writer.copy_from_slice(&bytes[32..48]);
        let header = Header {
            name,
            claim,
            writer: WriterId(u128::from_le_bytes(writer)),
            known: u64_at(bytes, 48),
            first: u64_at(bytes, 56),
            bytes_before: u64_at(bytes, 64),
            body_bytes: u64_at(bytes, 72),
            count: u32_at(bytes, 80),
            generation_before: u32_at(bytes, 84),
        };
        let empty = header.count == 0 || header.body_bytes == 0;
        let later = header.generation_before > name.generation;
        if claim != empty || header.known > number || header.first > number || later {
            return Err("the header contradicts itself".to_owned());
        }
        Ok(header)
    }

    /// Bytes of the whole object.
    pub fn total(&self) -> u64 {
        HEADER_BYTES as u64 + self.body_bytes
    }
}

/// An object of entries in memory, every byte checked.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub header: Header,
    bytes: Bytes,
    /// Where each entry begins.
    offsets: Vec<u32>,
}

impl Block {
    /// Makes the object that holds `entries`. Sets `header.count` and
    /// `header.body_bytes`.
    pub fn encode(mut header: Header, stamp: Stamp, entries: &[Queued]) -> Block {
        let body: u64 = entries.iter().map(Queued::bytes).sum();
        header.count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        header.body_bytes = body;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body as usize);
        let mut offsets = Vec::with_capacity(entries.len());
        bytes.extend(header.encode());
        for (index, entry) in entries.iter().enumerate() {
            // All three are bounded by the configuration's check.
            offsets.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            let entry_header = EntryHeader {
                payload_crc: entry.payload_crc,
                length: u32::try_from(entry.payload.length()).unwrap_or(u32::MAX),
                behind: u32::try_from(index).unwrap_or(u32::MAX),
                position: position(header.name.number, index),
                epoch: entry.epoch,
                seq: entry.seq,
                lsn: entry.lsn,
                time_us: stamp.time_us,
                kind: entry.kind,
                stepped: stamp.stepped && index == 0,
            };
            bytes.extend(entry_header.encode(header.writer.salt()));
            bytes.extend(&entry.payload.head);
            if let Some(body) = &entry.payload.body {
                bytes.extend(body.iter());
            }
        }
        Block {
            header,
            bytes: bytes.into(),
            offsets,
        }
    }

    /// Reads the object of `header`, or returns the damage and its byte.
    pub fn decode(header: Header, bytes: Bytes) -> Result<Block, (u64, String)> {
        if bytes.len() as u64 != header.total() {
            let why = format!(
                "it has {} bytes, its header says {}",
                bytes.len(),
                header.total()
            );
            return Err((0, why));
        }
        let mut offsets = Vec::new();
        let mut at = HEADER_BYTES;
        while at < bytes.len() {
            let wrong = |why: &str| Err((at as u64, why.to_owned()));
            let Some(entry) = EntryHeader::decode_prefix(header.writer.salt(), &bytes[at..]) else {
                return wrong("an entry's header fails its checksum");
            };
            if entry.position != position(header.name.number, offsets.len()) {
                return wrong("an entry that belongs elsewhere");
            }
            let end = at as u64 + entry.total();
            if end > bytes.len() as u64 {
                return wrong("an entry reaches beyond the object");
            }
            let payload = &bytes[at + ENTRY_HEADER_BYTES..end as usize];
            if crc32c::crc32c(payload) != entry.payload_crc {
                return wrong("an entry's payload fails its checksum");
            }
            offsets.push(u32::try_from(at).map_err(|e| (at as u64, e.to_string()))?);
            at = end as usize;
        }
        if offsets.len() != header.count as usize {
            return Err((
                0,
                format!("{} entries, not {}", offsets.len(), header.count),
            ));
        }
        Ok(Block {
            header,
            bytes,
            offsets,
        })
    }

    /// The object as it stands in the store.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many entries it holds.
    pub fn count(&self) -> usize {
        self.offsets.len()
    }

    /// The entry `index`, or its damage; `None` behind the last entry.
    pub fn entry(&self, index: usize) -> Option<Result<(EntryHeader, Record), String>> {
        let at = *self.offsets.get(index)? as usize;
        let bytes = self.bytes.get(at..)?;
        let header = EntryHeader::decode_prefix(self.header.writer.salt(), bytes)?;
        let payload = bytes.get(ENTRY_HEADER_BYTES..header.total() as usize)?;
        Some(payload::decode(&header, payload).map(|record| (header, record)))
    }

    /// The place after entry `index`.
    pub fn after(&self, index: usize) -> Position {
        let number = self.header.name.number;
        if index + 1 < self.count() {
            position(number, index + 1)
        } else {
            position(number + 1, 0)
        }
    }
}
