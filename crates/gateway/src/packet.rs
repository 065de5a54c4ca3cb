//! Packets: a header of four bytes (length of three bytes, sequence number), then the
//! payload.

use crate::own;
use crate::refusal::Refusal;
use std::io::{self, ErrorKind};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 4;
/// The payload of a packet that another one continues.
pub(crate) const FULL: usize = 0xff_ffff;
/// The largest packet before the end of a login. Nobody makes the gateway hold more
/// before it is known. MariaDB takes 64 KiB of connection attributes.
const LOGIN_BYTES_MAX: usize = 80 << 10;
/// The largest packet of an answer to the gateway itself.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A packet of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// Its sequence number.
    pub seq: u8,
    /// Its content.
    pub payload: Vec<u8>,
}

/// A connection ended, or a peer does not speak the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The connection ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The client can be told why.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The length in a header.
pub(crate) fn length(header: [u8; HEADER_BYTES]) -> usize {
    let [a, b, c, _] = header;
    u32::from_le_bytes([a, b, c, 0]) as usize
}

/// A header.
pub(crate) fn header(length: usize, seq: u8) -> [u8; HEADER_BYTES] {
    let [a, b, c, ..] = (length as u32).to_le_bytes();
    [a, b, c, seq]
}

/// Reads a packet of a login, and no byte more.
pub(crate) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Packet, Broken> {
    let head = read_header(from).await?;
    let length = check(length(head))?;
    read_payload(from, length, head[3]).await
}

async fn read_header(from: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; HEADER_BYTES]> {
    let mut head = [0; HEADER_BYTES];
    from.read_exact(&mut head).await?;
    Ok(head)
}

async fn read_payload(
    from: &mut (impl AsyncRead + Unpin),
    length: usize,
    seq: u8,
) -> Result<Packet, Broken> {
    // Grows as the bytes come: a length is easily claimed.
    let mut payload = Vec::new();
    from.take(length as u64).read_to_end(&mut payload).await?;
    if payload.len() < length {
        return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
    }
    Ok(Packet { seq, payload })
}

/// Reads the next packet of an answer to the gateway itself.
///
/// # Errors
/// Also when it is an error: the server's (`Refused`).
pub(crate) async fn answer(from: &mut (impl AsyncRead + Unpin)) -> Result<Packet, Broken> {
    let head = read_header(from).await?;
    if length(head) > ANSWER_BYTES_MAX {
        return Err(io::Error::from(ErrorKind::InvalidData).into());
    }
    let packet = read_payload(from, length(head), head[3]).await?;
    match own::error(&packet.payload) {
        Some(error) => Err(error.into()),
        None => Ok(packet),
    }
}

/// Reads packets of a login ahead, so that a read which is given up loses nothing.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    /// Bytes that have arrived and belong to no packet that was taken.
    pub bytes: Vec<u8>,
}

impl Ahead {
    /// The next packet. May be dropped and called again.
    pub async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Result<Packet, Broken> {
        loop {
            if let Some(packet) = self.take()? {
                return Ok(packet);
            }
            if from.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
            }
        }
    }

    fn take(&mut self) -> Result<Option<Packet>, Refusal> {
        let Some(head) = self.bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let (length, seq) = (check(length(*head))?, head[3]);
        if self.bytes.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let payload = self.bytes[HEADER_BYTES..HEADER_BYTES + length].to_vec();
        self.bytes.drain(..HEADER_BYTES + length);
        Ok(Some(Packet { seq, payload }))
    }
}

/// Refuses a packet that no login has.
fn check(length: usize) -> Result<usize, Refusal> {
    match length {
        0..=LOGIN_BYTES_MAX => Ok(length),
        _ => Err(Refusal::handshake(format!(
            "Bad handshake: a packet of {length} bytes before the login"
        ))),
    }
}

/// Writes a packet.
pub(crate) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    seq: u8,
    payload: &[u8],
) -> io::Result<()> {
    if payload.len() >= FULL {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&header(payload.len(), seq));
    bytes.extend_from_slice(payload);
    to.write_all(&bytes).await?;
    to.flush().await
}
