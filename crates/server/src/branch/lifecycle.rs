//! Creating, removing, renaming and restoring branches in a running server.
//!
//! The catalogue decides: a branch exists once a catalogue that names it is durable,
//! and is gone once a catalogue without it is durable. A crash before or after that
//! leaves a folder or a WAL that no catalogue names; the next start sweeps it.
//!
//! A branch must not acknowledge commits while it is unknown whether the catalogue
//! has it: those commits would be swept with the branch, or would be on a branch that
//! has another name by then. The branch is *held* from before the catalogue is
//! written until the outcome is known ([`settle`]).

pub(crate) mod adopt;
mod reopen;
mod settle;

pub use reopen::reopen;
pub use settle::{Early, early};

use crate::branch::live::OpenBranch;
use crate::branch::moment::{self, At, Found, MomentError};
use crate::branch::open::{self, Opener};
use crate::branch::registry::BranchRef;
use crate::error::ServerError;
use crate::node::{Node, Opened};
use crate::project::catalog::CatalogError;
use crate::project::{BranchMeta, Project};
use crate::time;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use xylem_pages::{ForkError, ReadAt};
use xylem_types::{BranchId, BranchName};

/// How long a change waits for ingest to reach the durable end of the WAL.
const PATIENCE: Duration = Duration::from_secs(60);

/// A change of branches did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// No branch has that name or id.
    #[error("there is no branch {0}")]
    NoBranch(BranchRef),
    /// The branch exists but is not open.
    #[error(
        "branch {branch} is not open: {why}; hint: remove the cause, then run `xylem branch reopen {branch}`"
    )]
    NotOpen {
        /// The branch.
        branch: String,
        /// Why it is not open.
        why: String,
    },
    /// Another branch has the name.
    #[error("there is a branch {0} already")]
    Exists(String),
    /// The moment cannot be resolved.
    #[error(transparent)]
    Moment(#[from] MomentError),
    /// Child branches need the branch's history.
    #[error("branch {branch} cannot be removed: its child branches need its history; remove them first: {}", named(by, *hidden))]
    Needed {
        /// The parent branch.
        branch: String,
        /// Its child branches.
        by: Vec<String>,
        /// The number of further ones, whose names the caller may not know.
        hidden: usize,
    },
    /// The parent of a branch that is to be reopened is closed.
    #[error("the parent branch of {branch}{} is not open either: reopen {}, which also reopens its child branches",
        parent.as_ref().map_or_else(String::new, |name| format!(", {name},")),
        parent.as_deref().unwrap_or("it with a token that reaches it"))]
    ParentClosed {
        /// The branch.
        branch: BranchRef,
        /// The parent's name, if the caller may know it.
        parent: Option<String>,
    },
    /// The change is not possible for this branch.
    #[error("{0}")]
    Refused(String),
    /// The new branch's first manifest could not be written.
    #[error("cannot create branch {name}: {source}")]
    Fork {
        /// The new branch.
        name: String,
        /// The page store's error.
        source: ForkError,
    },
    /// The new branch could not be opened.
    #[error("cannot open the new branch: {0}")]
    Open(#[from] ServerError),
    /// The catalogue could not be changed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The parent's WAL is not in the object store up to the branch point.
    #[error(
        "the WAL of branch {branch} cannot be copied to the object store, which a child branch needs: {why}"
    )]
    NotBackedUp {
        /// The parent branch.
        branch: String,
        /// Why the copy has not got there.
        why: String,
    },
    /// The old branch's WAL could not be sealed.
    #[error("branch {branch}: its compute could not be fenced: {source}")]
    Fence {
        /// The old branch.
        branch: String,
        /// The WAL's error.
        source: xylem_wal::WalError,
    },
    /// The limit of leases is reached.
    #[error(
        "there are {0} leases of read-only computes, as many as the server allows (setting leases_max): stop computes that are not needed"
    )]
    Leases(usize),
    /// It is unknown whether the change was made.
    #[error("{0}")]
    Unsettled(String),
    /// The server is stopping.
    #[error("the server is stopping; retry")]
    Stopping,
}

fn named(names: &[String], hidden: usize) -> String {
    let mut all = names.to_vec();
    match (hidden, names.is_empty()) {
        (0, _) => {}
        (1, true) => all.push("one that this token may not read".to_owned()),
        (more, true) => all.push(format!("{more} that this token may not read")),
        (more, false) => all.push(format!("and {more} more that this token may not read")),
    }
    all.join(", ")
}

