//! Computes whose branch is taken over, whose server is down or stalls, or whose disk is
//! full.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use xylem_e2e::small::Small;
use xylem_e2e::{Project, wait_until};
use xylem_proto::control::AttachRequest;
use xylem_proto::control::control_client::ControlClient;

/// Attaches to the branch, as another compute would.
fn take_over(project: &Project) -> Result<u64> {
    let request = project.request(AttachRequest {})?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut control = ControlClient::new(project.channel().await?);
        Ok(control.attach(request).await?.into_inner().epoch)
    })
}

fn wait_for_end(project: &Project) -> Result<String> {
    wait_until("the compute to end", Duration::from_secs(30), || {
        Ok(project.compute()?["state"] == "crashed")
    })?;
    Ok(std::fs::read_to_string(
        project.dir().join("computes/main/mariadbd.log"),
    )?)
}

#[test]
fn a_compute_whose_branch_is_taken_stops_and_says_so() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1)",
    )?;
    let epoch = take_over(&project)?;
    ensure!(epoch > 1);
    let late = project.try_xylem(&["sql", "main", "-e", "INSERT INTO d.t VALUES (2)"])?;
    assert!(
        !late.status.success(),
        "a commit of an old epoch must not succeed"
    );
    let log = wait_for_end(&project)?;
    assert!(log.contains("was taken over by a newer server"), "{log}");
    project.xylem(&["compute", "start", "main"])?;
    assert_eq!(
        project.sql("SELECT a FROM d.t")?,
        "1\n",
        "what was not acknowledged is not there"
    );
    Ok(())
}

#[test]
fn a_compute_gives_up_after_its_retry_limit_and_loses_nothing() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1); \
         SET GLOBAL innodb_page_server_retry_limit = 2",
    )?;
    let mut insert = project.command(&[
        "sql",
        "main",
        "-e",
        "DO SLEEP(2); INSERT INTO d.t VALUES (2)",
    ]);
    let client = insert.stderr(std::process::Stdio::null()).spawn()?;
    wait_until("the statement to run", Duration::from_secs(10), || {
        Ok(project
            .sql("SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'DO SLEEP%'")?
            .trim()
            == "1")
    })?;
    project.kill_server()?;
    let status = { client }.wait()?;
    assert!(
        !status.success(),
        "nothing is acknowledged without the server"
    );
    let log = wait_for_end(&project)?;
    assert!(
        log.contains("every acknowledged commit is on the page server"),
        "{log}"
    );
    project.start()?;
    assert_eq!(project.sql("SELECT a FROM d.t")?, "1\n");
    assert_eq!(project.check("d")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn settings_that_cannot_work_are_refused_at_start() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.xylem(&["compute", "stop", "main"])?;
    for (setting, word) in [
        (
            "innodb_data_file_path=ibdata1:12M;ibdata2:12M:autoextend",
            "innodb_data_file_path",
        ),
        ("innodb_force_recovery=6", "innodb_force_recovery=6"),
        ("innodb_data_home_dir=/tmp", "innodb_data_home_dir"),
        (
            "innodb_log_group_home_dir=/tmp",
            "innodb_log_group_home_dir",
        ),
        ("innodb_undo_directory=/tmp", "innodb_undo_directory"),
    ] {
        let file = project.dir().join("computes/main/custom.cnf");
        std::fs::write(&file, format!("[mariadbd]\n{setting}\n"))?;
        let out = project.try_xylem(&["compute", "start", "main"])?;
        assert_eq!(out.status.code(), Some(1), "{setting}");
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(
            error.contains("innodb_page_server_enabled=ON cannot work") && error.contains(word),
            "{error}"
        );
        std::fs::remove_file(file)?;
    }
    project.xylem(&["compute", "start", "main"])?;
    Ok(())
}

/// Suspends a process until dropped, as a disk that does not answer would.
pub(crate) struct Stalled(Pid);

impl Stalled {
    /// A project's server.
    fn new(project: &Project) -> Result<Stalled> {
        Stalled::process(&project.json(&["status"])?["server"])
    }

