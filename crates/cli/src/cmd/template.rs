//! `xylem template DIR`: a new project, bootstrapped once, to copy from.

use crate::app::App;
use crate::args::{Global, TemplateArgs};
use crate::cmd::down;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::output;
use crate::ports;
use crate::project::Project;
use crate::server::{self, WantedPorts};
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;
use xylem_types::BranchName;

/// Where ports are looked for: away from those that people use.
const PORT_FROM: u16 = 23_300;

/// Runs the command.
///
/// # Errors
/// When DIR is there already, or the bootstrap fails.
pub async fn run(args: &TemplateArgs) -> Result<()> {
    let begin = Instant::now();
    let target = std::path::absolute(&args.target).context("cannot tell the current directory")?;
    if target.exists() {
        return Err(Failure::new(
            format!("{} is there already", target.display()),
            "name a directory that is not, or remove it",
        ));
    }
    let parent = target.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    // Beside the target, so that it can be renamed into place.
    let work = tempfile::Builder::new()
        .prefix(".xylem-template-")
        .tempdir_in(parent)?;
    let global = Global {
        dir: Some(work.path().to_owned()),
        json: false,
    };
    let app = App::new(&global)?;
    let made = make(&app).await;
    let stopped = down::stop_all(&app.state).await;
    if made.is_err() || stopped.is_err() {
        keep(work);
    } else {
        // They may lie elsewhere.
        files::remove_tree(&app.state.computes())?;
        std::fs::rename(app.state.server_data(), &target)
            .with_context(|| format!("cannot put the template at {}", target.display()))?;
    }
    made?;
    stopped?;
    // The lock file names a server that is gone, and would be copied.
    let _ = std::fs::remove_file(target.join("lock"));
    output::text_line(&format!(
        "made {} ({:.1} s)",
        target.display(),
        begin.elapsed().as_secs_f64()
    ))
}

/// A project up to its system tables. The compute is started once without a
/// password being set, to prove that the result can be started from.
async fn make(app: &App) -> Result<()> {
    let home = Home::find()?;
    home.check()?;
    let progress = app.progress();
    let mut project = Project::new();
    // A template must not come from a template.
    let bare = Home::at(home.root()).without_template();
    project.without_accounts = true;
    let free = |avoid: &[u16]| {
        ports::choose(
            "the template",
            "",
            Ipv4Addr::LOCALHOST.into(),
            None,
            PORT_FROM,
            avoid,
        )
    };
    let grpc = free(&[])?.port;
    let http = free(&[grpc])?.port;
    project.ports.grpc = Some(grpc);
    project.ports.http = Some(http);
    project.ports.mysql = Some(free(&[grpc, http])?.port);
    project.save(&app.state)?;
    let _lock = app.state.lock(crate::app::LOCK_LIMIT).await?;
    let running = server::ensure(
        &app.state,
        &bare,
        &mut project,
        WantedPorts::default(),
        &progress,
    )
    .await?;
    app.compute(
        &bare,
        &mut project,
        &running,
        &BranchName::main().into(),
        None,
        &progress,
    )
    .await?;
    Ok(())
}

/// After a failure what the logs say is wanted, so the directory stays.
fn keep(work: tempfile::TempDir) {
    eprintln!(
        "what was made so far, with the logs, is in {}",
        work.keep().display()
    );
}
