//! The connection.

use crate::tls::Tls;
use rustix::net::RecvFlags;
use rustls::Connection;
use socket2::Socket;
use std::io::{self, IoSlice};
use std::net::Shutdown;

/// Whether a call may wait. A call that waits does so for at most the time limit of the
/// socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It may.
    Yes,
    /// It returns [`io::ErrorKind::WouldBlock`] instead.
    No,
}

/// A connection. Threads may send while one of them receives.
#[derive(Debug)]
pub struct Channel {
    socket: Socket,
    tls: Option<Box<Tls>>,
}

impl Channel {
    /// A connection without TLS.
    pub fn plain(socket: Socket) -> Channel {
        Channel { socket, tls: None }
    }

    /// A connection whose TLS handshake is done.
    pub fn tls(socket: Socket, connection: impl Into<Connection>) -> Channel {
        Channel {
            socket,
            tls: Some(Box::new(Tls::new(connection.into()))),
        }
    }

    /// The socket, for its options.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Puts bytes that have arrived into `room`, which is not empty. Returns how many;
    /// 0 means that the peer has ended the connection. Two threads must not receive at
    /// the same time: what they get would be in any order.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::InvalidData`] for bytes that are not TLS as
    /// agreed.
    pub fn receive(&self, room: &mut [u8], wait: Wait) -> io::Result<usize> {
        match &self.tls {
            None => self.receive_bytes(room, wait),
            Some(tls) => tls.receive(room, |bytes| self.receive_bytes(bytes, wait)),
        }
    }

    fn receive_bytes(&self, room: &mut [u8], wait: Wait) -> io::Result<usize> {
        let flags = match wait {
            Wait::Yes => RecvFlags::empty(),
            Wait::No => RecvFlags::DONTWAIT,
        };
        let (count, _) = rustix::net::recv(&self.socket, room, flags)?;
        Ok(count)
    }

    /// Sends a part of `parts`, and returns how many bytes. Threads must not send at the
    /// same time. After [`io::ErrorKind::WouldBlock`], the next call must begin with the
    /// same bytes: a part of them may be encrypted and on its way.
    ///
    /// # Errors
    /// The system's error.
    pub fn send(&self, parts: &[IoSlice<'_>], wait: Wait) -> io::Result<usize> {
        match &self.tls {
            None => self.send_bytes(parts, wait),
            Some(tls) => tls.send(parts, |bytes| self.send_bytes(&[IoSlice::new(bytes)], wait)),
        }
    }

    fn send_bytes(&self, parts: &[IoSlice<'_>], wait: Wait) -> io::Result<usize> {
        let flags = match wait {
            Wait::Yes => rustix::net::SendFlags::NOSIGNAL,
            Wait::No => rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
        };
        // The bits are the system's for both.
        let flags = i32::try_from(flags.bits()).unwrap_or(0);
        self.socket.send_vectored_with_flags(parts, flags)
    }

    /// Ends the connection in one or both directions. Blocked calls return.
    pub fn end(&self, how: Shutdown) {
        // An error means that it has ended already.
        let _ = self.socket.shutdown(how);
    }
}
