//! The server's settings: flags over environment over file over defaults.

mod layers;
mod memory;

use crate::place;
use crate::project::WalStore;
use crate::size::ByteSize;
use crate::span::Span;
use layers::Layers;
pub use layers::{ConfigError, KEYS, Key};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

    /// Whether `given` is this token, in a time that depends on `given`'s
    /// length only.
    pub fn matches(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let mut different = own.len() ^ given.len();
        for (i, byte) in given.iter().enumerate() {
            // Wraps around, so that no length of `given` is cheaper.
            different |= usize::from(byte ^ own[i % own.len()]);
        }
        std::hint::black_box(different) == 0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The flags of `xylem server`. Everything left out comes from the
/// environment (`XYLEM_DATA_DIR` for `--data-dir`, and so on), then the file,
/// then the defaults.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServerArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the project
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Address of the gRPC service [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub grpc_listen: Option<String>,
    /// Address of /metrics, /healthz and /readyz [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDR")]
    pub http_listen: Option<String>,
    /// Memory of the page store [default: 512MiB]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Size of a WAL segment file [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub wal_segment_size: Option<String>,
    /// Redo in an open layer before it is flushed [default: 64MiB]
    #[arg(long, value_name = "SIZE")]
    pub open_layer_size: Option<String>,
    /// How long a page read waits for its LSN [default: 5000]
    #[arg(long, value_name = "MS")]
    pub page_wait_timeout_ms: Option<String>,
    /// How long computes may stay connected at a stop [default: 5000]
    #[arg(long, value_name = "MS")]
    pub stop_grace_ms: Option<String>,
    /// Token that callers must send; better in a file
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// error, warn, info, debug, trace, or a tracing filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// URL of the store of catalogue, layers and manifests [default: file:// DIR/store]
    #[arg(long, value_name = "URL")]
    pub object_store: Option<String>,
    /// How far back every moment stays within reach, such as 36h [default: 7d]
    #[arg(long, value_name = "SPAN")]
    pub history: Option<String>,
    /// Where WALs are: local or object; cannot be changed later [default: local]
    #[arg(long, value_name = "WHERE")]
    pub wal_store: Option<String>,
    /// How old a commit may become before a local WAL's copy in the object store
    /// has it, such as 500ms; 0s: no copy [default: 1s with a remote store, else 0s]
    #[arg(long, value_name = "SPAN")]
    pub wal_backup: Option<String>,
    /// Local WALs that are not here are lost: restore them from their copies
    #[arg(long)]
    pub restore_wal: bool,
    /// How long this server may acknowledge commits once another one has claimed the
    /// project, and so how long that one waits [default: 6s]
    #[arg(long, value_name = "SPAN")]
    pub ownership_lease: Option<String>,
    /// What becomes of commits on local WALs while the store does not answer: serve,
    /// or stop when the lease is over [default: serve]
    #[arg(long, value_name = "WHAT")]
    pub on_store_outage: Option<String>,
    /// Local disk for copies of a remote store's objects [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    pub cache_size: Option<String>,
    /// How long the lease of a read-only compute is kept unused [default: 600000]
    #[arg(long, value_name = "MS")]
    pub lease_timeout_ms: Option<String>,
    /// How long a caller may take no answer, or send no item, on a stream [default: 60000]
    #[arg(long, value_name = "MS")]
    pub stall_timeout_ms: Option<String>,
    /// Connections that are open at the same time [default: 4096]
    #[arg(long, value_name = "N")]
    pub connections_max: Option<String>,
    /// Leases of read-only computes that there may be [default: 1000]
    #[arg(long, value_name = "N")]
    pub leases_max: Option<String>,
    /// Threads that read pages from layers [default: twice the processors; 64 with a remote store]
    #[arg(long, value_name = "N")]
    pub page_threads: Option<String>,
    /// Threads that serve connections [default: the processors, at least 2]
    #[arg(long, value_name = "N")]
    pub worker_threads: Option<String>,
    /// Size of a compute's sparse ib_logfile0 [default: 4GiB]
    #[arg(long, value_name = "SIZE")]
    pub compute_redo_log_size: Option<String>,
    /// Lag of ingest behind the WAL from which writers are slowed [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub ingest_lag_soft: Option<String>,
    /// What the scrub in the background reads in a second; 0: none [default: 2MiB]
    #[arg(long, value_name = "SIZE")]
    pub scrub_bytes_per_second: Option<String>,
}

impl ServerArgs {
    fn flag(&self, key: &str) -> Option<String> {
        match key {
            "data_dir" => &self.data_dir,
            "grpc_listen" => &self.grpc_listen,
            "http_listen" => &self.http_listen,
            "memory" => &self.memory,
            "wal_segment_size" => &self.wal_segment_size,
            "open_layer_size" => &self.open_layer_size,
            "page_wait_timeout_ms" => &self.page_wait_timeout_ms,
            "stop_grace_ms" => &self.stop_grace_ms,
            "token" => &self.token,
            "token_file" => &self.token_file,
            "log_format" => &self.log_format,
            "log_level" => &self.log_level,
            "object_store" => &self.object_store,
            "history" => &self.history,
            "wal_store" => &self.wal_store,
            "wal_backup" => &self.wal_backup,
            "ownership_lease" => &self.ownership_lease,
            "on_store_outage" => &self.on_store_outage,
            "cache_size" => &self.cache_size,
            "lease_timeout_ms" => &self.lease_timeout_ms,
            "stall_timeout_ms" => &self.stall_timeout_ms,
            "connections_max" => &self.connections_max,
            "leases_max" => &self.leases_max,
            "page_threads" => &self.page_threads,
            "worker_threads" => &self.worker_threads,
            "compute_redo_log_size" => &self.compute_redo_log_size,
            "ingest_lag_soft" => &self.ingest_lag_soft,
            "scrub_bytes_per_second" => &self.scrub_bytes_per_second,
            _ => &None,
        }
        .clone()
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
    let layers = Layers::read(&|key| args.flag(key), env, file.as_deref())?;
    let mut config = build(&layers)?;
    // For one start, so neither from a file nor from the environment.
    config.restore_wal = args.restore_wal;
    Ok(config)
}

fn build(from: &Layers) -> Result<ServerConfig, ConfigError> {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let data_dir: PathBuf = from.required("data_dir", "say where the project lives")?;
    let object_store = match from.text("object_store") {
        None => place::default_url(&data_dir),
        Some(url) => match place::check(url) {
            Ok(()) => url.to_owned(),
            Err(why) => return Err(from.bad("object_store", &why)),
        },
    };
    // A copy on the same disk is of little use.
    let interval = match place::is_remote(&object_store) {
        true => Duration::from_secs(1),
        false => Duration::ZERO,
    };
    let wal_backup = from.or("wal_backup", Span(interval))?;
    if wal_backup.0 > Duration::from_secs(3600) {
        return Err(from.bad("wal_backup", &format!("{wal_backup} is more than an hour")));
    }
    let ownership_lease = from.or("ownership_lease", Span(Duration::from_secs(6)))?;
    if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&ownership_lease.0) {
        return Err(from.bad(
            "ownership_lease",
            &format!("{ownership_lease} is not between 100ms and 1h"),
        ));
    }
    // A read that waits for the network takes a thread and no processor.
    let page_threads = match place::is_remote(&object_store) {
        true => 64,
        false => 2 * cpus as u64,
    };
    let config = ServerConfig {
        grpc_listen: from.or("grpc_listen", SocketAddr::from(([127, 0, 0, 1], 8080)))?,
        http_listen: from.or("http_listen", SocketAddr::from(([127, 0, 0, 1], 8081)))?,
        memory: from.size("memory", memory::default_bytes(), 32 << 20, 1 << 42)?,
        wal_segment_size: from.size("wal_segment_size", 64 << 20, 1 << 20, 1 << 30)?,
        open_layer_size: from.size("open_layer_size", 64 << 20, 1 << 20, 1 << 32)?,
        page_wait_timeout: Duration::from_millis(from.number(
            "page_wait_timeout_ms",
            5_000,
            1,
            3_600_000,
        )?),
        stop_grace: Duration::from_millis(from.number("stop_grace_ms", 5_000, 0, 3_600_000)?),
        token: token(from)?,
        log_format: from.or("log_format", LogFormat::Text)?,
        log_level: log_level(from)?,
        object_store,
        wal_store: from.or("wal_store", WalStore::Local)?,
        wal_backup,
        restore_wal: false,
        ownership_lease,
        on_store_outage: from.or("on_store_outage", OnStoreOutage::Serve)?,
        cache_size: from.size("cache_size", place::CACHE_BYTES, 64 << 20, 1 << 50)?,
        history: from.or("history", Span(Duration::from_secs(7 * 86_400)))?,
        lease_timeout: Duration::from_millis(from.number(
            "lease_timeout_ms",
            600_000,
            100,
            86_400_000,
        )?),
        stall_timeout: Duration::from_millis(from.number(
            "stall_timeout_ms",
            60_000,
            100,
            3_600_000,
        )?),
        connections_max: from.number("connections_max", 4096, 8, 1 << 20)? as usize,
        leases_max: from.number("leases_max", 1000, 1, 1_000_000)? as usize,
        page_threads: from.number("page_threads", page_threads, 1, 512)? as usize,
        worker_threads: from.number("worker_threads", cpus.max(2) as u64, 1, 512)? as usize,
        compute_redo_log_size: from.size("compute_redo_log_size", 4 << 30, 4 << 20, 512 << 30)?,
        ingest_lag_soft: from.size("ingest_lag_soft", 256 << 20, 1 << 20, 1 << 40)?,
        scrub_bytes_per_second: from.size("scrub_bytes_per_second", 2 << 20, 0, 1 << 40)?,
        data_dir,
    };
    if !config.compute_redo_log_size.0.is_multiple_of(4096) {
        return Err(from.bad(
            "compute_redo_log_size",
            "it must be a multiple of 4096 bytes",
        ));
    }
    Ok(config)
}

fn token(from: &Layers) -> Result<Option<Token>, ConfigError> {
    // A flag over a file's key, whichever of the two names it has.
    match from.stronger("token", "token_file") {
        None => Ok(None),
        Some("token") => {
            let text = from.text("token").unwrap_or_default();
            Token::new(text)
                .map(Some)
                .map_err(|message| from.bad("token", &message))
        }
        Some(_) => {
            let path = from.text("token_file").unwrap_or_default();
            let text = std::fs::read_to_string(path)
                .map_err(|error| from.bad("token_file", &format!("cannot read {path}: {error}")))?;
            Token::new(text.trim())
                .map(Some)
                .map_err(|message| from.bad("token_file", &message))
        }
    }
}

fn log_level(from: &Layers) -> Result<String, ConfigError> {
    let text = from.text("log_level").unwrap_or("info");
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(from.bad("log_level", &error.to_string())),
    }
}