impl ManageError {
    /// The same for a caller who must not learn the names of relatives that it may not read.
    pub fn without_names(self, may_read: impl Fn(&str) -> bool) -> ManageError {
        match self {
            ManageError::Needed {
                branch,
                mut by,
                hidden,
            } => {
                let all = by.len() + hidden;
                by.retain(|name| may_read(name));
                ManageError::Needed {
                    branch,
                    hidden: all - by.len(),
                    by,
                }
            }
            ManageError::ParentClosed { branch, parent } => ManageError::ParentClosed {
                branch,
                parent: parent.filter(|name| may_read(name)),
            },
            ManageError::NotBackedUp { branch, why } if !may_read(&branch) => {
                ManageError::NotBackedUp {
                    branch: "that its history begins in".to_owned(),
                    why,
                }
            }
            // The reason names the parent.
            ManageError::NotOpen { branch, .. } if !may_read(&branch) => ManageError::NotOpen {
                branch: "that its history begins in".to_owned(),
                why: "its trouble is told to those who may read it".to_owned(),
            },
            other => other,
        }
    }

    /// Whether the change was certainly not made, and will not be.
    fn is_certain(&self) -> bool {
        !matches!(
            self,
            ManageError::Catalog(CatalogError::Unsettled { .. } | CatalogError::Lost { .. })
                | ManageError::Unsettled(_)
                | ManageError::Stopping
        )
    }
}

/// A branch to be created.
#[derive(Clone, Debug)]
pub struct New {
    /// The branch's name.
    pub name: Name,
    /// The parent branch.
    pub from: BranchRef,
    /// The branch point.
    pub at: At,
}

/// The name of a new branch.
#[derive(Clone, Debug)]
pub enum Name {
    /// A name that the caller chose.
    Given(BranchName),
    /// A lease, named after its parent branch.
    Lease,
}

/// Creates and opens a child branch.
///
/// # Errors
/// [`ManageError`].
pub async fn create(
    node: &Arc<Node>,
    new: New,
    early: Early,
) -> Result<Arc<OpenBranch>, ManageError> {
    let opened = opened(node)?;
    let from = find(opened, &new.from)?;
    let until = Instant::now() + PATIENCE;
    let at = moment::resolve(&from, new.at, until).await?;
    let _changes = settle::lock(opened).await?;
    // The branch may have been removed while the moment was resolved.
    let from = find(opened, &BranchRef::Id(from.id()))?;
    let project = opened.catalog.project();
    let (name, lease) = match new.name {
        Name::Given(name) => (name.to_string(), false),
        Name::Lease if from.meta.lease => {
            return Err(ManageError::Refused(format!(
                "{} belongs to a read-only compute: name the branch that it shows",
                from.name()
            )));
        }
        Name::Lease => {
            let leases = project.branches.values().filter(|b| b.lease).count();
            if leases >= node.config.leases_max {
                return Err(ManageError::Leases(leases));
            }
            (project.lease_name(&from.name()), true)
        }
    };
    check_free(&project, &name)?;
    let made = make(node, from, at, name.clone(), lease).await?;
    let add = name.clone();
    publish(node, &made, early, move |project, meta| {
        check_free(project, &add)?;
        project.branches.insert(add, meta);
        Ok(())
    })
    .await?;
    opened.branches.insert(&made, &name);
    tracing::info!(branch = name, branch_id = %made.id(), lsn = made.meta.branch_point_lsn, "branch created");
    Ok(made)
}

/// Creates an empty branch without a parent.
///
/// # Errors
/// [`ManageError`].
pub async fn create_empty(
    node: &Arc<Node>,
    name: BranchName,
    early: Early,
) -> Result<Arc<OpenBranch>, ManageError> {
    let opened = opened(node)?;
    let _changes = settle::lock(opened).await?;
    check_free(&opened.catalog.project(), name.as_str())?;
    let meta = BranchMeta {
        id: BranchId(node.config.random()?),
        parent: None,
        branch_point_lsn: 0,
        created_at: time::now(&node.config.clock),
        lease: false,
        log_end: None,
    };
    let made = {
        let node = Arc::clone(node);
        blocking(move || open_new(&node, meta)).await?
    };
    let add = name.to_string();
    publish(node, &made, early, move |project, meta| {
        check_free(project, &add)?;
        project.branches.insert(add, meta);
        Ok(())
    })
    .await?;
    opened.branches.insert(&made, name.as_str());
    tracing::info!(branch = %name, branch_id = %made.id(), "empty branch created");
    Ok(made)
}

