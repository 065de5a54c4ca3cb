//! The configuration of a connection, and its defaults.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_ambient::{Clock, Entropy};
use xylem_channel::ClientTls;

/// The default number of page connections.
pub const CONNECTIONS: u32 = 4;
/// The largest number of page connections.
pub const CONNECTIONS_MAX: u32 = 64;
/// The default timeout of an attempt to connect.
pub const CONNECT_TIMEOUT_MS: u32 = 2_000;
/// The default timeout of an attempt at a request.
pub const REQUEST_TIMEOUT_MS: u32 = 10_000;
/// The default time for which the server may be silent before calls fail.
pub const RETRY_LIMIT_MS: u32 = 60_000;
/// The default size of the redo queue.
pub const QUEUE_BYTES: u64 = 64 << 20;

/// `xylem_config`, checked and owned.
#[derive(Clone, Debug)]
pub struct Config {
    /// Host name or address.
    pub host: String,
    /// The port of gRPC and of the compute protocol.
    pub port: u16,
    /// The server's Unix socket, which is used instead of `host` and `port`.
    pub socket: Option<PathBuf>,
    /// Whom this compute trusts; `None`: no TLS. A Unix socket needs none.
    pub tls: Option<Arc<ClientTls>>,
    /// The branch's name.
    pub branch: String,
    /// The epoch of the compute's attach; 0 for a reader.
    pub epoch: u64,
    /// The project's token.
    pub token: Option<String>,
    /// The absolute path of the data directory.
    pub datadir: Option<PathBuf>,
    /// The LSN at which the compute's own redo begins.
    pub start_lsn: u64,
    /// The largest number of connections for page reads that threads wait for.
    pub connections: u32,
    /// The timeout of an attempt to connect.
    pub connect_timeout: Duration,
    /// The initial timeout of an attempt at a request.
    pub request_timeout_ms: u32,
    /// The initial time for which the server may be silent before calls fail.
    pub retry_limit_ms: u32,
    /// The size of the queue of redo that is not durable yet.
    pub queue_bytes: u64,
    /// The clock of every deadline.
    pub clock: Clock,
    /// The source of jitter between attempts.
    pub entropy: Entropy,
}

impl Config {
    /// The configuration of a reader of branch `main`, with default limits.
    pub fn new(host: &str, port: u16) -> Config {
        Config {
            host: host.to_owned(),
            port,
            socket: None,
            tls: None,
            branch: "main".to_owned(),
            epoch: 0,
            token: None,
            datadir: None,
            start_lsn: 0,
            connections: CONNECTIONS,
            connect_timeout: Duration::from_millis(CONNECT_TIMEOUT_MS.into()),
            request_timeout_ms: REQUEST_TIMEOUT_MS,
            retry_limit_ms: RETRY_LIMIT_MS,
            queue_bytes: QUEUE_BYTES,
            clock: Clock::system(),
            entropy: Entropy::system(),
        }
    }

    /// The server in messages: the path of its socket, or `host:port`, with brackets
    /// around an IPv6 address.
    pub fn server(&self) -> String {
        if let Some(path) = &self.socket {
            path.display().to_string()
        } else if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The time limits, which can change while the library runs, and the time of the
/// server's last answer. The retry limit counts only silence of the server.
#[derive(Debug)]
pub struct Limits {
    request_timeout_ms: AtomicU32,
    retry_limit_ms: AtomicU32,
    clock: Clock,
    began: Instant,
    /// Milliseconds from `began` to the newest answer, plus one; 0 for none.
    heard: AtomicU64,
}

impl Limits {
    /// Limits with these values, in milliseconds.
    pub fn new(request_timeout_ms: u32, retry_limit_ms: u32, clock: Clock) -> Limits {
        Limits {
            request_timeout_ms: AtomicU32::new(request_timeout_ms),
            retry_limit_ms: AtomicU32::new(retry_limit_ms),
            began: clock.instant(),
            clock,
            heard: AtomicU64::new(0),
        }
    }

    /// The current instant.
    pub fn now(&self) -> Instant {
        self.clock.instant()
    }

    /// Changes the limits, in milliseconds. 0 keeps a value.
    pub fn set(&self, request_timeout_ms: u32, retry_limit_ms: u32) {
        if request_timeout_ms != 0 {
            self.request_timeout_ms
                .store(request_timeout_ms, Ordering::Relaxed);
        }
        if retry_limit_ms != 0 {
            self.retry_limit_ms.store(retry_limit_ms, Ordering::Relaxed);
        }
    }

    /// The timeout of an attempt at a request.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.load(Ordering::Relaxed).into())
    }

    /// The time for which the server may be silent before calls fail.
    pub fn retry_limit(&self) -> Duration {
        Duration::from_millis(self.retry_limit_ms.load(Ordering::Relaxed).into())
    }

    /// Notes that the page server answered at `now`, even if only that the caller
    /// must wait.
    pub fn heard(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.began).as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX - 1) + 1;
        self.heard.fetch_max(ms, Ordering::Relaxed);
    }

    /// The time of the server's last answer; `None` if there was none.
    pub fn last_heard(&self) -> Option<Instant> {
        match self.heard.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(self.began + Duration::from_millis(ms - 1)),
        }
    }

    /// When a wait that began at `since` fails, unless the server answers before.
    /// The server may be silent for the retry limit, but may make a caller wait
    /// without a limit as long as it answers.
    pub fn gives_up(&self, since: Instant) -> Instant {
        let from = self.last_heard().map_or(since, |heard| heard.max(since));
        from + self.retry_limit()
    }

    /// The interval at which a connection checks its deadlines and the pulse of
    /// its server.
    pub fn tick(&self) -> Duration {
        (self.silence() / 4).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }

    /// The time for which the server may leave a waiting call without an answer
    /// before the client pings it. It is well below the retry limit.
    pub fn silence(&self) -> Duration {
        (self.request_timeout() / 2).min(self.retry_limit() / 4)
    }
}
