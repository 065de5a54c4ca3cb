//! Whose disk the logs of a project are on. A server that finds none of them
//! on its own must not begin new ones as if nothing had been: they may be on a
//! disk that is away.

use super::catalog::{Catalog, CatalogError};
use super::{LogStore, Project};
use crate::config::ServerConfig;
use crate::error::ServerError;
use std::path::{Path, PathBuf};

/// The file of a data directory that says which one it is.
const FILE: &str = "log.home";
/// What stands behind the number while lost logs are being restored.
const RESTORING: &str = "restoring";

/// How a server stands to the logs on its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogState {
    /// They are in the object store, and so anywhere.
    Elsewhere,
    /// They are this server's.
    Here,
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
    let written = super::replace(&path, text.as_bytes());
    written.map_err(|e| ServerError::io(format!("cannot write {}", path.display()), e))
}

/// Notes that the data directory is the home of a new project's logs; what its
/// catalogue is to say.
///
/// # Errors
/// When that cannot be written down.
pub(crate) fn begin(data_dir: &Path) -> Result<String, ServerError> {
    let home = new_home();
    write(data_dir, &home, false)?;
    Ok(home)
}

fn new_home() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// How this server stands to the logs of the project that it finds, which is
/// not claimed yet. Nothing of the project is changed.
///
/// # Errors
/// When the logs are on another disk and nobody said that it is lost.
pub(crate) fn look(config: &ServerConfig, found: &Project) -> Result<LogState, ServerError> {
    if config.log_store == LogStore::Object {
        return Ok(LogState::Elsewhere);
    }
    let data_dir = &config.data_dir;
    let noted = read(data_dir)?;
    let has_logs = super::has_logs(data_dir);
    let at_home = match (&found.log_home, &noted) {
        (Some(home), Some(noted)) => noted.home == *home,
        // Nobody has noted it yet.
        (None, _) => has_logs,
        (Some(_), None) => false,
    };
    let half_restored = noted.as_ref().is_some_and(|noted| noted.restoring);
    if at_home {
        return Ok(match config.restore_log || half_restored {
            true => LogState::Restoring,
            false => LogState::Here,
        });
    }
    let refused = |message: String| ServerError::Project {
        path: data_dir.clone(),
        message,
    };
    if !config.restore_log {
        let whose = match &found.log_home {
            Some(home) => format!(", which has the number {home} in its file {FILE}"),
            None => String::new(),
        };
        return Err(refused(format!(
            "the logs of the project in {} are on another disk; start the server with the --data-dir that has them{whose}. If it is lost, start once with --restore-log: logs are then made of their copies in the store, and what was committed after these end, {} before the disk was lost, is lost",
            config.object_store,
            match config.log_backup.0.is_zero() {
                true => "at most the interval of --log-backup".to_owned(),
                false => format!("{} at most", config.log_backup),
            }
        )));
    }
    if has_logs && !half_restored {
        return Err(refused(format!(
            "there are logs that another server has gone on without: move {} away first, nothing in it is used any more",
            super::logs(data_dir).display()
        )));
    }
    Ok(LogState::Restoring)
}

/// Notes how the server that has claimed the project now stands to its logs.
///
/// # Errors
/// When that cannot be written down.
pub(crate) fn take(
    config: &ServerConfig,
    catalog: &Catalog,
    state: LogState,
) -> Result<(), ServerError> {
    let data_dir = &config.data_dir;
    let project = catalog.project();
    match state {
        LogState::Elsewhere => Ok(()),
        LogState::Here if project.log_home.is_some() => Ok(()),
        LogState::Here => move_to(catalog, begin(data_dir)?),
        LogState::Restoring => {
            let noted = read(data_dir)?;
            let is_home = |noted: &Noted| project.log_home.as_ref() == Some(&noted.home);
            match noted {
                Some(noted) if is_home(&noted) => write(data_dir, &noted.home, true),
                noted => {
                    if noted.is_some() {
                        // Restored by halves, and the old disk was used again
                        // since: nobody was ever served from these.
                        remove_logs(data_dir)?;
                    }
                    write(data_dir, &new_home(), true)
                }
            }
        }
    }
}

fn remove_logs(data_dir: &Path) -> Result<(), ServerError> {
    let logs = super::logs(data_dir);
    match std::fs::remove_dir_all(&logs) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ServerError::io(
            format!("cannot remove {}", logs.display()),
            error,
        )),
        _ => Ok(()),
    }
}

fn move_to(catalog: &Catalog, home: String) -> Result<(), ServerError> {
    catalog.change(|project| {
        project.log_home = Some(home);
        Ok::<_, CatalogError>(())
    })?;
    Ok(())
}

/// Makes the data directory the home of logs that are all restored. Until then
/// the one that they were on still is.
///
/// # Errors
/// When that cannot be written down.
pub(crate) fn settle(config: &ServerConfig, catalog: &Catalog) -> Result<(), ServerError> {
    let Some(noted) = read(&config.data_dir)? else {
        return Ok(());
    };
    if catalog.project().log_home.as_ref() != Some(&noted.home) {
        move_to(catalog, noted.home.clone())?;
    }
    write(&config.data_dir, &noted.home, false)
}
