//! Creates a project as a copy of a template: a project that was bootstrapped and
//! stopped.
//!
//! Creating the system tables takes MariaDB a second or more; copying their files is
//! faster.

use super::catalog::{self, Catalog, Claimant};
use super::{Project, is_used, refuse_former, settle, sync_dir, wals};
use crate::error::ServerError;
use crate::lock::DirLock;
use crate::place;
use crate::random;
use jiff::Timestamp;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};
use xylem_pages::place::{FileReader, Files, LocalFiles, Place, Put};

/// A file in the data directory while a template is copied into it. It holds the URL of
/// the target store.
pub(super) const COPYING: &str = "copying";
/// The folder of the store that has a folder for each branch.
const BRANCHES: &str = "branches";
/// A file up to this size is written in one call, which creates it only if absent.
const SMALL_BYTES: u64 = 1 << 20;

/// As [`create_from_template_in`], in the default store of `data_dir`.
///
/// # Errors
/// As for [`create_from_template_in`].
pub fn create_from_template(
    template_dir: &Path,
    data_dir: &Path,
    now: Timestamp,
    entropy: &Entropy,
) -> Result<Project, ServerError> {
    let store = place::default_url(data_dir);
    create_from_template_in(template_dir, data_dir, &store, now, entropy)
}

/// Creates a project in `data_dir` and the store that `url` names, with the content of
/// `template_dir`: the data directory of a cleanly stopped server that had its store in
/// the same directory. The new project has its own id, and `now` as its creation time.
/// Branches keep their ids, since those name folders and appear in layers.
///
/// The catalogue is written last: an interrupted copy is not a project, and the next
/// attempt starts over.
///
/// # Errors
/// The template is in use or invalid, a project exists already, or a file operation
/// fails.
pub fn create_from_template_in(
    template_dir: &Path,
    data_dir: &Path,
    url: &str,
    now: Timestamp,
    entropy: &Entropy,
) -> Result<Project, ServerError> {
    let _template = match template_dir.is_dir() {
        true => DirLock::share(template_dir)?,
        false => return Err(not_template(template_dir, "the directory does not exist")),
    };
    let (store, mut copy) = read_template(template_dir)?;
    std::fs::create_dir_all(data_dir).map_err(|source| {
        ServerError::io(format!("cannot create {}", data_dir.display()), source)
    })?;
    let _lock = DirLock::take(data_dir)?;
    refuse_former(data_dir)?;
    let place = place::open(url, data_dir, place::CACHE_BYTES)?;
    if catalog::exists(&*place)? || is_used(data_dir) {
        return Err(ServerError::Project {
            path: url.into(),
            message: "there is a project already; a template only creates new projects".to_owned(),
        });
    }
    begin(data_dir, &*place, url)?;
    copy_tree(&wals(template_dir), &wals(data_dir))?;
    for meta in copy.branches.values() {
        let folder = format!("{BRANCHES}/{}", meta.id);
        copy_folder(&store.join(&folder), &*place, &folder)?;
    }
    copy.id = format!("{:032x}", random::number(entropy)?);
    copy.created_at = now;
    copy.wal_home = Some(super::wal_home::begin(data_dir, entropy)?);
    for branch in copy.branches.values_mut() {
        branch.created_at = now;
    }
    // No server has served the project yet, so the first one need not wait.
    let claimant = Claimant {
        writer: random::number(entropy)?,
        lease: Duration::ZERO,
        clock: Clock::system(),
    };
    Catalog::create(&*place, claimant, copy.clone())?;
    settle(data_dir, &copy.id)?;
    let marker = data_dir.join(COPYING);
    std::fs::remove_file(&marker)
        .map_err(|source| ServerError::io(format!("cannot remove {}", marker.display()), source))?;
    Ok(copy)
}

fn not_template(dir: &Path, message: &str) -> ServerError {
    ServerError::Project {
        path: dir.to_owned(),
        message: format!("the template cannot be used: {message}"),
    }
}

