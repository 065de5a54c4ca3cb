//! The cache's directory: names of its files, and each step on them.
//!
//! ```text
//! CACHEDIR.TAG             for backup programs; says that the rest is ours
//! LOCK                     held by the process that has it open
//! BUCKET                   whose objects these are
//! objects/NAME@SIZE        an object, whole
//! objects/NAME@SIZE.part   one of which chunks are missing
//! objects/NAME.N.new       one being written
//! ```
//!
//! NAME is the object's name with other bytes than letters, digits, `.`, `_`
//! and `-` as `%XX`. Only whole ones are taken over by the next process.

use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A step on the disk, for the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A file is made.
    Create(&'a str),
    /// This many bytes are written.
    Write(&'a str, usize),
    /// This many bytes are read.
    Read(&'a str, usize),
    /// A file gets another name.
    Rename(&'a str),
    /// A chunk is given back to the file system.
    Punch(&'a str),
    /// A file is removed.
    Remove(&'a str),
}

/// Called before each step; an error takes its place.
pub type Hook = Arc<dyn Fn(Step<'_>) -> io::Result<()> + Send + Sync>;

const TAG: &str = "CACHEDIR.TAG";
/// The tag that backup programs look for: <https://bford.info/cachedir/>.
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
                        # A cache of Xylem. It can be deleted while no server runs.\n";
const LOCK: &str = "LOCK";
const BUCKET: &str = "BUCKET";
const OBJECTS: &str = "objects";

pub(super) struct Disk {
    /// Where the objects' files are.
    dir: PathBuf,
    hook: Option<Hook>,
    _lock: File,
}

/// Bytes that stand for themselves in a file's name.
fn plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"._-".contains(&b)
}

fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 8);
    for b in name.bytes() {
        if plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn decode(name: &str) -> Option<String> {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b if plain(b) => out.push(b),
            _ => return None,
        }
    }
    String::from_utf8(out).ok()
}

/// The object and size in the name of a file that is whole.
fn parse_whole(file: &str) -> Option<(String, u64)> {
    let (name, size) = file.rsplit_once('@')?;
    Some((decode(name)?, size.parse().ok()?))
}

impl Disk {
    pub(super) fn whole_name(name: &str, size: u64) -> String {
        format!("{}@{size}", encode(name))
    }

    pub(super) fn part_name(name: &str, size: u64) -> String {
        format!("{}@{size}.part", encode(name))
    }

    pub(super) fn new_name(name: &str, number: u64) -> String {
        format!("{}.{number}.new", encode(name))
    }

    /// Opens the directory and returns the objects in it that are whole.
    pub(super) fn open(
        dir: &Path,
        bucket: &str,
        hook: Option<Hook>,
    ) -> io::Result<(Disk, Vec<(String, u64)>)> {
        std::fs::create_dir_all(dir)?;
        let at = |e: io::Error| io::Error::new(e.kind(), format!("cache {}: {e}", dir.display()));
        if !dir.join(TAG).exists() {
            if std::fs::read_dir(dir).map_err(at)?.next().is_some() {
                return Err(io::Error::other(format!(
                    "cache {}: the directory holds other files; choose an empty one",
                    dir.display()
                )));
            }
            std::fs::write(dir.join(TAG), TAG_TEXT).map_err(at)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join(LOCK))
            .map_err(at)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(format!(
                    "cache {}: another process has it open",
                    dir.display()
                )));
            }
            Err(TryLockError::Error(e)) => return Err(at(e)),
        }
        let objects = dir.join(OBJECTS);
        std::fs::create_dir_all(&objects).map_err(at)?;
        let same_bucket =
            std::fs::read_to_string(dir.join(BUCKET)).is_ok_and(|text| text.trim() == bucket);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&objects).map_err(at)? {
            let entry = entry.map_err(at)?;
            let len = entry.metadata().map_err(at)?.len();
            let whole = entry.file_name().to_str().and_then(parse_whole);
            match whole.filter(|(_, size)| same_bucket && *size == len) {
                Some(object) => found.push(object),
                None => std::fs::remove_file(entry.path()).map_err(at)?,
            }
        }
        // Only now that no other bucket's objects are left.
        std::fs::write(dir.join(BUCKET), format!("{bucket}\n")).map_err(at)?;
        let disk = Disk {
            dir: objects,
            hook,
            _lock: lock,
        };
        Ok((disk, found))
    }

    fn step(&self, step: Step<'_>) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(step))
    }

    /// A file's path, for messages.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Makes an empty file of the length `len`, without content.
    pub(super) fn create(&self, file: &str, len: u64) -> io::Result<File> {
        self.step(Step::Create(file))?;
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(file))?;
        made.set_len(len)?;
        Ok(made)
    }

    pub(super) fn open_file(&self, file: &str) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(file))
    }

    pub(super) fn write(&self, name: &str, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        self.step(Step::Write(name, bytes.len()))?;
        file.write_all_at(bytes, at)
    }

    pub(super) fn read(&self, name: &str, file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
        self.step(Step::Read(name, out.len()))?;
        file.read_exact_at(out, at)
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step(Step::Rename(from))?;
        std::fs::rename(self.path(from), self.path(to))
    }

    /// Gives the bytes back to the file system; they read as zeros.
    pub(super) fn punch(&self, name: &str, file: &File, at: u64, len: u64) -> io::Result<()> {
        self.step(Step::Punch(name))?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(file, flags, at, len)?)
    }

    pub(super) fn remove(&self, file: &str) -> io::Result<()> {
        self.step(Step::Remove(file))?;
        match std::fs::remove_file(self.path(file)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
