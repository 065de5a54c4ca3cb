//! The server's branches, by id and by present name. A branch that did not open is
//! listed with the reason.

use super::live::OpenBranch;
use crate::project::BranchMeta;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tokio::task::JoinHandle;
use xylem_types::{BranchId, BranchName};

/// The prefix of an id where a name is accepted as well. No name has a colon.
const ID_PREFIX: &str = "id:";

/// How a caller names a branch: by its present name, or by its permanent id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchRef {
    /// The name of a branch or a lease.
    Name(String),
    /// The permanent id.
    Id(BranchId),
}

impl BranchRef {
    /// Reads `main`, `main@2` or `id:` and 32 hexadecimal digits.
    ///
    /// # Errors
    /// `text` is neither; the message says which form is expected.
    pub fn parse(text: &str) -> Result<BranchRef, String> {
        if let Some(digits) = text.strip_prefix(ID_PREFIX) {
            return match digits.parse() {
                Ok(id) if digits.len() == 32 => Ok(BranchRef::Id(id)),
                _ => Err(format!(
                    "{text:?} is not a branch's id: write {ID_PREFIX} and 32 hexadecimal digits"
                )),
            };
        }
        if crate::project::lease_of(text).is_some() {
            return Ok(BranchRef::Name(text.to_owned()));
        }
        match BranchName::parse(text) {
            Ok(name) => Ok(BranchRef::Name(name.as_str().to_owned())),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl fmt::Display for BranchRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BranchRef::Name(name) => f.write_str(name),
            BranchRef::Id(id) => write!(f, "{ID_PREFIX}{id}"),
        }
    }
}

/// The branch to which a branch or lease belongs.
pub struct Place {
    /// Its present name.
    pub name: String,
    /// Its id.
    pub id: BranchId,
    /// The id of the branch or lease itself.
    pub own_id: BranchId,
    /// Whether that is a lease.
    pub lease: bool,
}

/// A branch that is not open.
pub struct ClosedBranch {
    /// The branch's record in the catalogue.
    pub meta: BranchMeta,
    /// Why the branch is not open.
    pub why: String,
    /// The task that closes the branch's parts, until it has ended.
    pub closing: Mutex<Option<JoinHandle<()>>>,
}

impl ClosedBranch {
    /// A branch whose parts are all closed.
    pub fn new(meta: BranchMeta, why: String) -> Arc<ClosedBranch> {
        Arc::new(ClosedBranch {
            meta,
            why,
            closing: Mutex::new(None),
        })
    }
}

/// The server's branches, open and closed.
#[derive(Default)]
pub struct Branches {
    rows: RwLock<Rows>,
}

#[derive(Default)]
struct Rows {
    by_id: BTreeMap<BranchId, Row>,
    by_name: BTreeMap<String, BranchId>,
}

#[derive(Clone)]
enum Row {
    Open(Arc<OpenBranch>),
    Closed(Arc<ClosedBranch>),
}

impl Row {
    fn meta(&self) -> &BranchMeta {
        match self {
            Row::Open(branch) => &branch.meta,
            Row::Closed(branch) => &branch.meta,
        }
    }

    fn open(&self) -> Option<Arc<OpenBranch>> {
        match self {
            Row::Open(branch) => Some(Arc::clone(branch)),
            Row::Closed(_) => None,
        }
    }
}

impl Branches {
    /// The branch `which`, if it is open.
    pub fn get(&self, which: &BranchRef) -> Option<Arc<OpenBranch>> {
        self.rows.read().row(which)?.open()
    }

    /// The branch `which`, if it is known but not open.
    pub fn closed(&self, which: &BranchRef) -> Option<Arc<ClosedBranch>> {
        match self.rows.read().row(which)? {
            Row::Open(_) => None,
            Row::Closed(branch) => Some(Arc::clone(branch)),
        }
    }

    /// The branch to which `which` belongs, open or not: itself, or, for a lease, the one
    /// that it shows.
    pub fn place(&self, which: &BranchRef) -> Option<Place> {
        let rows = self.rows.read();
        let meta = rows.row(which)?.meta();
        let id = match meta.parent {
            Some(parent) if meta.lease => parent,
            _ => meta.id,
        };
        let name = match rows.by_id.get(&id)? {
            Row::Open(branch) => branch.name(),
            Row::Closed(_) => rows.by_name.iter().find(|(_, of)| **of == id)?.0.clone(),
        };
        Some(Place {
            name,
            id,
            own_id: meta.id,
            lease: meta.lease,
        })
    }

    /// All open branches, in the order of their names.
    pub fn all(&self) -> Vec<Arc<OpenBranch>> {
        let rows = self.rows.read();
        let ids = rows.by_name.values();
        ids.filter_map(|id| rows.by_id.get(id)?.open()).collect()
    }

    /// All branches that are not open, with their names.
    pub fn all_closed(&self) -> Vec<(String, Arc<ClosedBranch>)> {
        let rows = self.rows.read();
        let named = rows.by_name.iter();
        named
            .filter_map(|(name, id)| match rows.by_id.get(id)? {
                Row::Open(_) => None,
                Row::Closed(branch) => Some((name.clone(), Arc::clone(branch))),
            })
            .collect()
    }

    /// Adds an open branch as `name`, or replaces its closed entry.
    pub fn insert(&self, branch: &Arc<OpenBranch>, name: &str) {
        self.rows.write().insert(branch, name);
    }

    /// Adds a closed branch as `name`, or replaces its open entry.
    pub fn insert_closed(&self, branch: &Arc<ClosedBranch>, name: &str) {
        let mut rows = self.rows.write();
        rows.by_name.insert(name.to_owned(), branch.meta.id);
        rows.by_id
            .insert(branch.meta.id, Row::Closed(Arc::clone(branch)));
    }

    /// Removes a branch and its names from the registry.
    pub fn remove(&self, id: BranchId) {
        let mut rows = self.rows.write();
        rows.by_name.retain(|_, named| *named != id);
        rows.by_id.remove(&id);
    }

    /// Renames `branch` and gives its old name to `successor`, atomically.
    pub fn rename(&self, branch: &Arc<OpenBranch>, to: &str, successor: Option<&Arc<OpenBranch>>) {
        let mut rows = self.rows.write();
        let before = branch.name();
        rows.by_name.retain(|_, named| *named != branch.id());
        rows.insert(branch, to);
        if let Some(successor) = successor {
            rows.insert(successor, &before);
        }
    }
}

impl Rows {
    fn row(&self, which: &BranchRef) -> Option<&Row> {
        let id = match which {
            BranchRef::Name(name) => self.by_name.get(name)?,
            BranchRef::Id(id) => id,
        };
        self.by_id.get(id)
    }

    fn insert(&mut self, branch: &Arc<OpenBranch>, name: &str) {
        if branch.name() != name {
            branch.set_name(name);
        }
        self.by_name.insert(name.to_owned(), branch.id());
        self.by_id
            .insert(branch.id(), Row::Open(Arc::clone(branch)));
    }
}
