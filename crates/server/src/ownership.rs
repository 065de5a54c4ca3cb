//! Whether this server may still acknowledge commits. docs/server.md, "One server at a
//! time", describes the protocol and its interleavings.

use crate::config::WalStore;
use crate::config::{OnStoreOutage, ServerConfig};
use crate::project::catalog::{Catalog, CatalogError};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The interval of checks of the project without an ownership lease.
const LOOK: Duration = Duration::from_secs(10);
/// The number of checks within one ownership lease.
const LOOKS: u32 = 3;

/// How long this server may acknowledge commits after another server's claim. Zero for
/// WALs in the object store: those reject a server that has lost them, since every
/// acknowledgement waits for the store.
pub(crate) fn lease(config: &ServerConfig) -> Duration {
    match config.wal_store {
        WalStore::Local => config.ownership_lease.0,
        WalStore::Object => Duration::ZERO,
    }
}

/// How often to ask the store who owns the project. `exclusive`: no other server can
/// have it open.
pub(crate) fn look_interval(config: &ServerConfig, exclusive: bool) -> Duration {
    match exclusive || lease(config).is_zero() {
        true => LOOK,
        false => (lease(config) / LOOKS).min(LOOK),
    }
}

/// Waits until the previous owner can acknowledge no more commits. Blocking; needs a
/// runtime.
///
/// # Errors
/// [`CatalogError::Lost`] when another server has claimed the project meanwhile.
pub(crate) fn wait_out(catalog: &Catalog) -> Result<(), CatalogError> {
    let lease = catalog.found_lease();
    if lease.is_zero() {
        return Ok(());
    }
    // Clocks of two machines do not run at the same rate.
    let wait = lease + lease / 4;
    tracing::warn!(
        wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        "another server may have served this project until now and did not stop in order: waiting until it can acknowledge no more commits"
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
    /// The server owns the project.
    Yes,
    /// The store must first confirm that the server still owns the project.
    Doubtful,
    /// Another server owns the project.
    Lost,
}

/// This server's right to acknowledge commits.
pub(crate) struct Ownership {
    catalog: Arc<Catalog>,
    /// The maximum age of the store's last confirmation; `None`: unlimited.
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

    pub(crate) fn right(&self) -> Right {
        if self.catalog.lost().is_cancelled() {
            return Right::Lost;
        }
        match self.bound {
            Some(bound) if self.catalog.proof_age() >= bound => Right::Doubtful,
            _ => Right::Yes,
        }
    }

    /// Wakes when a doubtful right may have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.catalog.renewals()
    }

    /// Why commits wait, if they do.
    pub(crate) fn doubt(&self) -> Option<String> {
        (self.right() == Right::Doubtful).then(|| {
            format!(
                "the store has not confirmed for {} s that this server owns the project: commits wait until it does (on_store_outage is stop)",
                self.catalog.proof_age().as_secs()
            )
        })
    }
}