    /// The process that a document names by its `pid`.
    pub(crate) fn process(of: &serde_json::Value) -> Result<Stalled> {
        let pid = i32::try_from(of["pid"].as_i64().context("no pid")?)?;
        let pid = Pid::from_raw(pid).context("not a pid")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Stalled(pid))
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn said(child: Child) -> Result<(bool, String)> {
    let out = child.wait_with_output()?;
    Ok((
        out.status.success(),
        String::from_utf8_lossy(&out.stderr).into_owned(),
    ))
}

/// The connection that runs a statement with this beginning.
fn connection(project: &Project, begins: &str) -> Result<String> {
    let sql = format!(
        "SELECT id FROM information_schema.processlist WHERE info LIKE '{begins}%' \
         AND id <> CONNECTION_ID()"
    );
    let mut id = String::new();
    wait_until("a statement to run", Duration::from_secs(30), || {
        project.sql(&sql)?.trim().clone_into(&mut id);
        Ok(!id.is_empty())
    })?;
    Ok(id)
}

#[allow(
    clippy::disallowed_methods,
    reason = "nothing happens: there is no event to wait for"
)]
fn still_runs(child: &mut Child, for_so_long: Duration) -> Result<bool> {
    std::thread::sleep(for_so_long);
    Ok(child.try_wait()?.is_none())
}

#[test]
fn reads_and_commits_wait_for_a_stalled_server_and_kill_then_works() -> Result<()> {
    let project = Project::with(Vec::new(), &["--page-cache", "0"])?;
    project.up_in_place("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE t (a INT PRIMARY KEY, b CHAR(250) NOT NULL); \
         INSERT INTO d.t SELECT seq, seq FROM seq_1_to_200000",
    )?;
    let stalled = Stalled::new(&project)?;
    let read = "SELECT SUM(LENGTH(b)) FROM d.t WHERE b LIKE";
    let mut reads: Vec<Child> = Vec::new();
    for pattern in ["x%", "y%"] {
        reads.push(project.start_sql_on("main", &format!("{read} '{pattern}'"))?);
    }
    let mut commit = project.start_sql_on("main", "INSERT INTO d.t VALUES (0, 'late')")?;
    ensure!(
        still_runs(&mut commit, Duration::from_secs(3))?,
        "a commit was acknowledged by a server that does nothing"
    );
    for read in &mut reads {
        ensure!(read.try_wait()?.is_none(), "pages came from nowhere");
    }
    let victim = connection(&project, &format!("{read} \\'y"))?;
    project.sql(&format!("KILL QUERY {victim}"))?;
    drop(stalled);
    let killed = said(reads.pop().context("two reads")?)?;
    ensure!(!killed.0 && killed.1.contains("1317"), "{}", killed.1);
    let other = said(reads.pop().context("two reads")?)?;
    ensure!(other.0, "{}", other.1);
    let commit = said(commit)?;
    ensure!(commit.0, "{}", commit.1);
    assert_eq!(project.sql("SELECT b FROM d.t WHERE a = 0")?, "late\n");
    assert_eq!(project.check("d")?, Vec::<String>::new());
    Ok(())
}

fn create_large(project: &Project) -> Result<()> {
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b LONGTEXT)")?;
    Ok(())
}

/// Starts a transaction with 32 kB of redo per row.
fn start_large(project: &Project, rows: u32) -> Result<Child> {
    project.start_sql_on(
        "main",
        &format!("USE d; INSERT INTO t SELECT seq, REPEAT(MD5(seq), 1000) FROM seq_1_to_{rows}"),
    )
}

/// The transaction succeeds, and all of it survives the loss of the compute.
fn expect_large(project: &Project, writer: Child, rows: u32) -> Result<()> {
    let writer = said(writer)?;
    ensure!(writer.0, "{}", writer.1);
    project.lose_compute()?;
    project.start()?;
    assert_eq!(
        project.sql("SELECT COUNT(*), SUM(b = REPEAT(MD5(a), 1000)) FROM d.t")?,
        format!("{rows}\t{rows}\n")
    );
    Ok(())
}

#[test]
fn a_writer_that_outruns_the_server_is_slowed_and_loses_nothing() -> Result<()> {
    let project = Project::up("64MiB")?;
    project.xylem(&["compute", "stop", "main"])?;
    std::fs::write(
        project.dir().join("computes/main/custom.cnf"),
        "[mariadbd]\ninnodb_page_server_queue_size=1M\ninnodb_log_buffer_size=2M\n",
    )?;
    project.xylem(&["compute", "start", "main"])?;
    create_large(&project)?;
    let stalled = Stalled::new(&project)?;
    // One transaction with many times the size of the log buffer and the queue.
    let mut writer = start_large(&project, 2000)?;
    ensure!(
        still_runs(&mut writer, Duration::from_secs(3))?,
        "64 MB of redo went into a queue of 1 MB"
    );
    drop(stalled);
    expect_large(&project, writer, 2000)?;
    Ok(())
}

