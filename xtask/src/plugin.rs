//! `ha_innodb.so`: Debian's source of MariaDB with Xylem's patches and files, built as a
//! plugin for Debian's own server. For tests that need it, a debug build of both.

use crate::debian::Mariadb;
use crate::{cache, steps};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The configuration of InnoDB: Debian's, without what a plugin does not need.
const CMAKE_FLAGS: &[&str] = &[
    "-DPLUGIN_INNOBASE=DYNAMIC",
    "-DWITH_EMBEDDED_SERVER=OFF",
    "-DWITH_UNIT_TESTS=OFF",
    "-DWITH_URING=ON",
    "-DWITH_LIBAIO=ON",
    "-DWITH_NUMA=AUTO",
    "-DWITH_PMEM=ON",
    "-DWITH_INNODB_SNAPPY=ON",
    "-DIGNORE_AIO_CHECK=ON",
    "-DPLUGIN_ARCHIVE=NO",
    "-DPLUGIN_AUTH_GSSAPI=NO",
    "-DPLUGIN_AUTH_PAM=NO",
    "-DPLUGIN_AWS_KEY_MANAGEMENT=NO",
    "-DPLUGIN_BLACKHOLE=NO",
    "-DPLUGIN_COLUMNSTORE=NO",
    "-DPLUGIN_CONNECT=NO",
    "-DPLUGIN_FEDERATED=NO",
    "-DPLUGIN_FEDERATEDX=NO",
    "-DPLUGIN_FEEDBACK=NO",
    "-DPLUGIN_HASHICORP_KEY_MANAGEMENT=NO",
    "-DPLUGIN_MROONGA=NO",
    "-DPLUGIN_OQGRAPH=NO",
    "-DPLUGIN_ROCKSDB=NO",
    "-DPLUGIN_S3=NO",
    "-DPLUGIN_SPHINX=NO",
    "-DPLUGIN_SPIDER=NO",
];

/// Flags of a release build, as Debian's.
const RELEASE_FLAGS: &[&str] = &[
    "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
    "-DBUILD_CONFIG=mysql_release",
    // Without debug information, which is stripped anyway. This takes a fifth of the time.
    "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -DNDEBUG",
    "-DCMAKE_CXX_FLAGS_RELWITHDEBINFO=-O2 -DNDEBUG",
    // The whole plugin is optimized when it is linked, which takes no longer: see the
    // first patch.
    "-DXYLEM_LTO=ON",
];

/// Flags of a debug build: assertions, fault injection, and page checksums in the redo
/// log. Slightly optimized, since the suites would otherwise take hours.
const DEBUG_FLAGS: &[&str] = &[
    "-DCMAKE_BUILD_TYPE=Debug",
    "-DCMAKE_C_FLAGS_DEBUG=-O1 -g1",
    "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1",
    "-DMYSQL_MAINTAINER_MODE=OFF",
    // Only InnoDB uses this function, so the linker would leave it out of the server.
    "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--undefined=my_virtual_mem_release",
    "-DWITH_SSL=system",
    "-DWITH_ZLIB=system",
    "-DWITH_PCRE=system",
];

/// The checkout's root.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}

/// Xylem's inputs of the plugin.
struct Ours {
    patches: Vec<PathBuf>,
    /// Sources by their path below `storage/innobase`.
    files: Vec<(PathBuf, PathBuf)>,
}

impl Ours {
    fn find() -> Result<Ours> {
        let checkout = checkout();
        let sources = checkout.join("mariadb/innobase");
        let mut files = Vec::new();
        for path in cache::files_below(&sources)? {
            files.push((path.strip_prefix(&sources)?.to_owned(), path));
        }
        let header = checkout.join("crates/client/include/xylem_client.h");
        files.push((PathBuf::from("include/xylem_client.h"), header));
        Ok(Ours {
            patches: cache::files_below(&checkout.join("mariadb/patches"))?,
            files,
        })
    }

