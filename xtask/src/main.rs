//! `cargo xtask`: builds, starts, tests and measures Xylem on a fresh Debian 12 machine.
#![allow(clippy::disallowed_methods, reason = "a build takes real time")]

mod cache;
mod debian;
mod dist;
mod package;
mod packages;
mod plugin;
mod s3server;
mod steps;
mod suite;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::process::{Command, ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, start, test and measure Xylem")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install missing packages, build and start everything, and print how to connect.
    /// Further arguments go to `xylem up`.
    Up {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Install missing packages and build everything into target/dist.
    Build,
    /// Run all checks: formatting, lints, licenses, unit and end-to-end tests.
    Test {
        /// Run only tests whose name contains this (skips formatting, lints and
        /// licenses).
        filter: Option<String>,
    },
    /// Measure Xylem and stock MariaDB in one run. Further arguments go to the harness;
    /// --help lists them.
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Kill processes under load in many rounds, and verify the data after each:
    /// `kills [ROUNDS [SEED [rows|ddl|log]]]`. By default 200 rounds with rows and 200 with
    /// DDL.
    #[command(disable_help_flag = true)]
    Kills {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Load a project through its gateway for `--minutes N`, and fail if the memory, the
    /// descriptors or the threads of a process grow. --help lists the options.
    #[command(disable_help_flag = true)]
    Soak {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run MariaDB's own tests on the page server: `mysqltest SUITE [FILTER]`; --help
    /// lists the options.
    #[command(disable_help_flag = true)]
    Mysqltest {
        /// Use a debug build of MariaDB, which has many more tests.
        #[arg(long)]
        debug: bool,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Build an archive that runs on a minimal Debian 12.
    Package,
    /// Check that the patches apply to MariaDB's source, and print the path of the
    /// patched source.
    Source,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args.task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Up { args } => {
            let dist = dist::build()?;
            pass_through(Command::new(dist.bin("xylem")).arg("up").args(args))
        }
        Task::Build => {
            let dist = dist::build()?;
            println!("built into {}", dist.root.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Test { filter } => {
            let dist = dist::build()?;
            suite::run(&dist, filter.as_deref())?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Bench { args } => harness("xylem-bench", "xylem-bench", &args),
        Task::Kills { args } => harness("xylem-e2e", "xylem-kills", &args),
        Task::Soak { args } => harness("xylem-e2e", "xylem-soak", &args),
        Task::Mysqltest { debug, mut args } => {
            if debug {
                packages::install()?;
                let server = plugin::build_debug_server(&debian::mariadb()?)?;
                args.splice(0..0, ["--debug".to_owned(), server.display().to_string()]);
            }
            harness("xylem-mysqltest", "xylem-mysqltest", &args)
        }
        Task::Package => {
            println!("{}", package::make(&dist::build()?)?.display());
            Ok(ExitCode::SUCCESS)
        }
        Task::Source => {
            packages::install()?;
            println!("{}", plugin::patched_source(&debian::mariadb()?)?.display());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Builds everything and runs a program of a harness package on it. Its help needs only the
/// program.
fn harness(package: &str, program: &str, args: &[String]) -> Result<ExitCode> {
    let mut run = steps::cargo();
    run.args(["run", "--release", "--quiet", "--package", package]);
    run.args(["--bin", program, "--"]);
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        return pass_through(run.args(args));
    }
    let dist = dist::build()?;
    let weed = s3server::weed()?;
    run.env(s3server::VARIABLE, weed);
    pass_through(dist.environment(&mut run).args(args))
}

/// Runs a command on this terminal and returns its exit status.
fn pass_through(command: &mut Command) -> Result<ExitCode> {
    let program = command.get_program().to_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", program.display()))?;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}