/// Starts the compute's mariadbd directly; returns its output until it ends.
fn mariadbd_by_hand(project: &Project, more: &[&str]) -> Result<String> {
    let compute = project.dir().join("computes/main");
    let usr = project.home().join("mariadb/usr");
    let out = Command::new(usr.join("sbin/mariadbd"))
        .arg(format!(
            "--defaults-file={}",
            compute.join("my.cnf").display()
        ))
        .arg("--skip-log-error")
        // The command line drops root privileges before it starts mariadbd.
        .args(
            rustix::process::geteuid()
                .is_root()
                .then_some("--user=root"),
        )
        .args(more)
        .env("LD_LIBRARY_PATH", usr.join("lib/x86_64-linux-gnu"))
        .env("LD_PRELOAD", project.home().join("lib/libxylem_client.so"))
        .env("XYLEM_DATADIR", compute.join("data"))
        .output()?;
    ensure!(!out.status.success(), "it should not have started");
    Ok(String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn a_compute_without_its_server_does_not_start_and_says_where_it_looked() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d")?;
    project.xylem(&["compute", "stop", "main"])?;
    let log = mariadbd_by_hand(
        &project,
        &[
            "--innodb-page-server-socket=",
            "--innodb-page-server-port=1",
        ],
    )?;
    ensure!(
        log.contains("Cannot use the page server at 127.0.0.1:1"),
        "{log}"
    );
    let log = mariadbd_by_hand(
        &project,
        &[
            "--innodb-page-server-socket=",
            "--innodb-page-server-address=no.such.host.invalid",
        ],
    )?;
    ensure!(log.contains("no.such.host.invalid"), "{log}");
    project.kill_server()?;
    let log = mariadbd_by_hand(&project, &[])?;
    ensure!(log.contains("Cannot use the page server at"), "{log}");
    // `xylem` starts what is missing.
    project.xylem(&["compute", "start", "main"])?;
    ensure!(project.sql("SHOW DATABASES")?.contains("d\n"));
    Ok(())
}

#[test]
fn commits_wait_for_room_on_the_servers_disk() -> Result<()> {
    let project = Project::new()?;
    let Some(small) = Small::mount(&project.dir().join("server"), 80)? else {
        return Ok(());
    };
    project.up_in_place("16MiB")?;
    create_large(&project)?;
    let mut writer = start_large(&project, 3000)?;
    wait_until("the disk to be full", Duration::from_secs(60), || {
        ensure!(
            writer.try_wait()?.is_none(),
            "96 MB of redo went into 80 MB"
        );
        Ok(std::fs::read_to_string(project.dir().join("server.log"))?.contains("No space left"))
    })?;
    ensure!(
        still_runs(&mut writer, Duration::from_secs(2))?,
        "a commit was acknowledged without room for it"
    );
    small.resize(500)?;
    expect_large(&project, writer, 3000)?;
    project.xylem(&["down"])?;
    Ok(())
}

#[test]
fn a_full_disk_of_the_compute_fails_statements_and_no_more() -> Result<()> {
    let project = Project::new()?;
    let Some(_small) = Small::mount(&project.dir().join("computes"), 24)? else {
        return Ok(());
    };
    project.up_in_place("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE t (a INT PRIMARY KEY, b CHAR(250) NOT NULL); \
         INSERT INTO d.t SELECT seq, MD5(seq) FROM seq_1_to_200000",
    )?;
    // 50 MB do not fit, whether as a temporary table, a sort, or a file.
    let error = project.sql_error("CREATE TEMPORARY TABLE d.x AS SELECT * FROM d.t")?;
    ensure!(error.contains("ERROR"), "{error}");
    let filler = project.dir().join("computes/filler");
    std::fs::write(&filler, vec![1; 24 << 20]).ok();
    let error = project.sql_error("CREATE TABLE d.y (a INT)")?;
    ensure!(error.contains("ERROR"), "{error}");
    // Statements that need no local disk continue.
    project.sql("INSERT INTO d.t VALUES (0, 'late')")?;
    std::fs::remove_file(filler)?;
    project.sql("CREATE TABLE d.y (a INT); INSERT INTO d.y VALUES (1)")?;
    project.xylem(&["compute", "kill", "main"])?;
    project.start()?;
    assert_eq!(
        project.sql("SELECT COUNT(*), SUM(a = 0) FROM d.t; SELECT a FROM d.y")?,
        "200001\t1\n1\n"
    );
    assert_eq!(project.check("d")?, Vec::<String>::new());
    project.xylem(&["down"])?;
    Ok(())
}

/// A directory in which not even root can create files, until dropped.
struct Immutable(PathBuf);

impl Immutable {
    /// False if this is not possible: as another user than root, or on a file system
    /// without the attribute.
    fn set(dir: &Path, on: bool) -> bool {
        let mut command = Command::new("chattr");
        let command = command.arg(if on { "+i" } else { "-i" }).arg(dir);
        command
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn new(dir: &Path) -> Option<Immutable> {
        Immutable::set(dir, true).then(|| Immutable(dir.to_owned()))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        Immutable::set(&self.0, false);
    }
}

fn main_log(project: &Project) -> Result<String> {
    Ok(std::fs::read_to_string(
        project.dir().join("computes/main/mariadbd.log"),
    )?)
}

/// Changes 20,000 rows without a commit, makes the redo durable, and kills the compute.
fn killed_in_a_transaction(project: &Project, update: &str) -> Result<()> {
    let mut open = xylem_e2e::rounds::connect(project)?;
    use mysql::prelude::Queryable;
    open.query_drop("USE d")?;
    open.query_drop("BEGIN")?;
    open.query_drop(update)?;
    project.sql("CREATE TABLE d.durable (a INT PRIMARY KEY)")?;
    project.xylem(&["compute", "kill", "main"])?;
    Ok(())
}

/// The number of open transactions. InnoDB caches the answer for 0.1 s.
const OPEN: &str = "DO SLEEP(0.2); SELECT COUNT(*) FROM information_schema.innodb_trx";

fn rolled_back(project: &Project, sql: &str, expected: &str) -> Result<()> {
    wait_until("the rollback to end", Duration::from_secs(120), || {
        Ok(project.sql(OPEN)?.trim() == "0")
    })?;
    assert_eq!(project.sql(sql)?, expected);
    Ok(())
}

/// The file of a tablespace cannot be created when InnoDB rolls back a transaction that
/// changed it. InnoDB would treat the tablespace as missing and skip the rollback, so
/// uncommitted changes would become permanent.
#[test]
fn a_tablespace_that_cannot_be_opened_is_not_taken_for_missing() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE t (a INT PRIMARY KEY, b INT NOT NULL, KEY (b)); \
         INSERT INTO d.t SELECT seq, 0 FROM seq_1_to_20000",
    )?;
    killed_in_a_transaction(&project, "UPDATE t SET b = 666")?;
    let compute = project.dir().join("computes/main");
    std::fs::write(
        compute.join("custom.cnf"),
        "[mariadbd]\ninnodb_page_server_retry_limit=3\n",
    )?;
    let data = compute.join("data");
    let before = main_log(&project)?.len();
    let mut ended = false;
    // The file may exist before its directory is closed, or the directory may be closed
    // before mariadbd's account owns it; then try again, sooner or later.
    let mut pause = Duration::ZERO;
    for _ in 0..40 {
        let since_log = main_log(&project)?.len();
        std::fs::remove_dir_all(&data)?;
        let mut start = project.command(&["compute", "start", "main"]);
        let start = start.stderr(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        // The last file that is written before mariadbd starts, which takes few
        // milliseconds to the first table.
        let since = Instant::now();
        while !data.join("ib_logfile0").exists() {
            ensure!(since.elapsed() < Duration::from_secs(60), "no base backup");
            std::thread::yield_now();
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "another process goes on meanwhile"
        )]
        std::thread::sleep(pause);
        let Some(closed) = Immutable::new(&data.join("d")) else {
            start.wait_with_output()?;
            eprintln!("no directory can be made immutable here: not tested");
            return Ok(());
        };
        let missed = data.join("d/t.ibd").exists();
        let (started, _) = said(start)?;
        if !main_log(&project)?[since_log..].contains("Starting MariaDB") {
            pause += Duration::from_millis(2);
            continue;
        }
        if missed {
            pause /= 2;
        }
        if !missed {
            // At the start, or when the rollback reaches the table.
            let crashed = wait_until("the compute to end", Duration::from_secs(60), || {
                Ok(project.compute()?["state"] == "crashed")
            });
            project.explained(crashed)?;
            ended = true;
        }
        drop(closed);
        if ended {
            break;
        }
        ensure!(started, "{}", main_log(&project)?);
        // That start rolled the transaction back. Start over.
        rolled_back(&project, "SELECT SUM(b) FROM d.t", "0\n")?;
        project.sql("DROP TABLE d.durable")?;
        killed_in_a_transaction(&project, "UPDATE t SET b = 666")?;
    }
    ensure!(ended, "the directory was never closed in time");
    let log = main_log(&project)?;
    let log = &log[before..];
    ensure!(log.contains("cannot make tablespace file"), "{log}");
    ensure!(
        log.contains("[FATAL] InnoDB: opening a tablespace failed"),
        "{log}"
    );
    project.start()?;
    rolled_back(&project, "SELECT SUM(b), COUNT(*) FROM d.t", "0\t20000\n")?;
    assert_eq!(project.check("d")?, Vec::<String>::new());
    Ok(())
}

