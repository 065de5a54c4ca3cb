//! The bytes of every message, round trips, and bytes that are no message.

// Helpers outside #[test] functions may fail a test in any way.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use xylem_wire::*;

/// One message without its header; checks the header.
fn body(message: &[u8], kind: Kind, id: u64) -> &[u8] {
    let header = Header::decode(message.first_chunk().unwrap()).unwrap();
    assert_eq!((header.kind, header.id), (kind, id));
    assert_eq!(header.length as usize, message.len() - HEADER_BYTES);
    &message[HEADER_BYTES..]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const ACK: Ack = Ack {
    durable_seq: 7,
    durable_lsn: 0x1122_3344_5566_7788,
    applied_lsn: 0x99,
};
const STANDING: Standing = Standing { epoch: 3, ack: ACK };

/// Both sides are parts of one release, but a server that runs an older or newer one must
/// be able to say so. Bytes that change need another version.
#[test]
fn the_bytes_of_messages_are_what_they_were() {
    let introduction = hello(&Hello {
        role: Role::Redo,
        epoch: 3,
        branch: "main".to_owned(),
        token: "secret".to_owned(),
    });
    let get = get_page(
        5,
        &GetPage {
            space_id: 0x0102_0304,
            page_no: 9,
            min_lsn: 0x1122_3344_5566_7788,
            timeout_ms: 9000,
        },
    );
    let frame = frame_head(
        7,
        &FrameHead {
            start_lsn: 0x3039,
            payload_crc: 0x8e9a_3422,
            header_crc: 0x0f11_0a55,
            kind: 3,
        },
        4,
    );
    let asked = get_space(
        6,
        &GetSpace {
            space_id: 5,
            no_pages: true,
            min_lsn: 0x3039,
        },
    );
    let file = Space {
        flags: 21,
        size: 0x28000,
        path: "d/t.ibd".to_owned(),
        pages: vec![(0, vec![1, 2]), (0x4000, vec![3])],
    };
    let failure = Fault {
        code: 9,
        message: "epoch 4",
    };
    let ack_hex = "070000000000000088776655443322119900000000000000";
    let golden: [(&str, Vec<u8>, String); 13] = [
        (
            "hello",
            introduction,
            [
                "58594c454d0a0100",
                "17000000010000000000000000000000",
                "02030000000000000004006d61696e0600736563726574",
            ]
            .concat(),
        ),
        (
            "get page",
            get.to_vec(),
            [
                "18000000020000000500000000000000",
                "0403020109000000887766554433221128230000",
                "00000000",
            ]
            .concat(),
        ),
        (
            "frame",
            frame.to_vec(),
            [
                "1c000000030000000700000000000000",
                "393000000000000022349a8e550a110f0300000000000000",
            ]
            .concat(),
        ),
        (
            "get space",
            asked,
            [
                "10000000040000000600000000000000",
                "05000000010000003930000000000000",
            ]
            .concat(),
        ),
        (
            "get log",
            get_log(
                9,
                &GetLog {
                    number: 12,
                    length: 0x0010_0000,
                    offset: 0x0001_0000_0002,
                    min_lsn: 0x3039,
                },
            ),
            [
                "18000000060000000900000000000000",
                "0c00000000001000020000000100000039300000",
                "00000000",
            ]
            .concat(),
        ),
        (
            "log",
            log(9, b"abc"),
            ["03000000470000000900000000000000", "616263"].concat(),
        ),
        (
            "ping",
            ping(8),
            "00000000050000000800000000000000".to_owned(),
        ),
        (
            "welcome",
            welcome(&STANDING),
            [
                "20000000410000000000000000000000",
                "0300000000000000",
                ack_hex,
            ]
            .concat(),
        ),
        (
            "page",
            page_head(5, 0x99, 16384).to_vec(),
            ["08400000420000000500000000000000", "9900000000000000"].concat(),
        ),
        (
            "ack",
            ack(&ACK),
            ["18000000430000000000000000000000", ack_hex].concat(),
        ),
        (
            "space",
            space(6, &file),
            [
                "30000000440000000600000000000000",
                "1500000000800200000000000700642f742e696264",
                "0000000000000000020000000102",
                "00400000000000000100000003",
            ]
            .concat(),
        ),
        (
            "pong",
            pong(8, &STANDING),
            [
                "20000000450000000800000000000000",
                "0300000000000000",
                ack_hex,
            ]
            .concat(),
        ),
        (
            "fault",
            fault(5, &failure),
            ["0b000000460000000500000000000000", "0900000065706f63682034"].concat(),
        ),
    ];
    for (name, bytes, expected) in golden {
        assert_eq!(hex(&bytes), expected, "{name}");
    }
    assert_eq!(VERSION, 1);
    assert_eq!((GET_PAGE_BYTES, ACK_BYTES), (40, 40));
    assert_eq!((FRAME_HEAD_BYTES, PAGE_HEAD_BYTES), (40, 24));
}

#[test]
fn kinds_have_one_number_each() {
    let known: Vec<u8> = (0..=u8::MAX)
        .filter(|number| Kind::from_number(*number).is_some())
        .collect();
    assert_eq!(known, [1, 2, 3, 4, 5, 6, 65, 66, 67, 68, 69, 70, 71]);
    for number in known {
        assert_eq!(Kind::from_number(number).unwrap() as u8, number);
    }
}

#[test]
fn another_protocol_and_another_version_are_told_apart() {
    assert_eq!(check_preface(b"XYLEM\n\x01\x00"), Ok(()));
    assert_eq!(check_preface(b"PRI * HT"), Err(Invalid::Magic));
    assert_eq!(check_preface(b"XYLEM\r\x01\x00"), Err(Invalid::Magic));
    let newer = check_preface(b"XYLEM\n\x02\x01").unwrap_err();
    assert_eq!(newer, Invalid::Version(258));
    assert!(newer.to_string().contains("same release"), "{newer}");
    let mut header = Header {
        length: BODY_BYTES_MAX as u32,
        kind: Kind::Frame,
        id: 1,
    };
    assert!(Header::decode(&header.encode()).is_ok());
    header.length += 1;
    let too_long = Err(Invalid::TooLong(header.length));
    assert_eq!(Header::decode(&header.encode()), too_long);
}

#[test]
fn bodies_that_are_wrong_in_one_place() {
    let introduction = hello(&Hello {
        role: Role::Pages,
        epoch: 0,
        branch: "b".to_owned(),
        token: String::new(),
    });
    let good = &introduction[PREFACE_BYTES + HEADER_BYTES..];
    assert!(Hello::decode(good).is_ok());
    let with = |at: usize, byte: u8| {
        let mut bad = good.to_vec();
        bad[at] = byte;
        Hello::decode(&bad).unwrap_err()
    };
    assert_eq!(with(0, 3), Invalid::Role(3));
    assert_eq!(with(9, 200), Invalid::Short);
    assert_eq!(with(11, 0xff), Invalid::Text);
    assert_eq!(Fault::decode(b"\0\0\0\0\xff"), Err(Invalid::Text));
    let long = "ä".repeat(40_000);
    // A text is cut where its length ends, and what is left is refused as a rule. The
    // message stays whole.
    let file = Space {
        path: long,
        pages: vec![(1, vec![2])],
        ..Space::default()
    };
    let message = space(1, &file);
    let cut = Space::decode(body(&message, Kind::Space, 1));
    assert_eq!(cut, Err(Invalid::Text));
    let file = Space {
        path: "x".repeat(70_000),
        ..file
    };
    let message = space(1, &file);
    let cut = Space::decode(body(&message, Kind::Space, 1)).unwrap();
    assert_eq!((cut.path.len(), cut.pages), (65_535, file.pages));
}

fn acks() -> impl Strategy<Value = Ack> {
    any::<(u64, u64, u64)>().prop_map(|(durable_seq, durable_lsn, applied_lsn)| Ack {
        durable_seq,
        durable_lsn,
        applied_lsn,
    })
}

fn standings() -> impl Strategy<Value = Standing> {
    (any::<u64>(), acks()).prop_map(|(epoch, ack)| Standing { epoch, ack })
}

fn hellos() -> impl Strategy<Value = Hello> {
    let role = prop_oneof![Just(Role::Pages), Just(Role::Redo)];
    (role, any::<u64>(), ".{0,40}", ".{0,40}").prop_map(|(role, epoch, branch, token)| Hello {
        role,
        epoch,
        branch,
        token,
    })
}

fn spaces() -> impl Strategy<Value = Space> {
    let pages = vec((any::<u64>(), vec(any::<u8>(), 0..50)), 0..5);
    (any::<u32>(), any::<u64>(), ".{0,40}", pages).prop_map(|(flags, size, path, pages)| Space {
        flags,
        size,
        path,
        pages,
    })
}

/// The bytes of any message, and how many bytes of its body have a fixed meaning: a body
/// that ends among them is an error.
fn messages() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let bytes = || vec(any::<u8>(), 0..300);
    prop_oneof![
        any::<(u64, u32, u32, u64, u32)>().prop_map(|(id, space_id, page_no, min_lsn, ms)| {
            let get = GetPage {
                space_id,
                page_no,
                min_lsn,
                timeout_ms: ms,
            };
            (get_page(id, &get).to_vec(), 24)
        }),
        (any::<(u64, u64)>(), bytes()).prop_map(|((id, lsn), page)| {
            (
                [&page_head(id, lsn, page.len())[..], &page].concat(),
                PAGE_HEAD_BYTES - HEADER_BYTES,
            )
        }),
        (any::<(u64, u64, u32, u32, u8)>(), bytes()).prop_map(|(head, payload)| {
            let (seq, start_lsn, payload_crc, header_crc, kind) = head;
            let head = FrameHead {
                start_lsn,
                payload_crc,
                header_crc,
                kind,
            };
            (
                [&frame_head(seq, &head, payload.len())[..], &payload].concat(),
                FRAME_HEAD_BYTES - HEADER_BYTES,
            )
        }),
        any::<(u64, u32, bool, u64)>().prop_map(|(id, space_id, no_pages, min_lsn)| {
            let get = GetSpace {
                space_id,
                no_pages,
                min_lsn,
            };
            (get_space(id, &get), 16)
        }),
        any::<(u64, u32, u32, u64, u64)>().prop_map(|(id, number, length, offset, min_lsn)| {
            let get = GetLog {
                number,
                length,
                offset,
                min_lsn,
            };
            (get_log(id, &get), 24)
        }),
        (any::<u64>(), bytes()).prop_map(|(id, bytes)| (log(id, &bytes), 0)),
        any::<u64>().prop_map(|id| (ping(id), 0)),
        acks().prop_map(|a| (ack(&a), 24)),
        standings().prop_map(|state| (welcome(&state), 32)),
        (any::<u64>(), standings()).prop_map(|(id, state)| (pong(id, &state), 32)),
        (any::<u64>(), spaces()).prop_map(|(id, file)| (space(id, &file), 14 + file.path.len())),
        (any::<(u64, u32)>(), ".{0,40}").prop_map(|((id, code), message)| {
            let failure = Fault {
                code,
                message: &message,
            };
            (fault(id, &failure), 4)
        }),
        hellos().prop_map(|introduction| {
            let bytes = hello(&introduction)[PREFACE_BYTES..].to_vec();
            let fixed = bytes.len() - HEADER_BYTES;
            (bytes, fixed)
        }),
    ]
}

