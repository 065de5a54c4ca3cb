//! One shard of the index: which page is in which slot, and which page makes room.
//!
//! Eviction is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction",
//! SOSP 2023): new pages pass a small queue, a tenth of the slots. Those that were read
//! again meanwhile, or that are new but left the small queue not long ago, stay in the
//! main queue, which gives a second chance for each read, up to three. A scan that reads
//! each page once thus does not displace what is read often.

use super::PageId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// A page of the cache, where it was found.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub slot: u32,
    stamp: u64,
    /// CRC-32C of the page.
    pub crc: u32,
}

/// A slot that will be written.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub slot: u32,
    stamp: u64,
    /// Whether another page made room.
    pub evicted: bool,
}

/// A page that another run of the server may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub page: u64,
    pub slot: u32,
    pub len: u32,
    pub crc: u32,
    /// Whether the page is in the main queue.
    pub main: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The page in the file is the newest.
    Filled,
    /// The page was forgotten. The slot stays its own until its turn in the queue,
    /// because it is likely to be put again.
    Empty,
    /// A thread writes to the slot in the file.
    Claimed,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    page: PageId,
    /// Different each time the slot's page or contents change.
    stamp: u64,
    len: u32,
    crc: u32,
    reads: u8,
    main: bool,
    state: State,
}

/// [`PageId::spread`] as a hash.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = PageId(self.0 << 8 ^ u64::from(*byte)).spread();
        }
    }
    fn write_u64(&mut self, page: u64) {
        self.0 = PageId(page).spread();
    }
}

type Build = BuildHasherDefault<Spread>;

/// The most reads that a page's second chances count.
const READS_MAX: u8 = 3;

/// See the module.
pub struct Shard {
    /// The number of slots at most.
    limit: u32,
    slots: Vec<Slot>,
    of: HashMap<PageId, u32, Build>,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    /// Pages that left the small queue, oldest first.
    left: VecDeque<PageId>,
    has_left: HashSet<PageId, Build>,
    free: Vec<u32>,
    stamps: u64,
    filled: u64,
}

impl Shard {
    /// An empty shard of `limit` slots.
    pub fn new(limit: u32) -> Shard {
        Shard {
            limit,
            slots: Vec::new(),
            of: HashMap::default(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            left: VecDeque::new(),
            has_left: HashSet::default(),
            free: Vec::new(),
            stamps: 0,
            filled: 0,
        }
    }

    /// A shard with the pages that an earlier run kept. An entry that contradicts an
    /// earlier one is ignored.
    pub fn restored(limit: u32, entries: &[Entry]) -> Shard {
        let mut shard = Shard::new(limit);
        let used = entries
            .iter()
            .filter(|e| e.slot < limit)
            .map(|e| e.slot + 1);
        shard.slots.resize(used.max().unwrap_or(0) as usize, UNUSED);
        for entry in entries {
            let page = PageId(entry.page);
            match shard.slots.get_mut(entry.slot as usize) {
                Some(slot) if slot.page == UNUSED.page && !shard.of.contains_key(&page) => {
                    *slot = Slot {
                        page,
                        len: entry.len,
                        crc: entry.crc,
                        main: entry.main,
                        state: State::Filled,
                        ..UNUSED
                    };
                }
                _ => continue,
            }
            shard.of.insert(page, entry.slot);
            shard.filled += 1;
            shard.queue(entry.main).push_back(entry.slot);
        }
        let unused = (0..)
            .zip(&shard.slots)
            .filter(|(_, s)| s.page == UNUSED.page);
        shard.free = unused.map(|(nth, _)| nth).collect();
        shard
    }

    /// The number of pages that can be found.
    pub fn pages(&self) -> u64 {
        self.filled
    }

    /// Finds a page of `len` bytes.
    pub fn find(&mut self, page: PageId, len: usize) -> Option<Place> {
        let nth = *self.of.get(&page)?;
        let slot = &mut self.slots[nth as usize];
        if !matches!(slot.state, State::Filled) || slot.len as usize != len {
            return None;
        }
        slot.reads = (slot.reads + 1).min(READS_MAX);
        Some(Place {
            slot: nth,
            stamp: slot.stamp,
            crc: slot.crc,
        })
    }

    /// Whether `place` held `page` all the time since it was found.
    pub fn is_still(&self, page: PageId, place: &Place) -> bool {
        let slot = &self.slots[place.slot as usize];
        slot.page == page && slot.stamp == place.stamp && matches!(slot.state, State::Filled)
    }

    /// Gives `page` a slot to be written. `has_room` tells whether the file may grow.
    /// Without a slot, the page is not in the cache.
    pub fn claim(&mut self, page: PageId, has_room: impl Fn() -> bool) -> Option<Claim> {
        let mut evicted = false;
        let nth = match self.of.get(&page).copied() {
            Some(nth) => {
                self.empty(nth);
                if matches!(self.slots[nth as usize].state, State::Claimed) {
                    // The other writer finds that its claim is void.
                    return None;
                }
                nth
            }
            None => {
                let nth = match self.unused(has_room) {
                    Some(nth) => nth,
                    None => {
                        evicted = true;
                        self.evict()?
                    }
                };
                self.admit(page, nth);
                nth
            }
        };
        self.stamps += 1;
        let slot = &mut self.slots[nth as usize];
        slot.stamp = self.stamps;
        slot.state = State::Claimed;
        Some(Claim {
            slot: nth,
            stamp: slot.stamp,
            evicted,
        })
    }

    /// Makes the page of `claim`, which is in the file now, one that can be found, unless
    /// it was forgotten meanwhile.
    pub fn fill(&mut self, claim: &Claim, crc: u32, len: usize) {
        let slot = &mut self.slots[claim.slot as usize];
        if slot.stamp == claim.stamp {
            slot.crc = crc;
            slot.len = len as u32;
            slot.state = State::Filled;
            self.filled += 1;
        } else {
            slot.state = State::Empty;
        }
    }

    /// Forgets a page.
    pub fn forget(&mut self, page: PageId) {
        if let Some(nth) = self.of.get(&page).copied() {
            self.empty(nth);
        }
    }

    /// Forgets the pages for which `is_it` returns true.
    pub fn forget_if(&mut self, is_it: impl Fn(PageId) -> bool) {
        for nth in 0..self.slots.len() as u32 {
            if is_it(self.slots[nth as usize].page) {
                self.empty(nth);
            }
        }
    }

    /// Pages that can be found, in the order of their queues.
    pub fn kept(&self) -> impl Iterator<Item = Entry> + '_ {
        let all = self.small.iter().chain(&self.main);
        all.filter_map(|nth| {
            let slot = &self.slots[*nth as usize];
            matches!(slot.state, State::Filled).then_some(Entry {
                page: slot.page.0,
                slot: *nth,
                len: slot.len,
                crc: slot.crc,
                main: slot.main,
            })
        })
    }

