//! A project whose server runs, with the right to change it.

use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::starter::{Started, Starter};
use crate::control::Control;
use crate::home::Home;
use crate::lock::Lock;
use crate::progress::Progress;
use crate::project::Project;
use crate::server::{self, Running};
use crate::settings::ServerPorts;
use anyhow::Result;

/// How often the server is started for a command that shares the project, and has ended again
/// before that command has it.
const SHARE_TRIES: usize = 3;

/// A project at work.
#[derive(Debug)]
pub struct Session {
    /// The installation.
    pub home: Home,
    /// The project's settings.
    pub project: Project,
    /// The server.
    pub running: Running,
    /// Asks the server in the name of the caller, whose rights may be fewer than the
    /// owner's.
    pub caller: Control,
    lock: Lock,
}

/// A project whose server is to be started.
#[derive(Debug)]
pub struct Prepared {
    /// The installation.
    pub home: Home,
    /// The project's settings.
    pub project: Project,
    /// The ports that the server must have.
    pub ports: ServerPorts,
    /// The lock on the state directory.
    pub lock: Lock,
}

impl Prepared {
    /// The project of the state directory, locked.
    ///
    /// # Errors
    /// When there is none, or another command keeps it locked.
    pub async fn load(app: &App) -> Result<Prepared> {
        app.state.require_project()?;
        Prepared::locked(app, app.lock().await?)
    }

    /// The project of the state directory, of which the caller has the lock.
    ///
    /// # Errors
    /// When there is none.
    pub fn locked(app: &App, lock: Lock) -> Result<Prepared> {
        Ok(Prepared {
            lock,
            home: Home::find()?,
            project: Project::load(&app.state)?,
            ports: ServerPorts::default(),
        })
    }

    /// Starts the server unless it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(mut self, app: &App, progress: &Progress) -> Result<Session> {
        let project = &mut self.project;
        let running = server::ensure(app, &self.home, project, self.ports, progress).await?;
        Ok(self.session(running))
    }

    fn session(self, running: Running) -> Session {
        Session {
            home: self.home,
            project: self.project,
            caller: running.control.clone(),
            running,
            lock: self.lock,
        }
    }
}

impl Session {
    /// Starts the server of the state directory's project unless it runs.
    ///
    /// # Errors
    /// When there is no project, or the server does not start.
    pub async fn open(app: &App, progress: &Progress) -> Result<Session> {
        Prepared::load(app).await?.start(app, progress).await
    }

    /// As [`Session::open`], for commands that change single computes or add branches: others
    /// may do so at the same time.
    ///
    /// # Errors
    /// As for [`Session::open`].
    pub async fn share(app: &App, progress: &Progress) -> Result<Session> {
        app.state.require_project()?;
        for _ in 0..SHARE_TRIES {
            let prepared = Prepared::locked(app, app.share().await?)?;
            if let Some(running) = server::running(app, prepared.ports, progress).await? {
                return Ok(prepared.session(running));
            }
            drop(prepared);
            // Only a command that has the project alone may start the server. Others are not
            // kept waiting for what comes after.
            drop(Session::open(app, progress).await?);
        }
        Session::open(app, progress).await
    }

    /// Starts the compute `name` unless it runs.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn compute(
        &mut self,
        app: &App,
        name: &ComputeName,
        port: Option<u16>,
        progress: &Progress,
    ) -> Result<Started> {
        let started = self.starter(app, progress).start(name, port).await?;
        if let Some(taken) = started.instead_of {
            progress.note(&format!(
                "port {taken} is taken: {} uses {}",
                name.described(),
                started.record.port
            ));
        }
        Ok(started)
    }

    /// Starts computes.
    pub fn starter<'a>(&'a mut self, app: &'a App, progress: &'a Progress) -> Starter<'a> {
        Starter {
            app,
            lock: &self.lock,
            home: &self.home,
            project: &mut self.project,
            server: &self.running.record,
            control: &self.running.control,
            progress,
        }
    }
}

/// A connection to the project's server, which is started unless it runs. The
/// lock is not held when this returns.
///
/// # Errors
/// As for [`Session::open`].
pub async fn connect(app: &App, progress: &Progress) -> Result<Control> {
    Ok(Session::share(app, progress).await?.running.control)
}
