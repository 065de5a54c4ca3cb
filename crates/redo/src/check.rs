//! Checks a stream of redo as it passes, and keeps none of it.

use crate::RedoError;
use crate::mtr::{Head, MTR_SIZE_MAX, TAIL, head, lsn_at};
use xylem_types::Lsn;

/// Checks the framing and the checksums of the mini-transactions in a stream
/// that arrives in chunks of any size, in one pass.
///
/// Unlike [`crate::MtrReader`] it keeps none of the bytes. Its state about an
/// unfinished mini-transaction fits into a few words, and a copy of it allows a
/// return to an earlier position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MtrCheck {
    /// The start of the unfinished mini-transaction.
    start: Lsn,
    /// The total size of its records whose heads were read, in bytes.
    records: usize,
    /// CRC-32C of the record bytes that have passed.
    crc: u32,
    at: At,
}

/// The part of a mini-transaction to which the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// The head of a record; `have` bytes of it have passed.
    Head { bytes: [u8; HEAD_MAX], have: usize },
    /// The rest of a record; `left` bytes of it are missing.
    Record { left: usize },
    /// The checksum; `have` bytes of it have passed.
    Tail { bytes: [u8; 4], have: usize },
}

/// Bytes of the longest record head: the first byte, and a length of at most 3.
const HEAD_MAX: usize = 4;

const BEGIN: At = At::Head {
    bytes: [0; HEAD_MAX],
    have: 0,
};

impl MtrCheck {
    /// A check of the stream whose first byte has LSN `start`, which must be
    /// where a mini-transaction begins.
    pub fn new(start: Lsn) -> MtrCheck {
        MtrCheck {
            start,
            records: 0,
            crc: 0,
            at: BEGIN,
        }
    }

    /// The LSN of the next byte.
    pub fn lsn(&self) -> Lsn {
        let passed = match self.at {
            At::Head { have, .. } => self.records + have,
            At::Record { left } => self.records - left,
            At::Tail { have, .. } => self.records + 1 + have,
        };
        lsn_at(self.start, passed)
    }

    /// The LSN after the last whole mini-transaction.
    pub fn whole_lsn(&self) -> Lsn {
        self.start
    }

    /// Checks the stream's next bytes.
    ///
    /// # Errors
    /// [`RedoError`] when the bytes are not redo. The check is then unchanged.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), RedoError> {
        let mut next = *self;
        next.pass(bytes)?;
        *self = next;
        Ok(())
    }

    fn pass(&mut self, bytes: &[u8]) -> Result<(), RedoError> {
        // The checksum includes the bytes before `counted`.
        let (mut at, mut counted) = (0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match &mut self.at {
                At::Record { left } => {
                    let step = rest.len().min(*left);
                    at += step;
                    *left -= step;
                    if *left == 0 {
                        self.at = BEGIN;
                    }
                }
                At::Head { bytes: kept, have } => {
                    let before = *have;
                    let found = if before == 0 {
                        head(rest)
                    } else {
                        // At most three more bytes complete it.
                        for (to, from) in kept.iter_mut().skip(before).zip(rest) {
                            *to = *from;
                            *have += 1;
                        }
                        head(kept.get(..*have).unwrap_or_default())
                    };
                    match found {
                        None => {
                            return Err(RedoError::BadLength {
                                lsn: lsn_at(self.start, self.records),
                            });
                        }
                        Some(Head::NeedMore) => {
                            if before == 0 {
                                for (to, from) in kept.iter_mut().zip(rest) {
                                    *to = *from;
                                    *have += 1;
                                }
                            }
                            at = bytes.len();
                        }
                        Some(Head::End(_)) => {
                            if self.records == 0 {
                                return Err(RedoError::Empty { lsn: self.start });
                            }
                            let records = bytes.get(counted..at).unwrap_or_default();
                            self.crc = crc32c::crc32c_append(self.crc, records);
                            self.at = At::Tail {
                                bytes: [0; 4],
                                have: 0,
                            };
                            at += 1;
                            counted = at;
                        }
                        Some(Head::Record(size)) => {
                            self.records += size;
                            if self.records > MTR_SIZE_MAX - TAIL {
                                return Err(RedoError::TooLong { lsn: self.start });
                            }
                            self.at = At::Record {
                                left: size - before,
                            };
                        }
                    }
                }
                At::Tail {
                    bytes: stored,
                    have,
                } => {
                    for (to, from) in stored.iter_mut().skip(*have).zip(rest) {
                        *to = *from;
                        *have += 1;
                        at += 1;
                    }
                    counted = at;
                    if *have == stored.len() {
                        let stored = u32::from_be_bytes(*stored);
                        if stored != self.crc {
                            return Err(RedoError::Checksum {
                                lsn: self.start,
                                stored,
                                computed: self.crc,
                            });
                        }
                        *self = MtrCheck::new(lsn_at(self.start, self.records + TAIL));
                    }
                }
            }
        }
        let rest = bytes.get(counted..).unwrap_or_default();
        self.crc = crc32c::crc32c_append(self.crc, rest);
        Ok(())
    }
}
