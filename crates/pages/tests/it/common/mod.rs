//! What the tests share: a WAL in memory, redo made by hand, a naive model.
#![allow(clippy::unwrap_used, clippy::type_complexity)]

pub mod care;
pub mod gate;
pub mod model;
pub mod objects;
pub mod redo;
pub mod unreadable;
pub mod writer;

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use xylem_pages::place::{Hook, LocalPlace, Place};
use xylem_pages::{Branch, Store, StoreConfig};
use xylem_types::{BranchId, Epoch, FileOp, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{
    BoxFuture, CheckedFrame, Durable, Entry, Position, Record, Wal, WalError, WalReader, Writer,
};

pub const BRANCH: BranchId = BranchId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

#[derive(Default)]
struct State {
    records: Vec<Option<(u64, Record)>>,
    /// Entries before this were let go.
    first: u64,
}

/// A WAL whose entries are durable at once and which outlives its branches.
pub struct MemWal {
    state: Arc<Mutex<State>>,
    /// Microseconds since 1970.
    pub clock: Arc<AtomicU64>,
    durable: watch::Sender<Durable>,
}

impl MemWal {
    pub fn new() -> Arc<MemWal> {
        MemWal::with_clock(Arc::default())
    }

    pub fn with_clock(clock: Arc<AtomicU64>) -> Arc<MemWal> {
        Arc::new(MemWal {
            state: Arc::default(),
            clock,
            durable: watch::Sender::new(Durable::default()),
        })
    }

    fn push(&self, record: Record) {
        let now = self.clock.load(Ordering::Relaxed);
        self.state.lock().records.push(Some((now, record)));
        self.durable.send_replace(Durable::default());
    }

    pub fn epoch(&self, start: Lsn) {
        self.push(Record::Seal);
        self.push(Record::Begin { start });
    }

    pub fn redo(&self, start: Lsn, bytes: &[u8]) {
        self.push(Record::Frame(Frame {
            seq: FrameSeq(0),
            start,
            body: FrameBody::Redo(bytes.into()),
        }));
    }

    pub fn file(&self, start: Lsn, op: FileOp) {
        self.push(Record::Frame(Frame {
            seq: FrameSeq(0),
            start,
            body: FrameBody::File(op),
        }));
    }

    /// Takes over what stands in `other`.
    pub fn copy_of(&self, other: &MemWal) {
        self.state
            .lock()
            .records
            .clone_from(&other.state.lock().records);
        self.durable.send_replace(Durable::default());
    }

    pub fn end(&self) -> Position {
        Position(self.state.lock().records.len() as u64)
    }
}

struct Reader {
    state: Arc<Mutex<State>>,
    at: u64,
}

impl WalReader for Reader {
    fn next(&mut self) -> Result<Option<Entry>, WalError> {
        let state = self.state.lock();
        let Some(record) = state.records.get(self.at as usize) else {
            return Ok(None);
        };
        let (time_us, record) = record
            .clone()
            .ok_or(WalError::NoSuchPosition(Position(self.at)))?;
        self.at += 1;
        Ok(Some(Entry {
            next: Position(self.at),
            epoch: Epoch(1),
            time_us,
            stepped: false,
            record,
        }))
    }
}

impl Wal for MemWal {
    fn seal(&self) -> BoxFuture<'_, Result<Durable, WalError>> {
        Box::pin(async { Err(WalError::Closed) })
    }
    fn begin(&self, _: Epoch, _: Lsn) -> BoxFuture<'_, Result<Durable, WalError>> {
        Box::pin(async { Err(WalError::Closed) })
    }
    fn append_checked(
        &self,
        _: Epoch,
        _: Vec<CheckedFrame>,
        _: Writer,
    ) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(async { Err(WalError::Closed) })
    }
    fn accepted(&self, _: Epoch) -> Result<(FrameSeq, Lsn), WalError> {
        Err(WalError::Closed)
    }
    fn durable(&self) -> watch::Receiver<Durable> {
        self.durable.subscribe()
    }
    fn read_from(&self, position: Position) -> Result<Box<dyn WalReader>, WalError> {
        if position.0 < self.state.lock().first {
            return Err(WalError::NoSuchPosition(position));
        }
        Ok(Box::new(Reader {
            state: Arc::clone(&self.state),
            at: position.0,
        }))
    }
    fn trim(&self, before: Position) -> Result<(), WalError> {
        let mut state = self.state.lock();
        for at in state.first..before.0 {
            if let Some(r) = state.records.get_mut(at as usize) {
                *r = None;
            }
        }
        state.first = state.first.max(before.0);
        Ok(())
    }
    fn first(&self) -> Position {
        Position(self.state.lock().first)
    }
    fn stored_bytes(&self) -> u64 {
        0
    }
    fn failed(&self) -> Option<WalError> {
        None
    }
    fn close(&self) -> BoxFuture<'_, Result<(), WalError>> {
        Box::pin(async { Ok(()) })
    }
}

