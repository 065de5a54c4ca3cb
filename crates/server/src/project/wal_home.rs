//! The data directory that holds the WALs of a project.
//!
//! A server whose directory has no WALs must not begin new ones: the WALs may be on a
//! disk that is not attached. A server must also not use a copy of the WALs while
//! another server works on the original.

use super::Project;
use super::catalog::{Catalog, CatalogError, Found};
use super::seat::{Distance, Seat};
use crate::config::{ServerConfig, WalStore};
use crate::error::ServerError;
use crate::random;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xylem_ambient::Entropy;

/// The file that holds the number of a data directory.
const FILE: &str = "wal.home";
/// The word after the number while lost WALs are being restored.
const RESTORING: &str = "restoring";
/// Precedes the number that a copied directory had before it got its own.
const FORMER: &str = "former=";
/// Precedes the [`Seat`], which distinguishes this directory from a copy of it.
const SEAT: &str = "seat=";

/// Where the project's WALs are, for this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalState {
    /// The WALs are in the object store.
    Elsewhere,
    /// The WALs are in this server's data directory.
    Here,
    /// Missing WALs were lost with another disk, and are restored.
    Restoring,
}

/// The result of the checks before a server claims a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Looked {
    pub(crate) state: WalState,
    /// The previous owner may be alive, so its ownership lease must expire first.
    pub(crate) wait: bool,
    /// The directory is not the home of the WALs yet. Until it is, a claim must not
    /// look as if the project had been served from here.
    pub(crate) moves: bool,
}

#[derive(Default)]
struct Noted {
    home: String,
    restoring: bool,
    former: Option<String>,
    seat: Option<Seat>,
}

impl Noted {
    /// Whether the directory has the WALs of `project`.
    fn is_of(&self, project: &Project) -> bool {
        let home = project.wal_home.as_ref();
        home == Some(&self.home) || home.is_some() && home == self.former.as_ref()
    }

    fn distance(&self, data_dir: &Path) -> Distance {
        Seat::distance(self.seat.as_ref(), Seat::of(data_dir).as_ref())
    }
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
    let mut noted = Noted {
        home: words.next().unwrap_or_default().to_owned(),
        ..Noted::default()
    };
    for word in words {
        if word == RESTORING {
            noted.restoring = true;
        } else if let Some(former) = word.strip_prefix(FORMER) {
            noted.former = Some(former.to_owned());
        } else if let Some(seat) = word.strip_prefix(SEAT) {
            noted.seat = Seat::parse(seat);
        }
    }
    Ok(Some(noted))
}

/// Writes the file [`FILE`], with the directory's present seat.
fn write(data_dir: &Path, noted: &Noted) -> Result<(), ServerError> {
    let path = path(data_dir);
    let mut text = noted.home.clone();
    if noted.restoring {
        text = format!("{text} {RESTORING}");
    }
    if let Some(former) = &noted.former {
        text = format!("{text} {FORMER}{former}");
    }
    if let Some(seat) = Seat::of(data_dir) {
        text = format!("{text} {SEAT}{seat}");
    }
    let written = super::replace(&path, format!("{text}\n").as_bytes());
    written.map_err(|e| ServerError::io(format!("cannot write {}", path.display()), e))
}

/// Makes the data directory the home of a new project's WALs. Returns the number to
/// store in the catalogue.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn begin(data_dir: &Path, entropy: &Entropy) -> Result<String, ServerError> {
    let noted = Noted {
        home: new_home(entropy)?,
        ..Noted::default()
    };
    write(data_dir, &noted)?;
    Ok(noted.home)
}

fn new_home(entropy: &Entropy) -> Result<String, ServerError> {
    Ok(format!("{:032x}", random::number(entropy)?))
}

