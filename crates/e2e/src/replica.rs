//! A stock MariaDB that replicates from branch main's compute.

use crate::{Project, wait_until};
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tempfile::TempDir;
use xylem_oracle::server::{Install, Server};

/// A replica, by GTID, which writes no log of its own.
pub struct Replica {
    server: Server,
    _dir: TempDir,
}

impl Replica {
    /// Starts a replica of the project's main, which has a binary log. Makes the account
    /// `repl`, with password `r`, there.
    ///
    /// # Errors
    /// When a server cannot be started or refuses.
    pub fn of(project: &Project) -> Result<Replica> {
        let port = project.compute()?["port"].to_string();
        project.sql(
            "CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'r'; \
             GRANT REPLICATION SLAVE, BINLOG MONITOR, SELECT ON *.* TO repl@'127.0.0.1'",
        )?;
        let dir = tempfile::Builder::new().prefix("xylem-stock-").tempdir()?;
        let install = Install::from_env()?;
        let data = dir.path().join("data");
        install.create_database(&data, &[])?;
        let options = [
            "--server-id=77",
            "--slave-parallel-threads=4",
            "--master-retry-count=0",
        ];
        let options = options.map(str::to_owned);
        let server = install.start(&data, dir.path(), &options)?;
        server.query(&format!(
            "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='repl', \
             MASTER_PASSWORD='r', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1; \
             START SLAVE"
        ))?;
        Ok(Replica { server, _dir: dir })
    }

    /// Waits until the replica has all that main has logged, and compares tables.
    ///
    /// # Errors
    /// When it does not get there, or a table differs.
    pub fn follows(&self, project: &Project, tables: &[&str]) -> Result<()> {
        let position = project.sql("SELECT @@gtid_binlog_pos")?;
        let position = position.trim();
        let waited = wait_until("the replica to follow", Duration::from_secs(120), || {
            Ok(self.server.query("SELECT @@gtid_slave_pos")?.trim() == position)
        });
        waited.with_context(|| {
            let status = self.server.query("SHOW SLAVE STATUS").unwrap_or_default();
            format!("{position} is wanted; {status}")
        })?;
        for table in tables {
            let sum = format!("CHECKSUM TABLE {table}");
            let (ours, theirs) = (project.sql(&sum)?, self.server.query(&sum)?);
            ensure!(ours == theirs, "{table}: {ours} and {theirs}");
        }
        Ok(())
    }
}
