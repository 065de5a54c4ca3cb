//! The system tables of an empty branch, made by `mariadbd --bootstrap`.

use super::bootstrap;
use super::mycnf;
use super::starter::{Start, Starter};
use crate::files;
use crate::log_file;
use crate::spawn;
use anyhow::{Context, Result};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

impl Starter<'_> {
    /// Creates MariaDB's system tables in an empty branch.
    ///
    /// # Errors
    /// When MariaDB fails.
    pub(super) async fn fill(&mut self, start: &Start<'_>) -> Result<()> {
        let dir = &start.dir;
        self.progress.say("creating the system tables".to_owned());
        // Other branches are worth keeping.
        let half_made = start.name.is_main();
        let state = &self.app.state;
        self.project
            .update(state, |project| project.half_made |= half_made)?;
        let sql = bootstrap::sql(self.home)?;
        files::write_atomic(&dir.bootstrap_sql(), sql.as_bytes(), files::SECRET)?;
        start.host.give(&dir.data())?;
        self.write_options(start, None, true)?;
        let log_from = files::length_of(&dir.log());
        let user = start.host.user.as_ref();
        let log = spawn::open_log(&dir.log(), user)?;
        let mut command = Command::new(start.host.home.mariadbd());
        if let Some(user) = user {
            command.gid(user.gid).uid(user.uid);
        }
        let child = command
            .arg(mycnf::defaults_file(&dir.my_cnf()))
            .args([
                "--bootstrap",
                "--enforce-storage-engine=",
                "--log-warnings=0",
            ])
            .args(["--max-allowed-packet=8M", "--net-buffer-length=16K"])
            // Each help topic is a commit; durable they are at the end.
            .arg("--innodb-flush-log-at-trx-commit=0")
            .env_clear()
            .envs(spawn::harmless_environment())
            .envs(self.environment(start))
            .current_dir(dir.data())
            .stdin(std::fs::File::open(dir.bootstrap_sql())?)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start mariadbd --bootstrap")?;
        let status = spawn::wait_child(child).await?;
        if !status.success() {
            return Err(log_file::died(
                &format!("creating the system tables failed (mariadbd --bootstrap: {status})"),
                &dir.log(),
                log_from,
            ));
        }
        let _ = std::fs::remove_file(dir.bootstrap_sql());
        self.project
            .update(state, |project| project.half_made &= !half_made)
    }
}
