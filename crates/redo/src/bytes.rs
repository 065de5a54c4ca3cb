//! Big-endian reads and writes at an offset of a page. None of them can panic.

/// A page that is being changed. An access beyond its end returns `None`.
pub(crate) struct Frame<'a>(pub(crate) &'a mut [u8]);

/// The two bytes at `at`.
#[inline]
pub(crate) fn be16(b: &[u8], at: usize) -> Option<u16> {
    let s = b.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(s.try_into().ok()?))
}

/// The four bytes at `at`.
#[inline]
pub(crate) fn be32(b: &[u8], at: usize) -> Option<u32> {
    let s = b.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(s.try_into().ok()?))
}

/// The eight bytes at `at`.
#[inline]
pub(crate) fn be64(b: &[u8], at: usize) -> Option<u64> {
    let s = b.get(at..at.checked_add(8)?)?;
    Some(u64::from_be_bytes(s.try_into().ok()?))
}

/// Copies `data` to `at`.
#[inline]
pub(crate) fn put(b: &mut [u8], at: usize, data: &[u8]) -> Option<()> {
    b.get_mut(at..at.checked_add(data.len())?)?
        .copy_from_slice(data);
    Some(())
}

impl Frame<'_> {
    /// The page size, in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The byte at `at`.
    #[inline]
    pub(crate) fn r1(&self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    /// The two bytes at `at`, as an offset or count.
    #[inline]
    pub(crate) fn r2(&self, at: usize) -> Option<usize> {
        be16(self.0, at).map(usize::from)
    }

    /// The four bytes at `at`.
    #[inline]
    pub(crate) fn r4(&self, at: usize) -> Option<u32> {
        be32(self.0, at)
    }

    /// Writes one byte.
    #[inline]
    pub(crate) fn w1(&mut self, at: usize, v: u8) -> Option<()> {
        *self.0.get_mut(at)? = v;
        Some(())
    }

    /// Writes the low 16 bits of `v`, as InnoDB's `mach_write_to_2` does.
    #[inline]
    pub(crate) fn w2(&mut self, at: usize, v: usize) -> Option<()> {
        #[allow(clippy::cast_possible_truncation)]
        put(self.0, at, &(v as u16).to_be_bytes())
    }

    /// Copies `data` to `at`.
    #[inline]
    pub(crate) fn put(&mut self, at: usize, data: &[u8]) -> Option<()> {
        put(self.0, at, data)
    }

    /// Copies `len` bytes within the page; the ranges may overlap.
    #[inline]
    pub(crate) fn copy(&mut self, from: usize, to: usize, len: usize) -> Option<()> {
        let end = from.checked_add(len)?;
        if end > self.0.len() || to.checked_add(len)? > self.0.len() {
            return None;
        }
        self.0.copy_within(from..end, to);
        Some(())
    }

    /// Sets `len` bytes to `v`.
    #[inline]
    pub(crate) fn fill(&mut self, at: usize, len: usize, v: u8) -> Option<()> {
        self.0.get_mut(at..at.checked_add(len)?)?.fill(v);
        Some(())
    }
}