/// Decompresses an LZ4 block, which a data block of a layer may be.
fn expand(packed: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0;
    let byte = |at: &mut usize| {
        *at += 1;
        packed.get(*at - 1).copied()
    };
    let long = |at: &mut usize, first: u8| -> Option<usize> {
        let mut len = usize::from(first);
        if first == 15 {
            loop {
                let more = byte(at)?;
                len += usize::from(more);
                if more != 255 {
                    break;
                }
            }
        }
        Some(len)
    };
    while at < packed.len() {
        let token = byte(&mut at)?;
        let literals = long(&mut at, token >> 4)?;
        out.extend_from_slice(packed.get(at..at + literals)?);
        at += literals;
        if at == packed.len() {
            break;
        }
        let back = usize::from(byte(&mut at)?) | usize::from(byte(&mut at)?) << 8;
        let len = long(&mut at, token & 15)? + 4;
        for _ in 0..len {
            out.push(*out.get(out.len().checked_sub(back)?)?);
        }
    }
    Some(out)
}

/// Flips a bit in every block of every layer that has the first page of the
/// tablespace `space` (docs/formats/layers.md), unless the block has pages of the system
/// tablespace as well: without its undo pages no compute starts.
fn damage_first_page(project: &Project, space: u32) -> Result<usize> {
    const SYSTEM: [u8; 6] = [9, 1, 0, 0, 0, 0];
    let mut key = vec![9, 1];
    key.extend(space.to_be_bytes());
    key.extend(0u32.to_be_bytes());
    let mut hits = 0;
    let mut dirs = vec![project.dir().join("server/store/branches")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            if path
                .extension()
                .is_none_or(|extension| extension != "layer")
            {
                continue;
            }
            let mut bytes = std::fs::read(&path)?;
            let mut at = 64;
            while at + 16 <= bytes.len() - 64 {
                let stored = u32::from_le_bytes(bytes[at + 12..at + 16].try_into()?) as usize;
                let payload = at + 16..at + 16 + stored;
                let (packed, data) = (bytes[at + 4], bytes[at + 5] == 1);
                let plain = match packed {
                    0 => Some(bytes[payload.clone()].to_vec()),
                    1 => expand(&bytes[payload.clone()]),
                    _ => None,
                };
                let has = |key: &[u8]| {
                    let plain = plain.as_deref().unwrap_or_default();
                    plain.windows(key.len()).any(|w| w == key)
                };
                if data && has(&key) && !has(&SYSTEM) {
                    bytes[payload.start + stored / 2] ^= 1;
                    hits += 1;
                }
                at = payload.end;
            }
            std::fs::write(&path, &bytes)?;
        }
    }
    Ok(hits)
}

