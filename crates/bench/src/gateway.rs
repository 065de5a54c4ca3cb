//! The gateway: what it costs beside its compute's own port, how long sleeping branches take
//! to answer, and what an idle client takes of its memory.
//!
//! Clients reach both over TCP, so that the gateway is the only difference.

use crate::Args;
use crate::copier::Copier;
use crate::report::{Figure, Report, Who};
use crate::stats::{median, order, quantile};
use crate::sysbench;
use crate::system::{System, pid_in};
use anyhow::{Context, Result};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xylem_e2e::process::Resources;
use xylem_e2e::sysbench::{Login, Port};
use xylem_e2e::{Project, wait_until};
use xylem_oracle::server::Install;

const SCRIPTS: [&str; 2] = ["oltp_point_select", "oltp_read_write"];
const THREADS: [u32; 3] = [1, 16, 64];
/// Statements of one client in a turn, and those before them, which are not measured.
const STATEMENTS: u32 = 3_000;
const WARM_UP: u32 = 200;
/// Clients that do nothing.
const IDLE: u32 = 500;
/// Branches that sleep and wake, each in turn.
const BRANCHES: u32 = 8;
/// The time without use after which these sleep: longer than a round takes, so that none of
/// them ends while another one's wake is measured.
const SUSPEND_AFTER: &str = "6s";
/// The buffer pool of computes that are only started, as in part `start`.
const START_POOL: &str = "256MiB";
/// Starts of stock MariaDB for each wake of all branches.
const STOCK_STARTS: u32 = 2;
/// How long a branch may take to fall asleep.
const SLEEP_LIMIT: Duration = Duration::from_secs(60);

/// Measures everything.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let lab = Lab::start(&args.pool, &[])?;
    lab.statements(args, report)?;
    lab.throughput(args, report)?;
    drop(lab);
    let lab = Lab::start(START_POOL, &["--suspend-after", SUSPEND_AFTER])?;
    lab.idle_clients(report)?;
    lab.wakes(args, report)
}

/// A project with a gateway.
struct Lab {
    project: Project,
    login: Login,
    /// The compute's own port.
    direct: u16,
    /// The gateway's.
    gateway: u16,
    /// Sysbench's options for TLS.
    tls: TempDir,
}

impl Lab {
    fn start(pool: &str, up_args: &[&str]) -> Result<Lab> {
        let project = Project::with(Vec::new(), up_args)?.with_gateway();
        project.up_in_place(pool)?;
        let gateway = project.json(&["status"])?["gateway"]["port"].as_u64();
        let direct = project.compute()?["port"].as_u64();
        Ok(Lab {
            login: project.login()?,
            direct: direct.context("the compute has no port")?.try_into()?,
            gateway: gateway.context("there is no gateway")?.try_into()?,
            tls: tls_files(project.dir())?,
            project,
        })
    }

    /// Connects to a port of this machine.
    fn connect(&self, port: u16, user: &str) -> Result<Conn> {
        let options = OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(port)
            .prefer_socket(false)
            .user(Some(user))
            .pass(Some(&self.login.password));
        Ok(Conn::new(options)?)
    }

    /// A statement of one client: at the compute, through the gateway, and through a program
    /// that only copies bytes.
    fn statements(&self, args: &Args, report: &mut Report) -> Result<()> {
        let copier = Copier::start(self.direct)?;
        let ports = [self.direct, self.gateway, copier.port()];
        let times = turns(args.turns, ports.len(), |at| {
            let mut connection = self.connect(ports[at], &self.login.user)?;
            latency_us(&mut connection)
        })?;
        let [direct, gateway, copied] = &times[..] else {
            unreachable!("three ports were measured");
        };
        report.figure(
            Figure::new("gateway", "SELECT 1, one client", "us")
                .side(Who::Stock, direct.clone())
                .side(Who::Xylem, gateway.clone())
                .limit("through a TCP copier", median(copied))
                .remark("stock: the compute's own port"),
        );
        let added = |through: &[f64]| median(through) - median(direct);
        report.figure(
            Figure::new("gateway", "added to a statement", "us")
                .side(Who::Xylem, vec![added(gateway)])
                .limit("a TCP copier adds", added(copied)),
        );
        Ok(())
    }

    /// sysbench at the compute, through the gateway, through the gateway with TLS, and through
    /// a program that only copies bytes: where all of them share the processors, that is about
    /// the most that a gateway can reach.
    fn throughput(&self, args: &Args, report: &mut Report) -> Result<()> {
        let load = args.load(4, args.seconds);
        self.project.sql("CREATE DATABASE sbtest")?;
        load.prepare(&self.login)?;
        let copier = Copier::start(self.direct)?;
        let port = |number, tls: Option<&TempDir>| Port {
            number,
            tls: tls.map(|dir| dir.path().to_owned()),
        };
        let ports = [
            port(self.direct, None),
            port(self.gateway, None),
            port(self.gateway, Some(&self.tls)),
            port(copier.port(), None),
        ];
        for script in SCRIPTS {
            let name = script.trim_start_matches("oltp_");
            if !args.scripts.is_empty() && !args.scripts.iter().any(|wanted| wanted == name) {
                continue;
            }
            for threads in args.threads(&THREADS) {
                let load = args.load(threads, args.seconds);
                let rates = turns(args.turns, ports.len(), |at| {
                    sysbench::per_second(&load.run_at(&ports[at], &self.login, script)?)
                })?;
                let plural = if threads == 1 { "" } else { "s" };
                for (what, rates_through) in [("", &rates[1]), (", TLS", &rates[2])] {
                    let name = format!("{name}, {threads} thread{plural}, gateway{what}");
                    report.figure(
                        Figure::new("gateway", name, "tx/s")
                            .higher()
                            .side(Who::Stock, rates[0].clone())
                            .side(Who::Xylem, rates_through.clone())
                            .limit("through a TCP copier", median(&rates[3]))
                            .remark("stock: the compute's own port"),
                    );
                }
            }
        }
        Ok(())
    }

