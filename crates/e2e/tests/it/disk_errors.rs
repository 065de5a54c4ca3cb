//! A disk of the server that returns EIO: statements wait or fail, nothing acknowledged is
//! lost, other branches are not affected, and everything continues once the disk works.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;
use tempfile::TempDir;
use xylem_e2e::{Project, wait_until};

/// A disk of the server that fails on demand.
struct Disk(TempDir);

impl Disk {
    fn new() -> Result<Disk> {
        let dir = tempfile::tempdir()?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk_errors/eio.c");
        let status = Command::new("cc")
            .args(["-O", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(dir.path().join("eio.so"))
            .arg(source)
            .status()
            .context("cannot run cc")?;
        ensure!(status.success(), "cc {source}: {status}");
        Ok(Disk(dir))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The environment of a server on this disk, with little memory.
    fn env(&self) -> Vec<(String, String)> {
        let here = |name| self.path(name).display().to_string();
        [
            ("LD_PRELOAD", here("eio.so")),
            ("EIO_ON_DEMAND", here("")),
            ("XYLEM_MEMORY", "32MiB".to_owned()),
            ("XYLEM_OPEN_LAYER_SIZE", "1MiB".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Makes the operation `what` (`read`, `sync`) fail for files with `part` in their
    /// path.
    fn fail(&self, what: &str, part: &str) -> Result<()> {
        // Renamed into place, so that the file is never incomplete.
        fs::write(self.path("new"), part)?;
        Ok(fs::rename(self.path("new"), self.path(what))?)
    }

    fn heal(&self, what: &str) -> Result<()> {
        Ok(fs::remove_file(self.path(what))?)
    }
}

/// The branch whose files are on the failing disk. The branch has no child branches that
/// could read them.
const ILL: &str = "dev";
const WELL: &str = "main";

/// A project with two branches, each with a table `d.t`. On the branch that will fail,
/// the table has `rows` rows of 250 bytes.
fn project(disk: &Disk, rows: u32) -> Result<Project> {
    // Pages come from the server's disk, and from nowhere else.
    let project = Project::with(disk.env(), &["--page-cache", "0"])?;
    project.up_in_place("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b CHAR(250) NOT NULL)")?;
    project.xylem(&["branch", "create", ILL])?;
    project.xylem(&["compute", "start", ILL])?;
    project.sql_on(
        ILL,
        &format!("USE d; INSERT INTO t SELECT seq, MD5(seq) FROM seq_1_to_{rows}"),
    )?;
    Ok(project)
}

fn id_of_ill(project: &Project) -> Result<String> {
    let branch = project.branch(ILL)?;
    Ok(branch["id"].as_str().context("no id")?.to_owned())
}

/// Kills the server and the compute of the failed branch, removes the compute's directory,
/// and starts both again.
fn lose_all(project: &Project) -> Result<()> {
    project.kill_server()?;
    let compute = project.compute_named(ILL)?;
    project.xylem(&["compute", "kill", ILL])?;
    fs::remove_dir_all(compute["dir"].as_str().context("no dir")?)?;
    project.start()?;
    project.xylem(&["compute", "start", ILL])?;
    Ok(())
}

/// Waits for a client that must succeed; returns its output.
fn answer(child: Child) -> Result<String> {
    let out = child.wait_with_output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8(out.stdout)?)
}

/// Waits until `log` contains the disk's error.
fn told(project: &Project, log: &str) -> Result<()> {
    wait_until("a log to tell of it", Duration::from_secs(60), || {
        let log = fs::read_to_string(project.dir().join(log))?;
        Ok(log.contains("Input/output error"))
    })
}

/// Checks that the branch can read and write.
fn goes_on(project: &Project, branch: &str, key: u32) -> Result<()> {
    let sql = format!("INSERT INTO d.t VALUES ({key}, 'x'); SELECT b FROM d.t WHERE a = {key}");
    assert_eq!(project.sql_on(branch, &sql)?, "x\n");
    Ok(())
}

#[test]
fn reads_wait_for_layers_that_cannot_be_read() -> Result<()> {
    let disk = Disk::new()?;
    let project = project(&disk, 200_000)?;
    let id = id_of_ill(&project)?;
    wait_until("the rows to be in layers", Duration::from_secs(60), || {
        Ok(project.branch(ILL)?["layer_bytes"].as_u64() > Some(4 << 20))
    })?;
    disk.fail("read", &format!("store/branches/{id}/"))?;
    let mut read = project.start_sql_on(ILL, "SELECT COUNT(*), SUM(b = MD5(a)) FROM d.t")?;
    told(&project, &format!("computes/{ILL}/mariadbd.log"))?;
    for key in 10..30 {
        goes_on(&project, WELL, key)?;
    }
    ensure!(read.try_wait()?.is_none(), "pages came from nowhere");
    disk.heal("read")?;
    assert_eq!(answer(read)?, "200000\t200000\n");
    assert_eq!(project.check_on(ILL, "d")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn layers_that_cannot_be_synced_are_written_anew() -> Result<()> {
    let disk = Disk::new()?;
    let project = project(&disk, 1000)?;
    let id = id_of_ill(&project)?;
    disk.fail("sync", &format!("store/branches/{id}/"))?;
    // More than the server's memory holds, so ingest waits for memory.
    let writer = project.start_sql_on(
        ILL,
        "USE d; INSERT INTO t SELECT seq, MD5(seq) FROM seq_1001_to_20000",
    )?;
    told(&project, "server.log")?;
    for key in 10..30 {
        goes_on(&project, WELL, key)?;
    }
    disk.heal("sync")?;
    answer(writer)?;
    goes_on(&project, ILL, 30_000)?;
    lose_all(&project)?;
    assert_eq!(
        project.sql_on(ILL, "SELECT COUNT(*), SUM(b = MD5(a)) FROM d.t")?,
        "20001\t20000\n"
    );
    assert_eq!(project.check_on(ILL, "d")?, Vec::<String>::new());
    Ok(())
}

/// After a failed sync the page cache proves nothing about the WAL on disk. The branch
/// acknowledges no commits until the WAL is reopened, which writes unsynced entries again.
#[test]
fn a_log_that_cannot_be_synced_is_opened_anew_by_hand() -> Result<()> {
    let disk = Disk::new()?;
    let project = project(&disk, 10)?;
    let id = id_of_ill(&project)?;
    disk.fail("sync", &format!("{id}/wal/"))?;
    let mut commit = project.start_sql_on(ILL, "INSERT INTO d.t VALUES (11, 'late')")?;
    wait_until("the log to fail", Duration::from_secs(60), || {
        Ok(project.branch(ILL)?["state"] == "stopped")
    })?;
    let trouble = project.branch(ILL)?["trouble"].to_string();
    ensure!(trouble.contains("Input/output error"), "{trouble}");
    told(&project, &format!("computes/{ILL}/mariadbd.log"))?;
    goes_on(&project, WELL, 10)?;
    let out = project.try_xylem(&["branch", "reopen", ILL])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        !out.status.success() && said.contains("Input/output error"),
        "{said}"
    );
    ensure!(
        commit.try_wait()?.is_none(),
        "a commit was acknowledged that nothing made durable"
    );
    disk.heal("sync")?;
    project.xylem(&["branch", "reopen", ILL])?;
    answer(commit)?;
    goes_on(&project, ILL, 12)?;
    goes_on(&project, WELL, 12)?;
    lose_all(&project)?;
    assert_eq!(
        project.sql_on(ILL, "SELECT a, b FROM d.t WHERE a > 10")?,
        "11\tlate\n12\tx\n"
    );
    assert_eq!(project.check_on(ILL, "d")?, Vec::<String>::new());
    Ok(())
}
