//! Decides by name which files are side files.
//!
//! Names from the 10.11 sources: `reg_ext` (.frm), `PAR_EXT` (`ha_partition.h`),
//! `TRG_EXT` and `TRN_EXT` (`sql_trigger.cc`), `MY_DB_OPT_FILE`, `create_ddl_log_file_name`
//! (`ddl_log.cc`), `master_info_file` and `relay_log_info_file` (`mysqld.cc`),
//! `CSV_EXT` and `CSM_EXT` (`ha_tina.cc`); those of the binary log are in `xylem_types`
//! (`generate_new_name`, `open_index_file`, `set_purge_index_file_name` and
//! `write_state_to_file` in `log.cc`).

use xylem_types::BinlogFile;

/// Whether `path`, relative to the data directory, is a side file. Side files are
/// in the data directory itself or in a database's directory, and have a name that
/// MariaDB gives to such files or to files that it later renames to one.
pub fn is_side_file(path: &str) -> bool {
    let (dir, name) = match path.split_once('/') {
        None => (None, path),
        Some((dir, name)) => (Some(dir), name),
    };
    if dir == Some("mysql") && LOG_TABLES.contains(&name) {
        return false;
    }
    if name.is_empty() || name.contains('/') || dir.is_some_and(|dir| !is_database(dir)) {
        return false;
    }
    (dir.is_none() && is_server_file(name)) || has_side_file_extension(name)
}

/// The files of `mysql.general_log` and `mysql.slow_log`. They grow with every
/// statement and are local to a compute, whose start creates empty ones.
const LOG_TABLES: [&str; 4] = [
    "general_log.CSM",
    "general_log.CSV",
    "slow_log.CSM",
    "slow_log.CSV",
];

/// The file in which MariaDB records the steps of a DDL statement.
pub const DDL_LOG: &str = "ddl_recovery.log";

/// The file in which the plugin records the branch that last ran with a binary
/// log.
pub const BINLOG_OWNER: &str = "xylem.binlog";

/// The list of pages with which InnoDB fills the buffer pool at start
/// (`SRV_BUF_DUMP_FILENAME_DEFAULT`). InnoDB writes it beside under another name and
/// renames it.
const HOT_PAGES: &str = "ib_buffer_pool";

/// The file in which the plugin lists the pages that a start reads.
const START_PAGES: &str = "xylem.start_pages";

/// Files of the server as a whole.
fn is_server_file(name: &str) -> bool {
    let replication = ["master", "multi-master", "relay-log"];
    matches!(
        name,
        DDL_LOG | "ddl_recovery-backup.log" | BINLOG_OWNER | HOT_PAGES | START_PAGES
    ) || BinlogFile::at(name).is_some()
        || (name.ends_with(".info") && replication.iter().any(|prefix| name.starts_with(prefix)))
}

/// Files of a table, view, trigger or database. This includes `#sql-…` files of a
/// running ALTER, which are renamed into place, and `name~` files, into which
/// views and triggers are first written.
fn has_side_file_extension(name: &str) -> bool {
    if name.starts_with("#sql-temptable-") {
        return false;
    }
    // `~` is a file being written; `-` is a backup for an interrupted statement.
    let name = name.strip_suffix(['~', '-']).unwrap_or(name);
    match name.rsplit_once('.') {
        Some((stem, extension)) => {
            !stem.is_empty()
                && matches!(
                    extension,
                    "frm" | "par" | "TRG" | "TRN" | "opt" | "CSM" | "CSV"
                )
        }
        None => false,
    }
}

/// Whether `path`, relative to the data directory, can be a database's directory.
/// A database called `#x` has the directory `@0023x`, so a directory whose name
/// begins with `#` belongs to an engine.
pub fn is_database(path: &str) -> bool {
    !path.is_empty() && !path.contains('/') && !path.starts_with(['#', '.']) && path != "lost+found"
}

/// Whether the last part of an unresolved path could name a side file. This check
/// is cheap, because most calls concern other files.
pub fn may_be_side_file(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    std::str::from_utf8(name)
        .is_ok_and(|name| is_server_file(name) || has_side_file_extension(name))
}
