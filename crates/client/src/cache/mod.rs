//! The page cache: pages in a file on the compute's own disk, so that a page that the
//! buffer pool gave up need not come from the page server again.
//!
//! Invariant: a page that the cache returns is the newest version. The caller keeps it
//! by these rules:
//!
//! - [`Cache::forget`] when a page in the buffer pool becomes dirty. From then on the
//!   page is not in the cache, however it leaves the buffer pool.
//! - [`Cache::put`] when a dirty page becomes clean, while nobody can change it, and
//!   when a page was read for the buffer pool, before anybody can change it. A read that
//!   bypasses the buffer pool must not put: the page may be dirty there.
//! - [`Cache::forget_space`] when a tablespace is dropped, truncated or made anew. A put
//!   of a page whose read began before has the older [`Ticket`] and does nothing.
//!
//! The index (`shard.rs`) is in memory. A file that cannot be written or read turns the
//! cache off; the pages then come from the page server.

mod file;
mod saved;
mod shard;

use crate::log::{self, Level};
use crate::stats::Counter;
use crate::status::{Error, Status};
use crate::threads::lock;
use file::{PageFile, Read};
use saved::Owner;
use shard::Shard;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A page's identifier: its tablespace and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageId(u64);

impl PageId {
    /// Page `page_no` of the tablespace `space_id`.
    pub const fn new(space_id: u32, page_no: u32) -> PageId {
        PageId((space_id as u64) << 32 | page_no as u64)
    }

    const fn space_id(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Spreads consecutive pages, and pages of several tablespaces that have the same
    /// number, over all 64 bits.
    const fn spread(self) -> u64 {
        let product = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ product >> 32
    }
}

/// Tells whether a tablespace was forgotten since a read began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket with this number, which [`Ticket::number`] returned.
    pub const fn from_number(number: u64) -> Ticket {
        Ticket(number)
    }

    /// The number that stands for the ticket in the C interface.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The answer of [`Cache::get`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The page is in the buffer.
    Hit,
    /// The page is not in the cache.
    Miss,
    /// The page would have to be read from the disk, and the caller does not wait.
    Busy,
}

/// The file, the size and the owner of a cache.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file; its index is saved beside it, with `.index` added.
    pub path: PathBuf,
    /// The largest size of the file, in bytes.
    pub bytes: u64,
    /// The size of a slot, in bytes: the largest page of the server.
    pub page_size: u32,
    /// The branch, by an identifier that no other branch will have.
    pub branch: String,
    /// The epoch of the compute; 0 for a reader, whose cache is never used again.
    pub epoch: u64,
    /// The LSN at which the compute's own redo begins.
    pub start_lsn: u64,
}

/// Counters for status variables.
#[derive(Debug, Default)]
pub struct Counters {
    /// Pages returned.
    pub hits: Counter,
    /// Pages written.
    pub puts: Counter,
    /// Pages that made room for others.
    pub evictions: Counter,
    /// Pages whose checksum was wrong. They were read from the page server.
    pub damaged: Counter,
}

/// The fewest slots of a shard for which it is worth having another.
const SHARD_MIN: u64 = 256;
const SHARDS_MAX: u64 = 64;

