//! `xylem`, the command line: projects, branches and computes on one machine.
//!
//! The binary is only [`main`]; everything else is here, where tests reach it.

pub mod account;
pub mod api;
pub mod app;
pub mod args;
pub mod cmd;
pub mod compute;
pub mod control;
pub mod doctor;
pub mod export;
pub mod failure;
pub mod files;
pub mod gateway;
pub mod history;
pub mod home;
pub mod import;
pub mod inspect;
pub mod keys;
pub mod lock;
pub mod log_file;
pub mod meter;
pub mod moment;
pub mod output;
pub mod ports;
pub mod process;
pub mod programs;
pub mod progress;
pub mod project;
pub mod remote;
pub mod report;
pub mod role;
pub mod run_as;
pub mod server;
pub mod session;
pub mod settings;
pub mod spawn;
pub mod state;
pub mod stock;
pub mod timing;
pub mod work;

#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use args::{Cli, Command};
use clap::Parser;
use remote::only_local;
use std::process::ExitCode;
use xylem_ambient::{Clock, Entropy};

/// Reads the command line, runs the command, and prints its errors. The one place
/// that asks the system for its clock and randomness.
pub fn main() -> ExitCode {
    // Exits with status 2 itself on wrong usage.
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", failure::describe(&error));
            ExitCode::from(failure::exit_status(&error))
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let app = app::App::new(&cli.global, Clock::system(), Entropy::system())?;
    match cli.command {
        Command::Daemon(args) => {
            let Some((program, rest)) = args.command.split_first() else {
                return Ok(());
            };
            spawn::become_daemon(&args, program, rest)
        }
        Command::Server(args) => cmd::serve::run(&args),
        Command::Gateway(args) => {
            only_local(&app, "gateway", THERE)?;
            cmd::gateway::run(app, &args)
        }
        Command::Api(args) => {
            only_local(&app, "api", THERE)?;
            cmd::api::run(app, &args)
        }
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            runtime.block_on(dispatch(app, command))
        }
    }
}

/// What to do where a command does not work by `--server`.
const THERE: &str = "run it there, or leave --server out";

/// Refuses what only works on the machine of the project.
fn check_local(app: &app::App, command: &Command) -> Result<()> {
    let name = match command {
        Command::Sql(_) => {
            return only_local(
                app,
                "sql",
                "connect MariaDB's client to the gateway there, as user@branch: `xylem status` shows its address",
            );
        }
        Command::Up(_) => "up",
        Command::Down => "down",
        Command::Doctor => "doctor",
        Command::Scrub(_) => "scrub",
        Command::Inspect(_) => "inspect",
        Command::Template(_) => "template",
        _ => return Ok(()),
    };
    only_local(app, name, THERE)
}

async fn dispatch(app: app::App, command: Command) -> Result<()> {
    check_local(&app, &command)?;
    match command {
        Command::Up(args) => cmd::up::run(app, &args).await,
        Command::Down => cmd::down::run(&app).await,
        Command::Status => cmd::status::run(&app).await,
        Command::Sql(args) => cmd::sql::run(&app, &args).await,
        Command::Compute(command) => cmd::compute::run(&app, &command).await,
        Command::Branch(command) => cmd::branch::run(&app, &command).await,
        Command::Doctor => cmd::doctor::run(&app).await,
        Command::Export(args) => cmd::export::run(&app, &args).await,
        Command::Import(args) => cmd::import::run(app, &args).await,
        Command::Scrub(args) => cmd::scrub::run(&app, &args).await,
        Command::Inspect(command) => cmd::inspect::run(&app, &command).await,
        Command::Token(command) => cmd::token::run(&app, &command).await,
        Command::Template(args) => cmd::template::run(&app, &args).await,
        // Done before there is a runtime.
        Command::Server(_) | Command::Gateway(_) | Command::Api(_) | Command::Daemon(_) => Ok(()),
    }
}
