//! What commands have in common: state directory, installation, lock, and
//! bringing things up.

use crate::args::Global;
use crate::compute::name::ComputeName;
use crate::compute::start::{Started, Starter};
use crate::home::Home;
use crate::progress::Progress;
use crate::project::Project;
use crate::server::{self, Running, WantedPorts};
use crate::state::{Lock, StateDir};
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// How long a command waits for others that change things.
pub const LOCK_LIMIT: Duration = Duration::from_secs(120);

/// What a command works with.
#[derive(Debug)]
pub struct App {
    /// The state directory.
    pub state: StateDir,
    /// JSON was asked for.
    pub json: bool,
    /// The state directory as it was asked for.
    asked: Option<std::path::PathBuf>,
}

impl App {
    /// From the options that every command takes.
    ///
    /// # Errors
    /// When the current directory cannot be told.
    pub fn new(global: &Global) -> Result<App> {
        Ok(App {
            state: StateDir::find(global.dir.as_deref())?,
            json: global.json,
            asked: global.dir.clone(),
        })
    }

    /// How a further command must be typed to mean this state directory.
    pub fn command(&self, rest: &str) -> String {
        let by_env = std::env::var_os(crate::state::VARIABLE).is_some_and(|v| !v.is_empty());
        match &self.asked {
            Some(dir) if !by_env && dir != Path::new(".xylem") => {
                format!(
                    "xylem --dir {} {rest}",
                    shell_word(&self.state.root().to_string_lossy())
                )
            }
            _ => format!("xylem {rest}"),
        }
    }

    /// Progress for this command.
    pub fn progress(&self) -> Progress {
        Progress::new(true)
    }

    /// The server, started if it does not run, with what is needed to change
    /// things.
    ///
    /// # Errors
    /// When there is no project, or the server does not start.
    pub async fn server(&self, progress: &Progress) -> Result<Up> {
        self.state.require_project()?;
        let lock = self.state.lock(LOCK_LIMIT).await?;
        let home = Home::find()?;
        let mut project = Project::load(&self.state)?;
        let running = server::ensure(
            &self.state,
            &home,
            &mut project,
            WantedPorts::default(),
            progress,
        )
        .await?;
        Ok(Up {
            home,
            project,
            running,
            _lock: lock,
        })
    }

    /// Starts the server and the compute `name` as far as they do not run.
    ///
    /// # Errors
    /// When there is no project, or something does not start.
    pub async fn start_compute(
        &self,
        name: &ComputeName,
        port: Option<u16>,
        progress: &Progress,
    ) -> Result<Started> {
        let mut up = self.server(progress).await?;
        self.compute(&up.home, &mut up.project, &up.running, name, port, progress)
            .await
    }

    /// Starts the compute `name` on a server that runs. The caller holds the
    /// lock.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn compute(
        &self,
        home: &Home,
        project: &mut Project,
        running: &Running,
        name: &ComputeName,
        port: Option<u16>,
        progress: &Progress,
    ) -> Result<Started> {
        let started = self
            .starter(home, project, running, progress)
            .start(name, port)
            .await?;
        if let Some(taken) = started.instead_of {
            progress.note(&format!(
                "port {taken} is taken: {} uses {}",
                name.described(),
                started.record.port
            ));
        }
        Ok(started)
    }

    /// What starts computes on a server that runs. The caller holds the lock.
    pub fn starter<'a>(
        &'a self,
        home: &'a Home,
        project: &'a mut Project,
        running: &'a Running,
        progress: &'a Progress,
    ) -> Starter<'a> {
        Starter {
            state: &self.state,
            home,
            project,
            server: &running.record,
            control: &running.control,
            progress,
        }
    }
}

/// A project whose server runs, with the sole right to change it.
#[derive(Debug)]
pub struct Up {
    /// The installation.
    pub home: Home,
    /// The project's settings.
    pub project: Project,
    /// The server.
    pub running: Running,
    _lock: Lock,
}

/// `text` as one word of a shell command.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}
