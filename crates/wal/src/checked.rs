//! A frame with the checksum that its maker gave it.

use crate::entry::payload::{self, Payload};
use xylem_types::{Frame, FrameBody};

/// A frame whose payload matches its checksum. The WAL stores that same
/// checksum with the payload, so that damage shows anywhere between the place
/// where the checksum was computed and the place where the WAL is read.
#[derive(Clone, Debug)]
pub struct CheckedFrame {
    pub(crate) frame: Frame,
    pub(crate) kind: u8,
    pub(crate) payload: Payload,
    pub(crate) payload_crc: u32,
}

/// The checksums of a frame, as `WalFrame` in pageserver.proto has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSums {
    /// CRC-32C of the payload as a WAL entry has it (`docs/formats/wal.md`,
    /// "Kinds and payloads").
    pub payload: u32,
    /// CRC-32C of number (8 bytes), LSN (8), kind (1) and `payload` (4), all
    /// little-endian.
    pub header: u32,
}

/// A frame differs from the one whose checksums its maker computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CRC-32C of its {part} is {computed:#010x}, the compute gave it {given:#010x}")]
pub struct Damaged {
    /// `payload` or `header`.
    pub part: &'static str,
    /// The checksum that came with it.
    pub given: u32,
    /// The checksum of its payload.
    pub computed: u32,
}

impl CheckedFrame {
    /// Computes the checksum of a frame that this process made.
    pub fn of(frame: Frame) -> CheckedFrame {
        let (kind, payload) = payload::encode(&frame.body);
        let payload_crc = payload.crc();
        CheckedFrame {
            frame,
            kind,
            payload,
            payload_crc,
        }
    }

    /// Checks a frame that came with its checksums, in one pass over its
    /// payload.
    ///
    /// # Errors
    /// [`Damaged`] when it has others.
    pub fn verify(frame: Frame, given: FrameSums) -> Result<CheckedFrame, Damaged> {
        let checked = CheckedFrame::of(frame);
        let sums = checked.sums();
        if sums.payload != given.payload {
            return Err(Damaged {
                part: "payload",
                given: given.payload,
                computed: sums.payload,
            });
        }
        if sums.header != given.header {
            return Err(Damaged {
                part: "header",
                given: given.header,
                computed: sums.header,
            });
        }
        Ok(checked)
    }

    /// The frame.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The frame alone.
    pub fn into_frame(self) -> Frame {
        self.frame
    }

    /// The redo it carries, if it does.
    pub fn redo(&self) -> Option<&[u8]> {
        match &self.frame.body {
            FrameBody::Redo(bytes) => Some(bytes),
            FrameBody::File(_) => None,
        }
    }

    /// Bytes of its payload in the WAL.
    pub fn payload_bytes(&self) -> u64 {
        self.payload.length()
    }

    /// Its checksums.
    pub fn sums(&self) -> FrameSums {
        let mut header = [0; 21];
        header[..8].copy_from_slice(&self.frame.seq.0.to_le_bytes());
        header[8..16].copy_from_slice(&self.frame.start.0.to_le_bytes());
        header[16] = self.kind;
        header[17..].copy_from_slice(&self.payload_crc.to_le_bytes());
        FrameSums {
            payload: self.payload_crc,
            header: crc32c::crc32c(&header),
        }
    }
}
