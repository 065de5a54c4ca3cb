//! A WAL with so much to ingest that another thread reads it ahead.
#![allow(clippy::unwrap_used)]

use crate::common::redo::{MtrBuilder, after};
use crate::common::{MemWal, catch_up, open, wait_until};
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use xylem_pages::{Branch, Reach, ReadAt, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{FileOp, Lsn, PageId};

const PAGES: u32 = 300;
/// Bytes of a frame, none of which ends where an mtr does.
const FRAME_BYTES: usize = 100_003;

struct Writer {
    wal: Arc<MemWal>,
    lsn: Lsn,
    /// Redo that no frame has yet, and its LSN.
    ahead: Vec<u8>,
    sent: Lsn,
    values: Vec<u64>,
    rng: rand::rngs::StdRng,
}

impl Writer {
    fn new() -> Writer {
        let wal = MemWal::new();
        wal.epoch(Lsn::FIRST);
        let mut writer = Writer {
            wal,
            lsn: Lsn::FIRST,
            ahead: Vec::new(),
            sent: Lsn::FIRST,
            values: vec![0; PAGES as usize],
            rng: rand::rngs::StdRng::seed_from_u64(7),
        };
        let flags = SpaceFlags::full_crc32_of(4096).unwrap().raw();
        let mut m = MtrBuilder::default();
        m.create(5, "./db/t.ibd").header(5, PAGES, flags);
        for page in 1..PAGES {
            m.init(PageId::new(5, page));
        }
        writer.push(&m.finish());
        writer
    }

    fn push(&mut self, mtr: &[u8]) {
        self.ahead.extend_from_slice(mtr);
        self.lsn = after(self.lsn, mtr);
        while self.ahead.len() >= FRAME_BYTES {
            self.send(FRAME_BYTES);
        }
    }

    fn send(&mut self, bytes: usize) {
        let rest = self.ahead.split_off(bytes);
        self.wal.redo(self.sent, &self.ahead);
        self.sent = after(self.sent, &self.ahead);
        self.ahead = rest;
    }

    fn flush(&mut self) {
        self.send(self.ahead.len());
    }

    /// Changes random pages until there is so much more redo.
    fn write(&mut self, bytes: u64) {
        let end = self.lsn.0 + bytes;
        let mut data = [0; 200];
        while self.lsn.0 < end {
            let mut m = MtrBuilder::default();
            for _ in 0..self.rng.random_range(1..4) {
                let page = self.rng.random_range(1..PAGES);
                let value: u64 = self.rng.random();
                self.values[page as usize] = value;
                let id = PageId::new(5, page);
                self.rng.fill(&mut data[..]);
                m.write(id, 1000, &data)
                    .write(id, 100, &value.to_be_bytes());
            }
            self.push(&m.finish());
        }
    }

    fn check(&self, branch: &Branch) {
        for page in 1..PAGES {
            let got = branch
                .get_page(PageId::new(5, page), ReadAt::Newest, Reach::Files)
                .unwrap();
            let value = self.values[page as usize].to_be_bytes();
            assert_eq!(got.bytes[100..108], value, "page {page}");
        }
    }
}

#[test]
fn what_is_read_ahead_is_taken_in_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new();
    writer.write(9 << 20);
    writer.flush();
    // What is no redo ends what is read ahead, and it begins again.
    let path = "a".to_owned();
    writer
        .wal
        .file(writer.lsn, FileOp::Create { path, mode: 0o660 });
    writer.write(5 << 20);
    writer.flush();
    // The next epoch voids a torn mtr.
    writer.wal.redo(writer.lsn, &[0x30, 0x90]);
    writer.wal.epoch(writer.lsn);
    writer.write(5 << 20);
    writer.flush();
    let branch = open(StoreConfig::default(), dir.path(), &writer.wal);
    catch_up(&branch, &writer.wal);
    assert_eq!(branch.failed(), None);
    assert_eq!(branch.applied(), writer.lsn);
    writer.check(&branch);
    let mut files = Vec::new();
    branch
        .side_files(ReadAt::Newest, &mut |f| {
            files.push(f.path);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(files, ["a"]);
}

#[test]
fn damage_in_what_is_read_ahead_ends_ingest_right_before_it() {
    for bad_record in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::new();
        writer.write(9 << 20);
        let good = writer.lsn;
        let mut mtr = MtrBuilder::default();
        let page = PageId::new(5, 77);
        mtr.write(PageId::new(5, 1), 100, &[1; 8]);
        if bad_record {
            // Beyond the largest page.
            mtr.write(page, 65_535, b"two");
        }
        let mut mtr = mtr.finish();
        if !bad_record {
            mtr[3] ^= 1;
        }
        writer.push(&mtr);
        let values = writer.values.clone();
        writer.write(9 << 20);
        writer.flush();
        writer.values = values;
        let branch = open(StoreConfig::default(), dir.path(), &writer.wal);
        wait_until("ingest stops", || branch.failed().is_some());
        let why = branch.failed().unwrap();
        assert!(why.contains("LSN"), "{why}");
        assert_eq!(why.contains("page 5:77"), bad_record, "{why}");
        assert_eq!(branch.applied(), good);
        writer.check(&branch);
    }
}
