//! The server's settings: flags over environment over file over defaults.

mod memory;
mod settings;
mod sources;
mod wal_store;

use crate::error::ServerError;
use crate::place;
use crate::random;
use crate::size::ByteSize;
use crate::span::Span;
use settings as setting;
pub use settings::{SETTINGS, ServerArgs, Setting, markdown};
pub use sources::ConfigError;
use sources::Sources;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use subtle::ConstantTimeEq;
pub use wal_store::WalStore;
use xylem_ambient::{Clock, Entropy};

/// Everything a server can be told, checked.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where the project lives.
    pub data_dir: PathBuf,
    /// Address of the gRPC service. Port 0: any free one.
    pub grpc_listen: SocketAddr,
    /// Address of metrics and health over HTTP. Port 0: any free one.
    pub http_listen: SocketAddr,
    /// Memory of the page store, over all branches, in bytes.
    pub memory: ByteSize,
    /// Size of a WAL segment file, in bytes.
    pub wal_segment_size: ByteSize,
    /// Redo bytes in an open layer before it is flushed.
    pub open_layer_size: ByteSize,
    /// How long a page read waits for its LSN when the caller does not say.
    pub page_wait_timeout: Duration,
    /// How long computes may stay connected after the server was told to stop.
    pub stop_grace: Duration,
    /// What callers must send as `xylem-token`; none: nothing.
    pub token: Option<Token>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written: a level, or a filter of `tracing`.
    pub log_level: String,
    /// URL of the store: the project's catalogue, layers and manifests.
    pub object_store: String,
    /// How far back every moment of a branch stays within reach.
    pub history: Span,
    /// Where branches' WALs are.
    pub wal_store: WalStore,
    /// How old a commit may become before the copy of a WAL on this server's
    /// disk has it, in the object store; zero: there is no copy.
    pub wal_backup: Span,
    /// WALs that are not on this server's disk are lost, and restored.
    pub restore_wal: bool,
    /// How long after another server has claimed the project this one may
    /// acknowledge commits, and so how long the other one waits.
    pub ownership_lease: Span,
    /// What a server does with commits while it cannot ask the store whether
    /// the project is still its own.
    pub on_store_outage: OnStoreOutage,
    /// Local disk that copies of a remote store's objects may take, in bytes.
    pub cache_size: ByteSize,
    /// How long the lease of a read-only compute is kept that nobody uses.
    pub lease_timeout: Duration,
    /// How long a caller may take no answer, or send no item, on a stream.
    pub stall_timeout: Duration,
    /// Connections that are open at the same time; more are closed at once.
    pub connections_max: usize,
    /// Leases of read-only computes that there may be.
    pub leases_max: usize,
    /// Threads that read pages from layers.
    pub page_threads: usize,
    /// Threads that serve connections.
    pub worker_threads: usize,
    /// Size of the sparse `ib_logfile0` that a compute starts on, in bytes.
    pub compute_redo_log_size: ByteSize,
    /// Ingest may lag this many bytes behind the WAL before writers are slowed.
    pub ingest_lag_soft: ByteSize,
    /// What the scrub in the background reads in a second; 0: there is none.
    pub scrub_bytes_per_second: ByteSize,
    /// The time of everything that the server writes and waits for.
    pub clock: Clock,
    /// The source of ids and of what tells writers apart.
    pub entropy: Entropy,
}

impl ServerConfig {
    /// A random number, for an id.
    pub(crate) fn random(&self) -> Result<u128, ServerError> {
        random::number(&self.entropy)
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("{text:?} is not a log format: use text or json")),
        }
    }
}

/// What becomes of commits on local WALs while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub enum OnStoreOutage {
    /// They are acknowledged: nobody takes the project over unless a person
    /// says that this server does not run.
    #[default]
    Serve,
    /// They wait once the lease is over: another server may take the project
    /// over by itself.
    Stop,
}

impl std::str::FromStr for OnStoreOutage {
    type Err = String;

    fn from_str(text: &str) -> Result<OnStoreOutage, String> {
        match text {
            "serve" => Ok(OnStoreOutage::Serve),
            "stop" => Ok(OnStoreOutage::Stop),
            _ => Err(format!("{text:?} is not known: use serve or stop")),
        }
    }
}

/// A secret that is not shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token, unless `text` is empty or cannot travel as gRPC metadata.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn new(text: &str) -> Result<Token, String> {
        if text.is_empty() {
            return Err("the token is empty".to_owned());
        }
        if !text.bytes().all(|b| (0x21..0x7f).contains(&b)) {
            return Err("the token may have visible ASCII characters only, no spaces".to_owned());
        }
        Ok(Token(text.to_owned()))
    }

    /// Whether `given` is this token. The time it takes depends on the lengths
    /// only.
    pub fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The settings from flags, environment and file. `env` looks a variable up
