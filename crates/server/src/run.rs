//! Runs a server: locks the directory, listens, opens the project, serves, stops.

use crate::accept::{self, Listeners, Port};
use crate::access::Access;
use crate::allocator::limit_arenas;
use crate::branch::leases;
use crate::certificates::Keeper;
use crate::config::ServerConfig;
use crate::connections::Limited;
use crate::error::ServerError;
use crate::lock::DirLock;
use crate::node::Node;
use crate::rpc::{Authenticate, ControlService, InspectService, MESSAGE_BYTES_MAX, PageService};
use crate::{http, open, ownership, watch};
use socket2::{Domain, SockAddr, Socket, Type};
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;
use xylem_pages::place::Place;
use xylem_proto::control::control_server::{ControlServer, SERVICE_NAME as CONTROL_SERVICE};
use xylem_proto::inspect::inspect_server::{InspectServer, SERVICE_NAME as INSPECT_SERVICE};
use xylem_proto::pageserver::page_server_server::{PageServerServer, SERVICE_NAME as PAGE_SERVICE};

/// HTTP/2 window of a stream: the redo that is received but not yet handed to the WAL.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// HTTP/2 window of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest HTTP/2 frame: large enough for an answer with a page of 64 KiB.
const FRAME_BYTES_MAX: u32 = 256 << 10;
/// Limit of open connections of HTTP.
const HTTP_CONNECTIONS_MAX: usize = 256;
/// Limit of concurrent calls on one connection; further calls wait at the caller.
const CONNECTION_STREAMS_MAX: u32 = 1024;
/// How long connections may take to close after their streams have ended.
const CONNECTIONS_PATIENCE: Duration = Duration::from_secs(1);
/// How long closing the branches may take at a stop. Work that waits for a store that
/// does not answer is not needed: the next start recovers as after a crash.
const CLOSE_PATIENCE: Duration = Duration::from_secs(20);
/// How long releasing the catalogue may take at a stop.
const RELEASE_PATIENCE: Duration = Duration::from_secs(3);
/// The server pings a connection that is silent for this long.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The server closes a connection that does not answer a ping for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The addresses a server listens on, with the actual ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddrs {
    /// The address of the gRPC service.
    pub grpc: SocketAddr,
    /// The address of metrics and health over HTTP.
    pub http: SocketAddr,
}

/// Builds a runtime with the number of threads that the settings give, the first ones of the
/// process.
///
/// # Errors
/// The threads cannot be started.
pub fn runtime(config: &ServerConfig) -> std::io::Result<tokio::runtime::Runtime> {
    limit_arenas();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.worker_threads)
        .thread_name("xylem-server")
        .enable_all()
        .build()
}

/// Completes at the first SIGTERM or SIGINT. At the second signal the process exits at
/// once with status 1. Needs a runtime.
///
/// # Errors
/// The signal handlers cannot be installed.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
        tracing::info!(
            signal = name,
            "stopping; a second signal ends the process at once"
        );
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::warn!("second signal: the process ends now");
            std::process::exit(1);
        });
    })
}

/// Serves until `shutdown` completes, then stops gracefully. Calls `ready` once, when
/// the branches are open and calls are answered.
///
/// Dropping the future has the effect of a crash: nothing acknowledged is lost.
///
/// # Errors
/// The data directory is in use or damaged, an address cannot be bound, serving fails,
/// or another server has opened the project.
pub async fn run(
    config: ServerConfig,
    ready: impl FnOnce(ListenAddrs),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    serve(config, None, ready, shutdown).await
}

/// As [`run`], on a store that is already open, in place of the one in the settings.
///
/// # Errors
/// As for [`run`].
pub async fn run_on(
    config: ServerConfig,
    place: Arc<dyn Place>,
    ready: impl FnOnce(ListenAddrs),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    serve(config, Some(place), ready, shutdown).await
}

