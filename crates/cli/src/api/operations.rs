//! Operations: what a request has begun to change. An operation goes on when its caller
//! disconnects, and its outcome is kept for a while.

use super::access::{Access, Caller};
use super::error::Problem;
use super::{Api, events};
use crate::app::{App, Check};
use crate::compute::name::ComputeName;
use crate::failure::{Failure, Kind};
use crate::progress::Listener;
use anyhow::{Context, Result};
use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::future::LocalBoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use xylem_tokens::Right;

#[cfg(test)]
mod tests;

/// Most operations at a time.
const RUNNING_MAX: usize = 32;
/// Most operations at a time of one token, so that others have some left.
const RUNNING_OF_ONE_MAX: usize = 8;
/// How long the outcome of an operation is kept.
const KEPT: Duration = Duration::from_secs(60 * 60);
/// Most operations whose outcomes are kept.
const KEPT_MAX: usize = 1000;
/// The most of them that one token has begun.
const KEPT_OF_ONE_MAX: usize = 100;
/// The request that is not kept from doing its work by others.
const KILL: &str = "POST /v1/computes/{name}/kill";
/// How long a request waits for its operation unless it says otherwise.
pub const WAIT: u64 = 30;
/// The longest such wait, in seconds.
pub const WAIT_MAX: u64 = 300;
/// The longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 256;

/// The header that names a request's operation.
pub const OPERATION: HeaderName = HeaderName::from_static("xylem-operation");
/// The header by which a repeated request gets the operation of the first.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of a request with a key that is sent again: how long ago it was sent first, in
/// milliseconds.
pub const FIRST_SENT: HeaderName = HeaderName::from_static("xylem-first-sent-ms");
/// How long a request may be on its way: it takes some time to connect and to send it.
const ON_ITS_WAY: Duration = Duration::from_secs(30);

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationReport {
    /// Its id.
    pub id: String,
    /// The request, such as `POST /v1/branches`.
    pub call: String,
    /// The branch, compute or token that it is about.
    pub on: String,
    /// Its state.
    pub state: OperationState,
    /// The present work, in words.
    pub progress: Option<String>,
    /// When it began, RFC 3339.
    pub began: String,
    /// When it ended, RFC 3339.
    pub ended: Option<String>,
    /// The document that its request is answered with, if it has succeeded. Only the
    /// token that has begun it sees this.
    #[schema(value_type = Option<Object>)]
    pub result: Option<Value>,
    /// Why it has failed.
    pub problem: Option<Problem>,
}

impl OperationReport {
    /// Without what was found out by the rights of the token that has begun it: names in
    /// its progress and its problem.
    pub fn for_others(mut self) -> OperationReport {
        self.progress = None;
        self.result = None;
        self.problem = self.problem.map(|problem| Problem {
            detail: "only the token that has begun the operation is told why".to_owned(),
            hint: String::new(),
            ..problem
        });
        self
    }
}

/// The state of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// It goes on.
    Running,
    /// It has done its work.
    Succeeded,
    /// It has not.
    Failed,
}

/// The subject of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// A branch, or a compute of it.
    Branch(ComputeName),
    /// The project: its token of this name, or its keys.
    Project(String),
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            On::Branch(name) => name.fmt(f),
            On::Project(what) => f.write_str(what),
        }
    }
}

/// An operation that was begun.
#[derive(Debug)]
pub struct Operation {
    id: String,
    call: String,
    on: On,
    /// The id of the token that has begun it.
    by: String,
    /// The caller's idempotency key, and the request that came with it.
    key: Option<(String, String)>,
    began: Timestamp,
    /// The same on the steady clock.
    began_at: Instant,
    state: watch::Sender<Progress>,
    /// Ends it, if it may be cancelled.
    cancel: Option<CancellationToken>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    text: Option<String>,
    ended: Option<(Timestamp, Result<Outcome, Problem>)>,
}

/// The answer to a request whose operation has succeeded.
#[derive(Clone, Debug)]
pub struct Outcome {
    status: StatusCode,
    location: Option<String>,
    body: Value,
}

impl Outcome {
    /// The document `body`.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn ok<T: Serialize>(body: &T) -> Result<Outcome> {
        Ok(Outcome {
            status: StatusCode::OK,
            location: None,
            body: serde_json::to_value(body).context("cannot express the answer as JSON")?,
        })
    }

    /// The document of what was created at `location`.
    ///
    /// # Errors
    /// As for [`Outcome::ok`].
    pub fn created<T: Serialize>(body: &T, location: String) -> Result<Outcome> {
        Ok(Outcome {
            status: StatusCode::CREATED,
            location: Some(location),
            ..Outcome::ok(body)?
        })
    }
}

