//! System accounts, and what they may reach on this machine.

use anyhow::{Context, Result};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, fchown, lchown};
use std::path::{Path, PathBuf};

/// A system account other than the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its user id.
    pub uid: u32,
    /// The id of its group.
    pub gid: u32,
}

/// Looks an account up by its name, in all the places where the system keeps accounts.
///
/// # Errors
/// When one of them cannot be asked.
pub fn find(name: &str) -> Result<Option<User>> {
    let found = nix::unistd::User::from_name(name)
        .with_context(|| format!("cannot look up the system account {name}"))?;
    Ok(found.map(|user| User {
        name: user.name,
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
    }))
}

impl User {
    /// Makes `path` this user's, and not what is in it.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn give(&self, path: &Path) -> Result<()> {
        lchown(path, Some(self.uid), Some(self.gid)).with_context(|| {
            format!(
                "cannot give {} to the account {}",
                path.display(),
                self.name
            )
        })
    }

    /// Makes the open file or directory `file` this user's.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn give_open(&self, file: &std::fs::File) -> std::io::Result<()> {
        fchown(file, Some(self.uid), Some(self.gid))
    }

    /// Lets this user's group read the file `path`, which stays its owner's.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn let_read(&self, path: &Path) -> Result<()> {
        self.let_in(path, 0o640)
    }

    /// Lets this user's group pass through the directory `path`, which stays
    /// its owner's: what is in it can be reached and not listed.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn let_pass(&self, path: &Path) -> Result<()> {
        self.let_in(path, 0o710)
    }

    fn let_in(&self, path: &Path, mode: u32) -> Result<()> {
        let group = chown(path, None, Some(self.gid));
        group
            .and_then(|()| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)))
            .with_context(|| {
                format!(
                    "cannot let the account {} into {}",
                    self.name,
                    path.display()
                )
            })
    }

    /// The first directory on the way to `path`, itself included if it is one,
    /// that this user may not pass; `None`: it may pass all.
    pub fn stopped_at(&self, path: &Path) -> Option<PathBuf> {
        let real = std::fs::canonicalize(path).ok()?;
        let mut way: Vec<&Path> = real.ancestors().collect();
        way.reverse();
        way.into_iter()
            .find(|dir| {
                std::fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && !self.has(&meta, 1))
            })
            .map(Path::to_owned)
    }

    /// Whether this user may read the file `path` and reach it.
    pub fn can_read(&self, path: &Path) -> bool {
        self.stopped_at(path).is_none()
            && std::fs::metadata(path).is_ok_and(|meta| self.has(&meta, 4))
    }

    /// Whether the permission `bit` (4 read, 2 write, 1 pass) is this user's.
    pub fn has(&self, meta: &std::fs::Metadata, bit: u32) -> bool {
        let shift = if meta.uid() == self.uid {
            6
        } else if meta.gid() == self.gid {
            3
        } else {
            0
        };
        meta.mode() >> shift & bit != 0
    }
}
