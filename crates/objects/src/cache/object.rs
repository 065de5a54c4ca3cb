//! Reading an object through the cache.

use super::disk::Disk;
use super::entry::{Entry, Flight, Shape, Source};
use super::shared::Shared;
use super::stats::add;
use bytes::Bytes;
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

/// An object that is open for reading.
pub struct CachedObject {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    /// Keeps the file open from the first read on.
    file: OnceLock<Arc<File>>,
    sequence: Mutex<Sequence>,
    /// The chunk that was read last.
    last: AtomicU32,
}

/// Notices that an object is read front to back.
#[derive(Default)]
struct Sequence {
    /// The chunk after the last one that was fetched.
    next: u32,
    /// Chunks to fetch at once.
    window: u32,
}

impl Drop for CachedObject {
    fn drop(&mut self) {
        if self.entry.drop_reader() {
            self.shared.purge(&self.entry);
        }
    }
}

/// Ends a flight, whatever happens to the thread that fetches.
struct Leader<'a> {
    entry: &'a Entry,
    flight: &'a Arc<Flight>,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.entry.end(self.flight);
    }
}

impl CachedObject {
    /// Looks the object `name` up, in the store unless it is known here.
    pub(super) fn open(shared: &Arc<Shared>, name: &str) -> io::Result<CachedObject> {
        if let Some(entry) = shared.entries.lock().get(name) {
            return Ok(CachedObject::new(shared, entry));
        }
        let size = shared.bucket.size(name)?;
        let mut entries = shared.entries.lock();
        let entry = entries.entry(name.into()).or_insert_with_key(|name| {
            Arc::new(Entry::new(
                Arc::clone(name),
                size,
                shared.config.chunk_bytes,
            ))
        });
        Ok(CachedObject::new(shared, entry))
    }

    /// To be called under the lock of the table of entries.
    pub(super) fn new(shared: &Arc<Shared>, entry: &Arc<Entry>) -> CachedObject {
        entry.add_reader();
        CachedObject {
            shared: Arc::clone(shared),
            entry: Arc::clone(entry),
            file: OnceLock::new(),
            sequence: Mutex::default(),
            // Neither that nor the next is a chunk.
            last: AtomicU32::new(u32::MAX - 1),
        }
    }

