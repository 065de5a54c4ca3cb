//! Refuses files in which engines other than InnoDB keep rows. The plugin gives
//! every persistent table to InnoDB. If a statement still reaches another engine,
//! its file is refused here, because the rows would be lost with the data
//! directory.

use super::names::is_database;
use crate::log;
use std::sync::atomic::{AtomicBool, Ordering};

static REFUSED: AtomicBool = AtomicBool::new(false);

/// Refuses such files from now on. MariaDB's own tests need them, so that this is
/// off by default.
pub fn refuse() {
    REFUSED.store(true, Ordering::Release);
}

/// Whether the file `path`, relative to the data directory, must not be created.
/// Logs an error in that case.
pub fn is_refused(path: &str) -> bool {
    if !REFUSED.load(Ordering::Acquire) || !holds_rows(path) {
        return false;
    }
    log::write(
        log::Level::Error,
        &format!(
            "refused to create {path}: only InnoDB rows are kept, and a file of another engine \
             would be lost with this server's data directory; hint: use ENGINE=InnoDB"
        ),
    );
    true
}

/// Whether `path` ends like such a file. This check is cheap.
pub fn may_hold_rows(path: &[u8]) -> bool {
    let ending = path.rsplit(|&byte| byte == b'.').next();
    ending.is_some_and(|ending| ENDINGS.iter().any(|one| one.as_bytes() == ending))
}

/// Endings from the 10.11 sources: `MI_NAME_DEXT` and `MI_NAME_IEXT`
/// (`myisam.h`), `MARIA_NAME_DEXT` and `MARIA_NAME_IEXT` (`maria.h`), `ARZ`
/// (`ha_archive.cc`), `CSV_EXT` and `CSM_EXT` (`ha_tina.cc`).
const ENDINGS: [&str; 7] = ["MYD", "MYI", "MAD", "MAI", "ARZ", "CSV", "CSM"];

/// Whether `path`, relative to the data directory, is a file in which another
/// engine keeps rows of a persistent table.
pub fn holds_rows(path: &str) -> bool {
    let Some((database, name)) = path.rsplit_once('/') else {
        return false;
    };
    let Some((stem, ending)) = name.rsplit_once('.') else {
        return false;
    };
    is_database(database)
        && ENDINGS.contains(&ending)
        && !stem.starts_with("#sql-temptable-")
        && !(matches!(ending, "CSV" | "CSM") && is_log_table(database, stem))
}

/// Whether the table is the general or the slow query log, or one that a rotation
/// of those creates. Their rows are local to a compute.
fn is_log_table(database: &str, stem: &str) -> bool {
    database == "mysql" && (stem.starts_with("general_log") || stem.starts_with("slow_log"))
}
