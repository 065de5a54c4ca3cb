//! The computes of a project, as the gateway sees them: found by their branch, and started
//! if they do not run.

use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{ComputeRecord, Phase};
use crate::control::Control;
use crate::failure::describe;
use crate::session::Prepared;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore};
use xylem_gateway::{Computes, Reached, Refusal};
use xylem_types::BranchName;

/// The wait before a compute that did not start is started again, the first time. It
/// doubles each time.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long a list of branches counts for a name that is not in it.
const KNOWN: Duration = Duration::from_secs(1);
/// Starts at a time. Further ones wait.
const STARTS_MAX: usize = 8;
/// How long a start waits for other commands that change the project.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// Failures are forgotten beyond this number of branches, whose names clients may make up.
const GATES_MAX: usize = 1000;
/// The most branches that an error names.
const NAMES_MAX: usize = 20;

/// The computes of a project.
pub struct Branches {
    app: App,
    /// The branches whose computes are being started, or did not start.
    gates: Mutex<HashMap<String, Gate>>,
    /// The branches that there were at this time.
    known: Mutex<Option<(Instant, Vec<String>)>>,
    /// Starts at a time. Each holds the lock on the state directory for its length.
    starts: Semaphore,
}

/// Lets one caller start a compute; the others wait for it.
type Gate = Arc<Mutex<Option<Failed>>>;

/// A start that failed.
struct Failed {
    times: u32,
    /// No other attempt before this.
    until: Instant,
    refusal: Refusal,
}

impl Branches {
    /// The computes of the project of `app`.
    pub fn new(app: App) -> Branches {
        Branches {
            app,
            gates: Mutex::default(),
            known: Mutex::default(),
            starts: Semaphore::new(STARTS_MAX),
        }
    }

    /// The compute of a branch, if it runs. One that is being started does not yet.
    fn running(&self, name: &ComputeName) -> Option<Reached> {
        let record = ComputeRecord::load(&self.app.state.compute(name))?;
        let ready = record.phase == Phase::Running && record.process.is_alive();
        let address: IpAddr = record.host.parse().ok()?;
        ready.then(|| Reached {
            branch: name.to_string(),
            address: SocketAddr::new(address, record.port),
        })
    }

    async fn find(&self, branch: Option<&str>, from: IpAddr) -> Result<Reached, Refusal> {
        let name = match branch {
            None => BranchName::main(),
            Some(text) => BranchName::parse(text)
                .map_err(|why| Refusal::no_branch(format!("Unknown branch '{text}': {why}")))?,
        };
        let name = ComputeName::from(name);
        if let Some(reached) = self.running(&name) {
            return Ok(reached);
        }
        self.check_exists(&name, from).await?;
        let key = name.to_string();
        let gate = {
            let mut gates = self.gates.lock().await;
            if gates.len() >= GATES_MAX {
                gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            }
            Arc::clone(gates.entry(key.clone()).or_default())
        };
        let mut outcome = self.wake(&name, &gate).await;
        if outcome.is_ok() {
            let mut gates = self.gates.lock().await;
            if gates
                .get(&key)
                .is_some_and(|known| Arc::ptr_eq(known, &gate))
            {
                gates.remove(&key);
            }
        }
        if let Err(refusal) = &mut outcome
            && !from.is_loopback()
        {
            // The reason has paths and lines of logs in it.
            refusal.message = format!("The compute of branch '{name}' does not start").into();
        }
        outcome
    }

