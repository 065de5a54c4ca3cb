//! The effect of trouble on a neighbor: the throughput of branch `dev` while all is well
//! and while another branch, a client or the store is in trouble, turn by turn.
//!
//! The load has a fixed rate below the machine's capacity. The benchmark measures whether
//! the neighbor waits because of the trouble, not how processors are shared.
//!
//! It also measures the cost of idle branches.

use crate::Args;
use crate::proc::Sample;
use crate::report::Report;
use crate::stats::median;
use crate::sysbench::per_second;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use tonic::transport::Endpoint;
use xylem_e2e::sysbench::{Load, Login};
use xylem_e2e::{Project, wait_until};
use xylem_objects::testing::S3Server;
use xylem_proto::BRANCH_KEY;
use xylem_proto::control::BaseBackupRequest;
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::pageserver::page_server_client::PageServerClient;
use xylem_proto::pageserver::{GetPageRequest, PageStreamRequest};

/// The rate of the neighbor, in transactions per second.
const RATE: u32 = 100;
/// Clients that take no answers.
const IDLE_CLIENTS: usize = 16;
/// Page requests of each such client.
const IDLE_REQUESTS: usize = 400;
/// The number of idle branches.
const IDLE_BRANCHES: usize = 500;
/// How long idle branches are measured, and how long they settle before that.
const WATCH: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(20);
const SCRIPT: &str = "oltp_read_write";

/// Measures projects in a directory, and one in an S3 server that does not answer for
/// `args.away` seconds.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    idle_branches(report)?;
    report.note(format!(
        "{:<52} {:>9} {:>9} {:>7}",
        "a neighbor's transactions a second, 1 = as before", "well", "beside", "ratio"
    ));
    stalled_clients(args, report)?;
    unreadable_layers(args, report)?;
    store_away(args, report)
}

/// Measures the CPU time of a server with one idle branch and with many.
fn idle_branches(report: &mut Report) -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT)")?;
    project.xylem(&["compute", "stop", "main"])?;
    let alone = idle_cpu(&project)?;
    for n in 0..IDLE_BRANCHES {
        project.xylem(&["branch", "create", &format!("idle-{n}")])?;
    }
    let many = idle_cpu(&project)?;
    report.note(format!(
        "the server's CPU, ms a second: {alone:.2} with one idle branch, {many:.2} with {IDLE_BRANCHES} more"
    ));
    Ok(())
}

/// The server's CPU time in milliseconds per second.
#[expect(clippy::disallowed_methods, reason = "nothing is to happen")]
fn idle_cpu(project: &Project) -> Result<f64> {
    std::thread::sleep(SETTLE);
    let pid = project.json(&["status"])?["server"]["pid"].as_u64();
    let pid = u32::try_from(pid.context("no server")?)?;
    let before = Sample::of(pid)?;
    std::thread::sleep(WATCH);
    let used = Sample::of(pid)?.since(&before);
    Ok(used.cpu_us / 1e3 / WATCH.as_secs_f64())
}

fn load(args: &Args, seconds: u32) -> Load {
    Load {
        tables: 2,
        rows: args.rows.min(50_000),
        threads: 4,
        seconds,
        rate: Some(RATE),
    }
}

/// A project with a filled database on `main` and on `dev`.
fn project(args: &Args, envs: Vec<(String, String)>, up: &[&str]) -> Result<Project> {
    let project = Project::with(envs, up)?;
    // A small buffer pool, so that pages are evicted and read again.
    project.up_in_place("16MiB")?;
    project.sql("CREATE DATABASE sbtest")?;
    load(args, 1).prepare(&project.login()?)?;
    project.xylem(&["branch", "create", "dev"])?;
    project.xylem(&["compute", "start", "dev"])?;
    Ok(project)
}

/// The transactions per second of a run.
fn rate(load: &Load, login: &Login) -> Result<f64> {
    per_second(&load.run(login, SCRIPT)?)
}

fn tell(report: &mut Report, what: &str, well: &[f64], beside: &[f64]) {
    let (well, beside) = (median(well), median(beside));
    report.note(format!(
        "{what:<52} {well:>9.1} {beside:>9.1} {:>7.2}",
        beside / well
    ));
}

