//! Splits the bytes of a response into gRPC messages, without copying them.

use crate::wire::{Reader, WireError};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;

/// Received DATA frames that were not read yet. If the caller reads every whole
/// message, their size is bounded by the flow-control window, and by `limit` for
/// an incomplete message.
#[derive(Debug)]
pub struct Deframer {
    chunks: VecDeque<Bytes>,
    total: usize,
    limit: usize,
}

impl Deframer {
    /// A deframer for messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Deframer {
        Deframer {
            chunks: VecDeque::new(),
            total: 0,
            limit,
        }
    }

    /// Appends received bytes.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.total += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// The size of the message at the front, in bytes; `None` if it is
    /// incomplete.
    fn whole(&self) -> Result<Option<usize>, WireError> {
        let mut prefix = [0u8; 5];
        let mut have = 0;
        for chunk in &self.chunks {
            let n = chunk.len().min(5 - have);
            prefix[have..have + n].copy_from_slice(&chunk[..n]);
            have += n;
            if have == 5 {
                break;
            }
        }
        if have < 5 {
            return Ok(None);
        }
        // The client offers no compression, so a set flag is invalid.
        if prefix[0] != 0 {
            return Err(WireError::Type);
        }
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if len > self.limit {
            return Err(WireError::TooLarge);
        }
        Ok((self.total - 5 >= len).then_some(len))
    }

    /// Reads the message at the front with `f`, and skips the bytes that `f` does
    /// not read. Returns `None` if no whole message is there.
    ///
    /// # Errors
    /// When the bytes are not a message, or `f` fails. The rest of the stream is
    /// then useless.
    pub fn next<T>(
        &mut self,
        f: impl FnOnce(&mut Reader<'_, Deframer>) -> Result<T, WireError>,
    ) -> Result<Option<T>, WireError> {
        let Some(len) = self.whole()? else {
            return Ok(None);
        };
        self.advance(5);
        let after = self.total - len;
        let value = f(&mut Reader::new(self, len))?;
        let rest = self.total.saturating_sub(after);
        self.advance(rest);
        Ok(Some(value))
    }
}

impl Buf for Deframer {
    fn remaining(&self) -> usize {
        self.total
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |chunk| chunk)
    }

    fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let Some(front) = self.chunks.front_mut() else {
                return;
            };
            let step = n.min(front.len());
            front.advance(step);
            self.total -= step;
            n -= step;
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}
