//! The cache's knowledge of one object.

use super::disk::Disk;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// The unit in which file systems allocate.
pub(super) const DISK_BLOCK: u64 = 4096;

/// The file of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// There is none.
    Absent,
    /// Chunks are missing, or may be.
    Part,
    /// It has all chunks, and the name of a whole one.
    Whole,
}

/// Chunks that are being fetched.
pub(super) struct Flight {
    pub(super) chunks: Range<u32>,
    landed: OnceLock<Landed>,
}

/// The outcome of a flight.
enum Landed {
    Bytes(Bytes),
    Failed(io::ErrorKind, String),
    /// The store was not asked: the readers that wait must ask it.
    GivenUp,
}

/// An object's place in the cache.
///
/// Locks are taken in this order: the table of entries, `data`, `state`.
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    pub(super) size: u64,
    chunk: u64,
    /// Grows from 0 only under the lock of the table of entries.
    readers: AtomicUsize,
    /// Held shared while chunks are read or written, alone while some are
    /// punched out: a reader must not see a hole.
    pub(super) data: RwLock<()>,
    /// Which chunks were used since the clock's hand passed.
    used: Box<[AtomicU64]>,
    pub(super) state: Mutex<State>,
    landed: Condvar,
}

pub(super) struct State {
    present: Box<[u64]>,
    present_chunks: u32,
    pub(super) shape: Shape,
    /// The open file, while anyone has it open. Always the same file while
    /// the entry lives.
    file: Weak<File>,
    flights: Vec<Arc<Flight>>,
    /// No longer in the table: nothing is added, nothing is accounted.
    pub(super) dead: bool,
    pub(super) in_clock: bool,
    /// Where the clock's hand is.
    pub(super) hand: u32,
}

/// How a reader comes by some chunks.
pub(super) enum Source {
    /// They are on disk.
    Local(Range<u32>),
    /// Another fetches them.
    Wait(Arc<Flight>, Range<u32>),
    /// The reader fetches them, for itself and others.
    Fetch(Arc<Flight>),
}

fn words(chunks: u32) -> usize {
    chunks.div_ceil(64) as usize
}

fn bit(chunk: u32) -> (usize, u64) {
    ((chunk / 64) as usize, 1 << (chunk % 64))
}

impl Entry {
    pub(super) fn new(name: Arc<str>, size: u64, chunk: u64) -> Entry {
        let chunks = size.div_ceil(chunk) as u32;
        Entry {
            name,
            size,
            chunk,
            readers: AtomicUsize::new(0),
            data: RwLock::new(()),
            used: (0..words(chunks)).map(|_| AtomicU64::new(0)).collect(),
            state: Mutex::new(State {
                present: vec![0; words(chunks)].into(),
                present_chunks: 0,
                shape: Shape::Absent,
                file: Weak::new(),
                flights: Vec::new(),
                dead: false,
                in_clock: false,
                hand: 0,
            }),
            landed: Condvar::new(),
        }
    }

    /// One whose file is whole. It begins in the clock.
    pub(super) fn whole(name: Arc<str>, size: u64, chunk: u64) -> Entry {
        let entry = Entry::new(name, size, chunk);
        {
            let mut state = entry.state.lock();
            for c in 0..entry.chunks() {
                state.set(c);
            }
            state.shape = Shape::Whole;
            state.in_clock = true;
        }
        entry
    }

    pub(super) fn chunks(&self) -> u32 {
        self.size.div_ceil(self.chunk) as u32
    }

    /// The chunks that `range`, which is not empty, touches.
    pub(super) fn touched(&self, range: &Range<u64>) -> Range<u32> {
        let end = range.end.min(self.size).div_ceil(self.chunk);
        (range.start / self.chunk) as u32..end as u32
    }

    /// The bytes of some chunks.
    pub(super) fn bytes_of(&self, chunks: &Range<u32>) -> Range<u64> {
        let at = |c: u32| (u64::from(c) * self.chunk).min(self.size);
        at(chunks.start)..at(chunks.end)
    }

    /// Disk that a chunk takes.
    pub(super) fn cost(&self, chunk: u32) -> u64 {
        let bytes = self.bytes_of(&(chunk..chunk + 1));
        (bytes.end - bytes.start).next_multiple_of(DISK_BLOCK)
    }

