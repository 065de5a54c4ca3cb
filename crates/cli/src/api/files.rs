//! The directories of this machine in which imports by the API read, and exports write. A
//! token must not give access to the file system: there are none unless the owner names some.

use super::error::Problem;
use crate::failure::{Failure, Kind};
use anyhow::Result;
use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

/// The allowed directories.
#[derive(Debug, Default)]
pub struct Files {
    allowed: Vec<Allowed>,
    /// The state directory, which has keys: nothing in it is allowed.
    state: PathBuf,
}

#[derive(Debug)]
struct Allowed {
    /// As the owner named it.
    named: PathBuf,
    /// Without symbolic links.
    real: PathBuf,
}

impl Files {
    /// Allows the directories `dirs`, without what is in the state directory `state`.
    ///
    /// # Errors
    /// When one of them is no directory.
    pub fn open(dirs: &[PathBuf], state: &Path) -> Result<Files> {
        let mut allowed = Vec::new();
        for dir in dirs {
            let wrong = |why: &str| {
                Failure::new(
                    format!("--files {}: {why}", dir.display()),
                    "create the directory, or leave it out: `xylem up --unset api-files`",
                )
            };
            let named = std::path::absolute(dir).map_err(|error| wrong(&error.to_string()))?;
            let real = std::fs::canonicalize(dir).map_err(|error| wrong(&error.to_string()))?;
            if !real.is_dir() {
                return Err(wrong("it is not a directory"));
            }
            allowed.push(Allowed { named, real });
        }
        Ok(Files {
            allowed,
            state: std::fs::canonicalize(state).unwrap_or_else(|_| state.to_owned()),
        })
    }

    /// The directory `text`, which is there. The answer has no symbolic link in it, and no link
    /// below it leads out of the allowed directories. Blocking.
    ///
    /// # Errors
    /// When it is not in an allowed directory; `field` names it.
    pub fn source(&self, field: &str, text: &str) -> Result<PathBuf, Problem> {
        let path = self.named(field, text)?;
        let real = std::fs::canonicalize(&path)
            .map_err(|error| invalid(format!("{field}: {text}: {error}")))?;
        self.check(field, text, &real)?;
        self.check_links(field, &real)?;
        Ok(real)
    }

    /// The directory `text`, which is to be made in one that is there.
    ///
    /// # Errors
    /// As for [`Files::source`].
    pub fn target(&self, field: &str, text: &str) -> Result<PathBuf, Problem> {
        let path = self.named(field, text)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(self.outside(field, text));
        };
        let parent = std::fs::canonicalize(parent).map_err(|error| {
            invalid(format!("{field}: {}: {error}", parent.display()))
                .hint("name a directory in one that is there")
        })?;
        self.check(field, text, &parent)?;
        Ok(parent.join(name))
    }

    /// The path `text`, if it is written as one in an allowed directory. What is outside is
    /// not even looked at.
    fn named(&self, field: &str, text: &str) -> Result<PathBuf, Problem> {
        if self.allowed.is_empty() {
            return Err(Problem::of(
                Kind::Conflict,
                "the API may not read or write files of its machine",
            )
            .hint("the owner allows it there, in one directory: `xylem up --api-files DIR`"));
        }
        let path = Path::new(text);
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        if !path.is_absolute() || !path.components().all(plain) || text.contains('\0') {
            return Err(invalid(format!(
                "{field}: {text:?} is not a whole path without `..`"
            )));
        }
        let mut allowed = self.allowed.iter();
        match allowed.any(|dir| path.starts_with(&dir.named) || path.starts_with(&dir.real)) {
            true => Ok(path.to_owned()),
            false => Err(self.outside(field, text)),
        }
    }

    /// Refuses a path without symbolic links that is outside.
    fn check(&self, field: &str, text: &str, real: &Path) -> Result<(), Problem> {
        match self.is_inside(real) {
            true => Ok(()),
            false => Err(self.outside(field, text)),
        }
    }

    fn is_inside(&self, real: &Path) -> bool {
        let mut allowed = self.allowed.iter();
        allowed.any(|dir| real.starts_with(&dir.real)) && !real.starts_with(&self.state)
    }

    fn outside(&self, field: &str, text: &str) -> Problem {
        let allowed: Vec<String> = self
            .allowed
            .iter()
            .map(|dir| dir.named.display().to_string())
            .collect();
        invalid(format!(
            "{field}: {text} is not in a directory that the API may use ({})",
            allowed.join(", ")
        ))
    }

    /// Refuses a directory with a symbolic link that leads out, at any depth and behind any other
    /// link: an import follows them. Refuses what is neither a file nor a directory, too: a pipe
    /// would keep the import waiting for ever.
    fn check_links(&self, field: &str, top: &Path) -> Result<(), Problem> {
        let mut left = vec![top.to_owned()];
        let mut seen = HashSet::from([top.to_owned()]);
        while let Some(dir) = left.pop() {
            let failed = |error| invalid(format!("{field}: {}: {error}", dir.display()));
            for entry in std::fs::read_dir(&dir).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = entry.path();
                let real = std::fs::canonicalize(&path);
                let Some(real) = real.ok().filter(|real| self.is_inside(real)) else {
                    return Err(invalid(format!(
                        "{field}: {} leads out of the directories that the API may use",
                        path.display()
                    ))
                    .hint(
                        "put what it leads to in its place, or import there, by `xylem import`",
                    ));
                };
                let kind = std::fs::symlink_metadata(&real)
                    .map_err(failed)?
                    .file_type();
                if kind.is_dir() && seen.insert(real.clone()) {
                    left.push(real);
                } else if !kind.is_dir() && !kind.is_file() {
                    return Err(invalid(format!(
                        "{field}: {} is neither a file nor a directory",
                        path.display()
                    )));
                }
            }
        }
        Ok(())
    }
}

fn invalid(detail: String) -> Problem {
    Problem::of(Kind::Invalid, detail)
}