/// See the module.
pub struct Cache {
    settings: Settings,
    file: PageFile,
    shards: Box<[Mutex<Shard>]>,
    /// The number of slots of each shard.
    per_shard: u32,
    generation: AtomicU64,
    is_on: AtomicBool,
    counters: Counters,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Opens the cache. What a compute of the same branch left behind stays, if no other
    /// compute can have written since.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn open(settings: Settings) -> Result<Cache, Error> {
        let slots = (settings.bytes / u64::from(settings.page_size.max(1))).max(1);
        let shards = (slots / SHARD_MIN).clamp(1, SHARDS_MAX);
        let per_shard = u32::try_from(slots / shards).unwrap_or(u32::MAX);
        let failed = |error: io::Error| {
            let path = settings.path.display();
            Error::new(
                Status::Error,
                format!("cannot open page cache {path}: {error}"),
            )
        };
        let index = index_path(&settings.path);
        let owner = Owner {
            branch: settings.branch.clone(),
            page_size: settings.page_size,
            shards: shards as u32,
            per_shard,
        };
        // The index is void from now on, because this run changes the file.
        let saved = saved::take(&index).map_err(failed)?;
        let saved = saved.filter(|saved| {
            saved.owner == owner
                && settings.epoch != 0
                && saved.epoch.checked_add(1) == Some(settings.epoch)
                && saved.end_lsn <= settings.start_lsn
        });
        let size = shards * u64::from(per_shard) * u64::from(settings.page_size);
        let file = PageFile::open(&settings.path, size, saved.is_some()).map_err(failed)?;
        let kept = saved.map(|saved| saved.shards).unwrap_or_default();
        let shard =
            |nth: u64| Shard::restored(per_shard, kept.get(nth as usize).map_or(&[], |e| e));
        Ok(Cache {
            shards: (0..shards).map(|nth| Mutex::new(shard(nth))).collect(),
            settings,
            file,
            per_shard,
            generation: AtomicU64::new(1),
            is_on: AtomicBool::new(true),
            counters: Counters::default(),
        })
    }

    /// Counters for status variables.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The number of pages in the cache.
    pub fn pages(&self) -> u64 {
        self.shards.iter().map(|s| lock(s).pages()).sum()
    }

    /// The size of the file at most, in bytes; 0 when the cache is off.
    pub fn size(&self) -> u64 {
        match self.is_on() {
            true => self.file.size(),
            false => 0,
        }
    }

    fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// The shard of a page, and the first slot of that shard in the file.
    fn shard(&self, page: PageId) -> (&Mutex<Shard>, u64) {
        let nth = (((page.spread() >> 32) * self.shards.len() as u64) >> 32) as usize;
        (&self.shards[nth], nth as u64 * u64::from(self.per_shard))
    }

    fn offset(&self, base: u64, slot: u32) -> u64 {
        (base + u64::from(slot)) * u64::from(self.settings.page_size)
    }

    /// The ticket of a read that begins now.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.generation.load(Ordering::Acquire))
    }

    /// Reads a page into `buf`. With `wait` false, only if the system has it in memory.
    pub fn get(&self, page: PageId, buf: &mut [u8], wait: bool) -> Found {
        if !self.is_on() {
            return Found::Miss;
        }
        let (shard, base) = self.shard(page);
        let Some(place) = lock(shard).find(page, buf.len()) else {
            return Found::Miss;
        };
        match self.file.read(buf, self.offset(base, place.slot), wait) {
            Ok(Read::Done) => {}
            Ok(Read::WouldBlock) => return Found::Busy,
            Err(error) => {
                self.turn_off("read", &error);
                return Found::Miss;
            }
        }
        // The slot may have been given to another page during the read.
        if !lock(shard).is_still(page, &place) {
            return Found::Miss;
        }
        if crc32c::crc32c(buf) != place.crc {
            lock(shard).forget(page);
            self.counters.damaged.add(1);
            return Found::Miss;
        }
        self.counters.hits.add(1);
        Found::Hit
    }

    /// Keeps a page, unless a tablespace was forgotten since `ticket`.
    pub fn put(&self, page: PageId, data: &[u8], ticket: Ticket) {
        if !self.is_on() || data.is_empty() || data.len() > self.settings.page_size as usize {
            return;
        }
        let (shard, base) = self.shard(page);
        let claim = {
            let mut shard = lock(shard);
            // Under the lock: forget_space changes the generation first and looks at the
            // shard later.
            if self.ticket() != ticket {
                return;
            }
            shard.claim(page, || self.file.has_room())
        };
        let Some(claim) = claim else { return };
        if claim.evicted {
            self.counters.evictions.add(1);
        }
        let crc = crc32c::crc32c(data);
        match self.file.write(data, self.offset(base, claim.slot)) {
            Ok(()) => {
                lock(shard).fill(&claim, crc, data.len());
                self.counters.puts.add(1);
            }
            Err(error) => self.turn_off("write", &error),
        }
    }

    /// Forgets a page that is about to become dirty in the buffer pool.
    pub fn forget(&self, page: PageId) {
        lock(self.shard(page).0).forget(page);
    }

    /// Forgets all pages of a tablespace.
    pub fn forget_space(&self, space_id: u32) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            lock(shard).forget_if(|page| page.space_id() == space_id);
        }
    }

    /// Turns the cache off. Another attempt needs a restart of the server, because pages
    /// that became dirty meanwhile were not forgotten on the disk.
    #[cold]
    fn turn_off(&self, what: &str, error: &io::Error) {
        if self.is_on.swap(false, Ordering::AcqRel) {
            log::write(
                Level::Warning,
                &format!(
                    "cannot {what} page cache {}: {error}; the cache is off until this server \
                     starts again, and all pages are read from the page server",
                    self.settings.path.display()
                ),
            );
        }
    }

    /// Closes the cache. With `end_lsn`, the LSN up to which this compute wrote, the next
    /// compute of the branch may use it; without, its file is removed.
    pub fn close(&self, end_lsn: Option<u64>) {
        let was_on = self.is_on.swap(false, Ordering::AcqRel);
        let saved = match end_lsn.filter(|_| was_on && self.settings.epoch != 0) {
            None => Ok(false),
            Some(lsn) => self.save(lsn).map(|()| true),
        };
        match saved {
            Ok(true) => {}
            Ok(false) => file::remove(&self.settings.path),
            Err(error) => {
                let index = index_path(&self.settings.path);
                file::remove(&index);
                file::remove(&self.settings.path);
                log::write(
                    Level::Warning,
                    &format!("cannot write {}: {error}", index.display()),
                );
            }
        }
    }

    fn save(&self, end_lsn: u64) -> io::Result<()> {
        let shards = self.shards.iter().map(|s| lock(s).kept().collect());
        let saved = saved::Saved {
            owner: Owner {
                branch: self.settings.branch.clone(),
                page_size: self.settings.page_size,
                shards: self.shards.len() as u32,
                per_shard: self.per_shard,
            },
            epoch: self.settings.epoch,
            end_lsn,
            shards: shards.collect(),
        };
        saved::put(&index_path(&self.settings.path), &saved)
    }
}

fn index_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".index");
    PathBuf::from(name)
}
