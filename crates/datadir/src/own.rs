//! The files that Xylem adds to a branch's data directory.
//!
//! People log in as `root`, except on an imported branch and the branches made
//! from it: there `root` belongs to the imported database, and a side file, which
//! is part of the branch's history, names the account that the import created.
//! Xylem's own client uses [`OWN_USER`] everywhere, so that people may change
//! `root` as they like.

#[cfg(test)]
mod tests;

use std::path::Path;

/// The side file that names the account for people.
pub const USER_FILE: &str = "xylem.user";

/// The side file that names the last branch that ran with a binary log.
pub const BINLOG_OWNER_FILE: &str = "xylem.binlog";

/// The side file that lists the pages which a start reads.
pub const START_PAGES_FILE: &str = "xylem.start_pages";

/// The file of an exported directory that lists the settings it needs.
pub const EXPORT_SETTINGS: &str = "xylem-export.cnf";

/// The account that Xylem's own client uses over the unix socket. Each start of
/// a compute creates it if it is missing.
pub const OWN_USER: &str = "xylem";

/// Bytes of the longest account name that MariaDB accepts.
const NAME_MAX: usize = 4 * 128;

/// The account for people, as the side file in `datadir` names it.
pub fn client_user(datadir: &Path) -> String {
    match std::fs::read_to_string(datadir.join(USER_FILE)) {
        Ok(text) if !text.trim().is_empty() && text.len() <= NAME_MAX => text.trim().to_owned(),
        _ => root(),
    }
}

/// The account for people of a project that began empty.
pub fn root() -> String {
    "root".to_owned()
}
