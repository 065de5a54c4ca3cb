//! Opens and closes the project in a data directory and a store.

use crate::branch::open::{Opener, close_branch, open_group};
use crate::branch::registry::Branches;
use crate::config::{ServerConfig, WalStore};
use crate::error::ServerError;
use crate::node::{Node, Opened};
use crate::ownership::{self, Ownership};
use crate::project::catalog::{self, Catalog, CatalogError, Claimant};
use crate::project::wal_home::{self, WalState};
use crate::project::{self, InnodbParams, Project};
use crate::time;
use crate::wals::{WAL_SHARE, Wals};
use std::sync::Arc;
use std::time::Duration;
use xylem_pages::place::Place;
use xylem_pages::{Store, StoreConfig};
use xylem_types::BranchId;

/// The folder of the store that has a folder for each branch.
const BRANCHES: &str = "branches";

/// The number of branches that are opened in parallel.
const AT_ONCE: usize = 16;

fn claimant(config: &ServerConfig, lease: Duration) -> Result<Claimant, ServerError> {
    Ok(Claimant {
        writer: config.random()?,
        lease,
        clock: config.clock.clone(),
    })
}

/// Claims the project in the store, or creates one if the store is empty. The caller
/// holds the data directory's lock.
fn claim_or_create(
    config: &ServerConfig,
    place: &dyn Place,
) -> Result<(Catalog, WalState), ServerError> {
    let data_dir = &config.data_dir;
    project::refuse_former(data_dir)?;
    // Checked before the claim: a claim would take a project that does not belong to
    // this directory away from another server.
    if let Some(found) = catalog::read(place)? {
        let (wal_store, id) = (found.project.wal_store, &found.project.id);
        if wal_store != config.wal_store {
            return Err(ServerError::Project {
                path: place.url().into(),
                message: format!(
                    "its WALs are kept in the {} store, which cannot be changed: start the server with --wal-store {}",
                    wal_store.as_str(),
                    wal_store.as_str()
                ),
            });
        }
        project::belongs(data_dir, id)?;
        let looked = wal_home::look(config, &found, place.is_exclusive())?;
        project::settle(data_dir, id)?;
        // The server acknowledges nothing before the directory is the home of the WALs.
        // The catalogue that makes it the home carries the lease.
        let lease = ownership::lease(config);
        let promised = match looked.moves {
            true => Duration::ZERO,
            false => lease,
        };
        if let Some(claimed) = Catalog::claim(place, claimant(config, promised)?)? {
            claimed.promise(lease);
            if looked.wait {
                ownership::wait_out(&claimed)?;
            }
            wal_home::take(config, &claimed, looked.state)?;
            return Ok((claimed, looked.state));
        }
    }
    create(config, place)
}

/// Creates a project in an empty store.
fn create(config: &ServerConfig, place: &dyn Place) -> Result<(Catalog, WalState), ServerError> {
    let data_dir = &config.data_dir;
    let nothing = |message: String| ServerError::Project {
        path: place.url().into(),
        message,
    };
    if project::is_used(data_dir) {
        return Err(nothing(format!(
            "this store holds no project, and {} belongs to one: start the server with the --object-store of that project",
            data_dir.display()
        )));
    }
    let folders = place.folders(BRANCHES);
    let folders =
        folders.map_err(|e| ServerError::io(format!("cannot list {}", place.url()), e))?;
    if !folders.is_empty() || project::wals(data_dir).exists() {
        return Err(nothing(
            "the store has branches but no catalogue: put the catalogue back, or start with an empty directory and store"
                .to_owned(),
        ));
    }
    let new = Project {
        wal_store: config.wal_store,
        wal_home: match config.wal_store {
            WalStore::Local => Some(wal_home::begin(data_dir, &config.entropy)?),
            WalStore::Object => None,
        },
        ..Project::new(
            InnodbParams::default(),
            time::now(&config.clock),
            config.random()?,
            BranchId(config.random()?),
        )
    };
    let id = new.id.clone();
    let catalog = Catalog::create(place, claimant(config, ownership::lease(config))?, new)?;
    project::settle(data_dir, &id)?;
    tracing::info!(data_dir = %data_dir.display(), store = place.url(), project = %id, "project created");
    let state = match config.wal_store {
        WalStore::Local => WalState::Here,
        WalStore::Object => WalState::Elsewhere,
    };
    Ok((catalog, state))
}

