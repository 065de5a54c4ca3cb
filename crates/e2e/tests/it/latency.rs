//! A compute whose page server is far away. Commits do not wait for each other, and a
//! statement that creates, renames or drops files does not stop others.

use anyhow::{Context, Result, ensure};
use mysql::Conn;
use mysql::prelude::Queryable;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use xylem_e2e::{Project, free_ports, rounds};

/// Tests of this file take turns, because they share [`LONG`].
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

const ROUND_TRIP: Duration = Duration::from_millis(200);

/// Whether the paths are long. A start reads so many pages one by one that it is not.
static LONG: AtomicBool = AtomicBool::new(false);

/// A path to a server of this machine on which every byte takes half of [`ROUND_TRIP`]
/// while [`LONG`] is set.
struct FarAway {
    port: u16,
}

impl FarAway {
    fn new(server: u16) -> Result<FarAway> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        // The threads end with their connections, the listener with the process.
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else {
                    continue;
                };
                let _ = connect(near, far);
            }
        });
        Ok(FarAway { port })
    }
}

fn connect(near: TcpStream, far: TcpStream) -> Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    delay(near.try_clone()?, far.try_clone()?);
    delay(far, near);
    Ok(())
}

fn delay(mut from: TcpStream, mut to: TcpStream) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let time = match LONG.load(Ordering::Relaxed) {
                true => ROUND_TRIP / 2,
                false => Duration::ZERO,
            };
            if sender
                .send((Instant::now() + time, buffer[..n].to_vec()))
                .is_err()
            {
                break;
            }
        }
    });
    thread::spawn(move || {
        while let Ok((at, bytes)) = receiver.recv() {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// A project whose compute reaches the server through [`FarAway`].
fn far_project() -> Result<Project> {
    let ports = free_ports(3)?;
    let far = FarAway::new(ports[0])?;
    let project = Project::new()?;
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>();
    project.xylem(&[
        "up",
        "--detach",
        "--grpc-port",
        &ports[0],
        "--http-port",
        &ports[1],
        "--mysql-port",
        &ports[2],
        "--buffer-pool",
        "64MiB",
        "--",
        "--innodb-page-server-socket=",
        &format!("--innodb-page-server-port={}", far.port),
    ])?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b INT)")?;
    Ok(project)
}

/// Commits of `clients` connections within `time`.
fn commits(project: &Project, clients: u32, time: Duration) -> Result<u32> {
    let workers: Vec<_> = (0..clients)
        .map(|client| {
            let mut conn = rounds::connect(project)?;
            conn.query_drop(format!("REPLACE INTO d.t VALUES ({client}, 0)"))?;
            Ok((client, conn))
        })
        .collect::<Result<_>>()?;
    let until = Instant::now() + time;
    let workers: Vec<_> = workers
        .into_iter()
        .map(|(client, conn)| thread::spawn(move || commit_until(client, conn, until)))
        .collect();
    let mut sum = 0;
    for worker in workers {
        sum += worker
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    Ok(sum)
}

fn commit_until(client: u32, mut conn: Conn, until: Instant) -> Result<u32> {
    let mut count = 0;
    while Instant::now() < until {
        conn.query_drop(format!("UPDATE d.t SET b = b + 1 WHERE a = {client}"))?;
        count += 1;
    }
    Ok(count)
}

#[test]
fn commits_of_several_clients_are_on_their_way_at_a_time() -> Result<()> {
    let _alone = ALONE.lock();
    let project = far_project()?;
    let time = 20 * ROUND_TRIP;
    LONG.store(true, Ordering::Relaxed);
    let one = commits(&project, 1, time)?;
    let eight = commits(&project, 8, time)?;
    LONG.store(false, Ordering::Relaxed);
    ensure!(one >= 10, "{one} commits of one client in {time:?}");
    // If each waited until the one before is durable, it would be about 4.
    ensure!(
        eight >= 6 * one,
        "{eight} commits of eight clients, {one} of one"
    );
    let counted = project.sql("SELECT SUM(b) FROM d.t")?;
    project.lose_compute()?;
    assert_eq!(project.sql("SELECT SUM(b) FROM d.t")?, counted);
    Ok(())
}

/// Commits that wait for nothing (`innodb_flush_log_at_trx_commit=2`), until `stop`;
/// returns the longest time that one took.
fn longest_commit(mut conn: Conn, stop: &AtomicBool) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        conn.query_drop("UPDATE d.t SET b = b + 1 WHERE a = 1")?;
        longest = longest.max(started.elapsed());
    }
    Ok(longest)
}

#[test]
fn operations_on_files_do_not_stop_writers() -> Result<()> {
    let _alone = ALONE.lock();
    let project = far_project()?;
    project.sql(
        "INSERT INTO d.t VALUES (1, 0); CREATE TABLE d.x (a INT PRIMARY KEY); \
         INSERT INTO d.x VALUES (1); SET GLOBAL innodb_flush_log_at_trx_commit = 2",
    )?;
    let writer = rounds::connect(&project)?;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || longest_commit(writer, &stop))
    };
    LONG.store(true, Ordering::Relaxed);
    let files = project.sql(
        "RENAME TABLE d.x TO d.y; TRUNCATE TABLE d.y; INSERT INTO d.y VALUES (2); \
         RENAME TABLE d.y TO d.z; CREATE TABLE d.x (a INT PRIMARY KEY); DROP TABLE d.x",
    );
    stop.store(true, Ordering::Relaxed);
    LONG.store(false, Ordering::Relaxed);
    let longest = writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    files.context("operations on files")?;
    // One that waits for an operation waits for a round trip.
    ensure!(longest < ROUND_TRIP * 9 / 10, "a commit took {longest:?}");
    // What was acknowledged is there, under its last name.
    project.lose_compute()?;
    assert_eq!(
        project.sql("SELECT a FROM d.z; SHOW TABLES IN d")?,
        "2\nt\nz\n"
    );
    Ok(())
}
