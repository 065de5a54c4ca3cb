//! Reads one file, event by event.

use crate::event::{self, HEADER_BYTES, Header, IN_USE, MAGIC, kind};
use crate::gtid::Gtid;
use std::fmt;
use std::ops::ControlFlow;

/// Something in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The state of the log before this file. The last one of each domain is the newest.
    List(Vec<Gtid>),
    /// Files before the one of this name have no transaction that an engine may have prepared
    /// and not committed.
    Checkpoint(String),
    /// A whole group.
    Group(Group),
}

/// A whole event group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its GTID.
    pub gtid: Gtid,
    /// The number under which the engines have prepared the transaction.
    pub xid: Option<u64>,
    /// Where the group begins in the file.
    pub begin: u64,
    /// Where it ends.
    pub end: u64,
    /// When it was written, in seconds since 1970.
    pub seconds: u32,
}

/// A file as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// No server has closed the file.
    pub in_use: bool,
    /// Where the last whole group or event ends. A group or event that begins there is cut
    /// off.
    pub whole: u64,
}

/// A file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// Reading it failed.
    Read(E),
    /// It is no binary log, or is damaged.
    Invalid {
        /// Where.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Its content is encrypted (`encrypt_binlog`).
    Encrypted,
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Read(error) => error.fmt(f),
            Error::Invalid { at, what } => {
                write!(f, "the event at offset {at} is not valid: {what}")
            }
            Error::Encrypted => f.write_str("the binary log is encrypted"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for Error<E> {}

/// Bytes that are read at a time.
const WINDOW_BYTES: usize = 256 << 10;
/// A longer event of those that matter here is not valid.
const BODY_MAX: usize = 16 << 20;

/// The bytes of a file around the place that is read.
struct Window<'a, E> {
    size: u64,
    read: &'a mut dyn FnMut(u64, usize) -> Result<Vec<u8>, E>,
    from: u64,
    bytes: Vec<u8>,
}

impl<E> Window<'_, E> {
    /// `len` bytes at `at`; fewer where the file ends.
    fn at(&mut self, at: u64, len: usize) -> Result<&[u8], Error<E>> {
        let len = (self.size.saturating_sub(at)).min(len as u64) as usize;
        let end = self.from + self.bytes.len() as u64;
        if at < self.from || at + len as u64 > end {
            let room = self.size.saturating_sub(at).min(WINDOW_BYTES as u64);
            self.bytes = (self.read)(at, len.max(room as usize)).map_err(Error::Read)?;
            self.from = at;
        }
        let from = (at - self.from) as usize;
        self.bytes.get(from..from + len).ok_or(Error::Invalid {
            at,
            what: "the file is shorter than it was",
        })
    }

    /// What follows `header`, which is that of the event at `at`.
    fn body(&mut self, at: u64, header: &Header) -> Result<&[u8], Error<E>> {
        let length = header.length as usize - HEADER_BYTES;
        match length <= BODY_MAX {
            true => self.at(at + HEADER_BYTES as u64, length),
            false => Err(Error::Invalid {
                at,
                what: "it is too long for its type",
            }),
        }
    }
}

/// A group whose end was not read yet.
struct Open {
    gtid: Gtid,
    alone: bool,
    begin: u64,
    seconds: u32,
}

/// Reads a file of `size` bytes with `read`, which returns as many bytes as it is asked for at
/// an offset, all of them before `size`. Calls `each` with what it finds, in order, until it
/// breaks.
///
/// # Errors
/// [`Error`]; a file that is cut off is none.
pub fn scan<E>(
    size: u64,
    read: &mut dyn FnMut(u64, usize) -> Result<Vec<u8>, E>,
    each: &mut dyn FnMut(Item) -> ControlFlow<()>,
) -> Result<Summary, Error<E>> {
    let mut window = Window {
        size,
        read,
        from: 0,
        bytes: Vec::new(),
    };
    let invalid = |at: u64, what: &'static str| Error::Invalid { at, what };
    let mut summary = Summary {
        in_use: false,
        whole: 0,
    };
    let magic = window.at(0, MAGIC.len())?;
    if magic.len() < MAGIC.len() && MAGIC.starts_with(magic) {
        return Ok(summary);
    }
    if magic != MAGIC {
        return Err(invalid(0, "the file does not begin like a binary log"));
    }
    summary.whole = MAGIC.len() as u64;
    let mut checksum = 0;
    let mut open: Option<Open> = None;
    let mut at = summary.whole;
    loop {
        let bytes = window.at(at, HEADER_BYTES)?;
        let Some(header) = Header::decode(bytes) else {
            return Ok(summary);
        };
        let end = at + u64::from(header.length);
        if (header.length as usize) < HEADER_BYTES + checksum {
            return Err(invalid(at, "it is shorter than its header"));
        }
        if u64::from(header.end) != end {
            return Err(invalid(at, "it does not end where it says"));
        }
        if end > size {
            return Ok(summary);
        }
        let malformed = || invalid(at, "its content does not fit its type");
        let mut ends = false;
        let mut xid = None;
        match header.kind {
            kind::FORMAT => {
                checksum =
                    event::checksum_bytes(window.body(at, &header)?).ok_or_else(malformed)?;
                if at == MAGIC.len() as u64 {
                    summary.in_use = header.flags & IN_USE != 0;
                }
            }
            kind::START_ENCRYPTION => return Err(Error::Encrypted),
            kind::GTID_LIST => {
                let list = event::gtid_list(window.body(at, &header)?).ok_or_else(malformed)?;
                if each(Item::List(list)).is_break() {
                    return Ok(summary);
                }
            }
            kind::CHECKPOINT => {
                let name = event::checkpoint(window.body(at, &header)?).ok_or_else(malformed)?;
                if each(Item::Checkpoint(name)).is_break() {
                    return Ok(summary);
                }
            }
            kind::GTID => {
                let gtid = event::gtid(window.body(at, &header)?).ok_or_else(malformed)?;
                open = Some(Open {
                    gtid: Gtid {
                        domain: gtid.domain,
                        server: header.server,
                        seq: gtid.seq,
                    },
                    alone: gtid.alone,
                    begin: at,
                    seconds: header.seconds,
                });
            }
            kind::XID => {
                xid = Some(event::xid(window.body(at, &header)?).ok_or_else(malformed)?);
                ends = true;
            }
            kind::XA_PREPARE => ends = true,
            kind::QUERY if open.as_ref().is_some_and(|open| !open.alone) => {
                // The status variables and the database's name are far shorter than this;
                // a longer one is not a COMMIT.
                const LONGEST: u32 = 128 << 10;
                ends = header.length <= LONGEST
                    && event::ends_transaction(window.body(at, &header)?, checksum)
                        .ok_or_else(malformed)?;
            }
            _ => {}
        }
        at = end;
        if let Some(group) = &open {
            let whole = match group.alone {
                true => !header.goes_on(),
                false => ends,
            };
            if whole {
                let group = Group {
                    gtid: group.gtid,
                    xid,
                    begin: group.begin,
                    end,
                    seconds: group.seconds,
                };
                open = None;
                summary.whole = end;
                if each(Item::Group(group)).is_break() {
                    return Ok(summary);
                }
            }
        } else {
            summary.whole = end;
        }
    }
}
