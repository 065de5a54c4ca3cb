//! The page store without MariaDB: figures that must not depend on the size of the
//! database, the number of layers, or the state of another branch.

#[path = "../../pages/tests/it/common/redo.rs"]
#[allow(dead_code, clippy::cast_possible_truncation, reason = "the tests' own")]
mod redo;

use crate::report::Report;
use crate::stats::{Better, median};
use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redo::mtr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use xylem_pages::place::{FileReader, FileWriter, Files, LocalFiles, Place, Put};
use xylem_pages::{Branch, Loader, Reach, ReadAt, Store, StoreConfig, Tablespace};
use xylem_redo::SpaceFlags;
use xylem_types::{BranchId, Epoch, Frame, FrameBody, FrameSeq, Lsn, PageId, PageNo, SpaceId};
use xylem_wal::Wal as _;
use xylem_wal::local::{LocalWal, LocalWalConfig};

const PAGE_BYTES: usize = 16 << 10;
/// 2.4 GB.
const PAGES: u32 = 150_000;
/// Pages that fit in memory.
const HOT: u32 = 2000;
/// Bytes of redo per turn.
const REDO_BYTES: u64 = 96 << 20;
/// The LSN at which loaded branches begin.
const BEGIN: Lsn = Lsn(1 << 20);
const FEW_LAYERS: u32 = 100;
const MANY_LAYERS: u32 = 16_000;
const READS: usize = 20_000;

/// Measures each figure in both cases.
pub fn measure(report: &mut Report) -> Result<()> {
    let (hot, all) = (ingest(HOT)?, ingest(PAGES)?);
    report.beside(
        "ingest into 2.4 GB with 64 MiB of memory",
        "MB/s",
        Better::Higher,
        ("2,000 hot pages", hot),
        ("all pages", all),
    );
    let (few, many) = (cold_read(FEW_LAYERS)?, cold_read(MANY_LAYERS)?);
    report.beside(
        "cold read of a page",
        "us",
        Better::Lower,
        ("100 layers", few),
        ("16,000 layers", many),
    );
    let (well, ill) = (beside(false)?, beside(true)?);
    report.beside(
        "ingest of a branch beside another",
        "MB/s",
        Better::Higher,
        ("that is well", well),
        ("that fails", ill),
    );
    Ok(())
}

/// A branch with a table of `pages` pages, in layers of `layer_bytes`. Half of each page
/// is random.
fn load(store: &Arc<Store>, id: BranchId, pages: u32, layer_bytes: u64) -> Result<()> {
    let mut loader = Loader::begin_with(store, id, BEGIN, layer_bytes)?;
    loader.tablespace(Tablespace {
        space: SpaceId(0),
        path: "ibdata1".into(),
        flags: SpaceFlags::full_crc32_of(PAGE_BYTES)?.raw(),
        pages,
        page_bytes: u32::try_from(PAGE_BYTES)?,
    })?;
    let mut rng = StdRng::seed_from_u64(1);
    let mut bytes = vec![0; PAGE_BYTES];
    for page in 0..pages {
        bytes[4..8].copy_from_slice(&page.to_be_bytes());
        rng.fill(&mut bytes[4096..12_288]);
        loader.page(PageNo(page), &bytes)?;
    }
    loader.finish()?;
    Ok(())
}

/// A WAL with `bytes` of redo: updates of 60 bytes to random ones of `pages` pages. Also
/// returns its end.
async fn updates(dir: &Path, bytes: u64, pages: u32) -> Result<(Arc<LocalWal>, Lsn)> {
    let log = Arc::new(LocalWal::open(dir, LocalWalConfig::default())?);
    let epoch: Epoch = log.seal().await?.epoch();
    log.begin(epoch, BEGIN).await?;
    let mut rng = StdRng::seed_from_u64(2);
    let (mut lsn, mut seq) = (BEGIN, 0);
    let mut durable = log.durable();
    while lsn.0 < BEGIN.0 + bytes {
        let mut frame = Vec::new();
        while frame.len() < 1 << 20 {
            let page = PageId::new(0, rng.random_range(0..pages));
            let data: [u8; 60] = rng.random();
            let at = 4096 + (u32::from(data[0]) << 4);
            frame.extend(mtr(|m| {
                m.write(page, at, &data);
            }));
        }
        seq += 1;
        let frame = Frame {
            seq: FrameSeq(seq),
            start: lsn,
            body: FrameBody::Redo(frame.into()),
        };
        lsn = frame.end();
        log.append(epoch, vec![frame]).await?;
    }
    durable.wait_for(|durable| durable.lsn() >= lsn).await?;
    Ok((log, lsn))
}

/// The rate of ingest in MB per second, with the merges that it causes.
fn ingest_of(store: &Arc<Store>, id: BranchId, log: Arc<LocalWal>, end: Lsn) -> Result<f64> {
    let runtime = tokio::runtime::Runtime::new()?;
    let started = Instant::now();
    let branch = Branch::open(Arc::clone(store), id, log, None)?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
    runtime.block_on(branch.wait_applied(end, deadline))?;
    let rate = (end.0 - BEGIN.0) as f64 / 1e6 / started.elapsed().as_secs_f64();
    branch.shutdown();
    Ok(rate)
}

