//! The files of the branch's own binary log.
//!
//! Those of an earlier server have their size when this one starts, but no content: it is
//! fetched when it is first read, a piece at a time. A start therefore takes as long with a
//! log of any size.

use super::{paths, real};
use crate::log::{self, Level};
use crate::status::Error;
use crate::threads::lock;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, RwLock};
use xylem_types::BinlogFile;

/// Bytes at the beginning of a file that need not be fetched.
const HEAD_BYTES: usize = 64;
/// Bytes that are fetched at a time.
const PIECE: u64 = 1 << 20;

/// Returns bytes of the file with a number: so many from an offset on, fewer where the
/// branch's file ends.
pub type Fetch = dyn Fn(u32, u64, u32) -> Result<Vec<u8>, Error> + Send + Sync;
/// Sends all redo that precedes what is written to the log next.
pub type Hook = extern "C" fn();

static FETCH: RwLock<Option<Arc<Fetch>>> = RwLock::new(None);
static HOOK: RwLock<Option<Hook>> = RwLock::new(None);
thread_local! {
    static WRITING: Cell<bool> = const { Cell::new(false) };
}

/// Files by number. `None`: this server made the file, so its content is there.
static FILES: LazyLock<Mutex<HashMap<u32, Option<Arc<LogFile>>>>> = LazyLock::new(Mutex::default);

/// A file of an earlier server.
#[derive(Debug)]
pub struct LogFile {
    number: u32,
    path: PathBuf,
    /// Device and inode. Another file may have the name by now.
    file: (u64, u64),
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes of the file when this server began.
    size: u64,
    /// Which pieces are there.
    there: Vec<bool>,
}

/// Sets where content comes from; `None`: reads that need it fail.
pub fn attach(fetch: Option<Arc<Fetch>>) {
    *FETCH.write().unwrap_or_else(PoisonError::into_inner) = fetch;
}

/// Sets what is called before the log is written; `None`: nothing.
pub fn set_hook(hook: Option<Hook>) {
    *HOOK.write().unwrap_or_else(PoisonError::into_inner) = hook;
}

/// Sends all redo that precedes a write to the log. The caller holds no lock.
///
/// Whatever the log has is then in the redo before it: a transaction in the log is prepared
/// or committed in InnoDB, at every moment of the branch's history.
pub fn before_write() {
    let hook = *HOOK.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(hook) = hook {
        WRITING.set(true);
        hook();
        WRITING.set(false);
    }
}

/// Whether this thread writes to the log next.
pub fn is_writing() -> bool {
    WRITING.get()
}

/// The number of the file with events at `path`, relative to the data directory.
pub fn number_of(path: &str) -> Option<u32> {
    match BinlogFile::at(path)? {
        BinlogFile::Events(number) => Some(number),
        BinlogFile::Index | BinlogFile::PurgeIndex | BinlogFile::State => None,
    }
}

/// Whether the last part of an unresolved path could name such a file. This check is cheap,
/// because nearly all files that are read are others.
pub fn may_be_file(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    name.starts_with(xylem_types::BINLOG.as_bytes())
}

/// The file `path`, if an earlier server wrote it.
pub fn find(path: &str) -> Option<Arc<LogFile>> {
    let number = number_of(path)?;
    let path = paths::root()?.join(path);
    let mut files = lock(&FILES);
    let file = files.entry(number).or_insert_with(|| {
        let found = path.metadata().ok()?;
        Some(Arc::new(LogFile {
            number,
            path,
            file: (found.dev(), found.ino()),
            state: Mutex::new(State {
                size: found.len(),
                there: Vec::new(),
            }),
        }))
    });
    file.clone()
}

/// Notes that this server has made the file `path`, or emptied it.
pub fn made(path: &str) {
    if let Some(number) = number_of(path) {
        lock(&FILES).insert(number, None);
    }
}

/// Notes that the file `path` is gone.
pub fn removed(path: &str) {
    if let Some(number) = number_of(path) {
        lock(&FILES).remove(&number);
    }
}

