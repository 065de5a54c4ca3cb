//! A unary call, on a connection that another task drives.

use super::{Closed, Code, Deframer, Metadata, RpcStatus};
use crate::wire::{Reader, WireError};
use bytes::Bytes;
use h2::client::SendRequest;
use std::future::poll_fn;

/// Calls `path` with `message`, a whole gRPC message, and reads the answer of at
/// most `limit` bytes with `read`.
///
/// # Errors
/// When the connection breaks, the server refuses the call, or the answer is
/// invalid.
pub async fn unary<T>(
    mut requests: SendRequest<Bytes>,
    metadata: &Metadata,
    path: &str,
    message: Vec<u8>,
    limit: usize,
    read: impl FnOnce(&mut Reader<'_, Deframer>) -> Result<T, WireError>,
) -> Result<T, Closed> {
    let request = metadata
        .request(path)
        .map_err(|e| Closed::Transport(e.message))?;
    poll_fn(|cx| requests.poll_ready(cx)).await?;
    let (response, mut send) = requests.send_request(request, false)?;
    send.send_data(Bytes::from(message), true)?;
    let (head, mut body) = response.await?.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(Closed::Status(RpcStatus::from_http(head.status)));
    }
    if let Some(status) = RpcStatus::from_headers(&head.headers) {
        return Err(Closed::Status(status));
    }
    let mut received = Deframer::new(limit);
    let mut total = 0usize;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        total = total.saturating_add(chunk.len());
        if total > limit.saturating_add(5) {
            return Err(Closed::Transport("the answer is too large".to_owned()));
        }
        received.push(chunk);
    }
    let status = body
        .trailers()
        .await?
        .as_ref()
        .and_then(RpcStatus::from_headers);
    match status {
        Some(status) if status.code != Code::Ok => Err(Closed::Status(status)),
        None => Err(Closed::Transport("the answer has no status".to_owned())),
        Some(_) => match received.next(read) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => Err(Closed::Transport("the answer has no message".to_owned())),
            Err(e) => Err(Closed::Transport(format!("the answer is invalid: {e}"))),
        },
    }
}
