//! Where branches' logs are: opened, removed, swept.

use crate::error::ServerError;
use crate::node::Node;
use crate::project::{self, LogStore};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;
use xylem_objects::{Bucket, BucketConfig};
use xylem_types::BranchId;
use xylem_wal::local::{LocalLog, LocalLogConfig};
use xylem_wal::object::{ObjectLog, ObjectLogConfig};
use xylem_wal::{Log, LogError};

/// The folder of the object store with one for each branch's log.
const LOGS: &str = "logs";

/// Opens the object store for logs, if they are there. Blocking.
///
/// # Errors
/// When its URL or its settings make no sense.
pub(crate) fn prepare(node: &Node) -> Result<(), ServerError> {
    let config = &node.config;
    if config.log_store == LogStore::Object && node.log_bucket.get().is_none() {
        let bucket = Bucket::open(&config.object_store, BucketConfig::default());
        let bucket = bucket.map_err(|source| {
            ServerError::io("cannot open the store of logs".to_owned(), source.into())
        })?;
        // Nobody else sets it.
        let _ = node.log_bucket.set(bucket);
    }
    Ok(())
}

/// Opens the log of branch `id`. Blocking, on a thread of a runtime. One that
/// was never written takes no room.
///
/// # Errors
/// When it cannot be opened, or is damaged.
pub(crate) fn open(node: &Node, id: BranchId) -> Result<Arc<dyn Log>, LogError> {
    if let Some(bucket) = node.log_bucket.get() {
        let objects = bucket.objects();
        let settings = ObjectLogConfig::new(objects.handle().clone());
        let prefix = objects.path(&format!("{LOGS}/{id}"));
        let opening = ObjectLog::open(Arc::clone(objects.store()), prefix, settings);
        return Ok(Arc::new(Handle::current().block_on(opening)?));
    }
    let config = &node.config;
    let dir = project::log_dir(&config.data_dir, id);
    create_dir(&dir).map_err(|source| LogError::Io {
        context: format!("create {}", dir.display()),
        source,
    })?;
    let settings = LocalLogConfig {
        segment_bytes: config.log_segment_size.0,
        ..LocalLogConfig::default()
    };
    Ok(Arc::new(LocalLog::open(&dir, settings)?))
}

/// Each level durable: the log syncs only its own directory.
fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(dir)?;
    for level in dir.ancestors().skip(1).take(3) {
        std::fs::File::open(level)?.sync_all()?;
    }
    Ok(())
}

/// Removes the log of branch `id`, which is closed. Blocking. One that is not
/// there is no error.
pub(crate) fn remove(node: &Node, id: BranchId) -> io::Result<()> {
    if let Some(bucket) = node.log_bucket.get() {
        return bucket.delete_folder(&format!("{LOGS}/{id}"));
    }
    let dir = project::logs(&node.config.data_dir).join(id.to_string());
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes logs of branches that are not `known`. Best effort: what stays is
/// removed at the next start.
pub(crate) fn sweep(node: &Node, known: &dyn Fn(BranchId) -> bool) {
    let names = match node.log_bucket.get() {
        Some(bucket) => bucket.folders(LOGS),
        None => names_in(&project::logs(&node.config.data_dir)),
    };
    let names = names.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot look for leftover logs");
        Vec::new()
    });
    let ids = names
        .iter()
        .filter_map(|name| name.parse::<BranchId>().ok());
    for id in ids.filter(|id| !known(*id)) {
        tracing::info!(branch = %id, "removing the log of a branch that is not there any more");
        if let Err(error) = remove(node, id) {
            tracing::warn!(branch = %id, %error, "leftover log not removed");
        }
    }
}

fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
    names.collect()
}
