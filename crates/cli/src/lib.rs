//! `xylem`, the command line: projects, branches and computes on one machine.
//!
//! The binary is only [`main`]; everything else is here, where tests reach it.

pub mod app;
pub mod args;
pub mod cmd;
pub mod compute;
pub mod control;
pub mod datadir;
pub mod doctor;
pub mod failure;
pub mod files;
pub mod home;
pub mod inspect;
pub mod moment;
pub mod output;
pub mod ports;
pub mod proc;
pub mod programs;
pub mod progress;
pub mod project;
pub mod report;
pub mod server;
pub mod state;
pub mod user;

#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use args::{Cli, Command};
use clap::Parser;
use std::process::ExitCode;

/// Reads the command line, does what it says, tells how it went.
pub fn main() -> ExitCode {
    // Ends with status 2 itself when the command line makes no sense.
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
    let app = app::App::new(&cli.global)?;
    match cli.command {
        Command::Daemon(args) => {
            let Some((program, rest)) = args.command.split_first() else {
                return Ok(());
            };
            proc::become_daemon(&args.env, args.user, args.group, program, rest)
        }
        Command::Server(args) => cmd::serve::run(&args),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            runtime.block_on(dispatch(app, command))
        }
    }
}

async fn dispatch(app: app::App, command: Command) -> Result<()> {
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
        Command::Template(args) => cmd::template::run(&args).await,
        // Done before there is a runtime.
        Command::Server(_) | Command::Daemon(_) => Ok(()),
    }
}
