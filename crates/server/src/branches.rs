//! The branches that are open: by id, and by the names they have now.

use crate::branch::OpenBranch;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use xylem_types::{BranchId, BranchName};

/// What begins an id where a name may stand, too. No name has a colon.
const ID_PREFIX: &str = "id:";

/// How a branch is named by a caller: by the name it has now, or by its id,
/// which means the same branch for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchRef {
    /// Its name, or that of a lease.
    Name(String),
    /// Its id.
    Id(BranchId),
}

impl BranchRef {
    /// Reads `main`, `main@2` or `id:` and 32 hexadecimal digits.
    ///
    /// # Errors
    /// Says what it should look like.
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

/// The open branches.
#[derive(Default)]
pub struct Branches {
    rows: RwLock<Rows>,
}

#[derive(Default)]
struct Rows {
    by_id: BTreeMap<BranchId, Arc<OpenBranch>>,
    by_name: BTreeMap<String, BranchId>,
}

impl Branches {
    /// The branch that is meant.
    pub fn get(&self, which: &BranchRef) -> Option<Arc<OpenBranch>> {
        let rows = self.rows.read();
        let id = match which {
            BranchRef::Name(name) => rows.by_name.get(name)?,
            BranchRef::Id(id) => id,
        };
        rows.by_id.get(id).map(Arc::clone)
    }

    /// All of them, by name.
    pub fn all(&self) -> Vec<Arc<OpenBranch>> {
        let rows = self.rows.read();
        let ids = rows.by_name.values();
        ids.filter_map(|id| rows.by_id.get(id).map(Arc::clone))
            .collect()
    }

    /// Adds a branch as `name`.
    pub fn insert(&self, branch: &Arc<OpenBranch>, name: &str) {
        self.rows.write().insert(branch, name);
    }

    /// Takes a branch out.
    pub fn remove(&self, id: BranchId) -> Option<Arc<OpenBranch>> {
        let mut rows = self.rows.write();
        rows.by_name.retain(|_, named| *named != id);
        rows.by_id.remove(&id)
    }

    /// Gives `branch` another name and, in the same step, `successor` the name
    /// it has.
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
    fn insert(&mut self, branch: &Arc<OpenBranch>, name: &str) {
        if branch.name() != name {
            branch.set_name(name);
        }
        self.by_name.insert(name.to_owned(), branch.id());
        self.by_id.insert(branch.id(), Arc::clone(branch));
    }
}
