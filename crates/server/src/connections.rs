//! Limits open connections. The server closes further connections at once, which keeps
//! its memory and file descriptors for the open ones; the callers retry.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// The limit, shared by a listener and its connections.
#[derive(Clone)]
pub struct Limited {
    permits: Arc<Semaphore>,
    max: usize,
    /// The warning was logged since the limit was reached.
    told: Arc<AtomicBool>,
}

impl Limited {
    /// A limit of `max` connections.
    pub fn new(max: usize) -> Limited {
        Limited {
            permits: Arc::new(Semaphore::new(max)),
            max,
            told: Arc::default(),
        }
    }

    /// A limited listener for a service that accepts connections itself.
    pub fn listener(self, listener: TcpListener) -> Listener {
        Listener {
            listener,
            limit: self,
        }
    }

    /// Counts `stream`; `None` when too many connections are open.
    pub fn admit(&self, stream: TcpStream) -> Option<Counted> {
        let permit = self.permit()?;
        Some(Counted { stream, permit })
    }

    /// Counts a connection until the permit is dropped; `None` when too many are open.
    pub fn permit(&self) -> Option<OwnedSemaphorePermit> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => {
                self.told.store(false, Ordering::Relaxed);
                Some(permit)
            }
            Err(_) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "{} connections are open, the limit of the setting connections_max: the server closes further ones",
                        self.max
                    );
                }
                None
            }
        }
    }
}

/// A listener with a limit.
pub struct Listener {
    listener: TcpListener,
    limit: Limited,
}

impl axum::serve::Listener for Listener {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        loop {
            let (stream, addr) = axum::serve::Listener::accept(&mut self.listener).await;
            if let Some(counted) = self.limit.admit(stream) {
                return (counted, addr);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that counts until it is dropped.
pub struct Counted {
    stream: TcpStream,
    permit: OwnedSemaphorePermit,
}

impl Counted {
    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The connection, and the permit that counts it.
    pub fn into_parts(self) -> (TcpStream, OwnedSemaphorePermit) {
        (self.stream, self.permit)
    }
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