/// Removes a branch and everything that belongs to it alone.
///
/// # Errors
/// [`ManageError::Needed`] while the branch has child branches.
pub async fn remove(node: &Arc<Node>, which: &BranchRef, early: Early) -> Result<(), ManageError> {
    let opened = opened(node)?;
    let _changes = settle::lock(opened).await?;
    if let Some(closed) = opened.branches.closed(which) {
        reopen::closed(&closed).await?;
        remove_entry(node, closed.meta.id, early).await?;
        opened.branches.remove(closed.meta.id);
        remove_files(node, closed.meta.id).await;
        return Ok(());
    }
    let branch = find(opened, which)?;
    remove_now(node, opened, &branch, early).await
}

/// Removes a lease that has been unused for `timeout`; false when it was used.
///
/// # Errors
/// As for [`remove`].
pub async fn remove_idle(
    node: &Arc<Node>,
    id: BranchId,
    timeout: Duration,
) -> Result<bool, ManageError> {
    let opened = opened(node)?;
    let _changes = settle::lock(opened).await?;
    let branch = find(opened, &BranchRef::Id(id))?;
    if branch.idle() < timeout {
        return Ok(false);
    }
    remove_now(node, opened, &branch, Early::nobody()).await?;
    Ok(true)
}

async fn remove_now(
    node: &Arc<Node>,
    opened: &Opened,
    branch: &Arc<OpenBranch>,
    early: Early,
) -> Result<(), ManageError> {
    let (id, name) = (branch.id(), branch.name());
    let held = branch.hold();
    if let Err(error) = remove_entry(node, id, early).await {
        if !error.is_certain() {
            held.keep();
        }
        return Err(error);
    }
    // From here on the branch is gone, whatever fails.
    opened.branches.remove(id);
    branch.set_removed();
    open::close_branch(branch).await;
    remove_files(node, id).await;
    tracing::info!(branch = name, branch_id = %id, "branch removed");
    Ok(())
}

/// Removes a branch without child branches from the catalogue.
async fn remove_entry(node: &Arc<Node>, id: BranchId, early: Early) -> Result<(), ManageError> {
    settle::change(node, early, move |project| {
        let Some((name, meta)) = project.branch(id) else {
            return Err(ManageError::NoBranch(BranchRef::Id(id)));
        };
        let by = project.children(id);
        if !by.is_empty() {
            return Err(ManageError::Needed {
                branch: name.to_owned(),
                by: by.into_iter().map(str::to_owned).collect(),
                hidden: 0,
            });
        }
        if !meta.lease && project.branches.values().filter(|b| !b.lease).count() == 1 {
            return Err(ManageError::Refused(format!(
                "{name} is the project's only branch: a project needs at least one"
            )));
        }
        let name = name.to_owned();
        project.branches.remove(&name);
        Ok(())
    })
    .await
}

/// Removes the files of a branch that no catalogue names any more.
async fn remove_files(node: &Arc<Node>, id: BranchId) {
    let node = Arc::clone(node);
    let removed = tokio::task::spawn_blocking(move || {
        if let Some(opened) = node.opened()
            && let Err(error) = opened.store.remove_branch(id)
        {
            tracing::warn!(branch_id = %id, %error, "cannot remove the branch's files; the next start removes them");
        }
        if let Some(Err(error)) = node.opened().map(|opened| opened.wals.remove(id)) {
            tracing::warn!(branch_id = %id, %error, "cannot remove the branch's WAL; the next start removes it");
        }
    });
    if let Err(error) = removed.await {
        tracing::error!(branch_id = %id, %error, "removing the branch's files failed");
    }
}

/// Renames a branch. Its computes continue.
///
/// # Errors
/// [`ManageError`].
pub async fn rename(
    node: &Arc<Node>,
    which: &BranchRef,
    to: BranchName,
    early: Early,
) -> Result<Arc<OpenBranch>, ManageError> {
    let opened = opened(node)?;
    let _changes = settle::lock(opened).await?;
    let branch = find(opened, which)?;
    refuse_lease(&branch, "renamed")?;
    let (id, new) = (branch.id(), to.to_string());
    settle::change(node, early, move |project| {
        check_free(project, &new)?;
        move_name(project, id, new)
    })
    .await?;
    let before = branch.name();
    opened.branches.rename(&branch, to.as_str(), None);
    tracing::info!(branch = %to, before, branch_id = %id, "branch renamed");
    Ok(branch)
}

