//! The search in several threads beside one that looks at each offset by itself.

use super::*;
use crate::Position;
use crate::disk::Disk;
use crate::disk::model::ModelDisk;
use proptest::prelude::*;
use xylem_types::{FrameSeq, Lsn};

const HEADER: SegmentHeader = SegmentHeader {
    number: 7,
    bytes: 80 << 10,
    salt: 99,
};
const FIRST: u64 = 1 << 33;

/// An entry's header as it would be at `offset`, or almost.
fn entry(offset: u64, salt: u64, off_by: u64, behind: u32) -> [u8; ENTRY_HEADER_BYTES] {
    EntryHeader {
        payload_crc: 1,
        length: 10,
        behind,
        position: Position(FIRST + offset - SEGMENT_HEADER_BYTES + off_by),
        epoch: Epoch(3),
        seq: FrameSeq(1),
        lsn: Lsn(5),
        time_us: 1000,
        kind: payload::REDO,
        stepped: false,
    }
    .encode(salt)
}

/// Looks at each offset, one after the other.
fn simply(bytes: &[u8], expected: &Expected, from: u64) -> Remains {
    let mut out = Remains::default();
    let mut block = from as usize;
    while block < bytes.len() {
        let end = (block + BLOCK_BYTES).min(bytes.len());
        if bytes[block..end].iter().any(|b| *b != 0) {
            out.add_dirty(block as u64, (end - block) as u64);
        }
        block = end;
    }
    for offset in from..bytes.len() as u64 {
        let rest = &bytes[offset as usize..];
        let Some(entry) = EntryHeader::decode_prefix(HEADER.salt, rest) else {
            continue;
        };
        let first = entry.position.0.checked_sub(offset - SEGMENT_HEADER_BYTES);
        if first.is_some_and(|f| expected.first.contains(&f))
            && let Some(entry) = remnant(HEADER, expected, offset, rest)
        {
            out.add_remnant(Remnant { offset, entry });
        }
    }
    out
}

proptest! {
    #[test]
    fn parts_find_what_one_search_finds(
        dirt in prop::collection::vec((4096_usize..80 << 10, 1_usize..9000, any::<u8>()), 0..4),
        entries in prop::collection::vec(
            (4096_u64..(80 << 10) - 60, prop_oneof![3 => Just(99_u64), 1 => Just(98)],
             prop_oneof![3 => 0_u64..=8, 1 => 9_u64..12], 0_u32..4096),
            0..6,
        ),
        // Headers that reach from one block, or part, into the next.
        across in 0_u64..60,
        from in 4096_u64..9000,
        width in 0_u64..=8,
    ) {
        let mut bytes = vec![0; HEADER.bytes as usize];
        for (at, length, byte) in dirt {
            let end = (at + length).min(bytes.len());
            bytes[at..end].fill(byte);
        }
        let blocks = (HEADER.bytes - from) / BLOCK_BYTES as u64;
        let edge = from + blocks / 2 * BLOCK_BYTES as u64 - across;
        for (offset, salt, off_by, behind) in
            entries.into_iter().chain([(edge, 99, 0, 4000)])
        {
            let at = offset as usize;
            let header = entry(offset, salt, off_by, behind);
            bytes[at..at + ENTRY_HEADER_BYTES].copy_from_slice(&header);
        }
        let expected = Expected {
            first: FIRST..=FIRST + width,
            epoch: Epoch(3),
            time_us: 1000,
        };
        let disk = ModelDisk::new();
        let file = disk.create("segment").unwrap();
        file.write_at(&mut [IoSlice::new(&bytes)], 0).unwrap();
        let wanted = simply(&bytes, &expected, from);
        for parts in [1, 2, 3, 5] {
            let found = remains_in_parts(&*file, HEADER, &expected, from, parts).unwrap();
            prop_assert_eq!(&found.dirty, &wanted.dirty, "{} parts", parts);
            let offset = |r: &Remains| r.newest.map(|n| n.offset);
            prop_assert_eq!(offset(&found), offset(&wanted), "{} parts", parts);
        }
    }
}
