//! Calls to the server, with errors for people.

mod import;
mod inspect;
pub mod pages;

use crate::app::App;
use crate::failure::{Failure, Kind};
use crate::moment::Moment;
use crate::state::ServerRecord;
use crate::timing::Timer;
use anyhow::{Context, Result};
use std::fmt::Display;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use xylem_ambient::Clock;
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::control::{
    AttachRequest, AttachResponse, BaseBackupRequest, BaseItem, Branch, CreateBranchRequest,
    CreateLeaseRequest, ListBranchesRequest, Moment as WireMoment, RemoveBranchRequest,
    RenameBranchRequest, ReopenBranchRequest, ResolveTimeRequest, ResolveTimeResponse,
    RestoreBranchRequest, RestoreBranchResponse, StatusRequest, StatusResponse, moment::At,
};
use xylem_proto::dial::Way;
use xylem_proto::inspect::inspect_client::InspectClient;

/// Largest answer that is taken: a base backup's items are side files.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// How long it may take to connect to a server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a server that is not ready is asked again.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// How long a change of branches may take: it waits for what is acknowledged to
/// become visible.
const CHANGE_LIMIT: Duration = Duration::from_secs(120);

/// How long an attach may take: longer than the server waits in it for other
/// calls, for ingest, and for the WAL (10, 20 and 25 s), so that a compute that
/// runs is not fenced for a start that nobody waits for any more.
const ATTACH_LIMIT: Duration = Duration::from_secs(70);

/// How similar a name must be to be offered instead of a missing one.
const LIKENESS: f64 = 0.75;

/// The status call, in errors.
const STATUS: &str = "ask for the status";

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Control {
    client: ControlClient<Channel>,
    inspect: InspectClient<Channel>,
    way: Way,
    token: Option<MetadataValue<Ascii>>,
    clock: Clock,
}