/// A request for a change.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The caller.
    pub caller: Caller,
    /// The request, such as `POST /v1/branches`.
    pub call: String,
    /// Its subject.
    pub on: On,
    /// Its idempotency key.
    pub key: Option<String>,
    /// How long ago it was sent first, if this is not the first time.
    pub first_sent: Option<Duration>,
    /// Whether the operation may be cancelled.
    pub cancellable: bool,
    /// All that the request says, to compare it with another of the same key.
    pub said: String,
}

/// The operations of this process.
#[derive(Debug)]
pub struct Operations {
    all: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// The oldest one first.
    operations: VecDeque<Arc<Operation>>,
    /// All later requests are known. Earlier ones were another process's, or were forgotten.
    since: Instant,
}

impl Operation {
    /// The operation as a document, for `caller`.
    pub fn report(&self, caller: &Caller) -> OperationReport {
        let mut report = self.without_result(caller);
        if caller.claims.jti == self.by
            && let Some((_, Ok(outcome))) = &self.state.borrow().ended
        {
            report.result = Some(outcome.body.clone());
        }
        report
    }

    /// The same without its result.
    fn without_result(&self, caller: &Caller) -> OperationReport {
        match caller.claims.jti == self.by {
            true => self.told(),
            false => self.told().for_others(),
        }
    }

    /// Without its result, for the token that has begun it.
    pub fn told(&self) -> OperationReport {
        let now = self.state.borrow();
        let ended = now.ended.as_ref();
        OperationReport {
            id: self.id.clone(),
            call: self.call.clone(),
            on: self.on.to_string(),
            state: match ended {
                None => OperationState::Running,
                Some((_, Ok(_))) => OperationState::Succeeded,
                Some((_, Err(_))) => OperationState::Failed,
            },
            progress: now.text.clone(),
            began: self.began.to_string(),
            ended: ended.map(|(at, _)| at.to_string()),
            result: None,
            problem: ended.and_then(|(_, outcome)| outcome.as_ref().err().cloned()),
        }
    }

    /// Whether `caller` may know of it.
    pub fn is_visible(&self, caller: &Caller) -> bool {
        self.by == caller.claims.jti
            || match &self.on {
                On::Branch(name) => caller.has(Right::Read, name),
                On::Project(_) => caller.claims.allows_all(Right::Admin),
            }
    }

    /// The subject, for events.
    pub fn on(&self) -> &On {
        &self.on
    }

    /// The id of the token that has begun it.
    pub fn by(&self) -> &str {
        &self.by
    }

    /// Whether it has failed because something was in the way, before it changed anything: the
    /// same request may do better.
    fn may_be_repeated(&self) -> bool {
        let state = self.state.borrow();
        let problem = state
            .ended
            .as_ref()
            .and_then(|(_, outcome)| outcome.as_ref().err());
        problem.is_some_and(|problem| problem.unchanged)
    }

    /// Has it end, and leave nothing. It has not ended when this returns.
    ///
    /// # Errors
    /// When `caller` may not cancel it, or it cannot be cancelled.
    pub fn cancel(&self, caller: &Caller) -> Result<(), Problem> {
        if self.by != caller.claims.jti && !caller.claims.allows_all(Right::Admin) {
            let detail = "the operation may be cancelled by the token that has begun it, and by those with admin on all branches";
            return Err(Problem::of(Kind::Denied, detail));
        }
        match &self.cancel {
            Some(cancel) => {
                cancel.cancel();
                Ok(())
            }
            None => Err(Problem::of(
                Kind::Conflict,
                format!(
                    "{} cannot be cancelled: only imports and exports can",
                    self.call
                ),
            )),
        }
    }

    fn is_running(&self) -> bool {
        self.state.borrow().ended.is_none()
    }

    /// Waits until it has ended, for `limit` at most.
    pub async fn wait(&self, limit: Duration) {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|now| now.ended.is_some());
        let _ = tokio::time::timeout(limit, ended).await;
    }

    /// The answer to its request, after `limit` at most.
    pub async fn answer(&self, access: &Access, caller: &Caller, limit: Duration) -> Response {
        self.wait(limit).await;
        // It may have been revoked while it waited.
        if let Err(problem) = access.still_valid(caller) {
            return problem.into_response();
        }
        let ended = self.state.borrow().ended.clone();
        let place = format!("/v1/operations/{}", self.id);
        let mut response = match ended {
            None => {
                let report = self.report(caller);
                let mut response = (StatusCode::ACCEPTED, Json(report)).into_response();
                set(&mut response, header::LOCATION, &place);
                response
            }
            Some((_, Err(problem))) => problem.into_response(),
            Some((_, Ok(outcome))) => {
                let mut response = (outcome.status, Json(outcome.body)).into_response();
                if let Some(location) = &outcome.location {
                    set(&mut response, header::LOCATION, location);
                }
                response
            }
        };
        set(&mut response, OPERATION, &self.id);
        response
    }
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

