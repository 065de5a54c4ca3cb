//! The naive model: every version of everything, kept whole.

use super::redo::MtrBuilder;
use super::{MemWal, catch_up};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use xylem_pages::{Branch, Reach, ReadAt, ReadError};
use xylem_redo::SpaceFlags;
use xylem_types::{FileOp, Lsn, PageId};

#[derive(Clone, PartialEq, Debug)]
struct Space {
    path: String,
    flags: u32,
    pages: u32,
}

#[derive(Clone, PartialEq, Debug)]
enum Node {
    Dir,
    File(Vec<u8>),
}

type Tree = BTreeMap<String, Node>;

pub struct Model {
    rng: StdRng,
    wal: Arc<MemWal>,
    /// End of the last whole mtr.
    pub lsn: Lsn,
    /// Redo made but not sent.
    unsent: Vec<u8>,
    sent: Lsn,
    /// Ends of mtrs not wholly sent.
    ends: Vec<Lsn>,
    /// End of the last mtr that is wholly sent.
    whole: Lsn,
    pages: HashMap<PageId, Vec<(Lsn, Arc<[u8]>)>>,
    spaces: HashMap<u32, Vec<(Lsn, Option<Space>)>>,
    next_space: u32,
    files: Vec<(Lsn, Tree)>,
    /// Where it left another.
    begins: Lsn,
    /// It had operations on side files there, before any redo.
    early: bool,
    /// Where the last branch left.
    left: Option<Lsn>,
    /// Where branches left that are no more: operations at such an LSN are
    /// given another when the WAL is read again.
    pub blurred: Vec<Lsn>,
    /// When each mtr was wholly in the WAL.
    pub times: Vec<(Lsn, u64)>,
    pub lsns: Vec<Lsn>,
    names: u32,
    /// Pages change by up to 3,000 bytes at a time.
    pub large: bool,
}

/// Whether what was asked for has been folded since somebody looked how far
/// history reaches.
fn let_go(branch: &Branch, error: &ReadError) -> bool {
    matches!(error, ReadError::TooOld { lsn, .. } if Some(*lsn) < branch.oldest())
}

fn full(size: usize) -> u32 {
    SpaceFlags::full_crc32_of(size).unwrap().raw()
}

impl Model {
    pub fn new(rng: StdRng, wal: Arc<MemWal>) -> Model {
        wal.epoch(Lsn::FIRST);
        let mut m = Model {
            rng,
            wal,
            lsn: Lsn::FIRST,
            unsent: Vec::new(),
            sent: Lsn::FIRST,
            ends: Vec::new(),
            whole: Lsn::FIRST,
            pages: HashMap::new(),
            spaces: HashMap::new(),
            next_space: 10,
            files: Vec::new(),
            begins: Lsn::ZERO,
            early: false,
            left: None,
            blurred: Vec::new(),
            times: Vec::new(),
            lsns: Vec::new(),
            names: 0,
            large: false,
        };
        m.mtr(|m, b| {
            for (space, path) in [(0, "ibdata1"), (1, "undo001"), (2, "undo002")] {
                m.header(b, space, path, 20, full(4096));
            }
        });
        m
    }

