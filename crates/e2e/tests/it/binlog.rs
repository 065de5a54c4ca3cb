//! A branch's own binary log: it is there after the loss of a compute, replicas go on, and
//! another branch has none of it.

use anyhow::{Context, Result, bail, ensure};
use mysql::prelude::Queryable;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use xylem_e2e::Project;
use xylem_e2e::replica::Replica;
use xylem_e2e::rounds::connect;

fn with_log() -> Result<Project> {
    let project = Project::with(Vec::new(), &["--", "--log-bin"])?;
    project.up_in_place("32MiB")?;
    Ok(project)
}

/// The directory with the data of a compute.
fn data_of(project: &Project, compute: &str) -> Result<PathBuf> {
    let record = project.compute_named(compute)?;
    let dir = record["dir"].as_str().context("no directory")?;
    Ok(PathBuf::from(dir).join("data"))
}

/// The names of the files of the binary log, as the compute lists them.
fn logs(project: &Project, compute: &str) -> Result<Vec<String>> {
    let rows = project.sql_on(compute, "SHOW BINARY LOGS")?;
    let names = rows.lines().filter_map(|row| row.split('\t').next());
    Ok(names.map(str::to_owned).collect())
}

/// A file of main's log, as MariaDB's own tool fetches it.
fn remote(project: &Project, file: &str) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    let port = project.compute()?["port"].to_string();
    let tool = project.home().join("mariadb/usr/bin/mariadb-binlog");
    let out = Command::new(tool)
        .args([
            "--no-defaults",
            "--read-from-remote-server",
            "--raw",
            "-h127.0.0.1",
        ])
        .args(["-ureader", "-pr", "-P", &port, file])
        .current_dir(dir.path())
        .output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(std::fs::read(dir.path().join(file))?)
}

/// A thread that inserts the numbers `first`, `first + step`, … into d.t. Returns how many
/// were acknowledged.
fn writing(
    project: &Project,
    first: u64,
    step: u64,
    stop: &Arc<AtomicBool>,
) -> Result<(Arc<AtomicU64>, JoinHandle<()>)> {
    let mut connection = connect(project)?;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let (stop, done) = (Arc::clone(stop), Arc::clone(&acknowledged));
    let thread = std::thread::spawn(move || {
        let mut next = first;
        while !stop.load(Ordering::SeqCst) {
            if connection
                .query_drop(format!("INSERT INTO d.t VALUES ({next})"))
                .is_err()
            {
                break;
            }
            next += step;
            done.fetch_add(1, Ordering::SeqCst);
        }
    });
    Ok((acknowledged, thread))
}

#[test]
fn a_branch_has_all_that_was_acknowledged() -> Result<()> {
    const WRITERS: u64 = 6;
    let project = with_log()?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY)")?;
    let stop = Arc::new(AtomicBool::new(false));
    let writers = (0..WRITERS)
        .map(|first| writing(&project, first, WRITERS, &stop))
        .collect::<Result<Vec<_>>>()?;
    for round in 0..6 {
        std::thread::sleep(Duration::from_millis(300));
        let before: Vec<u64> = writers
            .iter()
            .map(|(done, _)| done.load(Ordering::SeqCst))
            .collect();
        // A branch, or a reader of a moment.
        let compute = match round % 2 {
            0 => {
                let name = format!("dev{round}");
                project.xylem(&["branch", "create", &name])?;
                project.xylem(&["compute", "start", &name])?;
                name
            }
            _ => {
                let started = project.json(&["compute", "start", "main", "--read-only"])?;
                started["name"].as_str().context("no name")?.to_owned()
            }
        };
        for (first, before) in before.iter().enumerate() {
            let there = project.sql_on(
                &compute,
                &format!("SELECT COUNT(*) FROM d.t WHERE a % {WRITERS} = {first}"),
            )?;
            let there: u64 = there.trim().parse()?;
            ensure!(
                there >= *before,
                "round {round}: {there} of {before} acknowledged"
            );
        }
        project.xylem(&["compute", "stop", &compute])?;
    }
    stop.store(true, Ordering::SeqCst);
    for (_, thread) in writers {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a writer panicked"))?;
    }
    Ok(())
}

/// What a branch shows at a moment, as `branch show --at` says.
fn moment(project: &Project, at: &str) -> Result<serde_json::Value> {
    project.json(&["branch", "show", "main", "--at", at])
}

