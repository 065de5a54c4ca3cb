//! Accepts connections: of computes and gRPC callers on a Unix socket and on one port,
//! which their first byte or their TLS protocol (ALPN) tells apart, and of HTTP clients
//! on another port.

use crate::connections::{Counted, Limited, Peer, Permit, Transport};
use crate::node::Node;
use crate::rpc::compute;
use rustix::net::RecvFlags;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use xylem_channel::{Channel, PROTOCOL};
use xylem_tls::ServerTls;
use xylem_wire::MAGIC;

/// How long a peer may take to send its first byte, and then for the TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a peer that was refused may take to go.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// How often bytes of a peer that was refused are read.
const LAST_READS: usize = 16;
/// A machine that vanishes without a word is noticed after about three times this time.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(10);
/// The pause after the system refused a connection, for lack of descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait for their service.
const WAITING: usize = 64;
/// The first byte of TLS: the type of a record of its handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a connection of HTTP may be idle.
const HTTP_IDLE: Duration = Duration::from_secs(60);
/// The answer to a peer that does not speak TLS.
const SPEAK_TLS: &str = "this port requires TLS: use https:// and the project's ca.pem\n";

/// The protocols of the port of gRPC and of computes (ALPN).
pub(crate) const GRPC_PROTOCOLS: &[&[u8]] = &[b"h2", PROTOCOL];
/// The protocols of the port of HTTP.
pub(crate) const HTTP_PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// A port.
pub(crate) struct Port {
    /// Its socket.
    pub listener: TcpListener,
    /// Its TLS, if it has one. Peers without TLS are refused then.
    pub tls: Option<Arc<ServerTls>>,
}

/// The port and the socket of computes and gRPC callers.
pub(crate) struct Listeners {
    /// The port.
    pub port: Port,
    /// The socket on this machine, if there is one.
    pub unix: Option<UnixListener>,
}

/// Serves computes, and returns the connections of gRPC. Ends with the stream.
pub(crate) fn accept_grpc(
    node: Arc<Node>,
    listeners: Listeners,
    limit: Limited,
) -> ReceiverStream<io::Result<Counted>> {
    let (grpc, incoming) = mpsc::channel(WAITING);
    let door = Door { node, grpc };
    if let Some(unix) = listeners.unix {
        let (door, limit) = (door.clone(), limit.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = door.grpc.closed() => {}
                () = local(&door, unix, limit) => {}
            }
        });
    }
    tokio::spawn(async move {
        tokio::select! {
            () = door.grpc.closed() => {}
            () = each(listeners.port, limit, |opened, tls| {
                let door = door.clone();
                tokio::spawn(async move { door.tell_apart(opened, tls).await });
            }) => {}
        }
    });
    ReceiverStream::new(incoming)
}

/// The connections of a port of HTTP.
pub(crate) struct HttpListener {
    incoming: mpsc::Receiver<Counted>,
    address: io::Result<SocketAddr>,
}

/// Accepts connections for HTTP. Ends with the listener.
pub(crate) fn accept_http(node: Arc<Node>, port: Port, limit: Limited) -> HttpListener {
    let address = port.listener.local_addr();
    let (http, incoming) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        tokio::select! {
            () = http.closed() => {}
            () = each(port, limit, |opened, tls| {
                let (node, http) = (Arc::clone(&node), http.clone());
                tokio::spawn(async move {
                    if let Some((counted, _)) = opened.secured(&node, tls).await {
                        // The service is gone when the server stops.
                        let _ = http.send(counted.with_idle_limit(HTTP_IDLE)).await;
                    }
                });
            }) => {}
        }
    });
    HttpListener { incoming, address }
}

impl axum::serve::Listener for HttpListener {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        match self.incoming.recv().await {
            Some(counted) => {
                let from = match counted.peer() {
                    Peer::Address(addr) => addr,
                    Peer::User(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
                };
                (counted, from)
            }
            // The runtime ends, and the service with it.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.address {
            Ok(addr) => Ok(*addr),
            Err(error) => Err(io::Error::from(error.kind())),
        }
    }
}

/// Accepts connections of a port within the limit.
async fn each(port: Port, limit: Limited, serve: impl Fn(Opened, Option<Arc<ServerConfig>>)) {
    loop {
        match port.listener.accept().await {
            Ok((stream, addr)) => {
                let peer = Peer::Address(addr);
                if let Some(permit) = limit.permit(peer) {
                    let tls = port.tls.as_ref().map(|tls| tls.config());
                    serve(
                        Opened {
                            stream,
                            peer,
                            permit,
                        },
                        tls,
                    );
                }
            }
            Err(error) => refused(&error).await,
        }
    }
}

async fn local(door: &Door, listener: UnixListener, limit: Limited) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(user) = stream.peer_cred() else {
                    continue;
                };
                let peer = Peer::User(user.uid());
                if let Some(permit) = limit.permit(peer) {
                    let door = door.clone();
                    tokio::spawn(async move { door.local(stream, peer, permit).await });
                }
            }
            Err(error) => refused(&error).await,
        }
    }
}

async fn refused(error: &io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(PAUSE).await;
}

/// A TCP connection from which nothing was read yet.
struct Opened {
    stream: TcpStream,
    peer: Peer,
    permit: Permit,
}