pub fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(f)
}

/// Waits until everything in the WAL is ingested.
pub fn catch_up(branch: &Branch, wal: &MemWal) {
    let position = wal.end();
    block_on(async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        branch.wait_ingested(position, deadline).await.unwrap();
    });
}

/// Waits until other threads have `done` it.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        #[allow(clippy::disallowed_methods, reason = "other threads work")]
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn small() -> StoreConfig {
    StoreConfig {
        memory_bytes: 16 << 20,
        open_layer_bytes: 64 << 10,
        image_after_bytes: 2048,
        image_after_mtrs: 16,
        long_chain_bytes: 1024,
        merged_layer_bytes: 64 << 10,
        ..StoreConfig::default()
    }
}

pub fn place(dir: &std::path::Path) -> Arc<dyn Place> {
    Arc::new(LocalPlace::open(dir).unwrap())
}

/// A place whose steps pass `hook`.
pub fn hooked(dir: &std::path::Path, hook: Hook) -> Arc<dyn Place> {
    Arc::new(LocalPlace::open_with(dir, Some(hook)).unwrap())
}

/// The folder of [`BRANCH`] in the place `dir`.
pub fn branch_dir(dir: &std::path::Path) -> std::path::PathBuf {
    dir.join("branches").join(BRANCH.to_string())
}

/// What the newest manifest of [`BRANCH`] says: its version, and the layers
/// that are being merged.
pub fn merging(dir: &std::path::Path) -> (u8, Vec<u64>) {
    let files = std::fs::read_dir(branch_dir(dir)).unwrap();
    let files = files.map(|e| e.unwrap().path());
    let manifests = files.filter(|p| p.extension().is_none());
    let raw = std::fs::read(manifests.max().unwrap()).unwrap();
    let info = xylem_pages::inspect::manifest(&raw).unwrap();
    (raw[8], info.merging)
}

pub fn open(config: StoreConfig, dir: &std::path::Path, wal: &Arc<MemWal>) -> Arc<Branch> {
    let store = Store::open(config, place(dir)).unwrap();
    store.start_ingest();
    Branch::open(store, BRANCH, Arc::clone(wal) as Arc<dyn Wal>, None).unwrap()
}

/// Copies a whole place: see [`copy_dir`].
pub fn copy_place(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from.join("branches")).unwrap() {
        let name = entry.unwrap().file_name();
        let (from, to) = (
            from.join("branches").join(&name),
            to.join("branches").join(&name),
        );
        while !try_copy_dir(&from, &to) {
            std::fs::remove_dir_all(&to).unwrap();
        }
    }
}

/// Copies a branch's directory as a kill at this moment would leave it:
/// manifests first, so that what they name is there. A snapshot may replace
/// older manifests meanwhile, which a kill cannot see half of: then again.
pub fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    let (from, to) = (branch_dir(from), branch_dir(to));
    while !try_copy_dir(&from, &to) {
        std::fs::remove_dir_all(&to).unwrap();
    }
}

fn try_copy_dir(from: &std::path::Path, to: &std::path::Path) -> bool {
    std::fs::create_dir_all(to).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(from)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_by_key(|n| !n.starts_with("manifest-"));
    for name in names {
        // A temporary file may be gone by now; a merge may have removed a layer.
        let copied = std::fs::copy(from.join(&name), to.join(&name));
        if copied.is_err() && !name.ends_with(".tmp") {
            return false;
        }
    }
    true
}