/// Removes the remains of branches that were removed or not completely created. Returns
/// entries that belong to no branch; those are left to the operator. Best effort.
///
/// A folder that the catalogue does not name may be removed only while this server owns
/// the project: another server may have opened it since the claim, and created branches.
/// The sweep therefore lists folders first, and then proves that no other server owned
/// the project by then. No listed folder can become a branch after that.
///
/// # Errors
/// Another server owns the project, or the store does not answer.
fn sweep(wals: &Wals, place: &dyn Place, catalog: &Catalog) -> Result<Vec<String>, CatalogError> {
    let folders = place.folders(BRANCHES).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the store's folders to find leftovers");
        Vec::new()
    });
    let there = wals.there();
    catalog.look()?;
    let project = catalog.project();
    let known = |id: BranchId| project.branch(id).is_some();
    let mut strange = Vec::new();
    for name in folders {
        let folder = format!("{BRANCHES}/{name}");
        match project::branch_of_folder(&name) {
            Some(id) if known(id) => {}
            Some(_) => {
                tracing::info!(
                    branch_id = name,
                    "removing the folder of a branch that does not exist"
                );
                if let Err(error) = place.remove_folder(&folder) {
                    tracing::warn!(branch_id = name, %error, "cannot remove a leftover folder");
                }
            }
            None => strange.push(format!("{}/{folder}", place.url())),
        }
    }
    strange.extend(wals.sweep(there, &known));
    for path in &strange {
        tracing::warn!(
            path,
            "this entry belongs to no branch and is ignored: move or remove it"
        );
    }
    Ok(strange)
}

/// Opens the project with all of its branches. Blocking, since WALs are recovered; needs
/// a tokio runtime.
pub(crate) fn open(node: &Node, place: Arc<dyn Place>) -> Result<Opened, ServerError> {
    let config = &node.config;
    let started = config.clock.instant();
    let (catalog, wal_state) = claim_or_create(config, &*place)?;
    let project = catalog.project();
    let restoring = wal_state == WalState::Restoring;
    let mut wals = Wals::new(config, catalog.number(), restoring)?;
    let strange = sweep(&wals, &*place, &catalog)?;
    let settings = StoreConfig {
        memory_bytes: config.memory.0 - config.memory.0 / WAL_SHARE,
        open_layer_bytes: config.open_layer_size.0,
        clock: config.clock.clone(),
        entropy: config.entropy.clone(),
        history: config.history.0,
        scrub_bytes_per_second: config.scrub_bytes_per_second.0,
        ..StoreConfig::default()
    };
    let store = Store::open(settings, place).map_err(|source| ServerError::Store {
        branch: "*".to_owned(),
        source,
    })?;
    let branches = Branches::default();
    let levels = project.levels().map_err(catalog::CatalogError::Invalid)?;
    let opener = Opener {
        node,
        store: &store,
        wals: &wals,
        branches: &branches,
    };
    let mut failed = None;
    for level in &levels {
        for group in level.chunks(AT_ONCE) {
            let failure = open_group(opener, group);
            failed = failed.or(failure);
        }
    }
    // A branch that does not open does not affect the others. If no branch opens, there
    // is nothing to serve.
    if let Some(failure) = failed.take_if(|_| branches.all().is_empty()) {
        return Err(failure);
    }
    if restoring {
        wal_home::settle(config, &catalog, failed.is_none())?;
        if failed.is_none() {
            wals.set_restored();
        }
    }
    store.start_ingest();
    let no_upkeep = |source| ServerError::Store {
        branch: "*".to_owned(),
        source,
    };
    store.start_upkeep().map_err(no_upkeep)?;
    tracing::info!(
        project = %project.id,
        branches = project.branches.len(),
        took_ms = u64::try_from(config.clock.since(started).as_millis()).unwrap_or(u64::MAX),
        "project is open"
    );
    let catalog = Arc::new(catalog);
    Ok(Opened {
        ownership: Arc::new(Ownership::new(Arc::clone(&catalog), config)),
        store,
        wals,
        catalog,
        branches,
        changes: tokio::sync::Mutex::new(()),
        unsettled: tokio::sync::watch::Sender::new(None),
        strange,
    })
}

/// Closes all branches, and returns whether all of them closed in time. A branch that did
/// not is as safe as after a crash. Dropping such a branch would block.
pub(crate) async fn close(opened: &Opened, patience: Duration) -> bool {
    let until = tokio::time::Instant::now() + patience;
    // No branch is created or removed from here on. If a change that waits for the store
    // holds the lock, closing continues as if the server had crashed during the change.
    let changes = tokio::time::timeout_at(until, opened.changes.lock()).await;
    let all = opened.branches.all();
    // In parallel, so that a store that does not answer costs its timeout once.
    let closing = all.into_iter().map(|branch| {
        let name = branch.name();
        let closing = tokio::spawn(async move { close_branch(&branch).await });
        async move {
            let closed = tokio::time::timeout_at(until, closing).await;
            if closed.is_err() {
                tracing::warn!(
                    branch = name,
                    "the branch was not closed in time: the next start recovers it as after a crash"
                );
            }
            closed.is_ok()
        }
    });
    let closed = futures::future::join_all(closing).await;
    changes.is_ok() && closed.into_iter().all(|closed| closed)
}
