//! Computes that nobody uses sleep; their clients, which stay connected to the gateway, do
//! not notice.

use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder, Value};
use std::time::{Duration, Instant};
use xylem_e2e::{Project, wait_until};

/// The number of sleeps of the test with the trickle of queries.
const CYCLES: &str = "XYLEM_TEST_SLEEPS";

/// A project whose computes sleep after a second, with an account.
struct Sleepers {
    project: Project,
    port: u16,
}

impl Sleepers {
    fn start() -> Result<Sleepers> {
        let project = Project::with(Vec::new(), &["--suspend-after", "1s"])?.with_gateway();
        project.up_in_place("16MiB")?;
        project.sql(
            "CREATE USER app IDENTIFIED BY 'pw'; GRANT ALL ON *.* TO app;
             CREATE ROLE clerk; GRANT clerk TO app; CREATE DATABASE shop;
             CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT)",
        )?;
        let port = project.json(&["status"])?["gateway"]["port"].as_u64();
        let port = u16::try_from(port.context("no gateway")?)?;
        Ok(Sleepers { project, port })
    }

    fn connect(&self, user: &str) -> Result<Conn> {
        let options = OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(self.port)
            .prefer_socket(false)
            .user(Some(user))
            .pass(Some("pw"))
            .db_name(Some("shop"));
        Ok(Conn::new(options)?)
    }

    fn state(&self, branch: &str) -> Result<String> {
        let computes = self.project.json(&["compute", "ls"])?;
        let mut computes = computes.as_array().context("no list")?.iter();
        let compute = computes.find(|compute| compute["name"] == branch);
        let state = compute.and_then(|compute| compute["state"].as_str());
        Ok(state.unwrap_or("unknown").to_owned())
    }

    fn is_asleep(&self, branch: &str) -> bool {
        self.state(branch).is_ok_and(|state| state == "asleep")
    }

    fn wait_asleep(&self, branch: &str) -> Result<()> {
        wait_until(
            &format!("branch {branch} sleeps"),
            Duration::from_secs(20),
            || Ok(self.is_asleep(branch)),
        )
        .with_context(|| self.log())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.project.dir().join("gateway.log")).unwrap_or_default()
    }
}

/// All that a session has set.
const SESSION: &str = "SELECT CONCAT_WS('|', @@sql_mode, @@time_zone, @@max_statement_time,
    @@lock_wait_timeout, CURRENT_ROLE(), DATABASE(), USER(), CURRENT_USER(),
    @@character_set_client, @@collation_connection, IFNULL(@@character_set_results, 'none'),
    LAST_INSERT_ID(), @@autocommit, @@tx_isolation, @@sql_select_limit, @@long_query_time)";

#[test]
fn a_session_survives_the_sleep_of_its_compute() -> Result<()> {
    let sleepers = Sleepers::start()?;
    let mut conn = sleepers.connect("app")?;
    conn.query_drop("SET GLOBAL long_query_time = 3.5, GLOBAL sql_mode = 'ANSI'")?;
    conn.query_drop("INSERT INTO t (v) VALUES ('a'), ('b')")?;
    conn.query_drop(
        "SET sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES', time_zone = '+03:00',
         max_statement_time = 7.5, lock_wait_timeout = 33, tx_isolation = 'READ-COMMITTED',
         sql_select_limit = 1, autocommit = 0",
    )?;
    conn.query_drop("SET ROLE clerk")?;
    conn.query_drop("SET NAMES latin1 COLLATE latin1_german2_ci")?;
    conn.query_drop("COMMIT")?;
    let before: Option<String> = conn.query_first(SESSION)?;
    ensure!(
        before
            .as_ref()
            .is_some_and(|s| s.contains("|clerk|shop|app@127.0.0.1|app@%|latin1|"))
    );
    let mut fresh = sleepers.connect("app")?;
    let fresh_before: Option<String> = fresh.query_first(SESSION)?;

    sleepers.wait_asleep("main")?;
    // A ping is answered by the gateway, and wakes nobody.
    conn.ping()?;
    std::thread::sleep(Duration::from_millis(300));
    assert!(sleepers.is_asleep("main"));

    let after: Option<String> = conn.query_first(SESSION)?;
    assert_eq!(after, before);
    let fresh_after: Option<String> = fresh.query_first(SESSION)?;
    assert_eq!(fresh_after, fresh_before);
    // What SQL had set for the whole server.
    let globals: Option<(f64, String)> =
        conn.query_first("SELECT @@GLOBAL.long_query_time, @@GLOBAL.sql_mode")?;
    let globals = globals.context("no row")?;
    ensure!(
        (globals.0 - 3.5).abs() < 1e-6 && globals.1.contains("ANSI"),
        "{globals:?}"
    );
    // Rights are the client's own, not those of the account that restored the session.
    match conn.query_drop("SET innodb_page_server_act_as = 'app\\0127.0.0.1\\0127.0.0.1\\0'") {
        Err(mysql::Error::MySqlError(error)) => assert_eq!(error.code, 1227, "{error}"),
        other => anyhow::bail!("the client became somebody else: {other:?}"),
    }
    conn.query_drop("SET sql_select_limit = DEFAULT")?;
    conn.query_drop("INSERT INTO t (v) VALUES ('c')")?;
    conn.query_drop("COMMIT")?;
    let rows: Option<usize> = conn.query_first("SELECT COUNT(*) FROM t")?;
    assert_eq!(rows, Some(3));
    Ok(())
}

