//! `target/dist`: an installation of Xylem, assembled from build products.

use crate::{cache, debian, packages, plugin, steps};
use anyhow::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An installation: `bin/xylem`, `lib/`, `mariadb/`, `template/`.
pub struct Dist {
    /// The installation's folder: `XYLEM_HOME`.
    pub root: PathBuf,
}

impl Dist {
    /// The path of a program.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// Sets the environment variables by which tests and benchmarks find the
    /// installation.
    pub fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("XYLEM_HOME", &self.root)
            .env("XYLEM_MARIADB_PREFIX", self.root.join("mariadb"))
    }
}

/// Installs missing packages and builds everything.
pub fn build() -> Result<Dist> {
    packages::install()?;
    let target = plugin::checkout().join("target");
    // In parallel: each build has phases that use one core or none.
    let (plugin, xylem) = std::thread::scope(|scope| {
        let plugin = scope.spawn(|| {
            let mariadb = debian::mariadb()?;
            let plugin = plugin::build(&mariadb)?;
            anyhow::Ok((mariadb, plugin))
        });
        let xylem = programs(&target);
        (plugin.join(), xylem)
    });
    let (mariadb, plugin) = plugin.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    xylem?;

    let dist = Dist {
        root: target.join("dist"),
    };
    assemble(&dist, &mariadb, &plugin, &target.join("release"))?;
    template(&dist)?;
    Ok(dist)
}

/// Builds the program and the client library, each by itself: built together, they would
/// share the features of their dependencies, and the library would have cryptography in
/// it that its licence does not allow.
fn programs(target: &Path) -> Result<()> {
    for package in ["xylem-client", "xylem-cli"] {
        let mut cargo = steps::cargo();
        cargo.current_dir(plugin::checkout()).args([
            "build",
            "--release",
            "--locked",
            "--package",
            package,
        ]);
        steps::run(
            &format!("building {package} (minutes when new)"),
            &mut cargo,
            &target.join(format!("build-{package}.log")),
        )?;
    }
    Ok(())
}

fn assemble(dist: &Dist, mariadb: &debian::Mariadb, plugin: &Path, release: &Path) -> Result<()> {
    let plugins = dist.root.join("lib/plugin");
    fs::create_dir_all(dist.root.join("bin"))?;
    fs::create_dir_all(&plugins)?;
    place(&release.join("xylem"), &dist.bin("xylem"))?;
    place(
        &release.join("libxylem_client.so"),
        &dist.root.join("lib/libxylem_client.so"),
    )?;
    place(plugin, &plugins.join("ha_innodb.so"))?;
    link(&mariadb.root, &dist.root.join("mariadb"))?;
    let stock = mariadb.root.join("usr/lib/mysql/plugin");
    for entry in fs::read_dir(&stock).with_context(|| format!("cannot list {}", stock.display()))? {
        let entry = entry?;
        link(&entry.path(), &plugins.join(entry.file_name()))?;
    }
    Ok(())
}

/// Copies a file into place under a new inode, so that running processes keep the old
/// file.
fn place(from: &Path, to: &Path) -> Result<()> {
    if to.exists() && fs::read(from)? == fs::read(to)? {
        return Ok(());
    }
    let partial = to.with_extension("partial");
    fs::copy(from, &partial)
        .with_context(|| format!("cannot copy {} to {}", from.display(), partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("cannot put {} into place", to.display()))
}

fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::read_link(to).is_ok_and(|target| target == from) {
        return Ok(());
    }
    if to.symlink_metadata().is_ok() {
        fs::remove_file(to)?;
    }
    symlink(from, to).with_context(|| format!("cannot link {}", to.display()))
}

/// Makes the template: a bootstrapped project from which new projects are copied.
fn template(dist: &Dist) -> Result<()> {
    let key = cache::Key::default()
        .file(&dist.bin("xylem"))?
        .file(&dist.root.join("lib/libxylem_client.so"))?
        .file(&dist.root.join("lib/plugin/ha_innodb.so"))?
        .text(
            "mariadb",
            &fs::read_link(dist.root.join("mariadb"))?.to_string_lossy(),
        )
        .finish();
    let product = cache::dir()?.join("template").join(key);
    cache::product(&product, |dir| {
        steps::run(
            "making the template of a new project",
            dist.environment(&mut Command::new(dist.bin("xylem")))
                .arg("template")
                .arg(dir.join("template")),
            &dist.root.join("template.log"),
        )
    })?;
    link(&product.join("template"), &dist.root.join("template"))
}
