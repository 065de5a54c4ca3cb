//! A hash table from pages to the newest versions that a layer in memory has of them.
//!
//! Linear probing in entries of 16 bytes, so that a look-up waits for memory once;
//! in parts, so that a part that grows holds up nobody for long.

/// No version.
pub(crate) const NONE: u32 = u32::MAX;

/// The number of parts, a power of two.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: u32 = 6;
/// A part's first number of slots, a power of two.
const FIRST_SLOTS: usize = 4;

/// What is known of a page or another key.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// The newest version.
    pub(crate) last: u32,
    /// The cost of gathering all of them for a reader: grows with versions and
    /// their bytes.
    pub(crate) weight: u32,
}

const EMPTY: Head = Head {
    last: NONE,
    weight: 0,
};

#[derive(Clone, Copy)]
struct Slot {
    page: u64,
    /// Empty without a version.
    head: Head,
}

#[derive(Default)]
struct Part {
    /// None, or a power of two, of which a quarter stays empty.
    slots: Vec<Slot>,
    used: usize,
}

/// See the module.
pub(crate) struct Pages {
    parts: Vec<Part>,
}

impl Default for Pages {
    fn default() -> Pages {
        Pages {
            parts: (0..PARTS).map(|_| Part::default()).collect(),
        }
    }
}

/// Multiplies: page ids need no more, and no attacker chooses them. The high bits
/// are the good ones.
fn hash(page: u64) -> u64 {
    page.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn part(hash: u64) -> usize {
    (hash >> (64 - PART_BITS)) as usize
}

impl Part {
    /// The slot of a page: its own, or the empty one that would be.
    #[inline]
    fn find(&self, page: u64, hash: u64) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = (hash << PART_BITS >> 32) as usize & mask;
        loop {
            let slot = self.slots.get(at)?;
            if slot.page == page || slot.head.last == NONE {
                return Some(at);
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let empty = Slot {
            page: 0,
            head: EMPTY,
        };
        let count = (self.slots.len() * 2).max(FIRST_SLOTS);
        let old = std::mem::replace(&mut self.slots, vec![empty; count]);
        for slot in old.into_iter().filter(|s| s.head.last != NONE) {
            if let Some(at) = self.find(slot.page, hash(slot.page))
                && let Some(new) = self.slots.get_mut(at)
            {
                *new = slot;
            }
        }
    }
}

impl Pages {
    /// A page's entry.
    pub(crate) fn get(&self, page: u64) -> Option<Head> {
        let hash = hash(page);
        let part = self.parts.get(part(hash))?;
        let slot = part.slots.get(part.find(page, hash)?)?;
        (slot.head.last != NONE).then_some(slot.head)
    }

    /// Changes a page's entry. One that is new has no version, and `change` must
    /// give it one.
    #[inline]
    pub(crate) fn change(&mut self, page: u64, change: impl FnOnce(&mut Head)) {
        let hash = hash(page);
        let Some(part) = self.parts.get_mut(part(hash)) else {
            return;
        };
        // Before the look-up, which needs an empty slot.
        if (part.used + 1) * 4 > part.slots.len() * 3 {
            part.grow();
        }
        let Some(at) = part.find(page, hash) else {
            return;
        };
        let Some(slot) = part.slots.get_mut(at) else {
            return;
        };
        part.used += usize::from(slot.head.last == NONE);
        slot.page = page;
        change(&mut slot.head);
    }

    /// The pages in it, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = u64> {
        let slots = self.parts.iter().flat_map(|p| &p.slots);
        slots.filter(|s| s.head.last != NONE).map(|s| s.page)
    }

    /// The number of pages in it.
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|p| p.used).sum()
    }

    /// Memory it takes, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let slots: usize = self.parts.iter().map(|p| p.slots.len()).sum();
        (slots * size_of::<Slot>()) as u64
    }
}

#[cfg(test)]
mod tests;
