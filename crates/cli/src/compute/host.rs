//! The account that runs mariadbd, and files that this account can use.

use super::name::ComputeName;
use crate::account::User;
use crate::files;
use crate::home::Home;
use crate::programs;
use crate::project::Project;
use crate::run_as;
use crate::state::{ComputeDir, StateDir};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The account that mariadbd runs as, and programs that this account can run.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// `None` for the caller's.
    pub user: Option<User>,
    /// The installation, or a copy of it.
    pub home: Home,
}

impl Host {
    /// Prepares the directory of the compute `name`, in a place that mariadbd's
    /// account can reach.
    pub async fn prepare(
        state: &StateDir,
        home: &Home,
        project: &Project,
        name: &ComputeName,
    ) -> Result<Host> {
        let user = run_as::of(project).await?;
        let home = match &user {
            Some(user) => {
                run_as::open_computes(user, state)?;
                programs::reachable(home, user)?
            }
            None => home.clone(),
        };
        let dir = state.compute(name);
        for path in [dir.root(), &dir.client_authorities()] {
            files::make_private_dir(path)?;
            if let Some(user) = &user {
                user.let_pass(path)?;
            }
        }
        Ok(Host { user, home })
    }

    /// Writes a file that mariadbd reads and may not change.
    pub fn write_for(&self, path: &Path, data: &[u8]) -> Result<()> {
        files::write_atomic(path, data, files::SECRET)?;
        match &self.user {
            Some(user) => user.let_read(path),
            None => Ok(()),
        }
    }

    /// A path at which mariadbd can read the file `from`: itself, or a copy at `to`.
    pub fn readable(&self, from: PathBuf, to: PathBuf) -> Result<PathBuf> {
        if self.user.is_none() {
            return Ok(from);
        }
        let data =
            std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        self.write_for(&to, &data)?;
        Ok(to)
    }

    /// Makes new data and temporary directories; files that SQL has written and the page
    /// cache stay. The data directory is not mariadbd's yet: see [`Host::give`]. The one of the
    /// last start, which holds nothing of value, is put aside.
    pub fn fresh(&self, dir: &ComputeDir) -> Result<()> {
        self.put_aside(&dir.data(), &dir.old_data())?;
        files::remove_tree(&dir.tmp())?;
        for path in [dir.data(), dir.tmp()] {
            files::make_private_dir(&path)?;
        }
        for path in [dir.run(), dir.sql_files(), dir.cache()] {
            files::make_private_dir(&path)?;
        }
        let Some(user) = &self.user else {
            return Ok(());
        };
        [dir.tmp(), dir.run(), dir.sql_files(), dir.cache()]
            .iter()
            .try_for_each(|path| user.give(path))
    }

    /// Moves `path` to `aside`, and takes it back from mariadbd's account.
    fn put_aside(&self, path: &Path, aside: &Path) -> Result<()> {
        files::remove_tree(aside)?;
        match std::fs::rename(path, aside) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            moved => moved.with_context(|| format!("cannot put {} aside", path.display()))?,
        }
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() {
            std::os::unix::fs::lchown(aside, Some(uid.as_raw()), Some(gid.as_raw()))
                .with_context(|| format!("cannot take {} back", aside.display()))?;
        }
        files::close(aside)
    }

    /// Gives `path`, and not what is in it, to mariadbd's account.
    pub fn give(&self, path: &Path) -> Result<()> {
        match &self.user {
            Some(user) => user.give(path),
            None => Ok(()),
        }
    }
}
