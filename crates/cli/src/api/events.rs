//! The stream of what changes in branches, computes and operations, whoever changes it: one
//! look at the state directory and the server at a fixed interval, for all listeners, and
//! only while there are any.

use super::Api;
use super::access::Caller;
use super::error::Problem;
use super::operations::{On, Operation, OperationReport};
use crate::compute::name::ComputeName;
use crate::compute::record::{self, ComputeState};
use crate::control::Control;
use crate::failure::Kind;
use crate::project::Project;
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use futures::Stream;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, broadcast, watch};
use utoipa::ToSchema;
use xylem_tokens::Right;

#[cfg(test)]
mod tests;

/// How often is looked for changes.
const LOOK: Duration = Duration::from_millis(500);
/// The number of events that a listener which comes back may have missed.
const RING: usize = 1024;
/// The number of events that a listener may be behind.
const BEHIND_MAX: usize = 256;
/// Most listeners at a time.
const LISTENERS_MAX: usize = 128;
/// Most listeners at a time of one token.
const LISTENERS_OF_ONE_MAX: usize = 16;
/// How long a listener waits for the look after which it is told of all changes.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How often an idle listener's token is looked at.
const CHECK: Duration = Duration::from_secs(2);
/// How often an idle listener gets a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The change of a branch or a compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Happened {
    /// It was created, or first seen.
    Created,
    /// It has another state, name or setting.
    Changed,
    /// It was removed.
    Removed,
}

/// An event of the stream, for the OpenAPI document.
#[derive(ToSchema)]
#[allow(dead_code, reason = "a schema")]
pub struct SentEvent {
    /// Its id, which the next one's is above; `reset` has none.
    id: Option<String>,
    /// `branch`, `compute`, `operation` or `reset`.
    event: Option<String>,
    /// A JSON document: BranchEvent, ComputeEvent, OperationReport, or an object with `detail`.
    data: Option<String>,
}

/// An event about a branch (`event: branch`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BranchEvent {
    /// The change.
    pub happened: Happened,
    /// Its name.
    pub name: String,
    /// The name that it had, if that has changed.
    pub renamed_from: Option<String>,
    /// Its id.
    pub id: String,
    /// `open`, `stopped` or `closed`.
    pub state: String,
    /// The branch's own time after which its compute sleeps; `null`: the project's.
    pub suspend_after: Option<String>,
    /// Most sessions of the gateway's clients on its compute; `null`: no limit.
    pub pool_size: Option<u32>,
    /// Whether clients of the gateway may name its moments.
    pub moments: bool,
}

/// An event about a compute (`event: compute`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComputeEvent {
    /// The change.
    pub happened: Happened,
    /// Its name.
    pub name: String,
    /// The branch that it writes, or shows.
    pub branch: String,
    /// Its state.
    pub state: ComputeState,
    /// Its TCP port.
    pub port: u16,
    /// Its process id, of this or its last run.
    pub pid: u32,
}

/// An event of the stream.
#[derive(Clone, Debug)]
enum Data {
    Branch(BranchEvent),
    Compute(ComputeEvent),
    Operation(Box<OperationReport>, On, String),
}

#[derive(Clone, Debug)]
struct Event {
    id: u64,
    data: Data,
}

/// The project as it was at a look.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// By id.
    branches: BTreeMap<String, BranchEvent>,
    /// By name.
    computes: BTreeMap<String, ComputeEvent>,
}

#[derive(Debug)]
struct Told {
    next: u64,
    ring: VecDeque<Event>,
}

/// The events of this process.
#[derive(Debug)]
pub struct Events {
    told: Mutex<Told>,
    sender: broadcast::Sender<Event>,
    /// By the id of their token.
    listeners: Mutex<HashMap<String, usize>>,
    came: Notify,
    /// The number of looks so far.
    looks: watch::Sender<u64>,
}

impl Events {
    /// No events yet. Their ids begin with `first`, which must be above those of an earlier
    /// process: the time in microseconds is.
    pub fn new(first: u64) -> Events {
        Events {
            told: Mutex::new(Told {
                next: first,
                ring: VecDeque::new(),
            }),
            sender: broadcast::Sender::new(BEHIND_MAX),
            listeners: Mutex::default(),
            came: Notify::new(),
            looks: watch::Sender::new(0),
        }
    }

    fn tell(&self, data: Data) {
        let mut told = self.told.lock();
        let event = Event {
            id: told.next,
            data,
        };
        told.next += 1;
        if told.ring.len() >= RING {
            told.ring.pop_front();
        }
        told.ring.push_back(event.clone());
        // Without listeners nobody gets it.
        let _ = self.sender.send(event);
    }

    fn is_listened_to(&self) -> bool {
        !self.listeners.lock().is_empty()
    }

