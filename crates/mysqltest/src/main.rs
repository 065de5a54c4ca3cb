//! `cargo xtask mysqltest`: runs MariaDB's own test suites with MariaDB's own
//! `mysql-test-run.pl`, on servers that keep nothing on their disk.
//!
//! Instead of `mariadbd`, the runner starts this program ([`standin`]). The stand-in
//! creates a project for each test server, removes the data directory at every restart,
//! and then executes the real `mariadbd`. [`run`] sets that up, starts the runner and
//! reads its output.

mod bindir;
mod excluded;
mod mode;
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
        // xylem_cli starts a server by running the current program with these arguments.
        Some("server" | "__daemon") => xylem_cli::main(),
        _ => run::main(),
    }
}
