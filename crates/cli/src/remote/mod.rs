//! The API of a server elsewhere, for `--server`.

use crate::api::error::{PROBLEM, Problem};
use crate::api::operations::{FIRST_SENT, IDEMPOTENCY_KEY, OperationReport, OperationState};
use crate::app::{App, shell_word};
use crate::args::Global;
use crate::failure::{Failure, Kind};
use anyhow::{Context, Result};
use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};

/// How long it may take to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer may take. The server is asked to wait for less.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The pauses before further tries of a request whose connection broke.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(600),
    Duration::from_millis(1800),
];
/// How long the server waits for the outcome of a change before it tells the progress, in
/// seconds.
const WAIT: u64 = 1;

/// A connection to an API.
pub struct Remote {
    base: Url,
    token: String,
    client: Client,
    clock: Clock,
    entropy: Entropy,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// The path of a resource: `/v1` and `parts`, with all that is not plain escaped.
pub fn path(parts: &[&str]) -> String {
    let mut path = "/v1".to_owned();
    for part in parts {
        path.push('/');
        path.push_str(&encoded(part));
    }
    path
}

/// A part of a path, or a value in a query, as a URL has it.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => {
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

/// `text` without the user and the password that it may have before an `@`: errors are shown
/// and kept.
fn without_user(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://...@{host}"),
        None => format!("...@{host}"),
    }
}

/// A path of the server's machine, as an argument has it.
///
/// # Errors
/// When it is not whole: nobody could say where it begins.
pub fn place(what: &str, path: &Path) -> Result<String> {
    let text = path.to_str().filter(|_| path.is_absolute());
    text.map(str::to_owned).ok_or_else(|| {
        Failure::usage(
            format!("{what} {} is not a whole path", path.display()),
            "with --server it is a directory of the server's machine, such as /srv/backups/main",
        )
    })
}

/// The end of an import or an export there.
#[derive(Debug)]
pub enum Ended<T> {
    /// Its outcome.
    Done(T),
    /// This command was told to end, in this way, and has cancelled it.
    Interrupted(&'static str),
}

/// An answer that has arrived as a whole.
struct Answer {
    status: StatusCode,
    is_problem: bool,
    body: Bytes,
}

/// The outcome of a request for a change.
enum Begun<T> {
    Done(T),
    GoesOn(Box<OperationReport>),
}

/// Reads the address of an API: HTTPS, or HTTP to this machine.
///
/// # Errors
/// When it is neither.
pub fn address(text: &str) -> Result<Url> {
    let wrong = |why: &str| {
        Failure::usage(
            format!("--server {}: {why}", without_user(text)),
            "write it as https://HOST:PORT, as `xylem status` shows it there",
        )
    };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "a token is not part of the address: use --token-file",
        ));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("only a host and a port"));
    }
    let host = url.host_str().unwrap_or_default();
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let local = plain == "localhost" || plain.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if local => Ok(url),
        "http" => Err(wrong("without TLS the token would be seen on the way")),
        other => Err(wrong(&format!("{other} is not HTTPS"))),
    }
}

