//! Moments in place of branches: `main~5min` is a read-only compute that shows `main` as of
//! five minutes ago.
//!
//! A client's moment is resolved to an LSN, so `main~5min` becomes `main~123456`. Clients of
//! one LSN share a compute. It is started for the first of them, and removed with its lease
//! once they are idle or have left. The next client starts another one, which shows the same,
//! so that idle clients keep their connections as they do on a branch.

use super::{Branches, SUSPEND_LOCK_LIMIT, spawned};
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeRecord, Phase};
use crate::compute::stop;
use crate::control::Control;
use crate::failure::{self, Kind};
use crate::history;
use crate::moment::{Moment, When};
use crate::project::Project;
use crate::session::{self, Session};
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use xylem_gateway::{MOMENT, Reached, Refusal, Sleep};
use xylem_types::BranchName;

/// Computes at moments at a time. Anybody who reaches the gateway can ask for one, on branches
/// that allow it: accounts are checked by the compute itself.
const MOMENTS_MAX: usize = 16;
/// The time after which idle clients leave a compute at a moment whose branch's compute never
/// sleeps.
const IDLE: Duration = Duration::from_secs(300);
/// How often computes at moments that have ended are looked for.
const TIDY: Duration = Duration::from_secs(10);
/// Moments further back than this are rounded down to [`COARSE_S`] seconds, and others to
/// one: the connections of a pool, which are opened one after another, share a compute.
const RECENT_S: i64 = 60;
const COARSE_S: i64 = 10;

/// A branch as of an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub branch: BranchName,
    pub lsn: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{MOMENT}{}", self.branch, self.lsn)
    }
}

impl At {
    /// Reads a name of the form that this type is displayed in.
    pub fn parse(name: &str) -> Option<At> {
        let (branch, lsn) = name.split_once(MOMENT)?;
        let at = At {
            branch: BranchName::parse(branch).ok()?,
            lsn: lsn.parse().ok()?,
        };
        (at.to_string() == name).then_some(at)
    }

    /// The moment at which a compute that the gateway has started shows its branch.
    pub fn of(record: &ComputeRecord) -> Option<At> {
        record.moment_of.as_ref()?;
        Some(At {
            branch: BranchName::parse(&record.branch).ok()?,
            lsn: record.at_lsn?,
        })
    }

    fn is_shown_by(&self, record: &ComputeRecord) -> bool {
        At::of(record).as_ref() == Some(self)
    }

    /// Starts a compute for clients who have named this moment.
    ///
    /// # Errors
    /// When it does not start, or the branch's history does not reach there.
    pub async fn start(&self, app: &App, session: &mut Session) -> Result<Duration> {
        let id = session.running.control.branch(&self.branch).await?.id;
        let at = Some(Moment::Lsn(self.lsn));
        let progress = app.progress();
        let mut starter = session.starter(app, &progress);
        let started = starter.start_moment(&self.branch, &id, at).await?;
        Ok(started.took)
    }
}

/// Reads the moment of a name: `5min`, or whatever `--at` takes.
///
/// # Errors
/// Shows the forms that are understood.
pub(crate) fn parse(text: &str) -> Result<When, String> {
    if let Ok(when) = When::parse(&format!("{text} ago")) {
        return Ok(when);
    }
    When::parse(text)
}

/// The meaning of `when` at `now`.
///
/// # Errors
/// When it is a local time that the clocks of `zone` skipped or showed twice.
pub(crate) fn resolve(when: When, now: Timestamp, zone: &TimeZone) -> Result<Moment, String> {
    let moment = when.resolve(now, zone)?;
    if let Moment::Gtid(_) = moment {
        return Err(format!(
            "{moment} cannot be named by clients, which share computes by LSN: make a branch there"
        ));
    }
    let (When::Ago(_), Moment::Time(time)) = (when, moment) else {
        return Ok(moment);
    };
    let seconds = time.as_second();
    let step = match now.as_second() - seconds > RECENT_S {
        true => COARSE_S,
        false => 1,
    };
    let rounded = Timestamp::from_second(seconds.div_euclid(step) * step);
    rounded.map(Moment::Time).map_err(|error| error.to_string())
}

