//! Opens and closes branches: the WAL and the pages of each.

use super::live::OpenBranch;
use super::registry::{BranchRef, Branches, ClosedBranch};
use crate::error::ServerError;
use crate::node::{Node, Opened};
use crate::project::BranchMeta;
use crate::wals::Wals;
use std::sync::Arc;
use tracing::Instrument;
use xylem_pages::{Branch, Store, StoreError};
use xylem_types::Lsn;
use xylem_wal::WalError;

/// The parts of a server that opening a branch needs.
#[derive(Clone, Copy)]
pub(crate) struct Opener<'a> {
    /// The server.
    pub node: &'a Node,
    /// The page store.
    pub store: &'a Arc<Store>,
    /// The WALs of all branches.
    pub wals: &'a Wals,
    /// The known branches, open or not.
    pub branches: &'a Branches,
}

impl<'a> Opener<'a> {
    pub(crate) fn of(node: &'a Node, opened: &'a Opened) -> Opener<'a> {
        Opener {
            node,
            store: &opened.store,
            wals: &opened.wals,
            branches: &opened.branches,
        }
    }

    /// Opens a branch whose parent is open. `right` is the number of the catalogue
    /// that entitles this server to the branch's WAL; `None`: the WAL is new.
    /// Blocking.
    ///
    /// # Errors
    /// The WAL or the pages cannot be opened, or the parent is not open.
    pub(crate) fn open(
        self,
        name: &str,
        meta: BranchMeta,
        right: Option<u64>,
    ) -> Result<Arc<OpenBranch>, ServerError> {
        let parent = match meta.parent.map(BranchRef::Id) {
            None => None,
            Some(of) => Some(self.branches.get(&of).ok_or_else(|| ServerError::Parent {
                branch: name.to_owned(),
                parent: of.to_string(),
            })?),
        };
        let mut wal = None;
        let pages = Branch::open_with(
            Arc::clone(self.store),
            meta.id,
            parent.as_ref().map(|of| Arc::clone(&of.pages)),
            |floor| {
                let opened = self
                    .wals
                    .open(meta.id, floor, right)
                    .map_err(OpenError::Wal)?;
                Ok(Arc::clone(&wal.insert(opened).wal))
            },
        )
        .map_err(|error| {
            let branch = name.to_owned();
            match error {
                OpenError::Wal(source) => ServerError::Wal { branch, source },
                OpenError::Store(source) => ServerError::Store { branch, source },
            }
        })?;
        let wal = wal
            .ok_or_else(|| ServerError::Serve("a branch was opened without its WAL".to_owned()))?;
        if let Some(of) = &parent {
            let end = of.durable();
            pages.check_parent(end.lsn(), end.position());
        }
        Ok(Arc::new(OpenBranch::new(
            name,
            meta,
            wal,
            pages,
            self.node.surroundings(),
        )))
    }
}

/// Opens branches whose parents are open. It opens all of them in parallel, since
/// most of the time goes into waiting for disks and the store. It registers a
/// branch that does not open as closed, and returns the first error.
pub(crate) fn open_group(of: Opener<'_>, group: &[(&str, &BranchMeta)]) -> Option<ServerError> {
    let runtime = tokio::runtime::Handle::current();
    let right = Some(of.wals.claim());
    let opened: Vec<Result<Arc<OpenBranch>, ServerError>> = std::thread::scope(|scope| {
        let openers: Vec<_> = group
            .iter()
            .map(|(name, meta)| {
                let runtime = &runtime;
                scope.spawn(move || {
                    let _in_runtime = runtime.enter();
                    let meta = BranchMeta::clone(meta);
                    of.open(name, meta, right)
                })
            })
            .collect();
        let ended_early = |_| {
            Err(ServerError::Serve(
                "the thread that opens a branch panicked".to_owned(),
            ))
        };
        openers
            .into_iter()
            .map(|opener| opener.join().unwrap_or_else(ended_early))
            .collect()
    });
    let mut failed = None;
    for (open, (name, meta)) in opened.into_iter().zip(group) {
        match open {
            Ok(branch) => of.branches.insert(&branch, name),
            Err(error) => {
                set_closed(of.branches, name, meta, &error);
                failed = failed.or(Some(error));
            }
        }
    }
    failed
}

/// Registers a branch that does not open. Its parent keeps the history that the
/// branch needs.
pub(crate) fn set_closed(branches: &Branches, name: &str, meta: &BranchMeta, error: &ServerError) {
    tracing::error!(branch = name, branch_id = %meta.id, %error, "cannot open the branch; it is not served");
    let parent = meta.parent.and_then(|id| branches.get(&BranchRef::Id(id)));
    if let Some(parent) = parent {
        parent.pages.keep_for(meta.id, Lsn(meta.branch_point_lsn));
    }
    let closed = ClosedBranch::new(meta.clone(), error.to_string());
    branches.insert_closed(&closed, name);
}

/// Why a branch's parts cannot be opened.
enum OpenError {
    Wal(WalError),
    Store(StoreError),
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> OpenError {
        OpenError::Store(error)
    }
}

/// Closes a branch. The WAL is closed first, so that nothing is appended meanwhile.
pub(crate) async fn close_branch(branch: &Arc<OpenBranch>) {
    let name = branch.name();
    let close = async {
        if let Err(error) = branch.wal.close().await {
            tracing::error!(branch = name, %error, "cannot close the WAL");
        }
        let closing = Arc::clone(branch);
        if let Err(error) = tokio::task::spawn_blocking(move || closing.pages.shutdown()).await {
            tracing::error!(branch = name, %error, "closing the branch's pages failed");
        }
    };
    close.instrument(branch.span()).await;
}
