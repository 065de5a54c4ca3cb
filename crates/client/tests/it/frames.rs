//! The bytes of frames: payloads as docs/formats/wal.md describes them, and their
//! checksums.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

use crate::common::Frame;
use proptest::prelude::*;
use xylem_client::redo::{FileOp, RedoBuilder, file_frame};
use xylem_wire::{FrameHead, HEADER_BYTES, Header, Kind, Received};

/// The frame in a message, which must be one whole message.
fn frame(message: &[u8]) -> (FrameHead, Frame) {
    let header = Header::decode(message.first_chunk().unwrap()).unwrap();
    assert_eq!(header.kind, Kind::Frame);
    assert_eq!(header.length as usize, message.len() - HEADER_BYTES);
    let body = &message[HEADER_BYTES..];
    let (head, _) = FrameHead::decode(body).unwrap();
    let frame = Frame {
        seq: header.id,
        start_lsn: head.start_lsn,
        kind: head.kind,
        body: body.to_vec(),
    };
    (head, frame)
}

fn header_sum(seq: u64, lsn: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut bytes = [seq.to_le_bytes(), lsn.to_le_bytes()].concat();
    bytes.push(kind);
    bytes.extend(crc32c::crc32c(payload).to_le_bytes());
    crc32c::crc32c(&bytes)
}

/// The server computes the same checksums independently:
/// `crates/wal/src/entry/tests.rs` has the same numbers.
#[test]
fn the_checksums_of_frames_are_what_they_were() {
    let path = || "d/t.frm".to_owned();
    let (mode, offset, size) = (0o660, 9, 5);
    let (data, to) = (b"abc".to_vec(), "d/u.frm".to_owned());
    let dir = || "d".to_owned();
    let write = FileOp::Write {
        path: path(),
        offset,
        data,
    };
    let mkdir = FileOp::Mkdir {
        path: dir(),
        mode: 0o700,
    };
    let expected = [
        (
            FileOp::Create { path: path(), mode },
            (0xf604_6ce2, 0x750c_1b0c),
        ),
        (write, (0x460f_8e6e, 0x6b54_a8e1)),
        (
            FileOp::Truncate { path: path(), size },
            (0x3938_cb4a, 0x6632_383f),
        ),
        (
            FileOp::Rename { from: path(), to },
            (0x0d23_dd96, 0x037b_edf0),
        ),
        (FileOp::Unlink { path: path() }, (0x2d51_0ac3, 0xbf19_12eb)),
        (mkdir, (0x6798_6702, 0x265f_60fd)),
        (FileOp::Rmdir { path: dir() }, (0xf421_572c, 0xae6d_8fde)),
    ];
    let sums = |message: &[u8]| {
        let (head, _) = frame(message);
        (head.payload_crc, head.header_crc)
    };
    for (op, expected) in expected {
        assert_eq!(sums(&file_frame(7, 12345, &op)), expected, "{op:?}");
    }
    let mut redo = RedoBuilder::new(12345, 0);
    redo.push(b"re");
    redo.push(b"do");
    assert_eq!(sums(&redo.seal(7)), (0x8e9a_3422, 0x0f11_0a55));
}

fn ops() -> impl Strategy<Value = FileOp> {
    let path = "[a-z]{0,5}(/[a-z.]{1,8})?";
    let data = proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        (path, any::<u32>()).prop_map(|(path, mode)| FileOp::Create { path, mode }),
        (path, any::<u64>(), data).prop_map(|(path, offset, data)| FileOp::Write {
            path,
            offset,
            data
        }),
        (path, any::<u64>()).prop_map(|(path, size)| FileOp::Truncate { path, size }),
        (path, path).prop_map(|(from, to)| FileOp::Rename { from, to }),
        path.prop_map(|path| FileOp::Unlink { path }),
        (path, any::<u32>()).prop_map(|(path, mode)| FileOp::Mkdir { path, mode }),
        path.prop_map(|path| FileOp::Rmdir { path }),
    ]
}

proptest! {
    #[test]
    fn redo_frames(
        seq: u64,
        start in 0u64..u64::MAX / 2,
        redo in proptest::collection::vec(any::<u8>(), 1..5000),
    ) {
        let mut builder = RedoBuilder::new(start, 10);
        for piece in redo.chunks(700) {
            builder.push(piece);
        }
        prop_assert_eq!(builder.end_lsn(), start + redo.len() as u64);
        let message = builder.seal(seq);
        let (head, frame) = frame(&message);
        prop_assert_eq!((frame.seq, frame.start_lsn), (seq, start));
        prop_assert_eq!(frame.redo(), Some(&redo[..]));
        prop_assert_eq!(head.payload_crc, crc32c::crc32c(&redo));
        prop_assert_eq!(head.header_crc, header_sum(seq, start, 3, &redo));
        // The server's reader cuts the same message.
        let mut received = Received::default();
        received.room()[..message.len()].copy_from_slice(&message);
        received.filled(message.len());
        prop_assert_eq!(received.next().unwrap().unwrap().body, &frame.body[..]);
    }

    #[test]
    fn file_frames(seq: u64, lsn: u64, op in ops()) {
        let (head, frame) = frame(&file_frame(seq, lsn, &op));
        prop_assert_eq!((frame.seq, frame.start_lsn), (seq, lsn));
        prop_assert_eq!(frame.op(), Some(op));
        prop_assert_eq!(head.payload_crc, crc32c::crc32c(frame.payload()));
        prop_assert_eq!(head.header_crc, header_sum(seq, lsn, frame.kind, frame.payload()));
    }
}
