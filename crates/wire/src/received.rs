//! Received bytes, cut into messages.

use crate::{HEADER_BYTES, Header, Invalid};

/// The room for one call of `recv`.
const CHUNK_BYTES: usize = 64 << 10;
/// The most memory that an empty buffer keeps.
const KEPT_BYTES: usize = 256 << 10;

/// A message whose body is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: &'a [u8],
}

/// Bytes that were received and not read yet.
#[derive(Debug, Default)]
pub struct Received {
    bytes: Vec<u8>,
    /// Where the bytes that were not read yet begin.
    from: usize,
    /// Where they end; the rest of `bytes` is room.
    to: usize,
}

impl Received {
    /// Room for the next bytes, never empty. [`Received::filled`] says how many came.
    pub fn room(&mut self) -> &mut [u8] {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            if self.bytes.len() > KEPT_BYTES {
                self.bytes = Vec::new();
            }
        }
        let wanted = self.missing().max(CHUNK_BYTES / 2);
        if self.bytes.len() - self.to < wanted {
            // Moves the beginning of a message to the front, so that the buffer grows
            // only as far as one message needs.
            self.bytes.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            let length = (self.to + wanted).max(CHUNK_BYTES);
            if self.bytes.len() < length {
                self.bytes.resize(length, 0);
            }
        }
        &mut self.bytes[self.to..]
    }

    /// Notes that `count` bytes were put into [`Received::room`].
    pub fn filled(&mut self, count: usize) {
        self.to = self.to.saturating_add(count).min(self.bytes.len());
    }

    /// Whether a part of a message, or a whole one, was not read yet.
    pub fn has_rest(&self) -> bool {
        self.from < self.to
    }

    /// The bytes that were not read yet.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }

    /// Skips `count` bytes.
    pub fn skip(&mut self, count: usize) {
        self.from = self.from.saturating_add(count).min(self.to);
    }

    /// The next message, if it is whole.
    ///
    /// # Errors
    /// [`Invalid`] when the bytes are not a message.
    #[allow(
        clippy::should_implement_trait,
        reason = "the message borrows, which an iterator's items cannot"
    )]
    pub fn next(&mut self) -> Result<Option<Message<'_>>, Invalid> {
        let rest = &self.bytes[self.from..self.to];
        let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let header = Header::decode(header)?;
        let end = HEADER_BYTES + header.length as usize;
        if rest.len() < end {
            return Ok(None);
        }
        let from = self.from + HEADER_BYTES;
        self.from += end;
        let body = &self.bytes[from..self.from];
        Ok(Some(Message { header, body }))
    }

    /// Bytes of the body of the message at the front, as far as its header is there and
    /// valid.
    pub fn announced(&self) -> usize {
        self.rest()
            .first_chunk::<HEADER_BYTES>()
            .and_then(|header| Header::decode(header).ok())
            .map_or(0, |header| header.length as usize)
    }

    /// Bytes that the message at the front lacks, as far as its header says.
    fn missing(&self) -> usize {
        match self.rest().len() {
            0 => 0,
            there => (HEADER_BYTES + self.announced()).saturating_sub(there),
        }
    }
}
