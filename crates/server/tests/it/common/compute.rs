//! The compute's side of the compute protocol, with calls that block.

use super::{Server, args, config};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::Code;
use xylem_server::config::ServerArgs;
use xylem_types::{Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::CheckedFrame;
use xylem_wire::{
    Ack, Fault, FrameHead, GetPage, Hello, Kind, Message, PageHead, Received, Role, Space,
    Standing, frame_head, get_page, hello,
};

/// Longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// The kinds of WAL entries (`docs/formats/wal.md`).
pub const REDO: u8 = 3;
pub const CREATE: u8 = 16;

/// How a compute reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Tcp,
    Unix,
}

pub const WAYS: [Way; 2] = [Way::Tcp, Way::Unix];

/// Where computes connect to.
#[derive(Clone, Debug)]
pub struct Door {
    pub tcp: SocketAddr,
    pub unix: PathBuf,
}

/// A server that listens on a Unix socket, too. Connections of a server before it may
/// still be about to end: it waits for them.
pub fn start(dir: &Path, change: impl FnOnce(&mut ServerArgs)) -> (Server, Door) {
    let mut args = args(dir);
    let unix = dir.join("compute.sock");
    args.compute_socket = Some(unix.display().to_string());
    change(&mut args);
    let until = Instant::now() + Duration::from_secs(20);
    let server = loop {
        match Server::with(config(&args)) {
            Ok(server) => break server,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let tcp = server.addrs.grpc;
    (server, Door { tcp, unix })
}

/// Introduces a reader of `main`.
pub fn reader() -> Hello {
    Hello {
        role: Role::Pages,
        epoch: 0,
        branch: String::new(),
        token: String::new(),
    }
}

/// Introduces the writer of `main`.
pub fn writer(epoch: u64) -> Hello {
    Hello {
        role: Role::Redo,
        epoch,
        ..reader()
    }
}

/// Why the server ended a connection.
pub type Refusal = (Code, String);

/// A message of the server.
#[derive(Debug)]
pub enum Reply {
    Welcome(Standing),
    Page {
        id: u64,
        lsn: u64,
        page: Vec<u8>,
    },
    Ack(Ack),
    Space(u64, Space),
    Log(u64, Vec<u8>),
    Pong(u64, Standing),
    Fault(u64, Refusal),
    /// The connection ended.
    End,
}

/// A connection.
pub struct Link {
    pub socket: Socket,
    received: Received,
}

impl Link {
    /// A connection on which nothing was sent.
    pub fn silent(door: &Door, way: Way) -> Link {
        let (domain, addr) = match way {
            Way::Tcp => (Domain::IPV4, SockAddr::from(door.tcp)),
            Way::Unix => (Domain::UNIX, SockAddr::unix(&door.unix).unwrap()),
        };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        socket.connect(&addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Link {
            socket,
            received: Received::default(),
        }
    }

    /// Connects and waits for the welcome.
    pub fn open(door: &Door, way: Way, who: &Hello) -> Result<(Link, Standing), Refusal> {
        let mut link = Link::silent(door, way);
        link.send(&hello(who));
        match link.next() {
            Reply::Welcome(standing) => Ok((link, standing)),
            Reply::Fault(0, refusal) => {
                assert!(matches!(link.next(), Reply::End));
                Err(refusal)
            }
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// Sends all of `bytes`. An error means that the server has ended the connection,
    /// which the next answer says.
    pub fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.socket.send_with_flags(rest, libc::MSG_NOSIGNAL) {
                Ok(count) => rest = &rest[count..],
                Err(error) => {
                    assert_ne!(error.kind(), ErrorKind::WouldBlock, "the server is stuck");
                    return;
                }
            }
        }
    }

    pub fn get(&mut self, id: u64, get: &GetPage) {
        self.send(&get_page(id, get));
    }

    /// The next message.
    pub fn next(&mut self) -> Reply {
        self.next_within(PATIENCE).expect("no answer")
    }

    /// The next message; `None` if there is none for a while.
    pub fn next_within(&mut self, patience: Duration) -> Option<Reply> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        loop {
            if let Some(message) = self.received.next().unwrap() {
                return Some(decode(&message));
            }
            match (&self.socket).read(self.received.room()) {
                Ok(0) => {
                    assert!(!self.received.has_rest(), "a message was cut");
                    return Some(Reply::End);
                }
                Ok(count) => self.received.filled(count),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => return Some(Reply::End),
            }
        }
    }

    /// The page that is the next answer, with its request's number.
    pub fn page(&mut self) -> (u64, u64, Vec<u8>) {
        match self.next() {
            Reply::Page { id, lsn, page } => (id, lsn, page),
            other => panic!("no page: {other:?}"),
        }
    }

    /// The bytes of the log that are the next answer, with their request's number.
    pub fn log(&mut self) -> (u64, Vec<u8>) {
        match self.next() {
            Reply::Log(id, bytes) => (id, bytes),
            other => panic!("no bytes of the log: {other:?}"),
        }
    }

    /// Waits for the end, and returns the reason that the server gave.
    pub fn ended(&mut self) -> Option<Refusal> {
        let mut why = None;
        loop {
            match self.next() {
                Reply::End => return why,
                Reply::Fault(0, refusal) => why = Some(refusal),
                _ => assert!(why.is_none(), "a message after the last"),
            }
        }
    }
}

fn decode(message: &Message<'_>) -> Reply {
    let (id, body) = (message.header.id, message.body);
    match message.header.kind {
        Kind::Welcome => Reply::Welcome(Standing::decode(body).unwrap()),
        Kind::Pong => Reply::Pong(id, Standing::decode(body).unwrap()),
        Kind::Ack => Reply::Ack(Ack::decode(body).unwrap()),
        Kind::Space => Reply::Space(id, Space::decode(body).unwrap()),
        Kind::Log => Reply::Log(id, body.to_vec()),
        Kind::Page => {
            let (head, page) = PageHead::decode(body).unwrap();
            let (lsn, page) = (head.lsn, page.to_vec());
            Reply::Page { id, lsn, page }
        }
        Kind::Fault => {
            let fault = Fault::decode(body).unwrap();
            let code = Code::from_i32(i32::try_from(fault.code).unwrap());
            Reply::Fault(id, (code, fault.message.to_owned()))
        }
        other => panic!("a compute's message: {other:?}"),
    }
}

/// Asks for the newest version of a page.
pub fn newest(space_id: u32, page_no: u32) -> GetPage {
    GetPage {
        space_id,
        page_no,
        min_lsn: 0,
        timeout_ms: 0,
    }
}

/// A frame with the checksums that a compute computes.
pub fn frame(seq: u64, start_lsn: u64, kind: u8, payload: &[u8], body: FrameBody) -> Vec<u8> {
    let sums = CheckedFrame::of(Frame {
        seq: FrameSeq(seq),
        start: Lsn(start_lsn),
        body,
    })
    .sums();
    let head = FrameHead {
        start_lsn,
        payload_crc: sums.payload,
        header_crc: sums.header,
        kind,
    };
    let mut bytes = frame_head(seq, &head, payload.len()).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame of redo.
pub fn redo_frame(seq: u64, start_lsn: u64, redo: &[u8]) -> Vec<u8> {
    frame(seq, start_lsn, REDO, redo, FrameBody::Redo(redo.into()))
}

/// A frame that creates a side file.
pub fn create_frame(seq: u64, start_lsn: u64, path: &str) -> Vec<u8> {
    let mode = 0o660_u32;
    let payload = [&mode.to_le_bytes()[..], path.as_bytes()].concat();
    let op = xylem_types::FileOp::Create {
        path: path.to_owned(),
        mode,
    };
    frame(seq, start_lsn, CREATE, &payload, FrameBody::File(op))
}

/// The compute's end of a connection for redo.
pub struct Redo {
    pub link: Link,
    pub first: Ack,
    pub seq: u64,
    pub lsn: u64,
}

impl Redo {
    /// A connection on `main`.
    pub fn open(door: &Door, way: Way, epoch: u64) -> Result<Redo, Refusal> {
        Redo::open_as(door, way, &writer(epoch))
    }

    pub fn open_as(door: &Door, way: Way, who: &Hello) -> Result<Redo, Refusal> {
        let (link, standing) = Link::open(door, way, who)?;
        assert_eq!(standing.epoch, who.epoch);
        Ok(Redo {
            link,
            first: standing.ack,
            seq: standing.ack.durable_seq,
            lsn: standing.ack.durable_lsn,
        })
    }

    /// Sends a frame of redo and advances the LSN.
    pub fn redo(&mut self, redo: &[u8]) {
        self.seq += 1;
        let bytes = redo_frame(self.seq, self.lsn, redo);
        self.lsn += redo.len() as u64;
        self.link.send(&bytes);
    }

    /// Waits until everything sent is durable.
    pub fn durable(&mut self) -> Ack {
        let mut last = 0;
        loop {
            match self.link.next() {
                Reply::Ack(ack) => {
                    assert!(ack.durable_seq > last, "acknowledged twice");
                    assert!(
                        ack.durable_seq <= self.seq,
                        "acknowledged before it was sent"
                    );
                    last = ack.durable_seq;
                    if last == self.seq {
                        assert_eq!(ack.durable_lsn, self.lsn);
                        return ack;
                    }
                }
                other => panic!("no acknowledgement: {other:?}"),
            }
        }
    }

    /// Checks that no acknowledgement arrives for a while.
    pub fn stays_silent(&mut self) {
        let next = self.link.next_within(Duration::from_millis(400));
        assert!(next.is_none(), "{next:?}");
    }

    /// Waits for the end, and returns the reason that the server gave.
    pub fn ended(&mut self) -> Refusal {
        self.link.ended().expect("the server gave no reason")
    }
}
