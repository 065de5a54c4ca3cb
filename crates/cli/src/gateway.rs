//! The computes of a project, as the gateway sees them: found by their branch, and started
//! if they do not run.

pub mod metrics;
pub(crate) mod moments;

use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord, Phase};
use crate::compute::stop;
use crate::control::Control;
use crate::failure::{self, Kind, describe};
use crate::files::SECRET;
use crate::process::Process;
use crate::project::Project;
use crate::session::Session;
use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use moments::At;
use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore};
use xylem_datadir::own::OWN_USER;
use xylem_gateway::{Computes, MOMENT, OwnWay, Reached, Refusal, Seen, Sleep};
use xylem_types::BranchName;

/// The wait before a compute that did not start is started again, the first time. It
/// doubles each time.
const BACKOFF: Duration = Duration::from_secs(1);
/// The longest such wait.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The shortest time between two lists of branches.
const KNOWN: Duration = Duration::from_millis(50);
/// Starts at a time. Further ones wait.
const STARTS_MAX: usize = 8;
/// Those of them that are of computes at moments.
const MOMENT_STARTS_MAX: usize = 2;
/// How long a start waits for other commands that change the project.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// How long the end of a compute that nobody uses waits for them: its clients wait meanwhile.
const SUSPEND_LOCK_LIMIT: Duration = Duration::from_secs(1);
/// Failures are forgotten beyond this number of branches, whose names clients may make up.
const GATES_MAX: usize = 1000;
/// The most branches that an error names.
const NAMES_MAX: usize = 20;

/// The computes of a project.
pub struct Branches {
    app: App,
    /// The branch of clients that name none.
    main: BranchName,
    /// The branches whose computes are being started, or did not start.
    gates: Mutex<HashMap<String, Gate>>,
    /// The branches that there were, and when the list of them was begun.
    known: Mutex<Option<(Instant, Vec<String>)>>,
    /// Held by the one gateway of the state directory that puts computes to sleep: another
    /// one's sessions look like any client's.
    bedtime: OnceLock<File>,
    /// Starts at a time.
    starts: Semaphore,
    /// Starts of computes at moments at a time. They leave most of [`Branches::starts`] to
    /// branches.
    moment_starts: Semaphore,
}

/// A compute, as a client names it.
#[derive(Clone, Debug)]
enum Wanted {
    /// The compute of a branch.
    Branch(ComputeName),
    /// A read-only one.
    Moment(At),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Branch(name) => name.fmt(f),
            Wanted::Moment(at) => at.fmt(f),
        }
    }
}

impl Wanted {
    /// Reads the name of a branch, or that of a moment with its LSN.
    fn parse(name: &str) -> Result<Wanted, Refusal> {
        if let Some(at) = At::parse(name) {
            return Ok(Wanted::Moment(at));
        }
        let branch = BranchName::parse(name)
            .map_err(|why| Refusal::no_branch(format!("Unknown branch '{name}': {why}")))?;
        Ok(Wanted::Branch(branch.into()))
    }

    fn branch(&self) -> &BranchName {
        match self {
            Wanted::Branch(name) => name.branch(),
            Wanted::Moment(at) => &at.branch,
        }
    }
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
    pub fn new(mut app: App) -> Branches {
        app.lock_limit = LOCK_LIMIT;
        Branches {
            app,
            main: BranchName::main(),
            gates: Mutex::default(),
            bedtime: OnceLock::new(),
            known: Mutex::default(),
            starts: Semaphore::new(STARTS_MAX),
            moment_starts: Semaphore::new(MOMENT_STARTS_MAX),
        }
    }

    /// The compute, if it runs. One that is being started does not yet. `of` is the id of
    /// the branch of a moment.
    fn running(&self, wanted: &Wanted, of: Option<&str>) -> Option<Reached> {
        let name = match wanted {
            Wanted::Branch(name) => name,
            Wanted::Moment(at) => return self.running_at(at, of),
        };
        let record = ComputeRecord::load(&self.app.state.compute(name))?;
        let ready = record.phase == Phase::Running && record.process.is_alive();
        ready.then(|| self.reached(&name.to_string(), &record))?
    }

    fn reached(&self, name: &str, record: &ComputeRecord) -> Option<Reached> {
        let address: IpAddr = record.host.parse().ok()?;
        let branch_id = record.moment_of.as_ref().unwrap_or(&record.branch_id);
        Some(Reached {
            branch: name.to_owned(),
            branch_id: branch_id.clone(),
            process: record.process.tag(),
            pool: self.pool_of(branch_id),
            started: None,
            address: SocketAddr::new(address, record.port),
            own: OwnWay {
                socket: record.socket.clone(),
                user: OWN_USER.to_owned(),
                password: self.app.state.password().ok()??,
            },
        })
    }

    /// The limit of sessions on the compute of a branch.
    fn pool_of(&self, id: &str) -> Option<usize> {
        let project = Project::load(&self.app.state).ok()?;
        Some(project.pool_size_of.get(id)?.get() as usize)
    }

