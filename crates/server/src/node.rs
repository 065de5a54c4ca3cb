//! The state of a running server, shared by all calls.

use crate::access::{Access, Bearer};
use crate::branch::live::{InUse, OpenBranch, Surroundings};
use crate::branch::registry::Branches;
use crate::config::ServerConfig;
use crate::metrics::{Metrics, StreamGuard, StreamKind};
use crate::ownership::Ownership;
use crate::project::catalog::Catalog;
use crate::wals::Wals;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use xylem_pages::Store;

/// Limit of concurrent calls about many branches; further calls wait.
const SURVEYS_MAX: usize = 4;
/// Limit of concurrent imports; further ones are refused.
const IMPORTS_MAX: usize = 4;

/// The phase of a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The server listens, and opens its branches.
    Starting,
    /// The server answers calls.
    Ready,
    /// The server was told to stop: open streams may finish, and no call begins.
    Stopping,
}

impl Phase {
    /// The value of `StatusResponse.state`.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Stopping => "stopping",
        }
    }
}

/// A server: shared by every call.
pub struct Node {
    /// The server's settings.
    pub config: ServerConfig,
    /// Decides whether callers are admitted.
    pub access: Access,
    /// The server's metrics.
    pub metrics: Arc<Metrics>,
    /// Limits the page reads that block a thread.
    pub page_pool: Arc<Semaphore>,
    /// Limits the calls that look at many branches or at their history. It is separate
    /// from `page_pool`, since page reads must not wait for those calls.
    pub survey_pool: Arc<Semaphore>,
    /// Limits concurrent imports, each of which takes a thread.
    pub import_pool: Arc<Semaphore>,
    phase: watch::Sender<Phase>,
    open: OnceLock<Opened>,
    streams: TaskTracker,
    end_streams: CancellationToken,
}

/// The state of a server once its branches are open.
pub struct Opened {
    /// The page store.
    pub store: Arc<Store>,
    /// The WALs of all branches.
    pub wals: Wals,
    /// The catalogue, which decides which branches exist.
    pub catalog: Arc<Catalog>,
    /// Whether commits may be acknowledged.
    pub(crate) ownership: Arc<Ownership>,
    /// The branches of the catalogue.
    pub branches: Branches,
    /// Locked while branches are created, removed or renamed.
    pub changes: tokio::sync::Mutex<()>,
    /// Why the outcome of the last change is unknown; `None` when it is known.
    pub unsettled: watch::Sender<Option<String>>,
    /// Entries of the folders of branches that belong to no branch.
    pub strange: Vec<String>,
}

impl Opened {
    /// Bytes of memory that pages and WALs hold.
    pub fn memory_used(&self) -> u64 {
        self.store.memory_used() + self.wals.memory_used()
    }
}

/// Counts a stream as open until it is dropped, and says when the stream must end.
pub struct StreamTicket {
    /// Cancelled when `stop_grace` is over, or the branch is removed or reopened.
    pub end: CancellationToken,
    /// How long the caller may leave an answer untaken.
    pub stall: Duration,
    _in_use: InUse,
    _tracked: TaskTrackerToken,
    _counted: StreamGuard,
}

impl Node {
    /// A server that has not opened anything yet.
    pub fn new(config: ServerConfig, access: Access) -> Node {
        Node {
            access,
            page_pool: Arc::new(Semaphore::new(config.page_threads)),
            survey_pool: Arc::new(Semaphore::new(SURVEYS_MAX)),
            import_pool: Arc::new(Semaphore::new(IMPORTS_MAX)),
            config,
            metrics: Arc::new(Metrics::new()),
            phase: watch::Sender::new(Phase::Starting),
            open: OnceLock::new(),
            streams: TaskTracker::new(),
            end_streams: CancellationToken::new(),
        }
    }

    /// The caller that sent `token`; a refusal is counted.
    ///
    /// # Errors
    /// UNAUTHENTICATED when it is missing or not valid now.
    pub(crate) fn bearer(&self, token: Option<&[u8]>) -> Result<Bearer, Status> {
        self.access.bearer(token).inspect_err(|_| {
            self.metrics.unauthenticated.inc();
        })
    }

    /// The server's present phase.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Makes the server answer calls, unless it is stopping.
    pub fn set_ready(&self, opened: Opened) {
        if self.open.set(opened).is_ok() {
            self.phase.send_if_modified(|phase| {
                let starting = *phase == Phase::Starting;
                if starting {
                    *phase = Phase::Ready;
                }
                starting
            });
        }
    }

    /// Makes the server refuse new calls.
    pub fn set_stopping(&self) {
        self.phase.send_replace(Phase::Stopping);
        self.streams.close();
    }

    /// Completes when the server is told to stop.
    pub async fn stopping(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as `self`.
        let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    }

    /// Waits until no stream is open. Call [`Node::set_stopping`] first.
    pub async fn streams_ended(&self) {
        self.streams.wait().await;
    }

    /// Ends every stream.
    pub fn end_streams(&self) {
        self.end_streams.cancel();
    }

    /// The opened project; `None` while starting.
    pub fn opened(&self) -> Option<&Opened> {
        self.open.get()
    }

    /// The parts of the server that a branch uses. The branch's streams end with the
    /// server's at the latest.
    pub fn surroundings(&self) -> Surroundings {
        Surroundings {
            metrics: Arc::clone(&self.metrics),
            end: self.end_streams.child_token(),
            clock: self.config.clock.clone(),
        }
    }

    /// Registers a stream on `branch`.
    pub fn stream(&self, kind: StreamKind, branch: &Arc<OpenBranch>) -> StreamTicket {
        StreamTicket {
            end: branch.end.clone(),
            stall: self.config.stall_timeout,
            _in_use: branch.in_use(),
            _tracked: self.streams.token(),
            _counted: self.metrics.stream(kind),
        }
    }

    /// Why the server is not ready, one line per reason; empty when it is ready.
    pub fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.phase() != Phase::Ready {
            reasons.push(format!("server: {}", self.phase().as_str()));
        }
        let Some(opened) = self.opened() else {
            return reasons;
        };
        if let Some(lost) = opened.catalog.why_lost() {
            reasons.push(format!("project: {lost}"));
        }
        if let Some(doubt) = opened.ownership.doubt() {
            reasons.push(format!("project: {doubt}"));
        }
        if let Some(unsettled) = &*opened.unsettled.borrow() {
            reasons.push(format!("project: {unsettled}"));
        }
        for branch in opened.branches.all() {
            if let Some(reason) = branch.broken() {
                reasons.push(format!("branch {}: {reason}", branch.name()));
            }
        }
        for (name, branch) in opened.branches.all_closed() {
            reasons.push(format!("branch {name}: it is not open: {}", branch.why));
        }
        reasons
    }

    /// Everything counted, as text for a scrape.
    pub fn scrape(&self) -> String {
        if let Some(opened) = self.opened() {
            for branch in opened.branches.all() {
                self.metrics.set_branch(&branch.name(), &branch.state());
            }
            for (name, _) in opened.branches.all_closed() {
                self.metrics.set_closed(&name);
            }
            self.metrics
                .set_memory(opened.memory_used(), self.config.memory.0);
        }
        self.metrics.encode()
    }
}
