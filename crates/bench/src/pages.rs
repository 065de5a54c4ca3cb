//! GetPage through the client library, as a compute calls it, compared with a read of the
//! same size from a file in the operating system's page cache.

use crate::Args;
use crate::limits::{self, PAGE_BYTES};
use crate::report::{Figure, Report, Who};
use crate::stats::{self, median};
use crate::system::System;
use anyhow::{Context, Result, anyhow, ensure};
use rand::Rng;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;
use xylem_client::client::{Client, PageWanted};
use xylem_client::config::Config;
use xylem_client::pages::Target;
use xylem_client::status::Status;
use xylem_e2e::Project;
use xylem_e2e::sysbench::Load;

/// Reads in flight.
const THREADS: [usize; 2] = [16, 64];

/// Something that pages are read from.
struct Source {
    who: Who,
    reads: Reads,
}

enum Reads {
    /// `pread` of a file.
    File(File),
    /// GetPage.
    Server {
        client: Box<Client>,
        /// The tablespace.
        space: u32,
        /// Stops the server when it is dropped.
        _system: Box<System>,
    },
}

impl Source {
    fn of_server(system: System, report: &mut Report) -> Result<(Source, u32)> {
        if let Some(left) = system.settle()? {
            report.note(left);
        }
        let project = system.project().context("not a project")?;
        let (space, pages) = tablespace(project)?;
        let client = Box::new(connect(project)?);
        let who = system.who;
        let reads = Reads::Server {
            client,
            space,
            _system: Box::new(system),
        };
        Ok((Source { who, reads }, pages))
    }

    fn read(&self, page: u32, buf: &mut [u8]) -> Result<()> {
        match &self.reads {
            Reads::File(file) => Ok(file.read_exact_at(buf, u64::from(page) * PAGE_BYTES as u64)?),
            Reads::Server { client, space, .. } => read(client, (*space, page), 0, buf),
        }
    }
}

/// Measures on projects with one sysbench table. Both builds of Xylem are asked by the
/// client library of this one.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let (xylem, pages) = Source::of_server(filled(args, None)?, report)?;
    let file = tempfile::tempfile()?;
    file.write_all_at(&vec![1; pages as usize * PAGE_BYTES], 0)?;
    let who = Who::Stock;
    let reads = Reads::File(file);
    let mut sources = vec![Source { who, reads }, xylem];
    if let Some(home) = args.against() {
        // It is read with this build's client, and may speak another protocol.
        match Source::of_server(filled(args, Some(home))?, report) {
            Ok((before, _)) => sources.push(before),
            Err(error) => report.note(format!("pages: not measured for before: {error:#}")),
        }
    }

    let times = turns(args.turns, &sources, |source| latency_us(pages, source))?;
    let limit = limits::measure()?.tcp_page;
    report.figure(
        Figure::new("pages", "GetPage, 1 thread (stock: pread, cached)", "us")
            .sides(times)
            .limit("TCP round trip", limit),
    );
    for threads in THREADS {
        let rates = turns(args.turns, &sources, |s| {
            pages_per_second(pages, s, threads)
        })?;
        let name = format!("GetPage, {threads} threads (stock: pread)");
        report.figure(
            Figure::new("pages", name, "pages/s")
                .higher()
                .sides(rates)
                .limit(
                    format!("TCP round trips on {threads} connections"),
                    limits::pages_per_second(threads)?,
                ),
        );
    }
    for source in sources {
        if let Reads::Server { client, .. } = &source.reads {
            client.shutdown();
        }
    }
    Ok(())
}

/// A project with one sysbench table.
fn filled(args: &Args, home: Option<&Path>) -> Result<System> {
    let system = System::xylem(home, "64MiB")?;
    system.sql("CREATE DATABASE sbtest")?;
    let load = Load {
        tables: 1,
        ..args.load(1, 1)
    };
    load.prepare(&system.login()?)?;
    Ok(system)
}

fn turns(
    turns: u32,
    sources: &[Source],
    measure: impl Fn(&Source) -> Result<f64>,
) -> Result<Vec<(Who, Vec<f64>)>> {
    let mut all: Vec<(Who, Vec<f64>)> = sources.iter().map(|s| (s.who, Vec::new())).collect();
    for turn in 0..turns {
        for at in stats::order(turn, sources.len()) {
            all[at].1.push(measure(&sources[at])?);
        }
    }
    Ok(all)
}

/// The tablespace of the first sysbench table: its id and its number of pages.
pub fn tablespace(project: &Project) -> Result<(u32, u32)> {
    let row = project.sql(
        "SELECT space, file_size DIV page_size FROM information_schema.innodb_sys_tablespaces \
         WHERE name = 'sbtest/sbtest1'",
    )?;
    let (space, pages) = row.trim().split_once('\t').context("no tablespace")?;
    Ok((space.parse()?, pages.parse()?))
}

/// A client of the project's server, as a compute has it.
pub fn connect(project: &Project) -> Result<Client> {
    let grpc = project.server_address("grpc")?;
    let (host, port) = grpc.rsplit_once(':').context("no port")?;
    let mut config = Config::new(host, port.parse()?);
    // As a compute on the server's machine.
    let socket = project.dir().join("server.sock");
    config.socket = Some(socket).filter(|socket| socket.exists());
    config.token = project.token()?;
    Client::start(config).map_err(|error| anyhow!(error.message))
}

/// Reads a page, given as tablespace and page number, as of `min_lsn` or later.
pub fn read(client: &Client, page: (u32, u32), min_lsn: u64, buf: &mut [u8]) -> Result<()> {
    let (space_id, page_no) = page;
    // SAFETY: buf has the given length and outlives the call, which is synchronous.
    let target = unsafe { Target::new(buf.as_mut_ptr(), buf.len()) };
    let status = client.get_page(PageWanted {
        space_id,
        page_no,
        min_lsn,
        target,
    });
    ensure!(
        status == Status::Ok,
        "page {space_id}:{page_no}: {status:?}"
    );
    Ok(())
}

/// The median of single reads of random pages, in microseconds.
fn latency_us(pages: u32, source: &Source) -> Result<f64> {
    let mut rng = rand::rng();
    let mut buf = vec![0; PAGE_BYTES];
    let mut times = Vec::with_capacity(5000);
    for _ in 0..5000 {
        let page = rng.random_range(0..pages);
        let started = Instant::now();
        source.read(page, &mut buf)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&times))
}

fn pages_per_second(pages: u32, source: &Source, threads: usize) -> Result<f64> {
    let started = Instant::now();
    let each = 80_000 / threads;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut rng = rand::rng();
                    let mut buf = vec![0; PAGE_BYTES];
                    (0..each).try_for_each(|_| source.read(rng.random_range(0..pages), &mut buf))
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a reader panicked"))?)
    })?;
    Ok((each * threads) as f64 / started.elapsed().as_secs_f64())
}
