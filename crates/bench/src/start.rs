//! The time until a new compute on an existing branch answers its first query, compared
//! with a stock server on an existing data directory.

use crate::report::{self, Better};
use anyhow::Result;
use std::time::Instant;
use xylem_e2e::Project;
use xylem_oracle::server::Install;

/// Measures both, turn by turn.
pub fn measure(turns: u32) -> Result<()> {
    let install = Install::from_env()?;
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    install.create_database(&data, &[])?;
    let project = Project::up("256MiB")?;

    let (mut stock, mut xylem) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        let started = Instant::now();
        let server = install.start(
            &data,
            dir.path(),
            &["--innodb-buffer-pool-size=256M".into()],
        )?;
        server.query("SELECT 1")?;
        stock.push(started.elapsed().as_secs_f64() * 1e3);
        server.stop()?;

        project.lose_compute()?;
        let started = Instant::now();
        project.xylem(&["compute", "start", "main"])?;
        project.sql("SELECT 1")?;
        xylem.push(started.elapsed().as_secs_f64() * 1e3);
    }
    report::pair("start to first query", "ms", Better::Lower, &stock, &xylem);
    Ok(())
}
