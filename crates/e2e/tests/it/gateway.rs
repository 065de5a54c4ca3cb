//! The gateway with MariaDB's own client and with another one: branches by name, sleeping
//! computes, every plugin of authentication, and everything that the protocol has.

use crate::faults::Stalled;
use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use mysql::{ChangeUserOpts, Conn, LocalInfileHandler, OptsBuilder};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use xylem_e2e::{Project, wait_until};

/// Gives a project the branches `main` and `dev`, whose compute does not run, and an account
/// on both.
pub(crate) fn furnish(project: &Project) -> Result<()> {
    project.sql(
        "CREATE USER app IDENTIFIED BY 'pw'; GRANT ALL ON *.* TO app;
         CREATE DATABASE shop; CREATE TABLE shop.here (name TEXT);
         INSERT INTO shop.here VALUES ('main')",
    )?;
    project.xylem(&["branch", "create", "dev"])?;
    project.sql_on("dev", "UPDATE shop.here SET name = 'dev'")?;
    project.xylem(&["compute", "stop", "dev"])?;
    Ok(())
}

/// A gateway of a project, with the branches `main` and `dev` and an account on both.
pub(crate) struct Gateway {
    pub project: Project,
    process: Child,
    pub port: u16,
}

impl Gateway {
    pub fn start() -> Result<Gateway> {
        Gateway::with(&[])
    }

    fn with(args: &[&str]) -> Result<Gateway> {
        Gateway::listening("127.0.0.1:0", args)
    }

    fn listening(listen: &str, args: &[&str]) -> Result<Gateway> {
        let project = Project::up("16MiB")?;
        furnish(&project)?;
        let mut process = project
            .command(&[&["gateway", "--listen", listen], args].concat())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(project.dir().join("gateway.log"))?)
            .spawn()?;
        let mut said = String::new();
        let out = process.stdout.take().context("no output")?;
        BufReader::new(out).read_line(&mut said)?;
        let address = said.split_whitespace().nth(4).context("no address")?;
        let port = address.trim_end_matches('.').rsplit(':').next();
        let port = port.context("no port")?.parse();
        Ok(Gateway {
            port: port.with_context(|| said.clone())?,
            process,
            project,
        })
    }

    pub fn options(&self, user: &str, database: &str) -> OptsBuilder {
        OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(self.port)
            .prefer_socket(false)
            .user(Some(user))
            .pass(Some("pw"))
            .db_name(Some(database).filter(|name| !name.is_empty()))
    }

    fn connect(&self, user: &str, database: &str) -> Result<Conn> {
        Ok(Conn::new(self.options(user, database))?)
    }

    /// Runs MariaDB's client on the gateway.
    pub fn client(&self, args: &[&str]) -> Result<Output> {
        Ok(client(&self.project, self.port).args(args).output()?)
    }

    /// The branch's name, as its table says.
    fn branch_of(conn: &mut Conn) -> Result<String> {
        let name: Option<String> = conn.query_first("SELECT name FROM shop.here")?;
        name.context("the table is empty")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.project.dir().join("gateway.log")).unwrap_or_default()
    }
}

