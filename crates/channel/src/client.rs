//! The client's side of TLS: whom it trusts, and as whom it introduces itself.

use crate::Channel;
use crate::files::{self, Stamp, TlsError};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::Socket;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The certificate with which a client introduces itself (mutual TLS).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A PEM file: the certificate, then those that lead to its authority.
    pub certificate: PathBuf,
    /// A PEM file with its private key.
    pub key: PathBuf,
}

/// A client's trust, in files. A file that has changed is read again for the next
/// connection.
pub struct ClientTls {
    provider: Arc<CryptoProvider>,
    protocol: &'static [u8],
    authority: PathBuf,
    identity: Option<Identity>,
    read: Mutex<Option<(Stamp, Arc<ClientConfig>)>>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("authority", &self.authority)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Speaks `protocol` (ALPN), trusts servers with a certificate of the authorities in
    /// the PEM file `authority`, and introduces itself with `identity`. Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read or has no such content.
    pub fn new(
        provider: Arc<CryptoProvider>,
        protocol: &'static [u8],
        authority: PathBuf,
        identity: Option<Identity>,
    ) -> Result<ClientTls, TlsError> {
        let tls = ClientTls {
            provider,
            protocol,
            authority,
            identity,
            read: Mutex::default(),
        };
        tls.config()?;
        Ok(tls)
    }

    /// The configuration of a connection that begins now.
    ///
    /// # Errors
    /// When a file has changed and cannot be used.
    pub fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the files are read: what changes meanwhile is read again.
        let stamp = self.stamp();
        if let Some((known, config)) = &*read
            && *known == stamp
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.load()?);
        *read = Some((stamp, Arc::clone(&config)));
        Ok(config)
    }

    fn stamp(&self) -> Stamp {
        let identity = self.identity.iter();
        let own = identity.flat_map(|own| [&own.certificate, &own.key]);
        files::stamp(std::iter::once(&self.authority).chain(own))
    }

    fn load(&self) -> Result<ClientConfig, TlsError> {
        let roots = files::authorities(&self.authority)?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::new(&self.authority, error))?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let chain = files::certificates(&own.certificate)?;
                let key = files::key(&own.key)?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| TlsError::new(&own.key, error))?
            }
        };
        config.alpn_protocols = vec![self.protocol.to_vec()];
        // Connections last for days. Without tickets nothing but data follows the
        // handshake.
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Makes the handshake on `socket`, which may have a time limit, with the server
    /// called `host`. Calls `goes_on` after each step, and whenever the limit has passed.
    ///
    /// # Errors
    /// Those of the system and of `goes_on`; [`ErrorKind::InvalidInput`] for files that
    /// cannot be used, [`ErrorKind::InvalidData`] for a server that is not trusted or
    /// does not speak TLS.
    pub fn connect(
        &self,
        socket: Socket,
        host: &str,
        goes_on: &mut dyn FnMut() -> io::Result<()>,
    ) -> io::Result<Channel> {
        let config = self
            .config()
            .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
        let name = server_name(host)?;
        let mut connection = ClientConnection::new(config, name)
            .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        let mut stream = &socket;
        while connection.is_handshaking() || connection.wants_write() {
            let step = if connection.wants_write() {
                connection.write_tls(&mut stream as &mut dyn Write)
            } else {
                connection.read_tls(&mut stream as &mut dyn Read)
            };
            match step {
                Ok(0) if !connection.wants_write() => {
                    return Err(io::Error::new(
                        ErrorKind::UnexpectedEof,
                        "the server closed the connection during the TLS handshake",
                    ));
                }
                Ok(_) => {}
                Err(e) if is_passing(&e) => {}
                Err(e) => return Err(e),
            }
            // Also for a server that sends it byte by byte.
            goes_on()?;
            if let Err(error) = connection.process_new_packets() {
                // Tells the server why.
                let _ = connection.write_tls(&mut stream as &mut dyn Write);
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
        Ok(Channel::tls(socket, connection))
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// The name `host` that a server's certificate must have: a DNS name or an IP address.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] when it is neither.
pub fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))
}
