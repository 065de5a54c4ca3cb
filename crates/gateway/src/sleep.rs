//! Computes that nobody uses are put to sleep.
//!
//! Each compute is watched by a task of its own. It asks for the accounts of new sessions,
//! which survive the death of their compute only if they are known, and how many statements
//! the compute has executed: for clients of the gateway and others alike. When that number
//! has not changed for as long as the branch's setting says,
//!
//! 1. the branch's gate is closed: no client goes to the compute;
//! 2. the compute is asked which sessions it has, and what keeps them there. A session
//!    that did not come through the gateway, or cannot be restored, keeps it awake; so
//!    does an event that is about to be executed;
//! 3. the gateway's sessions are taken off the compute (`park.rs`), and stay with their
//!    clients;
//! 4. the compute is asked again: it must have no session left, and its next event must
//!    still be the same, so that none is between its queue and its execution;
//! 5. it is ended, and the gate opens. The next client that speaks starts it, with the
//!    variables that SQL has set for the whole server.
//!
//! A step that fails opens the gate, and the sessions that have left go back when their
//! clients speak.

use crate::branch::Branch;
use crate::computes::{Reached, Seen, Sleep};
use crate::gateway::Shared;
use crate::own::Own;
use crate::packet::Broken;
use crate::pool::{self, Silence};
use crate::refusal::Refusal;
use crate::route::MOMENT;
use crate::sessions::{Session, number, sessions, within};
use crate::variable;
use futures::future::join_all;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedRwLockWriteGuard;
use tokio::task::JoinSet;

/// How often the gateway looks for computes that it does not watch.
const LOOK: Duration = Duration::from_secs(1);
/// How often a compute is asked, as a part of the time after which it sleeps.
const PART: u32 = 8;
/// The longest time between two questions.
const ASK_MAX: Duration = Duration::from_secs(10);
/// How often the accounts of new sessions are asked for.
const LEARN: Duration = Duration::from_millis(200);
/// The pause between two attempts to make room for clients.
const ROOM: Duration = Duration::from_millis(10);
/// The same where no session could leave.
const ROOM_MAX: Duration = Duration::from_millis(50);
/// How long sessions may take to leave.
const LEAVE: Duration = Duration::from_secs(5);
/// How long the compute may take to notice that they have left.
const NOTICE: Duration = Duration::from_secs(2);
/// An event that has left the queue is a session after this time.
const EVENT_BEGIN: Duration = Duration::from_millis(100);
/// A compute at a moment that no client is on is ended after this time without use: it is
/// unlikely that another client wants the same moment.
const FORSAKEN: Duration = Duration::from_secs(30);
/// A compute does not sleep for less than this before an event, in seconds.
const NAP_MIN_S: u64 = 10;
/// A compute is started so long before its next event, in seconds.
const EARLY_S: u64 = 2;

const STATEMENTS: &str =
    "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'QUESTIONS'";

/// The variables that SQL has set for the whole server, and that sessions begin with: they
/// are others after the death of the compute.
const SESSION_GLOBALS: &str = "SELECT 1 FROM information_schema.SYSTEM_VARIABLES \
    WHERE GLOBAL_VALUE_ORIGIN = 'SQL' \
    AND (VARIABLE_SCOPE = 'SESSION' OR VARIABLE_NAME = 'INIT_CONNECT') LIMIT 1";

/// The variables that SQL has set for the whole server, which its next start does not know.
/// Two are states of replication that it keeps elsewhere; those that end in `_now` are
/// commands.
const GLOBALS: &str = "SELECT VARIABLE_NAME, HEX(CONVERT(GLOBAL_VALUE USING utf8mb4)), VARIABLE_TYPE \
    FROM information_schema.SYSTEM_VARIABLES \
    WHERE GLOBAL_VALUE_ORIGIN = 'SQL' AND READ_ONLY = 'NO' \
    AND VARIABLE_NAME NOT IN ('GTID_SLAVE_POS', 'GTID_BINLOG_STATE') \
    AND RIGHT(VARIABLE_NAME, 4) <> '_NOW'";

/// Watches all computes, and wakes those whose events are due, until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    let watched: Arc<Mutex<HashSet<String>>> = Arc::default();
    loop {
        tokio::time::sleep(LOOK).await;
        while tasks.try_join_next().is_some() {}
        let looking = Arc::clone(&shared);
        // Reads files.
        let Ok(seen) = tokio::task::spawn_blocking(move || looking.computes.look()).await else {
            continue;
        };
        for seen in seen {
            let branch = match &seen {
                Seen::Runs(branch) => branch.clone(),
                Seen::WakeAt(branch, at) if shared.now_s() + EARLY_S >= *at => branch.clone(),
                Seen::WakeAt(..) => continue,
            };
            if !watched.lock().insert(branch.clone()) {
                continue;
            }
            let watching = Watching(Arc::clone(&watched), branch);
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                match seen {
                    Seen::Runs(_) => watch(&shared, &watching.1).await,
                    Seen::WakeAt(..) => wake(&shared, &watching.1).await,
                }
            });
        }
    }
}

