//! Reads protobuf fields from any [`Buf`], in one pass. Copies only the fields
//! that the caller asks for.

use bytes::Buf;
use std::fmt;

/// Why bytes are not a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// A field extends beyond the end of its message.
    Truncated,
    /// A number has more than ten bytes, or overflows 64 bits.
    Varint,
    /// A field number or wire type does not exist.
    Tag,
    /// A known field has a type that differs from the protocol's.
    Type,
    /// A message is larger than any valid one.
    TooLarge,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WireError::Truncated => "a field extends beyond the end of its message",
            WireError::Varint => "a number is too long",
            WireError::Tag => "a field number or wire type does not exist",
            WireError::Type => "a field has an unexpected type",
            WireError::TooLarge => "a message is too large",
        })
    }
}

impl std::error::Error for WireError {}

/// The encoding of a field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireType {
    /// A variable-length number.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// A length, followed by that number of bytes.
    Len,
    /// Four bytes.
    Fixed32,
}

/// Reads one message.
pub struct Reader<'a, B: Buf> {
    buf: &'a mut B,
    left: usize,
}

impl<'a, B: Buf> Reader<'a, B> {
    /// A reader of the message in the next `len` bytes of `buf`, or in all of
    /// `buf` if it is shorter.
    pub fn new(buf: &'a mut B, len: usize) -> Reader<'a, B> {
        let left = len.min(buf.remaining());
        Reader { buf, left }
    }

    /// The number of bytes not read yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// The number and the type of the next field; `None` at the end of the
    /// message.
    ///
    /// # Errors
    /// When the next bytes are not a field.
    pub fn field(&mut self) -> Result<Option<(u32, WireType)>, WireError> {
        if self.left == 0 {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Len,
            5 => WireType::Fixed32,
            // 3 and 4 are the groups of proto2, which this protocol does not use.
            _ => return Err(WireError::Tag),
        };
        match u32::try_from(key >> 3) {
            Ok(number) if number != 0 && number < 1 << 29 => Ok(Some((number, wire))),
            _ => Err(WireError::Tag),
        }
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        if self.left == 0 || !self.buf.has_remaining() {
            return Err(WireError::Truncated);
        }
        self.left -= 1;
        Ok(self.buf.get_u8())
    }

    /// Reads a variable-length number without a field.
    ///
    /// # Errors
    /// When the number is truncated or too long.
    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte holds one bit of the value; a larger tenth byte is
            // an error.
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return if shift == 63 && byte > 1 {
                    Err(WireError::Varint)
                } else {
                    Ok(value)
                };
            }
        }
        Err(WireError::Varint)
    }

    /// The value of a number field.
    ///
    /// # Errors
    /// When the field has another type, or is truncated.
    pub fn uint64(&mut self, wire: WireType) -> Result<u64, WireError> {
        if wire == WireType::Varint {
            self.varint()
        } else {
            Err(WireError::Type)
        }
    }

    /// The value of a 32-bit number field. Higher bits are dropped, as the
    /// protobuf specification requires.
    ///
    /// # Errors
    /// When the field has another type, or is truncated.
    pub fn uint32(&mut self, wire: WireType) -> Result<u32, WireError> {
        Ok(self.uint64(wire)? as u32)
    }

    /// Skips a field.
    ///
    /// # Errors
    /// When the field is truncated.
    pub fn skip(&mut self, wire: WireType) -> Result<(), WireError> {
        match wire {
            WireType::Varint => self.varint().map(drop),
            WireType::Fixed64 => self.advance(8),
            WireType::Fixed32 => self.advance(4),
            WireType::Len => {
                let len = self.len()?;
                self.advance(len)
            }
        }
    }

    fn advance(&mut self, n: usize) -> Result<(), WireError> {
        if n > self.left || n > self.buf.remaining() {
            return Err(WireError::Truncated);
        }
        self.buf.advance(n);
        self.left -= n;
        Ok(())
    }

    fn len(&mut self) -> Result<usize, WireError> {
        let len = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
        if len > self.left {
            Err(WireError::Truncated)
        } else {
            Ok(len)
        }
    }

    /// Reads the contents of a length-delimited field with `f`, and skips the
    /// bytes that `f` does not read.
    ///
    /// # Errors
    /// When the field has another type or is truncated, or when `f` fails.
    pub fn nested<T>(
        &mut self,
        wire: WireType,
        f: impl FnOnce(&mut Reader<'_, B>) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        if wire != WireType::Len {
            return Err(WireError::Type);
        }
        let len = self.len()?;
        let mut inner = Reader {
            buf: self.buf,
            left: len,
        };
        let value = f(&mut inner)?;
        let rest = inner.left;
        inner.advance(rest)?;
        self.left -= len;
        Ok(value)
    }

    /// The bytes of a length-delimited field.
    ///
    /// # Errors
    /// When the field has another type, or is truncated.
    pub fn bytes(&mut self, wire: WireType) -> Result<Vec<u8>, WireError> {
        self.nested(wire, |inner| inner.rest())
    }

    /// The text of a string field. Bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// When the field has another type, or is truncated.
    pub fn string(&mut self, wire: WireType) -> Result<String, WireError> {
        Ok(String::from_utf8_lossy(&self.bytes(wire)?).into_owned())
    }

    /// The remaining bytes of the message.
    ///
    /// # Errors
    /// When the buffer is shorter than the message.
    pub fn rest(&mut self) -> Result<Vec<u8>, WireError> {
        let mut out = Vec::with_capacity(self.left.min(self.buf.remaining()));
        self.each_chunk(|_, chunk| out.extend_from_slice(chunk))?;
        Ok(out)
    }

    /// Passes the remaining bytes of the message to `f` in chunks, each with its
    /// offset.
    ///
    /// # Errors
    /// When the buffer is shorter than the message.
    pub fn each_chunk(&mut self, mut f: impl FnMut(usize, &[u8])) -> Result<(), WireError> {
        let mut at = 0;
        while self.left > 0 {
            let chunk = self.buf.chunk();
            let n = chunk.len().min(self.left);
            if n == 0 {
                return Err(WireError::Truncated);
            }
            f(at, &chunk[..n]);
            at += n;
            self.advance(n)?;
        }
        Ok(())
    }
}
