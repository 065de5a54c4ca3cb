//! Computes that nobody uses sleep; their clients, which stay connected to the gateway, do
//! not notice.

use anyhow::{Context, Result, ensure};
use mysql::prelude::Queryable;
use mysql::{ChangeUserOpts, Conn, OptsBuilder, Value};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};
use xylem_e2e::raw_client::RawClient;
use xylem_e2e::{Project, wait_until};

/// The number of sleeps of the test with the trickle of queries.
const CYCLES: &str = "XYLEM_TEST_SLEEPS";
/// The numbers of branches and of clients of each in the test with many of them.
const BRANCHES: &str = "XYLEM_TEST_BRANCHES";
const CLIENTS: &str = "XYLEM_TEST_CLIENTS";

pub(crate) fn number(variable: &str, default: usize) -> Result<usize> {
    match std::env::var(variable) {
        Ok(text) => Ok(text.parse()?),
        Err(_) => Ok(default),
    }
}

/// A project with a gateway, and an account.
pub(crate) struct Sleepers {
    pub project: Project,
    pub port: u16,
}

impl Sleepers {
    fn start() -> Result<Sleepers> {
        Sleepers::after("1s")
    }

    /// Its computes sleep after `span`.
    pub fn after(span: &str) -> Result<Sleepers> {
        let project = Project::with(Vec::new(), &["--suspend-after", span])?.with_gateway();
        project.up_in_place("16MiB")?;
        project.sql(
            "CREATE USER app IDENTIFIED BY 'pw'; GRANT ALL ON *.* TO app;
             CREATE USER raw; GRANT ALL ON *.* TO raw;
             CREATE ROLE clerk; GRANT clerk TO app; CREATE DATABASE shop;
             CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v TEXT)",
        )?;
        let port = project.json(&["status"])?["gateway"]["port"].as_u64();
        let port = u16::try_from(port.context("no gateway")?)?;
        Ok(Sleepers { project, port })
    }

    pub fn connect(&self, user: &str) -> Result<Conn> {
        let options = OptsBuilder::new()
            .ip_or_hostname(Some("127.0.0.1"))
            .tcp_port(self.port)
            .prefer_socket(false)
            .user(Some(user))
            .pass(Some("pw"))
            .db_name(Some("shop"));
        Ok(Conn::new(options)?)
    }

    /// The inode of a file that is the same at each start.
    fn inode(&self, branch: &str) -> Result<u64> {
        let compute = self.project.dir().join("computes").join(branch);
        ensure!(!compute.join("old-data").exists(), "old files are there");
        Ok(std::fs::metadata(compute.join("data/mysql/db.frm"))?.ino())
    }

    fn state(&self, branch: &str) -> Result<String> {
        let computes = self.project.json(&["compute", "ls"])?;
        let mut computes = computes.as_array().context("no list")?.iter();
        let compute = computes.find(|compute| compute["name"] == branch);
        let state = compute.and_then(|compute| compute["state"].as_str());
        Ok(state.unwrap_or("unknown").to_owned())
    }

    pub fn is_asleep(&self, branch: &str) -> bool {
        self.state(branch).is_ok_and(|state| state == "asleep")
    }

    pub fn wait_asleep(&self, branch: &str) -> Result<()> {
        wait_until(
            &format!("branch {branch} sleeps"),
            Duration::from_secs(20),
            || Ok(self.is_asleep(branch)),
        )
        .with_context(|| self.log())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.project.dir().join("gateway.log")).unwrap_or_default()
    }
}

/// All that a session has set.
const SESSION: &str = "SELECT CONCAT_WS('|', @@sql_mode, @@time_zone, @@max_statement_time,
    @@lock_wait_timeout, CURRENT_ROLE(), DATABASE(), USER(), CURRENT_USER(),
    @@character_set_client, @@collation_connection, IFNULL(@@character_set_results, 'none'),
    LAST_INSERT_ID(), @@autocommit, @@tx_isolation, @@sql_select_limit, @@long_query_time)";

