//! Why a data directory cannot be read or written.

use crate::dictionary::DictionaryError;
use crate::tablespace::SpaceError;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// A file cannot be read or written, or a working copy is not as it must be.
/// A problem with a directory that people name is a
/// [`Refusal`](crate::refusal::Refusal) instead.
#[derive(Debug, Error)]
pub enum DatadirError {
    /// Reading failed.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Writing failed, which mostly means a full disk.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Copying failed, at either end.
    #[error("cannot copy {} to {}", from.display(), to.display())]
    Copy {
        /// The source file.
        from: PathBuf,
        /// The directory of the copy.
        to: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A name is not UTF-8. MariaDB makes none that is not.
    #[error("{name:?} in {} is not a UTF-8 name", dir.display())]
    Name {
        /// The name.
        name: std::ffi::OsString,
        /// Its directory.
        dir: PathBuf,
    },
    /// A tablespace of the working copy is damaged.
    #[error("{name}")]
    Space {
        /// Its file.
        name: String,
        /// The problem with it.
        source: SpaceError,
    },
    /// InnoDB's dictionary in the working copy is damaged.
    #[error("InnoDB's dictionary in the copy")]
    Dictionary(#[source] DictionaryError),
    /// The working copy contradicts itself or the directory it is of.
    #[error("{0}")]
    Inconsistent(String),
}

impl DatadirError {
    /// An error of reading `path`.
    pub(crate) fn read(path: &Path) -> impl Fn(io::Error) -> DatadirError + '_ {
        |source| DatadirError::Read {
            path: path.to_owned(),
            source,
        }
    }

    /// An error of writing `path`.
    pub(crate) fn write(path: &Path) -> impl Fn(io::Error) -> DatadirError + '_ {
        |source| DatadirError::Write {
            path: path.to_owned(),
            source,
        }
    }

    /// An error of copying `from` into `to`.
    pub(crate) fn copy<'a>(
        from: &'a Path,
        to: &'a Path,
    ) -> impl Fn(io::Error) -> DatadirError + 'a {
        |source| DatadirError::Copy {
            from: from.to_owned(),
            to: to.to_owned(),
            source,
        }
    }
}
