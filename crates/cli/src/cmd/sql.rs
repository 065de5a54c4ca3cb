//! `xylem sql`: MariaDB's client on a branch.

use crate::app::App;
use crate::args::SqlArgs;
use crate::compute::record::{ComputeRecord, ComputeState};
use crate::failure::Failure;
use crate::home::Home;
use anyhow::Result;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Becomes the client, so that its exit status is this command's. Returns only
/// on failure.
///
/// # Errors
/// When the compute cannot be started or the client not executed.
pub async fn run(app: &App, args: &SqlArgs) -> Result<()> {
    if app.json {
        return Err(Failure::usage(
            "sql prints what MariaDB's client prints, which has no JSON form",
            "leave --json out; for a form that programs can read try `-- --batch` or `-- --xml`",
        ));
    }
    app.state.require_project()?;
    let home = Home::find()?;
    let dir = app.state.compute(&args.compute);
    let server = app
        .state
        .server_record()
        .is_some_and(|r| r.process.is_alive());
    let compute = ComputeRecord::load(&dir).is_some_and(|r| r.state() == ComputeState::Running);
    // When all is up nothing need be locked or asked.
    if !(server && compute && dir.client_cnf().exists()) {
        app.start_compute(&args.compute, None, &app.progress())
            .await?;
    }
    let mut option = OsString::from("--defaults-file=");
    option.push(dir.client_cnf());
    let mut command = Command::new(home.client());
    command
        .arg(option)
        .env("LD_LIBRARY_PATH", home.library_path());
    if let Some(sql) = &args.execute {
        command.arg(format!("--execute={sql}"));
    }
    command.args(&args.client_args);
    let error = command.exec();
    Err(Failure::new(
        format!("cannot execute {}: {error}", home.client().display()),
        "`xylem doctor` checks the installation",
    ))
}
