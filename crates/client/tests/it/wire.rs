//! The client's protobuf and gRPC framing, compared with prost's, and with garbage
//! as input.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]
// A bare path to a decoder is not general enough over its reader's lifetime.
#![allow(clippy::redundant_closure)]

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use prost::Message;
use xylem_client::grpc::Deframer;
use xylem_client::wire::messages::{self, PingResponse, Tablespace, WalAck};
use xylem_client::wire::pages::{
    Destination, PageAnswer, PageRequest, decode_page_answer, put_page_request,
};
use xylem_client::wire::walframe::{FileOp, RedoBuilder, file_frame};
use xylem_client::wire::{Reader, WireError};
use xylem_proto::control as ctl;
use xylem_proto::pageserver as ps;

/// A gRPC message: prefix and bytes.
fn framed(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    message.encode(&mut out).unwrap();
    out.freeze()
}

fn decode<T>(
    bytes: &[u8],
    read: impl FnOnce(&mut Reader<'_, &[u8]>) -> Result<T, WireError>,
) -> Result<T, WireError> {
    let mut buf = bytes;
    let len = buf.len();
    read(&mut Reader::new(&mut buf, len))
}

struct Buffer<'a>(&'a mut [u8]);

impl Destination for Buffer<'_> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let n = bytes.len().min(self.0.len().saturating_sub(at));
        self.0[at..at + n].copy_from_slice(&bytes[..n]);
    }
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

fn as_proto(op: &FileOp) -> ps::FileOp {
    use ps::file_op::Kind;
    let (kind, path) = match op {
        FileOp::Create { path, .. } => (Kind::Create, path),
        FileOp::Write { path, .. } => (Kind::Write, path),
        FileOp::Truncate { path, .. } => (Kind::Truncate, path),
        FileOp::Rename { from, .. } => (Kind::Rename, from),
        FileOp::Unlink { path } => (Kind::Unlink, path),
        FileOp::Mkdir { path, .. } => (Kind::Mkdir, path),
        FileOp::Rmdir { path } => (Kind::Rmdir, path),
    };
    let mut out = ps::FileOp {
        kind: kind.into(),
        path: path.clone(),
        ..Default::default()
    };
    match op {
        FileOp::Create { mode, .. } | FileOp::Mkdir { mode, .. } => out.mode = *mode,
        FileOp::Write { offset, data, .. } => {
            out.offset = *offset;
            out.data = data.clone().into();
        }
        FileOp::Truncate { size, .. } => out.offset = *size,
        FileOp::Rename { to, .. } => out.new_path = to.clone(),
        FileOp::Unlink { .. } | FileOp::Rmdir { .. } => {}
    }
    out
}

/// The kind and the payload, as in docs/formats/wal.md.
fn in_log(op: &FileOp) -> (u8, Vec<u8>) {
    let mut out = Vec::new();
    let kind = match op {
        FileOp::Create { path, mode } | FileOp::Mkdir { path, mode } => {
            out.extend(mode.to_le_bytes());
            out.extend(path.as_bytes());
            if matches!(op, FileOp::Create { .. }) {
                16
            } else {
                21
            }
        }
        FileOp::Write { path, offset, data } => {
            out.extend(offset.to_le_bytes());
            out.extend((path.len() as u32).to_le_bytes());
            out.extend(path.as_bytes());
            out.extend(data);
            17
        }
        FileOp::Truncate { path, size } => {
            out.extend(size.to_le_bytes());
            out.extend(path.as_bytes());
            18
        }
        FileOp::Rename { from, to } => {
            out.extend((from.len() as u32).to_le_bytes());
            out.extend(from.as_bytes());
            out.extend(to.as_bytes());
            19
        }
        FileOp::Unlink { path } => {
            out.extend(path.as_bytes());
            20
        }
        FileOp::Rmdir { path } => {
            out.extend(path.as_bytes());
            22
        }
    };
    (kind, out)
}

fn header_sum(seq: u64, lsn: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut bytes = [seq.to_le_bytes(), lsn.to_le_bytes()].concat();
    bytes.push(kind);
    bytes.extend(crc32c::crc32c(payload).to_le_bytes());
    crc32c::crc32c(&bytes)
}

/// Unknown fields, in all wire types.
fn unknown(seed: u8) -> Vec<u8> {
    let field = u32::from(seed) + 100;
    let mut out = Vec::new();
    prost::encoding::uint64::encode(field, &u64::from(seed), &mut out);
    prost::encoding::fixed64::encode(field + 1, &7, &mut out);
    prost::encoding::string::encode(field + 2, &"new".to_owned(), &mut out);
    prost::encoding::fixed32::encode(field + 3, &7, &mut out);
    out
}

