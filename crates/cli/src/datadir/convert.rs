//! MariaDB's own tables become InnoDB, where alone they are durable here: on a
//! copy, by stock MariaDB itself, which speaks to nobody meanwhile.
//!
//! Of a directory that a server left in order only the system and undo
//! tablespaces and MariaDB's own databases need a copy: with
//! `innodb_force_recovery=3` InnoDB runs neither purge nor rollback, so that
//! nothing looks at other tables, and a file that is not there cannot be
//! written. A prepared backup, and changes in the change buffer, need all.

use super::SYSTEM_DATABASES;
use super::copy;
use super::names;
use super::stock::{LOG_BYTES, Stock, sql_text};
use super::stopped::LOG;
use super::survey::Survey;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::project::Accounts;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// The account that an import makes: on an imported database `root` is its
/// owner's.
pub use crate::compute::account::OWN_USER as USER;
/// What stock MariaDB and its new tables take besides the copy, in bytes.
const SLACK_BYTES: u64 = 256 << 20;

/// A copy of what stock MariaDB must have to convert its own tables.
#[derive(Debug)]
pub struct Copy<'a> {
    /// The installation.
    pub home: &'a Home,
    /// What was found in the directory.
    pub survey: &'a Survey,
    /// A private directory for it, empty.
    pub work: &'a Path,
    /// Where MariaDB's log goes when it fails.
    pub keep_log: &'a Path,
    /// All tables are copied.
    pub whole: bool,
}