impl Branches {
    /// The name, with an LSN, of the moment that a client names.
    pub(super) async fn settle_moment(&self, name: &str, from: IpAddr) -> Result<String, Refusal> {
        let (branch, moment) = name.split_once(MOMENT).unwrap_or((name, ""));
        let branch = BranchName::parse(branch)
            .map_err(|why| Refusal::no_branch(format!("Unknown branch '{branch}': {why}")))?;
        let when = parse(moment).map_err(|why| {
            Refusal::no_branch(format!("Unknown moment of branch '{branch}': {why}"))
        })?;
        self.check_exists(&branch, from).await?;
        let id = self.id_of(&branch).await;
        let id = id.map_err(|error| not_now(name, &error, from))?;
        self.check_shown(&branch, &id)?;
        let lsn = self.lsn_of(&branch, when).await.map_err(|error| {
            // The reason tells how far back the history reaches.
            let why = match from.is_loopback() {
                true => format!("{error:#}"),
                false => "it is not in the branch's history, or cannot be looked up now".to_owned(),
            };
            let message = format!("Moment '{moment}' of branch '{branch}': {why}");
            match failure::kind(&error) {
                Kind::Unavailable | Kind::Failed => Refusal::gone(message),
                _ => Refusal::no_branch(message),
            }
        })?;
        Ok(At { branch, lsn }.to_string())
    }

    /// Refuses moments of a branch whose owner has not allowed them. The accounts of a moment
    /// are those of then: one that was dropped since, or has another password, is there.
    pub(super) fn check_shown(&self, branch: &BranchName, id: &str) -> Result<(), Refusal> {
        let project = Project::load(&self.app.state);
        if project.is_ok_and(|project| project.moments_of.contains(id)) {
            return Ok(());
        }
        Err(Refusal::no_branch(format!(
            "Moments of branch '{branch}' are not shown: `xylem branch set {branch} --moments on` allows it"
        )))
    }

    /// A free place among the computes at moments, for a start.
    pub(super) async fn moment_place(&self) -> Result<SemaphorePermit<'_>, Refusal> {
        let place = self.moment_starts.acquire().await;
        let place = place.map_err(|_| Refusal::gone("The gateway is stopping"))?;
        let app = self.app.clone();
        let shown = spawned(async move { shown(&app, None).len() }).await;
        if shown.unwrap_or(0) >= MOMENTS_MAX {
            return Err(Refusal::gone(format!(
                "{MOMENTS_MAX} moments are shown already: try again when one of them is not looked at any more"
            )));
        }
        Ok(place)
    }

    async fn lsn_of(&self, branch: &BranchName, when: When) -> Result<u64> {
        let moment = resolve(when, self.app.now()?, &TimeZone::system());
        let moment = moment.map_err(|why| failure::Failure::of(Kind::Invalid, why, ""))?;
        let control = self.control().await?;
        let project = Project::load(&self.app.state)?;
        history::check(&project, &control, branch, Some(moment)).await?;
        Ok(control.resolve(branch, Some(moment), false).await?.lsn)
    }

    /// A connection to the server, which is started unless it runs.
    async fn control(&self) -> Result<Control> {
        let server = self.app.state.server_record();
        if let Some(server) = server.filter(|server| server.process.is_alive()) {
            return Control::of(&self.app, &server).await;
        }
        let app = self.app.clone();
        spawned(async move { session::connect(&app, &app.progress()).await.map(drop) }).await??;
        let server = self.app.state.server_record().context("no server")?;
        Control::of(&self.app, &server).await
    }

    /// The id of a branch.
    pub(super) async fn id_of(&self, branch: &BranchName) -> Result<String> {
        Ok(self.control().await?.branch(branch).await?.id)
    }

    /// The compute that shows a branch as of a moment, if it runs. `of`: the branch's id;
    /// another branch may have had its name.
    pub(super) fn running_at(&self, at: &At, of: Option<&str>) -> Option<Reached> {
        let record = self.record_at(at, of)?.1;
        self.reached(&at.to_string(), &record)
    }

    fn record_at(&self, at: &At, of: Option<&str>) -> Option<(ComputeName, ComputeRecord)> {
        record::list(&self.app.state)
            .into_iter()
            .find(|(_, record)| {
                at.is_shown_by(record)
                    && of.is_none_or(|id| record.moment_of.as_deref() == Some(id))
                    && record.phase == Phase::Running
                    && record.process.is_alive()
            })
    }

    /// The compute at a moment, and the time after which idle clients leave it.
    pub(super) fn look_at_moment(&self, at: &At) -> Option<(Reached, Option<Duration>)> {
        let (_, record) = self.record_at(at, None)?;
        let project = Project::load(&self.app.state).ok()?;
        let after = project.suspend_after(record.moment_of.as_deref()?);
        let after = Some(after.unwrap_or(IDLE)).filter(|_| self.puts_to_sleep());
        Some((self.reached(&at.to_string(), &record)?, after))
    }

    /// Removes computes at moments that have ended, from time to time: their directories, and
    /// their leases on the server.
    pub async fn tidy(&self) {
        loop {
            tokio::time::sleep(TIDY).await;
            if self.puts_to_sleep() {
                let app = self.app.clone();
                let _ = spawned(async move { tidy(&app).await }).await;
            }
        }
    }

    /// Removes all computes at moments, which nobody would end after the gateway.
    pub async fn remove_moments(&self) {
        if self.puts_to_sleep() {
            let app = self.app.clone();
            if let Ok(Err(error)) | Err(error) =
                spawned(async move { remove_all(&app, None).await }).await
            {
                tracing::warn!("cannot remove the computes at moments: {error:#}");
            }
        }
    }
}