impl Control {
    /// Connects to the server of the state directory.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn of(app: &App, server: &ServerRecord) -> Result<Control> {
        Control::with_token(app, server, app.state.token()?).await
    }

    /// Connects to the server of the state directory as the bearer of `token`.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn with_token(
        app: &App,
        server: &ServerRecord,
        token: Option<String>,
    ) -> Result<Control> {
        let way = server.way()?;
        let token = token
            .as_deref()
            .map(MetadataValue::try_from)
            .transpose()
            .map_err(|_| {
                Failure::new(
                    "the server's token has characters that cannot be sent",
                    "use printable ASCII in the file `token`",
                )
            })?;
        let channel = way.connect(CONNECT_LIMIT, |endpoint| endpoint).await;
        let channel = channel.map_err(|e| {
            Failure::of(
                Kind::Unavailable,
                format!("the server at {way} does not answer: {}", root_cause(&e)),
                "see `xylem status`; `xylem up` starts it",
            )
        })?;
        let inspect =
            InspectClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let client = ControlClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Control {
            client,
            inspect,
            way,
            token,
            clock: app.clock.clone(),
        })
    }

    /// A request about the branch `branch`: its name, or `id:` and its id.
    fn request<T>(&self, branch: Option<&(dyn Display + Sync)>, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(branch) = branch {
            let name = MetadataValue::try_from(branch.to_string()).context("branch name")?;
            request.metadata_mut().insert(xylem_proto::BRANCH_KEY, name);
        }
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert(xylem_proto::TOKEN_KEY, token.clone());
        }
        Ok(request)
    }

    fn explain(&self, doing: &str, status: &Status) -> anyhow::Error {
        let hint = match status.code() {
            Code::NotFound => "`xylem branch ls` lists the branches",
            Code::Unauthenticated => {
                "the owner's token is in the state directory's file `token`; if it is gone, restart the server"
            }
            Code::Unavailable => {
                "the server may be starting or stopping: see `xylem status`, and try again"
            }
            Code::AlreadyExists => "choose another name; `xylem branch ls` lists those in use",
            Code::OutOfRange => "use a moment within that history, an LSN or a time: `--at`",
            Code::FailedPrecondition => "",
            Code::ResourceExhausted => "free disk space in the state directory",
            Code::DataLoss => "see server.log in the state directory, and `xylem doctor`",
            Code::Unimplemented => {
                "the server has another version: restart it with `xylem down`, then `xylem up`"
            }
            Code::PermissionDenied => "`xylem token create` makes a token with other rights",
            _ => "see server.log in the state directory",
        };
        let code = format!("{:?}", status.code());
        Failure::of(
            match is_passing(status) {
                true => Kind::Unavailable,
                false => kind_of(status.code()),
            },
            format!(
                "cannot {doing}: server {} says {}: {}",
                self.way,
                code,
                status.message()
            ),
            hint,
        )
    }

    /// The server's status.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn status(&self) -> Result<StatusResponse> {
        self.status_if_up().await?.map_err(|s| self.no_status(&s))
    }

    /// The error for people when [`Control::status_if_up`] has none yet.
    pub fn no_status(&self, status: &Status) -> anyhow::Error {
        self.explain(STATUS, status)
    }

    /// The server's status; the inner error is for a server that is not up yet, or that
    /// does not know the token, when asking again may make sense.
    ///
    /// # Errors
    /// When it refuses to answer.
    pub async fn status_if_up(&self) -> Result<Result<StatusResponse, Status>> {
        let mut request = self.request(None, StatusRequest {})?;
        request.set_timeout(Duration::from_secs(5));
        match self.client.clone().status(request).await {
            Ok(answer) => Ok(Ok(answer.into_inner())),
            // Another project's server does not know the token, and may have the address.
            Err(s) if is_passing(&s) || s.code() == Code::Unauthenticated => Ok(Err(s)),
            Err(s) => Err(self.no_status(&s)),
        }
    }

    /// All branches, with the hidden ones of read-only computes if `leases`.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn branches(&self, leases: bool) -> Result<Vec<Branch>> {
        let message = ListBranchesRequest {
            leases,
            ..ListBranchesRequest::default()
        };
        let mut request = self.request(None, message)?;
        request.set_timeout(Duration::from_secs(30));
        let answer = self.client.clone().list_branches(request).await;
        answer
            .map(|a| a.into_inner().branches)
            .map_err(|s| self.explain("list the branches", &s))
    }

    /// The branch `name`.
    ///
    /// # Errors
    /// When there is none, with the name most like it; when the server cannot
    /// be asked.
    pub async fn branch(&self, name: &(dyn Display + Sync)) -> Result<Branch> {
        match self.find_branch(name).await? {
            Some(branch) => Ok(branch),
            None => Err(self.no_branch(&name.to_string()).await),
        }
    }

    /// The branch `name`; `None` when there is none.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn find_branch(&self, name: &(dyn Display + Sync)) -> Result<Option<Branch>> {
        let timer = Timer::start(&self.clock);
        let message = ListBranchesRequest {
            name: name.to_string(),
            leases: true,
        };
        loop {
            let mut request = self.request(None, message.clone())?;
            request.set_timeout(Duration::from_secs(30));
            match self.client.clone().list_branches(request).await {
                Ok(answer) => return Ok(answer.into_inner().branches.pop()),
                Err(s) if s.code() == Code::NotFound => return Ok(None),
                Err(s) if is_passing(&s) && timer.elapsed() < RETRY_LIMIT => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(s) => return Err(self.explain(&format!("look up branch {name}"), &s)),
            }
        }
    }

    /// The error that there is no branch `name`, which offers the most similar name.
    async fn no_branch(&self, name: &str) -> anyhow::Error {
        let all = self.branches(true).await.unwrap_or_default();
        let names = all.iter().map(|branch| branch.name.as_str());
        let hint = match near(name, names) {
            Some(near) => format!("did you mean {near}? `xylem branch ls` lists all branches"),
            None => "`xylem branch ls` lists the branches".to_owned(),
        };
        Failure::of(Kind::NotFound, format!("there is no branch {name}"), hint)
    }

    /// The result of a change. A missing branch is an error that offers the most
    /// similar name.
    async fn changed<T>(
        &self,
        doing: String,
        name: &(dyn Display + Sync),
        answer: Result<tonic::Response<T>, Status>,
    ) -> Result<T> {
        match answer {
            Ok(answer) => Ok(answer.into_inner()),
            Err(s) if s.code() == Code::NotFound => Err(self.no_branch(&name.to_string()).await),
            Err(s) => Err(self.explain(&doing, &s)),
        }
    }

    fn change<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = self.request(None, message)?;
        request.set_timeout(CHANGE_LIMIT);
        Ok(request)
    }

    /// Creates the branch `name` with the parent `from` and the branch point `at`, or
    /// now.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_branch(
        &self,
        name: &(dyn Display + Sync),
        from: &(dyn Display + Sync),
        at: Option<Moment>,
    ) -> Result<Branch> {
        let request = self.change(CreateBranchRequest {
            name: name.to_string(),
            from: from.to_string(),
            at: at.map(wire),
            empty: false,
        })?;
        let answer = self.client.clone().create_branch(request).await;
        let doing = format!("create branch {name} from {from}");
        self.changed(doing, from, answer).await
    }

    /// Removes a branch.
    ///
    /// # Errors
    /// When the server refuses, as while others depend on it.
    pub async fn remove_branch(&self, name: &(dyn Display + Sync)) -> Result<()> {
        let request = self.change(RemoveBranchRequest {
            name: name.to_string(),
        })?;
        let answer = self.client.clone().remove_branch(request).await;
        let doing = format!("remove branch {name}");
        self.changed(doing, name, answer).await.map(|_| ())
    }

    /// Reopens a branch, and its child branches.
    ///
    /// # Errors
    /// Why it does not open.
    pub async fn reopen_branch(&self, name: &(dyn Display + Sync)) -> Result<Branch> {
        let request = self.change(ReopenBranchRequest {
            name: name.to_string(),
        })?;
        let answer = self.client.clone().reopen_branch(request).await;
        let doing = format!("open branch {name} again");
        self.changed(doing, name, answer).await
    }

    /// Gives a branch another name.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn rename_branch(
        &self,
        old: &(dyn Display + Sync),
        new: &(dyn Display + Sync),
    ) -> Result<Branch> {
        let request = self.change(RenameBranchRequest {
            name: old.to_string(),
            new_name: new.to_string(),
        })?;
        let answer = self.client.clone().rename_branch(request).await;
        let doing = format!("rename branch {old} to {new}");
        self.changed(doing, old, answer).await
    }

    /// Puts a branch back to a moment.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn restore_branch(
        &self,
        name: &(dyn Display + Sync),
        at: Moment,
        keep_as: Option<&(dyn Display + Sync)>,
    ) -> Result<RestoreBranchResponse> {
        let request = self.change(RestoreBranchRequest {
            name: name.to_string(),
            at: Some(wire(at)),
            keep_as: keep_as.map_or_else(String::new, |name| name.to_string()),
        })?;
        let answer = self.client.clone().restore_branch(request).await;
        let doing = format!("restore branch {name} to {at}");
        self.changed(doing, name, answer).await
    }

    /// Makes the hidden branch of a read-only compute, which shows `from` at
    /// `at`, or now.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn create_lease(
        &self,
        from: &(dyn Display + Sync),
        at: Option<Moment>,
    ) -> Result<Branch> {
        let request = self.change(CreateLeaseRequest {
            from: from.to_string(),
            at: at.map(wire),
        })?;
        let answer = self.client.clone().create_lease(request).await;
        let doing = format!("show branch {from} at that moment");
        self.changed(doing, from, answer).await
    }

    /// A moment of a branch, as LSN and as time. With `gtid`, also as the position of the
    /// branch's binary log, which takes longer.
    ///
    /// # Errors
    /// When it lies outside the branch's history.
    pub async fn resolve(
        &self,
        branch: &(dyn Display + Sync),
        at: Option<Moment>,
        gtid: bool,
    ) -> Result<ResolveTimeResponse> {
        let request = self.change(ResolveTimeRequest {
            branch: branch.to_string(),
            at: at.map(wire),
            gtid,
        })?;
        let answer = self.client.clone().resolve_time(request).await;
        let doing = format!("look up a moment of branch {branch}");
        self.changed(doing, branch, answer).await
    }

    /// Takes the right to write `branch`. Asks again while the server is not
    /// ready.
    ///
    /// # Errors
    /// When the server refuses, or there is no such branch.
    pub async fn attach(&self, branch: &(dyn Display + Sync)) -> Result<AttachResponse> {
        let timer = Timer::start(&self.clock);
        loop {
            let mut request = self.request(Some(branch), AttachRequest {})?;
            request.set_timeout(ATTACH_LIMIT);
            match self.client.clone().attach(request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(s) if is_passing(&s) && timer.elapsed() < RETRY_LIMIT => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(s) => return Err(self.explain(&format!("attach to branch {branch}"), &s)),
            }
        }
    }

    /// Gives `take` each item that a compute's data directory needs.
    ///
    /// # Errors
    /// When the server breaks off, or `take` fails.
    pub async fn base_backup(
        &self,
        branch: &(dyn Display + Sync),
        lsn: u64,
        mut take: impl FnMut(BaseItem) -> Result<()>,
    ) -> Result<()> {
        let doing = format!("fetch what a compute of branch {branch} needs at LSN {lsn}");
        let message = BaseBackupRequest {
            lsn,
            all_tablespaces: false,
        };
        let request = self.request(Some(branch), message)?;
        let answer = self.client.clone().base_backup(request).await;
        let mut items = answer.map_err(|s| self.explain(&doing, &s))?.into_inner();
        while let Some(item) = items
            .message()
            .await
            .map_err(|s| self.explain(&doing, &s))?
        {
            take(item)?;
        }
        Ok(())
    }
}

fn wire(moment: Moment) -> WireMoment {
    WireMoment {
        at: Some(match moment {
            Moment::Lsn(lsn) => At::Lsn(lsn),
            Moment::Time(time) => At::Time(time.to_string()),
            Moment::Gtid(gtid) => At::Gtid(gtid.to_string()),
        }),
    }
}

fn kind_of(code: Code) -> Kind {
    match code {
        Code::NotFound => Kind::NotFound,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => Kind::Conflict,
        Code::InvalidArgument | Code::OutOfRange => Kind::Invalid,
        Code::Unauthenticated => Kind::Unauthenticated,
        Code::PermissionDenied => Kind::Denied,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Kind::Unavailable,
        _ => Kind::Failed,
    }
}

/// The name most similar to `name`, if one is similar enough.
pub fn near<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |other: &str| strsim::jaro_winkler(name, other);
    names
        .map(|other| (likeness(other), other))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other)
}

/// Whether asking again makes sense: the server is not up yet, or it was killed
/// and the connection broke, which tonic calls unknown.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        // The last is what a client makes of its own timeout.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => true,
        Code::Unknown => std::error::Error::source(status).is_some(),
        _ => false,
    }
}

/// The innermost cause: tonic's own message is only "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
