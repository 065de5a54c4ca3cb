//! Measures the way of real redo from the WAL to a page, step by step: reading the
//! WAL, framing, splitting by page, ingest, applying.
//!
//! `cargo run --release -p xylem-pages --example replay_bench REDO [STEP …]`, where the
//! file REDO is what `xylem-oracle extract` writes: redo from LSN 12288 on.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    reason = "it measures, by the system's clock"
)]

use std::collections::HashMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_pages::place::LocalPlace;
use xylem_pages::{Branch, Reach, ReadAt, Store, StoreConfig};
use xylem_redo::{Mtr, MtrItem, ParseStep, SpaceFlags, apply, parse_mtr};
use xylem_types::{BranchId, Frame, FrameBody, FrameSeq, Lsn, PageId, PageNo};
use xylem_wal::local::{LocalWal, LocalWalConfig};
use xylem_wal::{Position, Wal};

/// Bytes of a frame: as large as a compute's.
const FRAME_BYTES: usize = 1 << 20;
const ROUNDS: usize = 3;

struct Redo {
    bytes: Vec<u8>,
    mtrs: usize,
    runs: usize,
}

impl Redo {
    fn read(path: &str) -> Redo {
        let mut redo = Redo {
            bytes: std::fs::read(path).unwrap(),
            mtrs: 0,
            runs: 0,
        };
        let (mut mtrs, mut runs) = (0, 0);
        redo.each(|mtr| {
            mtrs += 1;
            runs += mtr
                .items()
                .filter(|i| matches!(i, Ok(MtrItem::Page { .. })))
                .count();
        });
        (redo.mtrs, redo.runs) = (mtrs, runs);
        redo
    }

    fn each<'a>(&'a self, mut each: impl FnMut(&Mtr<'a>)) {
        let (mut rest, mut lsn) = (&*self.bytes, Lsn::FIRST);
        while let ParseStep::Mtr(mtr) = parse_mtr(rest, lsn).unwrap() {
            each(&mtr);
            rest = &rest[mtr.size()..];
            lsn = mtr.end_lsn();
        }
    }

    fn end(&self) -> Lsn {
        Lsn(Lsn::FIRST.0 + self.bytes.len() as u64)
    }

    /// Prints the best of some measurements: by the clock, and the CPU time of all
    /// threads, which another program on the machine changes less.
    fn report(&self, what: &str, best: Took) {
        let (s, cpu) = (best.real.as_secs_f64(), best.cpu.as_secs_f64());
        println!(
            "{what:<32} {:>6.0} MB/s   CPU {:>6.2} ms/MB {:>5.0} ns/mtr {:>5.0} ns/run",
            self.bytes.len() as f64 / 1e6 / s,
            cpu * 1e9 / self.bytes.len() as f64,
            cpu * 1e9 / self.mtrs as f64,
            cpu * 1e9 / self.runs as f64
        );
    }
}

/// How long something took.
#[derive(Clone, Copy, Debug, Default)]
struct Took {
    real: Duration,
    cpu: Duration,
}

/// CPU time of this process so far, to a hundredth of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|t| t.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

fn took(f: impl FnOnce()) -> Took {
    let (begin, before) = (Instant::now(), cpu());
    f();
    Took {
        real: begin.elapsed(),
        cpu: cpu() - before,
    }
}

fn least(all: impl Iterator<Item = Took>) -> Took {
    all.reduce(|a, b| Took {
        real: a.real.min(b.real),
        cpu: a.cpu.min(b.cpu),
    })
    .unwrap_or_default()
}

fn best(mut f: impl FnMut()) -> Took {
    least((0..ROUNDS).map(|_| took(&mut f)))
}

/// A WAL on disk with all of the redo.
fn make_wal(dir: &Path, redo: &Redo) -> Arc<LocalWal> {
    let wal = Arc::new(LocalWal::open(dir, LocalWalConfig::default()).unwrap());
    block_on(async {
        let epoch = wal.seal().await.unwrap().epoch();
        wal.begin(epoch, Lsn::FIRST).await.unwrap();
        let mut start = Lsn::FIRST;
        let mut durable = wal.durable();
        for (seq, chunk) in (1..).zip(redo.bytes.chunks(FRAME_BYTES)) {
            let frame = Frame {
                seq: FrameSeq(seq),
                start,
                body: FrameBody::Redo(chunk.into()),
            };
            start = frame.end();
            wal.append(epoch, vec![frame]).await.unwrap();
        }
        durable.wait_for(|d| d.lsn() >= start).await.unwrap();
    });
    wal
}

fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap()
        .block_on(f)
}

