//! Opens a TCP connection to the page server, with the HTTP/2 handshake.

use super::RpcStatus;
use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use std::fmt;
use std::time::Duration;
use tokio::net::TcpStream;

/// The flow-control windows: the bytes that the server may send before the client
/// acknowledges them. 500 pages of 16 KiB per stream, twice that per connection.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Even a page of 64 KiB fits into one frame, so that it is copied in one step.
const FRAME_SIZE: u32 = 256 << 10;

/// Why a connection or a stream ended.
#[derive(Clone, Debug)]
pub enum Closed {
    /// The connection broke, or was never established.
    Transport(String),
    /// The server ended the call with this status.
    Status(RpcStatus),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Closed::Transport(why) => f.write_str(why),
            Closed::Status(status) => status.fmt(f),
        }
    }
}

impl From<h2::Error> for Closed {
    fn from(e: h2::Error) -> Closed {
        Closed::Transport(e.to_string())
    }
}

/// Connects to `host:port` within `timeout`.
///
/// # Errors
/// When the name does not resolve, or no address answers in time.
pub async fn connect(
    host: &str,
    port: u16,
    timeout: Duration,
) -> Result<(SendRequest<Bytes>, Connection<TcpStream, Bytes>), Closed> {
    let attempt = async {
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE)
            .handshake(stream)
            .await
            .map_err(|e| e.to_string())
    };
    match tokio::time::timeout(timeout, attempt).await {
        Ok(result) => result.map_err(Closed::Transport),
        Err(_) => Err(Closed::Transport(format!(
            "no connection within {} ms",
            timeout.as_millis()
        ))),
    }
}
