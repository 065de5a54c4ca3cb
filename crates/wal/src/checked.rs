//! A frame with the checksum that its maker gave it.

use crate::entry::payload::{self, Payload};
use xylem_types::{Frame, FrameBody};

/// A frame whose payload has the checksum it says. What the WAL stores with
/// the payload is that very checksum, so that damage on the whole way, from
/// where the checksum was computed to where the WAL is read, shows.
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

/// A frame is not what its maker computed the checksums of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CRC-32C of its {part} is {computed:#010x}, the compute gave it {given:#010x}")]
pub struct Damaged {
    /// `payload` or `header`.
    pub part: &'static str,
    /// What came with it.
    pub given: u32,
    /// What it has.
    pub computed: u32,
}

impl CheckedFrame {
    /// A frame that was made here and now: its checksum is computed.
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

    /// A frame that came with its checksums. One pass over its payload.
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
