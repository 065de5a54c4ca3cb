//! `cargo xtask package`: an archive that runs on Debian 12 from any folder, without a
//! compiler and without further packages.

use crate::dist::Dist;
use crate::plugin::{copy, strip};
use crate::{cache, plugin, steps};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The MariaDB programs in the archive: those for use with a server. Tests, and tools for
/// files of other engines, are left out.
const PROGRAMS: &[&str] = &[
    "mariadb",
    "mariadb-admin",
    "mariadb-backup",
    "mariadb-binlog",
    "mariadb-check",
    "mariadb-dump",
    "mariadb-import",
    "mbstream",
];

/// The MariaDB plugins in the archive: those that are useful with InnoDB as the only
/// engine. Plugins for tests are left out.
const PLUGINS: &[&str] = &[
    "auth_ed25519.so",
    "auth_pam.so",
    "disks.so",
    "file_key_management.so",
    "ha_innodb.so",
    "locales.so",
    "metadata_lock_info.so",
    "password_reuse_check.so",
    "query_cache_info.so",
    "query_response_time.so",
    "server_audit.so",
    "simple_password_check.so",
    "sql_errlog.so",
    "type_mysql_json.so",
    "type_mysql_timestamp.so",
];

/// Libraries that every Debian has, and that must match the dynamic linker.
const SYSTEM: &[&str] = &[
    "ld-linux",
    "libc.so",
    "libdl.so",
    "libgcc_s.so",
    "libm.so",
    "libpthread.so",
    "libresolv.so",
    "librt.so",
    "libstdc++.so",
    "linux-vdso",
];

/// The environment variable that gives tests the path of the archive.
pub const VARIABLE: &str = "XYLEM_TEST_PACKAGE";

/// The archive of the installation for a test: packed only if the programs have
/// changed since it was.
pub fn current(dist: &Dist) -> Result<PathBuf> {
    let archive = folder().join(format!("{}.tar.gz", name()));
    // The template is in a folder named by a hash of all programs.
    let programs = fs::read_link(dist.root.join("template"))?;
    let programs = programs.to_string_lossy();
    let packed = folder().join("packed");
    if !archive.exists() || fs::read_to_string(&packed).unwrap_or_default() != programs {
        make(dist)?;
        fs::write(&packed, programs.as_bytes())?;
    }
    Ok(archive)
}

fn folder() -> PathBuf {
    plugin::checkout().join("target/package")
}

fn name() -> String {
    let (version, arch) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
    format!("xylem-{version}-debian12-{arch}")
}

/// Packs the installation; returns the archive.
pub fn make(dist: &Dist) -> Result<PathBuf> {
    let (name, folder) = (name(), folder());
    let root = folder.join(&name);
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    collect(dist, &root)?;
    let libraries = bundle(&root)?;
    documents(dist, &root, &libraries)?;

    let archive = folder.join(format!("{name}.tar.gz"));
    steps::run(
        "packing",
        Command::new("tar")
            .args(["--create", "--gzip", "--sort=name", "--numeric-owner"])
            .args(["--owner=0", "--group=0", "--mtime=@0", "--file"])
            .arg(&archive)
            .arg(&name)
            .current_dir(&folder),
        &folder.join("tar.log"),
    )?;
    Ok(archive)
}

