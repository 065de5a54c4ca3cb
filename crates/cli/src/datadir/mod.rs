//! Data directories of stock MariaDB: what is in them, whether it is sound,
//! and how they become what Xylem can take.
//!
//! The way through: [`survey`] looks at all files and says what stands in the
//! way; [`pages`] checks the pages of a tablespace; [`copy`] and [`convert`]
//! bring MariaDB's own tables into InnoDB, on a copy; [`plan`] puts together what
//! is loaded. Nothing here writes into the directory that is looked at.
//!
//! The way back: [`target`] is the directory that is written, [`fetch`] fills
//! its tablespaces, [`restore`] brings MariaDB's own tables back to Aria.

pub mod bytes;
pub mod classify;
pub mod compressed;
pub mod convert;
pub mod copy;
pub mod dictionary;
pub mod fetch;
pub mod frm;
pub mod log_tables;
pub mod meter;
pub mod names;
pub mod pages;
pub mod plan;
pub mod refusal;
pub mod restore;
pub mod send;
pub mod stock;
pub mod stopped;
pub mod survey;
pub mod tablespace;
pub mod target;
pub mod walk;

/// The databases whose tables are MariaDB's own.
pub const SYSTEM_DATABASES: [&str; 3] = ["mysql", "sys", "performance_schema"];

/// What to do about a file that cannot be read.
pub const READABLE: &str =
    "check the disk, and that this user may read the directory (its owner or root may)";
