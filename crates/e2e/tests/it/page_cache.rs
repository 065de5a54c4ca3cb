//! The page cache of a compute: it spares reads from the server, survives a restart, and
//! never shows an old page.

use anyhow::{Result, ensure};
use rustix::fs::FallocateFlags;
use xylem_e2e::Project;

/// A status variable of the page server's client on `main`.
fn status(project: &Project, name: &str) -> Result<u64> {
    project.status_on("main", &format!("Innodb_page_server_{name}"))
}

/// Pages read from the server and from the cache by `sql`.
fn reads(project: &Project, sql: &str) -> Result<(u64, u64)> {
    let both = || -> Result<(u64, u64)> {
        let read = status(project, "pages_read")? + status(project, "pages_read_async")?;
        Ok((read, status(project, "cache_hits")?))
    };
    let before = both()?;
    project.sql(sql)?;
    let after = both()?;
    Ok((after.0 - before.0, after.1 - before.1))
}

/// About 100 MiB, of which a buffer pool of 16 MiB holds little.
fn fill(project: &Project) -> Result<()> {
    project.sql(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE t (a INT PRIMARY KEY, b INT NOT NULL, c VARBINARY(1000) NOT NULL); \
         INSERT INTO t SELECT seq, 0, RANDOM_BYTES(1000) FROM seq_1_to_100000",
    )?;
    Ok(())
}

const SCAN: &str = "SELECT SUM(b), BIT_XOR(CRC32(c)) FROM d.t";

#[test]
fn pages_that_the_buffer_pool_gave_up_come_from_the_cache() -> Result<()> {
    let project = Project::up("16MiB")?;
    fill(&project)?;
    let before = project.sql(SCAN)?;
    let (read, hits) = reads(&project, SCAN)?;
    ensure!(hits > 4000 && read < hits / 10, "{read} read, {hits} hits");

    // Each page changes, and the new version is found, by reads and by read-ahead.
    project.sql("UPDATE d.t SET b = 1")?;
    let (read, hits) = reads(&project, SCAN)?;
    ensure!(hits > 4000 && read < hits / 10, "{read} read, {hits} hits");
    let after = project.sql(SCAN)?;
    assert_eq!(after, before.replacen('0', "100000", 1));

    // A tablespace of the same identifier begins anew.
    let dir = project.dir().join("computes/main/data/d");
    project.sql("USE d; CREATE TABLE i LIKE t; INSERT INTO i SELECT * FROM t WHERE a <= 20000")?;
    let kept = project.dir().join("kept");
    std::fs::create_dir(&kept)?;
    project.sql(&format!(
        "FLUSH TABLES d.i FOR EXPORT;\nsystem cp {0}/i.ibd {0}/i.cfg {1}\nUNLOCK TABLES;",
        dir.display(),
        kept.display()
    ))?;
    project.sql("UPDATE d.i SET b = 7")?;
    project.sql("SELECT SUM(b) FROM d.i; SELECT COUNT(*) FROM d.t")?;
    project.sql(&format!(
        "ALTER TABLE d.i DISCARD TABLESPACE;\nsystem cp {1}/* {0}/ && chown --reference={0} {0}/i.*\n",
        dir.display(),
        kept.display()
    ))?;
    project.sql("ALTER TABLE d.i IMPORT TABLESPACE")?;
    assert_eq!(project.sql("SELECT SUM(b) FROM d.i")?, "20000\n");
    assert_eq!(project.check("d")?, Vec::<String>::new());
    assert_eq!(status(&project, "cache_damaged")?, 0);
    Ok(())
}

#[test]
fn a_restart_finds_the_pages_again_and_a_kill_does_not() -> Result<()> {
    let project = Project::up("16MiB")?;
    fill(&project)?;
    project.sql("UPDATE d.t SET b = 1")?;
    let sum = project.sql(SCAN)?;
    project.xylem(&["compute", "stop", "main"])?;
    project.xylem(&["compute", "start", "main"])?;
    ensure!(status(&project, "cache_pages")? > 4000);
    let (read, hits) = reads(&project, SCAN)?;
    ensure!(hits > 4000 && read < hits / 10, "{read} read, {hits} hits");
    assert_eq!(project.sql(SCAN)?, sum);

    // The buffer pool has changes that the file does not have.
    project.sql("UPDATE d.t SET b = 2 WHERE a % 10 = 0")?;
    let sum = project.sql(SCAN)?;
    project.xylem(&["compute", "kill", "main"])?;
    project.xylem(&["compute", "start", "main"])?;
    ensure!(status(&project, "cache_pages")? < 2000);
    assert_eq!(project.sql(SCAN)?, sum);

    // Another compute of the branch wrote in between.
    project.xylem(&["compute", "stop", "main"])?;
    let cache = project.dir().join("computes/main/cache");
    let aside = project.dir().join("aside");
    std::fs::rename(&cache, &aside)?;
    project.xylem(&["compute", "start", "main"])?;
    project.sql("UPDATE d.t SET b = 3")?;
    let sum = project.sql(SCAN)?;
    project.xylem(&["compute", "stop", "main"])?;
    std::fs::remove_dir_all(&cache)?;
    std::fs::rename(&aside, &cache)?;
    project.xylem(&["compute", "start", "main"])?;
    ensure!(status(&project, "cache_pages")? < 2000);
    assert_eq!(project.sql(SCAN)?, sum);
    assert_eq!(project.check("d")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn the_cache_can_be_left_out() -> Result<()> {
    let project = Project::with(Vec::new(), &["--page-cache", "0"])?;
    project.up_in_place("16MiB")?;
    assert_eq!(status(&project, "cache_size")?, 0);
    fill(&project)?;
    project.sql(SCAN)?;
    let (read, hits) = reads(&project, SCAN)?;
    ensure!(read > 4000 && hits == 0, "{read} read, {hits} hits");
    Ok(())
}

/// Each hit after the disk lost its bytes is read elsewhere.
#[test]
fn a_damaged_file_is_not_believed() -> Result<()> {
    let project = Project::up("16MiB")?;
    fill(&project)?;
    let sum = project.sql(SCAN)?;
    let file = project.dir().join("computes/main/cache/pages");
    let size = std::fs::metadata(&file)?.len();
    let open = std::fs::OpenOptions::new().write(true).open(&file)?;
    // In one step: the compute takes a file that is shorter meanwhile for a failed disk.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&open, hole, 0, size)?;
    assert_eq!(project.sql(SCAN)?, sum);
    ensure!(status(&project, "cache_damaged")? > 1000);
    ensure!(status(&project, "cache_size")? > 0);
    // The file ends: the disk fails.
    open.set_len(0)?;
    assert_eq!(project.sql(SCAN)?, sum);
    assert_eq!(status(&project, "cache_size")?, 0);
    let log = std::fs::read_to_string(project.dir().join("computes/main/mariadbd.log"))?;
    ensure!(log.contains("cannot read page cache"), "{log}");
    Ok(())
}