async fn serve(
    config: ServerConfig,
    place: Option<Arc<dyn Place>>,
    ready: impl FnOnce(ListenAddrs),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    std::fs::create_dir_all(&config.data_dir).map_err(|source| {
        ServerError::io(
            format!("cannot create {}", config.data_dir.display()),
            source,
        )
    })?;
    let lock = DirLock::take(&config.data_dir)?;
    let grpc = listen(config.grpc_listen, "--grpc-listen").await?;
    let http = listen(config.http_listen, "--http-listen").await?;
    let unix = config
        .compute_socket
        .as_deref()
        .map(listen_locally)
        .transpose()?;
    let addrs = ListenAddrs {
        grpc: local_addr(&grpc)?,
        http: local_addr(&http)?,
    };
    let access = Access::open(&config)?;
    let mut certificates = Keeper::new(&config, [addrs.grpc, addrs.http]);
    let grpc = Port {
        listener: grpc,
        tls: certificates.port(accept::GRPC_PROTOCOLS)?,
    };
    let http = Port {
        listener: http,
        tls: certificates.port(accept::HTTP_PROTOCOLS)?,
    };
    let certificates = Task(tokio::spawn(certificates.keep()));
    let per_host = config.connections_per_host;
    let limit = Limited::new(config.connections_max, per_host);
    // Of its own: scrapers must not take the place of computes.
    let http_limit = Limited::new(HTTP_CONNECTIONS_MAX, per_host);
    let node = Arc::new(Node::new(config, access));
    let (health, health_service) = tonic_health::server::health_reporter();
    report(&health, ServingStatus::NotServing).await;
    // The threads of computes' connections outlive this call if it is dropped.
    let _end = EndStreams(Arc::clone(&node));
    let mut serving = Serving {
        grpc: serve_grpc(
            Arc::clone(&node),
            Listeners { port: grpc, unix },
            limit,
            health_service,
        )?,
        http: serve_http(Arc::clone(&node), http, http_limit),
    };

    tokio::pin!(shutdown);
    let mut opening = {
        let node = Arc::clone(&node);
        // The task keeps the lock for as long as it may write to the directory.
        tokio::task::spawn_blocking(move || {
            let place = match place {
                Some(place) => place,
                None => {
                    let c = &node.config;
                    crate::place::open(&c.object_store, &c.data_dir, c.cache_size.0)?
                }
            };
            open::open(&node, place).map(|opened| (opened, lock))
        })
    };
    let opened = tokio::select! {
        opened = &mut opening => opened,
        () = &mut shutdown => return Ok(()),
    };
    let (opened, lock) = opened
        .map_err(|error| ServerError::Serve(format!("opening the project failed: {error}")))??;
    let lost = opened.catalog.lost().clone();
    node.set_ready(opened);
    let _care = [
        certificates,
        Task(tokio::spawn(watch::watch(Arc::clone(&node)))),
        Task(tokio::spawn(leases::remove_unused(Arc::clone(&node)))),
    ];
    report(&health, ServingStatus::Serving).await;
    tracing::info!(grpc = %addrs.grpc, http = %addrs.http, version = crate::VERSION, "ready");
    ready(addrs);

    let ended = tokio::select! {
        () = &mut shutdown => Ok(()),
        failed = serving.failed() => Err(failed),
        () = lost.cancelled() => Err(lost_project(&node)),
    };
    if lost.is_cancelled() {
        // Commits acknowledged from here on would be lost.
        let why = lost_project(&node).to_string();
        let branches = node.opened().map(|opened| opened.branches.all());
        for branch in branches.unwrap_or_default() {
            branch.end_because(why.clone());
        }
        node.end_streams();
    }
    if !stop(&node, &health, serving).await {
        // Threads that wait for the store still use the directory. They and the lock end
        // with the process, which does not wait for them.
        std::mem::forget((node, lock));
    }
    ended
}

fn lost_project(node: &Node) -> ServerError {
    match node.opened().and_then(|opened| opened.catalog.why_lost()) {
        Some(lost) => {
            tracing::error!("{lost}");
            lost.into()
        }
        None => ServerError::Serve("another server has opened this project".to_owned()),
    }
}

/// Ends every stream on drop.
struct EndStreams(Arc<Node>);

impl Drop for EndStreams {
    fn drop(&mut self) {
        self.0.end_streams();
    }
}

/// A task that is aborted on drop.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Stops the server. Returns false when threads still wait for the store.
async fn stop(node: &Arc<Node>, health: &HealthReporter, mut serving: Serving) -> bool {
    node.set_stopping();
    report(health, ServingStatus::NotServing).await;
    if tokio::time::timeout(node.config.stop_grace, node.streams_ended())
        .await
        .is_err()
    {
        tracing::info!("ending the streams that are still open");
    }
    node.end_streams();
    serving.grpc.stop.cancel();
    if tokio::time::timeout(CONNECTIONS_PATIENCE, serving.grpc.ended())
        .await
        .is_err()
    {
        tracing::info!("closing the connections that are still open");
    }
    drop(serving);
    let mut closed = true;
    if let Some(opened) = node.opened() {
        closed = open::close(opened, CLOSE_PATIENCE).await;
    }
    if closed {
        closed = release(node).await;
    }
    tracing::info!("stopped");
    closed
}

