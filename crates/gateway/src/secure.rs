//! TLS between the gateway and a compute, for clients with TLS whose accounts require it.
//!
//! The connection does not leave the machine as a rule, and TLS costs both sides, so it is
//! made only where an account or the compute wants it. The gateway asks the compute over its
//! Unix socket, which nobody else can answer at, for the file of its certificate, and then
//! takes that certificate alone.

use crate::computes::Reached;
use crate::own::Own;
use crate::packet::Broken;
use crate::refusal::Refusal;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// TLS that an account or its compute wants.
pub(crate) struct Wanted(CertificateDer<'static>, ServerName<'static>);

/// Whether a client with TLS needs it on its way to the compute as well: the account `user`
/// may require it, from some host, or the compute requires it of everybody.
///
/// # Errors
/// When the compute does not answer, or its certificate cannot be read.
pub(crate) async fn wanted(compute: &Reached, user: &[u8]) -> Result<Option<Wanted>, Broken> {
    let mut own = Own::open(compute).await?;
    let rows = own.query(&question(user)).await?;
    own.close().await;
    let Some([Some(is_wanted), file]) = rows.first().map(Vec::as_slice) else {
        return Err(Refusal::gone("The compute does not say whether it wants TLS").into());
    };
    // A compute that has no TLS refuses accounts that require it.
    let Some(file) = file
        .as_ref()
        .filter(|file| is_wanted == b"1" && !file.is_empty())
    else {
        return Ok(None);
    };
    let file = String::from_utf8_lossy(file).into_owned();
    let certificate = CertificateDer::from_pem_file(&file).map_err(|error| {
        Refusal::gone(format!(
            "The gateway cannot read the certificate of the compute, {file}: {error}"
        ))
    })?;
    let name = ServerName::IpAddress(compute.address.ip().into());
    Ok(Some(Wanted(certificate, name)))
}

/// Accounts without a name are those of everybody.
fn question(user: &[u8]) -> String {
    let mut name = String::new();
    for byte in user {
        let _ = write!(name, "{byte:02x}");
    }
    format!(
        "SELECT @@require_secure_transport OR EXISTS (SELECT 1 FROM mysql.global_priv \
         WHERE JSON_VALUE(Priv, '$.ssl_type') > 0 \
         AND (User IN ('', CONVERT(X'{name}' USING utf8mb3)) OR {})), @@ssl_cert",
        u8::from(!user.is_ascii())
    )
}

impl Wanted {
    /// Makes TLS on a connection that the compute has greeted, and that has asked for TLS.
    ///
    /// # Errors
    /// Also when the compute has another certificate than its file.
    pub async fn connect(self, stream: TcpStream) -> Result<TlsStream<TcpStream>, Broken> {
        let Wanted(certificate, name) = self;
        let provider = xylem_tls::provider();
        let verifier = Pinned(certificate, Arc::clone(&provider));
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        connecting.await.map_err(|error| {
            Refusal::gone(format!(
                "The gateway and the compute do not agree on TLS: {error}; a compute takes a \
                 changed certificate at its start and with FLUSH SSL"
            ))
            .into()
        })
    }
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
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.1.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.1.signature_verification_algorithms.supported_schemes()
    }
}
