//! TLS over a blocking socket. Encryption and decryption share the connection's state,
//! but no thread holds it while it waits for the socket: a sender that waits for room
//! must not keep the receiver from taking what makes the peer take more.

use rustls::Connection;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that one call of the system may receive.
const RECEIVE_BYTES: usize = 64 << 10;
/// Bytes that are encrypted at once. A record has at most 16 KiB.
const SEND_BYTES: usize = 64 << 10;
/// The most memory that is kept for encrypted bytes.
const KEPT_BYTES: usize = 128 << 10;

/// The state of TLS on one connection.
pub(crate) struct Tls {
    connection: Mutex<Connection>,
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
}

/// Encrypted bytes that were received and not decrypted yet.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

/// Encrypted bytes that were not sent yet.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// The caller's bytes in them, which it has not been told of.
    plain: usize,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    pub(crate) fn new(mut connection: Connection) -> Tls {
        // Otherwise it limits what it holds by itself, and takes a part of what it is
        // given. SEND_BYTES is the limit here.
        connection.set_buffer_limit(None);
        Tls {
            connection: Mutex::new(connection),
            incoming: Mutex::default(),
            outgoing: Mutex::default(),
        }
    }

    /// Puts decrypted bytes into `room`; `receive` gets more from the socket.
    pub(crate) fn receive(
        &self,
        room: &mut [u8],
        receive: impl Fn(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut incoming = lock(&self.incoming);
        let mut filled = 0;
        loop {
            {
                let mut connection = lock(&self.connection);
                loop {
                    match connection.reader().read(&mut room[filled..]) {
                        // The peer has said that nothing more comes.
                        Ok(0) => return Ok(filled),
                        Ok(count) => filled += count,
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {
                            if !incoming.decrypt(&mut connection)? {
                                break;
                            }
                        }
                        // Cut off: the caller's own framing says whether it matters.
                        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(filled),
                        Err(e) => return Err(e),
                    }
                    if filled == room.len() {
                        return Ok(filled);
                    }
                }
            }
            if filled > 0 {
                return Ok(filled);
            }
            let count = receive(incoming.room())?;
            if count == 0 {
                return Ok(0);
            }
            incoming.to = count;
        }
    }

    /// Encrypts a part of `parts` and sends it with `send`.
    pub(crate) fn send(
        &self,
        parts: &[IoSlice<'_>],
        send: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut outgoing = lock(&self.outgoing);
        loop {
            while outgoing.sent < outgoing.bytes.len() {
                outgoing.sent += send(&outgoing.bytes[outgoing.sent..])?;
            }
            outgoing.bytes.clear();
            outgoing.bytes.shrink_to(KEPT_BYTES);
            outgoing.sent = 0;
            if outgoing.plain > 0 || parts.iter().all(|part| part.is_empty()) {
                return Ok(std::mem::take(&mut outgoing.plain));
            }
            outgoing.encrypt(parts, &mut lock(&self.connection))?;
        }
    }
}

impl Incoming {
    /// Room for more, once [`Incoming::decrypt`] has taken all there was. A part of a
    /// record is kept in the connection.
    fn room(&mut self) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes.resize(RECEIVE_BYTES, 0);
        }
        &mut self.bytes[..]
    }

    /// Decrypts some of what was received. Returns false when there is nothing.
    fn decrypt(&mut self, connection: &mut Connection) -> io::Result<bool> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
            return Ok(false);
        }
        let mut rest = &self.bytes[self.from..self.to];
        let before = rest.len();
        connection.read_tls(&mut rest)?;
        self.from += before - rest.len();
        connection
            .process_new_packets()
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(true)
    }
}

impl Outgoing {
    fn encrypt(&mut self, parts: &[IoSlice<'_>], connection: &mut Connection) -> io::Result<()> {
        let mut writer = connection.writer();
        for part in parts {
            let left = SEND_BYTES - self.plain;
            let count = writer.write(&part[..part.len().min(left)])?;
            self.plain += count;
            if count < part.len() {
                break;
            }
        }
        while connection.wants_write() {
            connection.write_tls(&mut self.bytes)?;
        }
        Ok(())
    }
}

/// A panic of another thread is its own; the state is as it was between two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