/// Restores a branch to a moment: a new branch that begins there gets the name. The
/// old branch stays as `keep_as`, and its compute is fenced.
///
/// # Errors
/// [`ManageError`].
pub async fn restore(
    node: &Arc<Node>,
    which: &BranchRef,
    at: At,
    keep_as: Option<BranchName>,
    early: Early,
) -> Result<Restored, ManageError> {
    let opened = opened(node)?;
    let old = find(opened, which)?;
    let until = Instant::now() + PATIENCE;
    let read_at = moment::resolve(&old, at, until).await?;
    let _changes = settle::lock(opened).await?;
    let old = find(opened, &BranchRef::Id(old.id()))?;
    refuse_lease(&old, "restored")?;
    let project = opened.catalog.project();
    let name = old.name();
    let kept = match keep_as {
        Some(name) => {
            check_free(&project, name.as_str())?;
            name.to_string()
        }
        None => name_before(&project, &name, time::now(&node.config.clock))?,
    };
    let new = make(node, Arc::clone(&old), read_at, name.clone(), false).await?;
    // Before the names change: the old compute's clients would look on the new branch
    // for commits that are acknowledged from here on.
    let held = old.hold();
    let fenced = match old.fence().await {
        Ok(fenced) => fenced,
        Err(source) => {
            abandon(node, &new).await;
            return Err(ManageError::Fence {
                branch: name,
                source,
            });
        }
    };
    let (id, kept_) = (old.id(), kept.clone());
    let published = publish(node, &new, early, move |project, meta| {
        check_free(project, &kept_)?;
        move_name(project, id, kept_)?;
        check_free(project, &name)?;
        project.branches.insert(name, meta);
        Ok(())
    })
    .await;
    if let Err(error) = published {
        if !error.is_certain() {
            held.keep();
        }
        return Err(error);
    }
    opened.branches.rename(&old, &kept, Some(&new));
    drop((fenced, held));
    tracing::info!(branch = new.name(), branch_id = %new.id(), lsn = new.meta.branch_point_lsn, kept, "branch restored");
    Ok(Restored { new, old })
}

/// The result of a restore.
pub struct Restored {
    /// The new branch, which has the name.
    pub new: Arc<OpenBranch>,
    /// The old branch.
    pub old: Arc<OpenBranch>,
}

/// `main-before-20261122T140500Z`, with a number appended if that name is taken.
fn name_before(project: &Project, name: &str, now: Timestamp) -> Result<String, ManageError> {
    let time = now.strftime("%Y%m%dT%H%M%SZ");
    for number in 1u64.. {
        let more = match number {
            1 => String::new(),
            n => format!("-{n}"),
        };
        let before = format!("{name}-before-{time}{more}");
        if let Err(error) = BranchName::parse(&before) {
            return Err(ManageError::Refused(format!(
                "{error}: give the name under which the old branch is kept"
            )));
        }
        if !project.branches.contains_key(&before) {
            return Ok(before);
        }
    }
    Err(ManageError::Exists(name.to_owned()))
}

fn move_name(project: &mut Project, id: BranchId, to: String) -> Result<(), ManageError> {
    let gone = || ManageError::NoBranch(BranchRef::Id(id));
    let name = project.branch(id).ok_or_else(gone)?.0.to_owned();
    let meta = project.branches.remove(&name).ok_or_else(gone)?;
    project.branches.insert(to, meta);
    Ok(())
}

fn opened(node: &Node) -> Result<&Opened, ManageError> {
    let opened = node.opened().ok_or(ManageError::Stopping)?;
    match opened.catalog.why_lost() {
        Some(lost) => Err(lost.into()),
        None => Ok(opened),
    }
}

fn find(opened: &Opened, which: &BranchRef) -> Result<Arc<OpenBranch>, ManageError> {
    let found = opened.branches.get(which);
    found.ok_or_else(|| match opened.branches.closed(which) {
        Some(closed) => ManageError::NotOpen {
            branch: which.to_string(),
            why: closed.why.clone(),
        },
        None => ManageError::NoBranch(which.clone()),
    })
}

fn check_free(project: &Project, name: &str) -> Result<(), ManageError> {
    if project.branches.contains_key(name) {
        return Err(ManageError::Exists(name.to_owned()));
    }
    Ok(())
}

