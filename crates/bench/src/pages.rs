//! GetPage through the client library, as a compute calls it, compared with a read of the
//! same size from a file in the operating system's page cache.

use crate::Args;
use crate::report::{self, Better};
use anyhow::{Context, Result, ensure};
use rand::Rng;
use std::os::unix::fs::FileExt;
use std::time::Instant;
use xylem_client::client::{Client, PageWanted};
use xylem_client::config::Config;
use xylem_client::pages::Target;
use xylem_client::status::Status;
use xylem_e2e::Project;
use xylem_e2e::sysbench::Load;

const PAGE_BYTES: usize = 16 << 10;
const THREADS: usize = 16;

/// Measures on a project with one sysbench table.
pub fn measure(args: &Args) -> Result<()> {
    let project = Project::up("64MiB")?;
    project.sql("CREATE DATABASE sbtest")?;
    let load = Load {
        tables: 1,
        rows: args.rows,
        threads: 1,
        seconds: 1,
        rate: None,
    };
    load.prepare(&project.login()?)?;
    let row = project.sql(
        "SELECT space, file_size DIV page_size FROM information_schema.innodb_sys_tablespaces \
         WHERE name = 'sbtest/sbtest1'",
    )?;
    let (space, pages) = row.trim().split_once('\t').context("no tablespace")?;
    let (space, pages): (u32, u32) = (space.parse()?, pages.parse()?);

    let file = tempfile::tempfile()?;
    file.write_all_at(&vec![1; pages as usize * PAGE_BYTES], 0)?;
    let client = connect(&project)?;

    let remote = |page: u32, buf: &mut [u8]| {
        // SAFETY: buf has the given length and outlives the call, which is synchronous.
        let target = unsafe { Target::new(buf.as_mut_ptr(), buf.len()) };
        let status = client.get_page(PageWanted {
            space_id: space,
            page_no: page,
            min_lsn: 0,
            target,
        });
        ensure!(status == Status::Ok, "page {space}:{page}: {status:?}");
        Ok(())
    };
    let local = |page: u32, buf: &mut [u8]| {
        Ok(file.read_exact_at(buf, u64::from(page) * PAGE_BYTES as u64)?)
    };
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..args.turns {
        here.push(latency_us(pages, local)?);
        there.push(latency_us(pages, remote)?);
    }
    report::pair(
        "GetPage, 1 thread (stock: pread, cached)",
        "us",
        Better::Lower,
        &here,
        &there,
    );
    here.clear();
    there.clear();
    for _ in 0..args.turns {
        here.push(pages_per_second(pages, local)?);
        there.push(pages_per_second(pages, remote)?);
    }
    report::pair(
        "GetPage, 16 threads (stock: pread)",
        "pages/s",
        Better::Higher,
        &here,
        &there,
    );
    client.shutdown();
    Ok(())
}

fn connect(project: &Project) -> Result<Client> {
    let status = project.json(&["status"])?;
    let grpc = status["server"]["grpc"]
        .as_str()
        .context("no grpc address")?;
    let (host, port) = grpc.rsplit_once(':').context("no port")?;
    Client::start(Config::new(host, port.parse()?)).map_err(|error| anyhow::anyhow!(error.message))
}

/// The median of single reads of random pages, in microseconds.
fn latency_us(pages: u32, read: impl Fn(u32, &mut [u8]) -> Result<()>) -> Result<f64> {
    let mut rng = rand::rng();
    let mut buf = vec![0; PAGE_BYTES];
    let mut times = Vec::with_capacity(5000);
    for _ in 0..5000 {
        let page = rng.random_range(0..pages);
        let started = Instant::now();
        read(page, &mut buf)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(report::median(&times))
}

fn pages_per_second(pages: u32, read: impl Fn(u32, &mut [u8]) -> Result<()> + Sync) -> Result<f64> {
    let started = Instant::now();
    let each = 5000;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let mut rng = rand::rng();
                    let mut buf = vec![0; PAGE_BYTES];
                    (0..each).try_for_each(|_| read(rng.random_range(0..pages), &mut buf))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a reader died"))?
        })
    })?;
    Ok((each * THREADS) as f64 / started.elapsed().as_secs_f64())
}
