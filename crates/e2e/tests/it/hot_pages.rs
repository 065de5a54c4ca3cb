//! A compute fills its buffer pool with the pages that the last one of the branch, or of
//! the branch's parent, used most.

use anyhow::{Result, ensure};
use std::time::Duration;
use xylem_e2e::{Project, wait_until};

const SCAN: &str = "SELECT SUM(b), BIT_XOR(CRC32(c)) FROM d.t";

/// Pages that a scan waits for or reads ahead, once the compute has read its list.
fn reads_of_scan(project: &Project, compute: &str) -> Result<u64> {
    wait_until("the list was not read", Duration::from_secs(60), || {
        let said: String = project.status_on(compute, "Innodb_buffer_pool_load_status")?;
        Ok(said.contains("load completed"))
    })?;
    let read = || -> Result<u64> {
        let waited: u64 = project.status_on(compute, "Innodb_page_server_pages_read")?;
        let ahead: u64 = project.status_on(compute, "Innodb_page_server_pages_read_async")?;
        Ok(waited + ahead)
    };
    let before = read()?;
    project.sql_on(compute, SCAN)?;
    Ok(read()? - before)
}

#[test]
fn computes_begin_with_the_hot_pages_of_the_ones_before() -> Result<()> {
    let project = Project::with(Vec::new(), &["--page-cache", "0"])?;
    project.up_in_place("64MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE t (a INT PRIMARY KEY, b INT NOT NULL, c VARBINARY(1000) NOT NULL); \
         INSERT INTO t SELECT seq, 1, RANDOM_BYTES(1000) FROM seq_1_to_20000; \
         SET GLOBAL innodb_buffer_pool_dump_pct = 100",
    )?;
    let sum = project.sql(SCAN)?;

    // After a stop.
    let list = project.dir().join("computes/main/data/xylem.start_pages");
    wait_until("the pages of the start", Duration::from_secs(60), || {
        Ok(list.exists())
    })?;
    project.xylem(&["compute", "stop", "main"])?;
    project.xylem(&["compute", "start", "main"])?;
    let read = reads_of_scan(&project, "main")?;
    ensure!(read < 50, "{read} pages read of about 1,400");
    assert_eq!(project.sql(SCAN)?, sum);

    // The pages of every start came at once; those that have changed since are not used.
    let used: u64 = project.status_on("main", "Innodb_page_server_start_pages_used")?;
    ensure!(used > 100, "{used} pages used");

    // So did the tablespaces: those of the start, and those of hot pages.
    let waits: u64 = project.status_on("main", "Innodb_page_server_tablespace_waits")?;
    ensure!(waits < 5, "{waits} tablespaces were waited for");

    // In a branch.
    project.xylem(&["branch", "create", "dev"])?;
    let read = reads_of_scan(&project, "dev")?;
    ensure!(read < 50, "{read} pages read of about 1,400");
    assert_eq!(project.sql_on("dev", SCAN)?, sum);
    project.xylem(&["branch", "rm", "dev", "--yes"])?;

    // The start's pages change at once, and leave the buffer pool.
    let ddl: String = (0..30)
        .map(|n| {
            format!("CREATE TABLE d.n{n} (a INT PRIMARY KEY); INSERT INTO d.n{n} VALUES ({n});")
        })
        .collect();
    for round in 0..3 {
        project.xylem(&["compute", "kill", "main"])?;
        project.xylem(&["compute", "start", "main"])?;
        project.sql(&format!(
            "{ddl} SET GLOBAL innodb_buffer_pool_size = 8388608; {SCAN}; {SCAN}"
        ))?;
        let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_name LIKE 'n%' \
                      AND table_schema = 'd'";
        assert_eq!(project.sql(tables)?, "30\n", "round {round}");
        let drop: String = (0..30).map(|n| format!("DROP TABLE d.n{n};")).collect();
        project.sql(&drop)?;
        ensure!(project.check("d")? == Vec::<String>::new());
    }
    project.xylem(&["compute", "stop", "main"])?;
    project.xylem(&["compute", "start", "main"])?;

    // After a kill: the list of now and then has the table that came since.
    project.sql(
        "CREATE TABLE d.u LIKE d.t; INSERT INTO d.u SELECT * FROM d.t; DROP TABLE d.t; \
         RENAME TABLE d.u TO d.t; SET GLOBAL innodb_buffer_pool_dump_pct = 100; \
         SET GLOBAL innodb_page_server_hot_pages_interval = 1",
    )?;
    wait_until("no list was written", Duration::from_secs(60), || {
        let said: String = project.status_on("main", "Innodb_buffer_pool_dump_status")?;
        Ok(said.contains("dump completed"))
    })?;
    project.xylem(&["compute", "kill", "main"])?;
    project.xylem(&["compute", "start", "main"])?;
    let read = reads_of_scan(&project, "main")?;
    ensure!(read < 300, "{read} pages read of about 1,400");
    assert_eq!(project.sql(SCAN)?, sum);
    Ok(())
}
