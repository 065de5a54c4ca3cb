//! Accepts connections: of computes on a Unix socket, and of computes and gRPC callers
//! on one port, which their first byte tells apart.

use super::connection;
use crate::connections::{Counted, Limited};
use crate::node::Node;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use xylem_wire::MAGIC;

/// How long a peer may take to send its first byte.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause after the system refused a connection, for lack of descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections of gRPC that wait for their service.
const WAITING: usize = 64;

/// Where computes connect to.
pub(crate) struct Listeners {
    /// The port that they share with gRPC.
    pub tcp: TcpListener,
    /// The socket on this machine, if there is one.
    pub unix: Option<UnixListener>,
}

/// Serves computes, and returns the connections of gRPC. Ends with the stream.
pub(crate) fn accept(
    node: Arc<Node>,
    listeners: Listeners,
    limit: Limited,
) -> ReceiverStream<io::Result<Counted>> {
    let (grpc, incoming) = mpsc::channel(WAITING);
    if let Some(unix) = listeners.unix {
        let (node, limit, closed) = (Arc::clone(&node), limit.clone(), grpc.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = closed.closed() => {}
                () = local(node, unix, limit) => {}
            }
        });
    }
    tokio::spawn(async move {
        tokio::select! {
            () = grpc.closed() => {}
            () = remote(node, listeners.tcp, limit, &grpc) => {}
        }
    });
    ReceiverStream::new(incoming)
}

async fn local(node: Arc<Node>, listener: UnixListener, limit: Limited) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some(permit) = limit.permit()
                    && let Ok(stream) = stream.into_std()
                {
                    connection::spawn(Arc::clone(&node), stream.into(), permit);
                }
            }
            Err(error) => refused(&error).await,
        }
    }
}

async fn remote(
    node: Arc<Node>,
    listener: TcpListener,
    limit: Limited,
    grpc: &mpsc::Sender<io::Result<Counted>>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Some(counted) = limit.admit(stream) {
                    tokio::spawn(tell_apart(Arc::clone(&node), counted, grpc.clone()));
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

async fn tell_apart(node: Arc<Node>, counted: Counted, grpc: mpsc::Sender<io::Result<Counted>>) {
    let mut first = [0];
    let stream: &TcpStream = counted.stream();
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == MAGIC[0] => {
            let (stream, permit) = counted.into_parts();
            if let Ok(stream) = stream.into_std() {
                connection::spawn(node, stream.into(), permit);
            }
        }
        // The service is gone when the server stops.
        Ok(Ok(1)) => drop(grpc.send(Ok(counted)).await),
        // The peer is gone, or says nothing.
        _ => {}
    }
}
