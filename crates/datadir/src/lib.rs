//! Data directories of stock MariaDB: what is in them, whether it is sound, and
//! how they become what Xylem can load. No processes and no network: starting
//! MariaDB on a directory and talking to a page server are the caller's.
//!
//! Import: [`survey`] looks at all files and lists what stands in the way;
//! [`pages`] checks the pages of a tablespace; [`working`] is the copy in which
//! MariaDB converts its own tables to InnoDB; [`plan`] lists what is loaded.
//! Nothing here writes into the directory that is imported.
//!
//! Export: [`log_tables`] empties MariaDB's log tables, [`restore`] is the SQL
//! that turns MariaDB's own tables back into Aria.

mod bytes;
pub mod classify;
pub mod compressed;
pub mod copy;
pub mod dictionary;
pub mod error;
pub mod frm;
pub mod log_tables;
pub mod names;
pub mod own;
pub mod pages;
pub mod plan;
pub mod refusal;
pub mod restore;
pub mod stopped;
pub mod survey;
pub mod tablespace;
pub mod walk;
pub mod working;

pub use error::DatadirError;
