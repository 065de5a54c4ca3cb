//! Redo records of a few types as InnoDB writes them, and side-file operations.

use xylem_proto::pageserver::{FileOp, WalFrame, file_op::Kind, wal_frame::Body};
use xylem_redo::varint;
use xylem_types::{self as types, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::CheckedFrame;

/// FSP_SPACE_FLAGS: full_crc32, 16 KiB pages.
pub const FLAGS: u32 = 0x15;
const INIT_PAGE: u8 = 0x10;
const WRITE: u8 = 0x30;
const FILE_CREATE: u8 = 0x80;

fn record(kind: u8, space: u32, page: u32, rest: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    varint::encode(&mut payload, space);
    varint::encode(&mut payload, page);
    payload.extend_from_slice(rest);
    let mut out = Vec::new();
    if payload.len() <= 15 {
        out.push(kind | payload.len() as u8);
    } else {
        // The length includes its own one or two bytes.
        let mut length = Vec::new();
        varint::encode(&mut length, payload.len() as u32 + 1 - 15);
        if length.len() > 1 {
            length.clear();
            varint::encode(&mut length, payload.len() as u32 + 2 - 15);
        }
        out.push(kind);
        out.extend_from_slice(&length);
    }
    out.extend_from_slice(&payload);
    out
}

fn write_record(space: u32, page: u32, offset: u32, data: &[u8]) -> Vec<u8> {
    let mut rest = Vec::new();
    varint::encode(&mut rest, offset);
    rest.extend_from_slice(data);
    record(WRITE, space, page, &rest)
}

/// Records as one mini-transaction.
fn mtr(records: &[Vec<u8>]) -> Vec<u8> {
    let mut out = records.concat();
    let crc = crc32c::crc32c(&out).to_be_bytes();
    out.push(1);
    out.extend_from_slice(&crc);
    out
}

fn first_page(space: u32, pages: u32) -> Vec<u8> {
    mtr(&[
        record(INIT_PAGE, space, 0, &[]),
        // FIL_PAGE_TYPE_FSP_HDR.
        write_record(space, 0, 24, &[0, 8]),
        write_record(space, 0, 38, &space.to_be_bytes()),
        write_record(space, 0, 46, &pages.to_be_bytes()),
        write_record(space, 0, 54, &FLAGS.to_be_bytes()),
    ])
}

/// The system tablespace: pages 0 and 5, 768 pages long.
pub fn system_tablespace() -> Vec<u8> {
    let trx_sys = mtr(&[
        record(INIT_PAGE, 0, 5, &[]),
        write_record(0, 5, 24, &[0, 7]),
    ]);
    [first_page(0, 768), trx_sys].concat()
}

/// An undo tablespace. No record names its file; id 1 is `undo001`.
pub fn undo_tablespace(space: u32, pages: u32) -> Vec<u8> {
    first_page(space, pages)
}

/// A tablespace with its file and first page.
pub fn tablespace(space: u32, name: &str, pages: u32) -> Vec<u8> {
    [
        mtr(&[record(FILE_CREATE, space, 0, name.as_bytes())]),
        first_page(space, pages),
    ]
    .concat()
}

/// Redo that initializes a page and writes `mark` at byte 100.
pub fn mark(space: u32, page: u32, mark: u32) -> Vec<u8> {
    mtr(&[
        record(INIT_PAGE, space, page, &[]),
        write_record(space, page, 100, &mark.to_be_bytes()),
    ])
}

/// A record of a kind that InnoDB 10.11 does not write.
pub fn unknown(space: u32, page: u32) -> Vec<u8> {
    mtr(&[record(0x60, space, page, &[0; 4])])
}

/// As `mark`, followed by 4000 bytes, so that redo accumulates.
pub fn bulky_mark(space: u32, page: u32, mark: u32) -> Vec<u8> {
    mtr(&[
        record(INIT_PAGE, space, page, &[]),
        write_record(space, page, 100, &mark.to_be_bytes()),
        write_record(space, page, 200, &[mark as u8; 4000]),
    ])
}

pub fn marked(page: &[u8]) -> u32 {
    u32::from_be_bytes(page[100..104].try_into().unwrap())
}

/// Verifies a page as InnoDB does when it reads one.
pub fn verify(page: &[u8], space: u32, number: u32) {
    let flags = xylem_redo::SpaceFlags::new(FLAGS).unwrap();
    xylem_redo::verify(page, xylem_types::PageId::new(space, number), flags).unwrap();
    assert!(page.iter().any(|&byte| byte != 0));
}

pub fn mkdir(path: &str) -> FileOp {
    FileOp {
        kind: Kind::Mkdir as i32,
        path: path.to_owned(),
        mode: 0o700,
        ..FileOp::default()
    }
}

pub fn create(path: &str) -> FileOp {
    FileOp {
        kind: Kind::Create as i32,
        path: path.to_owned(),
        mode: 0o660,
        ..FileOp::default()
    }
}

pub fn write(path: &str, data: &'static [u8]) -> FileOp {
    FileOp {
        kind: Kind::Write as i32,
        path: path.to_owned(),
        data: data.into(),
        ..FileOp::default()
    }
}

/// A page full of incompressible bytes.
pub fn fill(space: u32, page: u32, seed: u32) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2_654_435_761) | 1;
    let data: Vec<u8> = (0..15_000)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x as u8
        })
        .collect();
    mtr(&[
        record(INIT_PAGE, space, page, &[]),
        write_record(space, page, 200, &data),
    ])
}

/// Adds the checksums that a compute computes to a frame.
pub fn with_sums(frame: WalFrame) -> WalFrame {
    let body = match frame.body.clone() {
        None => FrameBody::Redo([].into()),
        Some(Body::Redo(redo)) => FrameBody::Redo(redo[..].into()),
        Some(Body::File(op)) => FrameBody::File(file_op(op)),
    };
    let sums = CheckedFrame::of(Frame {
        seq: FrameSeq(frame.seq),
        start: Lsn(frame.start_lsn),
        body,
    })
    .sums();
    WalFrame {
        payload_crc32c: Some(sums.payload),
        header_crc32c: Some(sums.header),
        ..frame
    }
}

fn file_op(op: FileOp) -> types::FileOp {
    let (kind, path, mode) = (op.kind(), op.path, op.mode);
    match kind {
        Kind::Create => types::FileOp::Create { path, mode },
        Kind::Write => types::FileOp::Write {
            path,
            offset: op.offset,
            data: op.data[..].into(),
        },
        Kind::Truncate => types::FileOp::Truncate {
            path,
            size: op.offset,
        },
        Kind::Rename => types::FileOp::Rename {
            from: path,
            to: op.new_path,
        },
        Kind::Unlink => types::FileOp::Unlink { path },
        Kind::Mkdir => types::FileOp::Mkdir { path, mode },
        Kind::Rmdir => types::FileOp::Rmdir { path },
    }
}