fn refuse_lease(branch: &OpenBranch, what: &str) -> Result<(), ManageError> {
    if branch.meta.lease {
        return Err(ManageError::Refused(format!(
            "{} belongs to a read-only compute: it cannot be {what}",
            branch.name()
        )));
    }
    Ok(())
}

/// Makes and opens a child branch of `from`, or of the ancestor with which `from`
/// shares `at`. The branch is not registered yet.
async fn make(
    node: &Arc<Node>,
    from: Arc<OpenBranch>,
    at: Found,
    name: String,
    lease: bool,
) -> Result<Arc<OpenBranch>, ManageError> {
    let mut from = from;
    while let (ReadAt::Lsn(lsn), Some(parent)) = (at.read, from.meta.parent)
        && lsn.0 <= from.meta.branch_point_lsn
    {
        from = find(opened(node)?, &BranchRef::Id(parent))?;
    }
    let node_ = Arc::clone(node);
    let left = Arc::clone(&from);
    let made = blocking(move || {
        let id = BranchId(node_.config.random()?);
        let lsn = from
            .pages
            .fork(id, at.read)
            .map_err(|source| ManageError::Fork {
                name: name.clone(),
                source,
            })?;
        let meta = BranchMeta {
            id,
            parent: Some(from.id()),
            branch_point_lsn: lsn.0,
            created_at: time::now(&node_.config.clock),
            lease,
            log_end: at.log_end,
        };
        open_new(&node_, meta)
    })
    .await?;
    // The new branch depends on its parent's WAL up to the branch point. A server that
    // has only the copy of that WAL must find all of it.
    if let Some(backed) = &left.backed {
        let backed_up = tokio::time::timeout(PATIENCE, backed.reach_now()).await;
        let failed = match backed_up {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(match backed.backup().trouble {
                Some(error) => error.to_string(),
                None => format!("it has not finished within {} s", PATIENCE.as_secs()),
            }),
        };
        if let Some(why) = failed {
            abandon(node, &made).await;
            return Err(ManageError::NotBackedUp {
                branch: left.name(),
                why,
            });
        }
    }
    Ok(made)
}

/// Opens a branch that no catalogue names yet. Until one does, the branch's id serves
/// as its name. Blocking.
fn open_new(node: &Node, meta: BranchMeta) -> Result<Arc<OpenBranch>, ManageError> {
    let opened = node.opened().ok_or(ManageError::Stopping)?;
    let id = meta.id;
    let name = BranchRef::Id(id).to_string();
    let made = Opener::of(node, opened).open(&name, meta, None);
    if made.is_err() {
        // Best effort: the next start sweeps what stays.
        let _ = opened.store.remove_branch(id);
    }
    Ok(made?)
}

/// Writes the catalogue that contains the branch `made`. If that certainly failed,
/// `made` is removed.
async fn publish(
    node: &Arc<Node>,
    made: &Arc<OpenBranch>,
    early: Early,
    add: impl FnOnce(&mut Project, BranchMeta) -> Result<(), ManageError> + Send + 'static,
) -> Result<(), ManageError> {
    let meta = made.meta.clone();
    let published = settle::change(node, early, move |project| add(project, meta)).await;
    match &published {
        Ok(()) => {}
        Err(error) if error.is_certain() => abandon(node, made).await,
        Err(_) => {
            // The catalogue may name the branch, so its files must stay.
            made.set_removed();
            open::close_branch(made).await;
        }
    }
    published
}

/// Removes a branch that no catalogue has ever named.
async fn abandon(node: &Arc<Node>, made: &Arc<OpenBranch>) {
    made.set_removed();
    open::close_branch(made).await;
    remove_unnamed(node, made.id()).await;
}

/// Removes the files of a branch that no catalogue has ever named. Best effort: the next start
/// sweeps what stays.
async fn remove_unnamed(node: &Arc<Node>, id: BranchId) {
    let node = Arc::clone(node);
    let removed = tokio::task::spawn_blocking(move || {
        node.opened().map(|opened| opened.store.remove_branch(id))
    });
    if !matches!(removed.await, Ok(Some(Ok(())))) {
        tracing::warn!(branch_id = %id, "cannot remove the files of a branch that was not created; the next start removes them");
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ManageError> + Send + 'static,
) -> Result<T, ManageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The runtime is shutting down, or the task panicked, which was logged.
        Err(_) => Err(ManageError::Stopping),
    }
}
