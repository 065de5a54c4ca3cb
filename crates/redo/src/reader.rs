//! Reads mini-transactions from a stream that arrives in chunks of any size.

use crate::RedoError;
use crate::mtr::{Mtr, ParseStep, parse_mtr_from};
use xylem_types::Lsn;

/// Reassembles mini-transactions from a stream of redo.
///
/// Add bytes with [`push`](MtrReader::push), then call
/// [`next`](MtrReader::next) until it returns `None`. The reader then holds at
/// most one chunk plus one unfinished mini-transaction
/// ([`crate::MTR_SIZE_MAX`]). It copies each byte once.
#[derive(Debug)]
pub struct MtrReader {
    buf: Vec<u8>,
    /// Offset of the first mini-transaction that was not returned yet.
    head: usize,
    /// The LSN at `head`.
    lsn: Lsn,
    /// Bytes after `head` that the search for the end has passed.
    scanned: usize,
}

impl MtrReader {
    /// A reader of the stream whose first byte has LSN `start`, which must be
    /// where a mini-transaction begins.
    pub fn new(start: Lsn) -> MtrReader {
        MtrReader {
            buf: Vec::new(),
            head: 0,
            lsn: start,
            scanned: 0,
        }
    }

    /// Appends the stream's next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.head == self.buf.len() {
            self.buf.clear();
            self.head = 0;
        } else if self.head > 0 && self.buf.len() + bytes.len() > self.buf.capacity() {
            self.buf.drain(..self.head);
            self.head = 0;
        }
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole mini-transaction; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`RedoError`] when the next bytes are not redo. Every later call returns
    /// the same error.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Mtr<'_>>, RedoError> {
        let pending = self.buf.get(self.head..).unwrap_or_default();
        match parse_mtr_from(pending, self.lsn, &mut self.scanned)? {
            ParseStep::NeedMore => Ok(None),
            ParseStep::Mtr(mtr) => {
                self.head += mtr.size();
                self.lsn = mtr.end_lsn();
                Ok(Some(mtr))
            }
        }
    }

    /// The LSN after the last mini-transaction returned, where the next one
    /// begins.
    pub fn end_lsn(&self) -> Lsn {
        self.lsn
    }

    /// The LSN after the last byte pushed.
    pub fn pushed_lsn(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(self.buffered() as u64))
    }

    /// Bytes that were pushed and not returned yet.
    pub fn buffered(&self) -> usize {
        self.buf.len() - self.head
    }
}
