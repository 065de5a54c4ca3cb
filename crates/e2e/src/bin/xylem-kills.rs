//! `cargo xtask kills`: many rounds of kills under load.

use anyhow::{Context, Result, bail};
use xylem_e2e::Project;
use xylem_e2e::rounds::{Random, ddl, rows};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| match args.get(at) {
        Some(text) => text
            .parse()
            .with_context(|| format!("{text} is not a number")),
        None => Ok(default),
    };
    let only = args.get(2).map_or("both", String::as_str);
    if args.len() > 3 || !["both", "rows", "ddl", "log"].contains(&only) {
        bail!("usage: cargo xtask kills [ROUNDS [SEED [rows|ddl|log]]]");
    }
    let rounds = u32::try_from(number(0, 200)?)?;
    let seed = number(1, u64::from(std::process::id()))?;
    println!("{rounds} rounds ({only}), seed {seed}");
    let mut random = Random(seed);
    if only == "log" {
        // The CDC client wants the names of columns.
        let log = [
            "--",
            "--log-bin",
            "--binlog-format=ROW",
            "--binlog-row-metadata=FULL",
        ];
        let project = Project::with(Vec::new(), &log)?;
        project.up_in_place("32MiB")?;
        rows::run_followed(&project, rounds, &mut random).with_context(|| project.logs())?;
        println!("all that was acknowledged was followed, once and in order");
        return Ok(());
    }
    let project = Project::up("32MiB")?;
    if only != "ddl" {
        rows::run(&project, rounds, &mut random).with_context(|| project.logs())?;
    }
    if only != "rows" {
        ddl::run(&project, rounds, &mut random).with_context(|| project.logs())?;
    }
    println!("nothing acknowledged was lost, nothing was half there");
    Ok(())
}