/// The entry of a branch that has a task, for as long as that lives.
struct Watching(Arc<Mutex<HashSet<String>>>, String);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// Starts a compute whose event is due.
async fn wake(shared: &Shared, name: &str) {
    let branch = shared.branches.get(name);
    let _passed = branch.gate.read().await;
    match shared
        .reach(&branch, name, IpAddr::V4(Ipv4Addr::LOCALHOST))
        .await
    {
        Ok(_) => tracing::info!(branch = name, "woke a compute for its next event"),
        Err(error) => {
            tracing::warn!(branch = name, %error, "cannot wake a compute for its next event")
        }
    }
}

/// Watches a compute until it sleeps or ends, or does not answer.
async fn watch(shared: &Shared, name: &str) {
    let branch = shared.branches.get(name);
    if let Err(error) = watch_until(shared, name, &branch).await {
        tracing::debug!(branch = name, %error, "a compute does not answer");
    }
    drop(branch);
    shared.branches.forget(name);
}

async fn watch_until(shared: &Shared, name: &str, branch: &Arc<Branch>) -> Result<(), Broken> {
    let Some((compute, _)) = shared.computes.look_at(name) else {
        return Ok(());
    };
    let mut own = within(Own::open(&compute)).await?;
    let watched = ask(shared, name, branch, &compute, &mut own).await;
    own.close().await;
    watched
}

/// Asks a compute until it sleeps, ends, or may not sleep any more.
async fn ask(
    shared: &Shared,
    name: &str,
    branch: &Arc<Branch>,
    compute: &Reached,
    own: &mut Own,
) -> Result<(), Broken> {
    let mut executed = statements(branch, compute, own).await?;
    let mut quiet_since = shared.settings.clock.instant();
    let mut asked = quiet_since;
    let mut looked = quiet_since;
    let mut pause = LEARN;
    let mut told = String::new();
    let mut silence = Silence::default();
    branch.pool.set_limit(compute.pool);
    loop {
        tokio::select! {
            () = branch.pool.wanted() => {}
            () = tokio::time::sleep(LEARN) => {}
        }
        let left = pool::make_room(shared, branch, compute, own, &mut silence).await?;
        if branch.pool.waiting() > 0 {
            tokio::time::sleep(if left > 0 { ROOM } else { ROOM_MAX }).await;
            branch.pool.want();
        }
        learn_accounts(branch, compute, own).await?;
        if shared.settings.clock.since(looked) < LOOK.min(pause) {
            continue;
        }
        looked = shared.settings.clock.instant();
        let Some((now, after)) = shared.computes.look_at(name) else {
            return Ok(());
        };
        if now.process != compute.process {
            return Ok(());
        }
        branch.pool.set_limit(now.pool);
        let forsaken = branch.sessions(&compute.process).is_empty() && name.contains(MOMENT);
        let after = match forsaken {
            true => after.map(|after| after.min(FORSAKEN)),
            false => after,
        };
        let Some(after) = after else {
            asked = shared.settings.clock.instant();
            quiet_since = asked;
            continue;
        };
        pause = (after / PART).clamp(LEARN, ASK_MAX);
        if shared.settings.clock.since(asked) < pause {
            continue;
        }
        asked = shared.settings.clock.instant();
        let seen = statements(branch, compute, own).await?;
        if seen != executed {
            executed = seen;
            quiet_since = shared.settings.clock.instant();
        }
        if shared.settings.clock.instant() - quiet_since < after {
            continue;
        }
        let Ok(gate) = Arc::clone(&branch.gate).try_write_owned() else {
            // A client is on its way.
            continue;
        };
        match suspend(shared, branch, compute, own, gate).await? {
            Outcome::Asleep => return Ok(()),
            Outcome::Awake(why) => {
                if told != why {
                    tracing::info!(branch = name, why, "a compute stays awake");
                    told = why;
                }
            }
        }
    }
}

/// Asks for the accounts of sessions whose accounts are not known.
async fn learn_accounts(branch: &Branch, compute: &Reached, own: &mut Own) -> Result<(), Broken> {
    let mut unknown = branch.sessions(&compute.process);
    unknown.retain(|_, (handle, _)| {
        handle.account.get().is_none() && !handle.conversation.lock().is_login()
    });
    if unknown.is_empty() {
        return Ok(());
    }
    let has_globals = !within(own.query(SESSION_GLOBALS)).await?.is_empty();
    for session in sessions(own).await? {
        let Some((handle, _)) = unknown.remove(&session.id) else {
            continue;
        };
        let is_own = session.account.user == compute.own.user.as_bytes();
        let can_be_had = !has_globals && !is_own && !session.has_lost_account();
        let _ = handle.account.set(can_be_had.then_some(session.account));
    }
    Ok(())
}

