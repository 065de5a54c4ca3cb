//! Small files: written whole or not at all, secrets for the owner only.

use crate::user::User;
use anyhow::{Context, Result};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Mode of files: nothing of a project is for others. Even logs tell of
/// statements and addresses.
pub const SECRET: u32 = 0o600;

/// Writes `data` to `path` through a temporary neighbour, so that a reader
/// sees the old content or the new one and never half. Not synced: nothing
/// here outlives the machine's crash that could not be made again, but for
/// [`write_durable`].
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write_atomic(path: &Path, data: &[u8], mode: u32) -> Result<()> {
    write(path, data, mode, false).with_context(|| format!("cannot write {}", path.display()))
}

/// As [`write_atomic`], and on disk when it returns.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write_durable(path: &Path, data: &[u8], mode: u32) -> Result<()> {
    write(path, data, mode, true).with_context(|| format!("cannot write {}", path.display()))
}

fn write(path: &Path, data: &[u8], mode: u32, sync: bool) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // A leftover may have another mode, which opening would not change.
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    // The umask may have taken bits away, which is fine; it adds none.
    let written = file
        .write_all(data)
        .and_then(|()| if sync { file.sync_all() } else { Ok(()) })
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    } else if sync && let Some(parent) = path.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    written
}

/// Opens the log at `path` for lines at its end, for its owner only: this user,
/// or `user`, whose process will open it by its name as well.
///
/// # Errors
/// When it cannot be opened, or given to `user`.
pub fn open_log(path: &Path, user: Option<&User>) -> Result<std::fs::File> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(SECRET)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    // One that an earlier version made, or this version for another user.
    log.set_permissions(PermissionsExt::from_mode(SECRET))
        .and_then(|()| match user {
            Some(user) => std::os::unix::fs::fchown(&log, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        })
        .with_context(|| format!("cannot make {} private", path.display()))?;
    Ok(log)
}

/// Makes a directory that only its owner may enter, and its parents.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Closes a directory that is there to all but its owner.
///
/// # Errors
/// When it is somebody else's.
pub fn close(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700))
        .with_context(|| format!("cannot close {} to others", path.display()))
}

/// `path` with symbolic links, `.` and `..` resolved, as far as it is there;
/// what is not there yet follows as it stands, `..` taken by its name.
pub fn resolved(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
        if let Ok(real) = std::fs::canonicalize(&out) {
            out = real;
        }
    }
    out
}

/// Removes a directory tree; not being there is fine.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// A file's permission bits, `None` when it is not there.
pub fn mode_of(path: &Path) -> Option<u32> {
    std::fs::symlink_metadata(path)
        .ok()
        .map(|m| m.permissions().mode() & 0o7777)
}

/// A file's length in bytes, 0 when it is not there.
pub fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// Most bytes of a log that are looked at.
const TAIL_BYTES_MAX: u64 = 256 << 10;

/// The end of a log file, from byte `from` on.
pub fn read_log(path: &Path, from: u64) -> String {
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        // A log that is shorter than it was has been replaced: all of it counts.
        let from = if from > length { 0 } else { from };
        file.seek(SeekFrom::Start(
            from.max(length.saturating_sub(TAIL_BYTES_MAX)),
        ))?;
        file.take(TAIL_BYTES_MAX).read_to_end(&mut text)
    });
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Most log lines that are shown.
const LINES_MAX: usize = 12;

/// The lines of a log (from byte `from` on) that most likely say why its
/// writer did not start: the last errors if it wrote any, else its last lines.
pub fn last_words(path: &Path, from: u64) -> String {
    let text = read_log(path, from);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let bad = errors(&lines);
    quote(if bad.is_empty() { &lines } else { &bad })
}

/// The errors in a log (from byte `from` on) of something that ran and died.
/// Without any it was probably ended from outside, which is then said.
pub fn last_errors(path: &Path, from: u64) -> String {
    let text = read_log(path, from);
    let bad = errors(&text.lines().collect::<Vec<_>>());
    if bad.is_empty() {
        return format!("  (no error in {}: perhaps it was killed)", path.display());
    }
    quote(&bad)
}

fn errors<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    // What a panic says stands in the line after it.
    let panic = |at: usize| at > 0 && lines[at - 1].contains("panicked at");
    let all = lines.iter().enumerate();
    all.filter(|(at, line)| is_error_line(line) || panic(*at))
        .map(|(_, line)| *line)
        .collect()
}

fn quote(lines: &[&str]) -> String {
    let last = &lines[lines.len().saturating_sub(LINES_MAX)..];
    let quoted: Vec<String> = last.iter().map(|line| format!("  | {line}")).collect();
    quoted.join("\n")
}

/// Whether a log line of mariadbd or of the server reports an error.
pub fn is_error_line(line: &str) -> bool {
    const SIGNS: [&str; 7] = [
        "[ERROR]",
        " ERROR ",
        "ERROR: ",
        "\"level\":\"ERROR\"",
        "panicked at",
        "got signal ",
        "Assertion ",
    ];
    line.starts_with("error:") || SIGNS.iter().any(|sign| line.contains(sign))
}