/// Branches whose sessions have something that cannot be restored, with the statements that
/// take it and give it up.
const TIES: [(&str, &str, &str); 8] = [
    (
        "transaction",
        "BEGIN; INSERT INTO t (v) VALUES ('x')",
        "ROLLBACK",
    ),
    ("table-locks", "LOCK TABLES t READ", "UNLOCK TABLES"),
    (
        "global-lock",
        "FLUSH TABLES WITH READ LOCK",
        "UNLOCK TABLES",
    ),
    ("user-lock", "DO GET_LOCK('l', 1)", "DO RELEASE_LOCK('l')"),
    (
        "temporary",
        "CREATE TEMPORARY TABLE mine (i INT)",
        "DROP TABLE mine",
    ),
    ("handler", "HANDLER t OPEN", "HANDLER t CLOSE"),
    (
        "prepared",
        "PREPARE s FROM 'SELECT 1'",
        "DEALLOCATE PREPARE s",
    ),
    (
        "next",
        "SET insert_id = 77",
        "INSERT INTO t (v) VALUES ('y')",
    ),
];

#[test]
fn what_cannot_be_restored_keeps_a_compute_awake() -> Result<()> {
    let sleepers = Sleepers::start()?;
    let mut held = Vec::new();
    for (branch, take, give) in TIES {
        sleepers.project.xylem(&["branch", "create", branch])?;
        let mut conn = sleepers.connect(&format!("app@{branch}"))?;
        for statement in take.split("; ") {
            conn.query_drop(statement)?;
        }
        held.push((branch, conn, give));
    }
    // A connection that does not come through the gateway.
    sleepers.project.xylem(&["branch", "create", "direct"])?;
    sleepers.project.xylem(&["compute", "start", "direct"])?;
    let computes = sleepers.project.json(&["compute", "ls"])?;
    let direct = computes
        .as_array()
        .and_then(|all| all.iter().find(|c| c["name"] == "direct"));
    let port = direct.and_then(|c| c["port"].as_u64()).context("no port")?;
    let direct = Conn::new(
        OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(u16::try_from(port)?)
            .prefer_socket(false)
            .user(Some("app"))
            .pass(Some("pw")),
    )?;
    // A branch that never sleeps.
    sleepers
        .project
        .xylem(&["branch", "create", "awake", "--suspend-after", "0s"])?;
    drop(sleepers.connect("app@awake")?);

    let reasons = [
        "transaction",
        "table locks",
        "user locks",
        "temporary tables",
        "open handlers",
        "prepared statements",
        "settings of the next statement",
        "is to the compute itself",
    ];
    wait_until("each tie was found", Duration::from_secs(30), || {
        let log = sleepers.log();
        Ok(reasons.iter().all(|reason| log.contains(reason)))
    })
    .with_context(|| sleepers.log())?;
    for (branch, ..) in &held {
        assert_eq!(sleepers.state(branch)?, "running", "{branch}");
    }
    assert_eq!(sleepers.state("direct")?, "running");
    assert_eq!(sleepers.state("awake")?, "running");
    drop(direct);
    for (branch, conn, give) in &mut held {
        conn.query_drop(*give).with_context(|| branch.to_string())?;
    }
    sleepers
        .project
        .xylem(&["branch", "set", "awake", "--suspend-after", "1s"])?;
    for (branch, conn, _) in &mut held {
        sleepers.wait_asleep(branch)?;
        let one: Option<u8> = conn.query_first("SELECT 1")?;
        assert_eq!(one, Some(1), "{branch}");
    }
    sleepers.wait_asleep("direct")?;
    sleepers.wait_asleep("awake")?;
    Ok(())
}

#[test]
fn a_trickle_of_queries_through_sleeps_sees_no_error() -> Result<()> {
    let cycles: usize = match std::env::var(CYCLES) {
        Ok(text) => text.parse()?,
        Err(_) => 2,
    };
    let sleepers = Sleepers::start()?;
    let mut conns = (0..8)
        .map(|_| sleepers.connect("app"))
        .collect::<Result<Vec<_>>>()?;
    let mut longest = Duration::ZERO;
    for cycle in 0..cycles {
        sleepers.wait_asleep("main")?;
        // All at once start one compute.
        let began = Instant::now();
        std::thread::scope(|scope| {
            let all: Vec<_> = conns
                .iter_mut()
                .map(|conn| scope.spawn(move || conn.query_drop("INSERT INTO t (v) VALUES ('x')")))
                .collect();
            all.into_iter().try_for_each(|one| match one.join() {
                Ok(done) => done.map_err(anyhow::Error::from),
                Err(_) => anyhow::bail!("a client's thread has panicked"),
            })
        })
        .with_context(|| format!("cycle {cycle}: {}", sleepers.log()))?;
        longest = longest.max(began.elapsed());
    }
    println!("{cycles} sleeps; 8 clients had their answers within {longest:?}");
    let starts = sleepers
        .log()
        .matches("started a compute for a client")
        .count();
    assert_eq!(starts, cycles, "{}", sleepers.log());
    let rows: Option<usize> = conns[0].query_first("SELECT COUNT(*) FROM t")?;
    assert_eq!(rows, Some(8 * cycles));
    Ok(())
}

