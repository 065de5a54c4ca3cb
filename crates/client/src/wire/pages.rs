//! Page requests, and page answers, which are decoded into the caller's buffer.

use super::{Reader, WireError, Writer};
use bytes::Buf;

/// The fields of a page request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Chosen by the client and returned with the answer.
    pub id: u64,
    /// The tablespace.
    pub space_id: u32,
    /// The page's number in it.
    pub page_no: u32,
    /// The answer shows at least every mtr up to this LSN.
    pub min_lsn: u64,
    /// How long the server may wait for that LSN, in milliseconds.
    pub timeout_ms: u32,
}

/// Appends a `PageStreamRequest` as a gRPC message to `out`, so that many
/// requests can share one DATA frame.
pub fn put_page_request(out: &mut Vec<u8>, request: &PageRequest) {
    let mut get = Writer::inner();
    get.uint(1, request.space_id.into());
    get.uint(2, request.page_no.into());
    get.uint(4, request.min_lsn);
    get.uint(5, request.timeout_ms.into());
    let mut message = Writer::message(32);
    message.uint(1, request.id);
    message.nested(2, get);
    out.extend_from_slice(&message.finish());
}

/// A buffer that receives a page.
pub trait Destination {
    /// Stores `bytes` at offset `at` of the page. Called in order. Bytes beyond
    /// the end of the buffer must be ignored.
    fn put(&mut self, at: usize, bytes: &[u8]);
}

/// `PageStreamResponse` without the page itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageAnswer {
    /// The request's id.
    pub id: u64,
    /// A gRPC status code.
    pub status: u32,
    /// The error message, if the status is not 0.
    pub message: String,
    /// The page's length in bytes; `None` if the answer has no page.
    pub page_len: Option<usize>,
    /// The LSN up to which the page includes changes.
    pub lsn: u64,
    /// The page, if it preceded the id, so that its destination was unknown.
    pub early_page: Option<Vec<u8>>,
}

/// Reads a `PageStreamResponse`. `destination` returns the buffer for the page of
/// a request; if it returns `None`, the page is skipped.
///
/// # Errors
/// When the bytes are not such a message. A part of the page may already be in
/// its buffer.
pub fn decode_page_answer<B: Buf, D: Destination>(
    reader: &mut Reader<'_, B>,
    mut destination: impl FnMut(u64) -> Option<D>,
) -> Result<PageAnswer, WireError> {
    let mut answer = PageAnswer::default();
    let mut id_known = false;
    while let Some((field, wire)) = reader.field()? {
        match field {
            1 => {
                answer.id = reader.uint64(wire)?;
                id_known = true;
            }
            2 => answer.status = reader.uint32(wire)?,
            3 => answer.message = reader.string(wire)?,
            4 => reader.nested(wire, |got| {
                // A result without a page counts as an empty page.
                answer.page_len.get_or_insert(0);
                while let Some((field, wire)) = got.field()? {
                    match field {
                        1 => got.nested(wire, |page| {
                            answer.page_len = Some(page.left());
                            if !id_known {
                                answer.early_page = Some(page.rest()?);
                                return Ok(());
                            }
                            match destination(answer.id) {
                                Some(mut to) => page.each_chunk(|at, bytes| to.put(at, bytes)),
                                None => Ok(()),
                            }
                        })?,
                        2 => answer.lsn = got.uint64(wire)?,
                        _ => got.skip(wire)?,
                    }
                }
                Ok(())
            })?,
            _ => reader.skip(wire)?,
        }
    }
    if let Some(page) = &answer.early_page
        && let Some(mut to) = destination(answer.id)
    {
        to.put(0, page);
    }
    Ok(answer)
}