/// Only a table whose first pages are damaged on the server is refused. A transaction that
/// was open in it and in another table stays open: rolling back only a part would make the
/// rest permanent.
#[test]
fn a_damaged_table_is_refused_and_its_transaction_stays_open() -> Result<()> {
    let project = Project::with(
        vec![("XYLEM_OPEN_LAYER_SIZE".to_owned(), "1MiB".to_owned())],
        &[],
    )?;
    project.up_in_place("16MiB")?;
    let table = "(a INT PRIMARY KEY, b INT NOT NULL, c VARBINARY(1000), KEY (b))";
    let rows = "SELECT seq, 0, RANDOM_BYTES(900) FROM seq_1_to_3000";
    // A damaged block with the end of one table and the beginning of the next damages
    // both, so the tables lie apart. Statistics would be in the same blocks.
    let mut sql = "SET GLOBAL innodb_stats_persistent = OFF; CREATE DATABASE d; USE d;".to_owned();
    for name in ["before_it", "t", "after_it", "other"] {
        sql += &format!(" CREATE TABLE {name} {table}; INSERT INTO {name} {rows};");
    }
    project.sql(&sql)?;
    killed_in_a_transaction(&project, "UPDATE other SET b = 666")?;
    project.start()?;
    rolled_back(&project, "SELECT SUM(b) FROM d.other", "0\n")?;
    project.sql("DROP TABLE d.durable")?;
    killed_in_a_transaction(
        &project,
        "BEGIN NOT ATOMIC UPDATE other SET b = 666; UPDATE t SET b = 666; END",
    )?;
    let page = project.json(&["inspect", "page", "main", "d/t:0", "--limit", "1"])?;
    let space = u32::try_from(page["space"].as_u64().context("space")?)?;
    project.xylem(&["down"])?;
    let hits = damage_first_page(&project, space)?;
    ensure!(
        hits > 0,
        "no block has the first page of tablespace {space}"
    );

    let epoch = |project: &Project| Ok::<_, anyhow::Error>(project.compute()?["pid"].clone());
    project.start()?;
    let pid = epoch(&project)?;
    wait_until("the rollback to stop", Duration::from_secs(60), || {
        Ok(main_log(&project)?.contains("stops at damage"))
    })?;
    for _ in 0..3 {
        let error = project.sql_error("SELECT COUNT(*) FROM d.t")?;
        ensure!(error.contains("1877"), "{error}");
        assert_eq!(
            project.sql("SELECT SUM(b), COUNT(*) FROM d.other")?,
            "0\t3000\n"
        );
    }
    assert_eq!(project.sql(OPEN)?, "1\n");
    let locked = "SET innodb_lock_wait_timeout = 1; UPDATE d.other SET b = 1 WHERE a = 5";
    let error = project.sql_error(locked)?;
    ensure!(error.contains("1205"), "{error}");
    project.sql("CREATE TABLE d.new (a INT); INSERT INTO d.new VALUES (1)")?;
    assert_eq!(epoch(&project)?, pid, "the compute must not end for it");
    // The compute stops when told to, and is in the same state after a restart.
    project.xylem(&["compute", "stop", "main"])?;
    project.start()?;
    assert_eq!(project.sql(OPEN)?, "1\n");
    // Once the table is dropped, the transaction can be rolled back.
    project.try_xylem(&["sql", "main", "-e", "DROP TABLE d.t"])?;
    let tables = project.sql("SHOW TABLES IN d")?;
    ensure!(!tables.lines().any(|table| table == "t"), "{tables}");
    project.xylem(&["compute", "stop", "main"])?;
    project.start()?;
    rolled_back(
        &project,
        "SELECT SUM(b), COUNT(*) FROM d.other",
        "0\t3000\n",
    )?;
    project.sql("UPDATE d.other SET b = 1 WHERE a = 5")?;
    Ok(())
}