    /// Refuses names of branches that do not exist, without the lock on the state
    /// directory: anybody may make names up. Lists the branches at most once a second.
    async fn check_exists(&self, name: &ComputeName, from: IpAddr) -> Result<(), Refusal> {
        let mut known = self.known.lock().await;
        let wanted = name.to_string();
        let fresh = |at: &Instant| self.app.clock.instant() < *at + KNOWN;
        match &*known {
            Some((_, names)) if names.contains(&wanted) => return Ok(()),
            Some((at, _)) if fresh(at) => {}
            _ => match self.list().await {
                Ok(names) => *known = Some((self.app.clock.instant(), names)),
                // Its start begins with that of the server, and says what is wrong.
                Err(_) => return Ok(()),
            },
        }
        let names = known.as_ref().map_or(&[][..], |(_, names)| names);
        if names.contains(&wanted) {
            return Ok(());
        }
        let mut message = format!("Unknown branch '{wanted}'");
        // Names tell a stranger what there is.
        if from.is_loopback() {
            let shown = names.len().min(NAMES_MAX);
            message += &format!("; there are: {}", names[..shown].join(", "));
            if names.len() > shown {
                message += &format!(" and {} others", names.len() - shown);
            }
        }
        Err(Refusal::no_branch(message))
    }

    /// The names of all branches, from a server that runs.
    async fn list(&self) -> Result<Vec<String>> {
        let record = self.app.state.server_record().context("no server")?;
        let control = Control::of(&self.app, &record).await?;
        let branches = control.branches(false).await?;
        Ok(branches.into_iter().map(|branch| branch.name).collect())
    }

    /// Starts a compute, unless another caller just did or failed to.
    async fn wake(&self, name: &ComputeName, gate: &Gate) -> Result<Reached, Refusal> {
        let mut failed = gate.lock().await;
        if let Some(reached) = self.running(name) {
            return Ok(reached);
        }
        let clock = &self.app.clock;
        let times = match &*failed {
            Some(last) if clock.instant() < last.until => return Err(last.refusal.clone()),
            Some(last) => last.times,
            None => 0,
        };
        let Ok(_turn) = self.starts.acquire().await else {
            return Err(Refusal::gone("The gateway is stopping"));
        };
        let (app, wanted) = (self.app.clone(), name.clone());
        // A start reads and writes files, and may take seconds where there is trouble.
        let started = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            runtime.block_on(start(&app, &wanted))
        });
        let refusal = match started.await {
            Ok(Ok(Ok(()))) => match self.running(name) {
                Some(reached) => {
                    *failed = None;
                    return Ok(reached);
                }
                None => Refusal::gone(format!(
                    "The compute of branch '{name}' has ended; try again"
                )),
            },
            // Another name, or the same in a moment, may be right.
            Ok(Ok(Err(refusal))) => return Err(refusal),
            Ok(Err(error)) => Refusal::gone(format!(
                "The compute of branch '{name}' does not start: {}",
                describe(&error)
                    .trim_start_matches("error: ")
                    .replace('\n', " ")
            )),
            Err(error) => Refusal::gone(format!("The start of branch '{name}' failed: {error}")),
        };
        let wait = BACKOFF.saturating_mul(1 << times.min(6)).min(BACKOFF_MAX);
        tracing::warn!(branch = %name, %refusal, "a compute does not start; the next attempt is in {} s or later", wait.as_secs());
        *failed = Some(Failed {
            times: times + 1,
            until: clock.instant() + wait,
            refusal: refusal.clone(),
        });
        Err(refusal)
    }
}

/// Starts the compute of a branch. The inner error is for a project that another command
/// is changing: nothing is wrong with the branch.
async fn start(app: &App, name: &ComputeName) -> Result<Result<(), Refusal>> {
    let progress = app.progress();
    app.state.require_project()?;
    let lock = match app.state.lock(LOCK_LIMIT).await {
        Ok(lock) => lock,
        Err(error) => {
            let why = format!("Branch '{name}' cannot be started now: {error:#}; try again");
            return Ok(Err(Refusal::gone(why)));
        }
    };
    let prepared = Prepared::locked(app, lock)?;
    let mut session = prepared.start(app, &progress).await?;
    let started = session.compute(app, name, None, &progress).await?;
    if !started.already {
        let took_ms = started.took.as_millis() as u64;
        tracing::info!(branch = %name, took_ms, "started a compute for a client");
    }
    Ok(Ok(()))
}

impl Computes for Branches {
    fn reach<'a>(
        &'a self,
        branch: Option<&'a str>,
        from: IpAddr,
    ) -> futures::future::BoxFuture<'a, Result<Reached, Refusal>> {
        Box::pin(self.find(branch, from))
    }
}
