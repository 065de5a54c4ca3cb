//! The messages for acknowledgements, pings and tablespaces.

use super::{Reader, WireError, Writer};
use bytes::Buf;

/// `WalAck`: the progress of the redo stream at the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalAck {
    /// The last durable frame of this epoch; 0 if there is none.
    pub durable_seq: u64,
    /// The end of the last durable redo.
    pub durable_lsn: u64,
    /// The LSN up to which page reads can see changes.
    pub applied_lsn: u64,
}

impl WalAck {
    /// Reads the message.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn decode<B: Buf>(reader: &mut Reader<'_, B>) -> Result<WalAck, WireError> {
        let mut ack = WalAck::default();
        while let Some((field, wire)) = reader.field()? {
            match field {
                1 => ack.durable_seq = reader.uint64(wire)?,
                2 => ack.durable_lsn = reader.uint64(wire)?,
                3 => ack.applied_lsn = reader.uint64(wire)?,
                _ => reader.skip(wire)?,
            }
        }
        Ok(ack)
    }
}

/// `PingResponse`: the server's version and the state of the branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PingResponse {
    /// The server's version.
    pub version: String,
    /// The end of the branch's durable redo.
    pub durable_lsn: u64,
    /// The LSN up to which page reads can see changes.
    pub applied_lsn: u64,
    /// The branch's newest epoch.
    pub epoch: u64,
}

impl PingResponse {
    /// Reads the message.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn decode<B: Buf>(reader: &mut Reader<'_, B>) -> Result<PingResponse, WireError> {
        let mut ping = PingResponse::default();
        while let Some((field, wire)) = reader.field()? {
            match field {
                1 => ping.version = reader.string(wire)?,
                2 => ping.durable_lsn = reader.uint64(wire)?,
                3 => ping.applied_lsn = reader.uint64(wire)?,
                4 => ping.epoch = reader.uint64(wire)?,
                _ => reader.skip(wire)?,
            }
        }
        Ok(ping)
    }
}

/// The path of the call `Ping`.
pub const PING: &str = "/pageserver.PageServer/Ping";

/// A `PingRequest`, which has no fields, as a gRPC message.
pub fn ping_request() -> Vec<u8> {
    Writer::message(0).finish()
}

/// A `xylem.control.v1.GetTablespaceRequest` as a gRPC message. It asks for the
/// newest state that shows at least every mtr up to `min_lsn`, or, with
/// `no_pages`, only for the path of the file.
pub fn get_tablespace_request(space_id: u32, min_lsn: u64, no_pages: bool) -> Vec<u8> {
    let mut out = Writer::message(32);
    out.uint(3, min_lsn);
    out.uint(4, u64::from(space_id));
    out.uint(5, u64::from(no_pages));
    out.finish()
}

/// `xylem.control.v1.Tablespace`: the sparse file that represents a tablespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tablespace {
    /// The tablespace's id.
    pub space_id: u32,
    /// The path of the file, relative to the data directory.
    pub path: String,
    /// The size of the file, in bytes.
    pub size: u64,
    /// The contents that the file must have: offsets and bytes.
    pub pages: Vec<(u64, Vec<u8>)>,
    /// FSP_SPACE_FLAGS of the first page.
    pub flags: u32,
}

impl Tablespace {
    /// Reads the message.
    ///
    /// # Errors
    /// When the bytes are not such a message.
    pub fn decode<B: Buf>(reader: &mut Reader<'_, B>) -> Result<Tablespace, WireError> {
        let mut space = Tablespace::default();
        while let Some((field, wire)) = reader.field()? {
            match field {
                1 => space.space_id = reader.uint32(wire)?,
                2 => space.path = reader.string(wire)?,
                3 => space.size = reader.uint64(wire)?,
                4 => {
                    let page = reader.nested(wire, |inner| {
                        let mut page = (0, Vec::new());
                        while let Some((field, wire)) = inner.field()? {
                            match field {
                                1 => page.0 = inner.uint64(wire)?,
                                2 => page.1 = inner.bytes(wire)?,
                                _ => inner.skip(wire)?,
                            }
                        }
                        Ok(page)
                    })?;
                    space.pages.push(page);
                }
                5 => space.flags = reader.uint32(wire)?,
                _ => reader.skip(wire)?,
            }
        }
        Ok(space)
    }
}