/// MariaDB's client on a port of this machine.
pub(crate) fn client(project: &Project, port: u16) -> Command {
    let prefix = project.home().join("mariadb/usr");
    let mut client = Command::new(prefix.join("bin/mariadb"));
    client
        .args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1"])
        .args(["--batch", "--skip-column-names", "--unbuffered"])
        .arg(format!("--port={port}"))
        .env("LD_LIBRARY_PATH", prefix.join("lib/x86_64-linux-gnu"))
        .stdin(Stdio::null());
    client
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn said(out: &Output) -> String {
    let text = [&out.stdout[..], &out.stderr[..]].concat();
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// The number of the error.
pub(crate) fn refused(result: Result<Conn>) -> Result<(u16, String)> {
    let error = result.err().context("it was let in")?;
    match error.downcast_ref::<mysql::Error>() {
        Some(mysql::Error::MySqlError(error)) => Ok((error.code, error.message.clone())),
        _ => Err(error),
    }
}

#[test]
fn one_address_leads_to_every_branch() -> Result<()> {
    let gateway = Gateway::start()?;
    let branch = |user: &str, database: &str| -> Result<String> {
        Gateway::branch_of(&mut gateway.connect(user, database)?)
    };
    assert_eq!(branch("app", "")?, "main");
    assert_eq!(branch("app@dev", "")?, "dev");
    assert_eq!(branch("app", "shop@dev")?, "dev");
    assert_eq!(branch("app@main", "shop")?, "main");
    let attributes = HashMap::from([("xylem_branch".to_owned(), "dev".to_owned())]);
    let named = gateway
        .options("app", "shop")
        .connect_attrs(Some(attributes));
    assert_eq!(Gateway::branch_of(&mut Conn::new(named)?)?, "dev");
    // Neither the user nor the database has the branch in it.
    let mut conn = gateway.connect("app@dev", "shop@dev")?;
    let who: Option<(String, String)> = conn.query_first("SELECT USER(), DATABASE()")?;
    assert_eq!(who, Some(("app@127.0.0.1".to_owned(), "shop".to_owned())));

    let (code, message) = refused(gateway.connect("app@nope", ""))?;
    ensure!(code == 1049 && message.contains("dev, main"), "{message}");
    let (code, message) = refused(gateway.connect("app@dev", "shop@main"))?;
    ensure!(code == 1049 && message.contains("'dev'"), "{message}");
    // The compute decides about passwords.
    let wrong = gateway.options("app@dev", "").pass(Some("wrong"));
    let (code, message) = refused(Conn::new(wrong).map_err(Into::into))?;
    ensure!(
        code == 1045 && message.contains("'app'@'127.0.0.1'"),
        "{message}"
    );
    Ok(())
}

#[test]
fn many_clients_of_a_sleeping_branch_start_it_once() -> Result<()> {
    let gateway = Gateway::start()?;
    let epoch = || -> Result<u64> {
        let branch = gateway.project.branch("dev")?;
        branch["epoch"].as_u64().context("no epoch")
    };
    let before = epoch()?;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..64)
            .map(|_| scope.spawn(|| Gateway::branch_of(&mut gateway.connect("app@dev", "")?)))
            .collect();
        for client in clients {
            assert_eq!(client.join().expect("a client panicked")?, "dev");
        }
        anyhow::Ok(())
    })?;
    assert_eq!(epoch()?, before + 1);
    assert_eq!(gateway.log().matches("started a compute").count(), 1);

    // One that was killed is started for the next client.
    gateway.project.xylem(&["compute", "kill", "dev"])?;
    let mut conn = gateway.connect("app@dev", "")?;
    assert_eq!(Gateway::branch_of(&mut conn)?, "dev");
    assert_eq!(epoch()?, before + 2);
    Ok(())
}

#[test]
fn a_compute_that_does_not_start_is_an_error_at_once_and_harms_no_other() -> Result<()> {
    let gateway = Gateway::start()?;
    let dir = gateway.project.compute_named("dev")?["dir"].clone();
    let options = std::path::Path::new(dir.as_str().context("no dir")?).join("custom.cnf");
    std::fs::write(&options, "[mariadbd]\nno-such-option = 1\n")?;
    let (code, message) = refused(gateway.connect("app@dev", ""))?;
    ensure!(
        code == 1053 && message.contains("does not start"),
        "{code} {message}"
    );
    // The next ones are told the same, without another attempt each time.
    for _ in 0..20 {
        let again = refused(gateway.connect("app@dev", ""))?;
        ensure!(again.0 == code, "{again:?}");
    }
    let attempts = gateway.log().matches("does not start;").count();
    ensure!(attempts < 10, "{}", gateway.log());
    assert_eq!(
        Gateway::branch_of(&mut gateway.connect("app", "")?)?,
        "main"
    );
    std::fs::remove_file(&options)?;
    wait_until("another attempt", Duration::from_secs(20), || {
        Ok(gateway.connect("app@dev", "").is_ok())
    })?;
    ensure!(
        gateway.log().contains("does not start"),
        "{}",
        gateway.log()
    );
    Ok(())
}

/// The first byte of the answer to a login of `user` without a password.
fn first_answer(port: u16, user: &str) -> Result<u8> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let packet = || -> Result<Vec<u8>> {
        let mut head = [0; 4];
        (&stream).read_exact(&mut head)?;
        let mut payload = vec![0; usize::from(head[0]) | usize::from(head[1]) << 8];
        (&stream).read_exact(&mut payload)?;
        Ok(payload)
    };
    packet()?;
    // PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH; no packet is larger than 16 MiB; utf8mb4.
    let caps = 1_u32 << 9 | 1 << 15 | 1 << 19;
    let mut answer = [&caps.to_le_bytes()[..], &[0, 0, 0, 1, 45]].concat();
    answer.extend([0; 23]);
    answer.extend_from_slice(user.as_bytes());
    answer.extend([0, 0]);
    answer.extend_from_slice(b"mysql_native_password\0");
    let head = [u8::try_from(answer.len())?, 0, 0, 1];
    (&stream).write_all(&[&head[..], &answer].concat())?;
    packet()?.first().copied().context("an empty packet")
}

