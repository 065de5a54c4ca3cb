//! Certificates and keys in PEM files.

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file of certificates or keys cannot be used.
#[derive(Debug)]
pub struct TlsError {
    path: PathBuf,
    why: String,
}

impl TlsError {
    /// The file at `path` cannot be used because of `why`.
    pub fn new(path: &Path, why: impl fmt::Display) -> TlsError {
        TlsError {
            path: path.to_owned(),
            why: why.to_string(),
        }
    }

    fn pem(path: &Path, error: &Error) -> TlsError {
        match error {
            Error::Io(error) => TlsError::new(path, error),
            Error::NoItemsFound => TlsError::new(path, "it has no such item in PEM format"),
            other => TlsError::new(path, format!("it is not in PEM format: {other}")),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

impl std::error::Error for TlsError {}

/// Tells whether files, or the right to read them, have changed: their inodes and the
/// times of their last change, in seconds and nanoseconds. A file that is not there has
/// none.
pub type Stamp = Vec<Option<[i64; 3]>>;

/// The present stamp of `files`.
pub fn stamp<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Stamp {
    files
        .map(|file| {
            let meta = std::fs::metadata(file).ok()?;
            Some([meta.ino().cast_signed(), meta.ctime(), meta.ctime_nsec()])
        })
        .collect()
}

/// The certificates in a file, in order.
///
/// # Errors
/// When there is none, or the file cannot be read.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, Error> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found = found.map_err(|error| TlsError::pem(path, &error))?;
    if found.is_empty() {
        return Err(TlsError::new(path, "it has no certificate in PEM format"));
    }
    Ok(found)
}

/// The first private key in a file.
///
/// # Errors
/// When there is none, or the file cannot be read.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        Error::NoItemsFound => TlsError::new(path, "it has no private key in PEM format"),
        other => TlsError::pem(path, &other),
    })
}

/// The certificates in a file, as authorities that are trusted.
///
/// # Errors
/// As for [`certificates`], or when one of them cannot be an authority.
pub fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::new(path, error))?;
    }
    Ok(roots)
}
