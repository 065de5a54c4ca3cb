//! The gateway's view of a project.

use crate::refusal::Refusal;
use futures::future::BoxFuture;
use std::net::{IpAddr, SocketAddr};

/// The computes of a project.
pub trait Computes: Send + Sync + 'static {
    /// Finds the compute of `branch`, the default branch if it is `None`, and starts it
    /// if it does not run. Many callers may ask for one branch at the same time.
    ///
    /// # Errors
    /// When there is no such branch, or its compute does not start. `from` is the
    /// client's address: an error for another machine tells less.
    fn reach<'a>(
        &'a self,
        branch: Option<&'a str>,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<Reached, Refusal>>;
}

/// A compute that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its branch.
    pub branch: String,
    /// The address it listens on. It must take headers of proxies from the gateway.
    pub address: SocketAddr,
}
