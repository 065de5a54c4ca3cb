//! Writes redo that is easy to check.

use super::MemWal;
use super::redo::{MtrBuilder, after, mtr};
use std::sync::Arc;
use xylem_pages::{Branch, Reach, ReadAt};
use xylem_redo::SpaceFlags;
use xylem_types::{Lsn, PageId};

/// Writes a branch's redo.
pub struct Writer {
    pub wal: Arc<MemWal>,
    pub lsn: Lsn,
    frame: Vec<u8>,
    n: u32,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::with(MemWal::new())
    }

    pub fn with(wal: Arc<MemWal>) -> Writer {
        wal.epoch(Lsn::FIRST);
        let (lsn, frame) = (Lsn::FIRST, Vec::new());
        Writer {
            wal,
            lsn,
            frame,
            n: 0,
        }
    }

    pub fn mtr(&mut self, build: impl FnOnce(&mut MtrBuilder)) {
        self.frame.extend(mtr(build));
        if self.frame.len() > 100_000 {
            self.send();
        }
    }

    pub fn send(&mut self) {
        if !self.frame.is_empty() {
            self.wal.redo(self.lsn, &self.frame);
            self.lsn = after(self.lsn, &self.frame);
            self.frame.clear();
        }
    }

    /// A table of `pages` pages, all initialised.
    pub fn table(&mut self, pages: u32) {
        let flags = SpaceFlags::full_crc32_of(16384).unwrap().raw();
        self.mtr(|m| {
            m.create(5, "./db/t.ibd");
        });
        self.mtr(|m| {
            m.header(5, pages, flags);
        });
        for page in 1..pages {
            self.mtr(|m| {
                m.init(PageId::new(5, page));
            });
        }
        self.send();
    }

    /// About so many bytes of redo for pages 1 to 63; each page has the number
    /// of its last change at byte 200.
    pub fn write(&mut self, bytes: u64) {
        let end = self.lsn.0 + bytes;
        while self.lsn.0 + (self.frame.len() as u64) < end {
            self.n += 1;
            let n = self.n;
            let mut data = [n as u8; 300];
            data[..4].copy_from_slice(&n.to_be_bytes());
            self.mtr(|m| {
                m.write(PageId::new(5, 1 + n % 63), 200, &data);
            });
        }
        self.send();
    }

    pub fn check(&self, branch: &Branch) {
        for n in self.n.saturating_sub(62).max(1)..=self.n {
            let page = PageId::new(5, 1 + n % 63);
            let got = branch.get_page(page, ReadAt::Newest, Reach::Files).unwrap();
            assert_eq!(got.bytes[200..204], n.to_be_bytes(), "{page}");
        }
    }
}
