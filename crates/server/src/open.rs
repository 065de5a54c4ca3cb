//! Opens what a data directory and a store hold: project, logs, branches.

use crate::branch::OpenBranch;
use crate::branches::{BranchRef, Branches, ClosedBranch};
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::logs::{LOG_SHARE, Logs};
use crate::node::{Node, Opened};
use crate::ownership::{self, Ownership};
use crate::project::catalog::{self, Catalog, CatalogError};
use crate::project::log_home::{self, LogState};
use crate::project::{self, BranchMeta, InnodbParams, LogStore, Project};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_pages::files::Place;
use xylem_pages::{Branch, Store, StoreConfig, StoreError};
use xylem_types::{BranchId, Lsn};
use xylem_wal::WalError;

/// The folder of the store with one for each branch.
const BRANCHES: &str = "branches";

/// Branches that are opened at the same time.
const AT_ONCE: usize = 16;

/// The project that the store holds, claimed; a new one if the store is empty.
/// The caller holds the data directory's lock.
fn claim_or_create(
    config: &ServerConfig,
    place: &dyn Place,
) -> Result<(Catalog, LogState), ServerError> {
    let data_dir = &config.data_dir;
    let lease = ownership::lease(config);
    project::refuse_former(data_dir)?;
    // Before it is claimed: one that is not ours must not be taken away from
    // another server.
    if let Some(found) = catalog::read(place)? {
        let (log_store, id) = (found.project.log_store, &found.project.id);
        if log_store != config.log_store {
            return Err(ServerError::Project {
                path: place.url().into(),
                message: format!(
                    "its logs are kept in the {} store, which cannot be changed: start the server with --log-store {}",
                    log_store.as_str(),
                    log_store.as_str()
                ),
            });
        }
        project::belongs(data_dir, id)?;
        let looked = log_home::look(config, &found, place.is_exclusive())?;
        project::settle(data_dir, id)?;
        // Nothing is acknowledged before the directory is the home: the
        // catalogue that makes it so has the promise.
        let promised = match looked.moves {
            true => Duration::ZERO,
            false => lease,
        };
        if let Some(claimed) = Catalog::claim(place, rand::random(), promised)? {
            claimed.promise(lease);
            if looked.wait {
                ownership::wait_out(&claimed)?;
            }
            log_home::take(config, &claimed, looked.state)?;
            return Ok((claimed, looked.state));
        }
    }
    let nothing = |message: String| ServerError::Project {
        path: place.url().into(),
        message,
    };
    if project::is_used(data_dir) {
        return Err(nothing(format!(
            "this store holds no project, and {} belongs to one: give the server the --object-store that it had",
            data_dir.display()
        )));
    }
    let folders = place.folders(BRANCHES);
    let folders =
        folders.map_err(|e| ServerError::io(format!("cannot list {}", place.url()), e))?;
    if !folders.is_empty() || project::logs(data_dir).exists() {
        return Err(nothing(
            "there is no project, but branches are there: put its catalogue back, or start with an empty directory and store"
                .to_owned(),
        ));
    }
    let new = Project {
        log_store: config.log_store,
        log_home: match config.log_store {
            LogStore::Local => Some(log_home::begin(data_dir)?),
            LogStore::Object => None,
        },
        ..Project::new(
            InnodbParams::default(),
            Timestamp::now(),
            rand::random(),
            BranchId(rand::random()),
        )
    };
    let id = new.id.clone();
    let catalog = Catalog::create(place, rand::random(), new, lease)?;
    project::settle(data_dir, &id)?;
    tracing::info!(data_dir = %data_dir.display(), store = place.url(), project = %id, "new project");
    let state = match config.log_store {
        LogStore::Local => LogState::Here,
        LogStore::Object => LogState::Elsewhere,
    };
    Ok((catalog, state))
}

