//! A project that lives in an object store, a real S3 server: what is left when
//! this machine's disk is gone.

use anyhow::{Context, Result};
use xylem_e2e::{Project, kill};
use xylem_objects::testing::S3Server;

fn pids(project: &Project) -> Result<Vec<i64>> {
    let status = project.json(&["status"])?;
    let mut pids = vec![status["server"]["pid"].as_i64().context("no server")?];
    let computes = status["computes"].as_array().context("no computes")?;
    pids.extend(computes.iter().filter_map(|c| c["pid"].as_i64()));
    Ok(pids)
}

#[test]
fn nothing_acknowledged_is_lost_with_all_local_directories() -> Result<()> {
    let s3 = S3Server::shared()?;
    let url = s3.place();
    let args = ["--object-store", &url, "--log-store", "object"];
    let project = Project::with(s3.env(), &args)?;
    project.up_in_place("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY, b TEXT)")?;
    project.sql("INSERT INTO d.t SELECT seq, REPEAT('x', 500) FROM d.seq_1_to_2000")?;
    project.xylem(&["branch", "create", "dev"])?;
    project.sql_on(
        "dev",
        "DELETE FROM d.t WHERE a > 1000; CREATE TABLE d.dev (a INT)",
    )?;
    project.xylem(&["branch", "create", "older", "--from", "dev"])?;
    for round in 0..3 {
        project.sql_on("dev", &format!("INSERT INTO d.dev VALUES ({round})"))?;
        project.sql(&format!("UPDATE d.t SET b = 'round {round}' WHERE a <= 10"))?;
        let main = project.checksums("d")?;
        let dev = project.checksums_on("dev", "d")?;
        // The machine dies, and its disk with it.
        for pid in pids(&project)? {
            kill(i32::try_from(pid)?)?;
        }
        std::fs::remove_dir_all(project.dir().join("server"))?;
        std::fs::remove_dir_all(project.dir().join("computes"))?;
        project.xylem(&["up", "--detach"])?;
        assert_eq!(project.checksums("d")?, main, "round {round}");
        assert_eq!(project.checksums_on("dev", "d")?, dev, "round {round}");
        assert_eq!(
            project.sql_on("older", "SELECT COUNT(*) FROM d.t")?.trim(),
            "1000"
        );
        assert_eq!(project.check("d")?, Vec::<String>::new());
    }
    project.xylem(&["branch", "rm", "older"])?;
    Ok(())
}
