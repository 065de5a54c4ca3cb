//! The working copy, in which MariaDB's own tables become InnoDB: only there do
//! they survive a compute. Stock MariaDB itself converts them.
//!
//! A directory that was stopped cleanly needs a copy of only the system and undo
//! tablespaces and MariaDB's own databases: with `innodb_force_recovery=3` InnoDB
//! runs neither purge nor rollback, so that nothing reads other tables, and a
//! file that is missing cannot be written. A prepared backup, and changes in the
//! change buffer, need a copy of all tables.

use crate::classify;
use crate::copy;
use crate::error::DatadirError;
use crate::names::{self, sql_text};
use crate::own::OWN_USER;
use crate::stopped::LOG;
use crate::survey::{SideFile, Survey};
use crate::tablespace::Tablespace;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Size of a redo log that suits MariaDB's default settings, in bytes.
pub const LOG_BYTES: u64 = 96 << 20;

/// The space that MariaDB and its new tables need on disk beside the copy, in bytes.
const SLACK_BYTES: u64 = 256 << 20;

/// Extensions of the files in which MariaDB keeps tables in Aria and MyISAM.
const ENGINE_FILES: [&str; 4] = ["MAD", "MAI", "MYD", "MYI"];

/// A copy of what stock MariaDB needs to convert its own tables.
#[derive(Clone, Copy, Debug)]
pub struct WorkingCopy<'a> {
    /// The content of the directory.
    pub survey: &'a Survey,
    /// A private directory for the copy, empty.
    pub work: &'a Path,
    /// All tables are copied.
    pub whole: bool,
}

