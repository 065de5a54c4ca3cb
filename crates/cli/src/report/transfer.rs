//! The outcomes of imports and exports, as documents.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;
use xylem_datadir::refusal::Refusal;

/// `xylem import`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    /// The data directory that was read.
    #[schema(value_type = String)]
    pub datadir: PathBuf,
    /// The new branch.
    pub branch: String,
    /// Its id, once it exists.
    pub id: Option<String>,
    /// The LSN as of which its data is.
    pub lsn: Option<u64>,
    /// The database's page size in bytes.
    pub page_size: Option<usize>,
    /// Number of undo tablespaces.
    pub undo_tablespaces: Option<usize>,
    /// Number of tablespaces.
    pub tablespaces: Option<u64>,
    /// Number of pages that are not all zeros.
    pub pages: Option<u64>,
    /// Bytes of them.
    pub page_bytes: Option<u64>,
    /// Number of other files, and of directories.
    pub side_files: Option<u64>,
    /// Number of layers that were written.
    pub layers: Option<u64>,
    /// Bytes of them.
    pub layer_bytes: Option<u64>,
    /// The account of Xylem's own client.
    pub user: Option<String>,
    /// The file that holds its password.
    #[schema(value_type = Option<String>)]
    pub password_file: Option<PathBuf>,
    /// How long it took.
    pub seconds: f64,
    /// Notes for people.
    pub notes: Vec<String>,
    /// The obstacles; empty if there are none.
    #[schema(value_type = Vec<RefusalSchema>)]
    pub refused: Vec<Refusal>,
}

/// An obstacle to an import.
#[derive(ToSchema)]
#[schema(as = Refusal)]
#[allow(dead_code, reason = "a schema of xylem_datadir::refusal::Refusal")]
pub struct RefusalSchema {
    /// The file or table.
    subject: String,
    /// The problem with it.
    problem: String,
    /// The remedy.
    hint: String,
}

/// `xylem export`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExportReport {
    /// The branch.
    pub branch: String,
    /// The LSN as of which it was exported.
    pub lsn: u64,
    /// The data directory that was written.
    #[schema(value_type = String)]
    pub dir: PathBuf,
    /// The database's page size in bytes.
    pub page_size: usize,
    /// Number of undo tablespaces.
    pub undo_tablespaces: usize,
    /// Number of tablespaces.
    pub tablespaces: usize,
    /// Number of pages that are not all zeros.
    pub pages: u64,
    /// Bytes of them.
    pub page_bytes: u64,
    /// Number of other files, and of directories.
    pub side_files: usize,
    /// The account for people.
    pub user: String,
    /// The file that holds its password, if it was not changed.
    #[schema(value_type = String)]
    pub password_file: PathBuf,
    /// How long it took.
    pub seconds: f64,
}
