//! The metrics of the gateway, which is a process of its own: it writes them to each
//! connection to a Unix socket in the state directory. The API serves them to others.

use crate::files::SECRET;
use crate::state::StateDir;
use anyhow::{Context, Result};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use xylem_gateway::Gateway;

/// How long the gateway may take to tell its metrics, and a reader to take them.
const LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read.
const BYTES_MAX: u64 = 64 << 20;
/// The pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Tells the metrics of `gateway` to all who ask, until it is dropped. The first gateway of a
/// state directory does.
pub async fn tell(state: &StateDir, gateway: Gateway) {
    let listener = match listen(state).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("the metrics of this gateway cannot be read: {error:#}");
            return std::future::pending().await;
        }
    };
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let text = gateway.scrape();
        tokio::spawn(tokio::time::timeout(LIMIT, async move {
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
        }));
    }
}

async fn listen(state: &StateDir) -> Result<UnixListener> {
    let path = state
        .gateway_metrics()
        .context("the path of the state directory is too long for a socket")?;
    // One that another gateway left behind.
    match UnixStream::connect(&path).await {
        Ok(_) => anyhow::bail!("another gateway tells its own at {}", path.display()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(&path)?;
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&path, Permissions::from_mode(SECRET))?;
    Ok(listener)
}

/// The metrics of the gateway that runs, in the OpenMetrics text format.
///
/// # Errors
/// When none runs, or it does not answer.
pub async fn read(state: &StateDir) -> Result<String> {
    let path = state.gateway_metrics().context("it has no socket")?;
    let read = async {
        let stream = UnixStream::connect(&path).await?;
        let mut text = String::new();
        stream.take(BYTES_MAX).read_to_string(&mut text).await?;
        io::Result::Ok(text)
    };
    let text = tokio::time::timeout(LIMIT, read).await;
    text.context("it does not answer")?
        .with_context(|| format!("cannot read {}", path.display()))
}
