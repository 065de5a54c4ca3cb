//! `cargo xtask mysqltest`: MariaDB's own test suites, run by MariaDB's own
//! `mysql-test-run.pl`, on servers that keep nothing on their disk.
//!
//! The runner believes that it starts `mariadbd`. What it starts is this
//! program ([`standin`]), which makes each test server a project of its own,
//! throws the data directory away at every restart, and turns into the real
//! `mariadbd`. [`run`] sets that up, starts the runner and reads what it says.

mod bindir;
mod excluded;
mod outcome;
mod run;
mod standin;
mod verify;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    match first.as_deref().and_then(|arg| arg.to_str()) {
        Some(standin::COMMAND) => standin::main(args.collect()),
        // How xylem_cli starts a server: as this very program.
        Some("server" | "__daemon") => xylem_cli::main(),
        _ => run::main(),
    }
}
