//! Restores and branches at a time.

use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;
use xylem_e2e::Project;

/// The present time by this machine's `date`.
fn clock(format: &str) -> Result<String> {
    let out = Command::new("date").arg(format).output()?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn pause(time: Duration) {
    #[allow(clippy::disallowed_methods, reason = "the clock must go on")]
    std::thread::sleep(time);
}

/// Longer than the time between two samples of the clock.
const WHILE: Duration = Duration::from_millis(150);

#[test]
fn a_table_dropped_by_mistake_comes_back_by_who_only_knows_the_clock() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY, b VARCHAR(50)); \
         INSERT INTO d.t SELECT seq, REPEAT('x', seq MOD 50) FROM seq_1_to_3000",
    )?;
    let good = project.checksums("d")?;
    pause(WHILE);
    let time = clock("+%Y-%m-%d %H:%M:%S.%N")?;
    pause(WHILE);
    project.sql("DROP TABLE d.t; CREATE TABLE d.later (a INT PRIMARY KEY)")?;
    let restored = project.json(&["branch", "restore", "main", "--at", &time])?;
    assert_eq!(project.checksums("d")?, good, "restored to {time}");
    let kept = restored["kept"]["name"].as_str().context("no kept")?;
    assert_eq!(project.sql_on(kept, "SHOW TABLES IN d")?, "later\n");
    Ok(())
}

#[test]
fn each_moment_shows_what_was_there_then() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY)")?;
    let mut moments = Vec::new();
    for round in 1..=4 {
        project.sql(&format!("INSERT INTO d.t VALUES ({round})"))?;
        pause(WHILE);
        moments.push((clock("+%Y-%m-%dT%H:%M:%S.%NZ")?, clock("+%s%N")?, round));
        pause(WHILE);
    }
    ensure!(Command::new("date").arg("-u").status()?.success());
    for (at, (_, nanoseconds, rows)) in moments.iter().enumerate() {
        // In UTC, regardless of this machine's time zone.
        let time = in_utc(nanoseconds)?;
        let name = format!("b{at}");
        let made = project.json(&["branch", "create", &name, "--at", &time])?;
        let seen = project.sql_on(&name, "SELECT COUNT(*) FROM d.t")?;
        assert_eq!(seen.trim().parse::<u32>()?, *rows, "at {time}: {made}");
        let reader = project.json(&["compute", "start", "main", "--read-only", "--at", &time])?;
        // The same LSN, or a later one that shows the same: newer redo determines the end
        // of the moment more precisely.
        assert!(reader["lsn"].as_u64() >= made["branch_point_lsn"].as_u64());
        let reader = reader["name"].as_str().context("no name")?;
        let seen = project.sql_on(reader, "SELECT COUNT(*) FROM d.t")?;
        assert_eq!(seen.trim().parse::<u32>()?, *rows, "at {time} on {reader}");
    }
    let one = project.json(&["branch", "show", "main"])?;
    for field in ["oldest_time", "newest_time"] {
        assert!(
            one[field].as_str().is_some_and(|t| t.ends_with('Z')),
            "{one}"
        );
    }
    // A time before the history.
    let out = project.try_xylem(&["branch", "create", "x", "--at", "2 days ago"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        said.contains("outside the history of branch main") && said.matches("Z)").count() == 2,
        "{said}"
    );
    // A time in the future.
    let out = project.try_xylem(&["branch", "create", "x", "--at", "2099-01-01 00:00"])?;
    assert_eq!(out.status.code(), Some(1));
    // A moment ago everything existed.
    project.xylem(&["branch", "create", "recent", "--at", "0.1 seconds ago"])?;
    assert_eq!(project.sql_on("recent", "SELECT COUNT(*) FROM d.t")?, "4\n");
    Ok(())
}

/// Nanoseconds since 1970 as RFC 3339, by `date` itself.
fn in_utc(nanoseconds: &str) -> Result<String> {
    let (seconds, fraction) = nanoseconds.split_at(nanoseconds.len() - 9);
    let out = Command::new("date")
        .args(["-u", "-d", &format!("@{seconds}.{fraction}")])
        .arg("+%Y-%m-%dT%H:%M:%S.%NZ")
        .output()?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}