/// Copies programs, libraries and data into an installation. Links are resolved, since
/// `target/dist` links to the cache.
fn collect(dist: &Dist, root: &Path) -> Result<()> {
    let mariadb = dist.root.join("mariadb/usr");
    let programs = root.join("mariadb/usr/bin");
    fs::create_dir_all(&programs)?;
    for program in PROGRAMS {
        copy(&mariadb.join("bin").join(program), &programs.join(program))?;
    }
    copy(
        &mariadb.join("sbin/mariadbd"),
        &root.join("mariadb/usr/sbin/mariadbd"),
    )?;
    for (from, to) in [
        (
            mariadb.join("share/mysql"),
            "mariadb/usr/share/mysql".to_owned(),
        ),
        (mariadb.join("lib").join(triplet()), library_dir()),
        (dist.root.join("template"), "template".to_owned()),
    ] {
        copy_tree(&from, &root.join(to))?;
    }
    for name in PLUGINS {
        let plugin = Path::new("lib/plugin").join(name);
        copy(&dist.root.join(&plugin), &root.join(&plugin))?;
    }
    for ours in ["bin/xylem", "lib/libxylem_client.so"] {
        let to = root.join(ours);
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        strip(&dist.root.join(ours), &to)?;
    }
    Ok(())
}

/// Copies the shared libraries that the programs need and a minimal Debian may lack into
/// the folder that MariaDB's programs search first. Returns the source of each.
fn bundle(root: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let libraries = root.join(library_dir());
    let mut found = BTreeMap::new();
    for file in cache::files_below(root)? {
        if !is_elf(&file)? {
            continue;
        }
        let listed = steps::output(
            Command::new("ldd")
                .arg(&file)
                .env("LD_LIBRARY_PATH", &libraries),
        )
        .with_context(|| format!("cannot list the libraries of {}", file.display()))?;
        for line in listed.lines() {
            let Some((name, rest)) = line.trim().split_once(" => ") else {
                continue;
            };
            if SYSTEM.iter().any(|system| name.starts_with(system)) {
                continue;
            }
            let path = rest.split(" (").next().unwrap_or_default();
            if path == "not found" {
                bail!("{} needs {name}, which is not installed", file.display());
            }
            if !Path::new(path).starts_with(root) {
                found.insert(name.to_owned(), PathBuf::from(path));
            }
        }
    }
    for (name, path) in &found {
        copy(path, &libraries.join(name))?;
    }
    Ok(found)
}

/// Adds the licenses of Xylem, MariaDB and the bundled libraries.
fn documents(dist: &Dist, root: &Path, libraries: &BTreeMap<String, PathBuf>) -> Result<()> {
    let checkout = plugin::checkout();
    for file in ["LICENSE", "README.md", "CHANGELOG.md"] {
        copy(&checkout.join(file), &root.join(file))?;
    }
    let mut packages: Vec<String> = Vec::new();
    for path in libraries.values() {
        // dpkg's database may have the path without /usr, from before the merge.
        let real = fs::canonicalize(path)?;
        let owner = [path.as_path(), real.as_path()]
            .into_iter()
            .chain(real.strip_prefix("/usr").ok().map(Path::new))
            .find_map(|path| {
                let path = Path::new("/").join(path);
                steps::output(Command::new("dpkg-query").arg("--search").arg(path)).ok()
            })
            .with_context(|| format!("no Debian package owns {}", path.display()))?;
        let package = owner.split(':').next().unwrap_or_default().to_owned();
        packages.push(package);
    }
    packages.sort();
    packages.dedup();
    let notices = root.join("licenses");
    for package in packages {
        copy(
            &Path::new("/usr/share/doc").join(&package).join("copyright"),
            &notices.join(package),
        )?;
    }
    let mariadb = "mariadb/usr/share/doc/mariadb-server-core/copyright";
    copy(&dist.root.join(mariadb), &notices.join("mariadb"))
}

fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

fn library_dir() -> String {
    format!("mariadb/usr/lib/{}", triplet())
}

fn is_elf(path: &Path) -> Result<bool> {
    use std::io::Read;
    let mut magic = Vec::new();
    fs::File::open(path)?.take(4).read_to_end(&mut magic)?;
    Ok(magic == b"\x7fELF")
}

/// Copies a tree with links resolved, without MariaDB's tests.
fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if name == "mysql-test" {
            continue;
        }
        if path.is_dir() {
            copy_tree(&path, &to.join(name))?;
        } else if path.exists() {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}