/// Records in the catalogue that the next server need not wait for this one. Returns
/// false when that does not finish in time.
async fn release(node: &Arc<Node>) -> bool {
    let releasing = Arc::clone(node);
    let released = tokio::task::spawn_blocking(move || {
        let Some(opened) = releasing.opened() else {
            return;
        };
        let nobody_waits = opened.store.place().is_exclusive()
            || ownership::lease(&releasing.config).is_zero()
            || opened.catalog.why_lost().is_some();
        if !nobody_waits && let Err(error) = opened.catalog.release() {
            tracing::warn!(%error, "cannot record the stop in the catalogue: another server waits before it serves");
        }
    });
    tokio::time::timeout(RELEASE_PATIENCE, released)
        .await
        .is_ok()
}

/// The running services.
struct Serving {
    grpc: Service,
    http: Service,
}

impl Serving {
    /// Completes when a service ends unexpectedly.
    async fn failed(&mut self) -> ServerError {
        let (name, message) = tokio::select! {
            message = self.grpc.ended() => ("gRPC", message),
            message = self.http.ended() => ("HTTP", message),
        };
        ServerError::Serve(format!("the {name} service has ended: {message}"))
    }
}

/// The task of a service; it is aborted on drop.
struct Service {
    task: JoinHandle<Result<(), String>>,
    stop: CancellationToken,
}

impl Service {
    fn spawn<E: std::fmt::Display>(
        stop: CancellationToken,
        serve: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Service {
        let task = tokio::spawn(async move { serve.await.map_err(|error| error.to_string()) });
        Service { task, stop }
    }

    async fn ended(&mut self) -> String {
        match (&mut self.task).await {
            Ok(Ok(())) => "it was stopped".to_owned(),
            Ok(Err(message)) => message,
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serve_grpc(
    node: Arc<Node>,
    listeners: Listeners,
    limit: Limited,
    health: HealthServer<impl Health>,
) -> Result<Service, ServerError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(xylem_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let no_reflection =
        |error| ServerError::Serve(format!("cannot describe the services: {error}"));
    let pages = PageServerServer::new(PageService::new(Arc::clone(&node)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    // An interceptor checks the token before a decoder reads the body.
    let authenticate = Authenticate(Arc::clone(&node));
    let inspect = InspectServer::new(InspectService::new(Arc::clone(&node)))
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let incoming = accept::accept_grpc(Arc::clone(&node), listeners, limit);
    let control =
        ControlServer::new(ControlService::new(node)).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(no_reflection)?)
        .add_service(reflection().build_v1alpha().map_err(no_reflection)?)
        .add_service(InterceptedService::new(pages, authenticate.clone()))
        .add_service(InterceptedService::new(inspect, authenticate.clone()))
        .add_service(InterceptedService::new(control, authenticate));
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    Ok(Service::spawn(stop, async move {
        router.serve_with_incoming_shutdown(incoming, stopped).await
    }))
}

fn serve_http(node: Arc<Node>, port: Port, limit: Limited) -> Service {
    let listener = accept::accept_http(Arc::clone(&node), port, limit);
    let router = http::router(node);
    Service::spawn(CancellationToken::new(), async move {
        axum::serve(listener, router).await
    })
}

/// Reports the status of all services to the gRPC health service.
async fn report(health: &HealthReporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    health.set_service_status(PAGE_SERVICE, status).await;
    health.set_service_status(CONTROL_SERVICE, status).await;
    health.set_service_status(INSPECT_SERVICE, status).await;
}

async fn listen(addr: SocketAddr, flag: &'static str) -> Result<TcpListener, ServerError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| ServerError::Bind { addr, flag, source })
}

/// Listens on a Unix socket for computes on this machine. A socket that an earlier server
/// left there is removed, unless a server still listens on it.
fn listen_locally(path: &Path) -> Result<UnixListener, ServerError> {
    let failed = |source| {
        ServerError::io(
            format!("cannot listen on --compute-socket {}", path.display()),
            source,
        )
    };
    match std::fs::symlink_metadata(path) {
        // Anything else than a socket is not ours to remove; binding then fails.
        Ok(there) if there.file_type().is_socket() => {
            if is_served(path).map_err(failed)? {
                return Err(failed(ErrorKind::AddrInUse.into()));
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // As on the loopback port, every user of the machine may connect, and must have the
    // token if there is one.
    let everybody = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(path, everybody).map_err(failed)?;
    Ok(listener)
}

/// Whether a process listens on the socket `path`. Does not wait for it.
fn is_served(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => true,
        // Its backlog is full.
        Err(e) => e.kind() == ErrorKind::WouldBlock,
    })
}

fn local_addr(listener: &TcpListener) -> Result<SocketAddr, ServerError> {
    listener
        .local_addr()
        .map_err(|source| ServerError::io("cannot get the listening address".to_owned(), source))
}