fn stalled_clients(args: &Args, report: &mut Report) -> Result<()> {
    let project = project(args, Vec::new(), &[])?;
    let login = project.login_to("dev")?;
    let load = load(args, args.seconds);
    let runtime = tokio::runtime::Runtime::new()?;
    let (mut well, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..args.turns {
        well.push(rate(&load, &login)?);
        let idle = runtime.block_on(async {
            let mut idle = Vec::new();
            for _ in 0..IDLE_CLIENTS {
                idle.push(IdleClient::connect(&project).await?);
            }
            anyhow::Ok(idle)
        })?;
        beside.push(rate(&load, &login)?);
        drop(idle);
    }
    tell(
        report,
        &format!("{IDLE_CLIENTS} clients of main take no answers"),
        &well,
        &beside,
    );
    Ok(())
}

/// Clients that request many pages and take no answers.
struct IdleClient {
    _backup: tonic::Streaming<xylem_proto::control::BaseItem>,
    _pages: tonic::Streaming<xylem_proto::pageserver::PageStreamResponse>,
    _requests: tokio::sync::mpsc::Sender<PageStreamRequest>,
}

impl IdleClient {
    async fn connect(project: &Project) -> Result<IdleClient> {
        let windows = |endpoint: Endpoint| {
            endpoint
                .initial_stream_window_size(65_535)
                .initial_connection_window_size(65_535)
        };
        let way = project.way()?;
        let channel = way.connect(Duration::from_secs(5), windows).await?;
        let mut request = project.request(BaseBackupRequest {
            lsn: 0,
            all_tablespaces: true,
        })?;
        request.metadata_mut().insert(BRANCH_KEY, "main".parse()?);
        let backup = ControlClient::new(channel.clone())
            .base_backup(request)
            .await?
            .into_inner();
        let (requests, receiver) = tokio::sync::mpsc::channel(IDLE_REQUESTS);
        for id in 0..IDLE_REQUESTS {
            let get = GetPageRequest {
                space_id: 0,
                page_no: id as u32 % 64,
                ..GetPageRequest::default()
            };
            let id = id as u64;
            let get = Some(get);
            requests.send(PageStreamRequest { id, get }).await?;
        }
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let pages = PageServerClient::new(channel)
            .page_stream(project.request(stream)?)
            .await?;
        Ok(IdleClient {
            _backup: backup,
            _pages: pages.into_inner(),
            _requests: requests,
        })
    }
}

fn unreadable_layers(args: &Args, report: &mut Report) -> Result<()> {
    // Small open layers, so that the redo of `main` soon is in layer files.
    let envs = vec![("XYLEM_OPEN_LAYER_SIZE".to_owned(), "1MiB".to_owned())];
    let project = project(args, envs, &[])?;
    let (main, dev) = (project.login()?, project.login_to("dev")?);
    let load = load(args, args.seconds);
    let (mut well, mut beside) = (Vec::new(), Vec::new());
    let both = |rates: &mut Vec<f64>| -> Result<()> {
        let of_main = load.start(&main, SCRIPT)?;
        rates.push(rate(&load, &dev)?);
        // A run on `main` may fail.
        of_main.wait_with_output()?;
        Ok(())
    };
    for _ in 0..args.turns {
        both(&mut well)?;
    }
    let id = project.branch("main")?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    let dir = project.dir().join("server/store/branches").join(id);
    let damaged = damage_layers(&dir)?;
    ensure!(damaged > 0, "main has no layers in {}", dir.display());
    for _ in 0..args.turns {
        both(&mut beside)?;
    }
    tell(
        report,
        &format!("main's {damaged} layers cannot be read"),
        &well,
        &beside,
    );
    Ok(())
}

/// Overwrites the middle of each layer in the newer half and returns their number. `dev`
/// shares the older layers, which are from before the branch point.
fn damage_layers(dir: &Path) -> Result<usize> {
    let mut names: Vec<_> = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "layer"))
        .collect();
    names.sort();
    let own = names.split_off(names.len() / 2);
    for path in &own {
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes / 8))?;
        file.write_all(&vec![0xa5; bytes as usize * 3 / 4])?;
    }
    Ok(own.len())
}

fn store_away(args: &Args, report: &mut Report) -> Result<()> {
    let away = args.away;
    let s3 = S3Server::shared()?;
    let url = s3.place();
    let project = project(args, s3.env(), &["--object-store", &url])?;
    let login = project.login_to("dev")?;
    let before = rate(&load(args, args.seconds.max(30)), &login)?;
    let pid = s3.pid().context("the S3 server does not run")?;
    signal(pid, rustix::process::Signal::STOP)?;
    let during = rate(&load(args, away), &login);
    signal(pid, rustix::process::Signal::CONT)?;
    tell(
        report,
        &format!("the store does not answer for {away} s"),
        &[before],
        &[during?],
    );
    // Everything works again afterwards.
    let begin = Instant::now();
    wait_until("a branch to be made", Duration::from_secs(120), || {
        Ok(project
            .try_xylem(&["branch", "create", "after"])?
            .status
            .success())
    })?;
    report.note(format!(
        "{:<52} {:>9.1}",
        "then the first branch could be made after, s",
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn signal(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("not a pid")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}