/// An address of this machine beyond loopback, if it has one.
pub(crate) fn other_address() -> Option<Ipv4Addr> {
    let names = xylem_tls::names::of_listeners([Ipv4Addr::UNSPECIFIED.into()]);
    let mut addresses = names
        .iter()
        .filter_map(|name| name.parse::<Ipv4Addr>().ok());
    addresses.find(|address| !address.is_loopback())
}

#[test]
fn one_host_leaves_room_for_others() -> Result<()> {
    let Some(address) = other_address() else {
        eprintln!("this machine has no address beyond loopback");
        return Ok(());
    };
    let args = ["--allow-plaintext", "--connections-per-host", "3"];
    let gateway = Gateway::listening("0.0.0.0:0", &args)?;
    let connect = |host: &str| {
        let options = gateway.options("app", "").ip_or_hostname(Some(host));
        Conn::new(options).map_err(anyhow::Error::from)
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connect(&address.to_string())?);
    }
    let (code, message) = refused(connect(&address.to_string()))?;
    ensure!(
        code == 1040 && message.contains(&format!("3 from {address}")),
        "{code} {message}"
    );
    // Others, and this one when it has closed one.
    connect("127.0.0.1")?.ping()?;
    drop(open.pop());
    wait_until("room", Duration::from_secs(10), || {
        Ok(connect(&address.to_string()).is_ok())
    })?;
    assert_eq!(gateway.log().matches("--connections-per-host").count(), 1);
    Ok(())
}

#[test]
fn every_plugin_of_authentication_passes_and_none_is_taken_for_granted() -> Result<()> {
    let gateway = Gateway::start()?;
    // The account of the gateway's own user must not open the door for others.
    gateway.project.sql(
        "INSTALL SONAME 'auth_ed25519';
         CREATE USER ed IDENTIFIED VIA ed25519 USING PASSWORD('pw');
         CREATE OR REPLACE USER root@'127.0.0.1' IDENTIFIED VIA unix_socket;
         CREATE USER twofold@'127.0.0.1' IDENTIFIED VIA mysql_native_password USING PASSWORD('pw') OR unix_socket",
    )?;
    for user in ["ed", "twofold"] {
        let out = gateway.client(&[&format!("-u{user}"), "-ppw", "-e", "SELECT 7"])?;
        ensure!(said(&out) == "7", "{user}: {}", said(&out));
        let out = gateway.client(&[&format!("-u{user}"), "-pwrong", "-e", "SELECT 7"])?;
        ensure!(
            said(&out).contains("Access denied"),
            "{user}: {}",
            said(&out)
        );
    }
    // An account without a password needs no challenge, and some clients cannot answer one. A
    // login without a password is no other's.
    gateway.project.sql(
        "CREATE USER open; CREATE USER either@'127.0.0.1' IDENTIFIED VIA unix_socket OR mysql_native_password USING PASSWORD('')",
    )?;
    let all = [
        ("open", "7"),
        ("either", "7"),
        ("app", "'app'@'127.0.0.1' (using password: NO)"),
        ("ed", "ERROR 1045"),
    ];
    for (user, wanted) in all {
        let out = gateway.client(&[&format!("-u{user}"), "-e", "SELECT 7"])?;
        ensure!(said(&out).contains(wanted), "{user}: {}", said(&out));
    }
    assert_eq!(first_answer(gateway.port, "open")?, 0, "a switch");
    assert_eq!(first_answer(gateway.port, "app")?, 0xff, "no error");
    for user in ["root", "xylem"] {
        let out = gateway.client(&[&format!("-u{user}"), "-e", "SELECT 7"])?;
        ensure!(!out.status.success(), "{user}: {}", said(&out));
    }
    // With TLS, packets have other numbers; and the certificate is the project's.
    let ca = gateway.project.authority().context("no authority")?;
    let ca = format!("--ssl-ca={}", ca.display());
    let secure = ["--ssl", &ca, "--ssl-verify-server-cert", "-ued", "-ppw"];
    let out = gateway.client(&[&secure[..], &["-e", "SELECT USER()"]].concat())?;
    ensure!(said(&out) == "ed@127.0.0.1", "{}", said(&out));
    Ok(())
}

