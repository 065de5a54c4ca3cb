//! A compute as a replica of a stock server: after the loss of its directory it continues
//! without lost or repeated transactions. Computes of child branches do not replicate.

use crate::stock::Stock;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use xylem_e2e::{Project, free_ports, wait_until};
use xylem_oracle::server::Server;

/// A stock primary that replicas can log in to, on `port`.
struct Primary {
    _stock: Stock,
    server: Server,
    port: u16,
}

impl Primary {
    fn start(id: u32) -> Result<Primary> {
        let port = free_ports(1)?.remove(0);
        let stock = Stock::create(&[])?;
        let server = stock.start_with(&[
            &format!("--server-id={id}"),
            &format!("--gtid-domain-id={id}"),
            "--log-bin=primary",
            "--skip-networking=0",
            "--bind-address=127.0.0.1",
            &format!("--port={port}"),
        ])?;
        server.query(&format!(
            "CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'r'; \
             GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'; \
             RESET MASTER; CREATE DATABASE d{id}; \
             CREATE TABLE d{id}.t (a INT) ENGINE=MyISAM; CREATE TABLE d{id}.u (a INT PRIMARY KEY)"
        ))?;
        Ok(Primary {
            _stock: stock,
            server,
            port,
        })
    }

    /// `CHANGE MASTER` for a connection called `name`.
    fn change(&self, name: &str) -> String {
        format!(
            "CHANGE MASTER '{name}' TO MASTER_HOST='127.0.0.1', MASTER_PORT={}, \
             MASTER_USER='repl', MASTER_PASSWORD='r', MASTER_USE_GTID=slave_pos, \
             MASTER_CONNECT_RETRY=1; START SLAVE '{name}'",
            self.port
        )
    }
}

/// Waits until the replica has what the primary has.
fn wait_equal(project: &Project, primary: &Primary, id: u32) -> Result<()> {
    let sums = format!(
        "SELECT (SELECT CONCAT(COUNT(*), ' ', COALESCE(SUM(a), 0)) FROM d{id}.t), \
         (SELECT CONCAT(COUNT(*), ' ', COALESCE(SUM(a), 0)) FROM d{id}.u)"
    );
    let wanted = primary.server.query(&sums)?;
    let waited = wait_until("the replica to follow", Duration::from_secs(120), || {
        Ok(project.sql(&sums).is_ok_and(|have| have == wanted))
    });
    waited.with_context(|| {
        format!(
            "{wanted} is wanted, {:?} there; {:?}",
            project.sql(&sums),
            project.sql("SHOW ALL SLAVES STATUS")
        )
    })
}

#[test]
fn a_replica_comes_back_and_its_branch_stays_apart() -> Result<()> {
    let one = Primary::start(11)?;
    let two = Primary::start(12)?;
    let project = Project::with(Vec::new(), &["--", "--server-id=21"])?;
    project.up_in_place("32MiB")?;
    // One connection without a name, one with.
    project.sql(&one.change(""))?;
    project.sql(&two.change("second"))?;
    for round in 0..2 {
        for (primary, id) in [(&one, 11), (&two, 12)] {
            primary.server.query(&format!(
                "USE d{id}; INSERT INTO d{id}.t SELECT seq FROM seq_1_to_100; \
                 INSERT INTO d{id}.u SELECT seq + {round} * 1000 FROM seq_1_to_100"
            ))?;
            wait_equal(&project, primary, id)?;
        }
        project.lose_compute()?;
        // Transactions while the replica is down are not lost either.
        for (primary, id) in [(&one, 11), (&two, 12)] {
            primary
                .server
                .query(&format!("INSERT INTO d{id}.t VALUES (7), (8)"))?;
        }
        project.xylem(&["compute", "start", "main"])?;
        for (primary, id) in [(&one, 11), (&two, 12)] {
            wait_equal(&project, primary, id)?;
        }
    }
    // The primary's MyISAM table is an InnoDB table here.
    assert_eq!(
        project.sql(
            "SELECT DISTINCT engine FROM information_schema.tables \
             WHERE table_schema IN ('d11', 'd12')"
        )?,
        "InnoDB\n"
    );

    project.xylem(&["branch", "create", "dev"])?;
    project.xylem(&["compute", "start", "dev"])?;
    let before = project.checksums_on("dev", "d11")?;
    let threads = "SELECT COUNT(*) FROM information_schema.processlist \
         WHERE command LIKE 'Slave%'";
    assert_eq!(project.sql_on("dev", threads)?, "0\n");
    ensure!(project.sql(threads)? != "0\n", "main replicates");
    let id = project.sql_on("dev", "SELECT @@server_id")?;
    assert_ne!(id, project.sql("SELECT @@server_id")?);
    one.server.query("INSERT INTO d11.t VALUES (9)")?;
    wait_equal(&project, &one, 11)?;
    assert_eq!(project.checksums_on("dev", "d11")?, before);
    Ok(())
}
