//! sysbench on stock MariaDB and on Xylem, turn by turn.

use crate::Args;
use crate::report::{self, Better};
use anyhow::{Context, Result};
use xylem_e2e::Project;
use xylem_e2e::sysbench::{Load, Login};
use xylem_oracle::server::Install;

const SCRIPTS: [&str; 3] = ["oltp_point_select", "oltp_read_write", "oltp_write_only"];
const THREADS: [u32; 2] = [1, 16];

/// Measures with one buffer pool size.
pub fn measure(args: &Args, pool: &str) -> Result<()> {
    let install = Install::from_env()?;
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    install.create_database(&data, &[])?;
    let options = [
        format!("--innodb-buffer-pool-size={}", pool.trim_end_matches("iB")),
        "--performance-schema=OFF".to_owned(),
    ];
    let server = install.start(&data, dir.path(), &options)?;
    let project = Project::up(pool)?;
    let sides = [
        Login {
            socket: server.socket().into(),
            user: "root".into(),
            password: String::new(),
        },
        project.login()?,
    ];

    let load = Load {
        tables: args.tables,
        rows: args.rows,
        threads: 4,
        seconds: args.seconds,
        rate: None,
    };
    server.query("CREATE DATABASE sbtest")?;
    project.sql("CREATE DATABASE sbtest")?;
    for login in &sides {
        load.prepare(login)?;
    }
    for script in SCRIPTS {
        for threads in THREADS {
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..args.turns {
                for (login, rates) in sides.iter().zip(&mut rates) {
                    let report = Load { threads, ..load }.run(login, script)?;
                    rates.push(per_second(&report)?);
                }
            }
            let name = format!(
                "{} {threads} threads, pool {pool}",
                script.trim_start_matches("oltp_")
            );
            report::pair(&name, "tx/s", Better::Higher, &rates[0], &rates[1]);
        }
    }
    Ok(())
}

/// The transactions per second in sysbench's report.
pub fn per_second(report: &str) -> Result<f64> {
    report
        .lines()
        .find_map(|line| line.trim().strip_prefix("transactions:"))
        .and_then(|rest| {
            rest.split_once('(')?
                .1
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("no transactions per second in: {report}"))
}