    /// The memory of a client that does nothing, while its compute runs and while it sleeps.
    fn idle_clients(&self, report: &mut Report) -> Result<()> {
        self.branch("idle")?;
        let user = format!("{}@idle", self.login.user);
        let gateway = pid_in(&self.project.json(&["status"])?["gateway"]["pid"])?;
        let mut first = self.connect(self.gateway, &user)?;
        // With 100 for others.
        first.query_drop(format!("SET GLOBAL max_connections = {}", IDLE + 100))?;
        let compute = pid_in(&self.project.compute_named("idle")?["pid"])?;
        let memory = |pid| Ok::<_, anyhow::Error>(Resources::of(pid)?.memory_kib as f64);
        let (gateway_before, compute_before) = (memory(gateway)?, memory(compute)?);
        let mut clients = (0..IDLE)
            .map(|_| {
                let mut client = self.connect(self.gateway, &user)?;
                client.query_drop("SELECT 1")?;
                Ok(client)
            })
            .collect::<Result<Vec<_>>>()?;
        let each = |before: f64, now: f64| vec![(now - before) / f64::from(IDLE)];
        report.figure(
            Figure::new("gateway", "memory of an idle client", "KiB")
                .side(Who::Stock, each(compute_before, memory(compute)?))
                .side(Who::Xylem, each(gateway_before, memory(gateway)?))
                .remark("stock: in the compute, xylem: in the gateway"),
        );
        self.wait_asleep("idle")?;
        report.figure(
            Figure::new("gateway", "the same while its compute sleeps", "KiB")
                .side(Who::Xylem, each(gateway_before, memory(gateway)?)),
        );
        clients.iter_mut().try_for_each(|client| {
            let one: Option<u8> = client.query_first("SELECT 1")?;
            one.context("a client has no answer").map(drop)
        })
    }

    /// From the connection of a client to its first answer, on branches that sleep.
    fn wakes(&self, args: &Args, report: &mut Report) -> Result<()> {
        let names: Vec<String> = (0..BRANCHES).map(|n| format!("b{n}")).collect();
        names.iter().try_for_each(|name| self.branch(name))?;
        let mut stock = System::stock(Install::from_env()?, START_POOL, &[])?;
        let (mut wakes, mut starts) = (Vec::new(), Vec::new());
        // The first round starts computes that have never run.
        for round in 0..=args.wakes.div_ceil(BRANCHES) {
            for name in &names {
                let begun = Instant::now();
                let user = format!("{}@{name}", self.login.user);
                let mut client = self.connect(self.gateway, &user)?;
                client.query_drop("SELECT 1")?;
                if round > 0 {
                    wakes.push(begun.elapsed().as_secs_f64() * 1e3);
                }
            }
            for _ in 0..STOCK_STARTS {
                stock.end()?;
                let begun = Instant::now();
                stock.start_compute(START_POOL)?;
                stock.connect()?.query_drop("SELECT 1")?;
                starts.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            names.iter().try_for_each(|name| self.wait_asleep(name))?;
        }
        for (name, part) in [("median", 0.5), ("99 of 100", 0.99)] {
            report.figure(
                Figure::new(
                    "gateway",
                    format!("sleeping branch to first answer, {name}"),
                    "ms",
                )
                .side(Who::Stock, vec![quantile(&starts, part)])
                .side(Who::Xylem, vec![quantile(&wakes, part)])
                .remark(format!(
                    "{} wakes; stock: {} starts until the first answer",
                    wakes.len(),
                    starts.len()
                )),
            );
        }
        Ok(())
    }

    fn branch(&self, name: &str) -> Result<()> {
        self.project.xylem(&["branch", "create", name]).map(drop)
    }

    fn wait_asleep(&self, branch: &str) -> Result<()> {
        wait_until(&format!("branch {branch} to sleep"), SLEEP_LIMIT, || {
            Ok(self.project.compute_named(branch)?["state"] == "asleep")
        })
    }
}

/// Measures `count` cases in several turns, in an alternating order. Returns the values of
/// each, turn by turn.
fn turns(
    turns: u32,
    count: usize,
    mut measure: impl FnMut(usize) -> Result<f64>,
) -> Result<Vec<Vec<f64>>> {
    let mut all = vec![Vec::new(); count];
    for turn in 0..turns {
        for at in order(turn, count) {
            all[at].push(measure(at)?);
        }
    }
    Ok(all)
}

/// The median time of a statement.
fn latency_us(connection: &mut Conn) -> Result<f64> {
    let mut times = Vec::new();
    for n in 0..WARM_UP + STATEMENTS {
        let begun = Instant::now();
        connection.query_drop("SELECT 1")?;
        if n >= WARM_UP {
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(median(&times))
}

/// The files that sysbench needs to speak TLS: the project's authority, and a certificate,
/// which the gateway does not ask for.
fn tls_files(project: &Path) -> Result<TempDir> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700))?;
    let own = project.join("tls");
    for (from, to) in [
        ("ca.pem", "cacert.pem"),
        ("client.pem", "client-cert.pem"),
        ("client.pem", "client-key.pem"),
    ] {
        let from: PathBuf = own.join(from);
        fs::copy(&from, dir.path().join(to))
            .with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(dir)
}
