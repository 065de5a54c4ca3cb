//! The messages, each with the function that encodes it and the one that decodes it.

use crate::{
    FRAME_HEAD_BYTES, HEADER_BYTES, Header, Input, Invalid, Kind, MAGIC, PAGE_HEAD_BYTES, VERSION,
};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Page reads and calls.
    Pages = 1,
    /// The frames of one compute.
    Redo = 2,
}

/// The compute, as it introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub role: Role,
    /// The epoch of the compute's attach; 0 for a reader.
    pub epoch: u64,
    /// The branch's name, or `id:` and its id.
    pub branch: String,
    /// The project's token; empty for none.
    pub token: String,
}

fn message(kind: Kind, id: u64, body: usize) -> Vec<u8> {
    let header = Header {
        // Larger bodies are refused before they are encoded.
        length: u32::try_from(body).unwrap_or(u32::MAX),
        kind,
        id,
    };
    let mut out = Vec::with_capacity(HEADER_BYTES + body);
    out.extend_from_slice(&header.encode());
    out
}

/// Texts longer than their length can say are cut; the peer refuses what is left.
fn text_bytes(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    &bytes[..bytes.len().min(u16::MAX.into())]
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let bytes = text_bytes(text);
    out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The bytes with which a connection begins: the preface, and the message of a [`Hello`].
pub fn hello(hello: &Hello) -> Vec<u8> {
    let mut body = vec![hello.role as u8];
    body.extend_from_slice(&hello.epoch.to_le_bytes());
    put_text(&mut body, &hello.branch);
    put_text(&mut body, &hello.token);
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.append(&mut message(Kind::Hello, 0, body.len()));
    out.append(&mut body);
    out
}

/// Bytes before the first message of a connection.
pub const PREFACE_BYTES: usize = MAGIC.len() + 2;

/// Checks the bytes before the first message of a connection.
///
/// # Errors
/// [`Invalid::Magic`], [`Invalid::Version`].
pub fn check_preface(bytes: &[u8; PREFACE_BYTES]) -> Result<(), Invalid> {
    let mut input = Input::new(bytes);
    if input.bytes(MAGIC.len())? != MAGIC {
        return Err(Invalid::Magic);
    }
    match input.u16()? {
        VERSION => Ok(()),
        theirs => Err(Invalid::Version(theirs)),
    }
}

impl Hello {
    /// The body of a Hello.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn decode(body: &[u8]) -> Result<Hello, Invalid> {
        let mut input = Input::new(body);
        let role = match input.u8()? {
            1 => Role::Pages,
            2 => Role::Redo,
            other => return Err(Invalid::Role(other)),
        };
        Ok(Hello {
            role,
            epoch: input.u64()?,
            branch: input.text()?.to_owned(),
            token: input.text()?.to_owned(),
        })
    }
}

/// Asks for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetPage {
    /// The tablespace.
    pub space_id: u32,
    /// The page's number in it.
    pub page_no: u32,
    /// The answer shows at least every mini-transaction up to this LSN.
    pub min_lsn: u64,
    /// How long the server may wait for that LSN, in milliseconds; 0: its own limit.
    pub timeout_ms: u32,
}

/// Bytes of a request for a page.
pub const GET_PAGE_BYTES: usize = HEADER_BYTES + 24;

/// The message of a [`GetPage`] with number `id`.
pub fn get_page(id: u64, get: &GetPage) -> [u8; GET_PAGE_BYTES] {
    let mut out = [0; GET_PAGE_BYTES];
    let header = Header {
        length: 24,
        kind: Kind::GetPage,
        id,
    };
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    out[16..20].copy_from_slice(&get.space_id.to_le_bytes());
    out[20..24].copy_from_slice(&get.page_no.to_le_bytes());
    out[24..32].copy_from_slice(&get.min_lsn.to_le_bytes());
    out[32..36].copy_from_slice(&get.timeout_ms.to_le_bytes());
    out
}

impl GetPage {
    /// The body of a GetPage.
    ///
    /// # Errors
    /// [`Invalid::Short`].
    pub fn decode(body: &[u8]) -> Result<GetPage, Invalid> {
        let mut input = Input::new(body);
        let get = GetPage {
            space_id: input.u32()?,
            page_no: input.u32()?,
            min_lsn: input.u64()?,
            timeout_ms: input.u32()?,
        };
        input.skip(4)?;
        Ok(get)
    }
}

/// A page answer without the page's bytes, which follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHead {
    /// The LSN up to which the page shows the branch.
    pub lsn: u64,
}

/// The beginning of the answer to request `id`: a page of `page_bytes` bytes follows.
pub fn page_head(id: u64, lsn: u64, page_bytes: usize) -> [u8; PAGE_HEAD_BYTES] {
    let mut out = [0; PAGE_HEAD_BYTES];
    let header = Header {
        length: u32::try_from(8 + page_bytes).unwrap_or(u32::MAX),
        kind: Kind::Page,
        id,
    };
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    out[HEADER_BYTES..].copy_from_slice(&lsn.to_le_bytes());
    out
}

