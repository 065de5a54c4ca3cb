//! The start of a log file.
#![allow(clippy::unwrap_used)]

use crate::common;
use xylem_redo::{
    FileEvent, LogGeometry, LogHeaderError, MtrItem, START_OFFSET, checkpoint_mtr, log_file,
    read_log_file_header,
};
use xylem_types::Lsn;

#[test]
fn what_is_written_is_read() {
    for lsn in [12288, 12289, 1 << 40] {
        let file = log_file(Lsn(lsn), 96 << 20);
        assert_eq!(file.len() as u64, START_OFFSET + 16);
        let header = read_log_file_header(&file).unwrap();
        assert_eq!(header.first_lsn, Lsn(lsn));
        assert_eq!(
            (header.checkpoint_lsn, header.checkpoint_end_lsn),
            (Lsn(lsn), Lsn(lsn))
        );
        assert_eq!(header.creator, "Xylem");
        let m = common::parse(&file[START_OFFSET as usize..]);
        let items: Vec<_> = m.items().map(Result::unwrap).collect();
        assert_eq!(
            items,
            [MtrItem::File(FileEvent::Checkpoint { lsn: Lsn(lsn) })]
        );
        let ring = LogGeometry::new(Lsn(lsn), 96 << 20).unwrap();
        assert_eq!(ring.sequence_bit(Lsn(lsn + 11)), Some(m.end_byte()));
    }
}

#[test]
fn golden() {
    // As MariaDB 10.11.18 wrote it.
    assert_eq!(
        checkpoint_mtr(Lsn(412_172)),
        [
            0xfa, 0, 0, 0, 0, 0, 0, 0, 6, 0x4a, 0x0c, 1, 0x86, 0x16, 4, 0x96
        ]
    );
    let file = log_file(Lsn(12288), 4 << 20);
    assert_eq!(file[..24], *b"Phys\0\0\0\0\0\0\0\0\0\0\x30\0Xylem\0\0\0");
}

#[test]
fn damage() {
    let good = log_file(Lsn(99_999), 4 << 20);
    let with = |at: usize, v: u8| {
        let mut f = good.clone();
        f[at] = v;
        read_log_file_header(&f)
    };
    assert!(matches!(with(0, 0xd0), Err(LogHeaderError::Format { .. })));
    assert!(matches!(with(20, 9), Err(LogHeaderError::Checksum { .. })));
    assert!(with(4096 + 7, 9).is_ok(), "the other checkpoint is there");
    let mut f = good.clone();
    f[4096 + 20] = 1;
    f[8192 + 20] = 1;
    assert_eq!(read_log_file_header(&f), Err(LogHeaderError::NoCheckpoint));
    assert_eq!(
        read_log_file_header(&good[..12287]),
        Err(LogHeaderError::Short { got: 12287 })
    );
    assert_eq!(
        read_log_file_header(&log_file(Lsn(12287), 4 << 20)),
        Err(LogHeaderError::FirstLsn(Lsn(12287)))
    );
}

#[test]
fn ring() {
    let ring = LogGeometry::new(Lsn(20000), 12288 + 1000).unwrap();
    assert_eq!(ring.capacity(), 1000);
    for (lsn, offset, bit) in [
        (20000, 12288, 1),
        (20999, 13287, 1),
        (21000, 12288, 0),
        (22000, 12288, 1),
    ] {
        assert_eq!(
            (ring.offset(Lsn(lsn)), ring.sequence_bit(Lsn(lsn))),
            (Some(offset), Some(bit))
        );
    }
    assert_eq!(
        (ring.offset(Lsn(19999)), ring.sequence_bit(Lsn(19999))),
        (None, None)
    );
    assert!(LogGeometry::new(Lsn(20000), 12288).is_none());
}
