//! Messages for the server's error log, among them those about an unreachable or
//! slow page server.

use crate::threads::lock;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The severity of a message, in MariaDB's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Information.
    Note,
    /// A problem that may resolve itself.
    Warning,
    /// A problem that a person must look at.
    Error,
}

/// Writes one line to standard error, which is the server's error log, in
/// MariaDB's own format. Control characters are replaced, because the page
/// server's answers may contain some.
pub fn write(level: Level, message: &str) {
    let level = match level {
        Level::Note => "Note",
        Level::Warning => "Warning",
        Level::Error => "ERROR",
    };
    let text: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let line = format!("{} 0 [{level}] Xylem: {text}\n", local_time());
    // One write, so that lines of several threads do not mix. A failure to write
    // to the error log cannot be reported anywhere.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// `YYYY-MM-DD HH:MM:SS` in local time. The hour is padded with a space, as in
/// MariaDB.
fn local_time() -> String {
    // SAFETY: an all-zero tm is a valid value. time and localtime_r write only
    // to the given pointers.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        let now = libc::time(std::ptr::null_mut());
        libc::localtime_r(&now, &mut tm);
        tm
    };
    format!(
        "{}-{:02}-{:02} {:2}:{:02}:{:02}",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec
    )
}

/// The shortest time between two pairs of lines.
const QUIET: Duration = Duration::from_secs(10);

/// Reports once that the page server is unreachable, and once that it is back,
/// however many connections notice it.
#[derive(Debug)]
pub struct Reachability {
    server: String,
    state: Mutex<ReachState>,
}

#[derive(Debug, Default)]
struct ReachState {
    lost_since: Option<Instant>,
    said: bool,
    last_said: Option<Instant>,
}

impl Reachability {
    /// For the server `server` (`host:port`).
    pub fn new(server: String) -> Reachability {
        Reachability {
            server,
            state: Mutex::new(ReachState::default()),
        }
    }

    /// Notes that a connection, or an attempt to connect, failed at `now`.
    pub fn lost(&self, why: &str, retry_limit: Duration, now: Instant) {
        let mut state = lock(&self.state);
        state.lost_since.get_or_insert(now);
        if state.said
            || state
                .last_said
                .is_some_and(|t| now.duration_since(t) < QUIET)
        {
            return;
        }
        state.said = true;
        state.last_said = Some(now);
        drop(state);
        write(
            Level::Warning,
            &format!(
                "page server {} is unreachable: {why}; retrying for up to {} s",
                self.server,
                retry_limit.as_secs_f32()
            ),
        );
    }

    /// Whether a connection failed and none was established since.
    pub fn is_lost(&self) -> bool {
        lock(&self.state).lost_since.is_some()
    }

    /// Notes that a connection was established at `now`.
    pub fn back(&self, now: Instant) {
        let mut state = lock(&self.state);
        let (since, said) = (state.lost_since.take(), std::mem::take(&mut state.said));
        drop(state);
        if let (Some(since), true) = (since, said) {
            let seconds = now.duration_since(since).as_secs_f32();
            write(
                Level::Note,
                &format!(
                    "page server {} is reachable again after {seconds:.1} s",
                    self.server
                ),
            );
        }
    }
}

/// A wait of at least this length is reported.
pub const LONG: Duration = Duration::from_secs(10);
/// The shortest time between two reports.
const AGAIN: Duration = Duration::from_secs(60);

/// Reports long waits for a server that responds that it cannot answer yet, and
/// the end of such waits. They have no time limit.
#[derive(Debug)]
pub struct Stalls {
    server: String,
    said: AtomicBool,
    state: Mutex<StallState>,
    /// Unary calls that are being retried. The connections do not know of them.
    calls: AtomicUsize,
}

/// A unary call that is being retried, from its first failure to its end.
#[derive(Debug)]
pub struct Stalling<'a>(&'a Stalls);

impl Drop for Stalling<'_> {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct StallState {
    since: Option<Instant>,
    last_said: Option<Instant>,
}

impl Stalls {
    /// For the server `server` (`host:port`).
    pub fn new(server: String) -> Stalls {
        Stalls {
            server,
            said: AtomicBool::new(false),
            state: Mutex::new(StallState::default()),
            calls: AtomicUsize::new(0),
        }
    }

    /// Notes that a unary call begins to retry.
    pub fn begin(&self) -> Stalling<'_> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Stalling(self)
    }

    /// Whether something has waited for at least [`LONG`].
    pub fn any(&self) -> bool {
        lock(&self.state).since.is_some()
    }

    /// Notes that something has waited since `since`. `why` is the server's last
    /// answer.
    pub fn waits(&self, since: Instant, why: &str, now: Instant) {
        let waited = now.saturating_duration_since(since);
        if waited < LONG {
            return;
        }
        let mut state = lock(&self.state);
        let since = *state.since.get_or_insert(since);
        if state
            .last_said
            .is_some_and(|t| now.saturating_duration_since(t) < AGAIN)
        {
            return;
        }
        state.last_said = Some(now);
        drop(state);
        self.said.store(true, Ordering::Relaxed);
        write(
            Level::Warning,
            &format!(
                "waiting for {:.0} s for page server {}, which responds: {why}",
                now.saturating_duration_since(since).as_secs_f32(),
                self.server
            ),
        );
    }

    /// Notes that nothing known to the connections has a long wait at `now`.
    pub fn over(&self, now: Instant) {
        if self.calls.load(Ordering::Relaxed) > 0 {
            return;
        }
        let since = lock(&self.state).since.take();
        if let (Some(since), true) = (since, self.said.swap(false, Ordering::Relaxed)) {
            write(
                Level::Note,
                &format!(
                    "page server {} answers again after {:.0} s",
                    self.server,
                    now.saturating_duration_since(since).as_secs_f32()
                ),
            );
        }
    }
}