    fn key(&self, mariadb: &Mariadb, flags: &[&str]) -> Result<String> {
        let compiler = steps::output(Command::new("g++").arg("--version"))?;
        let mut key = cache::Key::default()
            .text("version", &mariadb.version)
            .text("flags", &[CMAKE_FLAGS, flags].concat().join(" "))
            .text("compiler", compiler.lines().next().unwrap_or_default());
        for patch in &self.patches {
            key = key.file(patch)?;
        }
        for (place, path) in &self.files {
            key = key.text("place", &place.to_string_lossy()).file(path)?;
        }
        Ok(key.finish())
    }
}

/// Builds the plugin unless it is cached; returns the file.
pub fn build(mariadb: &Mariadb) -> Result<PathBuf> {
    let key = Ours::find()?.key(mariadb, RELEASE_FLAGS)?;
    let product = cache::dir()?.join("plugin").join(key);
    cache::product(&product, |dir| {
        let build = make(
            mariadb,
            "build",
            RELEASE_FLAGS,
            &["innobase"],
            "building InnoDB (about 8 minutes of one core when new)",
        )?;
        strip(
            &build.join("storage/innobase/ha_innodb.so"),
            &dir.join("ha_innodb.so"),
        )
    })?;
    Ok(product.join("ha_innodb.so"))
}

/// Builds a debug server unless it is cached; returns a folder with `mariadbd`
/// and `plugin/ha_innodb.so`.
pub fn build_debug_server(mariadb: &Mariadb) -> Result<PathBuf> {
    let key = Ours::find()?.key(mariadb, DEBUG_FLAGS)?;
    let product = cache::dir()?.join("debug-server").join(key);
    cache::product(&product, |dir| {
        let build = make(
            mariadb,
            "build-debug",
            DEBUG_FLAGS,
            &["mariadbd", "innobase", "sql_errlog"],
            "building a debug server (about 40 minutes of one core when new)",
        )?;
        fs::create_dir_all(dir.join("plugin"))?;
        copy(&build.join("sql/mariadbd"), &dir.join("mariadbd"))?;
        copy(
            &build.join("storage/innobase/ha_innodb.so"),
            &dir.join("plugin/ha_innodb.so"),
        )?;
        // A test uses this plugin, and a debug server does not load that of a release
        // build.
        copy(
            &build.join("plugin/sql_errlog/sql_errlog.so"),
            &dir.join("plugin/sql_errlog.so"),
        )
    })?;
    Ok(product)
}