impl Opened {
    /// The first byte that the peer sends; `None` if it sends none in time.
    async fn first_byte(&self) -> Option<u8> {
        let _ = self.stream.set_nodelay(true);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE)
            .with_retries(2);
        let _ = SockRef::from(&self.stream).set_tcp_keepalive(&keepalive);
        let mut first = [0];
        match tokio::time::timeout(PATIENCE, self.stream.peek(&mut first)).await {
            Ok(Ok(1)) => Some(first[0]),
            // The peer is gone, or says nothing.
            _ => None,
        }
    }

    /// The connection after its TLS handshake, if it needs one, and its first byte.
    async fn secured(
        mut self,
        node: &Node,
        tls: Option<Arc<ServerConfig>>,
    ) -> Option<(Counted, u8)> {
        let first = self.first_byte().await?;
        let transport = match tls {
            None => Transport::Tcp(self.stream),
            Some(_) if first != TLS_HANDSHAKE => {
                node.metrics.tls_failures.inc();
                self.refuse_plaintext(first).await;
                return None;
            }
            Some(config) => {
                let handshake = TlsAcceptor::from(config).accept(self.stream);
                let outcome = match tokio::time::timeout(PATIENCE, handshake).await {
                    Ok(outcome) => outcome,
                    Err(_) => Err(ErrorKind::TimedOut.into()),
                };
                match outcome {
                    Ok(stream) => Transport::Tls(Box::new(stream)),
                    Err(error) => {
                        node.metrics.tls_failures.inc();
                        tracing::debug!(peer = %self.peer, %error, "a TLS handshake failed");
                        return None;
                    }
                }
            }
        };
        let counted = Counted::new(transport, self.peer, self.permit);
        Some((counted, first))
    }

    /// Says in the peer's protocol that it must use TLS.
    async fn refuse_plaintext(&mut self, first: u8) {
        let answer = if first == MAGIC[0] {
            let why = "this server requires TLS: set innodb_page_server_tls_ca to a copy of the project's ca.pem";
            compute::refusal(&Status::unauthenticated(why))
        } else {
            format!(
                "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{SPEAK_TLS}",
                SPEAK_TLS.len()
            )
            .into_bytes()
        };
        // A peer that does not take it is not waited for.
        let _ = self.stream.try_write(&answer);
        let _ = self.stream.shutdown().await;
        // Closed with unread bytes, the peer would lose the answer.
        let rest = async {
            let mut rest = [0; 4096];
            for _ in 0..LAST_READS {
                match self.stream.read(&mut rest).await {
                    Ok(count) if count > 0 => {}
                    _ => break,
                }
            }
        };
        let _ = tokio::time::timeout(LAST_PATIENCE, rest).await;
    }
}

/// Hands connections to computes' threads and to gRPC.
#[derive(Clone)]
struct Door {
    node: Arc<Node>,
    grpc: mpsc::Sender<io::Result<Counted>>,
}

impl Door {
    async fn tell_apart(self, opened: Opened, tls: Option<Arc<ServerConfig>>) {
        let Some((counted, first)) = opened.secured(&self.node, tls).await else {
            return;
        };
        let (transport, peer, permit) = counted.into_parts();
        let transport = match transport {
            Transport::Tcp(stream) if first == MAGIC[0] => {
                if let Ok(stream) = stream.into_std() {
                    compute::serve(self.node, Channel::plain(stream.into()), permit);
                }
                return;
            }
            Transport::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(PROTOCOL) => {
                let (stream, connection) = stream.into_inner();
                if let Ok(stream) = stream.into_std() {
                    let channel = Channel::tls(stream.into(), connection);
                    compute::serve(self.node, channel, permit);
                }
                return;
            }
            other => other,
        };
        self.serve_grpc(Counted::new(transport, peer, permit)).await;
    }

    async fn local(self, stream: UnixStream, peer: Peer, permit: Permit) {
        match tokio::time::timeout(PATIENCE, peek(&stream)).await {
            Ok(Ok(first)) if first == MAGIC[0] => {
                if let Ok(stream) = stream.into_std() {
                    compute::serve(self.node, Channel::plain(stream.into()), permit);
                }
            }
            Ok(Ok(_)) if may_call(peer) => {
                let transport = Transport::Unix(stream);
                self.serve_grpc(Counted::new(transport, peer, permit)).await;
            }
            Ok(Ok(_)) => tracing::warn!(
                "refused gRPC of {peer} on the Unix socket, where it is for the server's user and root"
            ),
            // The peer is gone, or says nothing.
            _ => {}
        }
    }

    async fn serve_grpc(&self, counted: Counted) {
        // The service is gone when the server stops.
        let _ = self.grpc.send(Ok(counted)).await;
    }
}

/// Whether gRPC on the Unix socket is for `peer`. Computes, which may have an account of
/// their own, have their own protocol there.
fn may_call(peer: Peer) -> bool {
    let own = rustix::process::geteuid().as_raw();
    matches!(peer, Peer::User(uid) if uid == own || uid == 0)
}

/// The first byte that has arrived, which stays there.
async fn peek(stream: &UnixStream) -> io::Result<u8> {
    let mut first = [0];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let look = || Ok(rustix::net::recv(stream, &mut first[..], flags)?.0);
    match stream.async_io(Interest::READABLE, look).await? {
        1 => Ok(first[0]),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}
