//! Whether mariadbd accepts connections: connect, and read its greeting.
//!
//! mariadbd opens its socket early in its start and answers late, so that
//! being able to connect says nothing; the greeting packet does.

use crate::failure::Failure;
use crate::log_file::died;
use crate::process::Process;
use anyhow::Result;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How often a socket that is not there yet is tried: that takes 10 us.
const POLL: Duration = Duration::from_millis(1);

/// How many attempts pass between two looks whether the process is alive, which read
/// its entry in /proc.
const ATTEMPTS: u32 = 16;

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
/// When it ends before, with the last words of its error log from byte `log_from`
/// on; when it is not ready in time.
pub async fn wait(process: Process, socket: &Path, log: &Path, log_from: u64) -> Result<()> {
    let ready = async {
        let mut attempts = 0_u32;
        loop {
            // Bounded, since a process that dies may leave the read hanging for
            // as long as another holds its socket.
            let attempt = tokio::time::timeout(Duration::from_millis(250), greeted(socket)).await;
            if matches!(attempt, Ok(true)) {
                return Ok(());
            }
            if attempts.is_multiple_of(ATTEMPTS) && !process.is_alive() {
                return Err(died("mariadbd ended before it was ready", log, log_from));
            }
            attempts = attempts.wrapping_add(1);
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(LIMIT, ready).await {
        Ok(ready) => ready,
        Err(_) => Err(Failure::new(
            format!(
                "mariadbd (pid {}) is still not ready after {} s",
                process.pid,
                LIMIT.as_secs()
            ),
            format!(
                "mariadbd goes on starting: watch {}, or end it with `xylem compute kill`",
                log.display()
            ),
        )),
    }
}

async fn greeted(socket: &Path) -> bool {
    let Ok(mut stream) = tokio::net::UnixStream::connect(socket).await else {
        return false;
    };
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.is_ok() && is_greeting(&head)
}

/// How long a quick look waits for an answer.
const LOOK: Duration = Duration::from_millis(300);

/// One quick look.
pub fn probe(socket: &Path) -> bool {
    let Ok(stream) = UnixStream::connect(socket) else {
        return false;
    };
    stream.set_read_timeout(Some(LOOK)).is_ok() && greets(stream)
}

/// One quick look at a TCP port.
pub fn probe_at(address: SocketAddr) -> bool {
    let Ok(stream) = TcpStream::connect_timeout(&address, LOOK) else {
        return false;
    };
    stream.set_read_timeout(Some(LOOK)).is_ok() && greets(stream)
}

fn greets(mut stream: impl Read) -> bool {
    let mut head = [0; 5];
    stream.read_exact(&mut head).is_ok() && is_greeting(&head)
}