    /// The events after the event `last`, and those to come. `None`: some of the former are
    /// not known any more.
    fn listen(&self, last: Option<u64>) -> (Option<VecDeque<Event>>, broadcast::Receiver<Event>) {
        let told = self.told.lock();
        let receiver = self.sender.subscribe();
        let Some(last) = last else {
            return (Some(VecDeque::new()), receiver);
        };
        let oldest = told.ring.front().map_or(told.next, |event| event.id);
        let known = last.saturating_add(1) >= oldest && last < told.next;
        let missed = told.ring.iter().filter(|event| event.id > last).cloned();
        (known.then(|| missed.collect()), receiver)
    }
}

/// Tells that an operation has changed.
pub fn operation(events: &Events, operation: &Operation) {
    let report = Box::new(operation.told());
    let (on, by) = (operation.on().clone(), operation.by().to_owned());
    events.tell(Data::Operation(report, on, by));
}

impl BranchEvent {
    /// The event without the names that the listener may not read. A branch that has got such a
    /// name is gone for it.
    fn told_to(mut self, may_read: impl Fn(&str) -> bool) -> BranchEvent {
        let renamed = self.renamed_from.take();
        let before = renamed.clone().filter(|name| may_read(name));
        match (may_read(&self.name), before) {
            // It is new to the listener.
            (true, None) if renamed.is_some() => BranchEvent {
                happened: Happened::Created,
                ..self
            },
            (false, Some(before)) => BranchEvent {
                happened: Happened::Removed,
                name: before,
                ..self
            },
            (_, before) => BranchEvent {
                renamed_from: before,
                ..self
            },
        }
    }
}

impl Event {
    fn is_for(&self, caller: &Caller) -> bool {
        let may_read =
            |name: &str| ComputeName::parse(name).is_ok_and(|name| caller.has(Right::Read, &name));
        match &self.data {
            Data::Branch(branch) => {
                let mut names = branch.renamed_from.iter().chain([&branch.name]);
                names.any(|name| may_read(name))
            }
            Data::Compute(compute) => may_read(&compute.branch),
            Data::Operation(_, _, by) if *by == caller.claims.jti => true,
            Data::Operation(_, On::Branch(name), _) => caller.has(Right::Read, name),
            Data::Operation(_, On::Project(_), _) => caller.claims.allows_all(Right::Admin),
        }
    }

    fn sse(&self, caller: &Caller) -> SseEvent {
        let event = SseEvent::default().id(self.id.to_string());
        let with = match &self.data {
            Data::Branch(branch) => {
                let branch = branch.clone().told_to(|name| {
                    ComputeName::parse(name).is_ok_and(|name| caller.has(Right::Read, &name))
                });
                event.event("branch").json_data(branch)
            }
            Data::Compute(compute) => event.event("compute").json_data(compute),
            Data::Operation(report, _, by) if *by == caller.claims.jti => {
                event.event("operation").json_data(report)
            }
            Data::Operation(report, _, _) => event
                .event("operation")
                .json_data(report.clone().for_others()),
        };
        with.unwrap_or_else(|_| SseEvent::default().comment("an event that has no JSON"))
    }
}

/// A listener. It counts until it is dropped.
struct Listener {
    api: Api,
    caller: Caller,
    missed: VecDeque<Event>,
    reset: bool,
    receiver: broadcast::Receiver<Event>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self.api.events.listeners.lock();
        if let Some(count) = listeners.get_mut(&self.caller.claims.jti) {
            *count -= 1;
            if *count == 0 {
                listeners.remove(&self.caller.claims.jti);
            }
        }
    }
}

impl Listener {
    /// The next event for it; `None`: the stream ends.
    async fn next(&mut self) -> Option<SseEvent> {
        if std::mem::take(&mut self.reset) {
            let event = SseEvent::default().event("reset");
            return Some(
                event.data("{\"detail\":\"events were missed: look at everything anew\"}"),
            );
        }
        loop {
            let event = match self.missed.pop_front() {
                Some(event) => event,
                None => {
                    let came = tokio::select! {
                        () = self.api.stopping.cancelled() => return None,
                        came = tokio::time::timeout(CHECK, self.receiver.recv()) => came,
                    };
                    match came {
                        Ok(Ok(event)) => event,
                        // Too slow: it may come back with the id of its last event.
                        Ok(Err(_)) => return None,
                        Err(_) if self.api.access.still(&self.caller) => continue,
                        Err(_) => return None,
                    }
                }
            };
            if !self.api.access.still(&self.caller) {
                return None;
            }
            if event.is_for(&self.caller) {
                return Some(event.sse(&self.caller));
            }
        }
    }
}