    /// The model of a branch that leaves this one at `at`, and writes to `WAL`.
    pub fn fork(&mut self, at: Lsn, wal: Arc<MemWal>, rng: StdRng) -> Model {
        self.left = self.left.max(Some(at));
        fn until<T: Clone>(v: &[(Lsn, T)], at: Lsn) -> Vec<(Lsn, T)> {
            v.iter().filter(|(l, _)| *l <= at).cloned().collect()
        }
        wal.epoch(at);
        let mut m = Model {
            rng,
            wal,
            lsn: at,
            unsent: Vec::new(),
            sent: at,
            ends: Vec::new(),
            whole: at,
            pages: self.pages.iter().map(|(k, v)| (*k, until(v, at))).collect(),
            spaces: self
                .spaces
                .iter()
                .map(|(k, v)| (*k, until(v, at)))
                .collect(),
            next_space: self.next_space,
            files: until(&self.files, at),
            begins: at,
            early: false,
            left: None,
            blurred: self.blurred.clone(),
            times: until(&self.times, at),
            lsns: self.lsns.iter().copied().filter(|l| *l <= at).collect(),
            names: self.names + 1000,
            large: self.large,
        };
        // Some before any redo, which count from where it left.
        if m.rng.random_bool(0.5) {
            m.early = true;
            for _ in 0..m.rng.random_range(1..4) {
                m.side_file();
            }
        }
        // As a compute's start does.
        m.mtr(|m, b| m.write(b, PageId::new(0, 0), 3000, &[7; 9]));
        m.send_all();
        m
    }

    fn now(&self, space: u32) -> Option<Space> {
        self.spaces.get(&space)?.last()?.1.clone()
    }

    fn alive(&self) -> Vec<(u32, Space)> {
        let mut out: Vec<_> = self
            .spaces
            .keys()
            .filter_map(|s| Some((*s, self.now(*s)?)))
            .collect();
        out.sort_by_key(|(s, _)| *s);
        out
    }

    fn set_space(&mut self, id: u32, space: Option<Space>) {
        let v = self.spaces.entry(id).or_default();
        if v.last().is_some_and(|(l, _)| *l == Lsn::MAX) {
            v.pop();
        }
        // The end LSN is not known before the mtr is made.
        v.push((Lsn::MAX, space));
    }

    fn page(&self, id: PageId) -> Option<Vec<u8>> {
        self.pages.get(&id)?.last().map(|(_, b)| b.to_vec())
    }

    fn set_page(&mut self, id: PageId, bytes: Vec<u8>) {
        let v = self.pages.entry(id).or_default();
        if v.last().is_some_and(|(l, _)| *l == Lsn::MAX) {
            v.pop();
        }
        v.push((Lsn::MAX, bytes.into()));
    }

    fn init(&mut self, b: &mut MtrBuilder, id: PageId, size: usize) {
        b.init(id);
        let mut bytes = vec![0; size];
        bytes[4..8].copy_from_slice(&id.page.0.to_be_bytes());
        bytes[8..16].fill(0xff);
        bytes[34..38].copy_from_slice(&id.space.0.to_be_bytes());
        self.set_page(id, bytes);
    }

    fn write(&mut self, b: &mut MtrBuilder, id: PageId, at: usize, data: &[u8]) {
        b.write(id, at as u32, data);
        let mut bytes = self.page(id).unwrap();
        bytes[at..at + data.len()].copy_from_slice(data);
        self.set_page(id, bytes);
    }

    fn header(&mut self, b: &mut MtrBuilder, space: u32, path: &str, pages: u32, flags: u32) {
        let size = SpaceFlags::new(flags).unwrap().physical_page_size();
        let id = PageId::new(space, 0);
        self.init(b, id, size);
        self.write(b, id, 46, &pages.to_be_bytes());
        self.write(b, id, 54, &flags.to_be_bytes());
        self.set_space(
            space,
            Some(Space {
                path: path.to_owned(),
                flags,
                pages,
            }),
        );
    }

