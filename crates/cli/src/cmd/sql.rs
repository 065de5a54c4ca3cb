//! `xylem sql`: MariaDB's client on a branch.

use crate::app::App;
use crate::args::SqlArgs;
use crate::compute::account::OWN_USER;
use crate::compute::name::ComputeName;
use crate::compute::record::{ComputeRecord, ComputeState};
use crate::failure::Failure;
use crate::home::Home;
use anyhow::Result;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

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

/// What MariaDB says to whom it does not let in.
const DENIED: [&str; 3] = ["ERROR 1045", "ERROR 1698", "ERROR 4151"];

/// Tries to log in, so that a refusal comes with the way back in. Any other
/// trouble is the client's to tell.
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
            "the account {OWN_USER}, which xylem itself uses, cannot log in to {} any more ({}): its accounts were changed or replaced, as by a dump of all databases",
            compute.described(),
            said.trim()
        ),
        format!(
            "start it again, which makes that account anew and changes no other: `{}`, then `{}`",
            app.command(&format!("compute stop {compute}")),
            app.command(&format!("compute start {compute}"))
        ),
    ))
}