/// Configures and builds `targets`; returns the build folder, which is kept for the next
/// build.
fn make(
    mariadb: &Mariadb,
    folder: &str,
    flags: &[&str],
    targets: &[&str],
    doing: &str,
) -> Result<PathBuf> {
    let source = patched_source(mariadb)?;
    let build = source.with_file_name(folder);
    let log = |name: &str| build.with_file_name(format!("{folder}-{name}.log"));
    let flags = [flags, CMAKE_FLAGS].concat();
    let configured = build.join("xylem-flags");
    if fs::read_to_string(&configured).unwrap_or_default() != flags.join("\n") {
        fs::create_dir_all(&build)?;
        steps::run(
            "configuring MariaDB (about a minute)",
            Command::new("cmake")
                .args(["-G", "Unix Makefiles"])
                .args(&flags)
                .arg(&source)
                .current_dir(&build),
            &log("configure"),
        )?;
        fs::write(&configured, flags.join("\n"))?;
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    steps::run(
        doing,
        Command::new("make")
            .arg(format!("-j{jobs}"))
            .args(targets)
            .current_dir(&build),
        &log("make"),
    )?;
    Ok(build)
}

/// Copies a program or library without its debug information.
pub fn strip(from: &Path, to: &Path) -> Result<()> {
    steps::output(
        Command::new("strip")
            .arg("--strip-debug")
            .arg("-o")
            .arg(to)
            .arg(from),
    )?;
    Ok(())
}

/// Applies Xylem's patches and files to Debian's source; returns the folder.
///
/// The folder is kept and brought up to date file by file, so that a changed
/// patch rebuilds only what it touches.
pub fn patched_source(mariadb: &Mariadb) -> Result<PathBuf> {
    let ours = Ours::find()?;
    let base = cache::dir()?
        .join("source")
        .join(mariadb.version.replace(':', "_"));
    let pristine = base.join("pristine");
    cache::product(&pristine, |dir| {
        let dsc = cache::files_below(&mariadb.source)?
            .into_iter()
            .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
            .with_context(|| format!("no .dsc file in {}", mariadb.source.display()))?;
        steps::run(
            "unpacking MariaDB's source",
            Command::new("dpkg-source")
                .args(["--no-check", "-x"])
                .arg(dsc)
                .arg(dir.join("mariadb")),
            &base.join("unpack.log"),
        )
    })?;
    let pristine = pristine.join("mariadb");

    // Patch copies of the files, so that a patch that does not apply leaves the work tree
    // unchanged.
    let staging = base.join("staging");
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    let mut touched = Vec::new();
    for patch in &ours.patches {
        for file in files_of(patch)? {
            if !touched.contains(&file) {
                copy(&pristine.join(&file), &staging.join(&file))?;
                touched.push(file);
            }
        }
        apply(patch, &staging, mariadb)?;
    }
    for (place, path) in &ours.files {
        let file = Path::new("storage/innobase").join(place);
        copy(path, &staging.join(&file))?;
        touched.push(file);
    }

    let source = base.join("work").join("mariadb");
    if !source.exists() {
        let partial = base.join("work").join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(base.join("work"))?;
        steps::output(Command::new("cp").arg("-a").arg(&pristine).arg(&partial))?;
        fs::rename(&partial, &source)?;
    }
    // Restore files that an earlier set of patches changed and this one does not; remove
    // files that an earlier set added.
    let list = base.join("work").join("touched");
    for file in fs::read_to_string(&list)
        .unwrap_or_default()
        .lines()
        .map(PathBuf::from)
    {
        if touched.contains(&file) {
        } else if pristine.join(&file).exists() {
            update(&pristine.join(&file), &source.join(&file))?;
        } else if source.join(&file).exists() {
            fs::remove_file(source.join(&file))?;
        }
    }
    let names: Vec<_> = touched.iter().map(|file| file.to_string_lossy()).collect();
    fs::write(&list, names.join("\n"))?;
    for file in &touched {
        update(&staging.join(file), &source.join(file))?;
    }
    Ok(source)
}

/// The files that a patch changes.
fn files_of(patch: &Path) -> Result<Vec<PathBuf>> {
    let text =
        fs::read_to_string(patch).with_context(|| format!("cannot read {}", patch.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("+++ b/"))
        .map(|line| PathBuf::from(line.split('\t').next().unwrap_or(line)))
        .collect())
}

fn apply(patch: &Path, dir: &Path, mariadb: &Mariadb) -> Result<()> {
    let out = Command::new("patch")
        .args([
            "--strip=1",
            "--fuzz=0",
            "--forward",
            "--batch",
            "--directory",
        ])
        .arg(dir)
        .arg("--input")
        .arg(patch)
        .output()
        .context("cannot run patch")?;
    if !out.status.success() {
        bail!(
            "{} does not apply to MariaDB {}:\n{}",
            patch.file_name().unwrap_or_default().display(),
            mariadb.version,
            String::from_utf8_lossy(&out.stdout).trim()
        );
    }
    Ok(())
}

/// Copies a file, and makes the folder that it goes to.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Copies a file only if it differs, since make compares modification times.
fn update(from: &Path, to: &Path) -> Result<()> {
    if to.exists() && fs::read(from)? == fs::read(to)? {
        return Ok(());
    }
    copy(from, to)
}
