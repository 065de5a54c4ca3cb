//! A frame with the checksum that its maker gave it.

use crate::entry::payload::{self, Payload};
use xylem_types::{Frame, FrameBody, FrameSeq, Lsn};

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

/// A frame that [`CheckedFrame::decode`] refuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It was damaged on the way.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// Its maker gave it a payload that does not fit its kind.
    #[error("{0}")]
    Malformed(String),
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
        compare(given, checked.sums())?;
        Ok(checked)
    }

    /// Checks and decodes the payload of a frame that came with its checksums, as a WAL
    /// entry of that kind has it (`docs/formats/wal.md`).
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn decode(
        (seq, start): (FrameSeq, Lsn),
        kind: u8,
        payload: &[u8],
        given: FrameSums,
    ) -> Result<CheckedFrame, Unreadable> {
        let computed = sums(seq, start, kind, crc32c::crc32c(payload));
        compare(given, computed)?;
        let body = payload::decode_frame(kind, payload).map_err(Unreadable::Malformed)?;
        let (_, encoded) = payload::encode(&body);
        Ok(CheckedFrame {
            frame: Frame { seq, start, body },
            kind,
            payload: encoded,
            payload_crc: given.payload,
        })
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
        sums(
            self.frame.seq,
            self.frame.start,
            self.kind,
            self.payload_crc,
        )
    }
}

fn sums(seq: FrameSeq, start: Lsn, kind: u8, payload: u32) -> FrameSums {
    let mut header = [0; 21];
    header[..8].copy_from_slice(&seq.0.to_le_bytes());
    header[8..16].copy_from_slice(&start.0.to_le_bytes());
    header[16] = kind;
    header[17..].copy_from_slice(&payload.to_le_bytes());
    FrameSums {
        payload,
        header: crc32c::crc32c(&header),
    }
}

fn compare(given: FrameSums, computed: FrameSums) -> Result<(), Damaged> {
    let differs = |part, given: u32, computed: u32| match given == computed {
        true => Ok(()),
        false => Err(Damaged {
            part,
            given,
            computed,
        }),
    };
    differs("payload", given.payload, computed.payload)?;
    differs("header", given.header, computed.header)
}
