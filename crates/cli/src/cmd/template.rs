//! `xylem template DIR`: a new project that others are copied from.

use crate::app::{App, LOCK_LIMIT};
use crate::args::project::TemplateArgs;
use crate::cmd::down;
use crate::compute::name::ComputeName;
use crate::failure::Failure;
use crate::files;
use crate::home::Home;
use crate::output;
use crate::ports::Wanted;
use crate::project::Project;
use crate::session::Prepared;
use crate::settings::ServerPorts;
use crate::timing::Timer;
use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;
use xylem_datadir::own;
use xylem_types::BranchName;

/// The first port that is tried: away from those that people use.
const PORT_FROM: u16 = 23_300;

/// How long the compute may take to write the list of the pages that its start read, and
/// how often it is looked for. The compute writes the list two seconds after its start.
const LIST_LIMIT: Duration = Duration::from_secs(60);
const LIST_POLL: Duration = Duration::from_millis(20);

/// Runs the command.
///
/// # Errors
/// When DIR is there already, or the bootstrap fails.
pub async fn run(app: &App, args: &TemplateArgs) -> Result<()> {
    let timer = Timer::start(&app.clock);
    let target = std::path::absolute(&args.target).context("cannot tell the current directory")?;
    if target.exists() {
        return Err(Failure::new(
            format!("{} exists already", target.display()),
            "name a new directory, or remove that one",
        ));
    }
    let parent = target.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    // Beside the target, so that it can be renamed into place.
    let work = tempfile::Builder::new()
        .prefix(".xylem-template-")
        .tempdir_in(parent)?;
    let app = App::at(work.path(), app.clock.clone(), app.entropy.clone())?;
    let made = make(&app).await;
    let stopped = down::stop_all(&app).await;
    if made.is_err() || stopped.is_err() {
        keep(work);
    } else {
        // They may be elsewhere.
        files::remove_tree(&app.state.computes())?;
        std::fs::rename(app.state.server_data(), &target)
            .with_context(|| format!("cannot put the template at {}", target.display()))?;
    }
    made?;
    stopped?;
    // The lock file names a server that is gone, and would be copied with the rest.
    let _ = std::fs::remove_file(target.join("lock"));
    output::text_line(&format!(
        "made {} ({:.1} s)",
        target.display(),
        timer.elapsed().as_secs_f64()
    ))
}

/// A project up to its system tables. The compute is started once without a
/// password being set, to prove that the result can be started from, and to leave the
/// list of the pages that a start reads.
async fn make(app: &App) -> Result<()> {
    let home = Home::find()?;
    home.check()?;
    let progress = app.progress();
    let mut project = Project::new(app.now()?);
    project.without_accounts = true;
    let free = |avoid: &[u16]| {
        Wanted {
            what: "the template",
            flag: "",
            address: Ipv4Addr::LOCALHOST.into(),
            explicit: None,
            preferred: PORT_FROM,
        }
        .choose(avoid)
        .map(|choice| choice.port)
    };
    let grpc = free(&[])?;
    let http = free(&[grpc])?;
    project.ports.mysql_port = Some(free(&[grpc, http])?);
    project.ports.server = ServerPorts {
        grpc_port: Some(grpc),
        http_port: Some(http),
    };
    project.save(&app.state)?;
    let prepared = Prepared {
        // A template must not come from a template.
        home: home.without_template(),
        project,
        ports: ServerPorts::default(),
        lock: app.state.lock(LOCK_LIMIT).await?,
    };
    let mut session = prepared.start(app, &progress).await?;
    let main: ComputeName = BranchName::main().into();
    session.compute(app, &main, None, &progress).await?;
    let compute = app.state.compute(&main);
    let list = compute.data().join(own::START_PAGES_FILE);
    let written = async {
        while !list.exists() {
            tokio::time::sleep(LIST_POLL).await;
        }
    };
    match tokio::time::timeout(LIST_LIMIT, written).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Failure::new(
            format!("the compute did not write {}", list.display()),
            format!("see {}", compute.log().display()),
        )),
    }
}

/// Keeps the directory after a failure, for its log files.
fn keep(work: tempfile::TempDir) {
    eprintln!(
        "what was made so far, with its log files, is in {}",
        work.keep().display()
    );
}