#[test]
fn the_whole_protocol_passes() -> Result<()> {
    let gateway = Gateway::start()?;
    gateway
        .project
        .sql("SET GLOBAL max_allowed_packet = 67108864")?;
    let mut conn = gateway.connect("app", "shop")?;
    // Packets beyond 16 MiB in both directions, as text and as a prepared statement.
    let large = "x".repeat(20_000_000);
    let back: Option<String> = conn.query_first(format!("SELECT '{large}'"))?;
    ensure!(back.as_ref() == Some(&large));
    let back: Option<String> = conn.exec_first("SELECT ?", (&large,))?;
    ensure!(back == Some(large));
    // Several statements at once.
    let mut results = conn.query_iter("SELECT 1; SELECT 'two'; DO 3")?;
    let mut sets = 0;
    while let Some(set) = results.iter() {
        sets += 1;
        set.collect::<Result<Vec<mysql::Row>, _>>()?;
    }
    drop(results);
    assert_eq!(sets, 3);
    // A file of the client, in more packets than there are numbers.
    conn.query_drop("CREATE TABLE t (a INT PRIMARY KEY)")?;
    conn.set_local_infile_handler(Some(LocalInfileHandler::new(|_, stream| {
        for row in 0..200_000 {
            writeln!(stream, "{row}")?;
        }
        Ok(())
    })));
    conn.query_drop("LOAD DATA LOCAL INFILE 'file' INTO TABLE t")?;
    let rows: Option<u64> = conn.query_first("SELECT COUNT(*) FROM t")?;
    assert_eq!(rows, Some(200_000));
    become_another_user(&gateway, &mut conn)
}

/// Checks another user on the same connection, and that user without a session.
pub(crate) fn become_another_user(gateway: &Gateway, conn: &mut Conn) -> Result<()> {
    gateway
        .project
        .sql("CREATE USER other IDENTIFIED BY 'pw2'; GRANT ALL ON *.* TO other")?;
    let other = ChangeUserOpts::new()
        .with_user(Some("other@main".to_owned()))
        .with_pass(Some("pw2".to_owned()))
        .with_db_name(Some("shop".to_owned()));
    conn.change_user(other)?;
    let who: Option<String> = conn.query_first("SELECT CONCAT(USER(), DATABASE())")?;
    assert_eq!(who.as_deref(), Some("other@127.0.0.1shop"));
    conn.query_drop("SET @a = 1")?;
    conn.reset()?;
    let gone: Option<Option<u32>> = conn.query_first("SELECT @a")?;
    assert_eq!(gone, Some(None));
    Ok(())
}

#[test]
fn a_statement_is_killed_by_either_number() -> Result<()> {
    let gateway = Gateway::start()?;
    let mut killer = gateway.connect("app", "")?;
    for of_gateway in [true, false] {
        let mut sleeper = gateway.connect("app", "")?;
        let inner: Option<u32> = sleeper.query_first("SELECT CONNECTION_ID()")?;
        let number = match of_gateway {
            true => sleeper.connection_id(),
            false => inner.context("no number")?,
        };
        std::thread::scope(|scope| {
            let sleeping = scope.spawn(move || sleeper.query_drop("SELECT SLEEP(60)"));
            let sleeps = "SELECT COUNT(*) FROM information_schema.processlist \
                          WHERE info LIKE 'SELECT SLEEP%'";
            wait_until("a statement that sleeps", Duration::from_secs(10), || {
                Ok(killer.query_first::<u32, _>(sleeps)? == Some(1))
            })?;
            let began = Instant::now();
            killer.query_drop(format!("KILL QUERY {number}"))?;
            let _ = sleeping.join().expect("it panicked");
            ensure!(began.elapsed() < Duration::from_secs(30), "it went on");
            anyhow::Ok(())
        })?;
    }
    // A connection of another branch is none of this one's.
    let other = gateway.connect("app@dev", "")?;
    let unknown = killer.query_drop(format!("KILL {}", other.connection_id()));
    let error = unknown.err().context("it was killed")?.to_string();
    ensure!(error.contains("1094"), "{error}");
    Ok(())
}

