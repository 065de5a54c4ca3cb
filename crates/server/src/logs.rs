//! Where branches' logs are: opened, removed, swept.

use crate::config::ServerConfig;
use crate::project;
use std::io;
use std::path::Path;
use std::sync::Arc;
use xylem_types::BranchId;
use xylem_wal::local::{LocalLog, LocalLogConfig};
use xylem_wal::{Log, LogError};

/// Opens the log of branch `id`. Blocking. One that was never written takes no
/// room.
///
/// # Errors
/// When it cannot be opened, or is damaged.
pub(crate) fn open(config: &ServerConfig, id: BranchId) -> Result<Arc<dyn Log>, LogError> {
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
pub(crate) fn remove(config: &ServerConfig, id: BranchId) -> io::Result<()> {
    let dir = project::logs(&config.data_dir).join(id.to_string());
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes logs of branches that are not `known`. Best effort: what stays is
/// removed at the next start.
pub(crate) fn sweep(config: &ServerConfig, known: &dyn Fn(BranchId) -> bool) {
    let entries = std::fs::read_dir(project::logs(&config.data_dir));
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.parse::<BranchId>().ok());
        if let Some(id) = id.filter(|id| !known(*id)) {
            tracing::info!(branch = %id, "removing the log of a branch that is not there any more");
            if let Err(error) = remove(config, id) {
                tracing::warn!(branch = %id, %error, "leftover log not removed");
            }
        }
    }
}