/// Reads the body as its kind says, and encodes it again.
fn recode(header: Header, body: &[u8]) -> Result<Vec<u8>, Invalid> {
    let id = header.id;
    Ok(match header.kind {
        Kind::Hello => hello(&Hello::decode(body)?)[PREFACE_BYTES..].to_vec(),
        Kind::GetPage => get_page(id, &GetPage::decode(body)?).to_vec(),
        Kind::Frame => {
            let (head, payload) = FrameHead::decode(body)?;
            [&frame_head(id, &head, payload.len())[..], payload].concat()
        }
        Kind::GetSpace => get_space(id, &GetSpace::decode(body)?),
        Kind::GetLog => get_log(id, &GetLog::decode(body)?),
        Kind::Log => log(id, body),
        Kind::Ping => ping(id),
        Kind::Welcome => welcome(&Standing::decode(body)?),
        Kind::Page => {
            let (head, page) = PageHead::decode(body)?;
            [&page_head(id, head.lsn, page.len())[..], page].concat()
        }
        Kind::Ack => ack(&Ack::decode(body)?),
        Kind::Space => space(id, &Space::decode(body)?),
        Kind::Pong => pong(id, &Standing::decode(body)?),
        Kind::Fault => fault(id, &Fault::decode(body)?),
    })
}