/// A refusal of a client whose branch cannot be looked up.
pub(super) fn not_now(name: &str, error: &anyhow::Error, from: IpAddr) -> Refusal {
    if failure::kind(error) == Kind::NotFound {
        return Refusal::no_branch(format!("Unknown branch '{name}'"));
    }
    let why = match from.is_loopback() {
        true => format!(": {error:#}"),
        false => String::new(),
    };
    Refusal::gone(format!(
        "Branch '{name}' cannot be looked up now{why}; try again"
    ))
}

/// The computes at moments: of the branch of this id, or of all.
fn shown(app: &App, of: Option<&str>) -> Vec<(ComputeName, ComputeRecord)> {
    let mut all = record::list(&app.state);
    all.retain(|(_, record)| match (&record.moment_of, of) {
        (Some(id), Some(of)) => id == of,
        (id, _) => id.is_some(),
    });
    all
}

/// Removes the computes at moments of the branch of this id, or of all.
///
/// # Errors
/// When one does not end.
pub(crate) async fn remove_all(app: &App, of: Option<&str>) -> Result<()> {
    for (name, record) in shown(app, of) {
        stop::stop(&app.state, &name).await?;
        record.process.reap();
        stop::forget_reader(app, &name).await?;
    }
    Ok(())
}

async fn tidy(app: &App) {
    for (name, record) in record::list(&app.state) {
        let runs = record.phase == Phase::Running && record.process.is_alive();
        if record.moment_of.is_none() || runs {
            continue;
        }
        // Whoever has begun to start it still does, or is gone.
        let Ok(lock) = app.state.share(Duration::ZERO).await else {
            return;
        };
        let Ok(_alone) = lock.try_compute(&name).await else {
            continue;
        };
        let now = ComputeRecord::load(&app.state.compute(&name));
        if now.as_ref() != Some(&record) {
            continue;
        }
        let removed = async {
            stop::stop(&app.state, &name).await?;
            record.process.reap();
            stop::forget_reader(app, &name).await
        };
        if let Err(error) = removed.await {
            tracing::warn!(compute = %name, "cannot remove a compute at a moment: {error:#}");
        }
    }
}

/// Removes the compute `reached`, which nobody uses, unless another one runs by now.
pub(super) async fn remove(app: &App, at: &At, reached: &Reached) -> Result<()> {
    let lock = app.state.share(SUSPEND_LOCK_LIMIT).await?;
    let is_this =
        |record: &ComputeRecord| at.is_shown_by(record) && record.process.tag() == reached.process;
    let found = record::list(&app.state).into_iter();
    let mut found = found.filter(|(_, record)| is_this(record));
    let (name, record) = found.next().context("it has no record")?;
    let _alone = lock.compute(&name).await?;
    let same = ComputeRecord::load(&app.state.compute(&name)).is_some_and(|now| is_this(&now));
    ensure!(same, "it was stopped or started meanwhile");
    stop::suspend(&app.state, &name, &Sleep::default()).await?;
    record.process.reap();
    stop::forget_reader(app, &name).await
}
