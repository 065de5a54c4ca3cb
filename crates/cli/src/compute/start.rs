//! Starting a compute: attach to the branch, make the system tables of an empty
//! one, run mariadbd.

use super::host::Host;
use super::name::ComputeName;
use super::record::{ComputeRecord, ComputeState, Phase};
use super::run::PortTaken;
use super::starter::{Start, Started, Starter};
use super::{decoy, port, ready, stop};
use crate::app::App;
use crate::failure::{Failure, Kind};
use crate::files;
use crate::moment::Moment;
use crate::ports::Choice;
use crate::project::Project;
use crate::state::ComputeDir;
use crate::timing::Timer;
use anyhow::{Context, Result, ensure};
use xylem_proto::control::{AttachResponse, Branch};
use xylem_types::BranchName;

/// How often another port is tried when the one chosen is taken meanwhile.
const PORT_TRIES: usize = 20;

/// A start that was asked for.
struct Request<'a> {
    name: &'a ComputeName,
    /// The port that people asked for.
    port: Option<u16>,
    /// The branch's id, if clients of the gateway have named a moment of it.
    moment_of: Option<&'a str>,
    timer: Timer,
}

impl Starter<'_> {
    /// Starts the compute `name` unless it runs, on `port` if given. A read-only
    /// compute must have been started before.
    ///
    /// # Errors
    /// When something is missing, the server refuses, or mariadbd ends.
    pub async fn start(&mut self, name: &ComputeName, port: Option<u16>) -> Result<Started> {
        let timer = Timer::start(&self.app.clock);
        let dir = self.app.state.compute(name);
        let _alone = self.lock.compute(name).await?;
        let branch = self.branch_of(name).await?;
        let mut before = ComputeRecord::load(&dir);
        let moment_of = before.as_ref().and_then(|record| record.moment_of.clone());
        let request = Request {
            name,
            port,
            moment_of: moment_of.as_deref(),
            timer,
        };
        if let Some(record) = before.as_ref().filter(|r| r.process.is_alive()) {
            if record.branch_id == branch.id {
                return running(&request, &dir, record).await;
            }
            // It works on a branch that had this name once, and cannot write.
            stop::stop(&self.app.state, name).await?;
            before = ComputeRecord::load(&dir);
        }
        self.bring_up(&request, &branch, before.as_ref()).await
    }

    /// Starts a further compute that shows `branch` at `at`, or now, and accepts no
    /// writes.
    ///
    /// # Errors
    /// When the moment lies outside the branch's history, and as for
    /// [`Starter::start`].
    pub async fn start_reader(
        &mut self,
        branch: &BranchName,
        at: Option<Moment>,
        port: Option<u16>,
    ) -> Result<Started> {
        let timer = Timer::start(&self.app.clock);
        self.home.check()?;
        let lease = self.control.create_lease(branch, at).await?;
        self.read(lease, None, port, timer).await
    }

    /// As [`Starter::start_reader`], for clients of the gateway who have named that moment.
    /// `id` is the branch's, which may have been renamed.
    ///
    /// # Errors
    /// As for [`Starter::start_reader`].
    pub async fn start_moment(
        &mut self,
        branch: &BranchName,
        id: &str,
        at: Option<Moment>,
    ) -> Result<Started> {
        let timer = Timer::start(&self.app.clock);
        self.home.check()?;
        let lease = self.control.create_lease(&format!("id:{id}"), at).await?;
        let started = self.read(lease, Some(id), None, timer).await?;
        ensure!(
            started.name.branch() == branch,
            "branch {branch} was renamed meanwhile"
        );
        Ok(started)
    }

    /// Starts the compute of a lease that was just made.
    async fn read(
        &mut self,
        lease: Branch,
        moment_of: Option<&str>,
        port: Option<u16>,
        timer: Timer,
    ) -> Result<Started> {
        let started = self.read_leased(&lease, moment_of, port, timer).await;
        if started.is_err()
            && let Err(error) = self.control.remove_branch(&lease.name).await
        {
            self.progress.note(&format!(
                "the server removes {} after a while: {error:#}",
                lease.name
            ));
        }
        started
    }

    async fn read_leased(
        &mut self,
        lease: &Branch,
        moment_of: Option<&str>,
        port: Option<u16>,
        timer: Timer,
    ) -> Result<Started> {
        let name = ComputeName::parse(&lease.name)
            .map_err(|error| anyhow::anyhow!("the server made a lease: {error}"))?;
        let _alone = self.lock.compute(&name).await?;
        let state = &self.app.state;
        // An earlier compute of that name has no branch any more.
        stop::stop(state, &name).await?;
        let dir = state.compute(&name);
        let _ = std::fs::remove_file(dir.record_file());
        let request = Request {
            name: &name,
            port,
            moment_of,
            timer,
        };
        let started = self.bring_up(&request, lease, None).await;
        if started.is_err() && ComputeRecord::load(&dir).is_none() {
            // mariadbd was not executed, and has left no log. Nobody else removes this.
            files::remove_tree(dir.root())?;
            self.app.state.forget_lock(&name);
        }
        started
    }

    /// The branch that the compute `name` works on.
    async fn branch_of(&self, name: &ComputeName) -> Result<Branch> {
        if !name.is_reader() {
            return self.control.branch(name).await;
        }
        match self.control.find_branch(name).await? {
            Some(branch) => Ok(branch),
            None => Err(Failure::of(
                Kind::NotFound,
                format!("there is no read-only compute {name}, or it was down for too long"),
                format!(
                    "`xylem compute ls` lists the computes; `xylem compute start {} --read-only` starts another",
                    name.branch()
                ),
            )),
        }
    }

    async fn bring_up(
        &mut self,
        request: &Request<'_>,
        branch: &Branch,
        before: Option<&ComputeRecord>,
    ) -> Result<Started> {
        self.home.check()?;
        let (state, name) = (&self.app.state, request.name);
        let host = Host::prepare(state, self.home, self.project, name).await?;
        let mut taken = Vec::new();
        loop {
            let choice = port::choose(state, self.project, name, before, request.port, &taken)?;
            match self.try_on(request, branch, choice, &host).await {
                // It was taken after it was found free.
                Err(error)
                    if request.port.is_none()
                        && taken.len() < PORT_TRIES
                        && error.downcast_ref::<PortTaken>().is_some() =>
                {
                    taken.push(choice.port);
                }
                started => return started,
            }
        }
    }

    async fn try_on(
        &mut self,
        request: &Request<'_>,
        branch: &Branch,
        choice: Choice,
        host: &Host,
    ) -> Result<Started> {
        let name = request.name;
        let start = |attached: AttachResponse, at_lsn: Option<u64>, app: &App| Start {
            name,
            dir: app.state.compute(name),
            branch: format!("id:{}", attached.branch_id),
            port: choice.port,
            attached,
            at_lsn,
            moment_of: request.moment_of,
            host,
        };
        self.progress.say(format!("attaching to branch {name}"));
        let mut attached = self.attach(name, host).await?;
        if attached.empty {
            self.fill(&start(attached, None, self.app)).await?;
            attached = self.attach(name, host).await?;
            if attached.empty {
                return Err(self.still_empty(name));
            }
        }
        let at_lsn = branch.lease.then_some(branch.branch_point_lsn);
        let record = self.run(&start(attached, at_lsn, self.app)).await?;
        self.remember_port(name, choice.port)?;
        Ok(Started {
            name: name.clone(),
            record,
            already: false,
            instead_of: choice.instead_of,
            took: request.timer.elapsed(),
        })
    }

    /// Attaches to the branch that has the name now. The compute's directories are made
    /// meanwhile.
    async fn attach(&self, name: &ComputeName, host: &Host) -> Result<AttachResponse> {
        let (making, dir) = (host.clone(), self.app.state.compute(name));
        let made = tokio::task::spawn_blocking(move || making.fresh(&dir));
        let attached = self.control.attach(name).await;
        made.await.context("cannot wait for a thread")??;
        attached
    }

    fn still_empty(&self, name: &ComputeName) -> anyhow::Error {
        let state = &self.app.state;
        Failure::new(
            format!("branch {name} is still empty after its system tables were created"),
            format!(
                "see {} and {}",
                state.compute(name).log().display(),
                state.server_log().display()
            ),
        )
    }

    fn remember_port(&mut self, name: &ComputeName, port: u16) -> Result<()> {
        if !name.is_main() || self.project.ports.mysql_port == Some(port) {
            return Ok(());
        }
        let keep = |project: &mut Project| project.ports.mysql_port = Some(port);
        self.project.update(&self.app.state, keep)
    }
}

/// A compute that runs already, or is about to.
async fn running(
    request: &Request<'_>,
    dir: &ComputeDir,
    record: &ComputeRecord,
) -> Result<Started> {
    let name = request.name;
    if let Some(port) = request.port.filter(|port| *port != record.port) {
        return Err(Failure::of(
            Kind::Conflict,
            format!(
                "{} runs already, on port {} and not {port}",
                name.described(),
                record.port
            ),
            format!("stop it first: `xylem compute stop {name}`"),
        ));
    }
    let mut record = record.clone();
    if record.phase != Phase::Running || record.state() != ComputeState::Running {
        ready::wait(record.process, &record.socket, &dir.log(), record.log_from).await?;
        decoy::put(&dir.data())?;
        record.is_up();
        record.save(dir)?;
    }
    Ok(Started {
        name: name.clone(),
        record,
        already: true,
        instead_of: None,
        took: request.timer.elapsed(),
    })
}