#[test]
fn a_branch_at_a_gtid_has_exactly_what_is_up_to_it() -> Result<()> {
    const WRITERS: u32 = 8;
    let project = with_log()?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT AUTO_INCREMENT PRIMARY KEY, b INT); \
         SET GLOBAL binlog_commit_wait_count = 6; SET GLOBAL binlog_commit_wait_usec = 50000",
    )?;
    // Each transaction with its GTID, many of them in one group.
    let threads = (0..WRITERS)
        .map(|_| {
            let mut connection = connect(&project)?;
            Ok(std::thread::spawn(
                move || -> Result<Vec<(u64, u64, String)>> {
                    let mut made = Vec::new();
                    for _ in 0..25 {
                        connection.query_drop("INSERT INTO d.t (b) VALUES (1)")?;
                        let row = connection.query_first("SELECT LAST_INSERT_ID(), @@last_gtid")?;
                        let (id, gtid): (u64, String) = row.context("no row")?;
                        let seq = gtid.rsplit('-').next().context("no number")?.parse()?;
                        made.push((seq, id, gtid));
                    }
                    Ok(made)
                },
            ))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut made = Vec::new();
    for thread in threads {
        made.extend(
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a writer panicked"))??,
        );
    }
    made.sort();
    project.sql("FLUSH BINARY LOGS; INSERT INTO d.t (b) VALUES (2)")?;

    let expected = |count: usize| {
        let mut ids: Vec<u64> = made[..count].iter().map(|(_, id, _)| *id).collect();
        ids.sort_unstable();
        ids.iter().map(|id| format!("{id}\n")).collect::<String>()
    };
    let mut lsns = std::collections::BTreeSet::new();
    // Neighbours, which are in one group, and far ones.
    for (nth, count) in [100, 101, 102, 103, 104, 105, 1, 200]
        .into_iter()
        .enumerate()
    {
        let gtid = &made[count - 1].2;
        let name = format!("at{nth}");
        let created = project.json(&["branch", "create", &name, "--at-gtid", gtid])?;
        lsns.insert(created["branch_point_lsn"].as_u64());
        // A branch of a branch that never ran ends there as well.
        let below = format!("below{nth}");
        project.xylem(&["branch", "create", &below, "--from", &name])?;
        for branch in [&name, &below] {
            let rows = project.sql_on(branch, "SELECT a FROM d.t ORDER BY a")?;
            assert_eq!(rows, expected(count), "{branch}, {gtid}");
            project.xylem(&["compute", "stop", branch])?;
        }
        assert_eq!(moment(&project, &format!("gtid:{gtid}"))?["gtid"], **gtid);
    }
    ensure!(
        lsns.len() < 8,
        "no two transactions were in one group: {lsns:?}"
    );

    // A moment's position is that of its data.
    let first = moment(&project, &format!("gtid:{}", made[40].2))?["lsn"].as_u64();
    let last = moment(&project, &format!("gtid:{}", made[160].2))?["lsn"].as_u64();
    let (first, last) = (first.context("no LSN")?, last.context("no LSN")?);
    for nth in 0..4 {
        let lsn = first + (last - first) * nth / 4 + nth;
        let told = moment(&project, &lsn.to_string())?;
        let position = told["gtid"].as_str().context("no GTID")?;
        let count = made.iter().position(|(_, _, gtid)| gtid == position);
        let count = count.with_context(|| format!("{position} at {lsn}"))? + 1;
        let name = format!("lsn{nth}");
        project.xylem(&["branch", "create", &name, "--at", &lsn.to_string()])?;
        let rows = project.sql_on(&name, "SELECT a FROM d.t ORDER BY a")?;
        assert_eq!(rows, expected(count), "{lsn}, {position}");
        project.xylem(&["compute", "stop", &name])?;
    }

    // What cannot be found is said.
    let fails = |args: &[&str]| -> Result<String> {
        let out = project.try_xylem(args)?;
        ensure!(!out.status.success(), "{args:?}");
        Ok(String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let unknown = made[0].2.rsplit_once('-').context("no GTID")?.0.to_owned() + "-99999";
    let said = fails(&["branch", "create", "x", "--at-gtid", &unknown])?;
    ensure!(said.contains("is not in its binary log"), "{said}");
    let said = fails(&["branch", "create", "x", "--at-gtid", "0-1"])?;
    ensure!(said.contains("DOMAIN-SERVER-SEQUENCE"), "{said}");
    project.sql("FLUSH BINARY LOGS; PURGE BINARY LOGS TO 'binlog.000003'")?;
    let said = fails(&["branch", "create", "x", "--at-gtid", &made[5].2])?;
    ensure!(said.contains("was purged"), "{said}");

    // A restore, which loses the last row.
    let last = project.sql("INSERT INTO d.t (b) VALUES (3); SELECT @@last_gtid")?;
    project.sql("INSERT INTO d.t (b) VALUES (4)")?;
    project.xylem(&["branch", "restore", "main", "--at-gtid", last.trim()])?;
    project.xylem(&["compute", "start", "main"])?;
    assert_eq!(project.sql("SELECT MAX(b) FROM d.t")?, "3\n");
    Ok(())
}

#[test]
fn a_replica_goes_on_after_the_loss_of_computes_and_servers() -> Result<()> {
    let project = with_log()?;
    ensure!(project.sql("SELECT @@log_bin, @@sync_binlog")? == "1\t1\n");
    let replica = Replica::of(&project)?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b LONGTEXT)")?;
    let mut next = 0;
    for round in 0..4 {
        // Rows are written until the kill; the last one may be there or not.
        let stop = Arc::new(AtomicBool::new(false));
        let mut connection = connect(&project)?;
        let stopped = Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                // Some of them take many writes to the log, and are cut off in the middle.
                let length = if next % 3 == 0 { 900_000 } else { next % 200 };
                let insert =
                    format!("INSERT INTO d.t VALUES ({next}, REPEAT(UUID(), {length} / 36))");
                if connection.query_drop(insert).is_err() {
                    break;
                }
                next += 1;
            }
            next
        });
        std::thread::sleep(Duration::from_millis(700));
        if round % 2 == 1 {
            project.kill_server()?;
        }
        project.lose_compute()?;
        stop.store(true, Ordering::SeqCst);
        next = writer
            .join()
            .map_err(|_| anyhow::anyhow!("the writer panicked"))?;
        if round % 2 == 1 {
            project.start()?;
        } else {
            project.xylem(&["compute", "start", "main"])?;
        }
        let log = std::fs::read_to_string(data_of(&project, "main")?.join("binlog.index"))?;
        ensure!(log.lines().count() == round + 2, "{log}");
        // All that was acknowledged is there.
        let there: i32 = project.sql("SELECT COUNT(*) FROM d.t")?.trim().parse()?;
        ensure!(there == next || there == next + 1, "{there} of {next}");
        next = there;
        replica.follows(&project, &["d.t"])?;
    }
    Ok(())
}