/// Ingests all of it into a new store, and calls `then` with the branch.
fn ingest(wal: &Arc<LocalWal>, redo: &Redo, memory: u64, then: impl FnOnce(&Branch)) -> Took {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        trim_wal: false,
        memory_bytes: memory,
        open_layer_bytes: (memory / 4).max(64 << 20),
        ..StoreConfig::default()
    };
    let config = match memory {
        512 => StoreConfig {
            trim_wal: false,
            ..StoreConfig::default()
        },
        _ => config,
    };
    let store = Store::open(config, Arc::new(LocalPlace::open(dir.path()).unwrap())).unwrap();
    store.start_ingest();
    let wal = Arc::clone(wal) as Arc<dyn Wal>;
    let branch = std::cell::OnceCell::new();
    let time = took(|| {
        let branch = branch.get_or_init(|| Branch::open(store, BranchId(1), wal, None).unwrap());
        block_on(async {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
            branch.wait_applied(redo.end(), deadline).await.unwrap();
        });
    });
    let branch = branch.into_inner().unwrap();
    then(&branch);
    branch.shutdown();
    time
}

fn read_all(branch: &Branch, pages: &mut u64) {
    for t in branch.tablespaces(ReadAt::Newest).unwrap() {
        for page in 0..t.pages {
            let page = PageId {
                space: t.space,
                page: PageNo(page),
            };
            black_box(
                branch
                    .get_page(page, ReadAt::Newest, Reach::Files)
                    .unwrap()
                    .bytes,
            );
            *pages += 1;
        }
    }
}

/// The runs of each page, in the order in which pages first appear.
type Work<'a> = Vec<(PageId, SpaceFlags, Vec<(Lsn, &'a [u8])>)>;

fn gather(redo: &Redo) -> Work<'_> {
    let (mut places, mut flags) = (HashMap::new(), HashMap::new());
    let mut work = Work::new();
    redo.each(|mtr| {
        for item in mtr.items() {
            match item.unwrap() {
                MtrItem::SpaceFlags { space, flags: f } => {
                    flags.insert(space, f);
                }
                MtrItem::Page { page, records, .. } => {
                    let Some(&f) = flags.get(&page.space) else {
                        continue;
                    };
                    let place = *places.entry(page).or_insert_with(|| {
                        work.push((page, f, Vec::new()));
                        work.len() - 1
                    });
                    work[place].2.push((mtr.end_lsn(), records));
                }
                _ => {}
            }
        }
    });
    work
}

fn main() {
    let mut args = std::env::args().skip(1);
    let redo = Redo::read(&args.next().unwrap());
    let steps: Vec<String> = args.collect();
    let wanted = |step: &str| steps.is_empty() || steps.iter().any(|s| s == step);
    println!(
        "{:.1} MB of redo, {} mtrs, {} runs",
        redo.bytes.len() as f64 / 1e6,
        redo.mtrs,
        redo.runs
    );
    if wanted("frame") {
        let time = best(|| {
            redo.each(|mtr| {
                black_box(mtr.end_lsn());
            })
        });
        redo.report("frame and CRC", time);
    }
    if wanted("split") {
        let time = best(|| {
            redo.each(|mtr| {
                for item in mtr.items() {
                    drop(black_box(item));
                }
            });
        });
        redo.report("frame, CRC and split", time);
    }
    if wanted("apply") {
        let work = gather(&redo);
        let time = best(|| {
            for (page, flags, runs) in &work {
                let mut bytes = vec![0; flags.physical_page_size()];
                for (lsn, records) in runs {
                    apply(&mut bytes, *page, *flags, *lsn, records).unwrap();
                }
                black_box(bytes);
            }
        });
        redo.report("apply, page by page", time);
    }
    if !["wal", "ingest", "flush", "pages"]
        .iter()
        .any(|s| wanted(s))
    {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wal = make_wal(dir.path(), &redo);
    if wanted("wal") {
        let time = best(|| {
            let mut reader = wal.read_from(Position::default()).unwrap();
            while let Some(entry) = reader.next().unwrap() {
                black_box(entry);
            }
        });
        redo.report("read the WAL", time);
    }
    if wanted("ingest") {
        let time = (0..ROUNDS).map(|_| ingest(&wal, &redo, 16 << 30, |_| {}));
        redo.report("ingest, no flush", least(time));
    }
    if wanted("flush") {
        let time = (0..ROUNDS).map(|_| ingest(&wal, &redo, 512, |_| {}));
        redo.report("ingest, flushes beside it", least(time));
    }
    if wanted("pages") {
        let mut pages = 0;
        let mut read = Took::default();
        ingest(&wal, &redo, 16 << 30, |branch| {
            read = took(|| read_all(branch, &mut pages));
        });
        redo.report(&format!("build {pages} pages from memory"), read);
    }
}
