//! The sessions of each branch, and the gate that keeps clients from a compute that is
//! about to sleep.

use crate::conversation::Conversation;
use crate::metrics::{BranchMetrics, Metrics};
use crate::park::Account;
use crate::pool::{Place, Pool};
use crate::route::branch_of;
use crate::secure::Known;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, RwLock, oneshot};

/// The branches that clients are on or ask for.
#[derive(Debug, Default)]
pub(crate) struct Branches(Mutex<HashMap<String, Arc<Branch>>>);

/// A branch.
#[derive(Debug, Default)]
pub(crate) struct Branch {
    /// Held for reading while a client goes to the compute, until its session is listed
    /// here, which may be before its login is finished; for writing while the compute is
    /// being ended.
    pub gate: Arc<RwLock<()>>,
    /// The places on the compute.
    pub pool: Arc<Pool>,
    /// The sessions on the compute, by their numbers there.
    sessions: Mutex<HashMap<u32, Arc<Handle>>>,
    /// The compute's last answer about TLS.
    pub secure: tokio::sync::Mutex<Option<Known>>,
    /// Statements of the gateway's own on the compute that is this process, apart from those of
    /// the task that watches it.
    own: Mutex<(String, u64)>,
    /// Its metrics, once a client has logged in on it, so that it exists.
    metrics: OnceLock<BranchMetrics>,
}

impl Branches {
    /// The branch of this name, which need not exist.
    pub fn get(&self, name: &str) -> Arc<Branch> {
        let mut all = self.0.lock();
        if let Some(known) = all.get(name) {
            return Arc::clone(known);
        }
        let branch = Arc::default();
        all.insert(name.to_owned(), Arc::clone(&branch));
        branch
    }

    /// Forgets a name that a client made up, or a moment, unless another one uses it.
    pub fn forget(&self, name: &str) {
        let mut all = self.0.lock();
        let unused = |branch: &Arc<Branch>| {
            Arc::strong_count(branch) == 1
                && (branch.metrics().is_none() || branch_of(name) != name)
        };
        if all.get(name).is_some_and(unused) {
            all.remove(name);
        }
    }
}

impl Branch {
    /// A client has logged in.
    pub fn exists(&self, name: &str, metrics: &Metrics) -> &BranchMetrics {
        self.metrics.get_or_init(|| metrics.of(branch_of(name)))
    }

    /// Its metrics, if it is known to exist.
    pub fn metrics(&self) -> Option<&BranchMetrics> {
        self.metrics.get()
    }

    /// Lists a session by its number on the compute, until the entry is dropped.
    pub fn enter(
        self: &Arc<Branch>,
        inner: u32,
        process: String,
        conversation: Conversation,
        place: Option<Place>,
    ) -> Entered {
        let handle = Arc::new(Handle::new(process, conversation));
        self.sessions.lock().insert(inner, Arc::clone(&handle));
        Entered {
            branch: Arc::clone(self),
            inner,
            handle,
            place,
        }
    }

    /// The gateway itself has had `statements` executed on the compute that is this process.
    pub fn count_own(&self, process: &str, statements: u64) {
        let mut own = self.own.lock();
        if own.0 != process {
            *own = (process.to_owned(), 0);
        }
        own.1 += statements;
    }

    /// How many that were.
    pub fn own_statements(&self, process: &str) -> u64 {
        let own = self.own.lock();
        if own.0 == process { own.1 } else { 0 }
    }

    /// The sessions by their numbers on the compute that is this process, and how often
    /// something was said in each.
    pub fn sessions(&self, process: &str) -> HashMap<u32, (Arc<Handle>, u64)> {
        let sessions = self.sessions.lock();
        sessions
            .iter()
            .filter(|(_, handle)| handle.process == process)
            .map(|(id, handle)| (*id, (Arc::clone(handle), handle.spoken())))
            .collect()
    }
}

/// A session that is listed.
#[derive(Debug)]
pub(crate) struct Entered {
    branch: Arc<Branch>,
    inner: u32,
    /// The requests to it.
    pub handle: Arc<Handle>,
    /// Its place on the compute, once it has logged in.
    pub place: Option<Place>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut sessions = self.branch.sessions.lock();
        // A compute that was started anew counts from 1 again.
        if sessions
            .get(&self.inner)
            .is_some_and(|known| Arc::ptr_eq(known, &self.handle))
        {
            sessions.remove(&self.inner);
        }
    }
}

/// A session, as others see it: its course, and requests to it.
#[derive(Debug)]
pub(crate) struct Handle {
    /// The course of the session.
    pub conversation: Mutex<Conversation>,
    /// The process of the compute: others count their sessions from 1 as well.
    pub process: String,
    /// The account of the session, once the compute has told it; `None`: it cannot be had
    /// again.
    pub account: OnceLock<Option<Account>>,
    /// How often the client or the compute has said something.
    spoken: AtomicU64,
    asked: Notify,
    request: Mutex<Option<Request>>,
}

/// A request to leave the compute.
#[derive(Debug)]
pub(crate) struct Request {
    /// The account of the session.
    pub account: Account,
    /// [`Handle::spoken`] from before the compute was asked about the session.
    spoken: u64,
    /// Told whether the session has left, or why it has not.
    pub left: oneshot::Sender<Result<(), String>>,
}

impl Handle {
    /// A session of which nothing was asked yet.
    pub fn new(process: String, conversation: Conversation) -> Handle {
        Handle {
            process,
            conversation: Mutex::new(conversation),
            account: OnceLock::new(),
            spoken: AtomicU64::new(0),
            asked: Notify::new(),
            request: Mutex::default(),
        }
    }

    /// Asks the session to leave its compute. The receiver is told whether it has, or is
    /// dropped when the session ends. A session in which something was said since `spoken`
    /// was read stays: the compute's word about it is old.
    pub fn park(&self, account: Account, spoken: u64) -> oneshot::Receiver<Result<(), String>> {
        let (left, answer) = oneshot::channel();
        *self.request.lock() = Some(Request {
            account,
            spoken,
            left,
        });
        self.asked.notify_one();
        answer
    }

    /// The client or the compute has said something.
    pub fn speak(&self) {
        self.spoken.fetch_add(1, SeqCst);
    }

    /// How often something was said.
    pub fn spoken(&self) -> u64 {
        self.spoken.load(SeqCst)
    }

    /// Whether nothing was said since the compute was asked.
    pub fn is_silent(&self) -> bool {
        let request = self.request.lock();
        request
            .as_ref()
            .is_some_and(|request| request.spoken == self.spoken())
    }

    /// Waits for a request.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Says that the session cannot leave now.
    pub fn refuse(&self) {
        if let Some(request) = self.take() {
            let _ = request.left.send(Err("a client speaks".to_owned()));
        }
    }

    /// The request, once.
    pub fn take(&self) -> Option<Request> {
        self.request.lock().take()
    }
}