/// Finds out where the WALs of a project are before it is claimed. Changes nothing.
/// `exclusive`: no other server can have the store open now.
///
/// # Errors
/// The WALs are on another disk, or these are a copy of them, and the operator has not
/// confirmed (`--restore-wal`) that the server which had them is gone.
pub(crate) fn look(
    config: &ServerConfig,
    found: &Found,
    exclusive: bool,
) -> Result<Looked, ServerError> {
    if config.wal_store == WalStore::Object {
        return Ok(Looked {
            state: WalState::Elsewhere,
            wait: false,
            moves: false,
        });
    }
    let data_dir = &config.data_dir;
    let project = &found.project;
    let noted = read(data_dir)?;
    let has_wals = super::has_wals(data_dir);
    let at_home = match (&project.wal_home, &noted) {
        (Some(_), Some(noted)) => noted.is_of(project),
        // The catalogue does not record a home yet.
        (None, _) => has_wals,
        (Some(_), None) => false,
    };
    let refused = |message: String| ServerError::Project {
        path: data_dir.clone(),
        message,
    };
    let distance = noted
        .as_ref()
        .map_or(Distance::Unknown, |noted| noted.distance(data_dir));
    let half_restored = noted.as_ref().is_some_and(|noted| noted.restoring);
    if at_home {
        let maybe_served = !exclusive && found.lease > Duration::ZERO;
        if distance == Distance::Copy && maybe_served && !config.restore_wal {
            return Err(refused(format!(
                "this directory is a copy of the one that has the WALs of the project in {}, and the server there did not stop in order: it may be running. Start the server with the original directory. If that directory is lost, or no server will ever run on it again, start once with --restore-wal",
                config.object_store
            )));
        }
        return Ok(Looked {
            state: match config.restore_wal || half_restored {
                true => WalState::Restoring,
                false => WalState::Here,
            },
            // This server holds the lock of this very directory, so the process that
            // held it before is dead.
            wait: !exclusive && distance != Distance::Same,
            moves: distance == Distance::Copy,
        });
    }
    if !config.restore_wal {
        let whose = match &project.wal_home {
            Some(home) => format!(" (its file {FILE} has the number {home})"),
            None => String::new(),
        };
        return Err(refused(format!(
            "the WALs of the project in {} are on another disk; start the server with the --data-dir that has them{whose}. If that disk is lost, start once with --restore-wal: the server then restores the WALs from their copies in the store. Commits after the end of the copies, {} before the disk was lost, are lost",
            config.object_store,
            match config.wal_backup.0.is_zero() {
                true => "at most the interval of --wal-backup".to_owned(),
                false => format!("{} at most", config.wal_backup),
            }
        )));
    }
    if has_wals && !half_restored {
        return Err(refused(format!(
            "the WALs here are out of date, since another server has continued without them: move {} away first; nothing in it is needed any more",
            super::wals(data_dir).display()
        )));
    }
    Ok(Looked {
        state: WalState::Restoring,
        wait: !exclusive,
        moves: true,
    })
}

/// Records where the WALs are, once the server has claimed the project and waited for
/// the previous owner.
///
/// # Errors
/// The file or the catalogue cannot be written.
pub(crate) fn take(
    config: &ServerConfig,
    catalog: &Catalog,
    state: WalState,
) -> Result<(), ServerError> {
    let data_dir = &config.data_dir;
    let project = catalog.project();
    let noted = match state {
        WalState::Elsewhere => return Ok(()),
        WalState::Here | WalState::Restoring => read(data_dir)?,
    };
    let at_home = noted.as_ref().is_some_and(|noted| noted.is_of(&project));
    let distance = noted
        .as_ref()
        .map_or(Distance::Unknown, |noted| noted.distance(data_dir));
    match (state, noted) {
        (WalState::Restoring, Some(noted)) if !at_home => {
            // An interrupted restore, after which the old disk was used again. These
            // WALs were never served.
            drop(noted);
            remove_wals(data_dir)?;
            write(data_dir, &Noted::restoring(&config.entropy)?)
        }
        (WalState::Restoring, None) => write(data_dir, &Noted::restoring(&config.entropy)?),
        (_, Some(noted)) if at_home => {
            // From here on the copy is the project's directory and the original is not,
            // so the two must have different numbers.
            let noted = match distance {
                Distance::Copy => Noted {
                    home: new_home(&config.entropy)?,
                    former: project.wal_home.clone(),
                    ..noted
                },
                _ => noted,
            };
            let restoring = state == WalState::Restoring;
            write(data_dir, &Noted { restoring, ..noted })?;
            match restoring {
                true => Ok(()),
                false => settle(config, catalog, true),
            }
        }
        _ => move_to(catalog, begin(data_dir, &config.entropy)?),
    }
}

impl Noted {
    fn restoring(entropy: &Entropy) -> Result<Noted, ServerError> {
        Ok(Noted {
            home: new_home(entropy)?,
            restoring: true,
            ..Noted::default()
        })
    }
}

fn remove_wals(data_dir: &Path) -> Result<(), ServerError> {
    let wals = super::wals(data_dir);
    match std::fs::remove_dir_all(&wals) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ServerError::io(
            format!("cannot remove {}", wals.display()),
            error,
        )),
        _ => Ok(()),
    }
}

fn move_to(catalog: &Catalog, home: String) -> Result<(), ServerError> {
    catalog.change(|project| {
        project.wal_home = Some(home);
        Ok::<_, CatalogError>(())
    })?;
    Ok(())
}

/// Makes the data directory the home of the WALs; until then the previous directory
/// is. `all`: all WALs are restored.
///
/// # Errors
/// The file or the catalogue cannot be written.
pub(crate) fn settle(
    config: &ServerConfig,
    catalog: &Catalog,
    all: bool,
) -> Result<(), ServerError> {
    let Some(noted) = read(&config.data_dir)? else {
        return Ok(());
    };
    if catalog.project().wal_home.as_ref() != Some(&noted.home) {
        move_to(catalog, noted.home.clone())?;
    }
    let settled = Noted {
        restoring: !all,
        former: None,
        ..noted
    };
    write(&config.data_dir, &settled)
}
