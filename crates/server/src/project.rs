//! The project: its branches and its fixed parameters.
//!
//! The store holds the project as the [`catalog`]. A data directory only records the
//! project that it belongs to.

pub mod catalog;
mod seat;
mod template;
pub(crate) mod wal_home;

use crate::branch::binlog::LogEnd;
use crate::config::WalStore;
use crate::error::ServerError;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use xylem_types::{BranchId, BranchName};

pub use template::{create_from_template, create_from_template_in};

/// The file of a data directory that holds the id of its project.
pub const ID_FILE: &str = "project.id";
/// The file that earlier versions kept instead of a catalogue.
const FORMER_FILE: &str = "project.json";

/// A project as the catalogue records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Random, 32 hexadecimal digits.
    pub id: String,
    /// When the project was created.
    pub created_at: Timestamp,
    /// The parameters that every compute must be started with.
    pub innodb: InnodbParams,
    /// Where the WALs of branches are.
    #[serde(default)]
    pub wal_store: WalStore,
    /// The data directory that has the local WALs: a random number in hexadecimal
    /// digits, which the directory records. `None` for WALs in the object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal_home: Option<String>,
    /// The project's first branch, which may have been removed since.
    #[serde(with = "id_text")]
    pub first: BranchId,
    /// The branches by name.
    pub branches: BTreeMap<String, BranchMeta>,
}

/// InnoDB's parameters that determine its files. They are fixed when a project is
/// created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InnodbParams {
    /// `innodb_page_size`, in bytes.
    pub page_size: u32,
    /// `innodb_undo_tablespaces`.
    pub undo_tablespaces: u32,
    /// `innodb_data_file_path`.
    pub data_file_path: String,
}

impl Default for InnodbParams {
    fn default() -> InnodbParams {
        InnodbParams {
            page_size: 16384,
            undo_tablespaces: 0,
            data_file_path: "ibdata1:12M:autoextend".to_owned(),
        }
    }
}

/// A branch as the catalogue records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchMeta {
    /// The permanent id, which also names the branch's folders.
    #[serde(with = "id_text")]
    pub id: BranchId,
    /// The parent branch.
    #[serde(with = "optional_id_text")]
    pub parent: Option<BranchId>,
    /// The branch point; 0 without a parent.
    pub branch_point_lsn: u64,
    /// When the branch was created.
    pub created_at: Timestamp,
    /// The branch belongs to one read-only compute, and is removed with it.
    pub lease: bool,
    /// Where the parent's binary log ends for the branch; `None`: where it ended at the branch
    /// point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_end: Option<LogEnd>,
}

/// A [`BranchId`] as 32 hexadecimal digits.
mod id_text {
    use super::{BranchId, Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &BranchId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BranchId, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map_err(|_| serde::de::Error::custom(format!("{text:?} is not a branch id")))
    }
}

mod optional_id_text {
    use super::{BranchId, Deserialize, Deserializer, Serialize, Serializer, id_text};

