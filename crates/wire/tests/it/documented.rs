//! The examples in `docs/compute-protocol.md` are what the code writes and reads.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use xylem_wire::{
    Ack, Fault, FrameHead, GetLog, GetPage, GetSpace, Header, Hello, Kind, PREFACE_BYTES, PageHead,
    Received, Role, Space, Standing, ack, check_preface, fault, frame_head, get_log, get_page,
    get_space, hello, log, page_head, ping, pong, space, welcome,
};

const DOCUMENT: &str = include_str!("../../../../docs/compute-protocol.md");

/// The examples of the section with this heading, as bytes.
fn examples(heading: &str) -> Vec<Vec<u8>> {
    let (_, section) = DOCUMENT.split_once(&format!("\n### {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let section = section.split("\n### ").next().unwrap();
    let mut found = vec![Vec::new()];
    for line in section.lines() {
        let byte = |digits| u8::from_str_radix(digits, 16).unwrap();
        match line.strip_prefix("    ") {
            Some(line) => found.last_mut().unwrap().extend(line.split(' ').map(byte)),
            None => found.push(Vec::new()),
        }
    }
    found.retain(|bytes| !bytes.is_empty());
    found
}

#[track_caller]
fn is_documented(heading: &str, written: &[u8]) {
    assert_eq!(examples(heading), [written], "{heading}");
}

/// The message that the bytes are, as its kind, number and body.
fn read(bytes: &[u8]) -> (Kind, u64, Vec<u8>) {
    let mut received = Received::default();
    // In pieces, as the network delivers them.
    for piece in bytes.chunks(7) {
        assert!(received.next().unwrap().is_none());
        received.room()[..piece.len()].copy_from_slice(piece);
        received.filled(piece.len());
    }
    let message = received.next().unwrap().unwrap();
    let read = (
        message.header.kind,
        message.header.id,
        message.body.to_vec(),
    );
    assert!(!received.has_rest());
    read
}

#[test]
fn the_greeting() {
    let said = Hello {
        role: Role::Redo,
        epoch: 3,
        branch: "main".to_owned(),
        token: String::new(),
    };
    let bytes = hello(&said);
    is_documented("Hello", &bytes);
    let (preface, message) = bytes.split_first_chunk::<PREFACE_BYTES>().unwrap();
    check_preface(preface).unwrap();
    let (kind, id, body) = read(message);
    assert_eq!((kind, id), (Kind::Hello, 0));
    assert_eq!(Hello::decode(&body), Ok(said));
}

#[test]
fn the_state_of_a_branch() {
    let state = Standing {
        epoch: 3,
        ack: Ack {
            durable_seq: 7,
            durable_lsn: 12544,
            applied_lsn: 12288,
        },
    };
    let bytes = pong(9, &state);
    is_documented("Welcome and Pong", &bytes);
    let (kind, id, body) = read(&bytes);
    assert_eq!((kind, id), (Kind::Pong, 9));
    assert_eq!(Standing::decode(&body), Ok(state));
    let (kind, id, body) = read(&welcome(&state));
    assert_eq!((kind, id), (Kind::Welcome, 0));
    assert_eq!(Standing::decode(&body), Ok(state));
}

#[test]
fn page_reads() {
    let get = GetPage {
        space_id: 5,
        page_no: 3,
        min_lsn: 12288,
        timeout_ms: 1000,
    };
    let bytes = get_page(5, &get);
    is_documented("GetPage", &bytes);
    let (kind, id, body) = read(&bytes);
    assert_eq!((kind, id), (Kind::GetPage, 5));
    assert_eq!(GetPage::decode(&body), Ok(get));

    let head = page_head(5, 12544, 16 << 10);
    is_documented("Page", &head);
    let page: Vec<u8> = (0..16 << 10).map(|at: u32| at as u8).collect();
    let (kind, id, body) = read(&[&head[..], &page].concat());
    assert_eq!((kind, id), (Kind::Page, 5));
    let (head, bytes) = PageHead::decode(&body).unwrap();
    assert_eq!((head.lsn, bytes), (12544, &page[..]));
}

#[test]
fn tablespaces() {
    let get = GetSpace {
        space_id: 5,
        no_pages: true,
        min_lsn: 12288,
    };
    let bytes = get_space(6, &get);
    is_documented("GetSpace", &bytes);
    let (kind, id, body) = read(&bytes);
    assert_eq!((kind, id), (Kind::GetSpace, 6));
    assert_eq!(GetSpace::decode(&body), Ok(get));

    let file = Space {
        flags: 0x15,
        size: 65536,
        path: "t/a".to_owned(),
        pages: vec![(16384, vec![0xAA, 0xBB])],
    };
    let bytes = space(6, &file);
    is_documented("Space", &bytes);
    let (kind, id, body) = read(&bytes);
    assert_eq!((kind, id), (Kind::Space, 6));
    assert_eq!(Space::decode(&body), Ok(file));
}

#[test]
fn bytes_of_the_log() {
    let get = GetLog {
        number: 7,
        length: 1 << 20,
        offset: 3 << 20,
        min_lsn: 12288,
    };
    let bytes = get_log(10, &get);
    is_documented("GetLog", &bytes);
    let (kind, id, body) = read(&bytes);
    assert_eq!((kind, id), (Kind::GetLog, 10));
    assert_eq!(GetLog::decode(&body), Ok(get));
    let bytes = log(10, b"\xfebin");
    is_documented("Log", &bytes);
    assert_eq!(read(&bytes), (Kind::Log, 10, b"\xfebin".to_vec()));
}

#[test]
fn pings() {
    let bytes = ping(9);
    is_documented("Ping", &bytes);
    assert_eq!(read(&bytes), (Kind::Ping, 9, Vec::new()));
}

#[test]
fn frames_and_acknowledgements() {
    let frame = FrameHead {
        start_lsn: 12544,
        payload_crc: 0x1122_3344,
        header_crc: 0x5566_7788,
        kind: 3,
    };
    let head = frame_head(8, &frame, 256);
    is_documented("Frame", &head);
    let (kind, id, body) = read(&[&head[..], &[7; 256]].concat());
    assert_eq!((kind, id), (Kind::Frame, 8));
    assert_eq!(FrameHead::decode(&body), Ok((frame, &[7; 256][..])));

    let told = Ack {
        durable_seq: 8,
        durable_lsn: 12800,
        applied_lsn: 12288,
    };
    let bytes = ack(&told);
    is_documented("Ack", &bytes);
    let (kind, _, body) = read(&bytes);
    assert_eq!((kind, Ack::decode(&body)), (Kind::Ack, Ok(told)));
}

#[test]
fn failures() {
    let failure = Fault {
        code: 5,
        message: "none",
    };
    let bytes = fault(5, &failure);
    is_documented("Fault", &bytes);
    let (kind, id, body) = read(&bytes);
    assert_eq!((kind, id), (Kind::Fault, 5));
    assert_eq!(Fault::decode(&body), Ok(failure));
}

/// The table of messages has every kind, under its number.
#[test]
fn kinds() {
    let (_, table) = DOCUMENT.split_once("| kind | message |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let documented: Vec<String> = table
        .lines()
        .skip(2)
        .map(|row| row.split(" | ").take(2).collect::<Vec<_>>().join(" "))
        .collect();
    let known: Vec<String> = (0..=u8::MAX)
        .filter_map(|number| Some((number, Kind::from_number(number)?)))
        .inspect(|(number, kind)| {
            let header = Header {
                length: 0,
                kind: *kind,
                id: 1,
            };
            assert_eq!(header.encode()[4], *number);
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        })
        .map(|(number, kind)| format!("| {number} {kind:?}"))
        .collect();
    assert_eq!(documented, known);
}
