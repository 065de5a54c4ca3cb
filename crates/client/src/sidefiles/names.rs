//! Which names are side files. Pure: text in, yes or no out.
//!
//! Names from the 10.11 sources: `reg_ext` (.frm), `PAR_EXT` (`ha_partition.h`),
//! `TRG_EXT` and `TRN_EXT` (`sql_trigger.cc`), `MY_DB_OPT_FILE`, `create_ddl_log_file_name`
//! (`ddl_log.cc`), `master_info_file` and `relay_log_info_file` (`mysqld.cc`),
//! `CSV_EXT` and `CSM_EXT` (`ha_tina.cc`).

/// Whether `path`, relative to the data directory, is a side file: in the data
/// directory itself or in a database's directory, with a name MariaDB gives to
/// such files or to what it renames to one.
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

/// The rows of `mysql.general_log` and `mysql.slow_log`. They grow with every
/// statement and are a compute's own: its start makes them, empty.
const LOG_TABLES: [&str; 4] = [
    "general_log.CSM",
    "general_log.CSV",
    "slow_log.CSM",
    "slow_log.CSV",
];

/// Where MariaDB notes what a DDL statement does, step by step.
pub const DDL_LOG: &str = "ddl_recovery.log";

/// Where the plugin notes which branch has run with a binary log last.
pub const BINLOG_OWNER: &str = "xylem.binlog";

/// Files of the server as a whole.
fn is_server_file(name: &str) -> bool {
    let replication = ["master", "multi-master", "relay-log"];
    matches!(name, DDL_LOG | "ddl_recovery-backup.log" | BINLOG_OWNER)
        || (name.ends_with(".info") && replication.iter().any(|prefix| name.starts_with(prefix)))
}

/// Files of a table, view, trigger or database. `#sql-…` names of a running
/// ALTER count: they are renamed into place. So do `name~`, which views and
/// triggers are first written to.
fn has_side_file_extension(name: &str) -> bool {
    if name.starts_with("#sql-temptable-") {
        return false;
    }
    // What is being written, and what a statement that is cut off goes back to.
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

/// Whether `path`, relative to the data directory, can be a database's
/// directory. A database called `#x` has the directory `@0023x`, so directories
/// that begin with `#` are an engine's own.
pub fn is_database(path: &str) -> bool {
    !path.is_empty() && !path.contains('/') && !path.starts_with(['#', '.']) && path != "lost+found"
}

/// Whether the last part of a path that is not resolved yet could name a side
/// file: cheap, for calls that mostly concern others.
pub fn may_be_side_file(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    std::str::from_utf8(name)
        .is_ok_and(|name| is_server_file(name) || has_side_file_extension(name))
}