#[test]
fn a_restored_session_cannot_become_an_account_of_the_gateways_user() -> Result<()> {
    let sleepers = Sleepers::start()?;
    // Restored sessions come over the compute's Unix socket, whose peer is the gateway.
    let user = Command::new("id").arg("-un").output()?.stdout;
    let user = String::from_utf8(user)?.trim().to_owned();
    sleepers.project.sql(&format!(
        "CREATE OR REPLACE USER '{user}'@'127.0.0.1' IDENTIFIED VIA unix_socket"
    ))?;
    let mut conn = sleepers.connect("app")?;
    for restored in [false, true] {
        if restored {
            sleepers.wait_asleep("main")?;
            conn.query_drop("DO 1")?;
        }
        let other = ChangeUserOpts::DEFAULT
            .with_user(Some(user.clone()))
            .with_pass(None);
        match conn.change_user(other) {
            // ER_ACCESS_DENIED_NO_PASSWORD_ERROR
            Err(mysql::Error::MySqlError(error)) => assert_eq!(error.code, 1698, "{error}"),
            other => anyhow::bail!("restored {restored}: {other:?}"),
        }
        conn = sleepers.connect("app")?;
    }
    Ok(())
}

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
    let inode = sleepers.inode("main")?;

    sleepers.wait_asleep("main")?;
    // A ping is answered by the gateway, and wakes nobody.
    conn.ping()?;
    std::thread::sleep(Duration::from_millis(300));
    assert!(sleepers.is_asleep("main"));

    let after: Option<String> = conn.query_first(SESSION)?;
    assert_eq!(after, before);
    let fresh_after: Option<String> = fresh.query_first(SESSION)?;
    assert_eq!(fresh_after, fresh_before);
    // The start has taken files over.
    assert_eq!(sleepers.inode("main")?, inode);
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

/// Something that cannot be restored, on a branch of its own.
struct Tie {
    branch: &'static str,
    /// The statements that make it.
    take: &'static [&'static str],
    /// The statements that end it.
    give: &'static [&'static str],
    /// Words of the gateway's log.
    reason: &'static str,
}

const TIES: [Tie; 11] = [
    Tie {
        branch: "transaction",
        take: &["BEGIN", "INSERT INTO t (v) VALUES ('x')"],
        give: &["ROLLBACK"],
        reason: "transaction",
    },
    Tie {
        branch: "xa",
        take: &["XA START 'x'"],
        give: &["XA END 'x'", "XA ROLLBACK 'x'"],
        reason: "transaction",
    },
    Tie {
        branch: "table-locks",
        take: &["LOCK TABLES t READ"],
        give: &["UNLOCK TABLES"],
        reason: "table locks",
    },
    Tie {
        branch: "global-lock",
        take: &["FLUSH TABLES WITH READ LOCK"],
        give: &["UNLOCK TABLES"],
        reason: "table locks",
    },
    Tie {
        branch: "user-lock",
        take: &["DO GET_LOCK('l', 1)"],
        give: &["DO RELEASE_LOCK('l')"],
        reason: "user locks",
    },
    Tie {
        branch: "temporary",
        take: &["CREATE TEMPORARY TABLE mine (i INT)"],
        give: &["DROP TABLE mine"],
        reason: "temporary tables",
    },
    Tie {
        branch: "handler",
        take: &["HANDLER t OPEN"],
        give: &["HANDLER t CLOSE"],
        reason: "open handlers",
    },
    Tie {
        branch: "next",
        take: &["SET insert_id = 77"],
        give: &["INSERT INTO t (v) VALUES ('y')"],
        reason: "settings of the next statement",
    },
    Tie {
        branch: "collation",
        take: &["SET collation_database = latin1_german2_ci"],
        give: &["USE shop"],
        reason: "collation_database",
    },
    Tie {
        branch: "charset",
        take: &[
            "SET NAMES latin1",
            "PREPARE s FROM 'SELECT 1'",
            "SET NAMES utf8mb4",
        ],
        give: &["DEALLOCATE PREPARE s"],
        reason: "another character set",
    },
    Tie {
        branch: "long",
        take: &["SET @v = REPEAT('x', 40000)"],
        give: &["SET @v = 1"],
        reason: "more than 32768 bytes",
    },
];

