//! The kinds of files in a data directory, by their names.

use crate::own::{BINLOG_OWNER_FILE, EXPORT_SETTINGS, START_PAGES_FILE, USER_FILE};

#[cfg(test)]
mod tests;

/// The databases whose tables are MariaDB's own.
pub const SYSTEM_DATABASES: [&str; 3] = ["mysql", "sys", "performance_schema"];

/// Whether the file or directory `path`, relative to the data directory, belongs
/// to one of [`SYSTEM_DATABASES`].
pub fn is_system(path: &str) -> bool {
    let database = path.split('/').next().unwrap_or_default();
    SYSTEM_DATABASES.contains(&database)
}

/// A file directly in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// A file of the system tablespace: `ibdata1`, `ibdata2`, …
    System(u32),
    /// An undo tablespace: `undo001`, …
    Undo,
    /// Aria's log, which the system tables need.
    Aria,
    /// It is there only while a server runs, or after one was killed.
    Running,
    /// Which version of MariaDB the system tables are of.
    Version,
    /// Where replication stands, or a log it works with.
    Replication,
    /// MariaDB makes it anew, or it is of no use to a compute.
    LeftOut,
    /// The same, and people should know.
    LeftOutAndSaid,
    /// Not known: it may be a binary log, which its first bytes tell.
    Unknown,
}

/// Classifies a file directly in the data directory.
pub fn top(name: &str) -> Top {
    if let Some(n) = number(name, "ibdata") {
        return Top::System(n);
    }
    if name.len() == 7 && number(name, "undo").is_some() {
        return Top::Undo;
    }
    if name == "aria_log_control" || number(name, "aria_log.").is_some() {
        return Top::Aria;
    }
    if ["ib_logfile", "ibtmp"]
        .iter()
        .any(|prefix| number(name, prefix).is_some())
    {
        return Top::LeftOut;
    }
    match name {
        "ddl_recovery.log" | "tc.log" => return Top::Running,
        "mysql_upgrade_info" | "mariadb_upgrade_info" => return Top::Version,
        // The second is left by a start after a crash.
        "ib_buffer_pool"
        | "ddl_recovery-backup.log"
        | "ddl.log"
        | "backup-my.cnf"
        | USER_FILE
        | BINLOG_OWNER_FILE
        | START_PAGES_FILE
        | EXPORT_SETTINGS
        | "aria_log_control.lock"
        | "donor_galera_info"
        | "auto.cnf" => return Top::LeftOut,
        // The first is the official container image's, as is the backup below.
        ".my-healthcheck.cnf" | "grastate.dat" | "gvwstate.dat" | "galera.cache" => {
            return Top::LeftOutAndSaid;
        }
        _ => {}
    }
    if name.starts_with("xtrabackup_") || name.starts_with("mariadb_backup_") {
        return Top::LeftOut;
    }
    if name.starts_with("system_mysql_backup_")
        && [".sql", ".sql.zst", ".sql.gz"]
            .iter()
            .any(|end| name.ends_with(end))
    {
        return Top::LeftOutAndSaid;
    }
    let replication = ["master", "multi-master", "relay-log"];
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    match extension {
        "info" if replication.iter().any(|prefix| stem.starts_with(prefix)) => Top::Replication,
        "index" => Top::Replication,
        "flag" | "pid" | "sock" => Top::LeftOut,
        "err" | "log" | "pem" => Top::LeftOutAndSaid,
        _ if name == "core" || stem == "core" => Top::LeftOutAndSaid,
        _ => Top::Unknown,
    }
}

/// A directory directly in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    /// A database.
    Database,
    /// Not MariaDB's.
    Foreign,
    /// A storage engine's own.
    Engine,
}

/// Classifies a directory directly in the data directory. A database called
/// `#x` has the directory `@0023x`.
pub fn dir(name: &str) -> Dir {
    if name.starts_with('#') {
        Dir::Engine
    } else if name.starts_with('.') || name == "lost+found" {
        Dir::Foreign
    } else {
        Dir::Database
    }
}

/// A file in a database's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InDatabase {
    /// A definition of a table or view.
    Definition,
    /// Goes with a definition, or with the database.
    SideFile,
    /// A tablespace.
    Tablespace,
    /// Says that a tablespace is elsewhere.
    Link,
    /// Data of another engine, which the definition names.
    OtherEngine,
    /// A log that MariaDB writes as a table in CSV.
    Csv,
    /// Of no use to a compute.
    LeftOut,
    /// Not known.
    Unknown,
}

/// Classifies a file in a database's directory.
pub fn in_database(name: &str) -> InDatabase {
    let Some((stem, extension)) = name.rsplit_once('.') else {
        return InDatabase::Unknown;
    };
    if stem.is_empty() {
        return InDatabase::Unknown;
    }
    match extension {
        "frm" => InDatabase::Definition,
        "par" | "TRG" | "TRN" => InDatabase::SideFile,
        "opt" if stem == "db" => InDatabase::SideFile,
        "ibd" => InDatabase::Tablespace,
        "isl" => InDatabase::Link,
        "MYD" | "MYI" | "MAD" | "MAI" | "ARZ" | "ARM" | "ARN" | "MRG" => InDatabase::OtherEngine,
        "CSV" | "CSM" => InDatabase::Csv,
        "cfg" | "cfp" => InDatabase::LeftOut,
        _ => InDatabase::Unknown,
    }
}

/// How an engine's tables can be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// As they are.
    InnoDb,
    /// There are no rows to carry, only the definition.
    DefinitionOnly,
    /// Made by MariaDB itself.
    Virtual,
    /// The system tables' own; they become InnoDB.
    SystemTables,
    /// Not at all.
    Other,
}

/// Classifies an engine by its name.
pub fn engine(name: &str) -> Engine {
    match name.to_ascii_lowercase().as_str() {
        "innodb" => Engine::InnoDb,
        "memory" | "blackhole" | "federated" | "federatedx" => Engine::DefinitionOnly,
        "performance_schema" | "sequence" => Engine::Virtual,
        "aria" | "myisam" => Engine::SystemTables,
        _ => Engine::Other,
    }
}

/// The number behind `prefix`.
fn number(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}
