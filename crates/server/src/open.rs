//! Opens what a data directory holds: project, store, logs, branches.

use crate::branch::OpenBranch;
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::metrics::Metrics;
use crate::node::Opened;
use crate::project::{self, BranchMeta, InnodbParams, Project};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use xylem_pages::files::LocalPlace;
use xylem_pages::{Branch, Store, StoreConfig};
use xylem_types::BranchId;
use xylem_wal::Log;
use xylem_wal::local::{LocalLog, LocalLogConfig};

/// The project of `data_dir`, made if the directory has none. The caller holds
/// the directory's lock.
pub(crate) fn read_or_create(data_dir: &Path) -> Result<Project, ServerError> {
    if let Some(project) = Project::read(data_dir)? {
        return Ok(project);
    }
    if data_dir.join("branches").exists() {
        return Err(ServerError::Project {
            path: data_dir.join(project::FILE),
            message: "it is missing, but branches are there: put it back, or start with an empty directory".to_owned(),
        });
    }
    let project = Project::new(
        InnodbParams::default(),
        Timestamp::now(),
        rand::random(),
        BranchId(rand::random()),
    );
    project.write(data_dir)?;
    tracing::info!(data_dir = %data_dir.display(), project = %project.id, "new project");
    Ok(project)
}

/// Opens everything. Blocking: logs are recovered. Needs a tokio runtime
/// around it.
pub(crate) fn open(config: &ServerConfig, metrics: &Metrics) -> Result<Opened, ServerError> {
    let project = read_or_create(&config.data_dir)?;
    let started = Instant::now();
    let place = LocalPlace::open(&config.layers_dir).map_err(|source| {
        ServerError::io(
            format!("cannot open {}", config.layers_dir.display()),
            source,
        )
    })?;
    let settings = StoreConfig {
        memory_bytes: config.memory.0,
        open_layer_bytes: config.open_layer_size.0,
        scrub_bytes_per_second: config.scrub_bytes_per_second.0,
        ..StoreConfig::default()
    };
    let store = Store::open(settings, Arc::new(place)).map_err(|source| ServerError::Store {
        branch: "*".to_owned(),
        source,
    })?;
    let mut branches = BTreeMap::new();
    for (name, meta) in &project.branches {
        branches.insert(
            name.clone(),
            Arc::new(open_branch(config, metrics, &store, name, meta)?),
        );
    }
    store.start_ingest();
    let no_upkeep = |source| ServerError::Store {
        branch: "*".to_owned(),
        source,
    };
    store.start_upkeep().map_err(no_upkeep)?;
    tracing::info!(
        project = %project.id,
        branches = branches.len(),
        took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "project is open"
    );
    Ok(Opened { store, branches })
}

fn open_branch(
    config: &ServerConfig,
    metrics: &Metrics,
    store: &Arc<Store>,
    name: &str,
    meta: &BranchMeta,
) -> Result<OpenBranch, ServerError> {
    let id = meta.branch_id().map_err(|_| ServerError::Project {
        path: config.data_dir.join(project::FILE),
        message: format!("branch {name} has the id {:?}", meta.id),
    })?;
    let dir = project::log_dir(&config.data_dir, id);
    std::fs::create_dir_all(&dir)
        .map_err(|source| ServerError::io(format!("cannot create {}", dir.display()), source))?;
    let log_config = LocalLogConfig {
        segment_bytes: config.log_segment_size.0,
        ..LocalLogConfig::default()
    };
    let log = LocalLog::open(&dir, log_config).map_err(|source| ServerError::Log {
        branch: name.to_owned(),
        source,
    })?;
    let log: Arc<dyn Log> = Arc::new(log);
    let pages = Branch::open(Arc::clone(store), id, Arc::clone(&log), None).map_err(|source| {
        ServerError::Store {
            branch: name.to_owned(),
            source,
        }
    })?;
    Ok(OpenBranch::new(name, meta.clone(), log, pages, metrics))
}

/// Closes everything: logs first, so that nothing more comes.
pub(crate) async fn close(opened: &Opened) {
    for branch in opened.branches.values() {
        if let Err(error) = branch.log.close().await {
            tracing::error!(branch = %branch.name, %error, "cannot close the log");
        }
        let closing = Arc::clone(branch);
        match tokio::task::spawn_blocking(move || closing.pages.shutdown()).await {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(branch = %branch.name, %error, "closing the page store ended early")
            }
        }
    }
}