#[test]
fn clients_beyond_the_limit_are_told_so_and_a_stop_lets_the_others_finish() -> Result<()> {
    let mut gateway = Gateway::with(&["--connections-max", "1"])?;
    let mut first = gateway.connect("app", "")?;
    let (code, _) = refused(gateway.connect("app", ""))?;
    assert_eq!(code, 1040);
    let pid = rustix::process::Pid::from_child(&gateway.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    wait_until("the listener to go", Duration::from_secs(10), || {
        Ok(std::net::TcpStream::connect(("127.0.0.1", gateway.port)).is_err())
    })?;
    assert_eq!(Gateway::branch_of(&mut first)?, "main");
    ensure!(gateway.process.try_wait()?.is_none());
    drop(first);
    wait_until("the end", Duration::from_secs(10), || {
        Ok(gateway
            .process
            .try_wait()?
            .is_some_and(|status| status.success()))
    })
}

/// The capabilities in the greeting of a server, and MariaDB's own.
fn offered(port: u16) -> Result<(u32, u32)> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    let mut bytes = [0; 200];
    let count = std::io::Read::read(&mut stream, &mut bytes)?;
    let version = bytes[5..count].iter().position(|&byte| byte == 0);
    let at = 5 + version.context("no version")? + 1 + 4 + 8 + 1;
    let [a, b, _, _, _, c, d] = *bytes[at..].first_chunk().context("too short")?;
    let more = bytes[at + 7 + 1 + 6..].first_chunk().context("too short")?;
    Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(*more)))
}

#[test]
fn a_client_is_offered_what_its_compute_has() -> Result<()> {
    const COMPRESS: u32 = 1 << 5;
    const SSL: u32 = 1 << 11;
    /// MySQL's `CLIENT_ZSTD_COMPRESSION_ALGORITHM`.
    const ZSTD: u32 = 1 << 26;
    const CACHE_METADATA: u32 = 1 << 4;
    let gateway = Gateway::start()?;
    let port = gateway.project.compute()?["port"].as_u64();
    let (compute, more) = offered(u16::try_from(port.context("no port")?)?)?;
    // Metadata that a client keeps are those of one compute.
    let wanted = (compute | SSL, more & !CACHE_METADATA);
    assert_eq!(offered(gateway.port)?, wanted);
    assert_eq!(wanted.0 & (COMPRESS | ZSTD), COMPRESS);
    Ok(())
}

#[test]
fn a_client_is_told_the_version_of_its_compute() -> Result<()> {
    let gateway = Gateway::start()?;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", gateway.port))?;
    let mut bytes = [0; 200];
    let count = std::io::Read::read(&mut stream, &mut bytes)?;
    let told = bytes[5..count].split(|&byte| byte == 0).next();
    let told = String::from_utf8_lossy(told.context("no version")?).into_owned();
    let version = gateway.project.sql("SELECT VERSION()")?;
    // The prefix is for old replicas; MariaDB tells it, too.
    assert_eq!(told, format!("5.5.5-{}", version.trim()));
    Ok(())
}

#[test]
fn strangers_that_do_not_speak_the_protocol_are_no_trouble() -> Result<()> {
    let gateway = Gateway::start()?;
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        &[4, 0, 0, 1, 0, 2, 0, 0],
        &[],
    ] {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", gateway.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // The gateway may have gone already.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        // It ends, with an error or without.
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        ensure!(!answer.is_empty(), "no greeting");
    }
    assert_eq!(
        Gateway::branch_of(&mut gateway.connect("app", "")?)?,
        "main"
    );
    Ok(())
}

#[test]
fn a_start_that_hangs_keeps_no_other_branch_from_starting() -> Result<()> {
    let gateway = Gateway::start()?;
    gateway.project.xylem(&["branch", "create", "other"])?;
    let file = gateway.project.dir().join("computes/dev/compute.json");
    std::thread::scope(|scope| {
        let hangs = scope.spawn(|| gateway.connect("app@dev", ""));
        let mut record = serde_json::Value::Null;
        wait_until(
            "the compute is being started",
            Duration::from_secs(20),
            || {
                let text = std::fs::read(&file).unwrap_or_default();
                record = serde_json::from_slice(&text).unwrap_or_default();
                Ok(record["phase"] == "starting")
            },
        )?;
        let stalled = Stalled::process(&record)?;
        let others = [
            gateway.connect("app@other", "").map(drop),
            gateway
                .project
                .xylem(&["branch", "create", "third"])
                .map(drop),
            gateway
                .project
                .xylem(&["compute", "stop", "other"])
                .map(drop),
        ];
        let hung = !hangs.is_finished();
        drop(stalled);
        for other in others {
            other?;
        }
        ensure!(hung, "the start was over before it was stopped");
        let mut conn = match hangs.join() {
            Ok(connected) => connected?,
            Err(_) => anyhow::bail!("a client's thread has panicked"),
        };
        assert_eq!(Gateway::branch_of(&mut conn)?, "dev");
        Ok(())
    })
}
