//! Runs `mysql-test-run.pl` and reports the results.

use crate::excluded::{self, Excluded};
use crate::mode::Mode;
use crate::outcome::{Outcome, Outcomes};
use crate::{bindir, standin, verify};
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use xylem_cli::files;
use xylem_cli::home::Home;
use xylem_cli::state::StateDir;

#[derive(Parser)]
#[command(
    name = "cargo xtask mysqltest",
    bin_name = "cargo xtask mysqltest",
    about = "Run MariaDB's own tests on servers that live on the page server"
)]
struct Args {
    /// The suite: innodb, atomic, …
    suite: String,
    /// Run only tests whose name begins with this regular expression.
    filter: Option<String>,
    /// Servers to run the tests on.
    #[arg(long, value_enum, default_value_t = Mode::PageServer)]
    mode: Mode,
    /// Number of tests to run in parallel.
    #[arg(long, default_value_t = 2)]
    parallel: u32,
    /// Also run tests that are on the list of tests that cannot pass.
    #[arg(long)]
    all: bool,
    /// Directory of test servers and logs.
    #[arg(long, default_value = "target/mysqltest")]
    dir: PathBuf,
    /// Directory with a debug build of mariadbd, and of ha_innodb.so in `plugin`.
    #[arg(long)]
    debug: Option<PathBuf>,
    /// Further arguments for mysql-test-run.pl.
    #[arg(last = true)]
    more: Vec<String>,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns true when no test failed unexpectedly.
fn run(args: &Args) -> Result<bool> {
    let home = Home::find()?;
    home.check()?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let list = std::fs::canonicalize(checkout.join("mariadb/mysqltest/excluded.def"))
        .context("cannot find the list of excluded tests")?;
    let excluded = if args.all || args.mode != Mode::PageServer {
        Excluded::default()
    } else {
        excluded::read(&list)?
    };

    files::make_private_dir(&args.dir)?;
    let dir = std::fs::canonicalize(&args.dir)?;
    let place = dir.join(args.mode.to_string());
    let projects = place.join("projects");
    retire(&projects)?;
    files::remove_tree(&place)?;
    files::make_private_dir(&place)?;
    bindir::make(&place.join("bindir"), &home.basedir())?;

    let mut command = command(args, &home, &place, &projects)?;
    let for_runner = excluded.for_runner();
    if !for_runner.is_empty() {
        let list = place.join("excluded.def");
        std::fs::write(&list, for_runner)?;
        command.arg(format!("--skip-test-list={}", list.display()));
    }
    let outcomes = follow(&mut command, &excluded);
    retire(&projects)?;
    let outcomes = outcomes?;
    let verified = verify::Total::read(&projects);
    ensure!(!outcomes.0.is_empty(), "no test of this name was found");
    report(args, &dir, &outcomes, &verified)
}

fn command(args: &Args, home: &Home, place: &Path, projects: &Path) -> Result<Command> {
    let tests = home.share().join("mysql-test");
    let (mariadbd, plugins) = match &args.debug {
        Some(debug) => (debug.join("mariadbd"), debug.join("plugin")),
        None => (home.mariadbd(), home.plugin_dir()),
    };
    for path in [&tests, &mariadbd, &plugins] {
        if !path.exists() {
            bail!("{} does not exist", path.display());
        }
    }
    let mut command = Command::new("perl");
    command
        .arg("mysql-test-run.pl")
        .args(["--force", "--max-test-fail=0", "--retry=2"])
        .args(["--suite-timeout=720", "--testcase-timeout=10"])
        // The check would find that restarts change the epoch and the start LSN.
        .arg("--nocheck-testcases")
        // Copies of sparse files are not sparse.
        .args(["--max-save-datadir=1", "--max-save-core=1"])
        .arg(format!("--suite={}", args.suite))
        .arg(format!("--parallel={}", args.parallel))
        .arg(format!("--vardir={}", place.join("var").display()))
        .args(args.filter.iter().map(|f| format!("--do-test={f}")))
        .args(&args.more)
        .current_dir(std::fs::canonicalize(tests)?)
        .env("MTR_BINDIR", place.join("bindir"))
        .env("LD_LIBRARY_PATH", home.library_path())
        .env(xylem_cli::home::VARIABLE, home.root())
        .env(standin::MODE, args.mode.to_string())
        .env(standin::PROJECTS, projects)
        .env(standin::MARIADBD, std::fs::canonicalize(mariadbd)?)
        .env(standin::PLUGINS, std::fs::canonicalize(plugins)?)
        .env_remove(xylem_cli::state::VARIABLE)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Ok(command)
}

/// Runs the runner, passes its output on and collects the results.
fn follow(command: &mut Command, excluded: &Excluded) -> Result<Outcomes> {
    let mut child = command.spawn().context("cannot run perl")?;
    let said = child.stdout.take().context("no output of the runner")?;
    let mut outcomes = Outcomes::default();
    for line in BufReader::new(said).split(b'\n') {
        let line = line.context("cannot read the runner's output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        outcomes.take(&line, |name| excluded.has(name));
    }
    // The exit status adds nothing to the results in the output.
    child.wait()?;
    Ok(outcomes)
}

fn report(args: &Args, dir: &Path, outcomes: &Outcomes, verified: &verify::Total) -> Result<bool> {
    let results = dir.join("results");
    files::make_private_dir(&results)?;
    let build = if args.debug.is_some() { "-debug" } else { "" };
    let kept = |mode: Mode| results.join(format!("{}-{mode}{build}.txt", args.suite));
    if args.filter.is_none() {
        std::fs::write(kept(args.mode), outcomes.render())?;
    }
    println!("\nsuite {} on {}{build}:", args.suite, args.mode);
    for (what, outcome) in [
        ("passed", Outcome::Passed),
        ("skipped by the test itself", Outcome::Skipped),
        ("disabled by MariaDB", Outcome::Disabled),
        ("excluded, with reasons", Outcome::Excluded),
        ("failed", Outcome::Failed),
    ] {
        println!("{:>6} {what}", outcomes.count(outcome));
    }
    for name in outcomes.of(Outcome::Failed) {
        println!("failed: {name}");
    }
    if args.mode == Mode::PageServer {
        println!(
            "{:>6} page versions of {} projects read back, {} of them wrong",
            verified.pages,
            verified.projects,
            verified.faults.len()
        );
    }
    for fault in &verified.faults {
        println!("wrong: {fault}");
    }
    if let Ok(text) = std::fs::read_to_string(kept(Mode::Stock))
        && args.mode != Mode::Stock
    {
        compare(outcomes, &Outcomes::parse(&text));
    }
    Ok(outcomes.count(Outcome::Failed) == 0 && verified.faults.is_empty())
}

/// Prints the tests whose results differ from stock MariaDB.
fn compare(ours: &Outcomes, stock: &Outcomes) {
    let differ: Vec<_> = ours
        .0
        .iter()
        .filter(|(_, outcome)| **outcome != Outcome::Excluded)
        .filter_map(|(name, outcome)| Some((name, *outcome, *stock.0.get(name)?)))
        .filter(|(_, ours, stock)| ours != stock)
        .collect();
    println!("{} tests with other results than on stock", differ.len());
    for (name, ours, stock) in differ {
        println!("  {name}: {ours:?}, on stock {stock:?}");
    }
}

/// Verifies all projects and stops their page servers.
fn retire(projects: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(projects) else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    for entry in entries {
        let state = StateDir::find(Some(&entry?.path()))?;
        runtime.block_on(standin::retire(&state))?;
    }
    Ok(())
}