#[test]
fn what_cannot_be_restored_keeps_a_compute_awake() -> Result<()> {
    let sleepers = Sleepers::start()?;
    let mut held = Vec::new();
    for tie in &TIES {
        sleepers.project.xylem(&["branch", "create", tie.branch])?;
        let mut conn = sleepers.connect(&format!("app@{}", tie.branch))?;
        for statement in tie.take {
            conn.query_drop(statement).context(tie.branch)?;
        }
        held.push((tie, conn));
    }
    // Nothing but its end takes the variables of a package from a session.
    sleepers.project.xylem(&["branch", "create", "package"])?;
    let mut package = sleepers.connect("app@package")?;
    for statement in [
        "SET sql_mode = ORACLE",
        "CREATE PACKAGE p AS PROCEDURE a(); END",
        "CREATE PACKAGE BODY p AS v INT := 0; PROCEDURE a() AS BEGIN v := v + 1; END; END",
        "CALL p.a()",
    ] {
        package.query_drop(statement)?;
    }
    sleepers.project.sql(
        "CREATE USER few IDENTIFIED BY 'pw' WITH MAX_USER_CONNECTIONS 5; GRANT ALL ON *.* TO few",
    )?;
    sleepers.project.xylem(&["branch", "create", "limits"])?;
    let limited = sleepers.connect("few@limits")?;
    // A cursor whose rows were not all fetched.
    sleepers.project.xylem(&["branch", "create", "cursor"])?;
    let mut cursor = RawClient::connect(sleepers.port, "raw@cursor", "shop")?;
    let prepared = cursor.command(b"\x16SELECT 1 UNION ALL SELECT 2")?;
    // Its one column.
    cursor.list()?;
    let statement = [&prepared[1..5], &[1, 1, 0, 0, 0]].concat();
    cursor.command(&[b"\x17", &statement[..]].concat())?;
    cursor.list()?;
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

    let mut reasons: Vec<_> = TIES.iter().map(|tie| (tie.branch, tie.reason)).collect();
    reasons.extend([
        ("direct", "is to the compute itself"),
        ("package", "variables of packages"),
        ("limits", "limits of the account"),
        ("cursor", "an open cursor"),
    ]);
    wait_until("each tie was found", Duration::from_secs(40), || {
        let log = sleepers.log();
        Ok(reasons.iter().all(|(branch, reason)| {
            let said = format!("branch=\"{branch}\"");
            log.lines()
                .any(|line| line.contains(&said) && line.contains(reason))
        }))
    })
    .with_context(|| sleepers.log())?;
    for (branch, _) in &reasons {
        assert_eq!(sleepers.state(branch)?, "running", "{branch}");
    }
    assert_eq!(sleepers.state("awake")?, "running");
    drop((direct, package, limited));
    for (tie, conn) in &mut held {
        for statement in tie.give {
            conn.query_drop(statement).context(tie.branch)?;
        }
    }
    cursor.command(&[b"\x1a", &statement[..4]].concat())?;
    sleepers
        .project
        .xylem(&["branch", "set", "awake", "--suspend-after", "1s"])?;
    for (tie, conn) in &mut held {
        sleepers.wait_asleep(tie.branch)?;
        let one: Option<u8> = conn.query_first("SELECT 1")?;
        assert_eq!(one, Some(1), "{}", tie.branch);
    }
    for branch in ["direct", "awake", "package", "limits", "cursor"] {
        sleepers.wait_asleep(branch)?;
    }
    Ok(())
}

