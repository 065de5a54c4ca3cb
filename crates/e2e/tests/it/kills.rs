//! A few rounds of kills under load; `cargo xtask kills` runs many.

use anyhow::{Context, Result};
use xylem_e2e::Project;
use xylem_e2e::rounds::{Random, ddl, rows};

#[test]
fn no_acknowledged_commit_is_lost() -> Result<()> {
    let project = Project::up("16MiB")?;
    let seed = u64::from(std::process::id());
    rows::run(&project, 6, &mut Random(seed))
        .with_context(|| format!("seed {seed}\n{}", project.logs()))
}

#[test]
fn replicas_follow_through_kills() -> Result<()> {
    let project = Project::with(Vec::new(), &["--", "--log-bin", "--binlog-format=ROW"])?;
    project.up_in_place("16MiB")?;
    let seed = u64::from(std::process::id());
    rows::run_followed(&project, 5, &mut Random(seed))
        .with_context(|| format!("seed {seed}\n{}", project.logs()))
}

#[test]
fn ddl_is_whole_or_not_there() -> Result<()> {
    let project = Project::up("16MiB")?;
    let seed = u64::from(std::process::id());
    ddl::run(&project, 6, &mut Random(seed))
        .with_context(|| format!("seed {seed}\n{}", project.logs()))
}
