//! The gateway's view of a project.

use crate::refusal::Refusal;
use futures::future::BoxFuture;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The computes of a project.
pub trait Computes: Send + Sync + 'static {
    /// The branch of clients that name none.
    fn default_branch(&self) -> &str;

    /// The name by which the compute is known that a client names: another one for a moment
    /// (`main~5min`), whose meaning depends on the present.
    ///
    /// # Errors
    /// When there is no such branch, or its history does not reach there. `from` is as for
    /// [`Computes::reach`].
    fn settle<'a>(&'a self, name: &'a str, from: IpAddr) -> BoxFuture<'a, Result<String, Refusal>>;

    /// Finds the compute of `branch`, and starts it if it does not run. Many callers may
    /// ask for one branch at the same time.
    ///
    /// # Errors
    /// When there is no such branch, or its compute does not start. `from` is the
    /// client's address: an error for another machine tells less.
    fn reach<'a>(
        &'a self,
        branch: &'a str,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<Reached, Refusal>>;

    /// The computes that run, and those that sleep and want to be woken at some time.
    fn look(&self) -> Vec<Seen>;

    /// The compute that runs as `branch`'s, as of now, and after which time without use it
    /// may fall asleep, if it may.
    fn look_at(&self, branch: &str) -> Option<(Reached, Option<Duration>)>;

    /// Whether the process of a compute is alive.
    fn is_alive(&self, reached: &Reached) -> bool;

    /// Ends the compute `reached`, which nobody uses, until the next [`Computes::reach`].
    ///
    /// # Errors
    /// When it is another one by now, or does not end: the reason.
    fn suspend<'a>(
        &'a self,
        reached: &'a Reached,
        sleep: &'a Sleep,
    ) -> BoxFuture<'a, Result<(), String>>;
}

/// A compute that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its branch, or the moment of a branch that it shows.
    pub branch: String,
    /// The branch's id: another branch may get the name.
    pub branch_id: String,
    /// Its process: another start has another one.
    pub process: String,
    /// The address it listens on. It must take headers of proxies from the gateway.
    pub address: SocketAddr,
    /// The way of Xylem's own account to it.
    pub own: OwnWay,
    /// The most sessions that clients of the gateway may have on it at a time; `None`: no
    /// limit.
    pub pool: Option<usize>,
    /// How long its start took, for the caller that has started it.
    pub started: Option<Duration>,
}

/// State of a compute that sleeps, for its next start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sleep {
    /// The time of its next event, in seconds since 1970.
    pub wake_at: Option<u64>,
    /// Statements that set its global variables.
    pub globals: Vec<String>,
}

/// The way of Xylem's own account, which may do everything, to a compute.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnWay {
    /// The compute's Unix socket.
    pub socket: PathBuf,
    /// The account's name.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl fmt::Debug for OwnWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnWay")
            .field("socket", &self.socket)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A compute that concerns the gateway without a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It runs.
    Runs(String),
    /// It sleeps until then, in seconds since 1970.
    WakeAt(String, u64),
}
