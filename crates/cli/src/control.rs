//! Calls to the server's Control service, with errors that people understand.

mod inspect;

use crate::failure::Failure;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::control::{
    AttachRequest, AttachResponse, BaseBackupRequest, BaseItem, Branch, ListBranchesRequest,
    StatusRequest, StatusResponse,
};
use xylem_proto::inspect::inspect_client::InspectClient;
use xylem_types::BranchName;

/// Largest answer that is taken: a base backup's items are side files.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// How long a server that says "retry" is asked again.
const RETRY_LIMIT: Duration = Duration::from_secs(30);

/// What asking for the status is called in errors.
const STATUS: &str = "ask for the status";

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Control {
    client: ControlClient<Channel>,
    inspect: InspectClient<Channel>,
    address: String,
    token: Option<MetadataValue<Ascii>>,
}

impl Control {
    /// Connects to `host:port`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(address: &str, token: Option<&str>) -> Result<Control> {
        let token = token
            .map(MetadataValue::try_from)
            .transpose()
            .map_err(|_| {
                Failure::new(
                    "the token holds characters that cannot be sent",
                    "use printable ASCII",
                )
            })?;
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .with_context(|| format!("{address:?} is not an address"))?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect()
            .await
            .map_err(|e| {
                Failure::new(
                    format!(
                        "the server at {address} does not answer: {}",
                        root_cause(&e)
                    ),
                    "see `xylem status`; `xylem up` starts it",
                )
            })?;
        let inspect =
            InspectClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let client = ControlClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Control {
            client,
            inspect,
            address: address.to_owned(),
            token,
        })
    }

    fn request<T>(&self, branch: Option<&BranchName>, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(branch) = branch {
            let name = MetadataValue::try_from(branch.as_str()).context("branch name")?;
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
            Code::NotFound => "`xylem branch ls` shows the branches there are",
            Code::Unauthenticated => {
                "put the server's token into the state directory's file `token`"
            }
            Code::Unavailable => "it may be starting or stopping: try again, see `xylem status`",
            Code::ResourceExhausted => "free disk space where the state directory lies",
            Code::DataLoss => "see server.log in the state directory, and `xylem doctor`",
            Code::Unimplemented => {
                "the server is of another version: stop it with `xylem down`, then `xylem up`"
            }
            _ => "see server.log in the state directory",
        };
        let code = format!("{:?}", status.code());
        Failure::new(
            format!(
                "cannot {doing}: server {} says {}: {}",
                self.address,
                code,
                status.message()
            ),
            hint,
        )
    }

    /// How the server does.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn status(&self) -> Result<StatusResponse> {
        self.status_if_up()
            .await?
            .map_err(|s| self.explain(STATUS, &s))
    }

    /// How the server does; inside, what it said when it is not up yet, and
    /// asking again makes sense.
    ///
    /// # Errors
    /// When it refuses to answer.
    pub async fn status_if_up(&self) -> Result<Result<StatusResponse, Status>> {
        let mut request = self.request(None, StatusRequest {})?;
        request.set_timeout(Duration::from_secs(5));
        match self.client.clone().status(request).await {
            Ok(answer) => Ok(Ok(answer.into_inner())),
            Err(s) if is_passing(&s) => Ok(Err(s)),
            Err(s) => Err(self.explain(STATUS, &s)),
        }
    }

    /// All branches.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn branches(&self) -> Result<Vec<Branch>> {
        let mut request = self.request(None, ListBranchesRequest {})?;
        request.set_timeout(Duration::from_secs(10));
        let answer = self.client.clone().list_branches(request).await;
        answer
            .map(|a| a.into_inner().branches)
            .map_err(|s| self.explain("list the branches", &s))
    }

    /// Takes the right to write `branch`. Asks again while the server is not
    /// ready.
    ///
    /// # Errors
    /// When the server refuses, or there is no such branch.
    pub async fn attach(&self, branch: &BranchName) -> Result<AttachResponse> {
        let begin = Instant::now();
        loop {
            let request = self.request(Some(branch), AttachRequest {})?;
            match self.client.clone().attach(request).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(s) if is_passing(&s) && begin.elapsed() < RETRY_LIMIT => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(s) => return Err(self.explain(&format!("attach to branch {branch}"), &s)),
            }
        }
    }

    /// What a compute's directory needs, item by item, to `take`.
    ///
    /// # Errors
    /// When the server breaks off, or `take` fails.
    pub async fn base_backup(
        &self,
        branch: &BranchName,
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