#[test]
fn a_branch_has_a_log_and_an_identity_of_its_own() -> Result<()> {
    let project = with_log()?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); FLUSH BINARY LOGS")?;
    project.sql("INSERT INTO d.t VALUES (1)")?;
    // A clean end leaves the state of the log.
    project.xylem(&["compute", "stop", "main"])?;
    project.xylem(&["compute", "start", "main"])?;
    let position = project.sql("SELECT @@gtid_binlog_pos")?;
    project.sql("INSERT INTO d.t VALUES (2)")?;
    let kept = logs(&project, "main")?;
    assert_eq!(kept, ["binlog.000001", "binlog.000002", "binlog.000003"]);

    project.xylem(&["branch", "create", "dev"])?;
    project.xylem(&["compute", "start", "dev"])?;
    assert_eq!(logs(&project, "dev")?, ["binlog.000001"]);
    let identity = "SELECT @@server_id, @@gtid_domain_id";
    assert_ne!(project.sql_on("dev", identity)?, project.sql(identity)?);
    assert_eq!(
        project.sql_on("dev", "SELECT @@gtid_binlog_pos")?.trim(),
        ""
    );
    project.sql_on("dev", "INSERT INTO d.t VALUES (3)")?;
    let theirs = project.sql_on("dev", "SELECT @@gtid_binlog_pos")?;
    assert_ne!(theirs.split('-').next(), position.split('-').next());

    // Nothing of the parent's log comes back, and its own is kept.
    project.xylem(&["compute", "kill", "dev"])?;
    std::fs::remove_dir_all(data_of(&project, "dev")?)?;
    project.xylem(&["compute", "start", "dev"])?;
    assert_eq!(logs(&project, "dev")?, ["binlog.000001", "binlog.000002"]);
    assert_eq!(project.sql_on("dev", "SELECT @@gtid_binlog_pos")?, theirs);
    let mut files: Vec<String> = std::fs::read_dir(data_of(&project, "dev")?)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    files.retain(|name| name.starts_with("binlog."));
    files.sort();
    assert_eq!(files, ["binlog.000001", "binlog.000002", "binlog.index"]);

    // The parent's is untouched, and a restored branch begins anew.
    assert_eq!(logs(&project, "main")?, kept);
    let moment = project.branch("main")?["last_lsn"].to_string();
    project.xylem(&["branch", "restore", "main", "--at", &moment])?;
    project.xylem(&["compute", "start", "main"])?;
    assert_eq!(logs(&project, "main")?, ["binlog.000001"]);
    assert_eq!(project.sql("SELECT COUNT(*) FROM d.t")?, "2\n");
    Ok(())
}

