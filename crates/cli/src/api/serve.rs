//! Takes connections, with TLS and limits, until it is told to stop.

use super::routes;
use super::{Api, events};
use crate::compute::record;
use crate::failure::Failure;
use anyhow::Result;
use axum::Extension;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use xylem_peers::{Hosts, TooMany};
use xylem_tls::ServerTls;

/// Most connections at a time.
const CONNECTIONS_MAX: usize = 512;
/// Most connections of one host beyond loopback at a time.
const HOST_CONNECTIONS_MAX: usize = 128;
/// How long a client may take for the handshake of TLS, and for the head of a request.
const CLIENT_LIMIT: Duration = Duration::from_secs(10);
/// How long the system keeps what a client does not take.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How often the files of the certificate, and processes that have ended, are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);
/// How long operations and answers may take when the API stops.
pub const DRAIN: Duration = Duration::from_secs(30);

/// The names of HTTP in TLS (ALPN).
pub const PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// Refuses to listen where other machines reach it without TLS.
///
/// # Errors
/// When it would.
pub fn check_address(listen: SocketAddr, tls: bool, allow_plaintext: bool) -> Result<()> {
    if tls || allow_plaintext || listen.ip().is_loopback() {
        return Ok(());
    }
    Err(Failure::usage(
        format!("without TLS the API does not listen on {listen}: tokens would be seen on the way"),
        "leave --plaintext out, listen on 127.0.0.1, or, on a network that you trust, give --allow-plaintext",
    ))
}

/// Serves until `shutdown` completes, then until the operations that go on have ended, for
/// [`DRAIN`] at most.
pub async fn serve(
    api: Api,
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    shutdown: impl Future<Output = ()>,
) {
    let router = routes::router(api.clone());
    let watch = tokio::spawn(events::watch(api.clone()));
    if let Some(tls) = tls.clone() {
        tokio::spawn(refresh(tls));
    }
    let reap = tokio::spawn(reap(api.clone()));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let hosts = Hosts::new(HOST_CONNECTIONS_MAX);
    let mut told = false;
    let accept = async {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("refusing connections: there are {CONNECTIONS_MAX}");
                }
                continue;
            };
            told = false;
            let place = match hosts.admit(from.ip()) {
                Ok(place) => place,
                Err(TooMany { host, is_first }) => {
                    if is_first {
                        tracing::warn!(
                            "refusing connections of {host}: it has {HOST_CONNECTIONS_MAX}"
                        );
                    }
                    continue;
                }
            };
            let (api, tls) = (api.clone(), tls.clone());
            let router = router.clone().layer(Extension(ConnectInfo(from)));
            tokio::spawn(async move {
                let _counted = (permit, place);
                prepare(&stream);
                match tls {
                    None => talk(&api, stream, router).await,
                    Some(tls) => {
                        let acceptor = TlsAcceptor::from(tls.config());
                        let secured = acceptor.accept(stream);
                        match tokio::time::timeout(CLIENT_LIMIT, secured).await {
                            Ok(Ok(stream)) => talk(&api, stream, router).await,
                            Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS"),
                            Err(_) => tracing::debug!(%from, "no TLS in time"),
                        }
                    }
                }
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop(listener);
    // What waits for its turn gives up; what has begun is finished.
    api.app.stopping.cancel();
    api.stopping.cancel();
    api.operations.drain(DRAIN).await;
    // The answers to those who wait for them.
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(Duration::from_secs(2), permits.acquire_many(all)).await;
    watch.abort();
    reap.abort();
}

/// Lets the system end a connection whose client takes nothing, and send answers at once.
fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_user_timeout(Some(STALL_LIMIT));
    let _ = socket.set_tcp_nodelay(true);
}

async fn talk<S>(api: &Api, stream: S, router: axum::Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = api.stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Collects what this process has started and has ended.
async fn reap(api: Api) {
    loop {
        tokio::time::sleep(LOOK).await;
        let state = api.app.state.clone();
        let looked = tokio::task::spawn_blocking(move || {
            for (_, record) in record::list(&state) {
                record.process.reap();
            }
            if let Some(server) = state.server_record() {
                server.process.reap();
            }
        });
        let _ = looked.await;
    }
}

/// Takes the files of the certificate when they have changed.
async fn refresh(tls: Arc<ServerTls>) {
    loop {
        tokio::time::sleep(LOOK).await;
        match tls.refresh() {
            Ok(false) => {}
            Ok(true) => tracing::info!("took a new certificate: its files have changed"),
            Err(error) => {
                tracing::error!(%error, "cannot take a new certificate: the old one stays in use");
            }
        }
    }
}
