//! A disk in memory that behaves as disks do when the power fails: afterwards
//! it may have any part of the bytes that were not synced, sector by sector. It
//! also fails on request, and holds syncs back.
//!
//! The model assumes that a sector of 512 bytes is written whole or not at all,
//! and that directory operations survive in their order, as on any file system
//! with a journal.

use super::{Disk, DiskFile};
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SECTOR: usize = 512;

/// A call that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the methods of Disk and DiskFile")]
pub enum Op {
    List,
    Open,
    Create,
    Rename,
    Remove,
    SyncDir,
    Allocate,
    Read,
    Write,
    Sync,
}

/// A directory in memory. Clones are the same directory; one from before a
/// crash is dead.
#[derive(Clone)]
pub struct ModelDisk {
    shared: Arc<Shared>,
    /// Which of the machine's lives this handle belongs to.
    life: u64,
    path: PathBuf,
}

struct Shared {
    model: Mutex<Model>,
    /// Syncs are released, or the machine has died.
    released: Condvar,
}

#[derive(Default)]
struct Model {
    life: u64,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    /// The names after the last sync of the directory.
    durable_names: BTreeMap<String, u64>,
    /// The changes of names since the last sync of the directory.
    pending: Vec<(String, Option<u64>)>,
    /// How many of `pending` belong to one operation, in order.
    pending_groups: Vec<usize>,
    locked: bool,
    held: bool,
    faults: Vec<Fault>,
    /// Bytes of all files at most.
    room: Option<u64>,
    salts: u64,
    inode_next: u64,
    syncs: u64,
    random: u64,
}

struct Fault {
    op: Op,
    skip: u32,
    times: u32,
    kind: io::ErrorKind,
}

#[derive(Clone, Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// The versions of each sector written since the last sync.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Default for ModelDisk {
    fn default() -> ModelDisk {
        ModelDisk::new()
    }
}

impl ModelDisk {
    /// An empty directory.
    pub fn new() -> ModelDisk {
        let shared = Shared {
            model: Mutex::new(Model::default()),
            released: Condvar::new(),
        };
        ModelDisk {
            shared: Arc::new(shared),
            life: 0,
            path: PathBuf::from("model"),
        }
    }

    /// The power fails and comes back: `seed` chooses which unsynced bytes are
    /// lost. This and all other handles and files are dead; the returned handle
    /// is not.
    pub fn crash(&self, seed: u64) -> ModelDisk {
        let mut model = self.shared.model.lock();
        model.random = seed;
        let kept = match model.pending_groups.len() as u64 {
            0 => 0,
            groups => model.draw() % (groups + 1),
        };
        let kept: usize = model.pending_groups[..kept as usize].iter().sum();
        let pending = std::mem::take(&mut model.pending);
        let mut names = std::mem::take(&mut model.durable_names);
        for (name, inode) in pending.into_iter().take(kept) {
            match inode {
                Some(inode) => names.insert(name, inode),
                None => names.remove(&name),
            };
        }
        model.pending_groups.clear();
        model.names = names.clone();
        model.durable_names = names;
        let mut inodes = std::mem::take(&mut model.inodes);
        for inode in inodes.values_mut() {
            inode.lose(&mut model);
        }
        model.inodes = inodes;
        self.next_life(model)
    }

    /// The process dies and the machine lives: everything written is there,
    /// synced or not. This and all other handles and files are dead; the
    /// returned handle is not.
    pub fn kill(&self) -> ModelDisk {
        self.next_life(self.shared.model.lock())
    }

    fn next_life(&self, mut model: MutexGuard<'_, Model>) -> ModelDisk {
        model.life += 1;
        model.locked = false;
        model.held = false;
        model.faults.clear();
        let life = model.life;
        drop(model);
        self.shared.released.notify_all();
        ModelDisk {
            shared: Arc::clone(&self.shared),
            life,
            path: self.path.clone(),
        }
    }

    /// An independent copy of the directory as it is now, without an owner.
    pub fn copy(&self) -> ModelDisk {
        let model = self.shared.model.lock();
        let copy = Model {
            inodes: model.inodes.clone(),
            names: model.names.clone(),
            durable_names: model.durable_names.clone(),
            salts: model.salts,
            inode_next: model.inode_next,
            ..Model::default()
        };
        let shared = Shared {
            model: Mutex::new(copy),
            released: Condvar::new(),
        };
        ModelDisk {
            shared: Arc::new(shared),
            life: 0,
            path: self.path.clone(),
        }
    }

    /// Holds syncs of files back, or lets them go.
    pub fn hold(&self, held: bool) {
        self.shared.model.lock().held = held;
        self.shared.released.notify_all();
    }

