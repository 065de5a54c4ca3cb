//! TLS between the gateway and a compute, for clients with TLS whose accounts require it.
//!
//! The connection does not leave the machine as a rule, and TLS costs both sides, so it is
//! made only where an account or the compute wants it. The gateway asks the compute over its
//! Unix socket, which nobody else can answer at, for the accounts and for the file of its
//! certificate, and then takes that certificate alone. One question a second serves all logins.

use crate::branch::Branch;
use crate::computes::Reached;
use crate::own::{Own, Row};
use crate::packet::Broken;
use crate::refusal::Refusal;
use crate::sessions::within;
use rustix::fs::{Mode, OFlags};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use xylem_ambient::Clock;

/// How long an answer of a compute counts.
const FRESH: Duration = Duration::from_secs(1);
/// The most accounts that are told apart. Where more of them require TLS, all clients with TLS
/// have it on the whole way.
const ACCOUNTS_MAX: usize = 10_000;
/// The largest file of a certificate.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Both have a limit: without one, SQL could have set another for all sessions.
const SETTINGS: &str = "SELECT @@require_secure_transport, @@ssl_cert LIMIT 1";
const ACCOUNTS: &str = "SELECT User FROM mysql.global_priv \
    WHERE JSON_VALUE(Priv, '$.ssl_type') > 0 LIMIT 10001";

/// An answer of a compute, for a while.
#[derive(Debug)]
pub(crate) struct Known {
    process: String,
    at: Instant,
    demands: Option<Arc<Demands>>,
}

/// The demands of a compute that has TLS.
#[derive(Debug)]
struct Demands {
    /// It demands TLS of all accounts.
    of_all: bool,
    /// The names of accounts that require TLS, of whichever hosts.
    users: HashSet<Vec<u8>>,
    config: Arc<ClientConfig>,
}

impl Demands {
    /// Whether the account `user` may require TLS. The character set of a name that is not
    /// ASCII is the client's.
    fn concern(&self, user: &[u8]) -> bool {
        let has_other = || self.users.iter().any(|known| !known.is_ascii());
        self.of_all
            || self.users.contains(user)
            // An account without a name is that of everybody.
            || self.users.contains(&b""[..])
            || (!user.is_ascii() && has_other())
    }
}

/// The TLS that a client with TLS needs on its way to the compute as well, if it does: the
/// account `user` may require it, from some host, or the compute requires it of everybody. Where
/// the compute cannot be asked, it is not made, and the compute refuses whoever needs it.
pub(crate) async fn wanted(
    branch: &Branch,
    compute: &Reached,
    clock: &Clock,
    user: &[u8],
) -> Option<Arc<ClientConfig>> {
    let mut known = branch.secure.lock().await;
    let fresh = known
        .as_ref()
        .filter(|known| known.process == compute.process && clock.since(known.at) < FRESH);
    let demands = match fresh {
        Some(fresh) => fresh.demands.clone(),
        None => {
            let asked = within(ask(branch, compute)).await;
            let demands = asked.unwrap_or_else(|error| {
                tracing::warn!(branch = compute.branch, %error, "cannot tell whether a compute or its accounts demand TLS");
                None
            });
            *known = Some(Known {
                process: compute.process.clone(),
                at: clock.instant(),
                demands: demands.clone(),
            });
            demands
        }
    };
    drop(known);
    let demands = demands.filter(|demands| demands.concern(user))?;
    Some(Arc::clone(&demands.config))
}

/// `None`: the compute demands TLS of nobody, or has none.
async fn ask(branch: &Branch, compute: &Reached) -> Result<Option<Arc<Demands>>, Broken> {
    let mut own = Own::open(compute).await?;
    let answers = answers(&mut own).await;
    branch.count_own(&compute.process, own.statements());
    own.close().await;
    let (settings, accounts) = answers?;
    let [Some(of_all), file] = &settings[..] else {
        return Err(Refusal::gone("its answer has another form").into());
    };
    let users: HashSet<_> = accounts
        .into_iter()
        .filter_map(|mut row| row.pop()?)
        .collect();
    let of_all = of_all == b"1" || users.len() > ACCOUNTS_MAX;
    let file = file.as_ref().filter(|file| !file.is_empty());
    let Some(file) = file.filter(|_| of_all || !users.is_empty()) else {
        return Ok(None);
    };
    let file = PathBuf::from(String::from_utf8_lossy(file).into_owned());
    let reading = tokio::task::spawn_blocking(move || certificate(&file));
    let certificate = reading.await.map_err(io::Error::other)??;
    Ok(Some(Arc::new(Demands {
        of_all,
        users,
        config: Arc::new(config(certificate)?),
    })))
}

