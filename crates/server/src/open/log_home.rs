//! Whose disk the logs of a project are on. A server that finds none of them
//! on its own must not begin new ones as if nothing had been: they may be on a
//! disk that is away.

use super::Logs;
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::project::catalog::{Catalog, CatalogError};
use crate::project::{self, LogStore, Project};
use std::path::{Path, PathBuf};

/// The file of a data directory that says which one it is.
const FILE: &str = "log.home";
/// What stands behind the number while lost logs are being restored.
const RESTORING: &str = "restoring";

/// How a server stands to the logs on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogState {
    /// They are in the object store, and so anywhere.
    Elsewhere,
    /// They are this server's.
    Here,
    /// There are none yet.
    New,
    /// Those that are not here were lost with another disk.
    Restoring,
}

struct Noted {
    home: String,
    restoring: bool,
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

fn read(data_dir: &Path) -> Result<Option<Noted>, ServerError> {
    let path = path(data_dir);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(ServerError::io(
                format!("cannot read {}", path.display()),
                error,
            ));
        }
    };
    let mut words = text.split_whitespace();
    let home = words.next().unwrap_or_default().to_owned();
    let restoring = words.next() == Some(RESTORING);
    Ok(Some(Noted { home, restoring }))
}

fn write(data_dir: &Path, home: &str, restoring: bool) -> Result<(), ServerError> {
    let path = path(data_dir);
    let text = match restoring {
        true => format!("{home} {RESTORING}\n"),
        false => format!("{home}\n"),
    };
    let written = project::replace(&path, text.as_bytes());
    written.map_err(|e| ServerError::io(format!("cannot write {}", path.display()), e))
}

/// How this server stands to the logs of the project that it finds. Nothing is
/// changed yet.
///
/// # Errors
/// When the logs are on another disk and nobody said that it is lost.
pub(super) fn look(config: &ServerConfig, found: &Project) -> Result<LogState, ServerError> {
    if config.log_store == LogStore::Object {
        return Ok(LogState::Elsewhere);
    }
    let data_dir = &config.data_dir;
    let noted = read(data_dir)?;
    let Some(home) = &found.log_home else {
        return Ok(LogState::New);
    };
    let refused = |message: String| ServerError::Project {
        path: data_dir.clone(),
        message,
    };
    if noted.as_ref().is_some_and(|noted| noted.home == *home) {
        let restoring = config.restore_log || noted.is_some_and(|noted| noted.restoring);
        return Ok(match restoring {
            true => LogState::Restoring,
            false => LogState::Here,
        });
    }
    if !config.restore_log {
        return Err(refused(format!(
            "the logs of the project in {} are on another disk, in the data directory with the number {home} in its file {FILE}; start the server with that --data-dir. If it is lost, start once with --restore-log: logs are then made of their backups in the store, and what was committed after these end, {} before the disk was lost, is lost",
            config.object_store,
            match config.log_backup.0.is_zero() {
                true => "at most the interval of --log-backup".to_owned(),
                false => format!("{} at most", config.log_backup),
            }
        )));
    }
    if project::has_logs(data_dir) {
        return Err(refused(format!(
            "there are logs that another server has gone on without: move {} away first, nothing in it is used any more",
            project::logs(data_dir).display()
        )));
    }
    Ok(LogState::Restoring)
}

/// Makes the data directory the home of the claimed project's logs, if it has
/// to become it.
///
/// # Errors
/// When that cannot be written down.
pub(super) fn take(
    config: &ServerConfig,
    catalog: &Catalog,
    state: LogState,
) -> Result<LogState, ServerError> {
    let data_dir = &config.data_dir;
    let project = catalog.project();
    let here = read(data_dir)?.filter(|noted| project.log_home.as_ref() == Some(&noted.home));
    let home = match (state, here) {
        (LogState::Elsewhere, _) => return Ok(LogState::Elsewhere),
        _ if config.log_store == LogStore::Object => return Ok(LogState::Elsewhere),
        (LogState::Here, _) => return Ok(LogState::Here),
        (_, Some(noted)) => noted.home,
        (_, None) => format!("{:032x}", rand::random::<u128>()),
    };
    write(data_dir, &home, state == LogState::Restoring)?;
    if project.log_home.as_ref() != Some(&home) {
        catalog.change(|project| {
            project.log_home = Some(home);
            Ok::<_, CatalogError>(())
        })?;
    }
    Ok(state)
}

/// Notes that all logs are there.
///
/// # Errors
/// When that cannot be written down.
pub(super) fn settle(
    config: &ServerConfig,
    catalog: &Catalog,
    logs: Logs,
    restored: bool,
) -> Result<Logs, ServerError> {
    if !restored {
        return Ok(logs);
    }
    if let Some(home) = &catalog.project().log_home {
        write(&config.data_dir, home, false)?;
    }
    Ok(logs.restored())
}
