//! Page requests, and answers whose page goes straight to its buffer.

use super::{Reader, WireError, Writer};
use bytes::Buf;

/// What a page request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Chosen by the caller, returned with the answer.
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

/// Appends a `PageStreamRequest` as a gRPC message to `out`: many requests
/// share one DATA frame.
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

/// Where a page's bytes go.
pub trait Destination {
    /// `bytes` stand at offset `at` of the page. Called in order; what lies
    /// beyond the buffer must be ignored.
    fn put(&mut self, at: usize, bytes: &[u8]);
}

/// `PageStreamResponse` without the page itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageAnswer {
    /// The request's id.
    pub id: u64,
    /// A gRPC status code.
    pub status: u32,
    /// What went wrong, for a status other than 0.
    pub message: String,
    /// The page's length in bytes; `None` when none came.
    pub page_len: Option<usize>,
    /// The LSN up to which the page shows the branch.
    pub lsn: u64,
    /// The page, when it came before the id did and so had nowhere to go.
    pub early_page: Option<Vec<u8>>,
}

/// Reads a `PageStreamResponse`. As soon as the id is known `destination` is
/// asked for the place the page goes to; with `None` the bytes are skipped.
///
/// # Errors
/// When it is not such a message; a part of the page may have been placed.
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
                // Present but without a page: an empty page.
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
