//! The gateway itself: its listener, its limits and its clients.

use crate::branch::{Branch, Branches};
use crate::computes::{Computes, Reached};
use crate::kill::FIRST_ID;
use crate::login::Greeting;
use crate::metrics::{Counted, Metrics};
use crate::pool;
use crate::refusal::Refusal;
use crate::{session, sleep};
use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::SockRef;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use xylem_ambient::{Clock, Entropy};
use xylem_peers::{Hosts, Place, TooMany};
use xylem_tls::ServerTls;

/// The pause after the system refused a connection, for lack of descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the files of certificates are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The settings of a gateway.
#[derive(Debug)]
pub struct Settings {
    /// The version that the greeting tells, as MariaDB writes it.
    pub version: String,
    /// Its TLS; `None`: clients cannot use TLS.
    pub tls: Option<ServerTls>,
    /// Clients of other machines must use TLS.
    pub require_tls: bool,
    /// The part of a server's name in TLS behind that of a branch: `example.com`, so that
    /// `dev.example.com` names the branch `dev`.
    pub domain: Option<String>,
    /// Limit of open connections.
    pub connections_max: usize,
    /// Limit of open connections of one host.
    pub connections_per_host: usize,
    /// How long connections may go on when the gateway is told to stop.
    pub drain: Duration,
    /// The source of challenges.
    pub entropy: Entropy,
    /// The time.
    pub clock: Clock,
}

/// A gateway.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

/// The state that all connections share.
pub(crate) struct Shared {
    pub settings: Settings,
    pub computes: Arc<dyn Computes>,
    next_id: AtomicU32,
    permits: Arc<Semaphore>,
    hosts: Hosts,
    /// Connections after their login, by their numbers here.
    open: Mutex<HashMap<u32, Open>>,
    /// The sessions of each branch.
    pub branches: Branches,
    pub metrics: Metrics,
    /// The gateway takes no further clients, and starts no compute.
    pub stopping: CancellationToken,
}

struct Open {
    branch: String,
    /// The compute's number.
    inner: u32,
}

/// Removes a connection from the list on drop.
pub(crate) struct Entry<'a>(&'a Shared, u32);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
    }
}

impl Gateway {
    /// A gateway to `computes`.
    pub fn new(settings: Settings, computes: Arc<dyn Computes>) -> Gateway {
        let permits = Arc::new(Semaphore::new(settings.connections_max));
        let hosts = Hosts::new(settings.connections_per_host);
        Gateway(Arc::new(Shared {
            settings,
            computes,
            next_id: AtomicU32::new(FIRST_ID),
            permits,
            hosts,
            open: Mutex::default(),
            branches: Branches::default(),
            metrics: Metrics::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// All metrics in the OpenMetrics text format.
    pub fn scrape(&self) -> String {
        self.0.metrics.scrape()
    }

    /// Serves `listener` until `shutdown` completes, then lets connections go on for the
    /// time that the settings give.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) {
        let tasks = TaskTracker::new();
        let over = CancellationToken::new();
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => self.take(&tasks, &over, stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = self.refresh() => {}
            () = sleep::run(Arc::clone(&self.0)) => {}
            () = shutdown => {}
        }
        drop(listener);
        self.0.stopping.cancel();
        tasks.close();
        let drain = self.0.settings.drain;
        if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
            tracing::info!("closing the connections that are still open");
            over.cancel();
            tasks.wait().await;
        }
    }

    fn take(
        &self,
        tasks: &TaskTracker,
        over: &CancellationToken,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        let (shared, over) = (Arc::clone(&self.0), over.clone());
        let id = shared.number();
        let permit = match shared.permit(peer.ip()) {
            Ok(permit) => permit,
            Err(refusal) => {
                shared.metrics.too_many.inc();
                // Without a greeting, as MariaDB does it. A new connection has room for it.
                let refusal = refusal.encode();
                let mut bytes = crate::packet::header(refusal.len(), 0).to_vec();
                bytes.extend_from_slice(&refusal);
                let _ = SockRef::from(&stream).send(&bytes);
                return;
            }
        };
        tasks.spawn(async move {
            let _open = Counted::one(&shared.metrics.connections);
            tokio::select! {
                () = session::serve(Arc::clone(&shared), stream, peer, id) => {}
                () = over.cancelled() => {}
            }
            drop(permit);
        });
    }

    /// Takes certificates that have changed.
    async fn refresh(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.0.settings.tls.as_ref().map(ServerTls::refresh) {
                Some(Ok(true)) => tracing::info!("took a new certificate: its file has changed"),
                Some(Err(error)) => {
                    tracing::error!(%error, "cannot take the new certificate: the old one stays in use");
                }
                _ => {}
            }
        }
    }
}

impl Shared {
    /// Counts a connection from `ip` until what this returns is dropped.
    fn permit(&self, ip: IpAddr) -> Result<(OwnedSemaphorePermit, Place), Refusal> {
        let Ok(all) = Arc::clone(&self.permits).try_acquire_owned() else {
            return Err(Refusal::too_many(
                "Too many connections: the gateway has as many as it may",
            ));
        };
        let place = self.hosts.admit(ip).map_err(|TooMany { host, is_first }| {
            let max = self.settings.connections_per_host;
            if is_first {
                tracing::warn!(
                    "{host} has {max} connections, as many as --connections-per-host allows: further ones are refused"
                );
            }
            Refusal::too_many(format!(
                "Too many connections: the gateway has {max} from {host}, as many as one host may have"
            ))
        })?;
        Ok((all, place))
    }