impl PageHead {
    /// The body of a page answer: its head, and the page.
    ///
    /// # Errors
    /// [`Invalid::Short`].
    pub fn decode(body: &[u8]) -> Result<(PageHead, &[u8]), Invalid> {
        let mut input = Input::new(body);
        let head = PageHead { lsn: input.u64()? };
        Ok((head, input.rest))
    }
}

/// A frame without its number, which the header has, and without its payload, which
/// follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// The LSN of the first byte of redo. For a side-file operation, the end of the redo
    /// before it.
    pub start_lsn: u64,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
    /// CRC-32C of number, LSN, kind and `payload_crc`.
    pub header_crc: u32,
    /// The kind of the WAL entry (`docs/formats/wal.md`).
    pub kind: u8,
}

/// The beginning of frame `seq`: a payload of `payload_bytes` bytes follows.
pub fn frame_head(seq: u64, frame: &FrameHead, payload_bytes: usize) -> [u8; FRAME_HEAD_BYTES] {
    let mut out = [0; FRAME_HEAD_BYTES];
    let header = Header {
        length: u32::try_from(FRAME_HEAD_BYTES - HEADER_BYTES + payload_bytes).unwrap_or(u32::MAX),
        kind: Kind::Frame,
        id: seq,
    };
    out[..HEADER_BYTES].copy_from_slice(&header.encode());
    out[16..24].copy_from_slice(&frame.start_lsn.to_le_bytes());
    out[24..28].copy_from_slice(&frame.payload_crc.to_le_bytes());
    out[28..32].copy_from_slice(&frame.header_crc.to_le_bytes());
    out[32] = frame.kind;
    out
}

impl FrameHead {
    /// The body of a frame: its head, and the payload.
    ///
    /// # Errors
    /// [`Invalid::Short`].
    pub fn decode(body: &[u8]) -> Result<(FrameHead, &[u8]), Invalid> {
        let mut input = Input::new(body);
        let head = FrameHead {
            start_lsn: input.u64()?,
            payload_crc: input.u32()?,
            header_crc: input.u32()?,
            kind: input.u8()?,
        };
        input.skip(7)?;
        Ok((head, input.rest))
    }
}

/// Asks for the file of a tablespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetSpace {
    /// The tablespace.
    pub space_id: u32,
    /// Only the path and the flags are wanted.
    pub no_pages: bool,
    /// The answer shows at least every mini-transaction up to this LSN.
    pub min_lsn: u64,
}

/// The message of a [`GetSpace`] with number `id`.
pub fn get_space(id: u64, get: &GetSpace) -> Vec<u8> {
    let mut out = message(Kind::GetSpace, id, 16);
    out.extend_from_slice(&get.space_id.to_le_bytes());
    out.extend_from_slice(&u32::from(get.no_pages).to_le_bytes());
    out.extend_from_slice(&get.min_lsn.to_le_bytes());
    out
}

impl GetSpace {
    /// The body of a GetSpace.
    ///
    /// # Errors
    /// [`Invalid::Short`].
    pub fn decode(body: &[u8]) -> Result<GetSpace, Invalid> {
        let mut input = Input::new(body);
        Ok(GetSpace {
            space_id: input.u32()?,
            no_pages: input.u32()? != 0,
            min_lsn: input.u64()?,
        })
    }
}

/// The sparse file that stands for a tablespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// `FSP_SPACE_FLAGS` of the first page.
    pub flags: u32,
    /// The size of the file, in bytes.
    pub size: u64,
    /// The path of the file, relative to the data directory.
    pub path: String,
    /// The contents that the file must have: offsets and bytes.
    pub pages: Vec<(u64, Vec<u8>)>,
}

/// The message of a [`Space`], which answers request `id`.
pub fn space(id: u64, space: &Space) -> Vec<u8> {
    let pages: usize = space.pages.iter().map(|(_, bytes)| 12 + bytes.len()).sum();
    let mut out = message(Kind::Space, id, 14 + text_bytes(&space.path).len() + pages);
    out.extend_from_slice(&space.flags.to_le_bytes());
    out.extend_from_slice(&space.size.to_le_bytes());
    put_text(&mut out, &space.path);
    for (offset, bytes) in &space.pages {
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    out
}

impl Space {
    /// The body of a Space.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn decode(body: &[u8]) -> Result<Space, Invalid> {
        let mut input = Input::new(body);
        let mut space = Space {
            flags: input.u32()?,
            size: input.u64()?,
            path: input.text()?.to_owned(),
            pages: Vec::new(),
        };
        while !input.rest.is_empty() {
            let offset = input.u64()?;
            let length = input.u32()? as usize;
            space.pages.push((offset, input.bytes(length)?.to_vec()));
        }
        Ok(space)
    }
}

