//! A new project as a copy of one that was prepared and stopped.
//!
//! Creating the system tables takes MariaDB a second or more; a copy of a
//! project that has them takes the time of copying its files.

use super::{FILE, Project, sync_dir};
use crate::error::ServerError;
use crate::lock::DirLock;
use jiff::Timestamp;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Stands in a data directory while a template is copied into it.
const COPYING: &str = "copying";

/// Makes `data_dir` a project of its own with the content of `template_dir`,
/// which is the data directory of a server that was stopped cleanly. The new
/// project has its own id and `now` as the time of its creation. Branches keep
/// their ids: they name directories and stand in layers.
///
/// The project file is written last: a copy that was interrupted is not a
/// project, and the next attempt starts over.
///
/// # Errors
/// When the template is in use or is none, when `data_dir` holds a project
/// already, or when a file operation fails.
pub fn create_from_template(
    template_dir: &Path,
    data_dir: &Path,
    now: Timestamp,
    project: u128,
) -> Result<Project, ServerError> {
    let not_template = |message: &str| ServerError::Project {
        path: template_dir.join(FILE),
        message: message.to_owned(),
    };
    if !template_dir.is_dir() {
        return Err(not_template("the template is not there"));
    }
    let _template = DirLock::share(template_dir)?;
    let mut copy = Project::read(template_dir)?
        .ok_or_else(|| not_template("not there: the template is not a server's data directory"))?;
    std::fs::create_dir_all(data_dir).map_err(|source| {
        ServerError::io(format!("cannot create {}", data_dir.display()), source)
    })?;
    let _lock = DirLock::take(data_dir)?;
    if Project::read(data_dir)?.is_some() {
        return Err(ServerError::Project {
            path: data_dir.join(FILE),
            message: "there is a project already; a template makes new ones only".to_owned(),
        });
    }
    begin(data_dir)?;
    copy_tree(template_dir, data_dir, &|name| {
        matches!(name, "lock" | FILE | "project.json.new" | COPYING)
    })?;
    copy.id = format!("{project:032x}");
    copy.created_at = now;
    for branch in copy.branches.values_mut() {
        branch.created_at = now;
    }
    copy.write(data_dir)?;
    let marker = data_dir.join(COPYING);
    std::fs::remove_file(&marker)
        .map_err(|source| ServerError::io(format!("cannot remove {}", marker.display()), source))?;
    Ok(copy)
}

/// Makes room for the copy: what an earlier attempt left is removed, what
/// anything else left is not touched.
fn begin(data_dir: &Path) -> Result<(), ServerError> {
    let marker = data_dir.join(COPYING);
    for part in ["branches", "layers"] {
        let part = data_dir.join(part);
        if !part.exists() {
            continue;
        }
        if !marker.exists() {
            return Err(ServerError::Project {
                path: data_dir.join(FILE),
                message: format!(
                    "it is missing, but {} is there: not a place for a new project",
                    part.display()
                ),
            });
        }
        std::fs::remove_dir_all(&part).map_err(|source| {
            ServerError::io(format!("cannot remove {}", part.display()), source)
        })?;
    }
    std::fs::File::create(&marker)
        .and_then(|file| file.sync_all())
        .map_err(|source| ServerError::io(format!("cannot create {}", marker.display()), source))
}

fn copy_tree(from: &Path, to: &Path, skip: &dyn Fn(&str) -> bool) -> Result<(), ServerError> {
    let failed = |path: &Path| {
        let context = format!("cannot copy {}", path.display());
        move |source| ServerError::io(context, source)
    };
    for entry in std::fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name().to_str().is_some_and(skip) {
            continue;
        }
        if entry.file_type().map_err(failed(&source))?.is_dir() {
            std::fs::create_dir_all(&target).map_err(failed(&source))?;
            copy_tree(&source, &target, &|_| false)?;
        } else {
            std::fs::copy(&source, &target).map_err(failed(&source))?;
            // An installation may be read-only; the copy must not be.
            let owner_writes = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&target, owner_writes).map_err(failed(&source))?;
            std::fs::File::open(&target)
                .and_then(|file| file.sync_all())
                .map_err(failed(&source))?;
        }
    }
    sync_dir(to).map_err(failed(to))
}
