//! Clients of the gateway that ask for compressed packets.

use crate::gateway::{Gateway, become_another_user, refused, said};
use crate::sleep::Sleepers;
use anyhow::{Context, Result, bail, ensure};
use mysql::prelude::Queryable;
use mysql::{Compression, Conn, LocalInfileHandler, OptsBuilder};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;
use xylem_e2e::raw_client::RawClient;

/// The time after which the gateway knows the account of a new session.
const KNOWN: Duration = Duration::from_millis(1500);

/// A way to a port, which counts the bytes that go there and back.
struct Counting {
    port: u16,
    there: Arc<AtomicU64>,
    back: Arc<AtomicU64>,
}

impl Counting {
    fn to(port: u16) -> Result<Counting> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let counting = Counting {
            port: listener.local_addr()?.port(),
            there: Arc::default(),
            back: Arc::default(),
        };
        let (there, back) = (Arc::clone(&counting.there), Arc::clone(&counting.back));
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", port)))
                else {
                    return;
                };
                for (from, to, count) in [(&client, &server, &there), (&server, &client, &back)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else {
                        return;
                    };
                    let count = Arc::clone(count);
                    std::thread::spawn(move || copy(from, to, &count));
                }
            }
        });
        Ok(counting)
    }

    /// The bytes there and back since the last call.
    fn take(&self) -> (u64, u64) {
        (self.there.swap(0, SeqCst), self.back.swap(0, SeqCst))
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(got @ 1..) = from.read(&mut buffer) {
        count.fetch_add(got as u64, SeqCst);
        if to.write_all(&buffer[..got]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

fn compressed(options: OptsBuilder) -> OptsBuilder {
    options.compress(Some(Compression::default()))
}

/// A compressed connection of the account `app`.
fn connect(port: u16) -> Result<Conn> {
    let options = OptsBuilder::new()
        .ip_or_hostname(Some("127.0.0.1"))
        .tcp_port(port)
        .prefer_socket(false)
        .user(Some("app"))
        .pass(Some("pw"))
        .db_name(Some("shop"));
    Ok(Conn::new(compressed(options))?)
}

#[test]
fn a_client_that_asks_for_compression_costs_few_bytes() -> Result<()> {
    let gateway = Gateway::start()?;
    let counting = Counting::to(gateway.port)?;
    let port = format!("-P{}", counting.port);
    let statement = format!(
        "SELECT REPEAT('compressed ', 100000), LENGTH('{}')",
        "x".repeat(100_000)
    );
    let mut answers = Vec::new();
    let mut bytes = Vec::new();
    for compress in ["--skip-compress", "--compress"] {
        let args = ["-uapp", "-ppw", compress, &port, "-e", &statement];
        let out = gateway.client(&args)?;
        ensure!(out.status.success(), "{}", said(&out));
        answers.push(said(&out));
        bytes.push(counting.take());
    }
    ensure!(answers[0].len() > 1_100_000, "{} bytes", answers[0].len());
    ensure!(answers[0] == answers[1], "the answers differ");
    let [(there, back), (there_compressed, back_compressed)] = bytes[..] else {
        bail!("not two")
    };
    println!(
        "1.1 MB of text: {back} bytes, compressed {back_compressed}; \
         a statement of 100 KB: {there} bytes, compressed {there_compressed}"
    );
    ensure!(back > 1_100_000 && there > 100_000, "{bytes:?}");
    ensure!(
        back_compressed < 20_000 && there_compressed < 5_000,
        "{bytes:?}"
    );
    // The compute knows nothing of it.
    let status = "SHOW STATUS LIKE 'Compression'";
    let out = gateway.client(&["-uapp", "-ppw", "--compress", "-e", status])?;
    ensure!(said(&out) == "Compression\tOFF", "{}", said(&out));
    Ok(())
}

#[test]
fn the_whole_protocol_passes_compressed() -> Result<()> {
    let gateway = Gateway::start()?;
    gateway
        .project
        .sql("SET GLOBAL max_allowed_packet = 67108864")?;
    let mut conn = Conn::new(compressed(gateway.options("app", "shop")))?;
    // Packets beyond 16 MiB in both directions, as text and as a prepared statement; and
    // those that fit into a packet, but not with its header into a compressed one.
    for bytes in [20_000_000, 0xff_ffff - 10, 0xff_ffff - 11, 0xff_ffff - 12] {
        let large = "x".repeat(bytes);
        let back: Option<String> = conn
            .query_first(format!("SELECT '{large}'"))
            .with_context(|| format!("a text of {bytes} bytes"))?;
        ensure!(back.as_ref() == Some(&large), "{bytes}");
        let back: Option<String> = conn
            .exec_first("SELECT ?", (&large,))
            .with_context(|| format!("a parameter of {bytes} bytes"))?;
        ensure!(back == Some(large), "{bytes}");
    }
    // What gets no shorter.
    let mut random = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    })
    .take(300_000)
    .collect();
    let back: Option<Vec<u8>> = conn.exec_first("SELECT ?", (&noise,))?;
    ensure!(back == Some(noise));
    // Several statements at once.
    for turn in 0..100 {
        let mut results = conn.query_iter("SELECT 1; SELECT REPEAT('two', 100); DO 3")?;
        let mut sets = 0;
        while let Some(set) = results.iter() {
            sets += 1;
            set.collect::<Result<Vec<mysql::Row>, _>>()
                .with_context(|| format!("result {sets} of turn {turn}"))?;
        }
        drop(results);
        assert_eq!(sets, 3);
    }
    // A file of the client, in more packets than there are numbers; then one behind an
    // answer, so that its packets have other numbers than the compute's.
    conn.query_drop("CREATE TABLE t (a INT PRIMARY KEY)")?;
    let mut first = 0;
    conn.set_local_infile_handler(Some(LocalInfileHandler::new(move |_, stream| {
        for row in first..first + 200_000 {
            writeln!(stream, "{row}")?;
        }
        first += 200_000;
        Ok(())
    })));
    let load = "LOAD DATA LOCAL INFILE 'file' INTO TABLE t";
    conn.query_drop(load).context("a file")?;
    conn.query_drop(format!("SELECT a FROM t LIMIT 20; {load}"))
        .context("a file behind an answer")?;
    let rows: Option<u64> = conn.query_first("SELECT COUNT(*) FROM t")?;
    assert_eq!(rows, Some(400_000));
    let sum: u64 = conn
        .query_iter("SELECT a FROM t")?
        .map(|row| row.map(mysql::from_row::<u64>))
        .sum::<Result<u64, _>>()?;
    assert_eq!(sum, 399_999 * 400_000 / 2);
    become_another_user(&gateway, &mut conn)?;
    let wrong = conn.query_drop("SELECT no_such_column");
    ensure!(matches!(wrong, Err(mysql::Error::MySqlError(error)) if error.code == 1054));
    Ok(())
}

#[test]
fn mariadbs_own_client_loads_files_compressed_and_with_tls() -> Result<()> {
    let gateway = Gateway::start()?;
    let file = gateway.project.dir().join("rows");
    let rows: Vec<String> = (0..300_000).map(|row| format!("{row}\n")).collect();
    std::fs::write(&file, rows.concat())?;
    let load = format!(
        "SELECT 1; CREATE TABLE shop.f (a INT PRIMARY KEY);
         LOAD DATA LOCAL INFILE '{}' INTO TABLE shop.f; SELECT COUNT(*), SUM(a) FROM shop.f",
        file.display()
    );
    let app = ["-uapp", "-ppw", "--compress", "--local-infile=1"];
    let out = gateway.client(&[&app[..], &["-e", &load]].concat())?;
    ensure!(said(&out) == "1\n300000\t44999850000", "{}", said(&out));
    // In one command, so that the file follows an answer.
    let one = format!(
        "DELIMITER //\nSELECT a FROM shop.f LIMIT 10; TRUNCATE shop.f; \
         LOAD DATA LOCAL INFILE '{}' INTO TABLE shop.f; SELECT COUNT(*) FROM shop.f//",
        file.display()
    );
    let script = gateway.project.dir().join("script");
    std::fs::write(&script, one)?;
    let source = format!("source {}", script.display());
    let out = gateway.client(&[&app[..], &["-e", &source]].concat())?;
    ensure!(said(&out).ends_with("\n300000"), "{}", said(&out));

    let ca = gateway.project.authority().context("no authority")?;
    let ca = format!("--ssl-ca={}", ca.display());
    let secure = ["--ssl", &ca, "--ssl-verify-server-cert"];
    let counting = Counting::to(gateway.port)?;
    let port = format!("-P{}", counting.port);
    let select = ["-e", "SHOW STATUS LIKE 'Ssl_cipher'; SELECT a FROM shop.f"];
    let mut bytes = Vec::new();
    for compress in [&[][..], &["--compress"]] {
        let args = [&secure[..], &["-uapp", "-ppw", &port], compress, &select];
        let out = gateway.client(&args.concat())?;
        ensure!(said(&out).ends_with("\n299999"), "{}", said(&out));
        bytes.push(counting.take().1);
    }
    println!(
        "300,000 numbers by TLS: {} bytes, compressed {}",
        bytes[0], bytes[1]
    );
    ensure!(bytes[1] * 2 < bytes[0], "{bytes:?}");
    Ok(())
}

#[test]
fn a_login_that_fails_is_not_compressed() -> Result<()> {
    let gateway = Gateway::start()?;
    for (user, password, wanted) in [("app", "wrong", 1045), ("app@nope", "pw", 1049)] {
        let options = gateway.options(user, "").pass(Some(password));
        let (code, _) = refused(Conn::new(compressed(options)).map_err(Into::into))?;
        assert_eq!(code, wanted);
        let (user, password) = (format!("-u{user}"), format!("-p{password}"));
        let out = gateway.client(&[&user, &password, "--compress", "-e", "SELECT 1"])?;
        ensure!(
            said(&out).contains(&format!("ERROR {wanted} ")),
            "{}",
            said(&out)
        );
    }
    Ok(())
}

#[test]
fn a_compressed_packet_that_is_damaged_ends_its_connection_only() -> Result<()> {
    const COMPRESS: u32 = 1 << 5;
    let sleepers = Sleepers::after("0s")?;
    let ping = [1, 0, 0, 0, 0x0e];
    let mut other = connect(sleepers.port)?;
    for (bytes, is_right) in [
        (&[5, 0, 0, 0, 0, 0, 0][..], true),
        // The number of another one, and zlib data that are none.
        (&[5, 0, 0, 1, 0, 0, 0], false),
        (&[5, 0, 0, 0, 5, 0, 0], false),
    ] {
        let raw = RawClient::connect_with(sleepers.port, "raw", "shop", COMPRESS)?;
        let mut stream = raw.into_stream();
        stream.write_all(&[bytes, &ping].concat())?;
        let mut answer = [0; 7];
        let got = stream.read_exact(&mut answer);
        match is_right {
            true => assert_eq!(answer, [11, 0, 0, 1, 0, 0, 0]),
            false => ensure!(got.is_err(), "{bytes:?}: {answer:?}"),
        }
    }
    // One who claims 16 MiB is in nobody's way.
    let raw = RawClient::connect_with(sleepers.port, "raw", "shop", COMPRESS)?;
    let mut idle = raw.into_stream();
    idle.write_all(&[0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0x78])?;
    let one: Option<u8> = other.query_first("SELECT 1")?;
    assert_eq!(one, Some(1));
    Ok(())
}

#[test]
fn a_compressed_session_survives_the_sleep_of_its_compute() -> Result<()> {
    let sleepers = Sleepers::after("1s")?;
    let mut conn = connect(sleepers.port)?;
    conn.query_drop("SET time_zone = '+03:00'")?;
    let select = conn.prep("SELECT CONCAT(@@time_zone, REPEAT(?, 100))")?;
    sleepers.wait_asleep("main")?;
    conn.ping()?;
    ensure!(sleepers.is_asleep("main"), "a ping has woken it");
    let unused = conn.prep("SELECT 1")?;
    sleepers.wait_asleep("main")?;
    conn.close(unused)?;
    let zone: Option<String> = conn.exec_first(&select, ("x",))?;
    assert_eq!(zone, Some(format!("+03:00{}", "x".repeat(100))));
    Ok(())
}

#[test]
fn a_compressed_client_survives_the_death_of_its_compute() -> Result<()> {
    let sleepers = Sleepers::after("0s")?;
    let (mut idle, mut busy) = (connect(sleepers.port)?, connect(sleepers.port)?);
    idle.query_drop("SET time_zone = '+03:00'")?;
    std::thread::sleep(KNOWN);
    std::thread::scope(|scope| -> Result<()> {
        let waiting = scope.spawn(move || -> Result<Conn> {
            busy.query_drop("BEGIN")?;
            match busy.query_drop("SELECT SLEEP(60)") {
                Err(mysql::Error::MySqlError(error)) => assert_eq!(error.code, 1213),
                other => bail!("it was not lost: {other:?}"),
            }
            Ok(busy)
        });
        std::thread::sleep(Duration::from_millis(700));
        sleepers.kill("main")?;
        let Ok(done) = waiting.join() else {
            bail!("the client's thread has panicked")
        };
        let mut busy = done.with_context(|| sleepers.log())?;
        let one: Option<u8> = busy.query_first("SELECT 1")?;
        assert_eq!(one, Some(1));
        Ok(())
    })?;
    let zone: Option<String> = idle.query_first("SELECT @@time_zone")?;
    assert_eq!(zone.as_deref(), Some("+03:00"));
    // A session that cannot come back has its connection closed.
    idle.query_drop("SET @a = 1")?;
    sleepers.kill("main")?;
    match idle.query_drop("SELECT 1") {
        Err(mysql::Error::MySqlError(error)) => bail!("{error}"),
        Err(_) => Ok(()),
        Ok(()) => bail!("a session has lost its variables without a word"),
    }
}
