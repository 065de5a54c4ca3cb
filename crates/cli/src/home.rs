//! The installation: where MariaDB, the plugin and the client library are.

use crate::failure::Failure;
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Environment variable that names the installation's directory.
pub const VARIABLE: &str = "XYLEM_HOME";

/// An installation's directory.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
    use_template: bool,
}

impl Home {
    /// The one at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Home {
        Home {
            root: root.into(),
            use_template: true,
        }
    }

    /// The one that `XYLEM_HOME` names, else the one that this program is in.
    ///
    /// # Errors
    /// When this program's path is unknown.
    pub fn find() -> Result<Home> {
        let root = match std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
            Some(root) => PathBuf::from(root),
            None => {
                let me = std::env::current_exe()?;
                me.parent()
                    .and_then(Path::parent)
                    .unwrap_or(Path::new("/"))
                    .to_owned()
            }
        };
        // mariadbd is started elsewhere, so the paths must be absolute.
        Ok(Home::at(std::fs::canonicalize(&root).unwrap_or(root)))
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that MariaDB calls basedir.
    pub fn basedir(&self) -> PathBuf {
        self.root.join("mariadb/usr")
    }

    /// The database server's program.
    pub fn mariadbd(&self) -> PathBuf {
        self.basedir().join("sbin/mariadbd")
    }

    /// The command line client's program.
    pub fn client(&self) -> PathBuf {
        self.basedir().join("bin/mariadb")
    }

    /// Messages, character sets and the bootstrap scripts.
    pub fn share(&self) -> PathBuf {
        self.basedir().join("share/mysql")
    }

    /// The storage engine and what other plugins there are.
    pub fn plugin_dir(&self) -> PathBuf {
        self.root.join("lib/plugin")
    }

    /// The storage engine.
    pub fn plugin(&self) -> PathBuf {
        self.plugin_dir().join("ha_innodb.so")
    }

    /// The library that mariadbd is started with.
    pub fn client_library(&self) -> PathBuf {
        self.root.join("lib/libxylem_client.so")
    }

    /// The parts that a compute reads, relative to the installation's directory.
    pub fn parts(&self) -> Vec<PathBuf> {
        let whole = [
            "mariadb/usr/sbin/mariadbd",
            "mariadb/usr/share/mysql",
            "lib/plugin",
            "lib/libxylem_client.so",
        ];
        let mut parts: Vec<PathBuf> = whole.map(PathBuf::from).to_vec();
        let libraries = self.libraries();
        let below = libraries
            .iter()
            .filter_map(|dir| dir.strip_prefix(&self.root).ok());
        parts.extend(below.map(Path::to_owned));
        parts
    }

    /// The template for new projects, if there is one: a server's data directory.
    pub fn template(&self) -> Option<PathBuf> {
        let template = self.root.join("template");
        let usable = self.use_template && xylem_server::project::is_used(&template);
        usable.then_some(template)
    }

    /// The same installation, where no template is used.
    pub fn without_template(mut self) -> Home {
        self.use_template = false;
        self
    }

    /// The missing files that a compute needs: descriptions and paths.
    pub fn missing(&self) -> Vec<(&'static str, PathBuf)> {
        let needed = [
            ("MariaDB's server", self.mariadbd()),
            ("MariaDB's client", self.client()),
            ("MariaDB's share directory", self.share()),
            ("the storage engine", self.plugin()),
            ("the client library", self.client_library()),
        ];
        needed
            .into_iter()
            .filter(|(_, path)| !path.exists())
            .collect()
    }

    /// Checks that a compute finds everything that it needs.
    ///
    /// # Errors
    /// Names the first missing file.
    pub fn check(&self) -> Result<()> {
        let missing = self.missing();
        let Some((what, path)) = missing.first() else {
            return Ok(());
        };
        let more = if missing.len() > 1 {
            format!(" (and {} more)", missing.len() - 1)
        } else {
            String::new()
        };
        Err(Failure::new(
            format!("{what} is missing: {}{more}", path.display()),
            format!(
                "set {VARIABLE} to the installation's directory; `xylem doctor` lists all missing files"
            ),
        ))
    }

    /// The directories with MariaDB's own libraries.
    fn libraries(&self) -> Vec<PathBuf> {
        let mut dirs = Vec::new();
        for lib in [self.basedir().join("lib"), self.root.join("mariadb/lib")] {
            let Ok(entries) = std::fs::read_dir(&lib) else {
                continue;
            };
            let arch = |name: &std::ffi::OsStr| name.to_string_lossy().contains("-linux-gnu");
            dirs.extend(
                entries
                    .flatten()
                    .filter(|e| arch(&e.file_name()))
                    .map(|e| e.path()),
            );
        }
        dirs
    }

    /// `LD_LIBRARY_PATH` for the programs under `mariadb/`: its own libraries,
    /// then what was set before.
    pub fn library_path(&self) -> OsString {
        let mut dirs = self.libraries();
        if let Some(before) = std::env::var_os("LD_LIBRARY_PATH") {
            dirs.extend(std::env::split_paths(&before));
        }
        std::env::join_paths(dirs).unwrap_or_default()
    }
}
