//! Whether this server may still acknowledge commits: docs/server.md, "One
//! server at a time", has the protocol and its interleavings.

use crate::config::WalStore;
use crate::config::{OnStoreOutage, ServerConfig};
use crate::project::catalog::{Catalog, CatalogError};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Where no lease runs, the project is looked after this often.
const LOOK: Duration = Duration::from_secs(10);
/// Looks at the store while a lease runs: so many fit into it.
const LOOKS: u32 = 3;

/// How long after another server's claim this one may acknowledge commits.
/// Zero where the WAL itself refuses a server that has lost it: every
/// acknowledgement then comes from the store.
pub(crate) fn lease(config: &ServerConfig) -> Duration {
    match config.wal_store {
        WalStore::Local => config.ownership_lease.0,
        WalStore::Object => Duration::ZERO,
    }
}

/// How often to ask the store whose the project is. `exclusive`: no other
/// server can have it open.
pub(crate) fn look_interval(config: &ServerConfig, exclusive: bool) -> Duration {
    match exclusive || lease(config).is_zero() {
        true => LOOK,
        false => (lease(config) / LOOKS).min(LOOK),
    }
}

/// Waits until the server that had the project before acknowledges nothing
/// more. Blocking, on a thread of a runtime.
///
/// # Errors
/// [`CatalogError::Lost`] when another server has claimed it meanwhile.
pub(crate) fn wait_out(catalog: &Catalog) -> Result<(), CatalogError> {
    let lease = catalog.found_lease();
    if lease.is_zero() {
        return Ok(());
    }
    // Clocks of two machines do not run at the same rate.
    let wait = lease + lease / 4;
    tracing::warn!(
        wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        "another server may have served this project until now and did not stop in order: waiting until it acknowledges nothing more"
    );
    Handle::current().block_on(tokio::time::sleep(wait));
    match catalog.look() {
        Err(lost @ CatalogError::Lost { .. }) => Err(lost),
        _ => Ok(()),
    }
}

/// Whether a commit may be acknowledged now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// It may.
    Yes,
    /// Not before the store has said again whose the project is.
    Doubtful,
    /// Never again.
    Lost,
}

/// This server's right to acknowledge commits.
pub(crate) struct Ownership {
    catalog: Arc<Catalog>,
    /// The right needs a proof no older than this.
    bound: Option<Duration>,
}

impl Ownership {
    pub(crate) fn new(catalog: Arc<Catalog>, config: &ServerConfig) -> Ownership {
        let lease = lease(config);
        let bounded = config.on_store_outage == OnStoreOutage::Stop && !lease.is_zero();
        Ownership {
            catalog,
            bound: bounded.then_some(lease),
        }
    }

    /// The right at this moment.
    pub(crate) fn right(&self) -> Right {
        if self.catalog.lost().is_cancelled() {
            return Right::Lost;
        }
        match self.bound {
            Some(bound) if self.catalog.proof_age() >= bound => Right::Doubtful,
            _ => Right::Yes,
        }
    }

    /// Wakes when a doubtful right may have become another.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.catalog.renewals()
    }

    /// Why commits wait, if they do.
    pub(crate) fn doubt(&self) -> Option<String> {
        (self.right() == Right::Doubtful).then(|| {
            format!(
                "the store has not said for {} s whose the project is: commits wait until it does (on_store_outage is stop)",
                self.catalog.proof_age().as_secs()
            )
        })
    }
}
