//! The answers to requests, one function for each route, in a file for each kind of resource.

pub mod branches;
pub mod computes;
pub mod operations;
pub mod project;
pub mod tokens;
pub mod transfers;

use super::Api;
use super::access::Caller;
use super::error::{PROBLEM, Problem};
use super::operations::{Asked, FIRST_SENT, IDEMPOTENCY_KEY, On, Outcome, WAIT, WAIT_MAX};
use super::request::moment;
use crate::app::App;
use crate::compute::name::ComputeName;
use crate::control::Control;
use crate::failure::Kind;
use crate::moment::Moment;
use crate::session::Session;
use anyhow::{Context, Result};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::openapi::{Content, Ref, RefOr, Response as Described, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses};
use xylem_types::BranchName;

/// An answer, or why there is none.
pub(super) type Answer<T> = Result<T, Problem>;

/// The refusals and failures of each route, for the OpenAPI document.
pub(super) struct Refused;

/// The same for a route that begins an operation, with the answer that it goes on.
pub(super) struct Begun;

fn described(what: &str, kind: &str, schema: &str) -> RefOr<Described> {
    let content = Content::new(Some(Ref::from_schema_name(schema)));
    let response = ResponseBuilder::new().description(what);
    RefOr::T(response.content(kind, content).build())
}

impl IntoResponses for Refused {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let problem = |what| described(what, PROBLEM, "Problem");
        BTreeMap::from([
            ("4XX".to_owned(), problem("Refused")),
            ("5XX".to_owned(), problem("Failed, or not possible now")),
        ])
    }
}

impl IntoResponses for Begun {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let goes_on = described("It goes on", "application/json", "OperationReport");
        let mut all = Refused::responses();
        all.insert("202".to_owned(), goes_on);
        all
    }
}

/// How long a request waits.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wait {
    /// How long to wait for the outcome, in seconds. Then the answer is 202, and
    /// `Location` names the operation. Default: 30.
    #[param(maximum = 300)]
    wait: Option<u64>,
}

impl Wait {
    pub(super) fn or(&self, default: u64) -> Answer<Duration> {
        let wait = self.wait.unwrap_or(default);
        if wait > WAIT_MAX {
            return Err(invalid(format!("wait: at most {WAIT_MAX} seconds")));
        }
        Ok(Duration::from_secs(wait))
    }
}

/// A branch in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct BranchPath {
    /// The branch's name; `/` in it is written %2F.
    #[param(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*$"
    )]
    name: String,
}

/// A compute in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ComputePath {
    /// The branch's name, or that of a read-only compute, such as main@1.
    #[param(
        max_length = 200,
        pattern = "^[a-zA-Z0-9][a-zA-Z0-9._-]*(/[a-zA-Z0-9][a-zA-Z0-9._-]*)*(@[1-9][0-9]{0,17})?$"
    )]
    name: String,
}

/// The header of a request that may be repeated, for the OpenAPI document.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "a schema")]
pub(super) struct Repeatable {
    /// The same key gives the same operation back. A key that came with another request is
    /// refused.
    #[param(
        rename = "Idempotency-Key",
        nullable = false,
        min_length = 1,
        max_length = 256,
        pattern = "^[!-~]+$"
    )]
    key: Option<String>,
    /// How long ago a request with a key was sent first, in milliseconds, where it is sent
    /// again. If the API was started since then, and does not know the key, it refuses the
    /// request: it may have been executed.
    #[param(
        rename = "Xylem-First-Sent-Ms",
        nullable = false,
        pattern = "^[0-9]{1,12}$"
    )]
    first_sent: Option<String>,
}

pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::of(Kind::Invalid, detail)
}

/// The name of a branch or compute in a path.
pub fn compute_name(text: &str) -> Answer<ComputeName> {
    ComputeName::parse(text).map_err(invalid)
}

pub(super) fn branch_name(text: &str) -> Answer<BranchName> {
    BranchName::parse(text).map_err(|error| invalid(error.to_string()))
}

/// A connection to the server that has the caller's rights.
pub(super) async fn control(api: &Api, caller: &Caller) -> Answer<Control> {
    let server = api.app.state.server_record();
    let Some(server) = server.filter(|server| server.process.is_alive()) else {
        return Err(Problem::of(Kind::Unavailable, "the server does not run")
            .hint("`xylem up` starts it, and so does starting a compute"));
    };
    let token = Some(caller.token.clone());
    Ok(Control::with_token(&api.app, &server, token).await?)
}

/// A session in which the server is asked with the caller's rights.
pub(super) async fn session(app: &App, caller: &Caller) -> Result<Session> {
    as_caller(app, caller, Session::open(app, &app.progress()).await?).await
}

/// As [`session`], beside others that start and end computes or add branches.
pub(super) async fn shared_session(app: &App, caller: &Caller) -> Result<Session> {
    as_caller(app, caller, Session::share(app, &app.progress()).await?).await
}

async fn as_caller(app: &App, caller: &Caller, mut session: Session) -> Result<Session> {
    let server = &session.running.record;
    session.caller = Control::with_token(app, server, Some(caller.token.clone())).await?;
    Ok(session)
}

/// A change, and how its request is to be answered.
pub(super) struct Change {
    api: Api,
    asked: Asked,
    wait: Duration,
}

impl Change {
    pub(super) fn new<T: Serialize>(
        (api, caller): (Api, Caller),
        headers: &HeaderMap,
        wait: &Wait,
        call: &str,
        (on, body): (On, &T),
    ) -> Answer<Change> {
        let key = headers.get(IDEMPOTENCY_KEY);
        let key = key.map(|key| key.to_str().map(str::to_owned));
        let first_sent = headers.get(FIRST_SENT).map(first_sent).transpose()?;
        let body = serde_json::to_string(body).context("the body")?;
        Ok(Change {
            wait: wait.or(WAIT)?,
            asked: Asked {
                caller,
                call: call.to_owned(),
                said: format!("{on} {body}"),
                cancellable: false,
                first_sent,
                on,
                key: key.transpose().map_err(|_| {
                    Problem::at(StatusCode::BAD_REQUEST, "Idempotency-Key is not ASCII")
                })?,
            },
            api,
        })
    }

    /// The same as one that may be cancelled: its work ends when the context says so.
    pub(super) fn cancellable(mut self) -> Change {
        self.asked.cancellable = true;
        self
    }

    /// Begins the change, waits, and answers.
    pub(super) async fn by<W>(self, work: W) -> Answer<Response>
    where
        W: FnOnce(App, Caller) -> LocalBoxFuture<'static, Result<Outcome>> + Send + 'static,
    {
        let caller = self.asked.caller.clone();
        let theirs = caller.clone();
        let begun = self
            .api
            .operations
            .begin(&self.api, self.asked, move |app| work(app, theirs))?;
        Ok(begun.answer(&self.api.access, &caller, self.wait).await)
    }
}

/// The time in [`FIRST_SENT`].
fn first_sent(header: &HeaderValue) -> Answer<Duration> {
    let text = header.to_str().unwrap_or_default();
    let is_number = (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse().ok().filter(|_| is_number) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => Err(Problem::at(
            StatusCode::BAD_REQUEST,
            "Xylem-First-Sent-Ms is a number of up to 12 digits",
        )),
    }
}

/// The moment that a request names.
pub(super) fn at(api: &Api, text: Option<&str>) -> Answer<Option<Moment>> {
    let Some(text) = text else { return Ok(None) };
    let found = moment(text, api.app.now()?);
    found.map(Some).map_err(|why| invalid(format!("at: {why}")))
}