impl Copy<'_> {
    /// The copy's data directory.
    pub fn data(&self) -> PathBuf {
        self.work.join("data")
    }

    fn is_copied(&self, path: &str) -> bool {
        let database = path.split('/').next().unwrap_or_default();
        self.whole || SYSTEM_DATABASES.contains(&database)
    }

    /// Bytes that will be copied.
    pub fn bytes(&self) -> u64 {
        let s = self.survey;
        let tables = s.tables.iter().filter(|t| self.is_copied(&t.name));
        let spaces = s.system.iter().chain(&s.undo).chain(tables);
        spaces.map(super::tablespace::Tablespace::bytes).sum()
    }

    /// Checks that there is room for the copy.
    ///
    /// # Errors
    /// When there is not.
    pub fn check_room(&self) -> Result<()> {
        let found = rustix::fs::statvfs(self.work)
            .with_context(|| format!("cannot look at {}", self.work.display()))?;
        let free = found.f_bavail * found.f_frsize;
        let needed = self.bytes() + SLACK_BYTES;
        if free >= needed {
            return Ok(());
        }
        Err(Failure::new(
            format!(
                "the import needs {} for a copy of {}, and {} has {}",
                crate::output::bytes(needed),
                if self.whole {
                    "the database"
                } else {
                    "the system tablespace"
                },
                self.work.display(),
                crate::output::bytes(free),
            ),
            "free some space, or name a directory on another disk with --scratch",
        ))
    }

    /// Makes the copy; `copied` is told how many bytes were read, and may end
    /// it. Blocking.
    ///
    /// # Errors
    /// When reading or writing fails.
    pub fn make(&self, mut copied: impl FnMut(u64) -> std::io::Result<()>) -> Result<()> {
        let data = self.data();
        files::make_private_dir(&data)?;
        let s = self.survey;
        let failed = |path: &Path| format!("cannot copy {} to {}", path.display(), data.display());
        for file in s.side.iter().filter(|f| self.is_copied(&f.path)) {
            let to = data.join(&file.path);
            match file.size {
                None => files::make_private_dir(&to)?,
                Some(_) => {
                    copy::file(&file.source, &to, |_| Ok(()))
                        .with_context(|| failed(&file.source))?;
                }
            }
        }
        let tables = s.tables.iter().filter(|t| self.is_copied(&t.name));
        for space in s.system.iter().chain(&s.undo).chain(tables) {
            let to = data.join(&space.name);
            copy::tablespace(space, &to, &mut copied)
                .with_context(|| format!("cannot copy {} to {}", space.name, data.display()))?;
        }
        // Aria's tables and its log.
        for entry in &s.entries {
            let engine = entry.path.extension().is_some_and(|e| {
                ["MAD", "MAI", "MYD", "MYI"]
                    .iter()
                    .any(|engine| e == *engine)
            });
            let database = entry.path.parent().and_then(Path::file_name);
            let to = match database {
                Some(database) if engine => data.join(database).join(&entry.name),
                _ if entry.name.starts_with("aria_log") => data.join(&entry.name),
                _ => continue,
            };
            if to.parent().is_some_and(Path::is_dir) {
                copy::file(&entry.path, &to, |_| Ok(())).with_context(|| failed(&entry.path))?;
            }
        }
        self.make_log()
    }

    /// A log that ends where that of the directory ends. One that tells of a
    /// backup is taken as it is: InnoDB then drops what was left unfinished.
    fn make_log(&self) -> Result<()> {
        let Some(stopped) = &self.survey.stopped else {
            bail!("the directory's log was not read");
        };
        let to = self.data().join(LOG);
        if stopped.backup {
            let Some(dir) = self.survey.system.as_ref().and_then(|s| s.paths().next()) else {
                bail!("there is no system tablespace");
            };
            let from = dir.with_file_name(LOG);
            return copy::file(&from, &to, |_| Ok(()))
                .with_context(|| format!("cannot copy {}", from.display()));
        }
        let start = stopped.end.0 - xylem_redo::CHECKPOINT_MTR_LEN as u64;
        let bytes = xylem_redo::log_file(xylem_types::Lsn(start), LOG_BYTES);
        std::fs::write(&to, bytes)
            .and_then(|()| {
                std::fs::OpenOptions::new()
                    .write(true)
                    .open(&to)?
                    .set_len(LOG_BYTES)
            })
            .with_context(|| format!("cannot write {}", to.display()))
    }

    /// What MariaDB is told to do: one statement a line.
    fn sql(&self, password: &str, accounts: Accounts) -> String {
        let mut out = String::from(
            "SET foreign_key_checks=0;\nSET sql_mode='';\nSET lock_wait_timeout=300;\n",
        );
        for (database, table) in &self.survey.convert {
            let name = format!("{}.{}", names::sql(database), names::sql(table));
            // Statistics of system tables are not kept in tables, as MariaDB
            // has it for its own InnoDB tables.
            let _ = writeln!(out, "ALTER TABLE {name} ENGINE=InnoDB STATS_PERSISTENT=0;");
        }
        for table in self.long_logs() {
            let _ = writeln!(out, "TRUNCATE TABLE mysql.{table};");
        }
        let before = sql_text(&self.accounts_file().to_string_lossy());
        let _ = writeln!(
            out,
            "SELECT Host FROM mysql.global_priv WHERE User='{USER}' INTO OUTFILE {before};"
        );
        out.push_str(&accounts_sql(password, accounts));
        out
    }

    /// Log tables that are emptied: their rows are no part of a branch.
    pub fn long_logs(&self) -> Vec<&str> {
        let long = |f: &&super::survey::SideFile| {
            f.path.ends_with(".CSV") && f.size.is_some_and(|size| size > 0)
        };
        let names = self.survey.side.iter().filter(long);
        names
            .filter_map(|f| f.path.strip_prefix("mysql/")?.strip_suffix(".CSV"))
            .collect()
    }

    fn accounts_file(&self) -> PathBuf {
        self.work.join("tmp/accounts")
    }

    /// The hosts for which there was an account with the name of ours.
    pub fn accounts_before(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.accounts_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Has stock MariaDB convert its tables and make the account with
    /// `password`.
    ///
    /// # Errors
    /// When it fails. Without a copy of all tables also when it complains.
    pub async fn convert(&self, password: &str, accounts: Accounts) -> Result<()> {
        const DOING: &str = "converting MariaDB's own tables to InnoDB";
        // Purge everything, and empty the change buffer; or touch nothing.
        let (force_recovery, fast_shutdown) = if self.whole { (0, 0) } else { (3, 1) };
        let data = self.data();
        let stock = Stock {
            home: self.home,
            data: &data,
            work: self.work,
            keep_log: self.keep_log,
            page_size: self.survey.page_size(),
            undo_tablespaces: self.survey.undo.len(),
            force_recovery,
            fast_shutdown,
            // Its binary log may have them; the branch gets them as they are.
            roll_back_prepared: false,
        };
        let text = stock.run(DOING, &self.sql(password, accounts)).await?;
        let complains = text.lines().any(files::is_error_line);
        if complains && !self.whole {
            return Err(stock.failed(&format!("{DOING} failed")));
        }
        Ok(())
    }
}

/// SQL that makes the accounts of Xylem's own client. As MariaDB stores them:
/// while it converts its tables it knows no CREATE USER.
fn accounts_sql(password: &str, accounts: Accounts) -> String {
    let mut hosts = vec!["localhost", "127.0.0.1", "::1"];
    if accounts == Accounts::Any {
        hosts.push("%");
    }
    let mut out = String::new();
    for host in hosts {
        let _ = writeln!(
            out,
            "REPLACE INTO mysql.global_priv VALUES ('{host}', '{USER}', JSON_OBJECT('access', 18446744073709551615, 'plugin', 'mysql_native_password', 'authentication_string', PASSWORD({})));",
            sql_text(password)
        );
        let _ = writeln!(
            out,
            "REPLACE INTO mysql.proxies_priv VALUES ('{host}', '{USER}', '', '', 1, '', CURRENT_TIMESTAMP());"
        );
    }
    out
}
