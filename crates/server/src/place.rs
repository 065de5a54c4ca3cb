//! The store that a URL names: where everything durable of a project lives.

use crate::error::ServerError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_pages::files::{LocalPlace, Place};

/// The URL of the store that a data directory has when nobody says otherwise.
pub fn default_url(data_dir: &Path) -> String {
    format!("file://{}", data_dir.join("store").display())
}

/// Whether `url` can name a store.
///
/// # Errors
/// Says what can.
pub fn check(url: &str) -> Result<(), String> {
    directory(url).map(|_| ())
}

/// Opens the store that `url` names.
///
/// # Errors
/// When the URL makes no sense, another process has the store open, or as the
/// system says.
pub fn open(url: &str) -> Result<Arc<dyn Place>, ServerError> {
    let failed = |source| ServerError::io(format!("cannot open the store {url}"), source);
    let dir = directory(url)
        .map_err(|why| failed(std::io::Error::new(std::io::ErrorKind::InvalidInput, why)))?;
    Ok(Arc::new(LocalPlace::open(&dir).map_err(failed)?))
}

fn directory(url: &str) -> Result<PathBuf, String> {
    match url.strip_prefix("file://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err(
            "only the URL of a directory is supported, such as file:///srv/xylem/store".to_owned(),
        ),
    }
}
