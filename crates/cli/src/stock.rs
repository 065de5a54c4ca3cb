//! Stock MariaDB on a working copy: it runs some SQL and stops, and listens
//! nowhere meanwhile.

use crate::files;
use crate::home::Home;
use crate::log_file;
use crate::spawn::{harmless_environment, wait_child};
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xylem_datadir::working::LOG_BYTES;

#[cfg(test)]
mod tests;

/// MariaDB and what it runs on.
#[derive(Debug)]
pub struct Stock<'a> {
    /// The installation.
    pub home: &'a Home,
    /// The data directory.
    pub data: &'a Path,
    /// A private directory for its error log and temporary files.
    pub work: &'a Path,
    /// The file that keeps the error log if MariaDB fails.
    pub keep_log: &'a Path,
    /// `innodb_page_size`.
    pub page_size: usize,
    /// `innodb_undo_tablespaces`.
    pub undo_tablespaces: usize,
    /// `innodb_force_recovery`.
    pub force_recovery: u8,
    /// `innodb_fast_shutdown`.
    pub fast_shutdown: u8,
    /// Roll back transactions that MariaDB itself has prepared, if there is no
    /// binary log that would tell their outcome; those that users have prepared
    /// with XA stay.
    pub roll_back_prepared: bool,
}

impl Stock<'_> {
    /// Its error log.
    pub fn log(&self) -> PathBuf {
        self.work.join("mariadbd.log")
    }

    /// The directory of its temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.work.join("tmp")
    }

    /// Runs `sql`, one statement a line, and returns the error log.
    ///
    /// # Errors
    /// When MariaDB fails; `doing` names the work.
    pub async fn run(&self, doing: &str, sql: &str) -> Result<String> {
        files::make_private_dir(&self.tmp())?;
        let script = self.work.join("script.sql");
        files::write_atomic(&script, sql.as_bytes(), files::SECRET)?;
        let log = std::fs::File::create(self.log())
            .with_context(|| format!("cannot write {}", self.log().display()))?;
        let child = Command::new(self.home.mariadbd())
            .args(self.arguments())
            .env_clear()
            .envs(harmless_environment())
            .env("LD_LIBRARY_PATH", self.home.library_path())
            .current_dir(self.data)
            .stdin(std::fs::File::open(&script)?)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start stock MariaDB")?;
        let status = wait_child(child).await?;
        // It holds a password.
        let _ = std::fs::remove_file(&script);
        if !status.success() {
            return Err(self.failed(&format!("{doing} failed (mariadbd --bootstrap: {status})")));
        }
        let text = std::fs::read(self.log()).unwrap_or_default();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// The error `what`, with the error log, which is kept.
    pub fn failed(&self, what: &str) -> anyhow::Error {
        let log = std::fs::read(self.log()).unwrap_or_default();
        match files::write_atomic(self.keep_log, &log, files::SECRET) {
            Ok(()) => log_file::died(what, self.keep_log, 0),
            Err(error) => error.context(what.to_owned()),
        }
    }

    fn arguments(&self) -> Vec<OsString> {
        let path = |name: &str, path: &Path| {
            let mut arg = OsString::from(format!("--{name}="));
            arg.push(path);
            arg
        };
        let share = self.home.share();
        let mut args = vec![
            OsString::from("--no-defaults"),
            OsString::from("--bootstrap"),
            path("basedir", &self.home.basedir()),
            path("lc-messages-dir", &share),
            path("character-sets-dir", &share.join("charsets")),
            path("plugin-dir", &self.home.basedir().join("lib/mysql/plugin")),
            path("datadir", self.data),
            path("tmpdir", &self.tmp()),
        ];
        args.extend(
            [
                "--skip-networking",
                "--skip-log-bin",
                "--skip-slave-start",
                "--event-scheduler=OFF",
                "--enforce-storage-engine=",
                "--log-warnings=2",
                "--max-allowed-packet=64M",
                "--innodb-buffer-pool-size=256M",
                "--innodb-buffer-pool-load-at-startup=OFF",
                "--innodb-buffer-pool-dump-at-shutdown=OFF",
                "--innodb-data-file-path=ibdata1:12M:autoextend",
                "--innodb-flush-log-at-trx-commit=0",
            ]
            .map(OsString::from),
        );
        args.extend(
            [
                format!("--innodb-page-size={}", self.page_size),
                format!("--innodb-undo-tablespaces={}", self.undo_tablespaces),
                format!("--innodb-log-file-size={LOG_BYTES}"),
                format!("--innodb-force-recovery={}", self.force_recovery),
                format!("--innodb-fast-shutdown={}", self.fast_shutdown),
            ]
            .map(OsString::from),
        );
        if self.roll_back_prepared {
            args.push("--tc-heuristic-recover=ROLLBACK".into());
        }
        if rustix::process::geteuid().is_root() {
            args.push("--user=root".into());
        }
        args
    }
}