/// `xylem up` in the foreground; it is ended on drop.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// A compute ends when its server does not answer for too long. `xylem up` starts it again.
#[test]
fn a_compute_that_ended_because_of_its_server_is_started_again() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1)",
    )?;
    let mut up = project.command(&["up"]);
    let mut up = up.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(up.stdout.take().context("a pipe")?).lines();
    let _up = Foreground(up);
    // From then on `xylem up` watches the compute.
    let said_all = lines.any(|line| line.is_ok_and(|line| line.contains("Ctrl-C")));
    ensure!(said_all, "xylem up ended");
    let pid = project.compute()?["pid"].clone();
    project.sql("SET GLOBAL innodb_page_server_retry_limit = 1")?;
    let stalled = Stalled::new(&project)?;
    let late = project.start_sql_on("main", "INSERT INTO d.t VALUES (2)")?;
    wait_until("the compute to end", Duration::from_secs(60), || {
        Ok(project.compute()?["state"] == "crashed")
    })?;
    ensure!(!said(late)?.0, "nothing is acknowledged without the server");
    drop(stalled);
    wait_until("the compute to run again", Duration::from_secs(120), || {
        let compute = project.compute()?;
        Ok(compute["state"] == "running" && compute["pid"] != pid)
    })?;
    assert_eq!(project.sql("SELECT MIN(a) FROM d.t")?, "1\n");
    // A compute that was stopped stays stopped.
    project.xylem(&["compute", "stop", "main"])?;
    ensure!(project.compute()?["state"] == "stopped");
    Ok(())
}
