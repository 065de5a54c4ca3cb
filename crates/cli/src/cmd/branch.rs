//! `xylem branch ls|show`.

use crate::app::{App, LOCK_LIMIT};
use crate::args::BranchCommand;
use crate::failure::Failure;
use crate::home::Home;
use crate::output::{self, bytes};
use crate::project::Project;
use crate::report::BranchReport;
use crate::server::{self, WantedPorts};
use anyhow::Result;

/// Runs the command.
///
/// # Errors
/// When the server cannot be started or asked, or there is no such branch.
pub async fn run(app: &App, command: &BranchCommand) -> Result<()> {
    let branches = fetch(app).await?;
    match command {
        BranchCommand::Ls if app.json => output::json(&branches),
        BranchCommand::Ls => output::text_line(&super::status::branches(&branches)),
        BranchCommand::Show(args) => {
            let found = branches
                .into_iter()
                .find(|b| b.name == args.branch.as_str());
            let Some(branch) = found else {
                return Err(Failure::new(
                    format!("there is no branch {}", args.branch),
                    format!(
                        "`{}` shows the branches there are",
                        app.command("branch ls")
                    ),
                ));
            };
            if app.json {
                output::json(&branch)
            } else {
                output::text_line(&text(&branch))
            }
        }
    }
}

/// All branches; the server is started if need be, since it alone knows.
async fn fetch(app: &App) -> Result<Vec<BranchReport>> {
    app.state.require_project()?;
    let progress = app.progress();
    let _lock = app.state.lock(LOCK_LIMIT).await?;
    let mut project = Project::load(&app.state)?;
    let home = Home::find()?;
    let running = server::ensure(
        &app.state,
        &home,
        &mut project,
        WantedPorts::default(),
        &progress,
    )
    .await?;
    Ok(running
        .control
        .branches()
        .await?
        .into_iter()
        .map(BranchReport::from)
        .collect())
}

fn text(branch: &BranchReport) -> String {
    let ancestor = match &branch.ancestor {
        Some(name) => format!("{name} at LSN {}", branch.ancestor_lsn),
        None => "none".to_owned(),
    };
    format!(
        "branch    {}\nid        {}\nancestor  {ancestor}\ncreated   {}\nLSN       {} (applied {}, {} behind)\nepoch     {}\nlog       {}\nlayers    {}",
        branch.name,
        branch.id,
        branch.created_at,
        branch.last_lsn,
        branch.applied_lsn,
        bytes(branch.lag_bytes),
        branch.epoch,
        bytes(branch.log_bytes),
        bytes(branch.layer_bytes),
    )
}
