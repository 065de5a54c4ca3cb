//! Whether mariadbd accepts connections: connect, and read its greeting.
//!
//! mariadbd opens its socket early in its start and answers late, so that
//! being able to connect says nothing; the greeting packet does.

use crate::failure::Failure;
use crate::files;
use crate::proc::Process;
use anyhow::Result;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

/// How often a socket that is not there yet is tried.
const POLL: Duration = Duration::from_millis(4);

/// How long a compute may take to get ready.
pub const LIMIT: Duration = Duration::from_secs(180);

/// A packet's header: 3 bytes of length, 1 of sequence; then the first byte:
/// the protocol version, or 0xff for an error (too many connections, say),
/// which also comes from a server that is up.
/// (<https://mariadb.com/kb/en/connection/#initial-handshake-packet>)
fn is_greeting(head: &[u8; 5]) -> bool {
    head[3] == 0 && matches!(head[4], 10 | 0xff)
}

/// Waits until `process` accepts connections on `socket`.
///
/// # Errors
/// When it ends before, with what its log (from byte `log_from` on) says; when
/// it is not ready in time.
pub async fn wait(process: Process, socket: &Path, log: &Path, log_from: u64) -> Result<()> {
    let begin = Instant::now();
    loop {
        // Bounded, since a process that dies may leave the read hanging for
        // as long as another holds its socket.
        let attempt = tokio::time::timeout(Duration::from_millis(250), greeted(socket)).await;
        if matches!(attempt, Ok(true)) {
            return Ok(());
        }
        if !process.is_alive() {
            return Err(died("mariadbd ended before it was ready", log, log_from));
        }
        if begin.elapsed() > LIMIT {
            return Err(Failure::new(
                format!(
                    "mariadbd (pid {}) is still not ready after {} s",
                    process.pid,
                    LIMIT.as_secs()
                ),
                format!(
                    "it goes on starting: watch {}, or end it with `xylem compute kill`",
                    log.display()
                ),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn greeted(socket: &Path) -> bool {
    let Ok(mut stream) = tokio::net::UnixStream::connect(socket).await else {
        return false;
    };
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.is_ok() && is_greeting(&head)
}

/// One quick look.
pub fn probe(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return false;
    };
    let mut head = [0; 5];
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .is_ok()
        && stream.read_exact(&mut head).is_ok()
        && is_greeting(&head)
}

/// `what`, with the last words of the log.
pub fn died(what: &str, log: &Path, log_from: u64) -> anyhow::Error {
    let words = files::last_words(log, log_from);
    let words = if words.is_empty() {
        "  (its log is empty)".to_owned()
    } else {
        words
    };
    Failure::new(
        format!("{what}; its log says:\n{words}"),
        format!("the whole log is {}", log.display()),
    )
}