    /// Makes an mtr and remembers what it changed.
    fn mtr(&mut self, build: impl FnOnce(&mut Model, &mut MtrBuilder)) {
        let mut b = MtrBuilder::default();
        build(self, &mut b);
        let bytes = b.finish();
        self.lsn = Lsn(self.lsn.0 + bytes.len() as u64);
        self.unsent.extend_from_slice(&bytes);
        self.ends.push(self.lsn);
        self.lsns.push(self.lsn);
        for v in self.spaces.values_mut() {
            if let Some(last) = v.last_mut().filter(|(l, _)| *l == Lsn::MAX) {
                last.0 = self.lsn;
            }
        }
        let lsn = self.lsn;
        let flags: HashMap<u32, u32> = self.alive().iter().map(|(id, s)| (*id, s.flags)).collect();
        for (id, v) in &mut self.pages {
            let Some(last) = v.last_mut().filter(|(l, _)| *l == Lsn::MAX) else {
                continue;
            };
            let mut bytes = last.1.to_vec();
            if bytes.iter().any(|b| *b != 0) {
                let flags = SpaceFlags::new(flags[&id.space.0]).unwrap();
                bytes[16..24].copy_from_slice(&lsn.0.to_be_bytes());
                let end = bytes.len();
                if flags.is_full_crc32() {
                    bytes[end - 8..end - 4].copy_from_slice(&(lsn.0 as u32).to_be_bytes());
                } else if flags.zip_size().is_none() {
                    bytes[end - 8..].copy_from_slice(&lsn.0.to_be_bytes());
                }
                xylem_redo::seal(&mut bytes, flags);
            }
            *last = (lsn, bytes.into());
        }
    }