    /// After `skip` more calls of `op`, `times` of them fail with `kind`.
    pub fn fail(&self, op: Op, skip: u32, times: u32, kind: io::ErrorKind) {
        self.shared.model.lock().faults.push(Fault {
            op,
            skip,
            times,
            kind,
        });
    }

    /// Whether a fault is still to come.
    pub fn faults_pending(&self) -> bool {
        !self.shared.model.lock().faults.is_empty()
    }

    /// Bounds the bytes of all files.
    pub fn set_room(&self, room: Option<u64>) {
        self.shared.model.lock().room = room;
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.shared.model.lock().used()
    }

    /// How many file syncs have succeeded.
    pub fn syncs(&self) -> u64 {
        self.shared.model.lock().syncs
    }

    /// A file's bytes as reads show them; `None` when it is not there.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let model = self.shared.model.lock();
        model
            .inodes
            .get(model.names.get(name)?)
            .map(|i| i.current.clone())
    }

    /// Puts bytes into a file, durably, behind its owner's back.
    pub fn poke(&self, name: &str, offset: usize, bytes: &[u8]) {
        let mut model = self.shared.model.lock();
        let model = &mut *model;
        if let Some(inode) = model.names.get(name).and_then(|n| model.inodes.get_mut(n)) {
            let end = inode.current.len().max(offset + bytes.len());
            inode.current.resize(end, 0);
            inode.durable.resize(end, 0);
            inode.current[offset..offset + bytes.len()].copy_from_slice(bytes);
            inode.durable[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Cuts a file, durably, behind its owner's back.
    pub fn shorten(&self, name: &str, bytes: usize) {
        let mut model = self.shared.model.lock();
        let model = &mut *model;
        if let Some(inode) = model.names.get(name).and_then(|n| model.inodes.get_mut(n)) {
            inode.current.truncate(bytes);
            inode.durable.truncate(bytes);
        }
    }

    fn enter(&self, op: Op) -> io::Result<MutexGuard<'_, Model>> {
        enter(&self.shared, self.life, op)
    }
}

/// The machine's state, if it lives and the call is not to fail.
fn enter(shared: &Shared, life: u64, op: Op) -> io::Result<MutexGuard<'_, Model>> {
    let mut model = shared.model.lock();
    model.alive(life)?;
    model.fault(op)?;
    Ok(model)
}

impl Model {
    fn alive(&self, life: u64) -> io::Result<()> {
        if self.life == life {
            Ok(())
        } else {
            Err(io::Error::other("the machine has died"))
        }
    }

    fn fault(&mut self, op: Op) -> io::Result<()> {
        let Some(at) = self.faults.iter().position(|f| f.op == op) else {
            return Ok(());
        };
        let fault = &mut self.faults[at];
        if fault.skip > 0 {
            fault.skip -= 1;
            return Ok(());
        }
        let kind = fault.kind;
        fault.times -= 1;
        if fault.times == 0 {
            self.faults.remove(at);
        }
        Err(kind.into())
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|n| self.inodes.get(n))
            .map(|i| i.current.len() as u64)
            .sum()
    }

    /// Does one directory operation: some names get new meanings.
    fn rename(&mut self, changes: Vec<(String, Option<u64>)>) {
        self.pending_groups.push(changes.len());
        for (name, inode) in changes {
            match inode {
                Some(inode) => self.names.insert(name.clone(), inode),
                None => self.names.remove(&name),
            };
            self.pending.push((name, inode));
        }
    }

    /// The next number of a fixed sequence (splitmix64).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Inode {
    /// Keeps a random part of the bytes that were not synced.
    fn lose(&mut self, model: &mut Model) {
        let longer = self.current.len() > self.durable.len();
        if longer && model.draw().is_multiple_of(2) {
            self.durable.resize(self.current.len(), 0);
        }
        // Three kinds of crash: nothing was written yet, all was, any part was.
        let mood = model.draw() % 4;
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let chosen = match mood {
                0 => 0,
                1 => versions.len() as u64,
                _ => model.draw() % (versions.len() as u64 + 1),
            };
            // 0 is the sector as it was.
            if let Some(version) = (chosen as usize)
                .checked_sub(1)
                .and_then(|v| versions.get(v))
            {
                self.put_durable(sector, version);
            }
        }
        self.current = self.durable.clone();
    }

    fn put_durable(&mut self, sector: usize, bytes: &[u8]) {
        let from = sector * SECTOR;
        let to = (from + bytes.len()).min(self.durable.len());
        if from < to {
            self.durable[from..to].copy_from_slice(&bytes[..to - from]);
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.current.len() {
            self.current.resize(end, 0);
        }
        self.current[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let to = ((sector + 1) * SECTOR).min(self.current.len());
            let version = self.current[sector * SECTOR..to].to_vec();
            self.dirty.entry(sector).or_default().push(version);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.current.len(), 0);
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if let Some(newest) = versions.last() {
                self.put_durable(sector, newest);
            }
        }
    }

    /// A sync that fails: some sectors were written, and the rest is forgotten,
    /// while reads go on to show it.
    fn sync_badly(&mut self, model_random: &mut impl FnMut() -> u64) {
        self.durable.resize(self.current.len(), 0);
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if model_random().is_multiple_of(2)
                && let Some(newest) = versions.last()
            {
                self.put_durable(sector, newest);
            }
        }
    }
}