/// User variables, with their types.
const VARIABLES: &str = "SELECT CONCAT_WS('|', @i, @u + 0, @d, @n, @s, COLLATION(@s),
    HEX(@b), @z IS NULL, @`odd ``name`, COLUMN_GET(COLUMN_CREATE('n', @n), 'n' AS CHAR),
    LENGTH(@l))";

#[test]
fn prepared_statements_and_user_variables_survive() -> Result<()> {
    let sleepers = Sleepers::start()?;
    let mut conn = sleepers.connect("app")?;
    conn.query_drop("INSERT INTO t (v) VALUES ('a'), ('b'), ('c')")?;
    conn.query_drop(
        "SET @i = -5, @u = 18446744073709551615, @d = 0.1e0, @n = 1.50, @b = x'ff00', @z = NULL,
         @s = CONVERT('\u{e4}' USING latin1) COLLATE latin1_german2_ci, @`odd ``name` = 'it''s',
         @l = REPEAT('x', 20000)",
    )?;
    let variables: Option<String> = conn.query_first(VARIABLES)?;
    let before = variables.context("no row")?;
    assert!(
        before.starts_with("-5|18446744073709551615|0.1|1.50|\u{e4}|latin1_german2_ci|FF00|1|it's"),
        "{before}"
    );
    let first = conn.prep("SELECT v FROM t WHERE id = ?")?;
    // One that is gone, so that there is a number that no statement has.
    let closed = conn.prep("SELECT 1")?;
    conn.close(closed)?;
    conn.query_drop("CREATE DATABASE other")?;
    conn.query_drop("CREATE TABLE other.t (id INT, v TEXT)")?;
    conn.query_drop("INSERT INTO other.t VALUES (1, 'other')")?;
    conn.query_drop("USE other")?;
    let elsewhere = conn.prep("SELECT v FROM t WHERE id = ? AND 'x' = ?")?;
    let unused = conn.prep("INSERT INTO t VALUES (?, ?)")?;
    let doomed = conn
        .prep("SELECT * FROM shop.doomed_view")
        .err()
        .map(|error| error.to_string());
    assert!(doomed.is_some());
    conn.query_drop("CREATE TABLE shop.doomed (i INT)")?;
    let doomed = conn.prep("SELECT * FROM shop.doomed")?;
    conn.query_drop("PREPARE `na``med` FROM 'SELECT CONCAT(?, \"-\", DATABASE())'")?;
    conn.query_drop("USE shop")?;
    let one: Option<String> = conn.exec_first(&first, (2,))?;
    assert_eq!(one.as_deref(), Some("b"));
    let one: Option<String> = conn.exec_first(&elsewhere, (1, "x"))?;
    assert_eq!(one.as_deref(), Some("other"));

    // A client that sends the types of parameters once.
    let mut raw = RawClient::connect(sleepers.port, "raw", "shop")?;
    let prepared = raw.command(b"\x16SELECT HEX(?), ? + 1")?;
    let id = &prepared[1..5];
    // The parameters, then the columns.
    raw.list()?;
    raw.list()?;
    // One iteration, no NULL, types: VARCHAR and BIGINT UNSIGNED.
    let types = [0, 1, 0, 0, 0, 0, 1, 253, 0, 8, 0x80];
    let values = [&[1, b'A'][..], &(u64::MAX - 1).to_le_bytes()].concat();
    let execute = |raw: &mut RawClient, head: &[u8]| -> Result<Vec<Vec<u8>>> {
        raw.command(&[b"\x17", id, head, &values].concat())?;
        raw.list()?;
        raw.list()
    };
    let row_before = execute(&mut raw, &types)?;
    let untyped = [0, 1, 0, 0, 0, 0, 0];
    assert_eq!(execute(&mut raw, &untyped)?, row_before);

    sleepers.project.sql("DROP TABLE shop.doomed")?;
    for round in 0..2 {
        sleepers.wait_asleep("main")?;
        assert_eq!(execute(&mut raw, &untyped)?, row_before, "round {round}");
        let variables: Option<String> = conn.query_first(VARIABLES)?;
        assert_eq!(variables.as_deref(), Some(&before[..]));
        let one: Option<String> = conn.exec_first(&first, (3,))?;
        assert_eq!(one.as_deref(), Some("c"));
        let one: Option<String> = conn.exec_first(&elsewhere, (1, "x"))?;
        assert_eq!(one.as_deref(), Some("other"));
        conn.exec_drop(&unused, (7, "seven"))?;
        let database: Option<String> = conn.query_first("SELECT DATABASE()")?;
        assert_eq!(database.as_deref(), Some("shop"));
        // The name of a table that is gone: one error, and the session goes on.
        match conn.exec_drop(&doomed, ()) {
            Err(mysql::Error::MySqlError(_)) => {}
            other => anyhow::bail!("{other:?}"),
        }
        let named: Option<String> = conn.query_first("EXECUTE `na``med` USING @i")?;
        assert_eq!(named.as_deref(), Some("-5-other"));
        // A new one gets a number of its own.
        let new = conn.prep("SELECT ?")?;
        assert!(
            ![&first, &elsewhere, &unused]
                .iter()
                .any(|old| old.id() == new.id())
        );
        let echo: Option<u8> = conn.exec_first(&new, (9,))?;
        assert_eq!(echo, Some(9));
        conn.close(new)?;
    }
    let rows: Option<usize> = conn.query_first("SELECT COUNT(*) FROM other.t")?;
    assert_eq!(rows, Some(3));
    Ok(())
}