impl Operations {
    /// None yet, at `now`.
    pub fn new(now: Instant) -> Operations {
        Operations {
            all: Mutex::new(Kept::new(now)),
        }
    }

    /// Begins the work of a request, or finds what an earlier request of the same key has
    /// begun.
    ///
    /// # Errors
    /// When too many operations go on, the key was that of another request, or nobody knows
    /// what an earlier one of the same key has done.
    pub fn begin<W>(&self, api: &Api, asked: Asked, work: W) -> Result<Arc<Operation>, Problem>
    where
        W: FnOnce(App) -> LocalBoxFuture<'static, Result<Outcome>> + Send + 'static,
    {
        let now = api.app.now()?;
        let (operation, new) = self.enter(api, &asked, now)?;
        if !new {
            return Ok(operation);
        }
        events::operation(&api.events, &operation);
        let mut app = api.app.clone();
        let (access, caller) = (Arc::clone(&api.access), asked.caller.clone());
        app.check = Some(Check::new(move || {
            access
                .still_valid(&caller)
                .map_err(|problem| Failure::of(Kind::Unauthenticated, problem.detail, ""))
        }));
        if let Some(cancel) = &operation.cancel {
            app.cancelled = cancel.clone();
        }
        let (told, tells) = (Arc::clone(&operation), Arc::clone(&api.events));
        app.listener = Some(Listener::new(move |text| {
            told.state
                .send_modify(|now| now.text = Some(text.to_owned()));
            events::operation(&tells, &told);
        }));
        // Commands wait for locks and files, and their futures stay on their thread.
        let done = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("cannot start the runtime")?;
            runtime.block_on(work(app))
        });
        let (api, ending) = (api.clone(), Arc::clone(&operation));
        tokio::spawn(async move {
            let outcome = match done.await {
                Ok(done) => done.map_err(|error| Problem::new(&error)),
                Err(error) => Err(Problem::of(
                    Kind::Failed,
                    format!("the operation failed: {error}"),
                )),
            };
            let result = outcome.as_ref().map(|_| ());
            let on = asked.on.to_string();
            api.access.audit(&asked.caller, &asked.call, &on, result);
            let at = api.app.now().unwrap_or(now);
            ending
                .state
                .send_modify(|now| now.ended = Some((at, outcome)));
            events::operation(&api.events, &ending);
        });
        Ok(operation)
    }

    /// The operation of a request, and whether it is new.
    fn enter(
        &self,
        api: &Api,
        asked: &Asked,
        now: Timestamp,
    ) -> Result<(Arc<Operation>, bool), Problem> {
        let by = &asked.caller.claims.jti;
        let said = format!("{} {}", asked.call, asked.said);
        let mut all = self.all.lock();
        // Under the lock: those that wait for the end of the operations know all of them.
        if api.stopping.is_cancelled() {
            let detail = "the API is stopping, and nothing was changed";
            return Err(Problem::of(Kind::Unavailable, detail));
        }
        all.forget(now);
        if let Some(key) = &asked.key {
            let plain = key.bytes().all(|byte| byte.is_ascii_graphic());
            if key.is_empty() || key.len() > KEY_BYTES_MAX || !plain {
                let detail = format!(
                    "Idempotency-Key has 1 to {KEY_BYTES_MAX} characters of ASCII, and no space"
                );
                return Err(Problem::at(StatusCode::BAD_REQUEST, detail));
            }
            let same = |operation: &&Arc<Operation>| {
                operation.by == *by
                    && operation.key.as_ref().is_some_and(|(own, _)| own == key)
                    && !operation.may_be_repeated()
            };
            if let Some(known) = all.operations.iter().find(same) {
                if known.key.as_ref().is_some_and(|(_, own)| *own == said) {
                    return Ok((Arc::clone(known), false));
                }
                return Err(Problem::of(
                    Kind::Invalid,
                    "Idempotency-Key was that of another request",
                )
                .hint("choose a key at random for each request"));
            }
            let now = api.app.clock.instant();
            if asked.first_sent.is_some_and(|ago| all.may_miss(ago, now)) {
                return Err(Problem::of(
                    Kind::Conflict,
                    "the API was started after this request was sent first, or has forgotten it since, and does not know whether it was executed then; nothing was changed now",
                )
                .hint("look whether it was, and if not, send it as a new request"));
            }
        }
        // What ends a compute that hangs must not wait for those that wait for it.
        let is_kill = asked.call == KILL;
        let running = || {
            let running = all.operations.iter().filter(|o| o.is_running());
            running.filter(|o| (o.call == KILL) == is_kill)
        };
        let own = running().filter(|o| o.by == *by).count();
        if running().count() >= RUNNING_MAX || own >= RUNNING_OF_ONE_MAX {
            return Err(Problem::of(
                Kind::Unavailable,
                format!(
                    "too many operations go on: {RUNNING_OF_ONE_MAX} of one token at most, and {RUNNING_MAX} in all"
                ),
            )
            .hint("wait for one of them to end, and try again"));
        }
        let id = api.app.entropy.next().context("no id for an operation")?;
        let operation = Arc::new(Operation {
            id: format!("{id:032x}"),
            call: asked.call.clone(),
            on: asked.on.clone(),
            by: by.clone(),
            key: asked.key.clone().map(|key| (key, said)),
            began: now,
            began_at: api.app.clock.instant(),
            state: watch::Sender::new(Progress::default()),
            // They take long, and are not waited for when the API stops.
            cancel: asked.cancellable.then(|| api.stopping.child_token()),
        });
        all.operations.push_back(Arc::clone(&operation));
        all.forget_of(by);
        Ok((operation, true))
    }

    /// The operations that `caller` may know of, the oldest one first, without results.
    pub fn list(&self, caller: &Caller, now: Timestamp) -> Vec<OperationReport> {
        let mut all = self.all.lock();
        all.forget(now);
        all.operations
            .iter()
            .filter(|operation| operation.is_visible(caller))
            .map(|operation| operation.without_result(caller))
            .collect()
    }

    /// The operation with this id, if `caller` may know of it.
    pub fn find(&self, caller: &Caller, id: &str, now: Timestamp) -> Option<Arc<Operation>> {
        let mut all = self.all.lock();
        all.forget(now);
        let mut found = all.operations.iter();
        let found = found.find(|operation| operation.id == id)?;
        found.is_visible(caller).then(|| Arc::clone(found))
    }

    /// Waits until all have ended, for `limit` at most.
    pub async fn drain(&self, limit: Duration) {
        let running: Vec<Arc<Operation>> = {
            let all = self.all.lock();
            let running = all.operations.iter().filter(|o| o.is_running());
            running.cloned().collect()
        };
        let all = running.iter().map(|operation| operation.wait(limit));
        futures::future::join_all(all).await;
    }
}

