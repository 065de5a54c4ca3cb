//! What a connection is told at its start, with the defaults filled in.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_ambient::{Clock, Entropy};

/// Page connections when the caller asks for none in particular.
pub const CONNECTIONS: u32 = 2;
/// More than this is a mistake.
pub const CONNECTIONS_MAX: u32 = 64;
/// One attempt to connect.
pub const CONNECT_TIMEOUT_MS: u32 = 2_000;
/// One attempt at a request.
pub const REQUEST_TIMEOUT_MS: u32 = 10_000;
/// How long a server may be gone.
pub const RETRY_LIMIT_MS: u32 = 60_000;
/// Redo kept until it is durable.
pub const QUEUE_BYTES: u64 = 64 << 20;

/// `xylem_config`, checked and owned.
#[derive(Clone, Debug)]
pub struct Config {
    /// Host name or address.
    pub host: String,
    /// gRPC port.
    pub port: u16,
    /// The branch's name.
    pub branch: String,
    /// 0: a reader.
    pub epoch: u64,
    /// The project's token.
    pub token: Option<String>,
    /// The data directory; `None` when there is none.
    pub datadir: Option<PathBuf>,
    /// Where the compute's own redo begins.
    pub start_lsn: u64,
    /// Page connections.
    pub connections: u32,
    /// One attempt to connect.
    pub connect_timeout: Duration,
    /// One attempt at a request, at the start.
    pub request_timeout_ms: u32,
    /// How long the server may be gone, at the start.
    pub retry_limit_ms: u32,
    /// Redo kept until it is durable.
    pub queue_bytes: u64,
    /// The time of every deadline.
    pub clock: Clock,
    /// The source of jitter between attempts.
    pub entropy: Entropy,
}

impl Config {
    /// A reader of branch `main` at `host:port`, everything else at its default.
    pub fn new(host: &str, port: u16) -> Config {
        Config {
            host: host.to_owned(),
            port,
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

    /// `host:port`, with the brackets that an IPv6 address needs.
    pub fn server(&self) -> String {
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// The limits that may change while the library runs, and when the server was
/// last heard of: only a server that is gone counts against them.
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
    /// With these values.
    pub fn new(request_timeout_ms: u32, retry_limit_ms: u32, clock: Clock) -> Limits {
        Limits {
            request_timeout_ms: AtomicU32::new(request_timeout_ms),
            retry_limit_ms: AtomicU32::new(retry_limit_ms),
            began: clock.instant(),
            clock,
            heard: AtomicU64::new(0),
        }
    }

    /// The present instant.
    pub fn now(&self) -> Instant {
        self.clock.instant()
    }

    /// Changes them; 0 leaves a value as it is.
    pub fn set(&self, request_timeout_ms: u32, retry_limit_ms: u32) {
        if request_timeout_ms != 0 {
            self.request_timeout_ms
                .store(request_timeout_ms, Ordering::Relaxed);
        }
        if retry_limit_ms != 0 {
            self.retry_limit_ms.store(retry_limit_ms, Ordering::Relaxed);
        }
    }

    /// One attempt at a request.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.load(Ordering::Relaxed).into())
    }

    /// How long the server may be gone before what waits for it fails.
    pub fn retry_limit(&self) -> Duration {
        Duration::from_millis(self.retry_limit_ms.load(Ordering::Relaxed).into())
    }

    /// The page server itself said something at `now`, be it that the caller
    /// must wait. A pong of HTTP/2 does not count: a proxy may have sent it.
    pub fn heard(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.began).as_millis();
        let ms = u64::try_from(ms).unwrap_or(u64::MAX - 1) + 1;
        self.heard.fetch_max(ms, Ordering::Relaxed);
    }

    /// When it last did; `None` when it never has.
    pub fn last_heard(&self) -> Option<Instant> {
        match self.heard.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(self.began + Duration::from_millis(ms - 1)),
        }
    }

    /// When a wait that began at `since` fails, unless the server is heard of
    /// before: the server may be gone for the retry limit, but may let the
    /// caller wait for as long as it says so.
    pub fn gives_up(&self, since: Instant) -> Instant {
        let from = self.last_heard().map_or(since, |heard| heard.max(since));
        from + self.retry_limit()
    }

    /// How often a connection looks at its deadlines and its server's pulse.
    pub fn tick(&self) -> Duration {
        (self.silence() / 4).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }

    /// How long the server may say nothing to those who wait before it is asked
    /// whether it is there: well before it counts as gone.
    pub fn silence(&self) -> Duration {
        (self.request_timeout() / 2).min(self.retry_limit() / 4)
    }
}
