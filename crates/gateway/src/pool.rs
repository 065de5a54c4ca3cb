//! Pooling: many clients share a few sessions' places on a compute.
//!
//! A branch may have a limit of sessions that its clients have on the compute at a time. A
//! client that logs in or comes back beyond it waits for a place. The session that has been
//! silent for longest leaves the compute for it (`park.rs`), and comes back when its client
//! speaks. A session that cannot leave, for example because of an open transaction, keeps its
//! place, and so does one that has just spoken.

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;

use crate::branch::{Branch, Handle};
use crate::computes::Reached;
use crate::gateway::Shared;
use crate::own::Own;
use crate::packet::Broken;
use crate::refusal::Refusal;
use crate::sessions::sessions;
use futures::future::join_all;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// How long a client waits for a place.
const WAIT: Duration = Duration::from_secs(10);
/// How long a session may take to leave.
const LEAVE: Duration = Duration::from_secs(5);
/// A session that was silent for less keeps its place: its client may be about to ask for what
/// the session would lose, such as the warnings of its last statement or `FOUND_ROWS()`.
const SILENCE: Duration = Duration::from_secs(1);
/// As one part of this many, so many places are made at a time: clients seldom come alone.
const PARTS: usize = 16;
/// The most logins at a time that are not finished, beside those that have places: strangers
/// can begin as many as they like.
const LOGINS_MAX: usize = 8;
/// How long a session that could not leave is not asked again.
const STAYS: Duration = Duration::from_secs(10);

/// The places of a branch's clients on its compute.
#[derive(Debug)]
pub(crate) struct Pool {
    places: Mutex<Places>,
    logins: Arc<Semaphore>,
    wanted: Notify,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool {
            places: Mutex::default(),
            logins: Arc::new(Semaphore::new(LOGINS_MAX)),
            wanted: Notify::new(),
        }
    }
}

#[derive(Debug, Default)]
struct Places {
    /// `None`: as many as clients want.
    limit: Option<usize>,
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

impl Places {
    fn has_room(&self) -> bool {
        self.limit.is_none_or(|limit| self.taken < limit)
    }

    /// Gives free places to those that wait.
    fn hand_out(&mut self, pool: &Arc<Pool>) {
        while self.has_room()
            && let Some(next) = self.waiting.pop_front()
        {
            match next.send(Place(Some(Arc::clone(pool)))) {
                Ok(()) => self.taken += 1,
                // Nobody waits for it any more, and nobody has got it.
                Err(mut place) => place.0 = None,
            }
        }
    }
}

/// A place on a compute, until dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<Arc<Pool>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            let mut places = pool.places.lock();
            places.taken -= 1;
            places.hand_out(&pool);
        }
    }
}

/// A login that is not finished, until dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Login {
    permit: Option<OwnedSemaphorePermit>,
}

impl Login {
    /// Whether others wait for it to be finished.
    pub fn is_of_pool(&self) -> bool {
        self.permit.is_some()
    }
}

impl Pool {
    /// Sets the limit.
    pub fn set_limit(self: &Arc<Pool>, limit: Option<usize>) {
        let mut places = self.places.lock();
        places.limit = limit;
        places.hand_out(self);
    }

    /// Lets a client of branch `name` begin to log in. It needs a place only once the compute
    /// knows it.
    ///
    /// # Errors
    /// When too many others log in for too long.
    pub async fn log_in(
        self: &Arc<Pool>,
        limit: Option<usize>,
        name: &str,
    ) -> Result<Login, Refusal> {
        self.set_limit(limit);
        if limit.is_none() {
            return Ok(Login { permit: None });
        }
        let permit = Arc::clone(&self.logins).acquire_owned();
        match tokio::time::timeout(WAIT, permit).await {
            Ok(Ok(permit)) => Ok(Login {
                permit: Some(permit),
            }),
            _ => Err(Refusal::too_many(format!(
                "Too many connections: {LOGINS_MAX} others are logging in on branch '{name}'"
            ))),
        }
    }

