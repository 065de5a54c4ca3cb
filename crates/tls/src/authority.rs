//! A project's certificates, in a directory of their own:
//!
//! | file | content |
//! |---|---|
//! | `ca.pem` | The certificate of the project's authority, which clients trust. |
//! | `ca.key` | Its private key, with which anybody can pass for the server. |
//! | `server.pem` | The server's private key and certificate. |
//! | `client.pem` | The private key and certificate of the owner's command line and of computes, for mutual TLS. |
//! | `compute-ca.pem` | The certificate of the authority of computes, which clients of computes' own ports trust. |
//! | `compute-ca.key` | Its private key. |
//!
//! Each compute has a key and a certificate of its own, elsewhere ([`ensure_compute`]). The
//! authority of computes is another one: code that runs in a compute has its key, and cannot
//! pass for the server or a gateway with it.
//!
//! All are in PEM format (RFC 7468), for their owner only; the keys are ECDSA on the
//! curve P-256. A file is replaced as a whole, so that another process reads a key and
//! its own certificate.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use xylem_ambient::{Clock, Entropy};

/// A day in seconds.
const DAY: u64 = 24 * 60 * 60;
/// How long the authority is valid.
const AUTHORITY_VALID: Duration = Duration::from_secs(3650 * DAY);
/// How long the server's certificate is valid.
const SERVER_VALID: Duration = Duration::from_secs(90 * DAY);
/// How long the certificates of clients and computes are valid. Nobody renews copies of them.
const COPIED_VALID: Duration = Duration::from_secs(730 * DAY);
/// A certificate is replaced when it has less time than this.
const RENEWED_BEFORE: Duration = Duration::from_secs(30 * DAY);
/// A compute takes its certificate when it starts, and may run for as long as this.
const COMPUTE_RENEWED_BEFORE: Duration = Duration::from_secs(365 * DAY);
/// Certificates are valid from this long before they are made, for clocks that are late.
const SKEW: Duration = Duration::from_secs(DAY);

/// The paths of a project's certificates.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// The authority's private key.
    pub authority_key: PathBuf,
    /// The server's key and certificate.
    pub server: PathBuf,
    /// The clients' key and certificate.
    pub client: PathBuf,
    /// The certificate of computes' authority.
    pub compute_authority: PathBuf,
    /// The private key of computes' authority.
    pub compute_authority_key: PathBuf,
}

impl Paths {
    /// The paths in the directory `dir`.
    pub fn in_dir(dir: &Path) -> Paths {
        Paths {
            authority: dir.join("ca.pem"),
            authority_key: dir.join("ca.key"),
            server: dir.join("server.pem"),
            client: dir.join("client.pem"),
            compute_authority: dir.join("compute-ca.pem"),
            compute_authority_key: dir.join("compute-ca.key"),
        }
    }
}

/// Certificates cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The attempt: read, write.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file has no usable content.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The problem.
        why: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

/// Makes the certificates of server and clients in `dir` that are missing, that expire soon,
/// or that lack one of the server's `names`: DNS names and IP addresses, as [`IpAddr`] writes
/// them. One process at a time.
///
/// # Errors
/// When a file cannot be read or written, when `ca.key` is needed and is not there, or
/// when `ca.pem` is gone although it has signed certificates: clients trust it, and a new
/// one in its place would not be the same.
pub fn ensure(
    dir: &Path,
    names: &[String],
    clock: &Clock,
    entropy: &Entropy,
) -> Result<(), AuthorityError> {
    let now = time_of(clock);
    let paths = Paths::in_dir(dir);
    let files = [&paths.authority, &paths.authority_key, &paths.server];
    let authority = Authority::ensure(files, "project", now, entropy)?;
    let server = Wanted {
        subject: "xylem server",
        names,
        purpose: ExtendedKeyUsagePurpose::ServerAuth,
        valid: SERVER_VALID,
        renewed_before: RENEWED_BEFORE,
    };
    let client = Wanted {
        subject: "xylem client",
        names: &[],
        purpose: ExtendedKeyUsagePurpose::ClientAuth,
        valid: COPIED_VALID,
        renewed_before: RENEWED_BEFORE,
    };
    authority.issue(&paths.server, &server, now)?;
    authority.issue(&paths.client, &client, now)
}

/// Makes the key and certificate of a compute in `file`, unless they are there, and the
/// authority of computes in `dir`. They are renewed so early that a compute can run for a year
/// with those that it began with. One process at a time.
///
/// # Errors
/// As for [`ensure`], with `compute-ca.pem` and `compute-ca.key`.
pub fn ensure_compute(
    dir: &Path,
    file: &Path,
    names: &[String],
    clock: &Clock,
    entropy: &Entropy,
) -> Result<(), AuthorityError> {
    let now = time_of(clock);
    let paths = Paths::in_dir(dir);
    let files = [
        &paths.compute_authority,
        &paths.compute_authority_key,
        &paths.compute_authority_key,
    ];
    let authority = Authority::ensure(files, "computes", now, entropy)?;
    let compute = Wanted {
        subject: "xylem compute",
        names,
        purpose: ExtendedKeyUsagePurpose::ServerAuth,
        valid: COPIED_VALID,
        renewed_before: COMPUTE_RENEWED_BEFORE,
    };
    authority.issue(file, &compute, now)
}

fn time_of(clock: &Clock) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(clock.now_us())
}

/// The time in which the first certificate in the file `path` is valid.
///
/// # Errors
/// When it cannot be read.
pub fn validity(path: &Path) -> Result<Range<SystemTime>, AuthorityError> {
    let pem = certificate_in(&read(path)?).ok_or_else(|| no_certificate(path))?;
    let certificate = parse(&pem).ok_or_else(|| no_certificate(path))?;
    Ok(valid_in(&certificate))
}