#[test]
fn events_are_executed_in_time() -> Result<()> {
    let sleepers = Sleepers::start()?;
    let mut conn = sleepers.connect("app")?;
    // Set by SQL: the compute that is woken must have it, too.
    conn.query_drop("SET GLOBAL event_scheduler = ON")?;
    conn.query_drop(
        "CREATE EVENT e ON SCHEDULE AT NOW() + INTERVAL 25 SECOND
         DO INSERT INTO shop.t (v) VALUES (UNIX_TIMESTAMP(NOW(6)))",
    )?;
    let due: Option<f64> = conn.query_first(
        "SELECT UNIX_TIMESTAMP(EXECUTE_AT) FROM information_schema.EVENTS WHERE EVENT_NAME = 'e'",
    )?;
    sleepers.wait_asleep("main")?;
    wait_until("a compute wakes", Duration::from_secs(40), || {
        Ok(sleepers.log().contains("woke a compute for its next event"))
    })?;
    // The client speaks only after the time.
    std::thread::sleep(Duration::from_secs(8));
    let at: Option<Value> = conn.query_first("SELECT CAST(v AS DOUBLE) FROM t")?;
    let at: f64 = mysql::from_value_opt(at.context("the event was not executed")?)?;
    let late = at - due.context("no event")?;
    ensure!(
        (0.0..5.0).contains(&late),
        "executed {late} s after its time"
    );
    Ok(())
}

#[test]
fn a_start_that_fails_is_an_error_of_the_statement_and_not_of_the_connection() -> Result<()> {
    let sleepers = Sleepers::start()?;
    let mut conn = sleepers.connect("app")?;
    conn.query_drop("SET time_zone = '+05:00', GLOBAL long_query_time = 3.5")?;
    sleepers.wait_asleep("main")?;
    let broken = sleepers.project.dir().join("computes/main/custom.cnf");
    std::fs::write(&broken, "[mariadbd]\nno-such-option = 1\n")?;
    let long = format!("SELECT LENGTH('{}')", "x".repeat(100_000));
    for statement in ["SELECT 1", &long] {
        match conn.query_drop(statement) {
            Err(mysql::Error::MySqlError(error)) => {
                ensure!(
                    error.code == 1053 && error.message.contains("no-such-option"),
                    "{error}"
                );
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    std::fs::remove_file(&broken)?;
    wait_until("the compute starts", Duration::from_secs(20), || {
        Ok(conn.query_drop("SELECT 1").is_ok())
    })?;
    let zone: Option<String> = conn.query_first("SELECT @@time_zone")?;
    assert_eq!(zone.as_deref(), Some("+05:00"));
    // The attempts that failed have not lost what SQL had set.
    let kept: Option<f64> = conn.query_first("SELECT @@GLOBAL.long_query_time")?;
    ensure!(
        kept.is_some_and(|seconds| (seconds - 3.5).abs() < 1e-6),
        "{kept:?}"
    );
    // A database that is gone is no reason to lose the session.
    conn.query_drop("CREATE DATABASE brief")?;
    conn.query_drop("USE brief")?;
    sleepers.project.sql("DROP DATABASE brief")?;
    sleepers.wait_asleep("main")?;
    let none: Option<Option<String>> = conn.query_first("SELECT DATABASE()")?;
    assert_eq!(none, Some(None));

    // Another branch of the same name is one where nobody has logged in.
    sleepers.project.xylem(&["branch", "create", "twice"])?;
    let mut old = sleepers.connect("app@twice")?;
    sleepers.wait_asleep("twice")?;
    sleepers
        .project
        .xylem(&["branch", "rm", "twice", "--yes"])?;
    sleepers.project.xylem(&["branch", "create", "twice"])?;
    match old.query_drop("INSERT INTO t (v) VALUES ('elsewhere')") {
        Err(mysql::Error::MySqlError(error)) => {
            ensure!(error.message.contains("another one by now"), "{error}");
        }
        other => anyhow::bail!("{other:?}"),
    }

    // An account that is gone has no session to come back to.
    let mut gone = sleepers.connect("app")?;
    sleepers.project.sql("DROP USER app")?;
    sleepers.wait_asleep("main")?;
    match gone.query_drop("SELECT 1") {
        Err(mysql::Error::MySqlError(error)) => {
            ensure!(error.message.contains("'app'"), "{error}");
        }
        other => anyhow::bail!("{other:?}"),
    }
    Ok(())
}