impl LogFile {
    /// Notes that the file ends at `size`.
    pub fn cut(&self, size: u64) {
        let mut state = lock(&self.state);
        state.size = state.size.min(size);
    }

    /// Makes the bytes of `range` readable in the local file. The caller does not hold the
    /// mutex of side files. Other readers of this file wait meanwhile.
    ///
    /// # Errors
    /// `EIO`, after a line in the error log.
    pub fn ensure(&self, range: Range<u64>) -> Result<(), c_int> {
        let mut state = lock(&self.state);
        let end = range.end.min(state.size);
        let pieces = range.start / PIECE..end.div_ceil(PIECE);
        for piece in pieces {
            let at = usize::try_from(piece).map_err(|_| libc::EFBIG)?;
            if state.there.len() <= at {
                state.there.resize(at + 1, false);
            }
            if !state.there[at] {
                self.fetch(piece * PIECE, state.size).map_err(|why| {
                    let path = self.path.display();
                    log::write(Level::Error, &format!("cannot read {path}: {why}"));
                    libc::EIO
                })?;
                state.there[at] = true;
            }
        }
        Ok(())
    }

    fn fetch(&self, offset: u64, size: u64) -> Result<(), String> {
        let fetch = FETCH.read().unwrap_or_else(PoisonError::into_inner).clone();
        let fetch = fetch.ok_or("there is no page server to fetch its content from")?;
        let wanted = (size - offset).min(PIECE) as u32;
        let bytes = fetch(self.number, offset, wanted).map_err(|e| e.message)?;
        if bytes.len() != wanted as usize {
            let got = bytes.len();
            return Err(format!("{got} of {wanted} bytes at offset {offset} came"));
        }
        let put = || -> std::io::Result<bool> {
            let file = File::options().write(true).open(&self.path)?;
            let found = file.metadata()?;
            if (found.dev(), found.ino()) != self.file {
                return Ok(false);
            }
            file.write_all_at(&bytes, offset)?;
            // MariaDB removes files by the time of their last change.
            file.set_modified(found.modified()?)?;
            Ok(true)
        };
        match put() {
            Ok(true) => Ok(()),
            Ok(false) => Err("it was removed, and another file has its name".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The first bytes of the file, which are there from the start.
    ///
    /// # Errors
    /// When the local file cannot be read.
    pub fn head(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; HEAD_BYTES];
        let read = File::open(&self.path)?.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// `len` bytes from `offset` on.
    ///
    /// # Errors
    /// An `errno`.
    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, c_int> {
        self.ensure(offset..offset.saturating_add(len as u64))?;
        let errno = |e: std::io::Error| e.raw_os_error().unwrap_or(libc::EIO);
        let mut bytes = vec![0; len];
        let file = File::open(&self.path).map_err(errno)?;
        file.read_exact_at(&mut bytes, offset).map_err(errno)?;
        Ok(bytes)
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        lock(&self.state).size
    }

    /// Cuts the file off at `size`, here and in the branch.
    ///
    /// # Errors
    /// An `errno`.
    pub fn truncate(&self, size: u64) -> Result<(), c_int> {
        use std::os::unix::ffi::OsStrExt;
        let path = BinlogFile::events_path(self.number);
        let full = std::ffi::CString::new(self.path.as_os_str().as_bytes());
        let full = full.map_err(|_| libc::EINVAL)?;
        let length = i64::try_from(size).map_err(|_| libc::EFBIG)?;
        super::ops::truncate(path, length, || {
            // SAFETY: the path is NUL-terminated.
            unsafe { real::truncate64(full.as_ptr(), length) }
        })?;
        self.cut(size);
        Ok(())
    }
}

/// The numbers of the log's files in the data directory that have content, the newest first.
///
/// # Errors
/// When the directory cannot be listed.
pub fn numbers() -> std::io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(paths::root().unwrap_or(&PathBuf::new()))? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(number_of)
            && entry.metadata()?.len() > 0
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}
