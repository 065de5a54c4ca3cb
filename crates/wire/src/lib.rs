//! The compute protocol: the messages between a compute and its page server on the path
//! of every page read and every commit.
//!
//! `docs/compute-protocol.md` describes the conversation and draws the messages. This
//! crate has their bytes, for both sides. It does no I/O.
//!
//! Every message is a header of 16 bytes and a body. All numbers are little-endian.

mod message;
mod received;

pub use message::{
    ACK_BYTES, Ack, Fault, FrameHead, GET_PAGE_BYTES, GetLog, GetPage, GetSpace, Hello,
    LOG_BYTES_MAX, PREFACE_BYTES, PageHead, Role, Space, Standing, ack, check_preface, fault,
    frame_head, get_log, get_page, get_space, hello, log, page_head, ping, pong, space, welcome,
};
pub use received::{Message, Received};

/// The first bytes of a connection. No HTTP/2 connection begins with them, so both
/// protocols share a port.
pub const MAGIC: [u8; 6] = *b"XYLEM\n";
/// The version of the protocol. Both sides must have the same one, because the client
/// library and the server are parts of one release.
pub const VERSION: u16 = 1;
/// Bytes of the header before a message's body.
pub const HEADER_BYTES: usize = 16;
/// Bytes of a page answer before the page, header included.
pub const PAGE_HEAD_BYTES: usize = HEADER_BYTES + 8;
/// Bytes of a frame before its payload, header included.
pub const FRAME_HEAD_BYTES: usize = HEADER_BYTES + 24;
/// The largest body: a WAL frame of the largest size, with room to spare.
pub const BODY_BYTES_MAX: usize = 20 << 20;
/// The largest body of a [`Hello`], which a peer sends before it is known.
pub const HELLO_BYTES_MAX: usize = 8 << 10;

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first message of a connection, from the compute.
    Hello = 1,
    /// Asks for a page.
    GetPage = 2,
    /// A frame of the WAL.
    Frame = 3,
    /// Asks for the file of a tablespace.
    GetSpace = 4,
    /// Asks whether the server is there.
    Ping = 5,
    /// Asks for bytes of the binary log.
    GetLog = 6,
    /// The first message of the server: the compute is admitted.
    Welcome = 65,
    /// A page.
    Page = 66,
    /// How far the WAL is durable.
    Ack = 67,
    /// The file of a tablespace.
    Space = 68,
    /// The answer to a ping.
    Pong = 69,
    /// A request failed, or the connection ends.
    Fault = 70,
    /// Bytes of the binary log.
    Log = 71,
}

impl Kind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Hello,
            2 => Kind::GetPage,
            3 => Kind::Frame,
            4 => Kind::GetSpace,
            5 => Kind::Ping,
            6 => Kind::GetLog,
            65 => Kind::Welcome,
            66 => Kind::Page,
            67 => Kind::Ack,
            68 => Kind::Space,
            69 => Kind::Pong,
            70 => Kind::Fault,
            71 => Kind::Log,
            _ => return None,
        })
    }
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body.
    pub length: u32,
    /// The kind of the body.
    pub kind: Kind,
    /// The number of the request that a message makes or answers. For a frame, its number
    /// in the epoch.
    pub id: u64,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&self.length.to_le_bytes());
        out[4] = self.kind as u8;
        out[8..].copy_from_slice(&self.id.to_le_bytes());
        out
    }

    /// The header in `bytes`.
    ///
    /// # Errors
    /// [`Invalid`] when it is no header of this version.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Invalid> {
        let mut input = Input::new(bytes);
        let length = input.u32()?;
        let kind = input.u8()?;
        let kind = Kind::from_number(kind).ok_or(Invalid::Kind(kind))?;
        input.skip(3)?;
        let id = input.u64()?;
        if length as usize > BODY_BYTES_MAX {
            return Err(Invalid::TooLong(length));
        }
        Ok(Header { length, kind, id })
    }
}

/// Bytes that are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The connection does not begin with [`MAGIC`].
    Magic,
    /// The peer speaks another version of the protocol.
    Version(u16),
    /// The kind is unknown.
    Kind(u8),
    /// The role is unknown.
    Role(u8),
    /// The body is longer than [`BODY_BYTES_MAX`].
    TooLong(u32),
    /// The body ends early.
    Short,
    /// A text is not UTF-8.
    Text,
    /// The kind does not belong here.
    Unexpected(Kind),
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Invalid::Magic => f.write_str("the peer does not speak the compute protocol"),
            Invalid::Version(theirs) => write!(
                f,
                "the peer speaks version {theirs} of the compute protocol, and this side version {VERSION}: use libxylem_client.so and xylem of the same release"
            ),
            Invalid::Kind(kind) => write!(f, "a message of the unknown kind {kind}"),
            Invalid::Role(role) => write!(f, "a connection of the unknown role {role}"),
            Invalid::TooLong(length) => write!(
                f,
                "a message of {length} bytes, the limit is {BODY_BYTES_MAX}"
            ),
            Invalid::Short => f.write_str("a message that ends early"),
            Invalid::Text => f.write_str("a text that is not UTF-8"),
            Invalid::Unexpected(kind) => write!(f, "a message of kind {kind:?} out of place"),
        }
    }
}

impl std::error::Error for Invalid {}

/// Reads a body from its beginning.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let (first, rest) = self.rest.split_first_chunk().ok_or(Invalid::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Invalid> {
        let (first, rest) = self.rest.split_at_checked(length).ok_or(Invalid::Short)?;
        self.rest = rest;
        Ok(first)
    }

    fn skip(&mut self, length: usize) -> Result<(), Invalid> {
        self.bytes(length).map(|_| ())
    }

    fn u8(&mut self) -> Result<u8, Invalid> {
        Ok(u8::from_le_bytes(self.take()?))
    }

    fn u16(&mut self) -> Result<u16, Invalid> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, Invalid> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, Invalid> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A text with its length in two bytes before it.
    fn text(&mut self) -> Result<&'a str, Invalid> {
        let length = self.u16()?;
        std::str::from_utf8(self.bytes(length.into())?).map_err(|_| Invalid::Text)
    }

    /// A text that takes the rest.
    fn last_text(&mut self) -> Result<&'a str, Invalid> {
        std::str::from_utf8(std::mem::take(&mut self.rest)).map_err(|_| Invalid::Text)
    }
}
