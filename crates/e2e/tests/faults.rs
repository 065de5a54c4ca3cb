//! What a compute does when its branch is taken, or its server stays away.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use xylem_e2e::{Project, wait_until};
use xylem_proto::control::AttachRequest;
use xylem_proto::control::control_client::ControlClient;

/// Does what another compute's start does first.
fn take_over(project: &Project) -> Result<u64> {
    let status = project.json(&["status"])?;
    let grpc = status["server"]["grpc"]
        .as_str()
        .context("no grpc address")?;
    let url = format!("http://{grpc}");
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut control = ControlClient::connect(url).await?;
        Ok(control.attach(AttachRequest {}).await?.into_inner().epoch)
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
