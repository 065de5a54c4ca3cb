//! The `xylem` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    xylem_cli::main()
}
