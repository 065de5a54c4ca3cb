//! Takes a branch that was filled from outside into the project.
//!
//! Until then nothing refers to what the import writes; a file in the data
//! directory notes its id, so that a server that was killed meanwhile removes
//! it at its next start.

use crate::branch::OpenBranch;
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::node::{Node, Opened};
use crate::open;
use crate::project::{self, BranchMeta, InnodbParams, Project};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_pages::Store;
use xylem_types::{BranchId, BranchName, Epoch, Lsn};

/// Where imports under way are noted, in the data directory.
const NOTES: &str = "imports";

/// A branch cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    /// There is one of that name.
    #[error("there is a branch {0} already, and it is not empty")]
    Exists(String),
    /// Its pages have another size.
    #[error(
        "its pages have {given} bytes, those of this project {have}: import it as a new project"
    )]
    PageSize {
        /// Of the import.
        given: u32,
        /// Of the project.
        have: u32,
    },
    /// The server failed.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// An import that is noted; the note goes when this is dropped.
pub(crate) struct Note {
    path: PathBuf,
}

impl Note {
    /// Notes that `id` is being filled. Durable on return.
    pub(crate) fn write(data_dir: &Path, id: BranchId) -> Result<Note, ServerError> {
        let dir = data_dir.join(NOTES);
        let path = dir.join(id.to_string());
        let write = || {
            std::fs::create_dir_all(&dir)?;
            std::fs::File::open(data_dir)?.sync_all()?;
            std::fs::File::create(&path)?.sync_all()?;
            std::fs::File::open(&dir)?.sync_all()
        };
        write().map_err(|source| {
            ServerError::io(format!("cannot write {}", path.display()), source)
        })?;
        Ok(Note { path })
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the note of an import");
        }
    }
}

/// Removes what imports have left that a crash cut short. Best effort: what
/// stays is removed at the next start.
pub(crate) fn sweep(config: &ServerConfig, project: &Project, store: &Store) {
    let dir = config.data_dir.join(NOTES);
    for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|n| n.parse::<BranchId>().ok()) else {
            continue;
        };
        let taken_in = project
            .branches
            .values()
            .any(|b| b.branch_id().is_ok_and(|b| b == id));
        let removed = if taken_in {
            Ok(())
        } else {
            tracing::info!(branch = %id, "removing what an import left that was cut short");
            discard(&config.data_dir, store, id)
        };
        match removed {
            Ok(()) => drop(Note { path: entry.path() }),
            Err(error) => tracing::warn!(branch = %id, %error, "not removed"),
        }
    }
}

/// Whether `name` can become an import whose InnoDB has `innodb`.
pub(crate) fn check(
    node: &Node,
    opened: &Opened,
    name: &BranchName,
    innodb: &InnodbParams,
) -> Result<(), AdoptError> {
    let branches = opened.all();
    if branches
        .iter()
        .any(|b| b.name == name.as_str() && !is_empty(b))
    {
        return Err(AdoptError::Exists(name.to_string()));
    }
    let have = read(node)?.innodb.page_size;
    if have != innodb.page_size && !branches.iter().all(|b| is_empty(b)) {
        return Err(AdoptError::PageSize {
            given: innodb.page_size,
            have,
        });
    }
    Ok(())
}

/// An empty branch in whose place another came.
pub(crate) struct Replaced {
    branch: Arc<OpenBranch>,
    _note: Note,
}

/// Makes `id`, which was filled, the branch `name`. Blocking.
pub(crate) fn adopt(
    node: &Node,
    opened: &Opened,
    name: &BranchName,
    id: BranchId,
    innodb: InnodbParams,
) -> Result<Option<Replaced>, AdoptError> {
    check(node, opened, name, &innodb)?;
    // Nobody finds a branch by its name meanwhile.
    let mut branches = opened.branches.write();
    let mut project = read(node)?;
    let meta = BranchMeta {
        id: id.to_string(),
        ancestor: None,
        ancestor_lsn: 0,
        created_at: Timestamp::now(),
    };
    if branches.values().all(|b| is_empty(b)) {
        project.innodb = innodb;
    }
    let replaced = match branches.get(name.as_str()) {
        Some(branch) if !is_empty(branch) => return Err(AdoptError::Exists(name.to_string())),
        Some(branch) => Some(Replaced {
            _note: Note::write(&node.config.data_dir, branch.pages.id())?,
            branch: Arc::clone(branch),
        }),
        None => None,
    };
    let branch = open::open_branch(
        &node.config,
        &node.metrics,
        &opened.store,
        name.as_str(),
        &meta,
    )?;
    project.branches.insert(name.to_string(), meta);
    if let Err(error) = project.write(&node.config.data_dir) {
        branch.pages.shutdown();
        return Err(error.into());
    }
    branches.insert(name.to_string(), Arc::new(branch));
    Ok(replaced)
}

/// Closes the empty branch in whose place another came, and removes it.
pub(crate) async fn remove(node: &Node, opened: &Opened, replaced: Replaced) {
    let branch = Arc::clone(&replaced.branch);
    if let Err(error) = branch.log.close().await {
        tracing::warn!(branch = %branch.name, %error, "cannot close the log of an empty branch");
    }
    let store = Arc::clone(&opened.store);
    let id = branch.pages.id();
    let data_dir = node.config.data_dir.clone();
    let removed = tokio::task::spawn_blocking(move || {
        branch.pages.shutdown();
        discard(&data_dir, &store, id)
    });
    match removed.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(branch = %id, %error, "cannot remove an empty branch"),
        Err(error) => tracing::warn!(branch = %id, %error, "removing an empty branch ended early"),
    }
}

/// Removes log and layers of a branch that nobody has open.
fn discard(data_dir: &Path, store: &Store, id: BranchId) -> Result<(), ServerError> {
    if let Some(dir) = project::log_dir(data_dir, id).parent() {
        match std::fs::remove_dir_all(dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                let context = format!("cannot remove {}", dir.display());
                return Err(ServerError::io(context, source));
            }
            _ => {}
        }
    }
    xylem_pages::discard(store, id).map_err(|source| ServerError::Store {
        branch: id.to_string(),
        source,
    })
}

fn read(node: &Node) -> Result<Project, ServerError> {
    let data_dir = &node.config.data_dir;
    Project::read(data_dir)?.ok_or_else(|| ServerError::Project {
        path: data_dir.join(project::FILE),
        message: "it is gone".to_owned(),
    })
}

/// No compute ever attached to it.
fn is_empty(branch: &OpenBranch) -> bool {
    branch.epoch() == Epoch(0) && branch.pages.applied() <= Lsn::FIRST
}
