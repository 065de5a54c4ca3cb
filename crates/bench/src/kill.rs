//! SIGKILL under full write load: for Xylem of the page server, while the compute
//! continues; for stock MariaDB of mariadbd. Both are started again at once.

use crate::Args;
use crate::oltp;
use crate::pages;
use crate::report::{Figure, Report, Who};
use crate::system::{System, Systems, connect, metrics_of};
use anyhow::{Context, Result, anyhow};
use mysql::Conn;
use mysql::prelude::Queryable;
use std::process::Child;
use std::time::{Duration, Instant};
use xylem_e2e::Project;
use xylem_e2e::sysbench::{Load, Login};

const THREADS: u32 = 16;
const SCRIPT: &str = "oltp_write_only";
/// How long the load may continue after the kill, until it is ended.
const AFTER: u32 = 120;
/// A commit of a client of its own, which changes something each time.
const COMMIT: &str = "INSERT INTO sbtest.probe VALUES ()";

/// Milliseconds from the kill.
struct Answers {
    /// None for another build of Xylem: its protocol may be another than the client's
    /// that reads here.
    first_read: Option<f64>,
    first_commit: Option<f64>,
}

/// Measures all systems, turn by turn.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let mut systems = Systems::start(args.against(), &args.pool)?;
    let load = args.load(THREADS, args.kill_seconds + AFTER);
    oltp::prepare(&load, &mut systems)?;
    systems.each(|system| {
        let create = "CREATE TABLE sbtest.probe (id INT AUTO_INCREMENT PRIMARY KEY)";
        system.sql(create).map(|_| ())
    })?;
    systems
        .settle()?
        .into_iter()
        .for_each(|left| report.note(left));
    let answers = systems.turns(args.turns, |system| {
        let answers = kill(system, &load, args)?;
        if let Some(left) = system.settle()? {
            report.note(left);
        }
        Ok(answers)
    })?;
    type Value = fn(&Answers) -> Option<f64>;
    let figures: [(&str, Value); 2] = [
        ("first page read after a kill under load", |a| a.first_read),
        ("first commit after a kill under load", |a| a.first_commit),
    ];
    for (name, value) in figures {
        let sides = answers.iter().map(|(who, turns)| {
            let values: Vec<f64> = turns.iter().filter_map(value).collect();
            (*who, values)
        });
        let sides = sides.filter(|(_, values)| !values.is_empty()).collect();
        report.figure(Figure::new("kill", name, "ms").sides(sides));
    }
    Ok(())
}

fn kill(system: &mut System, load: &Load, args: &Args) -> Result<Answers> {
    let login = system.login()?;
    let child = load.start(&login, SCRIPT)?;
    std::thread::sleep(Duration::from_secs(args.kill_seconds.into()));
    let answers = match system.who {
        Who::Stock => kill_stock(system, &args.pool, &login),
        Who::Xylem | Who::Before => kill_server(system, &args.pool, &login),
    };
    end(child)?;
    answers
}

fn kill_stock(system: &mut System, pool: &str, login: &Login) -> Result<Answers> {
    let killed = Instant::now();
    system.kill()?;
    // Returns after the first answer.
    system.start(pool)?;
    let first_read = Some(ms_since(killed));
    let mut connection = connect(login)?;
    connection.query_drop(COMMIT)?;
    Ok(Answers {
        first_read,
        first_commit: Some(ms_since(killed)),
    })
}

fn kill_server(system: &mut System, pool: &str, login: &Login) -> Result<Answers> {
    let mut connection = connect(login)?;
    let project = system.project().context("not a project")?;
    let is_own = system.who == Who::Xylem;
    let reader = is_own.then(|| Reader::of(project)).transpose()?;
    let killed = Instant::now();
    system.kill()?;
    let answers = std::thread::scope(|scope| {
        let read = reader
            .as_ref()
            .map(|reader| scope.spawn(|| reader.read().map(|()| ms_since(killed))));
        let commit = scope.spawn(|| first_commit(&mut connection).map(|()| ms_since(killed)));
        system.start(pool)?;
        let panicked = |_| anyhow!("a client panicked");
        anyhow::Ok(Answers {
            first_read: read
                .map(|read| read.join().map_err(panicked))
                .transpose()?
                .transpose()?,
            first_commit: Some(commit.join().map_err(panicked)??),
        })
    });
    if let Some(reader) = reader {
        reader.client.shutdown();
    }
    answers
}

fn first_commit(connection: &mut Conn) -> Result<()> {
    Ok(connection.query_drop(COMMIT)?)
}

/// A client that reads a page at the newest LSN, for which the server has to ingest what
/// is in its WAL.
struct Reader {
    client: xylem_client::client::Client,
    page: (u32, u32),
    lsn: u64,
}

impl Reader {
    fn of(project: &Project) -> Result<Reader> {
        let (space, pages) = pages::tablespace(project)?;
        Ok(Reader {
            client: pages::connect(project)?,
            page: (space, pages / 2),
            lsn: metrics_of(project)?.sum("xylem_durable_lsn")? as u64,
        })
    }

    fn read(&self) -> Result<()> {
        let mut buf = vec![0; crate::limits::PAGE_BYTES];
        pages::read(&self.client, self.page, self.lsn, &mut buf)
    }
}

fn ms_since(moment: Instant) -> f64 {
    moment.elapsed().as_secs_f64() * 1e3
}

/// Ends a load that may have failed because of the kill.
fn end(mut child: Child) -> Result<()> {
    // It may have ended by itself, which is not an error here.
    let _ = child.kill();
    child.wait_with_output()?;
    Ok(())
}