#[test]
fn a_server_that_cannot_send_its_log_ends() -> Result<()> {
    let args = ["--", "--log-bin", "--innodb-page-server-retry-limit=2"];
    let project = Project::with(Vec::new(), &args)?;
    project.up_in_place("32MiB")?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1)",
    )?;
    let mut connection = connect(&project)?;
    project.kill_server()?;
    // The client must not be told that the transaction failed: the log may have it.
    match connection.query_drop("INSERT INTO d.t VALUES (2)") {
        Err(mysql::Error::MySqlError(error)) => bail!("the server said {error}"),
        Err(_) => {}
        Ok(()) => bail!("acknowledged without a page server"),
    }
    project.start()?;
    let rows = project.sql("SELECT COUNT(*) FROM d.t")?;
    let events = project.sql("SHOW BINLOG EVENTS IN 'binlog.000001'")?;
    let logged = events.matches("INSERT INTO d.t").count();
    ensure!(rows.trim() == logged.to_string(), "{rows} rows, {events}");
    Ok(())
}

#[test]
fn what_is_purged_is_gone_and_what_is_large_is_kept() -> Result<()> {
    let project = with_log()?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b LONGTEXT); \
         INSERT INTO d.t VALUES (1, 'a'); FLUSH BINARY LOGS; INSERT INTO d.t VALUES (2, 'b'); \
         FLUSH BINARY LOGS; PURGE BINARY LOGS TO 'binlog.000002'",
    )?;
    // More than a side file of another kind may have.
    for row in 3..13 {
        project.sql(&format!(
            "INSERT INTO d.t VALUES ({row}, REPEAT(UUID(), 230000))"
        ))?;
    }
    let listed = project.sql("SHOW BINARY LOGS")?;
    let size: u64 = listed
        .lines()
        .last()
        .and_then(|row| row.split('\t').nth(1))
        .context("no size")?
        .parse()?;
    ensure!(size > 80_000_000, "{listed}");
    let second = std::fs::metadata(data_of(&project, "main")?.join("binlog.000002"))?.modified()?;
    project.sql("FLUSH BINARY LOGS; INSERT INTO d.t VALUES (13, 'c'); FLUSH BINARY LOGS")?;
    let content = std::fs::read(data_of(&project, "main")?.join("binlog.000003"))?;
    project.lose_compute()?;
    let started = Instant::now();
    project.xylem(&["compute", "start", "main"])?;
    println!("started in {:?}", started.elapsed());
    assert_eq!(
        logs(&project, "main")?,
        [2, 3, 4, 5, 6].map(|number| format!("binlog.{number:06}"))
    );
    let data = data_of(&project, "main")?;
    ensure!(!data.join("binlog.000001").exists(), "purged");
    // After a clean stop nothing of the log is read. What is read comes then, and only that.
    project.sql(
        "CREATE USER reader@'127.0.0.1' IDENTIFIED BY 'r'; \
         GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO reader@'127.0.0.1'",
    )?;
    project.xylem(&["compute", "stop", "main"])?;
    project.xylem(&["compute", "start", "main"])?;
    let file = |number: u32| std::fs::metadata(data.join(format!("binlog.{number:06}")));
    let on_disk = |number| -> Result<u64> { Ok(file(number)?.blocks() * 512) };
    for number in 2..7 {
        ensure!(on_disk(number)? < 64 << 10, "{number}");
    }
    let events = project.sql("SHOW BINLOG EVENTS IN 'binlog.000002'")?;
    ensure!(
        events.contains("COMMIT") || events.contains("Xid"),
        "{events}"
    );
    ensure!(on_disk(3)? < 64 << 10);
    let before = file(3)?.modified()?;
    let kept = remote(&project, "binlog.000003")?;
    ensure!(on_disk(3)? > 80_000_000);
    // The mark of a log that is in use is taken away.
    ensure!(kept.len() == content.len() && kept[64..] == content[64..]);
    // MariaDB removes logs by the time of their last change, which reading does not change.
    assert_eq!(file(3)?.modified()?, before);
    let again = file(2)?.modified()?;
    let apart = again
        .duration_since(second)
        .unwrap_or_else(|e| e.duration());
    ensure!(apart < Duration::from_secs(5), "{apart:?}");
    ensure!(project.sql("SELECT @@max_binlog_size")? == "134217728\n");

    // A read-only compute and an export have none of it.
    let started = project.json(&["compute", "start", "main", "--read-only"])?;
    let reader = started["name"].as_str().context("no name")?;
    assert_eq!(project.sql_on(reader, "SELECT @@log_bin")?, "0\n");
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("out");
    project.xylem(&["export", "main", &out.to_string_lossy()])?;
    let exported = std::fs::read_dir(&out)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        !exported.iter().any(|name| name.starts_with("binlog")),
        "{exported:?}"
    );
    Ok(())
}
