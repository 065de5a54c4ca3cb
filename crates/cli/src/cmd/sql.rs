//! `xylem sql`: MariaDB's client on a branch.

use crate::app::App;
use crate::args::compute::SqlArgs;
use crate::compute::name::ComputeName;
use crate::compute::record::{ComputeRecord, ComputeState};
use crate::failure::Failure;
use crate::home::Home;
use crate::session::Session;
use anyhow::Result;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use xylem_datadir::own::OWN_USER;

/// Becomes the client, so that its exit status is this command's. Returns only
/// on failure.
///
/// # Errors
/// When the compute cannot be started or the client not executed.
pub async fn run(app: &App, args: &SqlArgs) -> Result<()> {
    if app.json {
        return Err(Failure::usage(
            "sql prints the output of MariaDB's client, which has no JSON form",
            "leave --json out; for machine-readable output use `-- --batch` or `-- --xml`",
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
    // If everything runs nothing needs to be locked or asked.
    if !(server && compute && dir.client_cnf().exists()) {
        let progress = app.progress();
        let mut session = Session::share(app, &progress).await?;
        session.compute(app, &args.compute, None, &progress).await?;
    }
    let client = || {
        let mut option = OsString::from("--defaults-file=");
        option.push(dir.client_cnf());
        let mut command = Command::new(home.client());
        command
            .arg(option)
            .env("LD_LIBRARY_PATH", home.library_path());
        command
    };
    if !names_user(&args.client_args) {
        check_login(app, &args.compute, client())?;
    }
    let mut command = client();
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

/// Whether the client's arguments name an account other than ours.
fn names_user(args: &[OsString]) -> bool {
    args.iter()
        .filter_map(|arg| arg.to_str())
        .any(|arg| arg.starts_with("-u") || arg.starts_with("--user"))
}

/// MariaDB's errors for a login that it refuses.
const DENIED: [&str; 3] = ["ERROR 1045", "ERROR 1698", "ERROR 4151"];

/// Tries to log in, so that the error for a refusal has a hint. The client itself
/// reports any other error.
fn check_login(app: &App, compute: &ComputeName, mut client: Command) -> Result<()> {
    let tried = client
        .arg("--execute=DO 0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output();
    let Ok(tried) = tried else { return Ok(()) };
    let said = String::from_utf8_lossy(&tried.stderr);
    if tried.status.success() || !DENIED.iter().any(|code| said.contains(code)) {
        return Ok(());
    }
    Err(Failure::new(
        format!(
            "xylem's own account {OWN_USER} cannot log in to {} any more ({}): accounts were changed or replaced, as a dump of all databases does",
            compute.described(),
            said.trim()
        ),
        format!(
            "restart the compute, which creates that account anew and changes no other: `{}`, then `{}`",
            app.command(&format!("compute stop {compute}")),
            app.command(&format!("compute start {compute}"))
        ),
    ))
}
