//! Tables whose files cannot be created. InnoDB logs the creation first, so the page
//! server already has their tablespaces.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xylem_e2e::small::Small;
use xylem_e2e::{Project, wait_until};

/// The data files of database `d` in an export of a branch.
fn exported(project: &Project, branch: &str) -> Result<Vec<String>> {
    let dir = tempfile::tempdir()?;
    let place = dir.path().join("out");
    project.xylem(&["export", branch, &place.to_string_lossy()])?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(place.join("d"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".ibd").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Whether a branch has a tablespace for a table now.
fn has(project: &Project, branch: &str, table: &str) -> Result<bool> {
    let page = format!("{table}:0");
    let out = project.try_xylem(&["inspect", "page", branch, &page])?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(
        out.status.success() || said.contains("there is no table"),
        "{said}"
    );
    Ok(out.status.success())
}

/// The first file below a directory whose name has the given ending.
fn find(dir: &Path, end: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let ends = |path: &&PathBuf| path.is_file() && path.to_string_lossy().ends_with(end);
    let here = entries.iter().find(ends).cloned();
    here.or_else(|| entries.iter().find_map(|path| find(path, end)))
}

/// The LSNs at which the branch's WAL contains a text, as `xylem inspect` prints it.
fn logged(project: &Project, text: &str) -> Result<Vec<u64>> {
    let log = find(&project.dir().join("server"), ".wal").context("no WAL")?;
    let log = log.parent().context("no directory")?.to_string_lossy();
    let log = project.json(&["inspect", "wal", &log, "--records", "--limit", "0"])?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mtrs = list(&log["entries"])
        .into_iter()
        .flat_map(|e| list(&e["mtrs"]));
    let says = |mtr: &Value| {
        let records = list(&mtr["records"]);
        let mut texts = records.iter().filter_map(|r| r["text"].as_str());
        texts.any(|t| t.contains(text))
    };
    Ok(mtrs
        .filter(says)
        .filter_map(|mtr| mtr["end_lsn"].as_u64())
        .collect())
}

/// Checks a table that could finally be created: on a branch, on a fresh compute, and in
/// an export with the given data files.
fn goes_on(project: &Project, table: &str, files: &[&str]) -> Result<()> {
    project.sql(&format!("INSERT INTO {table} VALUES (1), (2), (3)"))?;
    let sum = format!("SELECT SUM(a) FROM {table}");
    project.xylem(&["branch", "create", "dev"])?;
    assert_eq!(project.sql_on("dev", &sum)?, "6\n");
    assert_eq!(project.check_on("dev", "d")?, Vec::<String>::new());
    project.lose_compute()?;
    project.start()?;
    assert_eq!(project.sql(&sum)?, "6\n");
    assert_eq!(project.check("d")?, Vec::<String>::new());
    assert_eq!(exported(project, "main")?, files);
    Ok(())
}

#[test]
fn a_table_whose_file_is_in_the_way_leaves_nothing() -> Result<()> {
    const TABLES: u32 = 10;
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; USE d; CREATE TABLE d.t0 (a INT PRIMARY KEY)")?;
    let data = project.dir().join("computes/main/data/d");
    let create = |table: &str| format!("CREATE TABLE d.{table} (a INT PRIMARY KEY)");
    let parts = "PARTITION BY HASH (a) PARTITIONS 3";
    // The rollback asks the page server, which has ingested some creations by then.
    for n in 0..TABLES {
        let file = data.join(format!("taken{n}.ibd"));
        std::fs::write(&file, "somebody's")?;
        let error = project.sql_error(&create(&format!("taken{n}")))?;
        ensure!(error.contains("Tablespace"), "{error}");
        assert_eq!(std::fs::read(&file)?, b"somebody's", "{n}");
    }
    let file = data.join("parts#P#p2.ibd");
    std::fs::write(&file, "somebody's")?;
    let error = project.sql_error(&format!("{} {parts}", create("parts")))?;
    ensure!(error.contains("Tablespace"), "{error}");
    assert_eq!(std::fs::read(&file)?, b"somebody's");
    // The table's file name has the maximum length; the partition's is longer.
    let long = ".".repeat(50);
    let error = project.sql_error(&format!("{} {parts}", create(&format!("`{long}`"))))?;
    ensure!(error.contains("ERROR"), "{error}");
    for what in ["created", "deleted"] {
        let text = format!("{}#P#p0.ibd is {what}", "@002e".repeat(50));
        assert_eq!(logged(&project, &text)?.len(), 1, "{what}");
    }
    assert_eq!(exported(&project, "main")?, ["t0"]);
    assert_eq!(project.sql("SHOW TABLES IN d")?, "t0\n");

    // A fresh compute finds no other tables, and all names are free.
    project.lose_compute()?;
    project.start()?;
    assert_eq!(exported(&project, "main")?, ["t0"]);
    for n in 0..TABLES {
        project.sql(&create(&format!("taken{n}")))?;
    }
    project.sql(&format!("{} {parts}", create("parts")))?;
    for n in 1..TABLES {
        project.sql(&format!("DROP TABLE d.taken{n}"))?;
    }
    let files = ["parts#P#p0", "parts#P#p1", "parts#P#p2", "t0", "taken0"];
    goes_on(&project, "d.taken0", &files)
}

#[test]
fn a_table_whose_file_finds_no_room_leaves_nothing() -> Result<()> {
    const TABLES: usize = 15;
    let project = Project::new()?;
    let Some(small) = Small::mount(&project.dir().join("computes"), 100)? else {
        return Ok(());
    };
    project.up_in_place("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; \
         CREATE TABLE d.t0 (a INT PRIMARY KEY, b CHAR(250) NOT NULL, KEY (b))",
    )?;
    // The list of pages that the start read would take the room.
    let list = project.dir().join("computes/main/data/xylem.start_pages");
    wait_until("the pages of the start", Duration::from_secs(60), || {
        Ok(list.exists())
    })?;
    // Ingest lags, so a rollback that asked the server would not find the tablespace.
    let load = "USE d; INSERT INTO d.t0 SELECT seq, MD5(seq) FROM seq_1_to_150000";
    let mut writer = project.command(&["sql", "main", "-e", load]).spawn()?;
    let create = |n: usize| format!("CREATE TABLE d.t{n} (a INT PRIMARY KEY)");
    for n in 1..=TABLES {
        // Room for the .frm file, and none for the .ibd file.
        small.leave_files(1)?;
        let error = project.sql_error(&create(n))?;
        ensure!(error.contains("ERROR"), "{error}");
        small.leave_files(1000)?;
    }
    ensure!(writer.wait()?.success(), "the load failed");
    let log = std::fs::read_to_string(project.dir().join("computes/main/mariadbd.log"))?;
    let failed = log.matches("Cannot create file './d/t").count();
    assert_eq!(failed, TABLES);
    assert_eq!(exported(&project, "main")?, ["t0"]);
    project.sql(&create(TABLES))?;
    let table = format!("t{TABLES}");
    goes_on(&project, &format!("d.{table}"), &["t0", &table])?;
    project.xylem(&["down"])?;
    Ok(())
}

/// A branch point at which a compute may die: the creation of the file is logged, but its
/// failure is not.
#[test]
fn who_dies_while_a_file_cannot_be_made_rolls_back() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; USE d; CREATE TABLE d.t0 (a INT PRIMARY KEY)")?;
    let create = "CREATE TABLE d.t (a INT PRIMARY KEY)";
    std::fs::write(project.dir().join("computes/main/data/d/t.ibd"), "")?;
    project.sql_error(create)?;

    let lsn = |what: &str| -> Result<u64> {
        let lsns = logged(&project, &format!("d/t.ibd is {what}"))?;
        ensure!(lsns.len() == 1, "{what}: {lsns:?}");
        Ok(lsns[0])
    };
    let (created, deleted) = (lsn("created")?, lsn("deleted")?);
    ensure!(created < deleted, "{created} and {deleted}");

    let at = created.to_string();
    project.xylem(&["branch", "create", "between", "--at", &at])?;
    ensure!(has(&project, "between", "d/t")?);
    project.xylem(&["compute", "start", "between"])?;
    wait_until("the rollback", Duration::from_secs(60), || {
        Ok(!has(&project, "between", "d/t")?)
    })?;
    assert_eq!(project.sql_on("between", "SHOW TABLES IN d")?, "t0\n");
    assert_eq!(exported(&project, "between")?, ["t0"]);
    project.sql_on("between", create)?;
    project.sql_on("between", "INSERT INTO d.t VALUES (1)")?;
    assert_eq!(project.check_on("between", "d")?, Vec::<String>::new());
    assert_eq!(exported(&project, "between")?, ["t", "t0"]);
    assert_eq!(exported(&project, "main")?, ["t0"]);
    Ok(())
}
