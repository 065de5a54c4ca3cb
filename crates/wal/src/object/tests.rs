//! Names, headers and objects go back and forth; nothing that is read panics.

use super::format::{
    Block, Folder, HEADER_BYTES, Header, Name, WriterId, number_and_index, position,
};
use crate::queue::Queued;
use crate::stamp::Stamp;
use crate::{CheckedFrame, Position, Record};
use bytes::Bytes;
use proptest::prelude::*;
use xylem_types::{Epoch, Frame, FrameBody, FrameSeq, Lsn};

fn header() -> Header {
    Header {
        name: Name {
            number: 0x1_0203,
            generation: 7,
        },
        claim: false,
        writer: WriterId(0xFEDC_BA98_7654_3210_0123_4567_89AB_CDEF),
        known: 0x1_0200,
        first: 0x1_0000,
        bytes_before: 12345,
        generation_before: 6,
        count: 3,
        body_bytes: 500,
    }
}

/// An object of some redo frames.
fn block(payloads: &[Vec<u8>]) -> Block {
    let entries: Vec<Queued> = payloads
        .iter()
        .zip(1..)
        .map(|(bytes, seq)| {
            let frame = Frame {
                seq: FrameSeq(seq),
                start: Lsn(100),
                body: FrameBody::Redo(bytes.as_slice().into()),
            };
            Queued::frame(Epoch(3), CheckedFrame::of(frame)).1
        })
        .collect();
    let stamp = Stamp {
        time_us: 9,
        stepped: true,
    };
    Block::encode(header(), stamp, &entries)
}

fn decoded(block: &Block, bytes: Bytes) -> Result<Block, String> {
    let header = Header::decode(block.header.name, &bytes)?;
    Block::decode(header, bytes).map_err(|(_, why)| why)
}

proptest! {
    #[test]
    fn objects_go_back_and_forth(
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..8)
    ) {
        let block = block(&payloads);
        let read = decoded(&block, block.bytes().clone()).unwrap();
        prop_assert_eq!(read.header, block.header);
        prop_assert_eq!(read.count(), payloads.len());
        prop_assert!(read.entry(payloads.len()).is_none());
        for (index, payload) in payloads.iter().enumerate() {
            let (entry, record) = read.entry(index).unwrap().unwrap();
            prop_assert_eq!(entry.position, position(0x1_0203, index));
            prop_assert_eq!((entry.time_us, entry.behind as usize), (9, index));
            prop_assert_eq!(entry.stepped, index == 0);
            let Record::Frame(frame) = record else {
                panic!("not a frame");
            };
            prop_assert_eq!(frame.body, FrameBody::Redo(payload.as_slice().into()));
        }
    }

    #[test]
    fn damaged_objects_are_refused(
        at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>()
    ) {
        let block = block(&[vec![1, 2, 3], vec![], vec![4; 20]]);
        let mut bytes = block.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // Four bytes are for later, and covered by nothing.
        let reserved = (92..HEADER_BYTES).contains(&at);
        prop_assert_eq!(decoded(&block, bytes.into()).is_err(), !reserved);
        let whole = block.bytes();
        let cut = cut.index(whole.len());
        prop_assert!(decoded(&block, whole.slice(..cut)).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let name = Name { number: 1, generation: 1 };
        prop_assert!(Header::decode(name, &bytes).is_err());
        let short = Header { count: 1, body_bytes: bytes.len() as u64, ..header() };
        let mut whole = short.encode().to_vec();
        whole.extend(&bytes);
        prop_assert!(Block::decode(short, whole.into()).is_err());
    }

    #[test]
    fn any_name_is_read_or_refused(folder in "[0-9a-f+]{9,11}", name in "[0-9a-fA-F+]{11,13}-[0-9a-f]{7,9}") {
        if let Some(folder) = Folder::parse(&folder)
            && let Some(parsed) = Name::parse(folder, &name)
        {
            prop_assert_eq!(parsed.to_string(), format!("{folder}/{name}"));
        }
    }
}

#[test]
fn headers_go_back_and_forth() {
    let claim = Header {
        claim: true,
        count: 0,
        body_bytes: 0,
        ..header()
    };
    for header in [header(), claim] {
        let bytes = header.encode();
        assert_eq!(Header::decode(header.name, &bytes), Ok(header));
        for other in [
            Name {
                number: header.name.number + 1,
                ..header.name
            },
            Name {
                generation: 8,
                ..header.name
            },
        ] {
            assert!(Header::decode(other, &bytes).is_err(), "elsewhere");
        }
    }
    for wrong in [
        Header {
            claim: true,
            ..header()
        },
        Header {
            count: 0,
            ..header()
        },
        Header {
            known: header().name.number + 1,
            ..header()
        },
    ] {
        assert!(Header::decode(wrong.name, &wrong.encode()).is_err());
    }
}

#[test]
fn names_are_one_to_one() {
    for (number, generation) in [(0, 0), (511, 1), (512, 9), ((1 << 48) - 1, u32::MAX)] {
        let name = Name::new(number, generation).unwrap();
        let text = name.to_string();
        let (folder, file) = text.split_once('/').unwrap();
        let folder = Folder::parse(folder).unwrap();
        assert!(folder.numbers().contains(&number));
        assert_eq!(Name::parse(folder, file), Some(name));
        assert_eq!(Name::parse(Folder(folder.0 ^ 1), file), None, "elsewhere");
    }
    assert!(Name::new(1 << 48, 0).is_err());
    assert_eq!(Folder::parse("8000000000"), None, "beyond all numbers");
    assert_eq!(
        Name::new(0x203, 1).unwrap().to_string(),
        "0000000001/000000000203-00000001"
    );
}

#[test]
fn positions_count_objects_and_entries() {
    assert_eq!(position(0, 0), Position(0));
    assert_eq!(number_and_index(position(5, 65_535)), (5, 65_535));
    assert_eq!(position(4, 65_536), position(5, 0));
    let block = block(&[vec![1], vec![2]]);
    assert_eq!(block.after(0), position(0x1_0203, 1));
    assert_eq!(block.after(1), position(0x1_0204, 0));
}