/// The server computes the same checksums independently:
/// `crates/wal/src/entry/tests.rs` has the same numbers.
#[test]
fn the_checksums_of_frames_are_what_they_were() {
    let path = || "d/t.frm".to_owned();
    let (mode, offset, size) = (0o660, 9, 5);
    let (data, to) = (b"abc".to_vec(), "d/u.frm".to_owned());
    let dir = || "d".to_owned();
    let expected = [
        (
            FileOp::Create { path: path(), mode },
            (0xf604_6ce2, 0x750c_1b0c),
        ),
        (
            FileOp::Write {
                path: path(),
                offset,
                data,
            },
            (0x460f_8e6e, 0x6b54_a8e1),
        ),
        (
            FileOp::Truncate { path: path(), size },
            (0x3938_cb4a, 0x6632_383f),
        ),
        (
            FileOp::Rename { from: path(), to },
            (0x0d23_dd96, 0x037b_edf0),
        ),
        (FileOp::Unlink { path: path() }, (0x2d51_0ac3, 0xbf19_12eb)),
        (
            FileOp::Mkdir {
                path: dir(),
                mode: 0o700,
            },
            (0x6798_6702, 0x265f_60fd),
        ),
        (FileOp::Rmdir { path: dir() }, (0xf421_572c, 0xae6d_8fde)),
    ];
    let sums = |message: &[u8]| {
        let frame = ps::WalFrame::decode(&message[5..]).unwrap();
        (frame.payload_crc32c.unwrap(), frame.header_crc32c.unwrap())
    };
    for (op, expected) in expected {
        assert_eq!(sums(&file_frame(7, 12345, &op)), expected, "{op:?}");
    }
    let mut redo = RedoBuilder::new(12345, 0);
    redo.push(b"re");
    redo.push(b"do");
    assert_eq!(sums(&redo.seal(7)), (0x8e9a_3422, 0x0f11_0a55));
}