#[test]
fn a_session_comes_back_as_its_own_account_only() -> Result<()> {
    let sleepers = Sleepers::start()?;
    // One that has become another user, and one that a more specific account is made beside.
    let mut changed = sleepers.connect("app")?;
    changed.change_user(
        mysql::ChangeUserOpts::new()
            .with_user(Some("raw".to_owned()))
            .with_pass(None)
            .with_db_name(Some("mysql".to_owned())),
    )?;
    let mut beside = sleepers.connect("app")?;
    sleepers.project.sql(
        "CREATE USER app@127.0.0.1 IDENTIFIED BY 'other'; GRANT ALL ON *.* TO app@127.0.0.1",
    )?;
    sleepers.wait_asleep("main")?;
    let account: Option<String> =
        changed.query_first("SELECT CONCAT(CURRENT_USER(), ' ', DATABASE())")?;
    assert_eq!(account.as_deref(), Some("raw@% mysql"));
    match beside.query_drop("SELECT 1") {
        Err(mysql::Error::MySqlError(error)) => {
            ensure!(error.message.contains("'app'@'%'"), "{error}");
        }
        other => anyhow::bail!("{other:?}"),
    }
    // The connection is still there, for when the account is.
    sleepers.project.sql("DROP USER app@127.0.0.1")?;
    let account: Option<String> = beside.query_first("SELECT CURRENT_USER()")?;
    assert_eq!(account.as_deref(), Some("app@%"));
    Ok(())
}