    /// Its name in the bucket.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.entry.size
    }

    /// Fills `out` from byte `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] when the object ends before; when the
    /// store does not answer. Never because of the local disk.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.entry.size) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{}: {} bytes at {offset} are wanted, but it has {}",
                    self.entry.name,
                    out.len(),
                    self.entry.size
                ),
            ));
        }
        let mut hit = true;
        let mut at = offset;
        for piece in out.chunks_mut(self.shared.config.fetch_bytes as usize) {
            let len = piece.len() as u64;
            hit &= self.read_piece(at, piece)?;
            at += len;
        }
        let counters = &self.shared.counters;
        match hit {
            true => add(&counters.hits, 1),
            false => add(&counters.misses, 1),
        }
        Ok(())
    }

    /// Reads as much as one request may fetch. Returns whether no request was
    /// needed.
    fn read_piece(&self, offset: u64, out: &mut [u8]) -> io::Result<bool> {
        let range = offset..offset + out.len() as u64;
        if range.is_empty() {
            return Ok(true);
        }
        let wanted = self.entry.touched(&range);
        let last = self.last.swap(wanted.end - 1, Ordering::Relaxed);
        if self.read_local(&range, out) {
            // Reading through an object does not mark the chunks that are
            // passed.
            if wanted.start != last && wanted.start != last.saturating_add(1) {
                self.entry.mark_used(wanted);
            }
            return Ok(true);
        }
        let mut later = Vec::new();
        let ahead = self.ahead(&wanted);
        let mut plan = self.entry.plan(wanted, ahead);
        // This comes before anything can fail, so that no flight stays for
        // ever.
        let leaders: Vec<_> = plan.iter().filter_map(|s| self.leader(s)).collect();
        for leader in &leaders {
            let bytes = self.fetch(leader.flight)?;
            self.copy(&bytes, &leader.flight.chunks, &range, out);
            self.sequence.lock().next = leader.flight.chunks.end;
        }
        drop(leaders);
        for source in plan.drain(..) {
            match source {
                Source::Fetch(_) => {}
                Source::Wait(flight, chunks) => match self.entry.wait(&flight)? {
                    Some(bytes) => self.copy(&bytes, &flight.chunks, &range, out),
                    None => later.push(chunks),
                },
                Source::Local(chunks) => later.push(chunks),
            }
        }
        for chunks in later {
            self.read_here(&chunks, &range, out)?;
        }
        Ok(false)
    }

    /// Up to where to fetch when `wanted` is missing: twice as far each time,
    /// while what is missing begins where the last fetch ended.
    fn ahead(&self, wanted: &Range<u32>) -> u32 {
        let config = &self.shared.config;
        let most = config.fetch_bytes.min(config.max_bytes / 4) / config.chunk_bytes;
        let mut sequence = self.sequence.lock();
        if sequence.next == 0 || !wanted.contains(&sequence.next) {
            sequence.window = 1;
            return wanted.end;
        }
        sequence.window = (sequence.window * 2).clamp(1, most.max(1) as u32);
        sequence.next.saturating_add(sequence.window)
    }

    fn leader<'a>(&'a self, source: &'a Source) -> Option<Leader<'a>> {
        match source {
            Source::Fetch(flight) => Some(Leader {
                entry: &self.entry,
                flight,
            }),
            _ => None,
        }
    }

    /// Reads from the file if it has all of `range`.
    fn read_local(&self, range: &Range<u64>, out: &mut [u8]) -> bool {
        let chunks = self.entry.touched(range);
        let read = {
            let _data = self.entry.data.read();
            if !self.entry.state.lock().has_all(chunks) {
                return false;
            }
            self.file().and_then(|file| {
                self.shared
                    .disk
                    .read(&self.entry.name, &file, out, range.start)
            })
        };
        match read {
            Ok(()) => true,
            Err(error) => {
                // The file of one that was removed goes when it is closed.
                if !self.entry.state.lock().dead {
                    let path = self.shared.disk.path(&self.entry.name);
                    self.shared
                        .counters
                        .disk_failed("reading a file", &path, &error);
                }
                self.shared.forget(&self.entry, range.clone());
                false
            }
        }
    }

    fn file(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.file.get() {
            return Ok(Arc::clone(file));
        }
        let file = self.entry.file(&self.shared.disk)?;
        Ok(Arc::clone(self.file.get_or_init(|| file)))
    }

    /// Reads chunks that should be here: from the file, else from the store
    /// without keeping them.
    fn read_here(&self, chunks: &Range<u32>, range: &Range<u64>, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.entry.bytes_of(chunks);
        let wanted = bytes.start.max(range.start)..bytes.end.min(range.end);
        let at = (wanted.start - range.start) as usize;
        let len = (wanted.end - wanted.start) as usize;
        let Some(part) = out.get_mut(at..at + len) else {
            return Ok(());
        };
        if !self.read_local(&wanted, part) {
            let _room = self.shared.room.take(len as u64);
            part.copy_from_slice(&self.get(wanted)?);
        }
        Ok(())
    }

    /// Copies what `bytes`, the content of `chunks`, has of `range`.
    fn copy(&self, bytes: &Bytes, chunks: &Range<u32>, range: &Range<u64>, out: &mut [u8]) {
        let have = self.entry.bytes_of(chunks);
        let both = have.start.max(range.start)..have.end.min(range.end);
        if both.is_empty() {
            return;
        }
        let from = (both.start - have.start) as usize..(both.end - have.start) as usize;
        let to = (both.start - range.start) as usize..(both.end - range.start) as usize;
        if let (Some(from), Some(to)) = (bytes.get(from), out.get_mut(to)) {
            to.copy_from_slice(from);
        }
    }

    /// The caller holds room for so much.
    fn get(&self, range: Range<u64>) -> io::Result<Bytes> {
        let counters = &self.shared.counters;
        let len = range.end - range.start;
        let bytes = self.shared.bucket.get_range(&self.entry.name, range)?;
        add(&counters.fetches, 1);
        add(&counters.fetched_bytes, len);
        Ok(bytes)
    }

    /// Fetches a flight's chunks, hands them to the readers that wait, and
    /// keeps them.
    fn fetch(&self, flight: &Arc<Flight>) -> io::Result<Bytes> {
        let range = self.entry.bytes_of(&flight.chunks);
        let _room = self.shared.room.take(range.end - range.start);
        let fetched = self.get(range);
        self.entry.land(flight, &fetched);
        let bytes = fetched?;
        self.keep(&flight.chunks, &bytes);
        self.entry.end(flight);
        Ok(bytes)
    }

    /// Writes chunks to the file as far as there is room. Returns whether all
    /// are there.
    fn keep(&self, chunks: &Range<u32>, bytes: &Bytes) -> bool {
        for chunk in chunks.clone() {
            let place = self.entry.bytes_of(&(chunk..chunk + 1));
            let from = place.start - self.entry.bytes_of(chunks).start;
            let len = place.end - place.start;
            let Some(content) = bytes.get(from as usize..(from + len) as usize) else {
                return false;
            };
            if !self.keep_one(chunk, place.start, content) {
                add(
                    &self.shared.counters.not_kept,
                    u64::from(chunks.end - chunk),
                );
                return false;
            }
        }
        true
    }

    fn keep_one(&self, chunk: u32, at: u64, content: &[u8]) -> bool {
        let (shared, entry) = (&self.shared, &self.entry);
        let cost = entry.cost(chunk);
        if !shared.reserve(cost) {
            return false;
        }
        // Until the chunk counts as present, so that no one empties the file
        // in between.
        let mut _data = entry.data.read();
        let mut written = self.write_chunk(at, content);
        if let Err(error) = &written
            && error.kind() == io::ErrorKind::StorageFull
        {
            // The disk is full of others' files; ours give way to ours.
            drop(_data);
            let room = shared.evict(cost);
            _data = entry.data.read();
            if room {
                written = self.write_chunk(at, content);
            }
        }
        let mut state = entry.state.lock();
        match written {
            Ok(()) if !state.dead && !state.has(chunk) => {
                state.set(chunk);
                if !state.in_clock {
                    state.in_clock = true;
                    shared.clock.lock().push_back(Arc::clone(entry));
                }
                if state.present_chunks() == entry.chunks() {
                    self.became_whole(&mut state.shape);
                }
                true
            }
            Ok(()) => {
                shared.release(cost);
                true
            }
            Err(_) if state.dead => {
                shared.release(cost);
                false
            }
            Err(error) => {
                shared.release(cost);
                drop(state);
                let path = shared.disk.path(&entry.name);
                shared.counters.disk_failed("writing a file", &path, &error);
                false
            }
        }
    }

    fn write_chunk(&self, at: u64, content: &[u8]) -> io::Result<()> {
        let file = match self.file.get() {
            Some(file) => Arc::clone(file),
            None => {
                let file = self.entry.file_to_write(&self.shared.disk)?;
                Arc::clone(self.file.get_or_init(|| file))
            }
        };
        self.shared.disk.write(&self.entry.name, &file, content, at)
    }

    fn became_whole(&self, shape: &mut Shape) {
        let (name, size) = (&self.entry.name, self.entry.size);
        let renamed = self
            .shared
            .disk
            .rename(&Disk::part_name(name, size), &Disk::whole_name(name, size));
        match renamed {
            Ok(()) => *shape = Shape::Whole,
            Err(error) => {
                let path = self.shared.disk.path(name);
                self.shared
                    .counters
                    .disk_failed("renaming a file", &path, &error);
            }
        }
    }

    /// Drops the cached bytes from `offset` on, which are not those that were
    /// written, so that they are fetched again.
    pub fn forget(&self, offset: u64, len: u64) {
        self.shared
            .forget(&self.entry, offset..offset.saturating_add(len));
    }

    /// Fetches the missing chunks of one request's worth from `offset` on.
    /// Returns the next offset; `None` at the end of the object or when there
    /// is no room.
    pub(super) fn warm_piece(&self, offset: u64) -> io::Result<Option<u64>> {
        let end = (offset + self.shared.config.fetch_bytes).min(self.entry.size);
        let range = offset..end;
        if range.is_empty() {
            return Ok(None);
        }
        let plan = self.entry.plan(self.entry.touched(&range), 0);
        let leaders: Vec<_> = plan.iter().filter_map(|s| self.leader(s)).collect();
        for leader in &leaders {
            let chunks = &leader.flight.chunks;
            self.fetch(leader.flight)?;
            if !self.entry.state.lock().has_all(chunks.clone()) {
                return Ok(None);
            }
        }
        Ok(Some(end))
    }
}