    /// Disk that it takes.
    pub(super) fn held_by(&self, state: &State) -> u64 {
        (0..self.chunks())
            .filter(|c| state.has(*c))
            .map(|c| self.cost(c))
            .sum()
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Acquire)
    }

    pub(super) fn add_reader(&self) {
        self.readers.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns whether it was the last.
    pub(super) fn drop_reader(&self) -> bool {
        self.readers.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(super) fn mark_used(&self, chunks: Range<u32>) {
        for c in chunks {
            let (word, mask) = bit(c);
            if let Some(w) = self.used.get(word)
                && w.load(Ordering::Relaxed) & mask == 0
            {
                w.fetch_or(mask, Ordering::Relaxed);
            }
        }
    }

    /// Whether the chunk was used, and from now on was not.
    pub(super) fn take_used(&self, chunk: u32) -> bool {
        let (word, mask) = bit(chunk);
        self.used
            .get(word)
            .is_some_and(|w| w.fetch_and(!mask, Ordering::Relaxed) & mask != 0)
    }

    /// The file, opened if it is not open.
    pub(super) fn file(&self, disk: &Disk) -> io::Result<Arc<File>> {
        let mut state = self.state.lock();
        self.file_of(&mut state, disk)
    }

    pub(super) fn file_of(&self, state: &mut State, disk: &Disk) -> io::Result<Arc<File>> {
        if let Some(file) = state.file.upgrade() {
            return Ok(file);
        }
        let Some(name) = state.file_name(self).filter(|_| !state.dead) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let file = Arc::new(disk.open_file(&name)?);
        state.file = Arc::downgrade(&file);
        Ok(file)
    }

    /// The file for writing chunks, made if there is none.
    pub(super) fn file_to_write(&self, disk: &Disk) -> io::Result<Arc<File>> {
        let mut state = self.state.lock();
        if state.shape != Shape::Absent || state.dead {
            return self.file_of(&mut state, disk);
        }
        let file = disk.create(&Disk::part_name(&self.name, self.size), self.size)?;
        let file = Arc::new(file);
        state.shape = Shape::Part;
        state.file = Arc::downgrade(&file);
        Ok(file)
    }

    /// Says where each of `chunks` comes from. The caller must fetch chunks
    /// that no other reader fetches yet: neighbors in one flight, and if the
    /// last of `chunks` is among them, also those after it up to `ahead`.
    pub(super) fn plan(&self, chunks: Range<u32>, ahead: u32) -> Vec<Source> {
        let mut state = self.state.lock();
        let mut plan = Vec::new();
        let mut c = chunks.start;
        while c < chunks.end {
            let begin = c;
            if state.has(c) {
                while c < chunks.end && state.has(c) {
                    c += 1;
                }
                plan.push(Source::Local(begin..c));
            } else if let Some(flight) = state.flight(c) {
                c = flight.chunks.end.min(chunks.end);
                plan.push(Source::Wait(flight, begin..c));
            } else {
                let end = ahead.clamp(chunks.end, self.chunks().max(chunks.end));
                while c < end && !state.has(c) && state.flight(c).is_none() {
                    c += 1;
                }
                let flight = Arc::new(Flight {
                    chunks: begin..c,
                    landed: OnceLock::new(),
                });
                state.flights.push(Arc::clone(&flight));
                plan.push(Source::Fetch(flight));
            }
        }
        plan
    }

    /// Gives a flight's outcome to the readers that wait for it.
    pub(super) fn land(&self, flight: &Flight, result: &io::Result<Bytes>) {
        let _state = self.state.lock();
        let landed = match result {
            Ok(bytes) => Landed::Bytes(bytes.clone()),
            Err(e) => Landed::Failed(e.kind(), e.to_string()),
        };
        let _ = flight.landed.set(landed);
        self.landed.notify_all();
    }

    /// A flight that is over: its chunks are here, or will be fetched anew.
    pub(super) fn end(&self, flight: &Arc<Flight>) {
        let mut state = self.state.lock();
        if flight.landed.set(Landed::GivenUp).is_ok() {
            self.landed.notify_all();
        }
        state.flights.retain(|f| !Arc::ptr_eq(f, flight));
    }

    /// Waits for what another fetches; nothing when that one gave up.
    pub(super) fn wait(&self, flight: &Flight) -> io::Result<Option<Bytes>> {
        let mut state = self.state.lock();
        loop {
            match flight.landed.get() {
                Some(Landed::Bytes(bytes)) => return Ok(Some(bytes.clone())),
                Some(Landed::Failed(kind, text)) => {
                    return Err(io::Error::new(*kind, text.clone()));
                }
                Some(Landed::GivenUp) => return Ok(None),
                None => self.landed.wait(&mut state),
            }
        }
    }
}

impl State {
    pub(super) fn has(&self, chunk: u32) -> bool {
        let (word, mask) = bit(chunk);
        self.present.get(word).is_some_and(|w| w & mask != 0)
    }

    pub(super) fn has_all(&self, mut chunks: Range<u32>) -> bool {
        chunks.all(|c| self.has(c))
    }

    pub(super) fn set(&mut self, chunk: u32) {
        let (word, mask) = bit(chunk);
        if let Some(w) = self.present.get_mut(word).filter(|w| **w & mask == 0) {
            *w |= mask;
            self.present_chunks += 1;
        }
    }

    pub(super) fn clear(&mut self, chunk: u32) {
        let (word, mask) = bit(chunk);
        if let Some(w) = self.present.get_mut(word).filter(|w| **w & mask != 0) {
            *w &= !mask;
            self.present_chunks -= 1;
        }
    }

    pub(super) fn present_chunks(&self) -> u32 {
        self.present_chunks
    }

    fn flight(&self, chunk: u32) -> Option<Arc<Flight>> {
        self.flights
            .iter()
            .find(|f| f.chunks.contains(&chunk))
            .cloned()
    }

    /// The name of its file.
    pub(super) fn file_name(&self, entry: &Entry) -> Option<String> {
        match self.shape {
            Shape::Absent => None,
            Shape::Part => Some(Disk::part_name(&entry.name, entry.size)),
            Shape::Whole => Some(Disk::whole_name(&entry.name, entry.size)),
        }
    }
}
