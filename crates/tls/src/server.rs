//! The server's side of TLS.

use crate::provider;
use parking_lot::{Mutex, RwLock};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ServerConfig, SupportedProtocolVersion};
use std::path::PathBuf;
use std::sync::Arc;
use xylem_channel::TlsError;
use xylem_channel::files::{self, Stamp};

/// The versions of TLS that a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.3 alone: every peer of the server's own ports knows it.
    Newest,
    /// TLS 1.2, too, for clients of MariaDB.
    WithTls12,
}

static NEWEST: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl Versions {
    fn list(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Versions::Newest => NEWEST,
            Versions::WithTls12 => rustls::ALL_VERSIONS,
        }
    }
}

/// The files of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// A PEM file: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// A PEM file with its private key. May be the same file.
    pub key: PathBuf,
    /// A PEM file with the authorities of clients; clients need a certificate of one of
    /// them. `None`: clients need no certificate.
    pub clients: Option<PathBuf>,
}

/// The TLS of a listener.
#[derive(Debug)]
pub struct ServerTls {
    files: ServerFiles,
    versions: Versions,
    protocols: Vec<Vec<u8>>,
    current: RwLock<(Stamp, Arc<ServerConfig>)>,
    /// The stamp of files of no use, which were reported.
    reported: Mutex<Option<Stamp>>,
}

impl ServerTls {
    /// Reads `files`. The listener speaks `protocols` (ALPN), in order of preference; with
    /// none, it does not look at what the client prefers.
    ///
    /// # Errors
    /// When a file cannot be read or is of no use, or the key is not the certificate's.
    pub fn open(
        files: ServerFiles,
        versions: Versions,
        protocols: &[&[u8]],
    ) -> Result<ServerTls, TlsError> {
        let protocols: Vec<_> = protocols.iter().map(|name| name.to_vec()).collect();
        let stamp = files.stamp();
        let config = load(&files, versions, &protocols)?;
        Ok(ServerTls {
            files,
            versions,
            protocols,
            current: RwLock::new((stamp, Arc::new(config))),
            reported: Mutex::default(),
        })
    }

    /// The configuration of a connection that begins now.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().1)
    }

    /// Reads the files again if they have changed. Returns whether they were taken. After
    /// an error, those before stay in use. Each call tries again, because the error may
    /// have passed, but returns it only once for the same files.
    ///
    /// # Errors
    /// As for [`ServerTls::open`].
    pub fn refresh(&self) -> Result<bool, TlsError> {
        // Before the files are read: what changes meanwhile is read again.
        let stamp = self.files.stamp();
        if self.current.read().0 == stamp {
            return Ok(false);
        }
        match load(&self.files, self.versions, &self.protocols) {
            Ok(config) => {
                *self.current.write() = (stamp, Arc::new(config));
                *self.reported.lock() = None;
                Ok(true)
            }
            Err(error) => match self.reported.lock().replace(stamp.clone()) {
                Some(known) if known == stamp => Ok(false),
                _ => Err(error),
            },
        }
    }
}

impl ServerFiles {
    fn stamp(&self) -> Stamp {
        let pair = [&self.certificate, &self.key];
        files::stamp(pair.into_iter().chain(&self.clients))
    }
}

fn load(
    from: &ServerFiles,
    versions: Versions,
    protocols: &[Vec<u8>],
) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions.list())
        .map_err(|error| TlsError::new(&from.certificate, error))?;
    let builder = match &from.clients {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(files::authorities(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| TlsError::new(path, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = files::certificates(&from.certificate)?;
    let mut config = builder
        .with_single_cert(chain, files::key(&from.key)?)
        .map_err(|error| TlsError::new(&from.key, error))?;
    config.alpn_protocols = protocols.to_vec();
    // A client whose certificate is not accepted any more must not resume a session.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