#[test]
fn a_branch_that_sleeps_may_be_renamed_and_restored() -> Result<()> {
    let sleepers = Sleepers::start()?;
    let record = |branch: &str| -> Result<serde_json::Value> {
        let path = sleepers
            .project
            .dir()
            .join(format!("computes/{branch}/compute.json"));
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    };
    sleepers.project.xylem(&["branch", "create", "dev"])?;
    let mut conn = sleepers.connect("app@dev")?;
    conn.query_drop("SET GLOBAL event_scheduler = ON, GLOBAL long_query_time = 3.5")?;
    conn.query_drop(
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS NOW() + INTERVAL 1 DAY DO DO 1",
    )?;
    let moment: Option<u64> = conn.query_first(
        "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS
         WHERE VARIABLE_NAME = 'INNODB_LSN_CURRENT'",
    )?;
    let moment = moment.context("no LSN")?.to_string();
    conn.query_drop("INSERT INTO t (v) VALUES ('later')")?;
    sleepers.wait_asleep("dev")?;
    let before = record("dev")?;
    ensure!(before["wake_at"].is_u64(), "{before}");

    sleepers
        .project
        .xylem(&["branch", "rename", "dev", "renamed"])?;
    assert_eq!(sleepers.state("renamed")?, "asleep");
    let after = record("renamed")?;
    for field in ["wake_at", "globals", "phase"] {
        assert_eq!(after[field], before[field], "{field}");
    }

    // A statement that this start refuses does not keep it from the others.
    let mut edited = after;
    let globals = edited["globals"].as_array_mut().context("no list")?;
    globals.insert(0, "SET GLOBAL no_such_variable = 1".into());
    std::fs::write(
        sleepers.project.dir().join("computes/renamed/compute.json"),
        serde_json::to_vec(&edited)?,
    )?;
    // The events of the moment may be others.
    sleepers
        .project
        .xylem(&["branch", "restore", "renamed", "--at", &moment])?;
    wait_until("the restored branch wakes", Duration::from_secs(20), || {
        Ok(sleepers.log().contains("woke a compute for its next event"))
    })?;
    let mut conn = sleepers.connect("app@renamed")?;
    let kept: Option<(f64, usize)> =
        conn.query_first("SELECT @@GLOBAL.long_query_time, (SELECT COUNT(*) FROM t)")?;
    let kept = kept.context("no row")?;
    ensure!((kept.0 - 3.5).abs() < 1e-6 && kept.1 == 0, "{kept:?}");
    Ok(())
}

#[test]
fn a_trickle_of_queries_through_sleeps_sees_no_error() -> Result<()> {
    let cycles = number(CYCLES, 2)?;
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
    let log = sleepers.log();
    let (starts, sleeps) = (
        log.matches("started a compute for a client").count(),
        log.matches("a compute sleeps").count(),
    );
    // A machine that is busy may let it sleep once more.
    ensure!(cycles <= starts && starts <= sleeps, "{log}");
    let rows: Option<usize> = conns[0].query_first("SELECT COUNT(*) FROM t")?;
    assert_eq!(rows, Some(8 * cycles));
    Ok(())
}

#[test]
fn many_clients_at_once_start_each_compute_once() -> Result<()> {
    let (branches, clients) = (number(BRANCHES, 3)?, number(CLIENTS, 10)?);
    let sleepers = Sleepers::after("0s")?;
    for branch in 0..branches {
        sleepers
            .project
            .xylem(&["branch", "create", &format!("b{branch}")])?;
    }
    let barrier = std::sync::Barrier::new(branches * clients);
    let mut took = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let mut all = Vec::new();
        for nth in 0..branches * clients {
            let (sleepers, barrier) = (&sleepers, &barrier);
            let client = move || -> Result<Duration> {
                barrier.wait();
                let began = Instant::now();
                let mut conn = sleepers.connect(&format!("app@b{}", nth % branches))?;
                let rows: Option<usize> = conn.query_first("SELECT COUNT(*) FROM t")?;
                ensure!(rows == Some(0));
                Ok(began.elapsed())
            };
            all.push(std::thread::Builder::new().spawn_scoped(scope, client)?);
        }
        let done = all.into_iter().map(|one| match one.join() {
            Ok(done) => done,
            Err(_) => anyhow::bail!("a client's thread has panicked"),
        });
        done.collect()
    })
    .with_context(|| sleepers.log())?;
    took.sort_unstable();
    let part = |percent: usize| took[(took.len() - 1) * percent / 100];
    println!(
        "{clients} clients for each of {branches} branches: first answers p50 {:?}, p99 {:?}",
        part(50),
        part(99)
    );
    let starts = sleepers
        .log()
        .matches("started a compute for a client")
        .count();
    assert_eq!(starts, branches, "{}", sleepers.log());
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
