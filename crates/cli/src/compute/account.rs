//! What only the data directory tells of a branch: which account of the
//! database has the project's password, how many undo tablespaces there are.
//!
//! People get `root`, but on a branch that was imported, or that left one: there `root`
//! is its owner's, and a side file, which goes where the branch's history
//! goes, names the account that the import made. Xylem's own client uses
//! [`OWN_USER`] everywhere, so that `root` is people's to change.

use std::path::Path;

/// The side file, in the data directory.
pub const USER_FILE: &str = "xylem.user";

/// The account that Xylem's own client uses, over the unix socket. Each start
/// of a compute sees to it that it is there.
pub const OWN_USER: &str = "xylem";

/// The side file that names the branch which has run with a binary log last.
pub const BINLOG_OWNER_FILE: &str = "xylem.binlog";

/// The first statement of an init file: what Xylem does to accounts when a
/// compute starts concerns that compute alone. In the binary log it would change
/// the accounts of stock replicas.
pub const NOT_IN_BINARY_LOG: &str = "SET SESSION sql_log_bin = 0;\n";

/// Bytes of the longest name that MariaDB takes.
const NAME_MAX: usize = 4 * 128;

/// The account that people use on the data directory `datadir`, as its base
/// backup made it.
pub fn client_user(datadir: &Path) -> String {
    match std::fs::read_to_string(datadir.join(USER_FILE)) {
        Ok(text) if !text.trim().is_empty() && text.len() <= NAME_MAX => text.trim().to_owned(),
        _ => root(),
    }
}

/// The account of a project that began empty.
pub fn root() -> String {
    "root".to_owned()
}

/// The undo tablespaces in the data directory; `None`: there are none.
pub fn undo_tablespaces(datadir: &Path) -> Option<u32> {
    let is_undo = |name: &str| {
        name.strip_prefix("undo")
            .is_some_and(|n| n.len() == 3 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let count = std::fs::read_dir(datadir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_undo))
        .count();
    u32::try_from(count).ok().filter(|count| *count > 0)
}
