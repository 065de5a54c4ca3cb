//! MariaDB's programs where another user can run them: as installed, or, where
//! that user could not reach them (below `/root`, say), a copy.

use crate::account::User;
use crate::files;
use crate::home::Home;
use crate::run_as::{PLACE, make_public_dir};
use anyhow::{Context, Result};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The file in a copy that names the installation it is of.
const OF: &str = "of";

/// MariaDB's own tests, which no server reads.
const TESTS: &str = "mysql-test";

/// A file of an installation: below its directory, and where it is.
struct Item {
    path: PathBuf,
    source: PathBuf,
    meta: std::fs::Metadata,
}

/// `home`, or a copy of what a compute needs of it that `user` can reach. A
/// copy is made once for each state of the installation.
///
/// # Errors
/// When it cannot be copied.
pub fn reachable(home: &Home, user: &User) -> Result<Home> {
    let mut items = Vec::new();
    for part in home.parts() {
        collect(home.root(), &part, &mut items)?;
    }
    let closed = |item: &Item| !user.can_read(&item.source);
    if !items.iter().any(closed) {
        return Ok(home.clone());
    }
    let place = Path::new(PLACE).join("programs");
    let copy = place.join(stamp(home, &items));
    if !copy.join(OF).exists() {
        make_public_dir(&place)?;
        make(home, &items, &copy).with_context(|| {
            format!(
                "cannot copy {}, which the account {} cannot reach, to {}",
                home.root().display(),
                user.name,
                copy.display()
            )
        })?;
        sweep(home, &place, &copy);
    }
    Ok(Home::at(copy))
}

fn collect(root: &Path, part: &Path, items: &mut Vec<Item>) -> Result<()> {
    let source = root.join(part);
    let failed = || format!("cannot read {}", source.display());
    let Ok(meta) = std::fs::metadata(&source) else {
        // Whether it is needed is asked elsewhere; a link may lead nowhere.
        return Ok(());
    };
    if meta.is_dir() {
        for entry in std::fs::read_dir(&source).with_context(failed)? {
            let name = entry.with_context(failed)?.file_name();
            if name != TESTS {
                collect(root, &part.join(name), items)?;
            }
        }
    } else if meta.is_file() {
        items.push(Item {
            path: part.to_owned(),
            source,
            meta,
        });
    }
    Ok(())
}

/// Changes with every file that changes.
fn stamp(home: &Home, items: &[Item]) -> String {
    let mut lines: Vec<String> = items
        .iter()
        .map(|item| {
            let meta = &item.meta;
            format!(
                "{} {} {} {}.{}\n",
                item.path.display(),
                meta.len(),
                meta.ino(),
                meta.mtime(),
                meta.mtime_nsec()
            )
        })
        .collect();
    lines.sort();
    files::short_name(format!("{}\n{}", home.root().display(), lines.concat()).as_bytes())
}

fn make(home: &Home, items: &[Item], copy: &Path) -> Result<()> {
    let place = copy.parent().unwrap_or(Path::new("/"));
    let work = tempfile::Builder::new()
        .prefix(".making-")
        .tempdir_in(place)?;
    for item in items {
        let to = work.path().join(&item.path);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(&item.source, &to)?;
        let mode = 0o644 | item.meta.mode() & 0o111;
        std::fs::set_permissions(&to, PermissionsExt::from_mode(mode))?;
    }
    std::fs::write(
        work.path().join(OF),
        home.root().as_os_str().as_encoded_bytes(),
    )?;
    open(work.path())?;
    match std::fs::rename(work.path(), copy) {
        Ok(()) => {
            // It is not there any more.
            let _ = work.keep();
            Ok(())
        }
        // Another command was faster.
        Err(_) if copy.join(OF).exists() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens the directories below `dir`, whatever the umask is.
fn open(dir: &Path) -> Result<()> {
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes former copies of the same installation that nothing runs from.
fn sweep(home: &Home, place: &Path, newest: &Path) {
    let running: Vec<PathBuf> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|process| std::fs::read_link(process.path().join("exe")).ok())
        .collect();
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let dir = entry.path();
        let of = std::fs::read(dir.join(OF)).unwrap_or_default();
        let former = of == home.root().as_os_str().as_encoded_bytes() && dir != newest;
        if former && !running.iter().any(|exe| exe.starts_with(&dir)) {
            let _ = files::remove_tree(&dir);
        }
    }
}