/// Frees the directory when dropped.
struct Lock {
    shared: Arc<Shared>,
    life: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut model = self.shared.model.lock();
        if model.life == self.life {
            model.locked = false;
        }
    }
}

struct ModelFile {
    shared: Arc<Shared>,
    life: u64,
    inode: u64,
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"))
}

impl ModelDisk {
    fn file(&self, inode: u64) -> Arc<dyn DiskFile> {
        Arc::new(ModelFile {
            shared: Arc::clone(&self.shared),
            life: self.life,
            inode,
        })
    }
}

impl Disk for ModelDisk {
    fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> io::Result<Box<dyn Send>> {
        let mut model = self.shared.model.lock();
        model.alive(self.life)?;
        if std::mem::replace(&mut model.locked, true) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(Lock {
            shared: Arc::clone(&self.shared),
            life: self.life,
        }))
    }

    fn salt(&self) -> io::Result<u64> {
        let mut model = self.shared.model.lock();
        model.salts += 1;
        Ok(0x5A17_0000_0000_0000 | model.salts)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.enter(Op::List)?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = self.enter(Op::Open)?.names.get(name).copied();
        Ok(self.file(inode.ok_or_else(|| not_found(name))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut model = self.enter(Op::Create)?;
        model.inode_next += 1;
        let inode = model.inode_next;
        model.inodes.insert(inode, Inode::default());
        model.rename(vec![(name.to_owned(), Some(inode))]);
        Ok(self.file(inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut model = self.enter(Op::Rename)?;
        let inode = *model.names.get(from).ok_or_else(|| not_found(from))?;
        model.rename(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut model = self.enter(Op::Remove)?;
        if !model.names.contains_key(name) {
            return Err(not_found(name));
        }
        model.rename(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut model = self.enter(Op::SyncDir)?;
        model.durable_names = model.names.clone();
        model.pending.clear();
        model.pending_groups.clear();
        Ok(())
    }
}

impl ModelFile {
    fn with<T>(&self, op: Op, f: impl FnOnce(&mut Inode) -> io::Result<T>) -> io::Result<T> {
        let mut model = enter(&self.shared, self.life, op)?;
        let inode = model
            .inodes
            .get_mut(&self.inode)
            .ok_or_else(|| not_found("the file"))?;
        f(inode)
    }
}

impl DiskFile for ModelFile {
    fn size(&self) -> io::Result<u64> {
        self.with(Op::List, |inode| Ok(inode.current.len() as u64))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let mut model = enter(&self.shared, self.life, Op::Allocate)?;
        let used = model.used();
        let room = model.room;
        let inode = model
            .inodes
            .get_mut(&self.inode)
            .ok_or_else(|| not_found("the file"))?;
        let more = bytes.saturating_sub(inode.current.len() as u64);
        if room.is_some_and(|room| used + more > room) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if more > 0 {
            inode.current.resize(bytes as usize, 0);
        }
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(Op::Read, |inode| {
            let from = offset as usize;
            let bytes = inode
                .current
                .get(from..from + buffer.len())
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        let mut model = self.shared.model.lock();
        model.alive(self.life)?;
        let fault = model.fault(Op::Write);
        let inode = model
            .inodes
            .get_mut(&self.inode)
            .ok_or_else(|| not_found("the file"))?;
        // A write that fails has written a part.
        let written = if fault.is_err() {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        inode.write(offset as usize, &bytes[..written]);
        fault
    }

    fn sync(&self) -> io::Result<()> {
        let mut model = self.shared.model.lock();
        while model.held && model.life == self.life {
            self.shared.released.wait(&mut model);
        }
        model.alive(self.life)?;
        let fault = model.fault(Op::Sync);
        let mut random = model.syncs ^ 0xF5C0;
        let model = &mut *model;
        let inode = model
            .inodes
            .get_mut(&self.inode)
            .ok_or_else(|| not_found("the file"))?;
        if fault.is_err() {
            inode.sync_badly(&mut || {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                random >> 33
            });
        } else {
            inode.sync();
            model.syncs += 1;
        }
        fault
    }
}