/// The end of an attempt.
enum Outcome {
    Asleep,
    /// Why not.
    Awake(String),
}

/// Puts a compute to sleep if nothing keeps it awake.
async fn suspend(
    shared: &Shared,
    branch: &Arc<Branch>,
    compute: &Reached,
    own: &mut Own,
    gate: OwnedRwLockWriteGuard<()>,
) -> Result<Outcome, Broken> {
    let mut known = branch.sessions(&compute.process);
    let asked = shared.settings.clock.instant();
    let present = sessions(own).await?;
    let mut due = None;
    let mut leaving = Vec::new();
    for session in &present {
        if session.is_scheduler() {
            due = session.due;
            if due.is_some_and(|at| at < shared.now_s() + NAP_MIN_S) {
                return Ok(Outcome::Awake(
                    "an event is about to be executed".to_owned(),
                ));
            }
        } else if !session.ties.is_empty() {
            return Ok(Outcome::Awake(format!(
                "connection {} has: {}",
                session.id, session.ties
            )));
        } else {
            let Some((handle, spoken)) = known.remove(&session.id) else {
                return Ok(Outcome::Awake(format!(
                    "connection {} is to the compute itself",
                    session.id
                )));
            };
            if let Some(tie) = handle.conversation.lock().tie() {
                return Ok(Outcome::Awake(format!(
                    "connection {} has: {tie}",
                    session.id
                )));
            }
            leaving.push((handle, session.account.clone(), spoken));
        }
    }
    let globals = match globals(own).await {
        Ok(globals) => globals,
        Err(Broken::Refused(why)) => return Ok(Outcome::Awake(why.to_string())),
        Err(broken) => return Err(broken),
    };
    let leaving = leaving
        .into_iter()
        .map(|(handle, account, spoken)| handle.park(account, spoken));
    let left = tokio::time::timeout(LEAVE, join_all(leaving)).await;
    // A session that has ended has left, too.
    match left.map(|left| left.into_iter().find_map(|left| left.ok()?.err())) {
        Ok(None) => {}
        Ok(Some(why)) => return Ok(Outcome::Awake(format!("a session stays: {why}"))),
        Err(_) => return Ok(Outcome::Awake("a session does not answer".to_owned())),
    }
    let noticed = shared.settings.clock.instant();
    loop {
        let rest = sessions(own).await?;
        let scheduler = rest.iter().find(|session| session.is_scheduler());
        if scheduler.is_some_and(|scheduler| scheduler.due != due) {
            return Ok(Outcome::Awake("an event is executed".to_owned()));
        }
        let may_begin = scheduler.is_some() && shared.settings.clock.since(asked) < EVENT_BEGIN;
        if rest.iter().all(Session::is_scheduler) && !may_begin {
            break;
        }
        if shared.settings.clock.instant() - noticed > NOTICE {
            return Ok(Outcome::Awake("a session does not end".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let began = shared.settings.clock.instant();
    let sleep = Sleep {
        wake_at: due,
        globals,
    };
    match shared.computes.suspend(compute, &sleep).await {
        Ok(()) => {
            let took = shared.settings.clock.instant() - began;
            let took_ms = took.as_millis() as u64;
            tracing::info!(branch = compute.branch, took_ms, "a compute sleeps");
            if let Some(metrics) = branch.metrics() {
                metrics.sleeps.inc();
            }
            drop(gate);
            Ok(Outcome::Asleep)
        }
        Err(why) => Ok(Outcome::Awake(why)),
    }
}

/// The statements that set the variables which SQL has set for the whole server.
async fn globals(own: &mut Own) -> Result<Vec<String>, Broken> {
    let rows = within(own.query(GLOBALS)).await?;
    let mut statements = Vec::new();
    for row in &rows {
        let [Some(name), value, Some(kind)] = &row[..] else {
            return Err(Refusal::malformed().into());
        };
        let value = value.as_deref().map(variable::unhex).transpose()?;
        let set = variable::assignment(name, value.as_deref(), kind)?;
        statements.push(format!("SET GLOBAL {set}"));
    }
    Ok(statements)
}

/// The statements that clients have had executed, without the gateway's own.
async fn statements(branch: &Branch, compute: &Reached, own: &mut Own) -> Result<u64, Broken> {
    // Before the compute counts: too few keep it awake for a while, too many might not.
    let others = branch.own_statements(&compute.process);
    let rows = within(own.query(STATEMENTS)).await?;
    let all: Option<u64> = rows
        .first()
        .and_then(|row| number(row.first()?.as_deref()?));
    let all = all.ok_or_else(Refusal::malformed)?;
    Ok(all.saturating_sub(own.statements() + others))
}
