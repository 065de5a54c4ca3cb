//! Making room: a clock over all chunks, and dropping bad ones.
//!
//! The hand goes from entry to entry and from chunk to chunk. A chunk that was
//! used since it last passed loses its mark; one without is dropped. A chunk
//! has no mark when it comes, so that reading much once does not drive out
//! what is read often.

use super::disk::Disk;
use super::entry::{Entry, Shape, State};
use super::shared::Shared;
use super::stats::add;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Where the hand goes after an entry.
enum Next {
    /// Move on to the next entry; this one's turn comes again.
    Other,
    /// It stays here.
    Stay,
    /// This one has no chunks left.
    Leave,
}

impl Shared {
    /// Takes so many bytes of the limit, evicting others for them. False when
    /// there is no room.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        let max = self.config.max_bytes;
        if bytes > max {
            return false;
        }
        while !self.reserve_free(bytes) {
            let free = max.saturating_sub(self.held());
            if !self.evict(bytes.saturating_sub(free)) {
                return false;
            }
        }
        true
    }

    /// The same without evicting.
    pub(super) fn reserve_free(&self, bytes: u64) -> bool {
        self.held
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
                let after = held.checked_add(bytes)?;
                (after <= self.config.max_bytes).then_some(after)
            })
            .is_ok()
    }

    /// Drops chunks of at least `need` bytes. Returns false when that many
    /// cannot be freed.
    pub(super) fn evict(&self, need: u64) -> bool {
        let mut freed = 0;
        // Twice around: the first time may only take the marks.
        let mut visits = 2 * self.clock.lock().len() + 2;
        while freed < need && visits > 0 {
            visits -= 1;
            let Some(entry) = self.clock.lock().pop_front() else {
                break;
            };
            let (bytes, next) = self.evict_from(&entry, need - freed);
            freed += bytes;
            match next {
                Next::Stay => self.clock.lock().push_front(entry),
                Next::Other => self.clock.lock().push_back(entry),
                Next::Leave => {
                    if entry.readers() == 0 {
                        self.purge(&entry);
                    }
                }
            }
        }
        freed >= need
    }

    fn evict_from(&self, entry: &Entry, need: u64) -> (u64, Next) {
        // One that is being read or written is not worth waiting for.
        let Some(_data) = entry.data.try_write() else {
            return (0, Next::Other);
        };
        let mut state = entry.state.lock();
        if state.dead {
            return (0, Next::Leave);
        }
        let mut freed = 0;
        let mut chunk = state.hand;
        while chunk < entry.chunks() && freed < need {
            if state.has(chunk) && !entry.take_used(chunk) {
                let Some(bytes) = self.drop_chunk(entry, &mut state, chunk) else {
                    break;
                };
                freed += bytes;
                add(&self.counters.evictions, 1);
                add(&self.counters.evicted_bytes, bytes);
            }
            chunk += 1;
        }
        if state.present_chunks() == 0 {
            state.in_clock = false;
            state.hand = 0;
            return (freed, Next::Leave);
        }
        if freed >= need && chunk < entry.chunks() {
            state.hand = chunk;
            return (freed, Next::Stay);
        }
        state.hand = 0;
        (freed, Next::Other)
    }

    /// Drops one chunk of an entry whose data is held alone. Returns the bytes
    /// that it took.
    fn drop_chunk(&self, entry: &Entry, state: &mut State, chunk: u32) -> Option<u64> {
        if state.shape == Shape::Whole {
            // Else the next process would take the hole for content.
            let from = Disk::whole_name(&entry.name, entry.size);
            let to = Disk::part_name(&entry.name, entry.size);
            if let Err(error) = self.disk.rename(&from, &to) {
                let path = self.disk.path(&from);
                self.counters.disk_failed("renaming a file", &path, &error);
                return None;
            }
            state.shape = Shape::Part;
        }
        if let Err(error) = self.punch(entry, state, chunk) {
            let path = self.disk.path(&entry.name);
            self.counters.disk_failed("giving back disk", &path, &error);
            return Some(self.drop_all(entry, state));
        }
        state.clear(chunk);
        let cost = entry.cost(chunk);
        self.release(cost);
        Some(cost)
    }

    fn punch(&self, entry: &Entry, state: &mut State, chunk: u32) -> io::Result<()> {
        let file = entry.file_of(state, &self.disk)?;
        // Whole blocks, also the last one: else it would stay.
        let bytes = entry.bytes_of(&(chunk..chunk + 1));
        self.disk
            .punch(&entry.name, &file, bytes.start, entry.cost(chunk))
    }

    /// For file systems that cannot punch holes: all chunks go.
    fn drop_all(&self, entry: &Entry, state: &mut State) -> u64 {
        let bytes = entry.held_by(state);
        let emptied = entry
            .file_of(state, &self.disk)
            .and_then(|file| file.set_len(0).and_then(|()| file.set_len(entry.size)));
        if let Err(error) = emptied {
            let path = self.disk.path(&entry.name);
            self.counters.disk_failed("giving back disk", &path, &error);
        }
        for chunk in 0..entry.chunks() {
            state.clear(chunk);
        }
        self.release(bytes);
        bytes
    }

    /// Drops what is kept of `range`.
    pub(super) fn forget(&self, entry: &Arc<Entry>, range: Range<u64>) {
        if range.is_empty() || range.start >= entry.size {
            return;
        }
        let _data = entry.data.write();
        let mut state = entry.state.lock();
        for chunk in entry.touched(&range) {
            if !state.has(chunk) {
                continue;
            }
            add(&self.counters.forgotten, 1);
            if state.dead {
                state.clear(chunk);
            } else if self.drop_chunk(entry, &mut state, chunk).is_none() {
                // It stays on disk, but is not read again.
                state.clear(chunk);
                self.release(entry.cost(chunk));
            }
        }
    }
}
