//! Writes protobuf fields, leaving out those that have their default value.

/// The bytes of a message under construction.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// A gRPC message: five bytes of prefix, filled in by [`Writer::finish`],
    /// then the fields.
    pub fn message(capacity: usize) -> Writer {
        let mut out = Vec::with_capacity(capacity + 5);
        out.extend_from_slice(&[0; 5]);
        Writer { out }
    }

    /// Fields alone, to stand inside another message.
    pub fn inner() -> Writer {
        Writer { out: Vec::new() }
    }

    /// The gRPC message; not to be called on an inner writer.
    pub fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.out.len().saturating_sub(5)).unwrap_or(u32::MAX);
        if let Some(prefix) = self.out.get_mut(1..5) {
            prefix.copy_from_slice(&len.to_be_bytes());
        }
        self.out
    }

    /// A bare variable-length number.
    pub fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// A number field.
    pub fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.varint(u64::from(field) << 3);
            self.varint(value);
        }
    }

    /// A `fixed32` field, also when it is 0.
    pub fn fixed32(&mut self, field: u32, value: u32) {
        self.varint(u64::from(field) << 3 | 5);
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    /// The head of a length-delimited field; its bytes must follow.
    pub fn len(&mut self, field: u32, len: usize) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(len as u64);
    }

    /// A bytes or string field.
    pub fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.len(field, value.len());
            self.out.extend_from_slice(value);
        }
    }

    /// An embedded message, also when it is empty.
    pub fn nested(&mut self, field: u32, inner: Writer) {
        self.len(field, inner.out.len());
        self.out.extend_from_slice(&inner.out);
    }

    /// Fields that were written elsewhere.
    pub fn put(&mut self, fields: &Writer) {
        self.out.extend_from_slice(&fields.out);
    }

    /// What stands so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.out
    }
}
