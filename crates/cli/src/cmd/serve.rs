//! `xylem server`: the storage roles, in the foreground.

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit};
use xylem_server::config::ServerArgs;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When the settings make no sense, or serving fails.
pub fn run(args: &ServerArgs) -> Result<()> {
    leave_no_core()?;
    let config = xylem_server::config::load(args, &|name| std::env::var(name).ok(), None)?;
    xylem_server::logging::init(&config);
    let runtime = xylem_server::runtime(&config).context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        let shutdown = xylem_server::shutdown_signal().context("cannot wait for signals")?;
        xylem_server::run(config, |_| {}, shutdown).await?;
        Ok(())
    });
    // A thread that still waits for a store that is away ends with the process.
    runtime.shutdown_background();
    ended
}

/// Lets the process leave no core dump, which would hold keys, credentials of the store
/// and pages. `prlimit --core` undoes it.
fn leave_no_core() -> Result<()> {
    let limit = rustix::process::getrlimit(Resource::Core);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    rustix::process::setrlimit(Resource::Core, none).context("cannot limit core dumps")
}