    #[derive(Serialize, Deserialize)]
    struct Text(#[serde(with = "id_text")] BranchId);

    pub fn serialize<S: Serializer>(id: &Option<BranchId>, to: S) -> Result<S::Ok, S::Error> {
        id.map(Text).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BranchId>, D::Error> {
        Ok(Option::<Text>::deserialize(from)?.map(|text| text.0))
    }
}

impl Project {
    /// A new project with the branch `main`. `project` and `main` are random
    /// numbers.
    pub fn new(innodb: InnodbParams, now: Timestamp, project: u128, main: BranchId) -> Project {
        let branch = BranchMeta {
            id: main,
            parent: None,
            branch_point_lsn: 0,
            created_at: now,
            lease: false,
            log_end: None,
        };
        Project {
            id: format!("{project:032x}"),
            created_at: now,
            innodb,
            wal_store: WalStore::default(),
            wal_home: None,
            first: main,
            branches: BTreeMap::from([(BranchName::main().as_str().to_owned(), branch)]),
        }
    }

    /// The branch with that id, and its name.
    pub fn branch(&self, id: BranchId) -> Option<(&str, &BranchMeta)> {
        let mut all = self.branches.iter();
        all.find(|(_, meta)| meta.id == id)
            .map(|(name, meta)| (name.as_str(), meta))
    }

    /// Names of the child branches of branch `id`.
    pub fn children(&self, id: BranchId) -> Vec<&str> {
        let all = self.branches.iter();
        all.filter(|(_, meta)| meta.parent == Some(id))
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// All branches by depth: those without a parent, their child branches, and so on.
    ///
    /// # Errors
    /// The message names a branch whose parent is missing.
    pub fn levels(&self) -> Result<Vec<Vec<(&str, &BranchMeta)>>, String> {
        let mut levels = Vec::new();
        let mut placed = BTreeSet::new();
        let mut rest: Vec<(&str, &BranchMeta)> = self
            .branches
            .iter()
            .map(|(name, meta)| (name.as_str(), meta))
            .collect();
        while !rest.is_empty() {
            let (level, waiting): (Vec<_>, Vec<_>) = rest
                .into_iter()
                .partition(|(_, meta)| meta.parent.is_none_or(|id| placed.contains(&id)));
            if let (true, Some((name, _))) = (level.is_empty(), waiting.first()) {
                return Err(format!("the parent of branch {name} does not exist"));
            }
            placed.extend(level.iter().map(|(_, meta)| meta.id));
            levels.push(level);
            rest = waiting;
        }
        Ok(levels)
    }

    /// Checks what must hold for every catalogue that is read or written.
    ///
    /// # Errors
    /// The message says what does not hold.
    pub fn check(&self) -> Result<(), String> {
        let mut ids = BTreeSet::new();
        for (name, meta) in &self.branches {
            let named = if meta.lease {
                lease_of(name).is_some()
            } else {
                BranchName::parse(name).is_ok()
            };
            if !named {
                return Err(format!("{name:?} is not a branch name"));
            }
            if !ids.insert(meta.id) {
                return Err(format!("branch {name} has the id of another branch"));
            }
            if meta.parent.is_none() && (meta.lease || meta.branch_point_lsn != 0) {
                return Err(format!("branch {name} has no parent"));
            }
        }
        self.levels().map(|_| ())
    }

    /// A free name for a lease of branch `of`.
    pub fn lease_name(&self, of: &str) -> String {
        let mut number = 1u64;
        loop {
            let name = format!("{of}@{number}");
            if !self.branches.contains_key(&name) {
                return name;
            }
            number += 1;
        }
    }
}

/// The name of the branch in the name of a lease: `main` in `main@2`.
pub fn lease_of(name: &str) -> Option<&str> {
    let (of, number) = name.split_once('@')?;
    let number_ok = number.parse::<u64>().is_ok_and(|n| n.to_string() == number);
    (number_ok && BranchName::parse(of).is_ok()).then_some(of)
}

/// The directory of a branch's WAL.
pub fn wal_dir(data_dir: &Path, branch: BranchId) -> PathBuf {
    wals(data_dir).join(branch.to_string()).join("wal")
}

/// The directory that has a folder for each branch's WAL.
pub(crate) fn wals(data_dir: &Path) -> PathBuf {
    data_dir.join("branches")
}

/// The branch to which a folder belongs, by its name.
pub(crate) fn branch_of_folder(name: &str) -> Option<BranchId> {
    let id: BranchId = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}

/// Whether `data_dir` has a WAL or a part of one.
pub(crate) fn has_wals(data_dir: &Path) -> bool {
    std::fs::read_dir(wals(data_dir)).is_ok_and(|mut entries| entries.next().is_some())
}

/// Whether `data_dir` has ever been used for a project.
pub fn is_used(data_dir: &Path) -> bool {
    data_dir.join(ID_FILE).exists()
}

/// Whether `data_dir`, or the store that `url` names, holds a project. No server may
/// have the store open.
///
/// # Errors
/// The store cannot be opened or listed.
pub fn exists(data_dir: &Path, url: &str) -> Result<bool, ServerError> {
    if is_used(data_dir) {
        return Ok(true);
    }
    Ok(catalog::exists(&*crate::place::open(
        url,
        data_dir,
        crate::place::CACHE_BYTES,
    )?)?)
}

/// Refuses a data directory of an earlier version, which kept the project there.
///
/// # Errors
/// The directory has such a project.
pub(crate) fn refuse_former(data_dir: &Path) -> Result<(), ServerError> {
    let path = data_dir.join(FORMER_FILE);
    if !path.exists() {
        return Ok(());
    }
    Err(ServerError::Project {
        path,
        message: "an earlier version of xylem wrote this file, and this version cannot read its data: use that version, or start with an empty directory".to_owned(),
    })
}

/// Checks that `data_dir` belongs to the project `id` (true) or to none yet (false).
///
/// # Errors
/// The directory belongs to another project, whose WALs would be taken for leftovers.
pub(crate) fn belongs(data_dir: &Path, id: &str) -> Result<bool, ServerError> {
    let path = data_dir.join(ID_FILE);
    match std::fs::read_to_string(&path) {
        Ok(found) if found.trim() == id => Ok(true),
        Ok(found) => Err(ServerError::Project {
            path: path.clone(),
            message: format!(
                "this directory belongs to project {}, and the store holds project {id}: start the server with the --data-dir and --object-store that belong together",
                found.trim()
            ),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ServerError::io(
            format!("cannot read {}", path.display()),
            error,
        )),
    }
}

/// Records that `data_dir` belongs to the project `id`.
///
/// # Errors
/// As for [`belongs`], or the file cannot be written.
pub(crate) fn settle(data_dir: &Path, id: &str) -> Result<(), ServerError> {
    if belongs(data_dir, id)? {
        // A copy of a template that was interrupted at its very end leaves this file.
        // Best effort: next to a project the file has no meaning.
        let _ = std::fs::remove_file(data_dir.join(template::COPYING));
        return Ok(());
    }
    let path = data_dir.join(ID_FILE);
    let written = replace(&path, format!("{id}\n").as_bytes());
    written.map_err(|e| ServerError::io(format!("cannot write {}", path.display()), e))
}

/// Replaces a file atomically and durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}