fn ingest(pages: u32) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let config = StoreConfig {
        memory_bytes: 64 << 20,
        open_layer_bytes: 16 << 20,
        ..StoreConfig::default()
    };
    let place = MaybeFailing::new(dir.path(), None);
    let store = Store::open(config, place)?;
    let id = BranchId(1);
    load(&store, id, PAGES, 256 << 20)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let (log, end) = runtime.block_on(updates(&dir.path().join("log"), REDO_BYTES, pages))?;
    store.start_ingest();
    store.start_upkeep()?;
    ingest_of(&store, id, log, end)
}

/// The median time to read a random page that is in no cache. The number of pages is the
/// number of layers in the larger case.
fn cold_read(layers: u32) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let config = StoreConfig {
        memory_bytes: 16 << 20,
        ..StoreConfig::default()
    };
    let store = Store::open(config, MaybeFailing::new(dir.path(), None))?;
    let id = BranchId(1);
    let packed = u64::from(MANY_LAYERS) * PAGE_BYTES as u64 / 2;
    load(
        &store,
        id,
        MANY_LAYERS,
        match layers {
            MANY_LAYERS => 1,
            _ => packed / u64::from(layers),
        },
    )?;
    let log = LocalWal::open(&dir.path().join("log"), LocalWalConfig::default())?;
    let branch = Branch::open(store, id, Arc::new(log), None)?;
    let mut rng = StdRng::seed_from_u64(3);
    let mut times = Vec::with_capacity(READS);
    let pages = (0..MANY_LAYERS).chain((0..READS).map(|_| rng.random_range(0..MANY_LAYERS)));
    // The first pass opens every layer; the second one is measured.
    for (n, page) in pages.enumerate() {
        let started = Instant::now();
        let page = PageId::new(0, page);
        let read = branch.get_page(page, ReadAt::Newest, Reach::Files);
        read.with_context(|| format!("page {page}"))?;
        if n >= MANY_LAYERS as usize {
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
    }
    println!("{:>50} layers", branch.stats().layers);
    Ok(median(&times))
}

/// The rate of ingest of a branch, while another branch with as much to ingest can or
/// cannot read and write its layers.
fn beside(fails: bool) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let config = StoreConfig {
        memory_bytes: 64 << 20,
        open_layer_bytes: 8 << 20,
        ..StoreConfig::default()
    };
    let (ill, well) = (BranchId(1), BranchId(2));
    let place = MaybeFailing::new(dir.path(), Some(ill));
    let store = Store::open(config, Arc::clone(&place) as Arc<dyn Place>)?;
    load(&store, ill, HOT, 4 << 20)?;
    load(&store, well, HOT, 4 << 20)?;
    place.fails.store(fails, Ordering::Release);
    let runtime = tokio::runtime::Runtime::new()?;
    let logs = |name: &str, bytes| runtime.block_on(updates(&dir.path().join(name), bytes, HOT));
    let (ill_log, ill_end) = logs("ill", REDO_BYTES / 2)?;
    let (log, end) = logs("well", REDO_BYTES)?;
    store.start_ingest();
    store.start_upkeep()?;
    let other = Branch::open(Arc::clone(&store), ill, ill_log, None)?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
    match fails {
        false => runtime.block_on(other.wait_applied(ill_end, deadline))?,
        true => wait_until_stuck(&other),
    }
    ingest_of(&store, well, log, end)
}

/// Waits until the branch has ingested nothing for a while, because it waits for memory
/// or for a layer.
#[expect(clippy::disallowed_methods, reason = "nothing is to happen")]
fn wait_until_stuck(branch: &Branch) {
    const STILL: Duration = Duration::from_secs(2);
    let mut before = None;
    while before != Some(branch.stats().mtrs) {
        before = Some(branch.stats().mtrs);
        std::thread::sleep(STILL);
    }
}

/// A directory in which the folder of one branch can fail.
struct MaybeFailing {
    dir: std::path::PathBuf,
    folder: Option<String>,
    fails: Arc<AtomicBool>,
}

impl MaybeFailing {
    fn new(dir: &Path, ill: Option<BranchId>) -> Arc<MaybeFailing> {
        Arc::new(MaybeFailing {
            dir: dir.join("pages"),
            folder: ill.map(|id| format!("branches/{id}")),
            fails: Arc::default(),
        })
    }
}

struct MaybeFailingFiles(LocalFiles, Option<Arc<AtomicBool>>);

impl MaybeFailingFiles {
    fn pass(&self) -> io::Result<()> {
        match &self.1 {
            Some(fails) if fails.load(Ordering::Acquire) => {
                Err(io::Error::other("it fails on purpose"))
            }
            _ => Ok(()),
        }
    }
}

impl Place for MaybeFailing {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        std::fs::create_dir_all(self.dir.join("branches"))?;
        let files = LocalFiles::open(&self.dir.join(name), None)?;
        let ill = self.folder.as_deref() == Some(name);
        let fails = ill.then(|| Arc::clone(&self.fails));
        Ok(Arc::new(MaybeFailingFiles(files, fails)))
    }
    fn folders(&self, _: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn remove_folder(&self, name: &str) -> io::Result<()> {
        std::fs::remove_dir_all(self.dir.join(name))
    }
    fn url(&self) -> String {
        self.dir.display().to_string()
    }
}

impl Files for MaybeFailingFiles {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.0.list()
    }
    fn create(&self, name: &str) -> io::Result<Box<dyn FileWriter>> {
        self.pass()?;
        self.0.create(name)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn FileReader>> {
        self.pass()?;
        self.0.open(name)
    }
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.read(name)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn put_new(&self, name: &str, bytes: &[u8]) -> io::Result<Put> {
        self.0.put_new(name, bytes)
    }
}
