//! The small messages: acknowledgements, pings, tablespaces.

use super::{Reader, WireError, Writer};
use bytes::Buf;

/// `WalAck`: how far the server has the redo stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalAck {
    /// The last durable frame of this epoch, 0 when there is none.
    pub durable_seq: u64,
    /// The end of the last durable redo.
    pub durable_lsn: u64,
    /// What page reads can see.
    pub applied_lsn: u64,
}

impl WalAck {
    /// Reads the message.
    ///
    /// # Errors
    /// When it is not one.
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

/// `PingResponse`: the server's version and where the branch stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PingResponse {
    /// The server's version.
    pub version: String,
    /// The end of the branch's durable redo.
    pub durable_lsn: u64,
    /// What page reads can see.
    pub applied_lsn: u64,
    /// The branch's newest epoch.
    pub epoch: u64,
}

impl PingResponse {
    /// Reads the message.
    ///
    /// # Errors
    /// When it is not one.
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

/// A `PingRequest` as a gRPC message: it has no fields.
pub fn ping_request() -> Vec<u8> {
    Writer::message(0).finish()
}

/// A `xylem.control.v1.GetTablespaceRequest`, by id, as a gRPC message: the newest state
/// that shows at least every mtr up to `min_lsn`; with `no_pages` only where
/// its file is.
pub fn get_tablespace_request(space_id: u32, min_lsn: u64, no_pages: bool) -> Vec<u8> {
    let mut out = Writer::message(32);
    out.uint(3, min_lsn);
    out.uint(4, u64::from(space_id));
    out.uint(5, u64::from(no_pages));
    out.finish()
}

/// `xylem.control.v1.Tablespace`: a sparse file that stands for a tablespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tablespace {
    /// The tablespace's id.
    pub space_id: u32,
    /// Its file, relative to the data directory.
    pub path: String,
    /// Bytes of the file.
    pub size: u64,
    /// What must be in it: byte offset and bytes.
    pub pages: Vec<(u64, Vec<u8>)>,
    /// FSP_SPACE_FLAGS of its first page.
    pub flags: u32,
}

impl Tablespace {
    /// Reads the message.
    ///
    /// # Errors
    /// When it is not one.
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