    /// One random mtr, sent in random pieces, or a side-file operation.
    pub fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..2 => self.create_space(),
            2 => self.drop_space(),
            3 => self.rename_space(),
            4 => self.grow_space(),
            5 if self.rng.random_bool(0.3) => self.trim_undo(),
            6..12 => self.side_file(),
            _ => self.change_pages(),
        }
        if self.rng.random_bool(0.7) {
            let some = self.rng.random_range(0..=self.unsent.len());
            self.send(some);
        }
        if self.rng.random_bool(0.01) {
            self.new_epoch();
        }
    }

    fn send(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let piece: Vec<u8> = self.unsent.drain(..bytes).collect();
        self.wal.redo(self.sent, &piece);
        self.sent = Lsn(self.sent.0 + bytes as u64);
        while self.ends.first().is_some_and(|e| *e <= self.sent) {
            self.whole = self.ends.remove(0);
            let now = self.wal.clock.load(std::sync::atomic::Ordering::Relaxed);
            self.times.push((self.whole, now));
        }
    }

    pub fn send_all(&mut self) {
        self.send(self.unsent.len());
    }

    /// The compute dies with an mtr half sent; the next goes on at the last
    /// whole one.
    fn new_epoch(&mut self) {
        self.send_all();
        let torn = super::redo::mtr(|b| {
            b.write(PageId::new(0, 0), 100, &[7; 50]);
        });
        let some = self.rng.random_range(0..torn.len());
        if some > 0 {
            self.wal.redo(self.sent, &torn[..some]);
        }
        if self.rng.random_bool(0.5) {
            let op = FileOp::Mkdir {
                path: format!("torn{}", self.names),
                mode: 0o700,
            };
            self.names += 1;
            self.wal.file(Lsn(self.sent.0 + some as u64), op.clone());
            self.apply_op(&op);
        }
        self.wal.epoch(self.lsn);
    }

    fn create_space(&mut self) {
        let id = self.next_space;
        self.next_space += 1;
        self.names += 1;
        let path = format!("db/t{}.ibd", self.names);
        let flags = match self.rng.random_range(0..4) {
            0 => 0,
            1 => full(16384),
            // ROW_FORMAT=COMPRESSED KEY_BLOCK_SIZE=4, not full_crc32.
            2 => 1 | 3 << 1 | 1 << 5,
            _ => full(4096),
        };
        self.mtr(|m, b| {
            b.create(id, &format!("./{path}"));
            m.set_space(
                id,
                Some(Space {
                    path: path.clone(),
                    flags,
                    pages: 0,
                }),
            );
        });
        self.mtr(|m, b| m.header(b, id, &path, 4, flags));
    }

    fn pick(&mut self, min: u32) -> Option<(u32, Space)> {
        let alive: Vec<_> = self
            .alive()
            .into_iter()
            .filter(|(id, s)| *id >= min && s.pages > 0)
            .collect();
        if alive.is_empty() {
            return None;
        }
        let n = self.rng.random_range(0..alive.len());
        Some(alive[n].clone())
    }

    fn drop_space(&mut self) {
        let Some((id, s)) = self.pick(10) else { return };
        self.mtr(|m, b| {
            b.delete(id, &format!("./{}", s.path));
            m.set_space(id, None);
        });
    }

    fn rename_space(&mut self) {
        let Some((id, mut s)) = self.pick(10) else {
            return;
        };
        self.names += 1;
        let new = format!("db2/r{}.ibd", self.names);
        self.mtr(|m, b| {
            b.rename(id, &format!("./{}", s.path), &format!("./{new}"));
            s.path = new;
            m.set_space(id, Some(s));
        });
    }

    fn grow_space(&mut self) {
        let Some((id, mut s)) = self.pick(0) else {
            return;
        };
        s.pages += self.rng.random_range(1..8);
        self.mtr(|m, b| {
            m.write(b, PageId::new(id, 0), 46, &s.pages.to_be_bytes());
            m.set_space(id, Some(s));
        });
    }

    fn trim_undo(&mut self) {
        let s = self.now(1).unwrap();
        let all: Vec<PageId> = self
            .pages
            .keys()
            .filter(|p| p.space.0 == 1)
            .copied()
            .collect();
        self.mtr(|m, b| {
            b.trim(1, 6);
            for id in all {
                m.set_page(id, vec![0; 4096]);
            }
            m.header(b, 1, "undo001", 6, s.flags);
        });
    }

    fn change_pages(&mut self) {
        let n = self.rng.random_range(1..=3);
        let mut picked: Vec<(PageId, Space)> = Vec::new();
        for _ in 0..n {
            let Some((id, s)) = self.pick(0) else { return };
            // Few pages are changed often, most seldom.
            let hot = self.rng.random_bool(0.5);
            let page = self
                .rng
                .random_range(0..if hot { s.pages.min(4) } else { s.pages });
            let page = PageId::new(id, page);
            if !picked.iter().any(|(p, _)| *p == page) {
                picked.push((page, s));
            }
        }
        self.mtr(|m, b| {
            for (id, s) in picked {
                m.change_page(b, id, &s);
            }
        });
    }

    fn change_page(&mut self, b: &mut MtrBuilder, id: PageId, s: &Space) {
        let size = SpaceFlags::new(s.flags).unwrap().physical_page_size();
        let live = self.page(id).is_some_and(|p| p.iter().any(|b| *b != 0));
        if id.page.0 != 0 && live && self.rng.random_bool(0.03) {
            b.free(id);
            self.set_page(id, vec![0; size]);
            return;
        }
        if !live || id.page.0 != 0 && self.rng.random_bool(0.02) {
            self.init(b, id, size);
        }
        for _ in 0..self.rng.random_range(1..4) {
            let most = if self.large { 3000 } else { 120 };
            let len = self.rng.random_range(1..most);
            let at = self.rng.random_range(64..size - most - 80);
            if self.rng.random_bool(0.2) {
                let byte = self.rng.random();
                b.memset(id, at as u32, len as u32, byte);
                let mut bytes = self.page(id).unwrap();
                bytes[at..at + len].fill(byte);
                self.set_page(id, bytes);
            } else {
                let data: Vec<u8> = (0..len).map(|_| self.rng.random()).collect();
                self.write(b, id, at, &data);
            }
        }
    }

    fn side_file(&mut self) {
        let tree = self
            .files
            .last()
            .map(|(_, t)| t.clone())
            .unwrap_or_default();
        let files: Vec<String> = tree
            .iter()
            .filter(|(_, n)| matches!(n, Node::File(_)))
            .map(|(p, _)| p.clone())
            .collect();
        let some = |m: &mut Model| files[m.rng.random_range(0..files.len())].clone();
        self.names += 1;
        let fresh = format!("d/f{}.frm", self.names);
        let op = match self.rng.random_range(0..20) {
            0 => FileOp::Mkdir {
                path: format!("d{}", self.names),
                mode: 0o700,
            },
            1..4 => FileOp::Create {
                path: fresh,
                mode: 0o660,
            },
            _ if files.is_empty() => FileOp::Create {
                path: "ddl_recovery.log".into(),
                mode: 0o660,
            },
            4 => FileOp::Unlink { path: some(self) },
            5 => FileOp::Rename {
                from: some(self),
                to: some(self),
            },
            6 => FileOp::Rename {
                from: some(self),
                to: fresh,
            },
            7 => FileOp::Truncate {
                path: some(self),
                size: self.rng.random_range(0..200_000),
            },
            8 => FileOp::Create {
                path: some(self),
                mode: 0o640,
            },
            9 => {
                let data: Vec<u8> = (0..self.rng.random_range(1..150_000))
                    .map(|i| i as u8)
                    .collect();
                FileOp::Write {
                    path: some(self),
                    offset: self.rng.random_range(0..70_000),
                    data: data.into(),
                }
            }
            _ => {
                let data: Vec<u8> = (0..self.rng.random_range(1..200))
                    .map(|_| self.rng.random())
                    .collect();
                FileOp::Write {
                    path: files[0].clone(),
                    offset: self.rng.random_range(0..4096),
                    data: data.into(),
                }
            }
        };
        self.wal.file(self.sent, op.clone());
        self.apply_op(&op);
    }

    fn apply_op(&mut self, op: &FileOp) {
        let mut tree = self
            .files
            .last()
            .map(|(_, t)| t.clone())
            .unwrap_or_default();
        match op {
            FileOp::Create { path, .. } => {
                tree.insert(path.clone(), Node::File(Vec::new()));
            }
            FileOp::Write { path, offset, data } => {
                if let Some(Node::File(bytes)) = tree.get_mut(path) {
                    let end = *offset as usize + data.len();
                    bytes.resize(bytes.len().max(end), 0);
                    bytes[*offset as usize..end].copy_from_slice(data);
                }
            }
            FileOp::Truncate { path, size } => {
                if let Some(Node::File(bytes)) = tree.get_mut(path) {
                    bytes.resize(*size as usize, 0);
                }
            }
            FileOp::Rename { from, to } => {
                if let Some(n) = tree.remove(from) {
                    tree.insert(to.clone(), n);
                }
            }
            FileOp::Unlink { path } | FileOp::Rmdir { path } => {
                tree.remove(path);
            }
            FileOp::Mkdir { path, .. } => {
                tree.insert(path.clone(), Node::Dir);
            }
        }
        // What left at this LSN does not have it.
        let lsn = match self.left {
            Some(left) if left >= self.whole => Lsn(left.0 + 1),
            _ => self.whole,
        };
        self.files.push((lsn, tree));
    }

    /// What the model says of a page at `lsn`.
    fn expect(&self, id: PageId, lsn: Lsn) -> Result<Arc<[u8]>, &'static str> {
        let at = |v: &Vec<(Lsn, Option<Space>)>| v.iter().rev().find(|(l, _)| *l <= lsn).cloned();
        let space = self
            .spaces
            .get(&id.space.0)
            .and_then(at)
            .and_then(|(_, s)| s);
        let Some(space) = space else {
            return Err("no space");
        };
        if id.page.0 >= space.pages {
            return Err("beyond");
        }
        let found = self
            .pages
            .get(&id)
            .and_then(|v| v.iter().rev().find(|(l, _)| *l <= lsn));
        let size = SpaceFlags::new(space.flags).unwrap().physical_page_size();
        Ok(found.map_or_else(|| vec![0; size].into(), |(_, b)| Arc::clone(b)))
    }

    pub fn check_page(&self, branch: &Branch, id: PageId, at: ReadAt) {
        let lsn = match at {
            ReadAt::Newest => self.whole,
            ReadAt::Lsn(l) => l,
        };
        let got = match branch.get_page(id, at, Reach::Files) {
            Ok(p) => {
                if at == ReadAt::Newest {
                    assert!(p.lsn >= lsn);
                }
                Ok(p.bytes)
            }
            Err(ReadError::NoSuchTablespace { .. }) => Err("no space"),
            Err(ReadError::BeyondEnd { .. }) => Err("beyond"),
            Err(e) if let_go(branch, &e) => return,
            Err(e) => panic!("page {id} at {at:?}: {e}"),
        };
        let want = self.expect(id, lsn);
        if got != want {
            let first = match (&got, &want) {
                (Ok(g), Ok(w)) => format!(
                    "sizes {} {}, first difference {:?}",
                    g.len(),
                    w.len(),
                    g.iter().zip(w.iter()).position(|(a, b)| a != b)
                ),
                (g, w) => format!("{:?} {:?}", g.as_ref().err(), w.as_ref().err()),
            };
            panic!("page {id} at {at:?} differs: {first}");
        }
        if at == ReadAt::Newest
            && let Ok(p) = branch.get_page(id, ReadAt::Newest, Reach::Memory)
        {
            assert_eq!(Ok(p.bytes), want, "cached page {id}");
        }
    }

    fn all_pages(&self) -> Vec<PageId> {
        let mut out: Vec<PageId> = self.pages.keys().copied().collect();
        out.sort();
        out
    }

    pub fn check_random(&mut self, branch: &Branch, n: usize) {
        let pages = self.all_pages();
        for _ in 0..n {
            let id = pages[self.rng.random_range(0..pages.len())];
            let at = if self.rng.random_bool(0.5) {
                ReadAt::Newest
            } else {
                let seen: Vec<Lsn> = self
                    .lsns
                    .iter()
                    .filter(|l| **l <= self.whole && Some(**l) >= branch.oldest())
                    .copied()
                    .collect();
                match seen.len() {
                    0 => ReadAt::Newest,
                    n => ReadAt::Lsn(seen[self.rng.random_range(0..n)]),
                }
            };
            self.check_page(branch, id, at);
        }
    }

    fn files_at(&self, lsn: Lsn) -> Tree {
        self.files
            .iter()
            .rev()
            .find(|(l, _)| *l <= lsn)
            .map(|(_, t)| t.clone())
            .unwrap_or_default()
    }

    pub fn check_files(&self, branch: &Branch, at: ReadAt) {
        let lsn = match at {
            ReadAt::Newest => self.whole,
            ReadAt::Lsn(l) => l,
        };
        if self.blurred.contains(&lsn) {
            return;
        }
        // What is shared and what is its own count from one place.
        let last_shared = self.lsns.iter().filter(|l| **l <= self.begins).max();
        if self.early && lsn < self.begins && Some(&lsn) == last_shared {
            return;
        }
        // After a pause an operation counts from a place behind the mtr.
        let at = match at {
            ReadAt::Newest => at,
            ReadAt::Lsn(l) => {
                let next = self.lsns.iter().filter(|next| **next > l).min();
                let until = next.map_or(Lsn::MAX, |next| Lsn(next.0 - 1));
                ReadAt::Lsn(until.min(branch.newest()).max(l))
            }
        };
        let mut got = Tree::new();
        let mut seen: Vec<String> = Vec::new();
        let read = branch.side_files(at, &mut |f| {
            if let Some((dir, _)) = f.path.rsplit_once('/') {
                assert!(dir == "d" || seen.iter().any(|s| s == dir));
            }
            seen.push(f.path.clone());
            let node = f.data.map_or(Node::Dir, |d| Node::File(d.to_vec()));
            got.insert(f.path, node);
            std::ops::ControlFlow::Continue(())
        });
        match read {
            Err(e) if let_go(branch, &e) => return,
            read => read.unwrap(),
        }
        let want = self.files_at(lsn);
        let names = |t: &Tree| t.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&got), names(&want), "side files at {at:?}");
        for (path, node) in &want {
            assert!(got[path] == *node, "side file {path} at {at:?} differs");
        }
    }

    pub fn check_spaces(&self, branch: &Branch, at: ReadAt) {
        let lsn = match at {
            ReadAt::Newest => self.whole,
            ReadAt::Lsn(l) => l,
        };
        let mut want: Vec<(u32, Space)> = Vec::new();
        for (id, v) in &self.spaces {
            if let Some((_, Some(s))) = v.iter().rev().find(|(l, _)| *l <= lsn)
                && s.pages > 0
            {
                want.push((*id, s.clone()));
            }
        }
        want.sort_by_key(|(id, _)| *id);
        let got = match branch.tablespaces(at) {
            Err(e) if let_go(branch, &e) => return,
            got => got.unwrap(),
        };
        let got: Vec<(u32, Space)> = got
            .into_iter()
            .map(|t| {
                (
                    t.space.0,
                    Space {
                        path: t.path,
                        flags: t.flags,
                        pages: t.pages,
                    },
                )
            })
            .collect();
        assert_eq!(got, want, "tablespaces at {at:?}");
        for (id, s) in want {
            let found = match branch.tablespace_by_path(&s.path, at) {
                Err(e) if let_go(branch, &e) => return,
                found => found.unwrap().unwrap(),
            };
            assert_eq!((found.space.0, found.pages), (id, s.pages));
        }
        match branch.tablespace_by_path("db/none.ibd", at) {
            Err(e) if let_go(branch, &e) => {}
            none => assert_eq!(none.unwrap(), None),
        }
    }

    /// Everything at every LSN (or each `stride`th).
    pub fn check_all(&mut self, branch: &Branch, stride: usize) {
        self.send_all();
        catch_up(branch, &self.wal);
        assert_eq!(branch.applied(), self.lsn);
        let oldest = branch.oldest();
        let kept: Vec<Lsn> = self
            .lsns
            .iter()
            .copied()
            .filter(|l| Some(*l) >= oldest)
            .collect();
        for id in self.all_pages() {
            self.check_page(branch, id, ReadAt::Newest);
            for lsn in kept.iter().step_by(stride) {
                self.check_page(branch, id, ReadAt::Lsn(*lsn));
            }
        }
        self.check_spaces(branch, ReadAt::Newest);
        self.check_files(branch, ReadAt::Newest);
        for lsn in kept.iter().step_by(stride.max(kept.len() / 50)) {
            self.check_spaces(branch, ReadAt::Lsn(*lsn));
            self.check_files(branch, ReadAt::Lsn(*lsn));
        }
    }

    /// End of the last mtr that is wholly in the WAL.
    pub fn whole(&self) -> Lsn {
        self.whole
    }

    /// Where it left another.
    pub fn begins(&self) -> Lsn {
        self.begins
    }

    pub fn wal(&self) -> &Arc<MemWal> {
        &self.wal
    }

    /// Every page that ever was.
    pub fn page_ids(&self) -> Vec<PageId> {
        self.all_pages()
    }

    /// Every version of a page.
    pub fn versions(&self, id: PageId) -> &[(Lsn, Arc<[u8]>)] {
        self.pages.get(&id).map_or(&[], |v| v.as_slice())
    }

    /// FSP_SPACE_FLAGS as of an LSN; none when there is no such tablespace.
    pub fn flags_at(&self, space: u32, lsn: Lsn) -> Option<u32> {
        let versions = self.spaces.get(&space)?;
        let (_, space) = versions.iter().rev().find(|(l, _)| *l <= lsn)?;
        space.as_ref().map(|s| s.flags)
    }

    pub fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }
}
