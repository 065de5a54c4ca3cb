//! Cases that tests over the wire cannot produce.

use super::{convert, status};
use std::io::{Error, ErrorKind};
use tonic::Code;
use xylem_pages::ReadError;
use xylem_types::{Epoch, FrameSeq, Lsn, PageId};
use xylem_wal::WalError;

#[test]
fn every_wal_error_has_its_status() {
    let io = |kind| WalError::Io {
        context: "fsync of 1.log".to_owned(),
        source: Error::from(kind),
    };
    let out_of_order = WalError::OutOfOrder {
        seq: FrameSeq(4),
        start: Lsn(40),
        expected_seq: FrameSeq(3),
        expected_start: Lsn(30),
    };
    let cases = [
        (
            io(ErrorKind::StorageFull),
            Code::ResourceExhausted,
            "fsync of 1.log",
        ),
        (
            io(ErrorKind::QuotaExceeded),
            Code::ResourceExhausted,
            "fsync of 1.log",
        ),
        (io(ErrorKind::Other), Code::Unavailable, "fsync of 1.log"),
        (
            out_of_order,
            Code::InvalidArgument,
            "frame 3 at LSN 30 is next",
        ),
        (
            WalError::TooLarge {
                seq: FrameSeq(4),
                bytes: 9,
                limit: 8,
            },
            Code::InvalidArgument,
            "limit of 8",
        ),
        (
            WalError::Fenced {
                given: Epoch(3),
                current: Epoch(4),
            },
            Code::FailedPrecondition,
            "epoch 4 owns branch b",
        ),
        (
            WalError::NotBegun { epoch: Epoch(3) },
            Code::FailedPrecondition,
            "epoch 3",
        ),
        (
            WalError::Corrupt("block 7".to_owned()),
            Code::DataLoss,
            "block 7",
        ),
        (WalError::Closed, Code::Unavailable, "closed"),
    ];
    for (error, code, message) in cases {
        let status = status::of_wal(&error, "b");
        assert_eq!(status.code(), code, "{error}");
        assert!(
            status.message().contains(message),
            "{status:?} does not say {message}"
        );
    }
}

#[test]
fn a_block_that_fails_its_checksum_is_data_loss() {
    let error = ReadError::Corrupt {
        page: PageId::new(5, 3),
        lsn: Lsn(9),
        message: "checksum".to_owned(),
    };
    assert_eq!(status::of_read(&error, "b").code(), Code::DataLoss);
    let full = ReadError::Io {
        context: "x".to_owned(),
        source: Error::from(ErrorKind::StorageFull),
    };
    assert_eq!(status::of_read(&full, "b").code(), Code::ResourceExhausted);
}

#[test]
fn paths_stay_within_the_data_directory() {
    for good in ["a", "a/b.frm", "./a/b.frm", "#sql-1.frm", "a..b/c"] {
        let short = good.strip_prefix("./").unwrap_or(good);
        assert_eq!(convert::relative(good.to_owned()).as_deref(), Ok(short));
    }
    for bad in [
        "", "/", "/a", "a/", "a//b", "..", "a/../b", "./", "././a", "a/.", "a\0b",
    ] {
        assert!(convert::relative(bad.to_owned()).is_err(), "{bad:?}");
    }
    let longest = "x".repeat(xylem_types::FileOp::PATH_MAX);
    assert_eq!(convert::relative(longest.clone()).as_ref(), Ok(&longest));
    let why = convert::relative(format!("{longest}y")).unwrap_err();
    assert!(why.contains("4097 bytes"), "{why}");
}
