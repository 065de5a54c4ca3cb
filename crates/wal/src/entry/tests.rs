//! Encodings go back and forth; nothing that is read panics.

use super::{ENTRY_HEADER_BYTES, EntryHeader, payload};
use crate::{Position, Record};
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