    /// A number for a new connection.
    fn number(&self) -> u32 {
        // Wraps within the upper half.
        self.next_id.fetch_add(1, Ordering::Relaxed) | FIRST_ID
    }

    /// The time of day in seconds since 1970.
    pub(crate) fn now_s(&self) -> u64 {
        self.settings.clock.now_us() / 1_000_000
    }

    /// The TLS of a connection that begins now.
    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.settings.tls.as_ref().map(ServerTls::config)
    }

    /// The greeting of connection `id`. It offers what MariaDB 10.11 offers by default.
    pub(crate) fn greeting(&self, id: u32) -> io::Result<Greeting> {
        let mut challenge = [0; 20];
        let random = [self.settings.entropy.next()?, self.settings.entropy.next()?];
        let random = random.iter().flat_map(|number| number.to_le_bytes());
        for (byte, random) in challenge.iter_mut().zip(random) {
            // No NUL, which would end it for some clients.
            *byte = random % 127 + 1;
        }
        let mut caps = OFFERED;
        if self.settings.tls.is_none() {
            caps &= !crate::login::caps::SSL;
        }
        Ok(Greeting {
            version: self.settings.version.as_bytes().to_vec(),
            id,
            challenge,
            caps,
            more_caps: MORE_OFFERED,
            charset: UTF8MB4,
            status: AUTOCOMMIT,
        })
    }

    /// Finds the compute of a branch, and starts it if it does not run.
    pub(crate) async fn reach(
        &self,
        branch: &Branch,
        name: &str,
        from: IpAddr,
    ) -> Result<Reached, Refusal> {
        let mut reached = self.computes.reach(name, from).await;
        if let Some(metrics) = branch.metrics() {
            match &mut reached {
                Ok(compute) => metrics.woken(compute),
                Err(_) => {
                    metrics.wake_failures.inc();
                }
            }
        }
        reached
    }

    /// Finds the compute of a branch as [`Shared::reach`] does, and a place on it.
    pub(crate) async fn reach_place(
        &self,
        branch: &Branch,
        name: &str,
        from: IpAddr,
    ) -> Result<(Reached, pool::Place), Refusal> {
        loop {
            let compute = self.reach(branch, name, from).await?;
            let place = branch.pool.enter(compute.pool, name).await?;
            // It may have died while the client waited for its place.
            if self.computes.is_alive(&compute) {
                return Ok((compute, place));
            }
        }
    }

    /// Lists a connection until the entry is dropped.
    pub(crate) fn enter(&self, id: u32, branch: &str, inner: u32) -> Entry<'_> {
        let open = Open {
            branch: branch.to_owned(),
            inner,
        };
        self.open.lock().insert(id, open);
        Entry(self, id)
    }

    /// The compute's number of connection `id`, if that is on `branch`.
    pub(crate) fn inner_id(&self, id: u32, branch: &str) -> Option<u32> {
        let open = self.open.lock();
        open.get(&id)
            .filter(|open| open.branch == branch)
            .map(|open| open.inner)
    }
}

/// The capabilities of MariaDB 10.11 with TLS. TLS and compression end at the gateway.
const OFFERED: u32 = 0x81ff_fffe;
/// MariaDB's own: progress reports, bulk operations and extended metadata. Not metadata that
/// clients keep (0x10): the next compute of a session does not know which ones those are.
pub(crate) const MORE_OFFERED: u32 = 0x0d;
/// The character set utf8mb4_general_ci.
const UTF8MB4: u8 = 45;
/// `SERVER_STATUS_AUTOCOMMIT`
const AUTOCOMMIT: u16 = 2;