impl Remote {
    /// The API that the options name, if they name one.
    ///
    /// # Errors
    /// When the address or a file is of no use.
    pub fn find(global: &Global, clock: &Clock, entropy: &Entropy) -> Result<Option<Remote>> {
        let Some(server) = global.server.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let base = address(server)?;
        let Some(file) = &global.token_file else {
            return Err(Failure::usage(
                "--server needs a token",
                "give a file that has it: --token-file FILE, or XYLEM_TOKEN_FILE",
            ));
        };
        let token = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read --token-file {}", file.display()))?;
        // Fails only if there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT);
        if let Some(file) = &global.ca {
            let failed = || format!("cannot use --ca {}", file.display());
            let pem = std::fs::read(file).with_context(failed)?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).with_context(failed)?;
            client = client.tls_certs_only(roots);
        }
        Ok(Some(Remote {
            base,
            token: token.trim().to_owned(),
            client: client.build().context("cannot prepare for HTTPS")?,
            clock: clock.clone(),
            entropy: entropy.clone(),
        }))
    }

    /// A further command for the same API, as it must be typed.
    pub fn command(&self, rest: &str) -> String {
        let by_env = std::env::var_os(crate::args::SERVER).is_some_and(|v| !v.is_empty());
        let base = self.base.as_str().trim_end_matches('/');
        match by_env {
            true => format!("xylem {rest}"),
            false => format!("xylem --server {} {rest}", shell_word(base)),
        }
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder> {
        let url = self.base.join(path).context("the address of a resource")?;
        let request = self.client.request(method, url);
        Ok(request.bearer_auth(&self.token))
    }

    /// Sends `request`, again if the connection breaks before the answer is there. A change has
    /// an idempotency key, so that it is made once; an API that was started meanwhile does not
    /// know the key, and is told how long ago the request may have arrived.
    async fn exchange(&self, request: RequestBuilder) -> Result<Answer> {
        let mut pauses = PAUSES.into_iter();
        let mut sent = None;
        loop {
            let mut again = request
                .try_clone()
                .context("a request that cannot be sent")?;
            let now = (self.clock.instant(), self.clock.now_us());
            if let Some((steady, us)) = sent {
                // The steady clock stands still while the machine sleeps.
                let steady = now.0.saturating_duration_since(steady);
                let ago = steady.max(Duration::from_micros(now.1.saturating_sub(us)));
                again = again.header(FIRST_SENT, ago.as_millis().to_string());
            }
            let error = match answer(again).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.is_connect() {
                sent = sent.or(Some(now));
            }
            let cause = root_cause(&error);
            let bad_certificate = cause.contains("ertificate");
            // Nobody is there: the next try would take as long.
            let no_route = error.is_connect() && error.is_timeout();
            let pause = pauses.next().filter(|_| !bad_certificate && !no_route);
            let Some(pause) = pause else {
                let hint = match bad_certificate {
                    true => {
                        "give the authority of its certificate, a copy of the project's tls/ca.pem: --ca FILE"
                    }
                    false => "`xylem status` there says whether the API runs",
                };
                return Err(Failure::of(
                    Kind::Unavailable,
                    format!("the API at {} does not answer: {cause}", self.base),
                    hint,
                ));
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// The document at `path`.
    ///
    /// # Errors
    /// When the API refuses, or has another.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        document(&self.exchange(self.request(Method::GET, path)?).await?)
    }

    /// Makes a change, and waits for its outcome. Shows its progress meanwhile.
    ///
    /// # Errors
    /// When it fails.
    pub async fn change<B: Serialize, T: DeserializeOwned>(
        &self,
        app: &App,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T> {
        match self.begin(method, path, body, WAIT).await? {
            Begun::Done(done) => Ok(done),
            Begun::GoesOn(operation) => self.follow(app, *operation).await,
        }
    }

    /// Makes a change that takes long, as [`Remote::change`]. If this process is told to end
    /// meanwhile, the change is cancelled there.
    ///
    /// # Errors
    /// When it fails, or cannot be cancelled.
    pub async fn long<B: Serialize, T: DeserializeOwned>(
        &self,
        app: &App,
        path: &str,
        body: &B,
    ) -> Result<Ended<T>> {
        let interrupted = crate::cmd::interrupted()?;
        // Its id first: without it nobody could cancel it.
        let operation = match self.begin(Method::POST, path, Some(body), 0).await? {
            Begun::Done(done) => return Ok(Ended::Done(done)),
            Begun::GoesOn(operation) => *operation,
        };
        let resource = self::path(&["operations", &operation.id]);
        tokio::select! {
            done = self.follow(app, operation) => Ok(Ended::Done(done?)),
            how = interrupted => {
                let cancel = self.request(Method::DELETE, &resource)?;
                let after: OperationReport = document(&self.exchange(cancel).await?)?;
                if after.state == OperationState::Succeeded {
                    anyhow::bail!("{how}, after it was done");
                }
                Ok(Ended::Interrupted(how))
            }
        }
    }

    /// Begins a change, and waits for its outcome for `wait` seconds at most.
    async fn begin<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        wait: u64,
    ) -> Result<Begun<T>> {
        let key = self.entropy.next().context("no idempotency key")?;
        let mut request = self
            .request(method, &format!("{path}?wait={wait}"))?
            .header(IDEMPOTENCY_KEY.as_str(), format!("{key:032x}"));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = self.exchange(request).await?;
        match answer.status {
            StatusCode::ACCEPTED => document(&answer).map(Box::new).map(Begun::GoesOn),
            _ => document(&answer).map(Begun::Done),
        }
    }

    /// Waits for the outcome of `operation`, and shows its progress meanwhile.
    async fn follow<T: DeserializeOwned>(
        &self,
        app: &App,
        mut operation: OperationReport,
    ) -> Result<T> {
        let progress = app.progress();
        loop {
            match (operation.state, operation.problem) {
                (OperationState::Running, _) => {}
                (OperationState::Succeeded, _) => {
                    let result = operation.result.context("the operation has no result")?;
                    return serde_json::from_value(result).context("the result of the operation");
                }
                (OperationState::Failed, Some(problem)) => return Err(problem.into_error()),
                (OperationState::Failed, None) => anyhow::bail!("the operation failed"),
            }
            progress.say(operation.progress.unwrap_or_default());
            let next = format!("{}?wait={WAIT}", self::path(&["operations", &operation.id]));
            operation = self.get(&next).await?;
        }
    }
}

async fn answer(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let kind = response.headers().get(header::CONTENT_TYPE);
    Ok(Answer {
        status: response.status(),
        is_problem: kind.is_some_and(|kind| kind.as_bytes() == PROBLEM.as_bytes()),
        body: response.bytes().await?,
    })
}

/// The document of an answer, or the error that it tells.
fn document<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    if answer.status.is_success() {
        return serde_json::from_slice(&answer.body)
            .context("the answer is not what this version of xylem expects");
    }
    match serde_json::from_slice::<Problem>(&answer.body) {
        Ok(problem) if answer.is_problem => Err(problem.into_error()),
        _ => Err(Failure::new(
            format!("the answer is {}, and no problem document", answer.status),
            "is this the address of a project's API?",
        )),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Refuses a command that only works on the machine of the project.
///
/// # Errors
/// When the options name an API.
pub fn only_local(app: &App, command: &str, hint: &str) -> Result<()> {
    match app.remote {
        None => Ok(()),
        Some(_) => Err(Failure::usage(
            format!("`xylem {command}` works on the machine of the project, not by --server"),
            hint,
        )),
    }
}
