//! The redo of a killed server: InnoDB recovers it, and the page store ingests it and
//! builds every page that it touches.

use crate::Args;
use crate::limits;
use crate::report::{Figure, Report, Who};
use anyhow::{Context, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use xylem_e2e::sysbench::Login;
use xylem_oracle::log::Log;
use xylem_oracle::server::Install;
use xylem_pages::place::LocalPlace;
use xylem_pages::{Branch, Reach, ReadAt, Store, StoreConfig};
use xylem_types::{BranchId, Epoch, Frame, FrameBody, FrameSeq, Lsn, PageId, PageNo};
use xylem_wal::Wal as _;
use xylem_wal::local::{LocalWal, LocalWalConfig};

/// Bytes of a frame, as large as a compute's.
const FRAME_BYTES: usize = 1 << 20;

/// Produces a redo log, then measures both on it.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let install = Install::from_env()?;
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    // The redo log reaches back to the creation of the database, and no page is flushed
    // early, so that both sides start from the same redo.
    let options: Vec<String> = [
        "--innodb-log-file-size=4G",
        "--innodb-buffer-pool-size=2G",
        "--innodb-max-dirty-pages-pct=99.9",
        "--innodb-max-dirty-pages-pct-lwm=0",
        "--innodb-flush-log-at-trx-commit=2",
    ]
    .map(str::to_owned)
    .into();
    install.create_database(&data, &options)?;
    let server = install.start(&data, dir.path(), &options)?;
    server.query("CREATE DATABASE sbtest")?;
    let login = Login {
        socket: server.socket().into(),
        user: "root".into(),
        password: String::new(),
    };
    let load = args.load(4, args.seconds * 2);
    load.prepare(&login)?;
    load.run(&login, "oltp_write_only")?;
    server.kill()?;

    let log = Log::read(&data.join("ib_logfile0"))?;
    let since_checkpoint = log.end().0.saturating_sub(log.header.checkpoint_lsn.0) as f64 / 1e6;

    let started = Instant::now();
    let server = install.start(&data, dir.path(), &options)?;
    let stock = since_checkpoint / started.elapsed().as_secs_f64();
    drop(server);

    let (ingest, ready, pages) = ingest(&log)?;
    let bytes = log.bytes().len() as f64 / 1e6;
    report.note(format!(
        "recovery: InnoDB {since_checkpoint:.0} MB since its checkpoint; Xylem {bytes:.0} MB since creation, {pages} pages"
    ));
    let (of, limit) = limits::measure()?.crc_rate();
    let figures = [
        ("all pages are made", ready),
        ("any page can be read", ingest),
    ];
    for (until, time) in figures {
        let name = format!("redo recovered (Xylem: until {until})");
        report.figure(
            Figure::new("recovery", name, "MB/s")
                .higher()
                .side(Who::Stock, vec![stock])
                .side(Who::Xylem, vec![bytes / time.as_secs_f64()])
                .limit(of, limit),
        );
    }
    let steps = xylem_oracle::bench::bench(&log, 3)?.to_string();
    let lines = steps.lines().filter(|line| !line.is_empty());
    lines.for_each(|line| report.note(line));
    Ok(())
}

/// Ingests a redo log. Returns the time until it is ingested, and the time until every
/// page of every tablespace has been read once.
fn ingest(log: &Log) -> Result<(Duration, Duration, u64)> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let wal = LocalWal::open(&dir.path().join("log"), LocalWalConfig::default())?;
    let wal = Arc::new(wal);
    runtime.block_on(async {
        let sealed = wal.seal().await?;
        wal.begin(sealed.epoch(), Lsn::FIRST).await?;
        append(wal.as_ref(), sealed.epoch(), log).await
    })?;

    let store = Store::open(
        StoreConfig::default(),
        Arc::new(LocalPlace::open(&dir.path().join("pages"))?),
    )?;
    let started = Instant::now();
    store.start_ingest();
    let branch = Branch::open(store, BranchId(1), wal, None)?;
    runtime.block_on(async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(3600);
        branch.wait_applied(log.end(), deadline).await
    })?;
    let ingested = started.elapsed();
    let mut pages = 0;
    for tablespace in branch.tablespaces(ReadAt::Newest)? {
        for page in 0..tablespace.pages {
            let id = PageId {
                space: tablespace.space,
                page: PageNo(page),
            };
            branch
                .get_page(id, ReadAt::Newest, Reach::Files)
                .with_context(|| format!("page {id}"))?;
            pages += 1;
        }
    }
    let ready = started.elapsed();
    branch.shutdown();
    Ok((ingested, ready, pages))
}

async fn append(wal: &LocalWal, epoch: Epoch, log: &Log) -> Result<()> {
    let mut start = log.start();
    let mut durable = wal.durable();
    for (seq, chunk) in (1..).zip(log.bytes().chunks(FRAME_BYTES)) {
        let frame = Frame {
            seq: FrameSeq(seq),
            start,
            body: FrameBody::Redo(chunk.into()),
        };
        start = frame.end();
        wal.append(epoch, vec![frame]).await?;
    }
    durable.wait_for(|durable| durable.lsn() >= start).await?;
    Ok(())
}