/// (`|name| std::env::var(name).ok()`). `file`, when none, is what `--config`
/// or `XYLEM_CONFIG` names, or none.
///
/// # Errors
/// A file that cannot be read, a key that is not known, a value that makes no
/// sense: always with the place it came from.
pub fn load(
    args: &ServerArgs,
    env: &dyn Fn(&str) -> Option<String>,
    file: Option<&Path>,
) -> Result<ServerConfig, ConfigError> {
    let file = file
        .map(Path::to_owned)
        .or_else(|| args.config.clone())
        .or_else(|| env("XYLEM_CONFIG").map(PathBuf::from));
    let sources = Sources::read(&|name| args.flag(name), env, file.as_deref())?;
    let mut config = build(&sources)?;
    // For one start, so neither from a file nor from the environment.
    config.restore_wal = args.restore_wal;
    Ok(config)
}

fn build(from: &Sources) -> Result<ServerConfig, ConfigError> {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let data_dir: PathBuf = from.get(&setting::data_dir)?;
    let object_store = match from.text(&setting::object_store) {
        None => place::default_url(&data_dir),
        Some(url) => match place::check(url) {
            Ok(()) => url.to_owned(),
            Err(why) => return Err(from.bad(&setting::object_store, &why)),
        },
    };
    let remote = place::is_remote(&object_store);
    let config = ServerConfig {
        grpc_listen: from.get(&setting::grpc_listen)?,
        http_listen: from.get(&setting::http_listen)?,
        memory: from
            .find(&setting::memory)?
            .unwrap_or_else(|| ByteSize(memory::default_bytes())),
        wal_segment_size: from.get(&setting::wal_segment_size)?,
        open_layer_size: from.get(&setting::open_layer_size)?,
        page_wait_timeout: from.get::<Span>(&setting::page_wait_timeout)?.0,
        stop_grace: from.get::<Span>(&setting::stop_grace)?.0,
        token: token(from)?,
        log_format: from.get(&setting::log_format)?,
        log_level: log_level(from)?,
        wal_store: from.get(&setting::wal_store)?,
        // A backup on the same disk is of little use.
        wal_backup: from
            .find(&setting::wal_backup)?
            .unwrap_or(Span(Duration::from_secs(u64::from(remote)))),
        restore_wal: false,
        ownership_lease: from.get(&setting::ownership_lease)?,
        on_store_outage: from.get(&setting::on_store_outage)?,
        cache_size: from.get(&setting::cache_size)?,
        history: from.get(&setting::history)?,
        lease_timeout: from.get::<Span>(&setting::lease_timeout)?.0,
        stall_timeout: from.get::<Span>(&setting::stall_timeout)?.0,
        connections_max: from.get(&setting::connections_max)?,
        leases_max: from.get(&setting::leases_max)?,
        // A read that waits for the network takes a thread and no processor.
        page_threads: from.find(&setting::page_threads)?.unwrap_or(if remote {
            64
        } else {
            2 * cpus
        }),
        worker_threads: from.find(&setting::worker_threads)?.unwrap_or(cpus.max(2)),
        compute_redo_log_size: from.get(&setting::compute_redo_log_size)?,
        ingest_lag_soft: from.get(&setting::ingest_lag_soft)?,
        scrub_bytes_per_second: from.get(&setting::scrub_bytes_per_second)?,
        clock: Clock::system(),
        entropy: Entropy::system(),
        object_store,
        data_dir,
    };
    if !config.compute_redo_log_size.0.is_multiple_of(4096) {
        return Err(from.bad(
            &setting::compute_redo_log_size,
            "it must be a multiple of 4096 bytes",
        ));
    }
    Ok(config)
}

fn token(from: &Sources) -> Result<Option<Token>, ConfigError> {
    // A flag over a file's key, whichever of the two names it has.
    let Some(given) = from.stronger(&setting::token, &setting::token_file) else {
        return Ok(None);
    };
    let text = from.text(given).unwrap_or_default();
    let token = if given.name == setting::token.name {
        Token::new(text)
    } else {
        let text = std::fs::read_to_string(text)
            .map_err(|error| from.bad(given, &format!("cannot read {text}: {error}")))?;
        Token::new(text.trim())
    };
    token.map(Some).map_err(|message| from.bad(given, &message))
}

fn log_level(from: &Sources) -> Result<String, ConfigError> {
    let text: String = from.get(&setting::log_level)?;
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text),
        Err(error) => Err(from.bad(&setting::log_level, &error.to_string())),
    }
}