/// Asks for bytes of a file of the branch's binary log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetLog {
    /// The number of the file.
    pub number: u32,
    /// How many bytes, at most [`LOG_BYTES_MAX`].
    pub length: u32,
    /// Where they begin in the file.
    pub offset: u64,
    /// The answer shows at least what stands before this LSN.
    pub min_lsn: u64,
}

/// The most bytes of the binary log in one answer.
pub const LOG_BYTES_MAX: u32 = 4 << 20;

/// The message of a [`GetLog`] with number `id`.
pub fn get_log(id: u64, get: &GetLog) -> Vec<u8> {
    let mut out = message(Kind::GetLog, id, 24);
    out.extend_from_slice(&get.number.to_le_bytes());
    out.extend_from_slice(&get.length.to_le_bytes());
    out.extend_from_slice(&get.offset.to_le_bytes());
    out.extend_from_slice(&get.min_lsn.to_le_bytes());
    out
}

impl GetLog {
    /// The body of a GetLog.
    ///
    /// # Errors
    /// [`Invalid::Short`].
    pub fn decode(body: &[u8]) -> Result<GetLog, Invalid> {
        let mut input = Input::new(body);
        Ok(GetLog {
            number: input.u32()?,
            length: input.u32()?,
            offset: input.u64()?,
            min_lsn: input.u64()?,
        })
    }
}

/// The answer to [`GetLog`] `id`: the bytes, fewer where the file ends.
pub fn log(id: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = message(Kind::Log, id, bytes.len());
    out.extend_from_slice(bytes);
    out
}

/// A ping with number `id`.
pub fn ping(id: u64) -> Vec<u8> {
    message(Kind::Ping, id, 0)
}

/// How far a branch's WAL is durable, and how far it can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// The last durable frame of the epoch.
    pub durable_seq: u64,
    /// The end of the durable redo.
    pub durable_lsn: u64,
    /// The LSN up to which pages can be read at once.
    pub applied_lsn: u64,
}

const ACK_BODY_BYTES: usize = 24;

/// Bytes of an [`Ack`].
pub const ACK_BYTES: usize = HEADER_BYTES + ACK_BODY_BYTES;

fn put_ack(out: &mut Vec<u8>, ack: &Ack) {
    out.extend_from_slice(&ack.durable_seq.to_le_bytes());
    out.extend_from_slice(&ack.durable_lsn.to_le_bytes());
    out.extend_from_slice(&ack.applied_lsn.to_le_bytes());
}

/// The message of an [`Ack`].
pub fn ack(ack: &Ack) -> Vec<u8> {
    let mut out = message(Kind::Ack, 0, ACK_BODY_BYTES);
    put_ack(&mut out, ack);
    out
}

impl Ack {
    /// The body of an Ack.
    ///
    /// # Errors
    /// [`Invalid::Short`].
    pub fn decode(body: &[u8]) -> Result<Ack, Invalid> {
        let mut input = Input::new(body);
        Ok(Ack {
            durable_seq: input.u64()?,
            durable_lsn: input.u64()?,
            applied_lsn: input.u64()?,
        })
    }
}

/// The state of a branch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The newest epoch.
    pub epoch: u64,
    /// How far the WAL is durable. On a connection for redo, the compute resumes here.
    pub ack: Ack,
}

fn standing(kind: Kind, id: u64, standing: &Standing) -> Vec<u8> {
    let mut out = message(kind, id, 8 + ACK_BODY_BYTES);
    out.extend_from_slice(&standing.epoch.to_le_bytes());
    put_ack(&mut out, &standing.ack);
    out
}

/// Admits a compute.
pub fn welcome(state: &Standing) -> Vec<u8> {
    standing(Kind::Welcome, 0, state)
}

/// The answer to ping `id`.
pub fn pong(id: u64, state: &Standing) -> Vec<u8> {
    standing(Kind::Pong, id, state)
}

impl Standing {
    /// The body of a Welcome or a Pong.
    ///
    /// # Errors
    /// [`Invalid::Short`].
    pub fn decode(body: &[u8]) -> Result<Standing, Invalid> {
        let mut input = Input::new(body);
        Ok(Standing {
            epoch: input.u64()?,
            ack: Ack::decode(input.rest)?,
        })
    }
}

/// A failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// A status code of gRPC.
    pub code: u32,
    /// The server's message.
    pub message: &'a str,
}

/// The failure of request `id`; 0: the connection ends.
pub fn fault(id: u64, fault: &Fault<'_>) -> Vec<u8> {
    let mut out = message(Kind::Fault, id, 4 + fault.message.len());
    out.extend_from_slice(&fault.code.to_le_bytes());
    out.extend_from_slice(fault.message.as_bytes());
    out
}

impl<'a> Fault<'a> {
    /// The body of a Fault.
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn decode(body: &'a [u8]) -> Result<Fault<'a>, Invalid> {
        let mut input = Input::new(body);
        Ok(Fault {
            code: input.u32()?,
            message: input.last_text()?,
        })
    }
}