/// Removes what branches left that are not there any more, or were never quite
/// made, and returns what is no branch's: that is left to people. Best effort.
///
/// What the catalogue does not name is nobody's only as long as this server
/// has the project: another may have opened it since it was claimed here, and
/// made branches. So first comes the list, then the proof that up to then no
/// other server had it; and of what is on the list, nobody can make a branch
/// any more.
///
/// # Errors
/// When another server has the project, or the store does not tell.
fn sweep(logs: &Logs, place: &dyn Place, catalog: &Catalog) -> Result<Vec<String>, CatalogError> {
    let folders = place.folders(BRANCHES).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look for leftovers in the store");
        Vec::new()
    });
    let there = logs.there();
    catalog.look()?;
    let project = catalog.project();
    let known = |id: BranchId| project.branch(id).is_some();
    let mut strange = Vec::new();
    for name in folders {
        let folder = format!("{BRANCHES}/{name}");
        match project::branch_of_folder(&name) {
            Some(id) if known(id) => {}
            Some(_) => {
                tracing::info!(branch = name, "removing what is left of a branch");
                if let Err(error) = place.remove_folder(&folder) {
                    tracing::warn!(branch = name, %error, "leftover not removed");
                }
            }
            None => strange.push(format!("{}/{folder}", place.url())),
        }
    }
    strange.extend(logs.sweep(there, &known));
    for path in &strange {
        tracing::warn!(
            path,
            "this is no branch's, and is left: move it elsewhere or remove it"
        );
    }
    Ok(strange)
}

