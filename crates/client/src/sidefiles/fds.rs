//! Tracks the descriptors of side files that are open for writing, and of the binary log's
//! files.
//!
//! One bit per descriptor answers "not a side file" without a lock, which is the
//! case in nearly all calls of the server. All other state is in maps under the
//! mutex of [`super::ops`].

use super::logs::{self, LogFile};
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const WORDS: usize = 1024;
const BITS: usize = WORDS * 64;
static MAYBE: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

fn place(fd: c_int) -> (usize, u64) {
    // High descriptors share bits with lower ones, so that a set bit only means
    // "maybe".
    let bit = fd as u32 as usize % BITS;
    (bit / 64, 1 << (bit % 64))
}

/// Whether `fd` may belong to a side file.
#[inline]
pub fn may_be_tracked(fd: c_int) -> bool {
    let (word, bit) = place(fd);
    MAYBE[word].load(Ordering::Relaxed) & bit != 0
}

/// An open side file, which several descriptors can share.
#[derive(Debug)]
pub struct SideFile {
    /// The current path; `None` if the file was deleted while open.
    pub path: Option<String>,
    /// The frame number of the last operation; 0 for none.
    pub seq: u64,
    /// Whether it is written through a `FILE`. Its content is then sent at each
    /// flush.
    pub stdio: bool,
    /// Device and inode. If they differ from the descriptor's, the descriptor was
    /// closed unnoticed and reused for another file.
    pub file: (u64, u64),
    /// Whether it is a file with events of the binary log.
    pub is_log: bool,
    /// That file, if an earlier server wrote it.
    pub log: Option<Arc<LogFile>>,
    refs: usize,
}

/// The open side files.
#[derive(Debug, Default)]
pub struct Files {
    by_fd: HashMap<c_int, u64>,
    files: HashMap<u64, SideFile>,
    next: u64,
}

impl Files {
    /// Tracks `fd` as the file `path`.
    pub fn insert(&mut self, fd: c_int, path: String, seq: u64, stdio: bool, file: (u64, u64)) {
        self.remove(fd);
        let is_log = logs::number_of(&path).is_some();
        let log = logs::find(&path);
        let id = self.next;
        self.next += 1;
        self.files.insert(
            id,
            SideFile {
                path: Some(path),
                seq,
                stdio,
                file,
                is_log,
                log,
                refs: 1,
            },
        );
        self.by_fd.insert(fd, id);
        let (word, bit) = place(fd);
        MAYBE[word].fetch_or(bit, Ordering::Relaxed);
    }

    /// Tracks `copy` as a duplicate of `fd`, if `fd` is tracked.
    pub fn duplicate(&mut self, fd: c_int, copy: c_int) {
        if fd == copy {
            return;
        }
        self.remove(copy);
        if let Some(&id) = self.by_fd.get(&fd)
            && let Some(file) = self.files.get_mut(&id)
        {
            file.refs += 1;
            self.by_fd.insert(copy, id);
            let (word, bit) = place(copy);
            MAYBE[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// The file of `fd`, if it is tracked.
    pub fn get(&mut self, fd: c_int) -> Option<&mut SideFile> {
        self.files.get_mut(self.by_fd.get(&fd)?)
    }

    /// Stops tracking `fd`, which is closed. Returns the frame number of the
    /// file's last operation if `fd` was tracked.
    pub fn remove(&mut self, fd: c_int) -> Option<u64> {
        let id = self.by_fd.remove(&fd)?;
        let place_of_fd = place(fd);
        if !self.by_fd.keys().any(|&other| place(other) == place_of_fd) {
            MAYBE[place_of_fd.0].fetch_and(!place_of_fd.1, Ordering::Relaxed);
        }
        let file = self.files.get_mut(&id)?;
        file.refs -= 1;
        let seq = file.seq;
        if file.refs == 0 {
            self.files.remove(&id);
        }
        Some(seq)
    }

    /// The tracked descriptors from `first` to `last`.
    pub fn between(&self, first: c_int, last: c_int) -> Vec<c_int> {
        let range = first..=last;
        let mut found: Vec<c_int> = self.by_fd.keys().copied().collect();
        found.retain(|fd| range.contains(fd));
        found
    }

    /// Updates paths after a rename of the file or directory `from` to `to`.
    pub fn renamed(&mut self, from: &str, to: &str) {
        self.unlinked(to);
        for file in self.files.values_mut() {
            if let Some(path) = &mut file.path
                && let Some(rest) = path.strip_prefix(from)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                *path = format!("{to}{rest}");
            }
        }
    }

    /// Notes that the file `path` was deleted.
    pub fn unlinked(&mut self, path: &str) {
        for file in self.files.values_mut() {
            if file.path.as_deref() == Some(path) {
                file.path = None;
            }
        }
    }

    /// Sets the frame number of the last operation of all files.
    pub fn set_all_seqs(&mut self, seq: u64) {
        for file in self.files.values_mut() {
            file.seq = seq;
        }
    }
}
