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
use tokio::sync::{Notify, oneshot};

/// How long a client waits for a place.
const WAIT: Duration = Duration::from_secs(10);
/// How long a session may take to leave.
const LEAVE: Duration = Duration::from_secs(5);
/// A session that was silent for less keeps its place: its client may be about to ask for what
/// the session would lose, such as the warnings of its last statement or `FOUND_ROWS()`.
const SILENCE: Duration = Duration::from_secs(1);
/// As one part of this many, so many places are made at a time: clients seldom come alone.
const PARTS: usize = 16;
/// Logins that are not finished have one place in so many, and at least one: strangers can
/// begin as many as they like.
const LOGIN_PARTS: usize = 4;

/// The places of a branch's clients on its compute.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    places: Mutex<Places>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Places {
    /// `None`: as many as clients want.
    limit: Option<usize>,
    taken: usize,
    /// Those of them whose clients have not finished their logins.
    logins: usize,
    /// Clients whose sessions come back.
    returning: VecDeque<oneshot::Sender<Place>>,
    /// Clients that log in. They come after those that come back.
    arriving: VecDeque<oneshot::Sender<Place>>,
}

/// The way by which a client comes to a compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coming {
    /// Its session comes back.
    Back,
    /// It logs in.
    In,
}

impl Places {
    fn has_room(&self, coming: Coming) -> bool {
        let Some(limit) = self.limit else { return true };
        let may_log_in = self.logins < (limit / LOGIN_PARTS).max(1);
        self.taken < limit && (coming == Coming::Back || may_log_in)
    }

    fn waiting(&mut self, coming: Coming) -> &mut VecDeque<oneshot::Sender<Place>> {
        match coming {
            Coming::Back => &mut self.returning,
            Coming::In => &mut self.arriving,
        }
    }

    fn take(&mut self, pool: &Arc<Pool>, coming: Coming) -> Place {
        self.taken += 1;
        self.logins += usize::from(coming == Coming::In);
        Place {
            pool: Some(Arc::clone(pool)),
            coming,
        }
    }

    fn give_back(&mut self, coming: Coming) {
        self.taken -= 1;
        self.logins -= usize::from(coming == Coming::In);
    }

    /// Gives free places to those that wait.
    fn hand_out(&mut self, pool: &Arc<Pool>) {
        for coming in [Coming::Back, Coming::In] {
            while self.has_room(coming)
                && let Some(next) = self.waiting(coming).pop_front()
            {
                let place = self.take(pool, coming);
                // Nobody may wait for it any more.
                if let Err(mut place) = next.send(place) {
                    place.pool = None;
                    self.give_back(coming);
                }
            }
        }
    }
}

/// A place on a compute, until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    pool: Option<Arc<Pool>>,
    coming: Coming,
}

impl Place {
    /// The client has finished its login.
    pub fn is_settled(&mut self) {
        if let Some(pool) = &self.pool
            && self.coming == Coming::In
        {
            self.coming = Coming::Back;
            let mut places = pool.places.lock();
            places.logins -= 1;
            places.hand_out(pool);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut places = pool.places.lock();
            places.give_back(self.coming);
            places.hand_out(&pool);
        }
    }
}

impl Pool {
    /// Sets the limit.
    pub fn set_limit(self: &Arc<Pool>, limit: Option<usize>) {
        let mut places = self.places.lock();
        places.limit = limit;
        places.hand_out(self);
    }

    /// Takes a place for a client of branch `name`; waits for one if all are taken.
    ///
    /// # Errors
    /// When none becomes free.
    pub async fn enter(
        self: &Arc<Pool>,
        coming: Coming,
        limit: Option<usize>,
        name: &str,
    ) -> Result<Place, Refusal> {
        self.set_limit(limit);
        let place = {
            let mut places = self.places.lock();
            let waiting = places.waiting(coming);
            // Those that have given up.
            waiting.retain(|place| !place.is_closed());
            if waiting.is_empty() && places.has_room(coming) {
                return Ok(places.take(self, coming));
            }
            let (place, given) = oneshot::channel();
            places.waiting(coming).push_back(place);
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
        let all = places.returning.iter().chain(&places.arriving);
        all.filter(|place| !place.is_closed()).count()
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
    /// It could not leave, and has said nothing since.
    stays: bool,
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
                stays: false,
            };
            let known = self.0.entry(*id).or_insert_with(silent);
            if known.spoken != *spoken {
                *known = silent();
            }
        }
    }

    /// Since when a session is silent, if that is long enough, and the session may leave.
    fn since(&self, id: u32, now: Instant) -> Option<Instant> {
        let silent = self.0.get(&id).filter(|silent| !silent.stays)?;
        (now - silent.since >= SILENCE).then_some(silent.since)
    }

    fn stays(&mut self, id: u32) {
        if let Some(silent) = self.0.get_mut(&id) {
            silent.stays = true;
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
        let is_free = session.ties.is_empty() && handle.conversation.lock().tie().is_none();
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
                silence.stays(id);
            }
            Ok(Err(_)) | Err(_) => silence.stays(id),
        }
    }
    if let Some(metrics) = branch.metrics() {
        metrics.pooled.inc_by(count);
    }
    Ok(count)
}
