//! The project on disk: which branches there are, and what never changes.
//!
//! `project.json` is replaced as a whole: written beside, synced, renamed.

mod template;

use crate::error::ServerError;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use xylem_types::{BranchId, BranchName};

pub use template::create_from_template;

/// The file's name within the data directory.
pub const FILE: &str = "project.json";
/// The version of its format that is written; others are refused.
pub const FORMAT: u32 = 1;

/// A database cluster's whole tree of branches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Random, 32 hexadecimal digits.
    pub id: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// What every compute of it must be started with.
    pub innodb: InnodbParams,
    /// By name.
    pub branches: BTreeMap<String, BranchMeta>,
}

/// InnoDB's parameters that shape its files: fixed when a project is created.
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

/// A branch as the project knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BranchMeta {
    /// Its [`BranchId`] as text: the name of its directories.
    pub id: String,
    /// The branch it left, by name.
    pub ancestor: Option<String>,
    /// Where it left it; 0 without an ancestor.
    pub ancestor_lsn: u64,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What stands in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    /// CRC-32C of `project` as compact JSON, 8 hexadecimal digits.
    crc32c: String,
    project: Project,
}

/// Only the version: enough to refuse a newer file by name.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Project {
    /// A new project with the branch `main`. `project` and `main` are random
    /// numbers.
    pub fn new(innodb: InnodbParams, now: Timestamp, project: u128, main: BranchId) -> Project {
        let branch = BranchMeta {
            id: main.to_string(),
            ancestor: None,
            ancestor_lsn: 0,
            created_at: now,
        };
        Project {
            id: format!("{project:032x}"),
            created_at: now,
            innodb,
            branches: BTreeMap::from([(BranchName::main().as_str().to_owned(), branch)]),
        }
    }

    /// Reads the project of `data_dir`; none when there is none.
    ///
    /// # Errors
    /// A file that cannot be read, fails its checksum, or is of another
    /// version.
    pub fn read(data_dir: &Path) -> Result<Option<Project>, ServerError> {
        let path = data_dir.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(ServerError::io(
                    format!("cannot read {}", path.display()),
                    source,
                ));
            }
        };
        let bad = |message: String| ServerError::Project {
            path: path.clone(),
            message,
        };
        let version: Version =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if version.format != FORMAT {
            return Err(bad(format!(
                "format {} is not known, only {FORMAT} is: use the version of xylem that wrote it",
                version.format
            )));
        }
        let document: Document =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        let crc = checksum(&document.project).map_err(|error| bad(error.to_string()))?;
        if crc != document.crc32c {
            return Err(bad(format!(
                "checksum is {crc}, the file says {}: it was damaged",
                document.crc32c
            )));
        }
        for (name, branch) in &document.project.branches {
            BranchName::parse(name).map_err(|error| bad(error.to_string()))?;
            branch
                .branch_id()
                .map_err(|_| bad(format!("branch {name} has the id {:?}", branch.id)))?;
        }
        Ok(Some(document.project))
    }

    /// Puts the project into `data_dir`, in place of what is there. Durable on
    /// return; a crash leaves the old or the new.
    ///
    /// # Errors
    /// When a file operation fails.
    pub fn write(&self, data_dir: &Path) -> Result<(), ServerError> {
        let path = data_dir.join(FILE);
        let bad = |error: serde_json::Error| ServerError::Project {
            path: path.clone(),
            message: error.to_string(),
        };
        let document = Document {
            format: FORMAT,
            crc32c: checksum(self).map_err(bad)?,
            project: self.clone(),
        };
        let mut text = serde_json::to_vec_pretty(&document).map_err(bad)?;
        text.push(b'\n');
        replace(&path, &text)
    }
}

impl BranchMeta {
    /// The id as a number.
    ///
    /// # Errors
    /// When it is not 32 hexadecimal digits.
    pub fn branch_id(&self) -> Result<BranchId, std::num::ParseIntError> {
        self.id.parse()
    }
}

/// The directory of a branch's log.
pub fn log_dir(data_dir: &Path, branch: BranchId) -> PathBuf {
    data_dir
        .join("branches")
        .join(branch.to_string())
        .join("log")
}

fn checksum(project: &Project) -> Result<String, serde_json::Error> {
    Ok(format!(
        "{:08x}",
        crc32c::crc32c(&serde_json::to_vec(project)?)
    ))
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), ServerError> {
    let failed = |source| ServerError::io(format!("cannot write {}", path.display()), source);
    let beside = path.with_extension("json.new");
    let mut file = std::fs::File::create(&beside).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)?;
    sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(failed)
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}