proptest! {
    #[test]
    fn page_requests(space_id: u32, page_no: u32, id: u64, min_lsn: u64, timeout_ms: u32) {
        let mut out = Vec::new();
        let request = PageRequest { id, space_id, page_no, min_lsn, timeout_ms };
        put_page_request(&mut out, &request);
        let get = ps::GetPageRequest { space_id, page_no, min_lsn, timeout_ms, lsn: 0 };
        let theirs = ps::PageStreamRequest { id, get: Some(get) };
        prop_assert_eq!(&out[..], &framed(&theirs)[..]);
    }

    #[test]
    fn redo_frames(seq: u64, start in 0u64..u64::MAX / 2, redo in proptest::collection::vec(any::<u8>(), 1..5000)) {
        let mut builder = RedoBuilder::new(start, 10);
        for piece in redo.chunks(700) {
            builder.push(piece);
        }
        prop_assert_eq!(builder.end_lsn(), start + redo.len() as u64);
        let theirs = ps::WalFrame {
            seq,
            start_lsn: start,
            body: Some(ps::wal_frame::Body::Redo(redo.clone().into())),
            payload_crc32c: Some(crc32c::crc32c(&redo)),
            header_crc32c: Some(header_sum(seq, start, 3, &redo)),
        };
        prop_assert_eq!(builder.seal(seq), framed(&theirs));
    }

    #[test]
    fn file_frames(seq: u64, lsn: u64, op in ops()) {
        let theirs = ps::WalFrame {
            seq,
            start_lsn: lsn,
            body: Some(ps::wal_frame::Body::File(as_proto(&op))),
            payload_crc32c: Some(crc32c::crc32c(&in_log(&op).1)),
            header_crc32c: Some(header_sum(seq, lsn, in_log(&op).0, &in_log(&op).1)),
        };
        prop_assert_eq!(file_frame(seq, lsn, &op), framed(&theirs));
    }

    #[test]
    fn acks_and_pings(a: u64, b: u64, c: u64, version in ".{0,20}", seed: u8) {
        let ack = ps::WalAck { durable_seq: a, durable_lsn: b, applied_lsn: c };
        let mut bytes = unknown(seed);
        ack.encode(&mut bytes).unwrap();
        let ours = decode(&bytes, |reader| WalAck::decode(reader)).unwrap();
        prop_assert_eq!((ours.durable_seq, ours.durable_lsn, ours.applied_lsn), (a, b, c));
        let ping = ps::PingResponse {
            version: version.clone(),
            durable_lsn: a,
            applied_lsn: b,
            epoch: c,
        };
        let mut bytes = ping.encode_to_vec();
        bytes.extend(unknown(seed));
        let ours = decode(&bytes, |reader| PingResponse::decode(reader)).unwrap();
        prop_assert_eq!(ours, PingResponse { version, durable_lsn: a, applied_lsn: b, epoch: c });
    }

    #[test]
    fn tablespaces(space_id: u32, no_pages: bool, path in ".{0,30}", size: u64, flags: u32,
                   pages in proptest::collection::vec((any::<u64>(), proptest::collection::vec(any::<u8>(), 0..50)), 0..5)) {
        let theirs = ctl::Tablespace {
            space_id, path: path.clone(), size, flags,
            pages: pages.iter().map(|(offset, data)| ctl::FilePage { offset: *offset, data: data.clone().into() }).collect(),
        };
        let ours = decode(&theirs.encode_to_vec(), |reader| Tablespace::decode(reader)).unwrap();
        prop_assert_eq!(ours, Tablespace { space_id, path: path.clone(), size, pages, flags });
        let request = ctl::GetTablespaceRequest { min_lsn: size, space_id, no_pages, ..Default::default() };
        prop_assert_eq!(&messages::get_tablespace_request(space_id, size, no_pages)[..], &framed(&request)[..]);
        prop_assert_eq!(&messages::ping_request()[..], &framed(&ps::PingRequest {})[..]);
    }

    /// Several answers, cut into pieces of any size.
    #[test]
    fn page_answers(
        answers in proptest::collection::vec((any::<u64>(), 0u32..20, ".{0,20}", proptest::option::of(proptest::collection::vec(any::<u8>(), 0..400))), 1..6),
        piece in 1usize..500, seed: u8,
    ) {
        let mut stream = BytesMut::new();
        for (id, status, message, page) in &answers {
            let got = page.as_ref().map(|page| ps::GetPageResponse { page: page.clone().into(), lsn: 9 });
            let theirs = ps::PageStreamResponse { id: *id, status: *status, message: message.clone(), got };
            let mut bytes = theirs.encode_to_vec();
            bytes.extend(unknown(seed));
            stream.extend_from_slice(&[0]);
            stream.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            stream.extend_from_slice(&bytes);
        }
        let mut deframer = Deframer::new(1 << 20);
        let mut ours: Vec<(PageAnswer, Vec<u8>)> = Vec::new();
        for chunk in stream.chunks(piece) {
            deframer.push(Bytes::copy_from_slice(chunk));
            loop {
                let mut buf = vec![0u8; 400];
                let slot = std::cell::RefCell::new(Some(&mut buf[..]));
                let answer = deframer.next(|reader| decode_page_answer(reader, |_| slot.borrow_mut().take().map(Buffer))).unwrap();
                match answer {
                    Some(answer) => ours.push((answer, buf)),
                    None => break,
                }
            }
        }
        prop_assert_eq!(ours.len(), answers.len());
        for ((id, status, message, page), (answer, buf)) in answers.iter().zip(&ours) {
            // An id of 0 is not on the wire, so the destination is unknown.
            prop_assert_eq!((*id, *status, message), (answer.id, answer.status, &answer.message));
            prop_assert_eq!(answer.page_len, page.as_ref().map(Vec::len));
            if let Some(page) = page {
                prop_assert_eq!(&buf[..page.len()], &page[..]);
            }
        }
    }

    #[test]
    fn garbage_is_an_error_or_something_but_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1usize..50) {
        let _ = decode(&bytes, |reader| WalAck::decode(reader));
        let _ = decode(&bytes, |reader| PingResponse::decode(reader));
        let _ = decode(&bytes, |reader| Tablespace::decode(reader));
        let mut buf = [0u8; 16];
        let mut slot = Some(&mut buf[..]);
        let _ = decode(&bytes, |reader| decode_page_answer(reader, |_| slot.take().map(Buffer)));
        let mut deframer = Deframer::new(100);
        for chunk in bytes.chunks(piece) {
            deframer.push(Bytes::copy_from_slice(chunk));
            while let Ok(Some(_)) = deframer.next(|reader| decode_page_answer(reader, |_| None::<Buffer<'_>>)) {}
        }
    }

    /// The client's decoder and prost's accept the same messages.
    #[test]
    fn agrees_with_prost_about_what_is_a_message(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0u8..32], 0..40)) {
        let ours = decode(&bytes, |reader| WalAck::decode(reader));
        // prost reads the groups of proto2, which the client refuses.
        if !bytes.iter().any(|b| matches!(b & 7, 3 | 4)) {
            match ps::WalAck::decode(&bytes[..]) {
                Ok(theirs) => {
                    let ours = ours.unwrap();
                    prop_assert_eq!((ours.durable_seq, ours.durable_lsn, ours.applied_lsn),
                                    (theirs.durable_seq, theirs.durable_lsn, theirs.applied_lsn));
                }
                Err(_) => prop_assert!(ours.is_err()),
            }
        }
    }
}

#[test]
fn a_page_before_its_id_finds_its_place() {
    let mut bytes = Vec::new();
    let got = ps::GetPageResponse {
        page: vec![5; 8].into(),
        lsn: 1,
    };
    ps::PageStreamResponse {
        got: Some(got),
        ..Default::default()
    }
    .encode(&mut bytes)
    .unwrap();
    ps::PageStreamResponse {
        id: 77,
        ..Default::default()
    }
    .encode(&mut bytes)
    .unwrap();
    let mut buf = [0u8; 8];
    let mut slot = Some(&mut buf[..]);
    let mut asked = Vec::new();
    let answer = decode(&bytes, |reader| {
        decode_page_answer(reader, |id| {
            asked.push(id);
            slot.take().map(Buffer)
        })
    });
    assert_eq!(answer.unwrap().id, 77);
    assert_eq!(asked, [77]);
    assert_eq!(buf, [5; 8]);
}