/// Puts `bytes` into `received` in pieces of at most `piece`; `each` runs after each one.
fn feed(bytes: &[u8], piece: usize, received: &mut Received, mut each: impl FnMut(&mut Received)) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let room = received.room();
        assert!(!room.is_empty());
        let count = piece.min(rest.len()).min(room.len());
        room[..count].copy_from_slice(&rest[..count]);
        received.filled(count);
        rest = &rest[count..];
        each(received);
    }
}

proptest! {
    #[test]
    fn round_trips((message, _) in messages()) {
        let header = Header::decode(message.first_chunk().unwrap()).unwrap();
        prop_assert_eq!(recode(header, &message[HEADER_BYTES..]), Ok(message.clone()));
    }

    /// Bodies are compared field by field, too, so that a field that both directions
    /// forget is noticed.
    #[test]
    fn fields_keep_their_values(a in hellos(), b in spaces(), c in standings(), text in ".{0,99}") {
        let message = hello(&a);
        prop_assert_eq!(Hello::decode(body(&message[PREFACE_BYTES..], Kind::Hello, 0)), Ok(a));
        let message = space(5, &b);
        prop_assert_eq!(Space::decode(body(&message, Kind::Space, 5)), Ok(b));
        let message = welcome(&c);
        prop_assert_eq!(Standing::decode(body(&message, Kind::Welcome, 0)), Ok(c));
        let message = ack(&c.ack);
        prop_assert_eq!(Ack::decode(body(&message, Kind::Ack, 0)), Ok(c.ack));
        let failure = Fault { code: 7, message: &text };
        let message = fault(9, &failure);
        prop_assert_eq!(Fault::decode(body(&message, Kind::Fault, 9)), Ok(failure));
    }

    #[test]
    fn every_truncation_is_an_error((message, fixed) in messages()) {
        let header = Header::decode(message.first_chunk().unwrap()).unwrap();
        let whole = &message[HEADER_BYTES..];
        for end in 0..whole.len() {
            let cut = recode(header, &whole[..end]);
            if end < fixed {
                prop_assert!(cut.is_err(), "{end} of {fixed} bytes");
            } else {
                prop_assert_ne!(cut, Ok(message.clone()));
            }
        }
        // A reader waits for the rest.
        let mut received = Received::default();
        feed(&message[..message.len() - 1], usize::MAX, &mut received, |received| {
            assert_eq!(received.next(), Ok(None));
        });
        prop_assert!(received.has_rest());
    }

    #[test]
    fn pieces_give_the_same_messages(
        all in vec(messages(), 1..20),
        pieces in vec(1usize..400, 1..10),
        large in 0usize..400_000,
    ) {
        let page = [&page_head(1, 2, large)[..], &vec![7; large]].concat();
        let mut stream: Vec<u8> = all.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        stream.extend_from_slice(&page);
        stream.extend_from_slice(&ping(3));
        let mut got = Vec::new();
        let mut received = Received::default();
        let mut rest = &stream[..];
        for piece in pieces.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            // Large pieces now and then, so that the large page takes few of them.
            let piece = if piece % 3 == 0 { piece * 1000 } else { *piece };
            let (now, later) = rest.split_at(piece.min(rest.len()));
            rest = later;
            feed(now, piece, &mut received, |received| {
                while let Some(message) = received.next().unwrap() {
                    got.extend_from_slice(&message.header.encode());
                    got.extend_from_slice(message.body);
                }
            });
        }
        prop_assert!(got == stream);
        prop_assert!(!received.has_rest());
        // A large message does not keep its memory.
        prop_assert!(received.room().len() <= 256 << 10);
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), piece in 1usize..50, id: u64) {
        for number in 0..=u8::MAX {
            if let Some(kind) = Kind::from_number(number) {
                let _ = recode(Header { length: 0, kind, id }, &bytes);
            }
        }
        if let Some(header) = bytes.first_chunk() {
            let _ = Header::decode(header);
        }
        if let Some(preface) = bytes.first_chunk() {
            prop_assert!(check_preface(preface).is_err());
        }
        let mut received = Received::default();
        feed(&bytes, piece, &mut received, |received| {
            let _ = received.announced();
            while let Ok(Some(_)) = received.next() {}
        });
        received.filled(usize::MAX);
        received.skip(usize::MAX);
        prop_assert!(!received.has_rest());
    }

    /// Valid headers, so that the bodies are reached.
    #[test]
    fn random_bodies_never_panic(
        number in prop_oneof![1u8..6, 65u8..71],
        bytes in vec(prop_oneof![any::<u8>(), 0u8..4], 0..100),
    ) {
        let kind = Kind::from_number(number).unwrap();
        let header = Header { length: bytes.len() as u32, kind, id: 1 };
        let stream = [&header.encode()[..], &bytes].concat();
        let mut received = Received::default();
        feed(&stream, usize::MAX, &mut received, |received| {
            let message = received.next().unwrap().unwrap();
            let _ = recode(message.header, message.body);
        });
    }
}

#[test]
fn an_invalid_header_is_an_error_every_time() {
    let mut received = Received::default();
    feed(
        &[&ping(1)[..], &[9; 40]].concat(),
        usize::MAX,
        &mut received,
        |_| {},
    );
    assert!(matches!(received.next(), Ok(Some(_))));
    assert_eq!(received.next(), Err(Invalid::Kind(9)));
    assert_eq!(received.next(), Err(Invalid::Kind(9)));
    assert_eq!(received.announced(), 0);
}