/// The template's store and project. Writes and locks nothing there: other processes
/// may read the template at the same time, and it may be read-only.
fn read_template(dir: &Path) -> Result<(PathBuf, Project), ServerError> {
    refuse_former(dir)?;
    let store = dir.join("store");
    let folder = store.join(catalog::FOLDER);
    let none = || not_template(dir, "it is not a stopped server's data directory");
    if !folder.is_dir() {
        return Err(none());
    }
    let files = LocalFiles::open(&folder, None)
        .map_err(|source| ServerError::io(format!("cannot open {}", folder.display()), source))?;
    let project =
        catalog::read_files(Arc::new(files), store.display().to_string())?.ok_or_else(none)?;
    Ok((store, project))
}

/// Makes room for the copy: removes what an earlier attempt left, and touches nothing
/// else.
fn begin(data_dir: &Path, place: &dyn Place, url: &str) -> Result<(), ServerError> {
    let marker = data_dir.join(COPYING);
    let ours = std::fs::read_to_string(&marker).is_ok_and(|text| text.trim() == url);
    let occupied = |where_: String| ServerError::Project {
        path: data_dir.to_owned(),
        message: format!("there is no project, but {where_} exists: not a place for a new project"),
    };
    let in_store = |source| ServerError::io(format!("cannot make room in the store {url}"), source);
    let wals = wals(data_dir);
    if wals.exists() {
        if !ours {
            return Err(occupied(wals.display().to_string()));
        }
        std::fs::remove_dir_all(&wals).map_err(|source| {
            ServerError::io(format!("cannot remove {}", wals.display()), source)
        })?;
    }
    for folder in place.folders(BRANCHES).map_err(in_store)? {
        let folder = format!("{BRANCHES}/{folder}");
        if !ours {
            return Err(occupied(format!("{url}/{folder}")));
        }
        place.remove_folder(&folder).map_err(in_store)?;
    }
    super::replace(&marker, format!("{url}\n").as_bytes())
        .map_err(|source| ServerError::io(format!("cannot create {}", marker.display()), source))
}

/// Copies the files of a template's folder into a folder of the store.
fn copy_folder(from: &Path, place: &dyn Place, to: &str) -> Result<(), ServerError> {
    let failed = |name: &str| {
        let context = format!(
            "cannot copy {} into {}",
            from.join(name).display(),
            place.url()
        );
        move |source| ServerError::io(context, source)
    };
    if !from.is_dir() {
        return Ok(());
    }
    let source = LocalFiles::open(from, None).map_err(failed(""))?;
    let target = place.folder(to).map_err(failed(""))?;
    for (name, bytes) in source.list().map_err(failed(""))? {
        copy_file(&source, &*target, &name, bytes).map_err(failed(&name))?;
    }
    Ok(())
}

fn copy_file(from: &dyn Files, to: &dyn Files, name: &str, bytes: u64) -> std::io::Result<()> {
    if bytes <= SMALL_BYTES {
        return match to.put_new(name, &from.read(name)?)? {
            Put::Done => Ok(()),
            Put::NotSynced => Err(Error::other("it may not survive a power failure")),
            Put::Exists => Err(ErrorKind::AlreadyExists.into()),
        };
    }
    let reader: Arc<dyn FileReader> = from.open(name)?;
    let mut writer = to.create(name)?;
    let mut offset = 0;
    while offset < bytes {
        let mut piece = vec![0; usize::try_from((bytes - offset).min(SMALL_BYTES)).unwrap_or(0)];
        reader.read_at(offset, &mut piece)?;
        writer.write(&piece)?;
        offset += piece.len() as u64;
    }
    writer.finish()
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), ServerError> {
    let failed = |path: &Path| {
        let context = format!("cannot copy {}", path.display());
        move |source| ServerError::io(context, source)
    };
    if !from.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(to).map_err(failed(from))?;
    for entry in std::fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(failed(&source))?.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            std::fs::copy(&source, &target).map_err(failed(&source))?;
            // The template's files may be read-only; the copy must be writable.
            let owner_writes = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&target, owner_writes).map_err(failed(&source))?;
            std::fs::File::open(&target)
                .and_then(|file| file.sync_all())
                .map_err(failed(&source))?;
        }
    }
    sync_dir(to).map_err(failed(to))
}