impl WorkingCopy<'_> {
    /// The copy's data directory.
    pub fn data(&self) -> PathBuf {
        self.work.join("data")
    }

    fn is_copied(&self, path: &str) -> bool {
        self.whole || classify::is_system(path)
    }

    /// The tablespaces that are copied.
    fn spaces(&self) -> impl Iterator<Item = &Tablespace> {
        let s = self.survey;
        let tables = s.tables.iter().filter(|t| self.is_copied(&t.name));
        s.system.iter().chain(&s.undo).chain(tables)
    }

    /// Bytes that will be read.
    pub fn bytes(&self) -> u64 {
        self.spaces().map(Tablespace::bytes).sum()
    }

    /// Bytes of disk that the copy and the conversion need.
    pub fn needed_bytes(&self) -> u64 {
        self.bytes() + SLACK_BYTES
    }

    /// Makes the copy. `copied` gets the number of bytes of each read, and its
    /// error ends the work. Blocking.
    ///
    /// # Errors
    /// When reading or writing fails, or `copied` says so.
    pub fn make(&self, mut copied: impl FnMut(u64) -> io::Result<()>) -> Result<(), DatadirError> {
        let data = self.data();
        make_dir(&data)?;
        self.copy_side_files(&data)?;
        for space in self.spaces() {
            copy::tablespace(space, &data.join(&space.name), &mut copied)
                .map_err(DatadirError::copy(Path::new(&space.name), &data))?;
        }
        self.copy_engine_files(&data)?;
        self.make_log(&data)
    }

    fn copy_side_files(&self, data: &Path) -> Result<(), DatadirError> {
        let side = self.survey.side.iter();
        for file in side.filter(|f| self.is_copied(&f.path)) {
            let to = data.join(&file.path);
            match file.size {
                None => make_dir(&to)?,
                Some(_) => copy::file(&file.source, &to, |_| Ok(()))
                    .map_err(DatadirError::copy(&file.source, data))?,
            }
        }
        Ok(())
    }

    /// Copies tables in Aria and MyISAM, and Aria's own log.
    fn copy_engine_files(&self, data: &Path) -> Result<(), DatadirError> {
        for entry in &self.survey.entries {
            let extension = entry.path.extension();
            let is_table = extension.is_some_and(|e| ENGINE_FILES.iter().any(|known| e == *known));
            let database = entry.path.parent().and_then(Path::file_name);
            let to = match database {
                Some(database) if is_table => data.join(database).join(&entry.name),
                _ if entry.name.starts_with("aria_log") => data.join(&entry.name),
                _ => continue,
            };
            if to.parent().is_some_and(Path::is_dir) {
                copy::file(&entry.path, &to, |_| Ok(()))
                    .map_err(DatadirError::copy(&entry.path, data))?;
            }
        }
        Ok(())
    }

    /// Makes a redo log that ends where that of the directory ends. The redo log
    /// of a backup is copied as it is: InnoDB then drops unfinished tables.
    fn make_log(&self, data: &Path) -> Result<(), DatadirError> {
        let missing = |what: &str| DatadirError::Inconsistent(what.to_owned());
        let Some(stopped) = &self.survey.stopped else {
            return Err(missing("the directory's redo log was not read"));
        };
        let to = data.join(LOG);
        if stopped.backup {
            let Some(dir) = self.survey.system.as_ref().and_then(|s| s.paths().next()) else {
                return Err(missing("there is no system tablespace"));
            };
            let from = dir.with_file_name(LOG);
            return copy::file(&from, &to, |_| Ok(())).map_err(DatadirError::copy(&from, data));
        }
        let start = stopped.end.0 - xylem_redo::CHECKPOINT_MTR_LEN as u64;
        let bytes = xylem_redo::log_file(xylem_types::Lsn(start), LOG_BYTES);
        std::fs::write(&to, bytes)
            .and_then(|()| std::fs::OpenOptions::new().write(true).open(&to))
            .and_then(|file| file.set_len(LOG_BYTES))
            .map_err(DatadirError::write(&to))
    }

    /// The SQL of the conversion, one statement a line: converts the tables, and
    /// creates [`OWN_USER`] with `password`, for all hosts if `from_anywhere`.
    pub fn sql(&self, password: &str, from_anywhere: bool) -> String {
        let mut out = String::from(
            "SET foreign_key_checks=0;\nSET sql_mode='';\nSET lock_wait_timeout=300;\n",
        );
        for (database, table) in &self.survey.convert {
            let name = format!("{}.{}", names::sql(database), names::sql(table));
            // MariaDB keeps no persistent statistics of its own InnoDB tables
            // either.
            let _ = writeln!(out, "ALTER TABLE {name} ENGINE=InnoDB STATS_PERSISTENT=0;");
        }
        for table in self.emptied() {
            let _ = writeln!(out, "TRUNCATE TABLE mysql.{table};");
        }
        let before = sql_text(&self.accounts_file().to_string_lossy());
        let _ = writeln!(
            out,
            "SELECT Host FROM mysql.global_priv WHERE User='{OWN_USER}' INTO OUTFILE {before};"
        );
        out.push_str(&accounts_sql(password, from_anywhere));
        out
    }

    /// MariaDB's log tables that have rows, which the conversion removes: they
    /// are no part of a branch.
    pub fn emptied(&self) -> Vec<&str> {
        let has_rows =
            |f: &&SideFile| f.path.ends_with(".CSV") && f.size.is_some_and(|size| size > 0);
        let files = self.survey.side.iter().filter(has_rows);
        files
            .filter_map(|f| f.path.strip_prefix("mysql/")?.strip_suffix(".CSV"))
            .collect()
    }

    fn accounts_file(&self) -> PathBuf {
        self.work.join("tmp/accounts")
    }

    /// The hosts for which [`OWN_USER`] existed before the conversion; known when
    /// [`WorkingCopy::sql`] has run.
    pub fn accounts_before(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.accounts_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn make_dir(path: &Path) -> Result<(), DatadirError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(DatadirError::write(path))
}

/// SQL that writes the accounts of Xylem's own client into MariaDB's tables:
/// `mariadbd --bootstrap` has no CREATE USER.
fn accounts_sql(password: &str, from_anywhere: bool) -> String {
    let mut hosts = vec!["localhost", "127.0.0.1", "::1"];
    if from_anywhere {
        hosts.push("%");
    }
    let mut out = String::new();
    for host in hosts {
        let _ = writeln!(
            out,
            "REPLACE INTO mysql.global_priv VALUES ('{host}', '{OWN_USER}', JSON_OBJECT('access', 18446744073709551615, 'plugin', 'mysql_native_password', 'authentication_string', PASSWORD({})));",
            sql_text(password)
        );
        let _ = writeln!(
            out,
            "REPLACE INTO mysql.proxies_priv VALUES ('{host}', '{OWN_USER}', '', '', 1, '', CURRENT_TIMESTAMP());"
        );
    }
    out
}