    fn queue(&mut self, main: bool) -> &mut VecDeque<u32> {
        match main {
            true => &mut self.main,
            false => &mut self.small,
        }
    }

    /// Makes the contents of a slot void, also for a thread that writes to it.
    fn empty(&mut self, nth: u32) {
        self.stamps += 1;
        let slot = &mut self.slots[nth as usize];
        slot.stamp = self.stamps;
        if matches!(slot.state, State::Filled) {
            slot.state = State::Empty;
            self.filled -= 1;
        }
    }

    /// A slot that has no page.
    fn unused(&mut self, has_room: impl Fn() -> bool) -> Option<u32> {
        if let Some(nth) = self.free.pop() {
            return Some(nth);
        }
        let nth = self.slots.len() as u32;
        if nth >= self.limit || !has_room() {
            return None;
        }
        self.slots.push(UNUSED);
        Some(nth)
    }

    /// Gives an unused slot to a page.
    fn admit(&mut self, page: PageId, nth: u32) {
        let main = self.has_left.remove(&page);
        self.slots[nth as usize] = Slot {
            page,
            main,
            ..UNUSED
        };
        self.of.insert(page, nth);
        self.queue(main).push_back(nth);
    }

    /// Takes the slot of the page that makes room. `None` when threads write to all.
    fn evict(&mut self) -> Option<u32> {
        // Each page has at most READS_MAX second chances, and one move to the main queue.
        let turns = (self.small.len() + self.main.len()) * (usize::from(READS_MAX) + 2);
        for _ in 0..turns {
            let small = self.small.len() * 10 >= self.slots.len() || self.main.is_empty();
            let nth = self.queue(!small).pop_front()?;
            let slot = &mut self.slots[nth as usize];
            let stays = match slot.state {
                State::Claimed => true,
                State::Empty => false,
                State::Filled => slot.reads > 0,
            };
            if stays {
                if matches!(slot.state, State::Filled) {
                    slot.reads = if small { 0 } else { slot.reads - 1 };
                    slot.main = true;
                }
                let main = slot.main;
                self.queue(main).push_back(nth);
                continue;
            }
            let page = slot.page;
            self.empty(nth);
            self.of.remove(&page);
            if small {
                self.remember(page);
            }
            return Some(nth);
        }
        None
    }

    /// Remembers a page that left the small queue for as long as it takes to fill the
    /// main queue.
    fn remember(&mut self, page: PageId) {
        if self.has_left.insert(page) {
            self.left.push_back(page);
        }
        while self.left.len() > self.slots.len() {
            if let Some(oldest) = self.left.pop_front() {
                self.has_left.remove(&oldest);
            }
        }
    }
}

const UNUSED: Slot = Slot {
    page: PageId(u64::MAX),
    stamp: 0,
    len: 0,
    crc: 0,
    reads: 0,
    main: false,
    state: State::Empty,
};