/// Opens everything. Blocking: logs are recovered. Needs a tokio runtime
/// around it.
pub(crate) fn open(node: &Node, place: Arc<dyn Place>) -> Result<Opened, ServerError> {
    let config = &node.config;
    let started = Instant::now();
    let (catalog, log_state) = claim_or_create(config, &*place)?;
    let project = catalog.project();
    let restoring = log_state == LogState::Restoring;
    let mut logs = Logs::new(config, catalog.number(), restoring)?;
    let strange = sweep(&logs, &*place, &catalog)?;
    let settings = StoreConfig {
        memory_bytes: config.memory.0 - config.memory.0 / LOG_SHARE,
        open_layer_bytes: config.open_layer_size.0,
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
    let mut failed = None;
    for level in &levels {
        for group in level.chunks(AT_ONCE) {
            let failure = open_group(node, &store, &logs, &branches, group);
            failed = failed.or(failure);
        }
    }
    // One that does not open keeps the others from nothing. Where none does,
    // there is nothing to serve.
    if let Some(failure) = failed.take_if(|_| branches.all().is_empty()) {
        return Err(failure);
    }
    if restoring {
        log_home::settle(config, &catalog, failed.is_none())?;
        if failed.is_none() {
            logs.set_restored();
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
        took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "project is open"
    );
    let catalog = Arc::new(catalog);
    Ok(Opened {
        ownership: Arc::new(Ownership::new(Arc::clone(&catalog), config)),
        store,
        logs,
        catalog,
        branches,
        changes: tokio::sync::Mutex::new(()),
        unsettled: tokio::sync::watch::Sender::new(None),
        strange,
    })
}

/// Opens branches whose ancestors are among `branches`, all at the same time:
/// what takes long is waiting for disks and for the store. Those that do not
/// open are among them with the reason; the first of these is returned.
fn open_group(
    node: &Node,
    store: &Arc<Store>,
    logs: &Logs,
    branches: &Branches,
    group: &[(&str, &BranchMeta)],
) -> Option<ServerError> {
    let runtime = tokio::runtime::Handle::current();
    let right = Some(logs.claim());
    let opened: Vec<Result<Arc<OpenBranch>, ServerError>> = std::thread::scope(|scope| {
        let openers: Vec<_> = group
            .iter()
            .map(|(name, meta)| {
                let runtime = &runtime;
                scope.spawn(move || {
                    let _in_runtime = runtime.enter();
                    let meta = BranchMeta::clone(meta);
                    open_branch(node, store, logs, branches, name, meta, right)
                })
            })
            .collect();
        let ended_early = |_| {
            Err(ServerError::Serve(
                "opening a branch ended early".to_owned(),
            ))
        };
        openers
            .into_iter()
            .map(|opener| opener.join().unwrap_or_else(ended_early))
            .collect()
    });
    let mut failed = None;
    for (open, (name, meta)) in opened.into_iter().zip(group) {
        match open {
            Ok(branch) => branches.insert(&branch, name),
            Err(error) => {
                set_closed(branches, name, meta, &error);
                failed = failed.or(Some(error));
            }
        }
    }
    failed
}

/// Notes that a branch does not open. What it shares with the one it left is
/// kept for it.
pub(crate) fn set_closed(branches: &Branches, name: &str, meta: &BranchMeta, error: &ServerError) {
    tracing::error!(branch = name, id = %meta.id, %error, "the branch does not open, and is not served");
    let ancestor = meta
        .ancestor
        .and_then(|id| branches.get(&BranchRef::Id(id)));
    if let Some(ancestor) = ancestor {
        ancestor.pages.keep_for(meta.id, Lsn(meta.ancestor_lsn));
    }
    let closed = ClosedBranch::new(meta.clone(), error.to_string());
    branches.insert_closed(&closed, name);
}

/// Why a branch's parts cannot be opened.
enum OpenError {
    Log(WalError),
    Store(StoreError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> OpenError {
        OpenError::Store(error)
    }
}

/// Opens a branch whose ancestor is among `branches`. `right` is that to its
/// log; `None`: it is new. Blocking.
///
/// # Errors
/// When its log or its pages cannot be opened, or its ancestor is not open.
pub(crate) fn open_branch(
    node: &Node,
    store: &Arc<Store>,
    logs: &Logs,
    branches: &Branches,
    name: &str,
    meta: BranchMeta,
    right: Option<u64>,
) -> Result<Arc<OpenBranch>, ServerError> {
    let ancestor = match meta.ancestor.map(BranchRef::Id) {
        None => None,
        Some(of) => Some(branches.get(&of).ok_or_else(|| ServerError::Ancestor {
            branch: name.to_owned(),
            ancestor: of.to_string(),
        })?),
    };
    let mut log = None;
    let pages = Branch::open_with(
        Arc::clone(store),
        meta.id,
        ancestor.as_ref().map(|of| Arc::clone(&of.pages)),
        |floor| {
            let opened = logs.open(meta.id, floor, right).map_err(OpenError::Log)?;
            Ok(Arc::clone(&log.insert(opened).log))
        },
    )
    .map_err(|error| {
        let branch = name.to_owned();
        match error {
            OpenError::Log(source) => ServerError::Log { branch, source },
            OpenError::Store(source) => ServerError::Store { branch, source },
        }
    })?;
    let log =
        log.ok_or_else(|| ServerError::Serve("a branch was opened without log".to_owned()))?;
    if let Some(of) = &ancestor {
        let end = of.durable();
        pages.check_ancestor(end.lsn(), end.position());
    }
    Ok(Arc::new(OpenBranch::new(
        name,
        meta,
        log,
        pages,
        &node.metrics,
        node.branch_end(),
    )))
}

/// Closes a branch: its log first, so that nothing more comes.
pub(crate) async fn close_branch(branch: &Arc<OpenBranch>) {
    let name = branch.name();
    if let Err(error) = branch.log.close().await {
        tracing::error!(branch = name, %error, "cannot close the log");
    }
    let closing = Arc::clone(branch);
    if let Err(error) = tokio::task::spawn_blocking(move || closing.pages.shutdown()).await {
        tracing::error!(branch = name, %error, "closing the page store ended early");
    }
}

/// Closes everything, and tells whether all of it was closed in time. What was
/// not is safe as after a crash, and must not be waited for: whoever drops it
/// would wait, too.
pub(crate) async fn close(opened: &Opened, patience: Duration) -> bool {
    let until = tokio::time::Instant::now() + patience;
    // Nothing comes or goes from here on. A change that waits for the store
    // holds this; then it is as if the server had died in it.
    let changes = tokio::time::timeout_at(until, opened.changes.lock()).await;
    let all = opened.branches.all();
    // At the same time: a store that is away is waited for once.
    let closing = all.into_iter().map(|branch| {
        let name = branch.name();
        let closing = tokio::spawn(async move { close_branch(&branch).await });
        async move {
            let closed = tokio::time::timeout_at(until, closing).await;
            if closed.is_err() {
                tracing::warn!(
                    branch = name,
                    "the branch is not closed in time: the next start goes on as after a crash"
                );
            }
            closed.is_ok()
        }
    });
    let closed = futures::future::join_all(closing).await;
    changes.is_ok() && closed.into_iter().all(|closed| closed)
}
