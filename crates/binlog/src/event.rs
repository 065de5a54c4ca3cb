//! The events that matter here, decoded from their first bytes.

use crate::gtid::Gtid;

/// Bytes of an event's header.
pub const HEADER_BYTES: usize = 19;
/// A file begins with this (`BINLOG_MAGIC`).
pub const MAGIC: [u8; 4] = *b"\xfebin";
/// The flag of a file's first event: a server has not closed the file
/// (`LOG_EVENT_BINLOG_IN_USE_F`).
pub const IN_USE: u16 = 1;

/// Types of events (`Log_event_type` in `log_event.h`).
pub mod kind {
    pub const QUERY: u8 = 2;
    pub const INTVAR: u8 = 5;
    pub const RAND: u8 = 13;
    pub const USER_VAR: u8 = 14;
    pub const FORMAT: u8 = 15;
    pub const XID: u8 = 16;
    pub const TABLE_MAP: u8 = 19;
    pub const XA_PREPARE: u8 = 38;
    pub const ANNOTATE_ROWS: u8 = 160;
    pub const CHECKPOINT: u8 = 161;
    pub const GTID: u8 = 162;
    pub const GTID_LIST: u8 = 163;
    pub const START_ENCRYPTION: u8 = 164;
}

/// A header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub seconds: u32,
    pub kind: u8,
    pub server: u32,
    pub length: u32,
    pub end: u32,
    pub flags: u16,
}

/// The time of the first event of the file that begins with `head`, in seconds since 1970.
/// `None`: it is no binary log, or shorter than a header.
pub fn begun(head: &[u8]) -> Option<u32> {
    let first = head.strip_prefix(&MAGIC).and_then(Header::decode)?;
    Some(first.seconds)
}

/// Whether no server has closed the file that begins with `head`, of which the first 23 bytes
/// matter. A file without a whole header counts as closed: it has nothing.
pub fn is_in_use(head: &[u8]) -> bool {
    let first = head.strip_prefix(&MAGIC).and_then(Header::decode);
    first.is_some_and(|first| first.kind == kind::FORMAT && first.flags & IN_USE != 0)
}

/// Numbers from the front of `rest`.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

impl Header {
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let mut fields = Fields(bytes);
        Some(Header {
            seconds: fields.u32()?,
            kind: fields.u8()?,
            server: fields.u32()?,
            length: fields.u32()?,
            end: fields.u32()?,
            flags: fields.array().map(u16::from_le_bytes)?,
        })
    }

    /// Whether the event is a part of a stand-alone group, but not its last one
    /// (`Log_event::is_part_of_group`).
    pub fn goes_on(&self) -> bool {
        use kind::{ANNOTATE_ROWS, GTID, INTVAR, RAND, TABLE_MAP, USER_VAR};
        matches!(
            self.kind,
            GTID | INTVAR | RAND | USER_VAR | TABLE_MAP | ANNOTATE_ROWS
        )
    }
}

/// What a GTID event says, without the server, which is in its header.
#[derive(Clone, Copy, Debug)]
pub struct GtidEvent {
    pub seq: u64,
    pub domain: u32,
    /// No event ends the group: it is one statement.
    pub alone: bool,
}

/// Its body.
pub fn gtid(body: &[u8]) -> Option<GtidEvent> {
    const STANDALONE: u8 = 1;
    let mut fields = Fields(body);
    Some(GtidEvent {
        seq: fields.u64()?,
        domain: fields.u32()?,
        alone: fields.u8()? & STANDALONE != 0,
    })
}

/// The body of an XID event.
pub fn xid(body: &[u8]) -> Option<u64> {
    Fields(body).u64()
}

/// The body of a GTID list event. The last one of each domain was written last.
pub fn gtid_list(body: &[u8]) -> Option<Vec<Gtid>> {
    /// The upper bits are flags.
    const COUNT: u32 = (1 << 28) - 1;
    let mut fields = Fields(body);
    let count = fields.u32()? & COUNT;
    let mut list = Vec::new();
    for _ in 0..count {
        list.push(Gtid {
            domain: fields.u32()?,
            server: fields.u32()?,
            seq: fields.u64()?,
        });
    }
    Some(list)
}

/// The body of a checkpoint event: a file of the log. Older ones have no transaction that may
/// be prepared in an engine and not committed.
pub fn checkpoint(body: &[u8]) -> Option<String> {
    let mut fields = Fields(body);
    let length = fields.u32()?;
    let name = fields.0.get(..usize::try_from(length).ok()?)?;
    String::from_utf8(name.to_vec()).ok()
}

/// Whether the body of a query event is that of a statement that ends a transaction.
/// `checksum`: bytes of the checksum at its end.
pub fn ends_transaction(body: &[u8], checksum: usize) -> Option<bool> {
    let mut fields = Fields(body);
    let _thread = fields.u32()?;
    let _seconds = fields.u32()?;
    let database = fields.u8()?;
    let _error = fields.array::<2>()?;
    let variables = fields.array().map(u16::from_le_bytes)?;
    // The database's name ends with a NUL.
    let from = usize::from(variables) + usize::from(database) + 1;
    let query = fields.0.get(from..fields.0.len().checked_sub(checksum)?)?;
    Some(query == b"COMMIT" || query == b"ROLLBACK")
}

/// Bytes of the checksum at the end of each event, as the body of a format description says:
/// its last byte before a checksum of its own, which is always there, names the algorithm.
pub fn checksum_bytes(body: &[u8]) -> Option<usize> {
    const CRC32_BYTES: usize = 4;
    match body.get(body.len().checked_sub(CRC32_BYTES + 1)?)? {
        0 => Some(0),
        1 => Some(CRC32_BYTES),
        _ => None,
    }
}
