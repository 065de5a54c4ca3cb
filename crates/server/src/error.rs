//! Why a server does not start, or ended.

use crate::project::catalog::CatalogError;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A server could not start, or ended with a failure.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another server holds the data directory.
    #[error("data directory {} is in use by another server (pid {pid}); stop that one, or give this one its own --data-dir", dir.display())]
    InUse {
        /// Which directory.
        dir: PathBuf,
        /// The holder's process id, as it wrote it.
        pid: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; {}", listen_hint(source, flag))]
    Bind {
        /// Which address.
        addr: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file operation failed.
    #[error("{context}: {source}")]
    Io {
        /// What was tried, and on which file.
        context: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no usable project.
    #[error("{}: {message}", path.display())]
    Project {
        /// Which file, directory or store.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The project's catalogue cannot be read or changed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A branch's WAL cannot be opened or closed.
    #[error("branch {branch}: WAL: {source}")]
    Log {
        /// Which branch.
        branch: String,
        /// What the WAL said.
        source: xylem_wal::WalError,
    },
    /// The page store or a branch of it cannot be opened or closed.
    #[error("branch {branch}: {source}")]
    Store {
        /// Which branch; `*` for the store itself.
        branch: String,
        /// What the store said.
        source: xylem_pages::StoreError,
    },
    /// The branch that a branch left is not open.
    #[error("branch {branch}: the branch that it left, {parent}, is not open")]
    Ancestor {
        /// Which branch.
        branch: String,
        /// The one that it left.
        parent: String,
    },
    /// The gRPC or HTTP service ended by itself.
    #[error("{0}")]
    Serve(String),
}

impl ServerError {
    pub(crate) fn io(context: String, source: std::io::Error) -> ServerError {
        ServerError::Io { context, source }
    }
}

fn listen_hint(error: &std::io::Error, flag: &str) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("something else listens there: stop it, or choose another port with {flag}")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need privileges: choose another with {flag}")
        }
        _ => format!("choose an address of this machine with {flag}"),
    }
}
