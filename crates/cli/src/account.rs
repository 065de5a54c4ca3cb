//! System accounts, and what they may reach on this machine.

use anyhow::{Context, Result};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// Looks an account up by its name.
pub fn find(name: &str) -> Option<User> {
    let said = Command::new("getent")
        .args(["passwd", "--", name])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let text = match said {
        Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
        Err(_) => std::fs::read_to_string("/etc/passwd").unwrap_or_default(),
    };
    text.lines().find_map(|line| parse(line, name))
}

/// The account `name` in a line of `passwd`.
pub fn parse(line: &str, name: &str) -> Option<User> {
    // xylem:x:997:996:MariaDB of Xylem:/var/lib/xylem:/usr/sbin/nologin
    let mut fields = line.split(':');
    let found = fields.next().filter(|found| *found == name)?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User {
        name: found.to_owned(),
        uid,
        gid,
    })
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

    /// Makes `path` and all below it this user's; `path` last, so that until
    /// then this user cannot put links there which would be followed. It must
    /// be closed to others.
    ///
    /// # Errors
    /// When that is not allowed.
    pub fn give_all(&self, path: &Path) -> Result<()> {
        let failed = || format!("cannot read {}", path.display());
        let meta = std::fs::symlink_metadata(path).with_context(failed)?;
        if meta.is_dir() {
            for entry in std::fs::read_dir(path).with_context(failed)? {
                self.give_all(&entry.with_context(failed)?.path())?;
            }
        }
        self.give(path)
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
