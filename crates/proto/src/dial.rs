//! Connects to a server's gRPC: over its Unix socket, or over TCP with or without TLS.

use hyper_util::rt::TokioIo;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Error};
use xylem_channel::{ClientTls, server_name};

/// The name of gRPC's protocol in ALPN.
pub const PROTOCOL: &[u8] = b"h2";

/// The authority of requests over a Unix socket, where nobody looks at it.
const LOCAL: &str = "localhost";

/// The way to a server.
#[derive(Clone, Debug)]
pub enum Way {
    /// Its Unix socket.
    Socket(PathBuf),
    /// Its address, `host:port`, and the trust that makes it the right one. The trust is
    /// for [`PROTOCOL`].
    Tls(String, Arc<ClientTls>),
    /// Its address, without TLS.
    Plain(String),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Socket(path) => path.display().fmt(f),
            Way::Tls(address, _) | Way::Plain(address) => f.write_str(address),
        }
    }
}

/// The bytes below HTTP/2.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Way {
    /// Connects within `limit`. `prepare` sets further options of the connection.
    ///
    /// # Errors
    /// When the address makes no sense, or nobody that is trusted answers there.
    pub async fn connect(
        &self,
        limit: Duration,
        prepare: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, Error> {
        let authority = match self {
            Way::Socket(_) => LOCAL,
            Way::Tls(address, _) | Way::Plain(address) => address,
        };
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))?;
        let way = self.clone();
        // Also a limit of the handshake, which the endpoint does not know of.
        let connector = tower::service_fn(move |_| {
            let way = way.clone();
            async move {
                match tokio::time::timeout(limit, way.open()).await {
                    Ok(opened) => opened.map(TokioIo::new),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                }
            }
        });
        prepare(endpoint).connect_with_connector(connector).await
    }

    async fn open(self) -> io::Result<Box<dyn Stream>> {
        let (address, tls) = match self {
            Way::Socket(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Way::Plain(address) => (address, None),
            Way::Tls(address, tls) => (address, Some(tls)),
        };
        let stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = tls else {
            return Ok(Box::new(stream));
        };
        let host = address.rsplit_once(':').map_or(&*address, |(host, _)| host);
        let config = tls
            .config()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let secured = TlsConnector::from(config).connect(server_name(host)?, stream);
        Ok(Box::new(secured.await?))
    }
}
