//! Kills the compute, the server and both under load; all checksums stay the same.

use anyhow::Result;
use xylem_e2e::Project;
use xylem_e2e::sysbench::{Load, finish};

/// The size in `cargo xtask test`. With `XYLEM_E2E=full` it is that of a release test:
/// 8 × 250,000 rows, 16 threads, 60 s.
fn load() -> (Load, &'static str) {
    if std::env::var("XYLEM_E2E").is_ok_and(|scale| scale == "full") {
        (
            Load {
                tables: 8,
                rows: 250_000,
                threads: 16,
                seconds: 60,
                rate: None,
            },
            "256MiB",
        )
    } else {
        // Twice the buffer pool, so that pages are evicted and read again.
        (
            Load {
                tables: 4,
                rows: 25_000,
                threads: 8,
                seconds: 8,
                rate: None,
            },
            "16MiB",
        )
    }
}

#[test]
fn acknowledged_work_survives_every_kill() -> Result<()> {
    let (load, buffer_pool) = load();
    let project = Project::up(buffer_pool)?;
    project.sql("CREATE DATABASE sbtest")?;
    project.explained(load.prepare(&project.login()?))?;
    let ran = load.run(&project.login()?, "oltp_read_write");
    println!("{}", project.explained(ran)?);

    // Nothing is in flight, so the checksums must be the same.
    let before = project.checksums("sbtest")?;
    project.lose_compute()?;
    project.xylem(&["compute", "start", "main"])?;
    assert_eq!(
        project.checksums("sbtest")?,
        before,
        "after losing the compute"
    );

    project.kill_server()?;
    project.start()?;
    assert_eq!(
        project.checksums("sbtest")?,
        before,
        "after killing the server"
    );

    project.kill_server()?;
    project.lose_compute()?;
    project.start()?;
    assert_eq!(project.checksums("sbtest")?, before, "after losing both");

    // The load continues on the same compute and on the next one.
    let short = Load { seconds: 3, ..load };
    short.run(&project.login()?, "oltp_read_write")?;
    assert_eq!(project.check("sbtest")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn kills_under_load_leave_consistent_tables() -> Result<()> {
    let load = Load {
        tables: 2,
        rows: 10_000,
        threads: 8,
        seconds: 30,
        rate: None,
    };
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE sbtest")?;
    load.prepare(&project.login()?)?;
    for round in 0..3 {
        let running = load.start(&project.login()?, "oltp_read_write")?;
        xylem_e2e::wait_until("load to run", std::time::Duration::from_secs(20), || {
            Ok(project.status_on::<u64>("main", "Com_commit")? > 100)
        })?;
        if round == 1 {
            project.kill_server()?;
        }
        project.lose_compute()?;
        // The clients see their connections break.
        assert!(
            finish(running).is_err(),
            "sysbench must notice that the server is gone"
        );
        project.start()?;
        assert_eq!(
            project.check("sbtest")?,
            Vec::<String>::new(),
            "round {round}"
        );
    }
    Ok(())
}

#[test]
fn a_compute_waits_for_a_server_that_comes_back() -> Result<()> {
    let load = Load {
        tables: 2,
        rows: 10_000,
        threads: 4,
        seconds: 10,
        rate: None,
    };
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE sbtest")?;
    load.prepare(&project.login()?)?;
    let pid = project.compute()?["pid"].clone();
    let running = load.start(&project.login()?, "oltp_read_write")?;
    for _ in 0..3 {
        #[allow(clippy::disallowed_methods, reason = "let the load run")]
        std::thread::sleep(std::time::Duration::from_secs(1));
        project.kill_server()?;
        project.start()?;
    }
    println!("{}", project.explained(finish(running))?);
    assert_eq!(
        project.compute()?["pid"],
        pid,
        "the compute must not have been restarted"
    );
    assert_eq!(project.check("sbtest")?, Vec::<String>::new());
    Ok(())
}
