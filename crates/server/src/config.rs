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
pub use wal_store::WalStore;
use xylem_ambient::{Clock, Entropy};
use xylem_tls::authority::Paths;
use xylem_tls::{ServerFiles, names};

/// All settings of a server, validated.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Directory of local WALs, the cache and, by default, the store.
    pub data_dir: PathBuf,
    /// Address of the gRPC service. Port 0: any free port.
    pub grpc_listen: SocketAddr,
    /// Address of metrics and health over HTTP. Port 0: any free port.
    pub http_listen: SocketAddr,
    /// The Unix socket for computes on this machine.
    pub compute_socket: Option<PathBuf>,
    /// Memory of the page store, over all branches, in bytes.
    pub memory: ByteSize,
    /// Size of a WAL segment file, in bytes.
    pub wal_segment_size: ByteSize,
    /// Redo bytes in an open layer before it is flushed.
    pub open_layer_size: ByteSize,
    /// How long a page read waits for its LSN by default.
    pub page_wait_timeout: Duration,
    /// How long computes may stay connected after the server is told to stop.
    pub stop_grace: Duration,
    /// The directory of the keys that sign tokens. `None`: callers need no token.
    pub keys_dir: Option<PathBuf>,
    /// The log of what callers did. `None`: there is none.
    pub audit_log: Option<PathBuf>,
    /// The files of TLS. `None`: both ports speak without it.
    pub tls: Option<ServerFiles>,
    /// The project's own certificates.
    pub certificates: Option<Certificates>,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Filter of log lines: a level, or a filter of `tracing`.
    pub log_level: String,
    /// URL of the store, which holds the project's catalogue, layers and manifests.
    pub object_store: String,
    /// How far back every moment of a branch stays readable.
    pub history: Span,
    /// Where the WALs of branches are.
    pub wal_store: WalStore,
    /// The age at which a commit in a local WAL must be in the copy of the WAL in
    /// the object store. Zero: there is no copy.
    pub wal_backup: Span,
    /// Treat WALs that are missing on this server's disk as lost, and restore
    /// them from their copies.
    pub restore_wal: bool,
    /// How long this server may acknowledge commits after another server has
    /// claimed the project. The other server waits for as long.
    pub ownership_lease: Span,
    /// The server's treatment of commits while it cannot ask the store whether
    /// it still owns the project.
    pub on_store_outage: OnStoreOutage,
    /// Limit of the local copies of a remote store's objects, in bytes.
    pub cache_size: ByteSize,
    /// How long an unused lease of a read-only compute is kept.
    pub lease_timeout: Duration,
    /// How long a caller may take no answer, or send no item, on a stream.
    pub stall_timeout: Duration,
    /// Limit of open connections; the server closes further ones at once.
    pub connections_max: usize,
    /// Limit of open connections of one host beyond loopback.
    pub connections_per_host: usize,
    /// Limit of leases of read-only computes.
    pub leases_max: usize,
    /// Threads that read pages from layers.
    pub page_threads: usize,
    /// Threads that serve connections.
    pub worker_threads: usize,
    /// Size of the sparse `ib_logfile0` that a compute starts on, in bytes.
    pub compute_redo_log_size: ByteSize,
    /// How many bytes ingest may lag behind the WAL before writers are slowed.
    pub ingest_lag_soft: ByteSize,
    /// Read rate of the background scrub. 0: there is no background scrub.
    pub scrub_bytes_per_second: ByteSize,
    /// The clock of everything that the server writes and waits for.
    pub clock: Clock,
    /// The source of ids and of the tokens that identify writers.
    pub entropy: Entropy,
}

/// The project's own certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// Their directory.
    pub dir: PathBuf,
    /// Names of this server that it does not know by itself.
    pub names: Vec<String>,
}

impl ServerConfig {
    /// A random number, for an id.
    pub(crate) fn random(&self) -> Result<u128, ServerError> {
        random::number(&self.entropy)
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document per line.
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

/// The server's treatment of commits on local WALs while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub enum OnStoreOutage {
    /// It acknowledges them: another server takes the project over only after
    /// an operator has confirmed that this server does not run.
    #[default]
    Serve,
    /// It lets them wait once its ownership lease has expired, so that another
    /// server may take the project over by itself.
    Stop,
}

impl std::str::FromStr for OnStoreOutage {
    type Err = String;