fn valid_in(certificate: &X509Certificate<'_>) -> Range<SystemTime> {
    let validity = certificate.validity();
    validity.not_before.to_datetime().into()..validity.not_after.to_datetime().into()
}

/// A certificate that the authority makes.
struct Wanted<'a> {
    subject: &'a str,
    names: &'a [String],
    purpose: ExtendedKeyUsagePurpose,
    valid: Duration,
    /// It is made anew when it has less time left than this.
    renewed_before: Duration,
}

/// Makes an authority `of` the project or its computes.
fn make_authority(
    certificate_file: &Path,
    key_file: &Path,
    of: &str,
    now: SystemTime,
    entropy: &Entropy,
) -> Result<(), AuthorityError> {
    if let Some(dir) = certificate_file.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("make", dir))?;
    }
    let id = entropy
        .next()
        .map_err(|error| AuthorityError::Make(error.to_string()))?;
    let key = KeyPair::generate().map_err(make)?;
    let name = format!("xylem {of} {:08x}", id >> 96);
    let mut params = params(&name, &[], now, AUTHORITY_VALID)?;
    // It signs no other authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(make)?;
    // The certificate makes the authority one, so it comes last.
    replace(key_file, &key.serialize_pem())?;
    replace(certificate_file, &certificate.pem())
}

/// An authority. Without a key, it can only tell its own certificates.
struct Authority {
    pem: Pem,
    text: String,
    key: PathBuf,
}

impl Authority {
    /// The authority whose certificate and key are in the files that are named first. It is
    /// made if there is none, and the last file, a trace of one that there was, is missing, too.
    fn ensure(
        [certificate, key, trace]: [&PathBuf; 3],
        of: &str,
        now: SystemTime,
        entropy: &Entropy,
    ) -> Result<Authority, AuthorityError> {
        if !certificate.exists() && !trace.exists() {
            make_authority(certificate, key, of, now, entropy)?;
        }
        let text = read(certificate)?;
        let pem = certificate_in(&text).ok_or_else(|| no_certificate(certificate))?;
        let valid = valid_in(&parse(&pem).ok_or_else(|| no_certificate(certificate))?);
        if !valid.contains(&now) {
            return Err(AuthorityError::Content {
                path: certificate.clone(),
                why: "it is not valid at this time: see whether the clock is right".to_owned(),
            });
        }
        Ok(Authority {
            pem,
            text,
            key: key.clone(),
        })
    }

    /// Makes the certificate in the file `path` unless it will do.
    fn issue(
        &self,
        path: &Path,
        wanted: &Wanted<'_>,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let there = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            Err(e) => return Err(failed("read", path)(e)),
        };
        if self.will_do(&there, wanted, now) {
            return Ok(());
        }
        let key = KeyPair::generate().map_err(make)?;
        let mut params = params(wanted.subject, wanted.names, now, wanted.valid)?;
        params.extended_key_usages = vec![wanted.purpose.clone()];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer()?).map_err(make)?;
        replace(
            path,
            &format!("{}{}", key.serialize_pem(), certificate.pem()),
        )
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        let path = &self.key;
        let content = |error: rcgen::Error| AuthorityError::Content {
            path: path.clone(),
            why: error.to_string(),
        };
        let key = KeyPair::from_pem(&read(path)?).map_err(content)?;
        Issuer::from_ca_cert_pem(&self.text, key).map_err(content)
    }

    /// Whether `text` has a key, and a certificate of this authority as it is wanted.
    fn will_do(&self, text: &str, wanted: &Wanted<'_>, now: SystemTime) -> bool {
        let Some(pem) = certificate_in(text) else {
            return false;
        };
        let (Some(authority), Some(certificate)) = (parse(&self.pem), parse(&pem)) else {
            return false;
        };
        let valid = valid_in(&certificate);
        let covered = names_of(&certificate);
        KeyPair::from_pem(text).is_ok()
            && certificate
                .verify_signature(Some(authority.public_key()))
                .is_ok()
            && valid.contains(&now)
            && valid.end > now + wanted.renewed_before
            && wanted.names.iter().all(|name| covered.contains(name))
    }
}

/// The names that a certificate is for.
fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            if let Ok(v4) = <[u8; 4]>::try_from(*bytes) {
                Some(IpAddr::from(v4).to_string())
            } else {
                let v6 = <[u8; 16]>::try_from(*bytes).ok()?;
                Some(IpAddr::from(v6).to_string())
            }
        }
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

fn params(
    subject: &str,
    names: &[String],
    now: SystemTime,
    valid: Duration,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(names).map_err(make)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = OffsetDateTime::from(now - SKEW);
    params.not_after = OffsetDateTime::from(now + valid);
    Ok(params)
}

fn certificate_in(text: &str) -> Option<Pem> {
    Pem::iter_from_buffer(text.as_bytes())
        .filter_map(Result::ok)
        .find(|pem| pem.label == "CERTIFICATE")
}

fn parse(pem: &Pem) -> Option<X509Certificate<'_>> {
    pem.parse_x509().ok()
}

fn no_certificate(path: &Path) -> AuthorityError {
    AuthorityError::Content {
        path: path.to_owned(),
        why: "it has no certificate in PEM format".to_owned(),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn make(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Make(error.to_string())
}

fn failed<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> AuthorityError + 'a {
    move |source| AuthorityError::Io {
        doing,
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}

fn replace(path: &Path, text: &str) -> Result<(), AuthorityError> {
    let replaced = xylem_durable::replace(path, text.as_bytes(), xylem_durable::SECRET);
    replaced.map_err(failed("write", path))
}