    /// Whether this gateway puts computes to sleep.
    fn puts_to_sleep(&self) -> bool {
        if self.bedtime.get().is_some() {
            return true;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(SECRET)
            .open(self.app.state.sleep_lock());
        let locked = file.ok().filter(|file| file.try_lock().is_ok());
        locked.is_some_and(|file| self.bedtime.set(file).is_ok())
    }

    async fn find(&self, branch: &str, from: IpAddr) -> Result<Reached, Refusal> {
        let wanted = Wanted::parse(branch)?;
        if let Wanted::Branch(_) = wanted
            && let Some(reached) = self.running(&wanted, None)
        {
            return Ok(reached);
        }
        self.check_exists(wanted.branch(), from).await?;
        let mut of = None;
        if let Wanted::Moment(at) = &wanted {
            let id = self.id_of(&at.branch).await;
            let id = id.map_err(|error| moments::not_now(branch, &error, from))?;
            self.check_shown(&at.branch, &id)?;
            if let Some(reached) = self.running(&wanted, Some(&id)) {
                return Ok(reached);
            }
            of = Some(id);
        }
        let of = of.as_deref();
        let key = wanted.to_string();
        let gate = {
            let mut gates = self.gates.lock().await;
            if gates.len() >= GATES_MAX {
                gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            }
            Arc::clone(gates.entry(key.clone()).or_default())
        };
        let outcome = self.wake(&wanted, of, &gate, from).await;
        if outcome.is_ok() {
            let mut gates = self.gates.lock().await;
            if gates
                .get(&key)
                .is_some_and(|known| Arc::ptr_eq(known, &gate))
            {
                gates.remove(&key);
            }
        }
        outcome
    }

    /// Refuses names of branches that do not exist, without the lock on the state
    /// directory: anybody may make names up. A branch that was created before the client
    /// asked is known; names that do not exist cost one list in [`KNOWN`], for all clients.
    async fn check_exists(&self, name: &BranchName, from: IpAddr) -> Result<(), Refusal> {
        let clock = &self.app.clock;
        let asked = clock.instant();
        let mut known = self.known.lock().await;
        let wanted = name.to_string();
        let listed = known.as_ref().map(|(at, _)| *at);
        let is_known = known
            .as_ref()
            .is_some_and(|(_, names)| names.contains(&wanted));
        if is_known {
            return Ok(());
        }
        if listed.is_none_or(|at| at <= asked) {
            let since = listed.map_or(KNOWN, |at| clock.since(at));
            tokio::time::sleep(KNOWN.saturating_sub(since)).await;
            let begun = clock.instant();
            match self.list().await {
                Ok(names) => *known = Some((begun, names)),
                // Its start begins with that of the server, and says what is wrong.
                Err(_) => return Ok(()),
            }
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
    async fn wake(
        &self,
        name: &Wanted,
        of: Option<&str>,
        gate: &Gate,
        from: IpAddr,
    ) -> Result<Reached, Refusal> {
        let mut failed = gate.lock().await;
        if let Some(reached) = self.running(name, of) {
            return Ok(reached);
        }
        let clock = &self.app.clock;
        let times = match &*failed {
            Some(last) if clock.instant() < last.until => {
                return Err(shown_to(from, name, &last.refusal));
            }
            Some(last) => last.times,
            None => 0,
        };
        let began = clock.instant();
        let _place = match name {
            Wanted::Branch(_) => None,
            Wanted::Moment(_) => Some(self.moment_place().await?),
        };
        let Ok(_turn) = self.starts.acquire().await else {
            return Err(Refusal::gone("The gateway is stopping"));
        };
        let (app, wanted) = (self.app.clone(), name.clone());
        // A start reads and writes files, and may take seconds where there is trouble.
        let started = spawned(async move { start(&app, &wanted).await });
        let refusal = match started.await {
            Ok(Ok(Ok(()))) => match self.running(name, of) {
                Some(mut reached) => {
                    *failed = None;
                    reached.started = Some(clock.since(began));
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
            Err(error) => Refusal::gone(format!("The start of branch '{name}' failed: {error:#}")),
        };
        let wait = BACKOFF.saturating_mul(1 << times.min(6)).min(BACKOFF_MAX);
        tracing::warn!(branch = %name, %refusal, "a compute does not start; the next attempt is in {} s or later", wait.as_secs());
        *failed = Some(Failed {
            times: times + 1,
            until: clock.instant() + wait,
            refusal: refusal.clone(),
        });
        Err(shown_to(from, name, &refusal))
    }
}

/// The refusal of a start that failed, as a client at this address may see it: the reason has
/// paths and lines of logs in it.
fn shown_to(from: IpAddr, name: &Wanted, refusal: &Refusal) -> Refusal {
    match from.is_loopback() {
        true => refusal.clone(),
        false => Refusal::gone(format!("The compute of branch '{name}' does not start")),
    }
}

/// Does work that reads and writes files in a thread of its own.
///
/// # Errors
/// When there is no thread, or the work panics.
async fn spawned<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        Ok(runtime.block_on(work))
    });
    done.await?
}

/// Starts a compute. The inner error is for a client who has asked for too much, or at the
/// wrong moment: nothing is wrong with the branch.
async fn start(app: &App, name: &Wanted) -> Result<Result<(), Refusal>> {
    let progress = app.progress();
    let mut session = match Session::share(app, &progress).await {
        Ok(session) => session,
        Err(error) if failure::kind(&error) == Kind::Conflict => {
            let why = format!("Branch '{name}' cannot be started now: {error:#}; try again");
            return Ok(Err(Refusal::gone(why)));
        }
        Err(error) => return Err(error),
    };
    let took = match name {
        Wanted::Branch(name) => {
            let started = session.compute(app, name, None, &progress).await?;
            (!started.already).then_some(started.took)
        }
        Wanted::Moment(at) => match at.start(app, &mut session).await {
            Ok(took) => Some(took),
            Err(error) if failure::kind(&error) == Kind::Invalid => {
                return Ok(Err(Refusal::no_branch(format!("{error:#}"))));
            }
            Err(error) => return Err(error),
        },
    };
    if let Some(took) = took {
        let took_ms = took.as_millis() as u64;
        tracing::info!(branch = %name, took_ms, "started a compute for a client");
    }
    Ok(Ok(()))
}

/// Ends the compute `reached`, unless another one runs by now.
async fn suspend(app: &App, reached: &Reached, sleep: &Sleep) -> Result<()> {
    if let Some(at) = At::parse(&reached.branch) {
        return moments::remove(app, &at, reached).await;
    }
    let name: BranchName = BranchName::parse(&reached.branch)?;
    let name = ComputeName::from(name);
    let lock = app.state.share(SUSPEND_LOCK_LIMIT).await?;
    let _alone = lock.compute(&name).await?;
    let record = ComputeRecord::load(&app.state.compute(&name)).context("it has no record")?;
    let same = record.phase == Phase::Running && record.process.tag() == reached.process;
    ensure!(same, "it was stopped or started meanwhile");
    stop::suspend(&app.state, &name, sleep).await?;
    record.process.reap();
    Ok(())
}

impl Computes for Branches {
    fn default_branch(&self) -> &str {
        self.main.as_str()
    }

    fn settle<'a>(&'a self, name: &'a str, from: IpAddr) -> BoxFuture<'a, Result<String, Refusal>> {
        Box::pin(async move {
            match name.contains(MOMENT) {
                true => self.settle_moment(name, from).await,
                false => Ok(name.to_owned()),
            }
        })
    }

    fn reach<'a>(
        &'a self,
        branch: &'a str,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<Reached, Refusal>> {
        Box::pin(self.find(branch, from))
    }

    fn look(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for (name, record) in record::list(&self.app.state) {
            // Children that have ended.
            record.process.reap();
            if name.is_reader() {
                let runs = record.phase == Phase::Running && record.process.is_alive();
                let moment = At::of(&record).filter(|_| runs);
                // Clients do not reach other ones here.
                seen.extend(moment.map(|at| Seen::Runs(at.to_string())));
                continue;
            }
            match (record.phase, record.wake_at) {
                (Phase::Running, _) if record.process.is_alive() => {
                    seen.push(Seen::Runs(name.to_string()));
                }
                // A gateway that put it to sleep was killed before it had ended it.
                (Phase::Asleep, _) if record.process.is_alive() && self.puts_to_sleep() => {
                    seen.push(Seen::WakeAt(name.to_string(), 0));
                }
                // Also where the last attempt to wake it has failed.
                (Phase::Asleep | Phase::Starting, Some(at))
                    if !record.process.is_alive() && self.puts_to_sleep() =>
                {
                    seen.push(Seen::WakeAt(name.to_string(), at))
                }
                _ => {}
            }
        }
        seen
    }

    fn look_at(&self, branch: &str) -> Option<(Reached, Option<Duration>)> {
        if let Some(at) = At::parse(branch) {
            return self.look_at_moment(&at);
        }
        let name = ComputeName::from(BranchName::parse(branch).ok()?);
        let record = ComputeRecord::load(&self.app.state.compute(&name))?;
        if record.phase != Phase::Running || !record.process.is_alive() {
            return None;
        }
        let project = Project::load(&self.app.state).ok()?;
        let after = project.suspend_after(&record.branch_id);
        let after = after.filter(|_| self.puts_to_sleep());
        Some((self.reached(branch, &record)?, after))
    }

    fn is_alive(&self, reached: &Reached) -> bool {
        let process = Process::from_tag(&reached.process);
        process.is_some_and(Process::is_alive)
    }

    fn suspend<'a>(
        &'a self,
        reached: &'a Reached,
        sleep: &'a Sleep,
    ) -> BoxFuture<'a, Result<(), String>> {
        let ended = suspend(&self.app, reached, sleep);
        Box::pin(async move { ended.await.map_err(|error| format!("{error:#}")) })
    }
}