impl Kept {
    fn new(now: Instant) -> Kept {
        Kept {
            operations: VecDeque::new(),
            since: now,
        }
    }

    /// Whether a request that was sent so long `ago` may have begun an operation that is not
    /// known.
    fn may_miss(&self, ago: Duration, now: Instant) -> bool {
        ago + ON_ITS_WAY > now.saturating_duration_since(self.since)
    }

    /// Forgets the oldest one of a token that has begun many.
    fn forget_of(&mut self, by: &str) {
        let own = || self.operations.iter().filter(|one| one.by == by);
        if own().count() <= KEPT_OF_ONE_MAX {
            return;
        }
        let mut ended = self.operations.iter();
        if let Some(oldest) = ended.position(|one| one.by == by && !one.is_running()) {
            self.remove(oldest);
        }
    }

    fn remove(&mut self, at: usize) {
        if let Some(gone) = self.operations.remove(at) {
            self.since = self.since.max(gone.began_at);
        }
    }

    /// Forgets operations that ended long ago, and the oldest of too many.
    fn forget(&mut self, now: Timestamp) {
        let oldest = now - KEPT;
        let since = &mut self.since;
        self.operations.retain(|operation| {
            let state = operation.state.borrow();
            let stays = state.ended.as_ref().is_none_or(|(at, _)| *at >= oldest);
            if !stays {
                *since = (*since).max(operation.began_at);
            }
            stays
        });
        while self.operations.len() > KEPT_MAX {
            let ended = self.operations.iter().position(|o| !o.is_running());
            let Some(ended) = ended else { return };
            self.remove(ended);
        }
    }
}
