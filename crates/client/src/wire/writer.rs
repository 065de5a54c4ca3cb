//! Writes protobuf fields, and leaves out those with default values.

/// The bytes of a message under construction.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// A writer of a gRPC message: a prefix of five bytes, which
    /// [`Writer::finish`] fills in, then the fields.
    pub fn message(capacity: usize) -> Writer {
        let mut out = Vec::with_capacity(capacity + 5);
        out.extend_from_slice(&[0; 5]);
        Writer { out }
    }

    /// A writer of fields that become part of another message.
    pub fn inner() -> Writer {
        Writer { out: Vec::new() }
    }

    /// Returns the gRPC message. Must not be called on an inner writer.
    pub fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.out.len().saturating_sub(5)).unwrap_or(u32::MAX);
        if let Some(prefix) = self.out.get_mut(1..5) {
            prefix.copy_from_slice(&len.to_be_bytes());
        }
        self.out
    }

    /// Writes a variable-length number without a field.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// Writes a number field, unless it is 0.
    pub fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
    }

    /// Writes a `fixed32` field, even if it is 0.
    pub fn fixed32(&mut self, field: u32, value: u32) {
        self.varint(u64::from(field) << 3 | 5);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes the head of a length-delimited field. Its bytes must follow.
    pub fn len(&mut self, field: u32, len: usize) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(len as u64);
    }

    /// Writes a bytes or string field, unless it is empty.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.len(field, value.len());
            self.out.extend_from_slice(value);
        }
    }

    /// Writes an embedded message, even if it is empty.
    pub fn nested(&mut self, field: u32, inner: Writer) {
        self.len(field, inner.out.len());
        self.out.extend_from_slice(&inner.out);
    }

    /// Appends fields of another writer.
    pub fn put(&mut self, fields: &Writer) {
        self.out.extend_from_slice(&fields.out);
    }

    /// The bytes written so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }
}