    /// Takes a place for a client of branch `name`; waits for one if all are taken.
    ///
    /// # Errors
    /// When none becomes free.
    pub async fn enter(
        self: &Arc<Pool>,
        limit: Option<usize>,
        name: &str,
    ) -> Result<Place, Refusal> {
        self.set_limit(limit);
        let place = {
            let mut places = self.places.lock();
            // Without those that have given up.
            places.waiting.retain(|place| !place.is_closed());
            if places.waiting.is_empty() && places.has_room() {
                places.taken += 1;
                return Ok(Place(Some(Arc::clone(self))));
            }
            let (place, given) = oneshot::channel();
            places.waiting.push_back(place);
            given
        };
        self.want();
        match tokio::time::timeout(WAIT, place).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Refusal::too_many(format!(
                "Too many connections: all sessions of the pool of branch '{name}' are in use"
            ))),
        }
    }

    /// The clients that wait for a place.
    pub fn waiting(&self) -> usize {
        let places = self.places.lock();
        let waiting = places.waiting.iter();
        waiting.filter(|place| !place.is_closed()).count()
    }

    fn limit(&self) -> Option<usize> {
        self.places.lock().limit
    }

    /// Makes [`Pool::wanted`] return once more.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a client waits.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }
}

/// Since when the sessions of a compute have been silent.
#[derive(Debug, Default)]
pub(crate) struct Silence(HashMap<u32, Silent>);

/// A silent session.
#[derive(Debug)]
struct Silent {
    /// How often something was said in it.
    spoken: u64,
    since: Instant,
    /// It could not leave, and is not asked before then.
    stays_until: Option<Instant>,
}

impl Silence {
    /// Looks at the sessions `seen` if they are of a pool.
    pub fn look(&mut self, pool: &Pool, seen: &HashMap<u32, (Arc<Handle>, u64)>, now: Instant) {
        if pool.limit().is_none() {
            self.0.clear();
            return;
        }
        self.0.retain(|id, _| seen.contains_key(id));
        for (id, (_, spoken)) in seen {
            let silent = || Silent {
                spoken: *spoken,
                since: now,
                stays_until: None,
            };
            let known = self.0.entry(*id).or_insert_with(silent);
            if known.spoken != *spoken {
                *known = silent();
            }
        }
    }

    /// Since when a session is silent, if that is long enough, and the session may leave.
    fn since(&self, id: u32, now: Instant) -> Option<Instant> {
        let silent = self.0.get(&id)?;
        if silent.stays_until.is_some_and(|until| now < until) {
            return None;
        }
        (now - silent.since >= SILENCE).then_some(silent.since)
    }

    fn stays(&mut self, id: u32, now: Instant) {
        if let Some(silent) = self.0.get_mut(&id) {
            silent.stays_until = Some(now + STAYS);
        }
    }
}

/// Takes idle sessions off a compute if clients wait for their places. Returns how many have
/// left.
///
/// # Errors
/// When the compute does not answer.
pub(crate) async fn make_room(
    shared: &Shared,
    branch: &Branch,
    compute: &Reached,
    own: &mut Own,
    silence: &mut Silence,
) -> Result<u64, Broken> {
    let mut known = branch.sessions(&compute.process);
    let now = shared.settings.clock.instant();
    silence.look(&branch.pool, &known, now);
    let (waiting, limit) = (branch.pool.waiting(), branch.pool.limit());
    let Some(limit) = limit.filter(|_| waiting > 0) else {
        return Ok(0);
    };
    let mut idle = Vec::new();
    for session in sessions(own).await? {
        let Some((handle, spoken)) = known.remove(&session.id) else {
            continue;
        };
        let conversation = handle.conversation.lock();
        // One that logs in may wait for its place itself.
        let is_free =
            session.ties.is_empty() && conversation.tie().is_none() && !conversation.is_login();
        drop(conversation);
        if let Some(since) = silence.since(session.id, now)
            && is_free
        {
            idle.push((since, session, handle, spoken));
        }
    }
    idle.sort_by_key(|(since, ..)| *since);
    let leaving = idle.into_iter().take(waiting.max(limit / PARTS));
    let leaving = leaving.map(|(_, session, handle, spoken)| async move {
        let left = handle.park(session.account, spoken);
        (session.id, tokio::time::timeout(LEAVE, left).await)
    });
    let mut count = 0;
    for (id, left) in join_all(leaving).await {
        match left {
            Ok(Ok(Ok(()))) => count += 1,
            // Others are asked before it next time.
            Ok(Ok(Err(why))) => {
                tracing::debug!(
                    branch = compute.branch,
                    id,
                    why,
                    "a session keeps its place"
                );
                silence.stays(id, now);
            }
            Ok(Err(_)) | Err(_) => silence.stays(id, now),
        }
    }
    if let Some(metrics) = branch.metrics() {
        metrics.pooled.inc_by(count);
    }
    Ok(count)
}
