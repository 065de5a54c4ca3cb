//! Reads protobuf fields out of any [`Buf`], in one pass and without copying
//! more than is asked for.

use bytes::Buf;
use std::fmt;

/// What cannot be a protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// A field reaches past the end of its message.
    Truncated,
    /// A number has more than ten bytes.
    Varint,
    /// A field number or wire type that does not exist.
    Tag,
    /// A known field has another type than the protocol gives it.
    Type,
    /// A message, or the sum of its parts, is larger than any valid one.
    TooLarge,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WireError::Truncated => "a field reaches past the end of its message",
            WireError::Varint => "a number has more than ten bytes",
            WireError::Tag => "a field number or wire type does not exist",
            WireError::Type => "a field has an unexpected type",
            WireError::TooLarge => "a message is too large",
        })
    }
}

impl std::error::Error for WireError {}

/// How a field's value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireType {
    /// A variable-length number.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// A length, then so many bytes.
    Len,
    /// Four bytes.
    Fixed32,
}

/// The rest of one message.
pub struct Reader<'a, B: Buf> {
    buf: &'a mut B,
    left: usize,
}

impl<'a, B: Buf> Reader<'a, B> {
    /// A reader of the message in the next `len` bytes of `buf`; of fewer when
    /// `buf` has fewer.
    pub fn new(buf: &'a mut B, len: usize) -> Reader<'a, B> {
        let left = len.min(buf.remaining());
        Reader { buf, left }
    }

    /// Bytes not read yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Number and type of the next field; `None` at the end of the message.
    ///
    /// # Errors
    /// When what follows is not a field.
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
            // 3 and 4 are the groups of proto2, which this protocol never had.
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

    /// A bare variable-length number.
    ///
    /// # Errors
    /// When it is cut off or has more than ten bytes.
    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            // The tenth byte has room for one bit; what overflows is dropped,
            // as other decoders do.
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
    /// When the field is of another type.
    pub fn uint64(&mut self, wire: WireType) -> Result<u64, WireError> {
        if wire == WireType::Varint {
            self.varint()
        } else {
            Err(WireError::Type)
        }
    }

    /// The value of a 32-bit number field; higher bits are dropped, as the
    /// protobuf specification wants.
    ///
    /// # Errors
    /// When the field is of another type.
    pub fn uint32(&mut self, wire: WireType) -> Result<u32, WireError> {
        Ok(self.uint64(wire)? as u32)
    }

    /// Reads past a field of no interest.
    ///
    /// # Errors
    /// When it is cut off.
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

    /// The embedded message or bytes of a length-delimited field, read by `f`;
    /// what `f` leaves is skipped.
    ///
    /// # Errors
    /// When the field is of another type or cut off, or when `f` fails.
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
    /// When the field is of another type or cut off.
    pub fn bytes(&mut self, wire: WireType) -> Result<Vec<u8>, WireError> {
        self.nested(wire, |inner| inner.rest())
    }

    /// The text of a string field; what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// When the field is of another type or cut off.
    pub fn string(&mut self, wire: WireType) -> Result<String, WireError> {
        Ok(String::from_utf8_lossy(&self.bytes(wire)?).into_owned())
    }

    /// All bytes that are left.
    ///
    /// # Errors
    /// When the buffer holds fewer than the message was said to have.
    pub fn rest(&mut self) -> Result<Vec<u8>, WireError> {
        let mut out = Vec::with_capacity(self.left.min(self.buf.remaining()));
        self.each_chunk(|_, chunk| out.extend_from_slice(chunk))?;
        Ok(out)
    }

    /// Hands all bytes that are left to `f`, piece by piece, with the offset of
    /// each piece.
    ///
    /// # Errors
    /// When the buffer holds fewer than the message was said to have.
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
