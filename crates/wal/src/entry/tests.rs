//! Encodings go back and forth; nothing that is read panics.

use super::{ENTRY_HEADER_BYTES, EntryHeader, payload};
use crate::{CheckedFrame, FrameSums, Position, Record};
use proptest::prelude::*;
use xylem_types::{Epoch, FileOp, Frame, FrameBody, FrameSeq, Lsn};

fn bodies() -> impl Strategy<Value = FrameBody> {
    let path = || "[a-z/\u{e4}\u{4e2d}#@]{0,30}";
    let data = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        data().prop_map(|d| FrameBody::Redo(d.into())),
        (path(), any::<u32>())
            .prop_map(|(path, mode)| FrameBody::File(FileOp::Create { path, mode })),
        (path(), any::<u64>(), data()).prop_map(|(path, offset, d)| FrameBody::File(
            FileOp::Write {
                path,
                offset,
                data: d.into()
            }
        )),
        (path(), any::<u64>())
            .prop_map(|(path, size)| FrameBody::File(FileOp::Truncate { path, size })),
        (path(), path()).prop_map(|(from, to)| FrameBody::File(FileOp::Rename { from, to })),
        path().prop_map(|path| FrameBody::File(FileOp::Unlink { path })),
        (path(), any::<u32>())
            .prop_map(|(path, mode)| FrameBody::File(FileOp::Mkdir { path, mode })),
        path().prop_map(|path| FrameBody::File(FileOp::Rmdir { path })),
    ]
}

fn header(kind: u8, seq: u64, lsn: u64) -> EntryHeader {
    EntryHeader {
        payload_crc: 1,
        length: 2,
        behind: 3,
        position: Position(4),
        epoch: Epoch(5),
        seq: FrameSeq(seq),
        lsn: Lsn(lsn),
        time_us: 9,
        kind,
        stepped: false,
    }
}

proptest! {
    #[test]
    fn payloads_go_back_and_forth(body in bodies(), seq in any::<u64>(), lsn in any::<u64>()) {
        let (kind, parts) = payload::encode(&body);
        let mut bytes = parts.head.clone();
        bytes.extend(parts.body.iter().flat_map(|b| b.iter().copied()));
        prop_assert_eq!(parts.length(), bytes.len() as u64);
        prop_assert_eq!(parts.crc(), crc32c::crc32c(&bytes));
        let record = payload::decode(&header(kind, seq, lsn), &bytes);
        let frame = Frame { seq: FrameSeq(seq), start: Lsn(lsn), body };
        prop_assert_eq!(record, Ok(Record::Frame(frame)));
    }

    #[test]
    fn any_payload_is_read_or_refused(kind in any::<u8>(), bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = payload::decode(&header(kind, 1, 2), &bytes);
    }

    #[test]
    fn any_entry_header_is_read_or_refused(bytes in any::<[u8; 32]>(), salt in any::<u64>()) {
        let mut whole = [0; ENTRY_HEADER_BYTES];
        whole[..32].copy_from_slice(&bytes);
        prop_assert_eq!(EntryHeader::decode(salt, &whole), None);
    }
}

#[test]
fn entry_headers_go_back_and_forth_with_their_salt() {
    let header = header(payload::REDO, 6, 7);
    let bytes = header.encode(8);
    assert_eq!(EntryHeader::decode(8, &bytes), Some(header));
    assert_eq!(
        EntryHeader::decode(9, &bytes),
        None,
        "what an earlier use has left"
    );
    for at in 0..bytes.len() {
        let mut damaged = bytes;
        damaged[at] ^= 0x10;
        assert_eq!(EntryHeader::decode(8, &damaged), None, "byte {at}");
    }
    assert_eq!(header.total(), 62);
    assert_eq!(header.synced(), Position(1));
}

#[test]
fn zeros_are_no_entry() {
    for salt in [0, 1, u64::MAX] {
        assert_eq!(EntryHeader::decode(salt, &[0; ENTRY_HEADER_BYTES]), None);
    }
}

/// The client library computes the same by itself: `crates/client/tests/it/wire.rs`
/// has these numbers, too.
#[test]
fn the_checksums_of_frames_are_what_they_were() {
    let path = || "d/t.frm".to_owned();
    let file = FrameBody::File;
    let (mode, offset, size) = (0o660, 9, 5);
    let (data, to) = (b"abc"[..].into(), "d/u.frm".to_owned());
    let dir = || "d".to_owned();
    let expected = [
        (
            FrameBody::Redo(b"redo"[..].into()),
            (0x8e9a_3422, 0x0f11_0a55),
        ),
        (
            file(FileOp::Create { path: path(), mode }),
            (0xf604_6ce2, 0x750c_1b0c),
        ),
        (
            file(FileOp::Write {
                path: path(),
                offset,
                data,
            }),
            (0x460f_8e6e, 0x6b54_a8e1),
        ),
        (
            file(FileOp::Truncate { path: path(), size }),
            (0x3938_cb4a, 0x6632_383f),
        ),
        (
            file(FileOp::Rename { from: path(), to }),
            (0x0d23_dd96, 0x037b_edf0),
        ),
        (
            file(FileOp::Unlink { path: path() }),
            (0x2d51_0ac3, 0xbf19_12eb),
        ),
        (
            file(FileOp::Mkdir {
                path: dir(),
                mode: 0o700,
            }),
            (0x6798_6702, 0x265f_60fd),
        ),
        (
            file(FileOp::Rmdir { path: dir() }),
            (0xf421_572c, 0xae6d_8fde),
        ),
    ];
    for (body, (payload, header)) in expected {
        let frame = Frame {
            seq: FrameSeq(7),
            start: Lsn(12345),
            body,
        };
        let sums = FrameSums { payload, header };
        assert_eq!(CheckedFrame::of(frame.clone()).sums(), sums, "{frame:?}");
        assert!(CheckedFrame::verify(frame.clone(), sums).is_ok());
        for wrong in [
            FrameSums {
                payload: payload ^ 1,
                ..sums
            },
            FrameSums {
                header: header ^ 1,
                ..sums
            },
        ] {
            assert!(CheckedFrame::verify(frame.clone(), wrong).is_err());
        }
    }
}
