//! The command line as scripts use it: forms, fields and exit statuses.

use anyhow::{Context, Result};
use xylem_e2e::{Project, free_ports, wait_until};

fn fields<'a>(value: &serde_json::Value, names: &[&'a str]) -> Vec<&'a str> {
    names
        .iter()
        .filter(|name| value.get(name).is_none())
        .copied()
        .collect()
}

#[test]
fn json_has_the_promised_fields() -> Result<()> {
    let project = Project::up("16MiB")?;
    const COMPUTE: &[&str] = &[
        "branch",
        "state",
        "host",
        "port",
        "socket",
        "user",
        "password_file",
        "dir",
        "pid",
        "read_only",
        "lsn",
    ];
    let status = project.json(&["status"])?;
    assert_eq!(
        fields(&status, &["server", "branches", "computes", "object_store"]),
        [""; 0]
    );
    assert_eq!(
        fields(&status["server"], &["grpc", "http", "pid", "state"]),
        [""; 0]
    );
    let branches = project.json(&["branch", "ls"])?;
    assert_eq!(
        fields(
            &branches[0],
            &[
                "name",
                "id",
                "ancestor",
                "ancestor_lsn",
                "last_lsn",
                "created_at"
            ]
        ),
        [""; 0]
    );
    let compute = project.compute()?;
    assert_eq!(fields(&compute, COMPUTE), [""; 0]);
    assert_eq!(compute["state"], "running");
    assert_eq!(compute["read_only"], false);
    project.xylem(&["compute", "stop", "main"])?;
    assert_eq!(project.compute()?["state"], "stopped");
    let started = project.json(&["compute", "start", "main"])?;
    assert_eq!(fields(&started, COMPUTE), [""; 0]);

    use std::os::unix::fs::PermissionsExt;
    let file = started["password_file"]
        .as_str()
        .context("no password file")?;
    let mode = std::fs::metadata(file)?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{file} must be its owner's alone");
    Ok(())
}

#[test]
fn wrong_usage_and_failure_have_their_own_exit_status() -> Result<()> {
    let project = Project::new()?;
    assert_eq!(project.try_xylem(&["comput", "ls"])?.status.code(), Some(2));
    assert_eq!(
        project.try_xylem(&["compute", "start"])?.status.code(),
        Some(2)
    );
    let out = project.try_xylem(&["compute", "start", "main"])?;
    assert_eq!(out.status.code(), Some(1), "nothing runs here");
    assert!(!out.stderr.is_empty() && out.stdout.is_empty());
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let project = Project::new()?;
    let out = project.try_xylem(&["up", "--detach", "--mysql-port", &port])?;
    assert_eq!(out.status.code(), Some(1));
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        error.contains(&port) && error.contains("--mysql-port"),
        "{error}"
    );
    Ok(())
}

#[test]
fn projects_live_side_by_side() -> Result<()> {
    let one = Project::up("16MiB")?;
    let two = Project::up("16MiB")?;
    one.sql("CREATE DATABASE only_one")?;
    two.sql("CREATE DATABASE only_two")?;
    assert!(!two.sql("SHOW DATABASES")?.contains("only_one"));
    one.xylem(&["down"])?;
    assert!(two.sql("SHOW DATABASES")?.contains("only_two"));
    one.start()?;
    assert!(one.sql("SHOW DATABASES")?.contains("only_one"));
    Ok(())
}

#[test]
fn down_is_graceful_and_up_goes_on() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1)",
    )?;
    for round in 2..5 {
        project.xylem(&["down"])?;
        let log = std::fs::read_to_string(project.dir().join("server.log"))?;
        assert!(!log.contains("ERROR"), "{log}");
        project.start()?;
        project.sql(&format!("INSERT INTO d.t VALUES ({round})"))?;
    }
    assert_eq!(project.sql("SELECT COUNT(*) FROM d.t")?.trim(), "4");
    Ok(())
}

#[test]
fn ctrl_c_stops_everything() -> Result<()> {
    let project = Project::new()?;
    let ports = free_ports(3)?;
    let [mysql, grpc, http] = [0, 1, 2].map(|i| ports[i].to_string());
    let mut up = project
        .command(&[
            "up",
            "--mysql-port",
            &mysql,
            "--grpc-port",
            &grpc,
            "--http-port",
            &http,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    wait_until(
        "the compute to run",
        std::time::Duration::from_secs(60),
        || {
            Ok(project
                .compute()
                .is_ok_and(|compute| compute["state"] == "running"))
        },
    )?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(up.id())?).context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    assert!(up.wait()?.success(), "Ctrl-C is an orderly end");
    for port in ports {
        assert!(
            std::net::TcpStream::connect(("127.0.0.1", port)).is_err(),
            "{port} is still open"
        );
    }
    Ok(())
}

#[test]
fn settings_that_a_project_cannot_have_are_refused() -> Result<()> {
    let project = Project::new()?;
    let try_up = |args: &[&str]| -> Result<(Option<i32>, String)> {
        let out = project.try_xylem(&[&["up", "--detach"], args].concat())?;
        Ok((
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        ))
    };
    let (code, error) = try_up(&["--page-size", "4k"])?;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("keys too long"), "{error}");
    for binlog in ["--log-bin", "--log_bin=here"] {
        let (code, error) = try_up(&["--", binlog])?;
        assert_eq!(code, Some(2), "{error}");
        assert!(
            error.contains("binary log") && error.contains("--log-bin=/path"),
            "{error}"
        );
    }
    Ok(())
}

#[test]
fn a_project_has_the_page_size_it_was_made_with() -> Result<()> {
    let project = Project::new()?;
    let ports = free_ports(3)?;
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let flags = ["--mysql-port", "--grpc-port", "--http-port"];
    let mut up = vec!["up", "--detach", "--page-size", "64k"];
    for (flag, port) in flags.iter().zip(&ports) {
        up.extend([*flag, port]);
    }
    project.xylem(&up)?;
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE t (a INT PRIMARY KEY, b LONGTEXT); \
         INSERT INTO t SELECT seq, REPEAT(seq, 9000) FROM seq_1_to_300",
    )?;
    let sums = project.checksums("d")?;
    project.lose_compute()?;
    project.start()?;
    assert_eq!(project.sql("SELECT @@innodb_page_size")?, "65536\n");
    assert_eq!(project.checksums("d")?, sums);
    let out = project.try_xylem(&["up", "--detach", "--page-size", "16k"])?;
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("cannot be changed"));
    Ok(())
}

/// A stock replica of a compute has accounts of its own.
#[test]
fn the_accounts_of_a_start_are_not_in_the_binary_log() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let logs = tempfile::tempdir()?;
    // Whoever mariadbd runs as.
    std::fs::set_permissions(logs.path(), std::fs::Permissions::from_mode(0o777))?;
    let place = format!("--log-bin={}/log", logs.path().display());
    let project = Project::with(Vec::new(), &["--", &place])?;
    project.up_in_place("16MiB")?;
    project.sql("CREATE DATABASE d")?;
    let events = project.sql("SHOW BINLOG EVENTS")?;
    assert!(events.contains("CREATE DATABASE d"), "{events}");
    let lower = events.to_lowercase();
    for word in ["root", "grant", "alter user", "create user", "global_priv"] {
        assert!(!lower.contains(word), "{word}: {events}");
    }
    Ok(())
}