async fn answers(own: &mut Own) -> Result<(Row, Vec<Row>), Broken> {
    let mut settings = own.query(SETTINGS).await?;
    let accounts = own.query(ACCOUNTS).await?;
    Ok((settings.pop().unwrap_or_default(), accounts))
}

/// Reads the certificate in `file`, whose name the compute has said: it may be anything.
fn certificate(file: &Path) -> io::Result<CertificateDer<'static>> {
    let wrong = |why: &str| {
        let what = format!("the certificate of the compute, {}: {why}", file.display());
        io::Error::new(ErrorKind::InvalidData, what)
    };
    if !file.is_absolute() {
        return Err(wrong("ssl_cert must be a whole path"));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(file, flags, Mode::empty());
    let opened = File::from(opened.map_err(|error| wrong(&error.to_string()))?);
    if !opened.metadata()?.is_file() {
        return Err(wrong("it is no file"));
    }
    let mut text = Vec::new();
    opened.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    CertificateDer::from_pem_slice(&text).map_err(|error| wrong(&error.to_string()))
}

/// The gateway's side of TLS with a compute that has this certificate.
fn config(certificate: CertificateDer<'static>) -> io::Result<ClientConfig> {
    let provider = xylem_tls::provider();
    let verifier = Pinned(certificate, Arc::clone(&provider));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Makes TLS on a connection that the compute has greeted, and that has asked for TLS.
///
/// # Errors
/// Also when the compute has another certificate than its file.
pub(crate) async fn connect(
    config: Arc<ClientConfig>,
    compute: &Reached,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, Broken> {
    let name = ServerName::IpAddress(compute.address.ip().into());
    let connecting = TlsConnector::from(config).connect(name, stream);
    connecting.await.map_err(|error| {
        Refusal::gone(format!(
            "The gateway and the compute do not agree on TLS: {error}; a compute takes a \
             changed certificate at its start and with FLUSH SSL"
        ))
        .into()
    })
}

/// Takes one certificate, whoever has signed it and whatever its names are.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>, Arc<CryptoProvider>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *end_entity == self.0 {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.1.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // By the key alone: certificates of version 1, which openssl makes without extensions,
        // are refused elsewhere.
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|_| CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(certificate.public_key().raw);
        let algorithms = &self.1.signature_verification_algorithms;
        crypto::verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_a_compute_says_is_read_only_if_it_is_a_file_of_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "no certificate").unwrap();
        let long = dir.path().join("long");
        std::fs::write(&long, vec![b'-'; 1 << 20]).unwrap();
        let none = dir.path().join("none");
        for path in [
            &pipe,
            &text,
            &long,
            &none,
            dir.path(),
            Path::new("/dev/zero"),
            Path::new("compute.pem"),
        ] {
            assert!(certificate(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn accounts_that_may_be_the_clients_are_concerned() {
        let provider = xylem_tls::provider();
        let pinned = Pinned(CertificateDer::from(vec![0]), Arc::clone(&provider));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(pinned))
            .with_no_client_auth();
        let config = Arc::new(config);
        let demands = |of_all, users: &[&str]| Demands {
            of_all,
            users: users.iter().map(|user| user.as_bytes().to_vec()).collect(),
            config: Arc::clone(&config),
        };
        assert!(demands(false, &["safe"]).concern(b"safe"));
        assert!(!demands(false, &["safe"]).concern(b"app"));
        assert!(!demands(false, &["safe"]).concern(b"m\xfcller"));
        assert!(demands(false, &["m\u{fc}ller"]).concern(b"m\xfcller"));
        assert!(!demands(false, &["m\u{fc}ller"]).concern(b"muller"));
        assert!(demands(false, &[""]).concern(b"app"));
        assert!(demands(true, &[]).concern(b"app"));
    }
}
