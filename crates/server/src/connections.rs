//! Open connections: their limits, their peers, and the kinds of transport below gRPC
//! and HTTP. The server closes connections beyond a limit at once, which keeps its
//! memory and file descriptors for the open ones; the callers retry.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use xylem_peers::{Hosts, Place, TooMany};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address.
    Address(SocketAddr),
    /// A user of this machine, on a Unix socket.
    User(u32),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Address(addr) => addr.fmt(f),
            Peer::User(uid) => write!(f, "uid {uid}"),
        }
    }
}

/// The limits, shared by all listeners and their connections.
#[derive(Clone)]
pub struct Limited {
    permits: Arc<Semaphore>,
    max: usize,
    /// The warning was logged since the limit was reached.
    told: Arc<AtomicBool>,
    hosts: Hosts,
    per_host: usize,
}

/// Counts a connection until it is dropped.
pub struct Permit {
    _all: OwnedSemaphorePermit,
    _host: Option<Place>,
}

impl Limited {
    /// A limit of `max` connections, of which one host may have `per_host`.
    pub fn new(max: usize, per_host: usize) -> Limited {
        Limited {
            permits: Arc::new(Semaphore::new(max)),
            max,
            told: Arc::default(),
            hosts: Hosts::new(per_host),
            per_host,
        }
    }

    /// Counts a connection of `peer`; `None` when too many are open.
    pub fn permit(&self, peer: Peer) -> Option<Permit> {
        let Ok(all) = Arc::clone(&self.permits).try_acquire_owned() else {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "{} connections are open, the limit of the setting connections_max: the server closes further ones",
                    self.max
                );
            }
            return None;
        };
        self.told.store(false, Ordering::Relaxed);
        let host = match peer {
            Peer::User(_) => None,
            Peer::Address(addr) => match self.hosts.admit(addr.ip()) {
                Ok(place) => Some(place),
                Err(TooMany { host, is_first }) => {
                    if is_first {
                        tracing::warn!(
                            "{host} has {} connections, the limit of the setting connections_per_host: the server closes further ones",
                            self.per_host
                        );
                    }
                    return None;
                }
            },
        };
        Some(Permit {
            _all: all,
            _host: host,
        })
    }
}

/// The bytes below gRPC and HTTP.
pub enum Transport {
    /// TCP without TLS.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A Unix socket.
    Unix(UnixStream),
}

/// A connection that counts until it is dropped.
pub struct Counted {
    transport: Transport,
    peer: Peer,
    permit: Permit,
    idle: Option<Idle>,
}

/// Ends a connection whose peer sends nothing for too long.
struct Idle {
    limit: Duration,
    end: Pin<Box<Sleep>>,
}

impl Connected for Counted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl Counted {
    /// A connection over `transport` with `peer`.
    pub fn new(transport: Transport, peer: Peer, permit: Permit) -> Counted {
        Counted {
            transport,
            peer,
            permit,
            idle: None,
        }
    }

    /// The connection, which fails when its peer sends nothing for `limit`.
    pub fn with_idle_limit(mut self, limit: Duration) -> Counted {
        let end = Box::pin(tokio::time::sleep(limit));
        self.idle = Some(Idle { limit, end });
        self
    }

    /// Its other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The bytes, the other end, and the permit that counts it.
    pub fn into_parts(self) -> (Transport, Peer, Permit) {
        (self.transport, self.peer, self.permit)
    }

    fn read_half(&mut self) -> Pin<&mut (dyn AsyncRead + Unpin)> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream),
            Transport::Tls(stream) => Pin::new(&mut **stream),
            Transport::Unix(stream) => Pin::new(stream),
        }
    }

    fn write_half(&mut self) -> Pin<&mut (dyn AsyncWrite + Unpin)> {
        match &mut self.transport {
            Transport::Tcp(stream) => Pin::new(stream),
            Transport::Tls(stream) => Pin::new(&mut **stream),
            Transport::Unix(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.read_half().poll_read(cx, buf);
        let Some(idle) = &mut self.idle else {
            return read;
        };
        if read.is_ready() {
            idle.end.as_mut().reset(Instant::now() + idle.limit);
            return read;
        }
        ready!(idle.end.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_half().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_half().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_half().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_half().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
            Transport::Unix(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn peer(addr: &str) -> Peer {
        Peer::Address(SocketAddr::new(addr.parse().unwrap(), 7))
    }

    #[test]
    fn a_host_that_has_its_share_leaves_the_rest_to_others() {
        let limit = Limited::new(4, 2);
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(limit.permit(peer("192.0.2.1")).unwrap());
        }
        // What was refused counts nothing.
        assert!(limit.permit(peer("192.0.2.1")).is_none());
        // Loopback and users of this machine have only the limit of all.
        for other in [peer("127.0.0.1"), Peer::User(7)] {
            open.push(limit.permit(other).unwrap());
        }
        assert!(limit.permit(peer("127.0.0.1")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_peer_sends_nothing_ends_and_another_goes_on() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let limit = Limited::new(2, 2);
        let (mut peer, stream) = UnixStream::pair().unwrap();
        let permit = limit.permit(Peer::User(0)).unwrap();
        let counted = Counted::new(Transport::Unix(stream), Peer::User(0), permit);
        let mut counted = counted.with_idle_limit(Duration::from_secs(60));
        let mut byte = [0];
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            peer.write_all(b"x").await.unwrap();
            assert_eq!(counted.read(&mut byte).await.unwrap(), 1);
        }
        let error = counted.read(&mut byte).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
