//! Mini-transactions out of a stream that comes in any pieces.

use crate::RedoError;
use crate::mtr::{Mtr, ParseStep, parse_from};
use xylem_types::Lsn;

/// Reassembles mini-transactions from a stream of redo.
///
/// Give it bytes with [`push`](MtrReader::push), then call
/// [`next`](MtrReader::next) until it answers `None`. Memory is then at most
/// one chunk plus one unfinished mini-transaction
/// ([`crate::MTR_SIZE_MAX`]); what was pushed is copied once.
#[derive(Debug)]
pub struct MtrReader {
    buf: Vec<u8>,
    /// Start of the first mini-transaction not yet returned.
    head: usize,
    /// Its LSN.
    lsn: Lsn,
    /// How far into it the search for its end got.
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
    /// [`RedoError`] when the stream is not redo here. The reader stays where
    /// it is and answers the same from then on.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Mtr<'_>>, RedoError> {
        let pending = self.buf.get(self.head..).unwrap_or_default();
        match parse_from(pending, self.lsn, &mut self.scanned)? {
            ParseStep::NeedMore => Ok(None),
            ParseStep::Mtr(mtr) => {
                self.head += mtr.size();
                self.lsn = mtr.end_lsn();
                Ok(Some(mtr))
            }
        }
    }

    /// The LSN after the last mini-transaction returned: where the next begins.
    pub fn end_lsn(&self) -> Lsn {
        self.lsn
    }

    /// The LSN after the last byte pushed.
    pub fn pushed_lsn(&self) -> Lsn {
        Lsn(self.lsn.0.saturating_add(self.buffered() as u64))
    }

    /// Bytes pushed that belong to no mini-transaction returned yet.
    pub fn buffered(&self) -> usize {
        self.buf.len() - self.head
    }
}
