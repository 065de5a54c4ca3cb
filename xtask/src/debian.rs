//! MariaDB from Debian: binaries unpacked into a private prefix, and the source of the
//! same version. apt-get runs on private package lists, so the host's own MariaDB and
//! package lists are not touched.

use crate::{cache, steps};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The versions on which Xylem's patches of InnoDB are tested, newest first. A storage
/// engine must match its server exactly, so both have the same version.
const SUPPORTED: &[&str] = &["1:10.11.18-0+deb12u1"];

/// The packages that make a server, its clients and its test suite.
const PACKAGES: &[&str] = &[
    "libmariadb3",
    "mariadb-backup",
    "mariadb-client",
    "mariadb-client-core",
    "mariadb-common",
    "mariadb-server",
    "mariadb-server-core",
    "mariadb-test",
    "mariadb-test-data",
];

/// MariaDB as Debian built it.
pub struct Mariadb {
    /// Debian's version.
    pub version: String,
    /// The folder into which the packages are unpacked: `usr/sbin/mariadbd` and so on.
    pub root: PathBuf,
    /// A folder with the source package's files (`.dsc` and tarballs).
    pub source: PathBuf,
}

/// Finds the newest supported version for which Debian offers binaries and source, and
/// fetches both unless they are cached.
pub fn mariadb() -> Result<Mariadb> {
    let cache = cache::dir()?;
    let place = |version: &str| {
        let name = version.replace(':', "_");
        Mariadb {
            version: version.to_owned(),
            root: cache.join("mariadb").join(&name).join("root"),
            source: cache.join("mariadb").join(&name).join("source"),
        }
    };
    if let Some(version) = SUPPORTED.first() {
        let newest = place(version);
        if newest.root.exists() && newest.source.exists() {
            return Ok(newest);
        }
    }

    let apt = Apt::new(&cache.join("apt"))?;
    let served = apt.served()?;
    let mut refused = Vec::new();
    for version in SUPPORTED {
        let mariadb = place(version);
        if mariadb.root.exists() && mariadb.source.exists() {
            return Ok(mariadb);
        }
        if !served.iter().any(|served| served == version) {
            refused.push(format!("{version}: not in the package lists"));
            continue;
        }
        let fetched = cache::product(&mariadb.source, |dir| apt.fetch_source(version, dir))
            .and_then(|()| cache::product(&mariadb.root, |dir| apt.unpack(version, dir)));
        match fetched {
            Ok(()) => return Ok(mariadb),
            Err(error) => refused.push(format!("{version}: {error:#}")),
        }
    }
    bail!(
        "Debian offers none of the supported versions of MariaDB as binaries and source:\n{}\n\
         it offers: {}",
        refused.join("\n"),
        served.join(", ")
    )
}

/// The environment variable that gives tests the folder of a minimal Debian.
pub const ROOT_VARIABLE: &str = "XYLEM_TEST_DEBIAN";

/// A minimal Debian 12 in a folder, for tests of the package. Needs root.
pub fn minimal_root() -> Result<PathBuf> {
    let root = cache::dir()?.join("debian-root").join("bookworm");
    cache::product(&root, |dir| {
        let sources = host_sources()?;
        let mirror = sources
            .lines()
            .filter_map(|line| line.strip_prefix("deb "))
            .find(|line| line.ends_with(" bookworm main"))
            .and_then(|line| line.split(' ').next())
            .context("no source of Debian 12 (bookworm, main) is configured")?;
        steps::run(
            "making a minimal Debian 12",
            Command::new("debootstrap")
                .args(["--variant=minbase", "bookworm"])
                .arg(dir)
                .arg(mirror),
            &cache::dir()?.join("log/debootstrap.log"),
        )
    })?;
    Ok(root)
}

/// apt-get with private lists and a private cache.
struct Apt {
    dir: PathBuf,
    config: PathBuf,
}

impl Apt {
    /// Writes package sources like the host's, with source packages added, and reads
    /// their lists.
    fn new(dir: &Path) -> Result<Apt> {
        for sub in ["lists/partial", "cache/archives/partial", "empty"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub).with_context(|| format!("cannot create {}", sub.display()))?;
        }
        let apt = Apt {
            dir: dir.to_owned(),
            config: dir.join("apt.conf"),
        };
        fs::write(dir.join("sources.list"), host_sources()?)?;
        let shown = dir.display();
        fs::write(
            &apt.config,
            format!(
                "Dir::Etc::SourceList \"{shown}/sources.list\";\n\
                 Dir::Etc::SourceParts \"{shown}/empty\";\n\
                 Dir::State::Lists \"{shown}/lists\";\n\
                 Dir::Cache \"{shown}/cache\";\n\
                 APT::Sandbox::User \"\";\n\
                 Acquire::Retries \"3\";\n"
            ),
        )?;
        steps::run(
            "reading Debian's lists of MariaDB packages",
            apt.command("apt-get").arg("update"),
            &apt.log("update"),
        )?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("APT_CONFIG", &self.config)
            .current_dir(&self.dir);
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// The versions of the server that Debian offers as binaries.
    fn served(&self) -> Result<Vec<String>> {
        let table = steps::output(
            self.command("apt-cache")
                .args(["madison", "mariadb-server"]),
        )?;
        let mut versions: Vec<String> = table
            .lines()
            .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
            .collect();
        versions.dedup();
        Ok(versions)
    }

    fn fetch_source(&self, version: &str, dir: &Path) -> Result<()> {
        steps::run(
            &format!("fetching the source of MariaDB {version}"),
            self.command("apt-get")
                .args(["source", "--download-only", &format!("mariadb={version}")])
                .current_dir(dir),
            &self.log("source"),
        )
    }

    fn unpack(&self, version: &str, dir: &Path) -> Result<()> {
        let debs = dir.with_extension("debs");
        fs::create_dir_all(&debs)?;
        steps::run(
            &format!("fetching MariaDB {version}"),
            self.command("apt-get")
                .arg("download")
                .args(
                    PACKAGES
                        .iter()
                        .map(|package| format!("{package}={version}")),
                )
                .current_dir(&debs),
            &self.log("download"),
        )?;
        for deb in cache::files_below(&debs)? {
            steps::output(Command::new("dpkg").arg("-x").arg(&deb).arg(dir))?;
        }
        fs::remove_dir_all(&debs)?;
        Ok(())
    }
}

/// The host's Debian sources as `deb` and `deb-src` lines.
fn host_sources() -> Result<String> {
    let targets = steps::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(CREATED_BY) $(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)",
    ]))?;
    let mut lines: Vec<String> = targets
        .lines()
        .filter_map(|line| line.strip_prefix("Packages Debian "))
        .filter(|rest| rest.ends_with(" main"))
        .flat_map(|rest| [format!("deb {rest}"), format!("deb-src {rest}")])
        .collect();
    lines.sort();
    lines.dedup();
    if lines.is_empty() {
        bail!(
            "no Debian package source with component main is configured, or its lists are \
             missing: run apt-get update"
        );
    }
    Ok(lines.join("\n") + "\n")
}
