//! Errors that keep a server from starting, or end it.

use crate::project::catalog::CatalogError;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A server could not start, or ended with a failure.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another server holds the data directory.
    #[error("data directory {} is in use by another server (pid {pid}); stop that server, or start this one with another --data-dir", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// The other server's process id, as that server wrote it.
        pid: String,
    },
    /// The server cannot listen on an address.
    #[error("cannot listen on {addr}: {source}; {}", listen_hint(source, flag))]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The flag that sets it.
        flag: &'static str,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file operation failed.
    #[error("{context}: {source}")]
    Io {
        /// The operation and the file.
        context: String,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The keys of tokens cannot be used.
    #[error("{0}")]
    Keys(String),
    /// The certificates cannot be used.
    #[error(
        "a certificate, a key or an authority of --tls-cert, --tls-key or --tls-client-ca is of no use: {0}"
    )]
    Tls(#[from] xylem_channel::TlsError),
    /// The project's own certificates cannot be made.
    #[error("--tls-dir: {0}")]
    Authority(#[from] xylem_tls::authority::AuthorityError),
    /// There is no usable project.
    #[error("{}: {message}", path.display())]
    Project {
        /// The file, directory or store.
        path: PathBuf,
        /// The problem.
        message: String,
    },
    /// The project's catalogue cannot be read or changed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A branch's WAL cannot be opened or closed.
    #[error("branch {branch}: WAL: {source}")]
    Wal {
        /// The branch.
        branch: String,
        /// The WAL's error.
        source: xylem_wal::WalError,
    },
    /// The page store or a branch of it cannot be opened or closed.
    #[error("branch {branch}: {source}")]
    Store {
        /// The branch; `*` for the store itself.
        branch: String,
        /// The store's error.
        source: xylem_pages::StoreError,
    },
    /// The parent branch is not open.
    #[error("branch {branch}: its parent branch, {parent}, is not open")]
    Parent {
        /// The child branch.
        branch: String,
        /// The parent branch.
        parent: String,
    },
    /// The gRPC or HTTP service ended unexpectedly.
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
            format!("another process listens there: stop it, or choose another port with {flag}")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need privileges: choose another port with {flag}")
        }
        _ => format!("choose an address of this machine with {flag}"),
    }
}