/// The stream of events for `caller`, from the one after `last` on.
///
/// # Errors
/// When there are too many listeners.
pub async fn stream(
    api: Api,
    caller: Caller,
    last: Option<u64>,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>>>, Problem> {
    {
        let mut listeners = api.events.listeners.lock();
        let own = listeners.get(&caller.claims.jti).copied().unwrap_or(0);
        if listeners.values().sum::<usize>() >= LISTENERS_MAX || own >= LISTENERS_OF_ONE_MAX {
            return Err(Problem::of(
                Kind::Unavailable,
                format!(
                    "too many listeners: {LISTENERS_OF_ONE_MAX} of one token at most, and {LISTENERS_MAX} in all"
                ),
            ));
        }
        *listeners.entry(caller.claims.jti.clone()).or_default() += 1;
    }
    let mut listener = Listener {
        receiver: api.events.sender.subscribe(),
        api,
        caller,
        missed: VecDeque::new(),
        reset: false,
    };
    // What changes from the answer on is told; what nobody has seen before is not news.
    let events = Arc::clone(&listener.api.events);
    let mut looks = events.looks.subscribe();
    let before = *looks.borrow_and_update();
    events.came.notify_one();
    let looked = looks.wait_for(|looks| *looks > before);
    let _ = tokio::time::timeout(FIRST_LOOK, looked).await;
    let (missed, receiver) = events.listen(last);
    listener.receiver = receiver;
    listener.reset = missed.is_none();
    listener.missed = missed.unwrap_or_default();
    let events = futures::stream::unfold(listener, async |mut listener| {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Looks for changes while somebody listens.
pub async fn watch(api: Api) {
    let mut last: Option<Seen> = None;
    loop {
        while !api.events.is_listened_to() {
            tokio::select! {
                () = api.events.came.notified() => {}
                () = api.stopping.cancelled() => return,
            }
        }
        let seen = look(&api, last.as_ref()).await;
        if let Some(last) = &last {
            tell_changes(&api.events, last, &seen);
        }
        last = Some(seen);
        api.events.looks.send_modify(|looks| *looks += 1);
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = api.stopping.cancelled() => return,
        }
    }
}

/// The project now. What cannot be told stays as it was at the look before.
async fn look(api: &Api, last: Option<&Seen>) -> Seen {
    let before = last.cloned().unwrap_or_default();
    let branches = branches(api).await;
    let state = api.app.state.clone();
    let computes = tokio::task::spawn_blocking(move || {
        let all = record::list(&state).into_iter();
        all.map(|(name, record)| {
            let event = ComputeEvent {
                happened: Happened::Changed,
                name: name.to_string(),
                branch: record.branch.clone(),
                state: record.state(),
                port: record.port,
                pid: record.process.pid,
            };
            (name.to_string(), event)
        })
        .collect()
    });
    Seen {
        branches: branches.unwrap_or(before.branches),
        computes: computes.await.unwrap_or(before.computes),
    }
}

async fn branches(api: &Api) -> Option<BTreeMap<String, BranchEvent>> {
    let server = api.app.state.server_record()?;
    if !server.process.is_alive() {
        return None;
    }
    let control = Control::of(&api.app, &server).await.ok()?;
    let all = control.branches(false).await.ok()?;
    let settings = Project::load(&api.app.state).ok()?;
    let all = all.into_iter().map(|branch| {
        let event = BranchEvent {
            happened: Happened::Changed,
            name: branch.name,
            renamed_from: None,
            suspend_after: settings.suspend_after_of.get(&branch.id).cloned(),
            pool_size: settings.pool_size_of.get(&branch.id).map(|size| size.get()),
            moments: settings.moments_of.contains(&branch.id),
            id: branch.id.clone(),
            state: branch.state,
        };
        (branch.id, event)
    });
    Some(all.collect())
}

fn tell_changes(events: &Events, last: &Seen, now: &Seen) {
    for (id, branch) in &now.branches {
        match last.branches.get(id) {
            Some(before) if before == branch => {}
            Some(before) => events.tell(Data::Branch(BranchEvent {
                renamed_from: Some(before.name.clone()).filter(|name| *name != branch.name),
                ..branch.clone()
            })),
            None => events.tell(Data::Branch(BranchEvent {
                happened: Happened::Created,
                ..branch.clone()
            })),
        }
    }
    let gone = |(id, _): &(&String, &BranchEvent)| !now.branches.contains_key(*id);
    for (_, branch) in last.branches.iter().filter(gone) {
        events.tell(Data::Branch(BranchEvent {
            happened: Happened::Removed,
            ..branch.clone()
        }));
    }
    for (name, compute) in &now.computes {
        let happened = match last.computes.get(name) {
            Some(before) if before == compute => continue,
            Some(_) => Happened::Changed,
            None => Happened::Created,
        };
        events.tell(Data::Compute(ComputeEvent {
            happened,
            ..compute.clone()
        }));
    }
    let gone = |(name, _): &(&String, &ComputeEvent)| !now.computes.contains_key(*name);
    for (_, compute) in last.computes.iter().filter(gone) {
        events.tell(Data::Compute(ComputeEvent {
            happened: Happened::Removed,
            ..compute.clone()
        }));
    }
}