    fn from_str(text: &str) -> Result<OnStoreOutage, String> {
        match text {
            "serve" => Ok(OnStoreOutage::Serve),
            "stop" => Ok(OnStoreOutage::Stop),
            _ => Err(format!("{text:?} is unknown: use serve or stop")),
        }
    }
}

/// Reads the settings from flags, environment and file. `env` looks a variable up
/// (`|name| std::env::var(name).ok()`). Without `file`, the file is the one that
/// `--config` or `XYLEM_CONFIG` names, if any.
///
/// # Errors
/// A file that cannot be read, an unknown key, or an invalid value. The error
/// says where the value was set.
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
    // It applies to one start only, so neither a file nor the environment sets it.
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
    let certificates = certificates(from)?;
    let config = ServerConfig {
        grpc_listen: from.get(&setting::grpc_listen)?,
        http_listen: from.get(&setting::http_listen)?,
        compute_socket: from.find(&setting::compute_socket)?,
        memory: from
            .find(&setting::memory)?
            .unwrap_or_else(|| ByteSize(memory::default_bytes())),
        wal_segment_size: from.get(&setting::wal_segment_size)?,
        open_layer_size: from.get(&setting::open_layer_size)?,
        page_wait_timeout: from.get::<Span>(&setting::page_wait_timeout)?.0,
        stop_grace: from.get::<Span>(&setting::stop_grace)?.0,
        keys_dir: from.find(&setting::keys_dir)?,
        audit_log: from.find(&setting::audit_log)?,
        tls: tls(from, certificates.as_ref())?,
        certificates,
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
        connections_per_host: from.get(&setting::connections_per_host)?,
        leases_max: from.get(&setting::leases_max)?,
        // A read that waits for the network occupies a thread but no processor.
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
    check_exposure(from, &config)?;
    if !config.compute_redo_log_size.0.is_multiple_of(4096) {
        return Err(from.bad(
            &setting::compute_redo_log_size,
            "it must be a multiple of 4096 bytes",
        ));
    }
    Ok(config)
}

fn certificates(from: &Sources) -> Result<Option<Certificates>, ConfigError> {
    let names = from.text(&setting::tls_names);
    let Some(dir) = from.find(&setting::tls_dir)? else {
        return match names {
            None => Ok(None),
            Some(_) => Err(from.bad(&setting::tls_names, "it needs tls_dir, which is not set")),
        };
    };
    let names = names::listed(names.unwrap_or_default()).map_err(|name| {
        let why = format!("{name:?} is neither a DNS name nor an IP address");
        from.bad(&setting::tls_names, &why)
    })?;
    Ok(Some(Certificates { dir, names }))
}

fn tls(from: &Sources, own: Option<&Certificates>) -> Result<Option<ServerFiles>, ConfigError> {
    let own = own.map(|own| Paths::in_dir(&own.dir).server);
    let given: Option<PathBuf> = from.find(&setting::tls_cert)?;
    let key: Option<PathBuf> = from.find(&setting::tls_key)?;
    let clients = from.find(&setting::tls_client_ca)?;
    if key.is_some() && given.is_none() {
        return Err(from.bad(&setting::tls_key, "it needs tls_cert, which is not set"));
    }
    match given.or(own) {
        None if clients.is_some() => Err(from.bad(
            &setting::tls_client_ca,
            "it needs tls_dir or tls_cert, which are not set",
        )),
        None => Ok(None),
        Some(certificate) => Ok(Some(ServerFiles {
            key: key.unwrap_or_else(|| certificate.clone()),
            clients,
            certificate,
        })),
    }
}

/// Refuses addresses that other machines reach without TLS or without tokens.
fn check_exposure(from: &Sources, config: &ServerConfig) -> Result<(), ConfigError> {
    if from.get::<bool>(&setting::insecure_listen)? {
        return Ok(());
    }
    let lacks = match (&config.tls, &config.keys_dir) {
        (None, _) => "tls_dir: without TLS they read what is sent",
        (_, None) => "keys_dir: without tokens they read and change all branches",
        _ => return Ok(()),
    };
    for (setting, addr) in [
        (&setting::grpc_listen, config.grpc_listen),
        (&setting::http_listen, config.http_listen),
    ] {
        if !addr.ip().to_canonical().is_loopback() {
            return Err(from.bad(
                setting,
                &format!("other machines reach this address. Set {lacks}. Or set insecure_listen=true, in a network that you trust"),
            ));
        }
    }
    Ok(())
}

fn log_level(from: &Sources) -> Result<String, ConfigError> {
    let text: String = from.get(&setting::log_level)?;
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text),
        Err(error) => Err(from.bad(&setting::log_level, &error.to_string())),
    }
}
