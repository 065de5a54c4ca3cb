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
        fields(
            &status,
            &["server", "gateway", "branches", "computes", "object_store"]
        ),
        [""; 0]
    );
    assert_eq!(
        fields(
            &status["gateway"],
            &["state", "address", "host", "port", "pid", "log"]
        ),
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
                "parent",
                "branch_point_lsn",
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
    for binlog in ["--log-bin=name", "--log_bin=here"] {
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

/// Runs `xylem ARGS`, which must fail; returns the exit status and the error.
fn refused(project: &Project, args: &[&str]) -> Result<(Option<i32>, String)> {
    let out = project.try_xylem(args)?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    anyhow::ensure!(!out.status.success(), "{args:?} succeeded: {said}");
    Ok((out.status.code(), said))
}

#[test]
fn branches_are_named_as_ci_names_them() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a VARCHAR(50) PRIMARY KEY)")?;
    // If `/` became `-`, the second branch would share the directory of the first.
    for name in ["feature/login", "feature-login"] {
        project.xylem(&["branch", "create", name])?;
        project.sql_on(name, &format!("INSERT INTO d.t VALUES ('{name}')"))?;
    }
    for name in ["feature/login", "feature-login"] {
        let rows = project.sql_on(name, "SELECT a FROM d.t")?;
        assert_eq!(rows.trim(), name);
        let compute = project.compute_named(name)?;
        assert_eq!(compute["branch"], name);
        assert_eq!(project.branch(name)?["parent"], "main");
    }
    let label = "branch=\"feature/login\"";
    assert!(project.http_get("/metrics")?.contains(label), "no {label}");
    let lsn = project.branch("feature/login")?["last_lsn"].to_string();

    let reader = ["compute", "start", "feature/login", "--read-only"];
    let reader = project.json(&reader)?;
    assert_eq!(reader["name"], "feature/login@1");
    let rows = project.sql_on("feature/login@1", "SELECT a FROM d.t")?;
    assert_eq!(rows.trim(), "feature/login");
    project.xylem(&["compute", "stop", "feature/login@1"])?;

    project.xylem(&["branch", "rename", "feature/login", "fix/2.0"])?;
    project.sql_on("fix/2.0", "INSERT INTO d.t VALUES ('later')")?;
    let restored = project.json(&["branch", "restore", "fix/2.0", "--at", &lsn])?;
    let kept = restored["kept"]["name"].as_str().context("no name")?;
    assert!(kept.starts_with("fix/2.0-before-"), "{kept}");
    let rows = project.sql_on("fix/2.0", "SELECT a FROM d.t")?;
    assert_eq!(rows.trim(), "feature/login");
    let tree = project.xylem(&["branch", "show"])?;
    assert!(tree.contains("─ fix/2.0"), "{tree}");

    // Without a terminal, removal needs --yes.
    let (code, said) = refused(&project, &["branch", "rm", "feature-login"])?;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("branch rm feature-login --yes"), "{said}");
    let rows = project.sql_on("feature-login", "SELECT a FROM d.t")?;
    assert_eq!(rows.trim(), "feature-login");
    project.xylem(&["branch", "rm", "feature-login", "--yes"])?;
    assert!(project.branch("feature-login").is_err());

    for name in [
        "../x", "a/../b", "a/", "/a", "a//b", "a/-b", "a+b", ".a", "a/.b",
    ] {
        let (code, said) = refused(&project, &["branch", "create", name])?;
        assert_eq!(code, Some(2), "{name}: {said}");
    }
    Ok(())
}

/// The process of `main`'s compute, as `/proc` shows it.
fn process(project: &Project) -> Result<std::path::PathBuf> {
    Ok(format!("/proc/{}", project.compute()?["pid"]).into())
}

#[test]
fn sql_reaches_no_files_but_its_own() -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let envs = [("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("LC_ALL", "C.UTF-8")];
    let envs = envs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let project = Project::with(envs.to_vec(), &[])?;
    project.up_in_place("16MiB")?;
    let root = rustix::process::geteuid().is_root();
    let environ = std::fs::read(process(&project)?.join("environ"))?;
    let environ = String::from_utf8_lossy(&environ).into_owned();
    assert!(environ.contains("LC_ALL=C.UTF-8"), "{environ}");
    assert!(!environ.contains("s3cr3t"), "{environ}");

    // mariadbd must not be able to change its own configuration.
    let computes = std::fs::canonicalize(project.dir().join("computes"))?;
    let dir = computes.join("main");
    let uid = std::fs::metadata(process(&project)?)?.uid();
    if root {
        assert_ne!(uid, 0, "mariadbd runs as root");
        for path in [dir.clone(), dir.join("my.cnf"), computes] {
            let meta = std::fs::metadata(&path)?;
            assert_eq!(meta.uid(), 0, "{}", path.display());
            assert_eq!(meta.mode() & 0o027, 0, "{}", path.display());
        }
    }
    let place = project.sql("SELECT @@secure_file_priv")?;
    let place = place.trim();
    assert!(place.starts_with(&*dir.to_string_lossy()), "{place}");
    project.sql(&format!("SELECT 'mine' INTO OUTFILE '{place}out'"))?;
    let out = std::path::Path::new(place).join("out");
    assert_eq!(std::fs::read_to_string(&out)?, "mine\n");
    for target in [
        dir.join("custom.cnf"),
        dir.join("files/../custom.cnf"),
        dir.join("data/x"),
        dir.join("run/x"),
        project.dir().join("mariadb.cnf"),
        std::env::temp_dir().join("xylem-e2e-outfile"),
    ] {
        let error = project.sql_error(&format!(
            "SELECT '[mariadbd]' INTO OUTFILE '{}'",
            target.display()
        ))?;
        assert!(error.contains("--secure-file-priv"), "{error}");
        assert!(!target.exists(), "{}", target.display());
    }
    let secret = project.dir().join("root.password");
    let read = format!("SELECT LOAD_FILE('{}') IS NULL", secret.display());
    assert_eq!(project.sql(&read)?.trim(), "1");

    // People's own options count, whoever may read the file; what SQL has
    // written stays.
    let custom = dir.join("custom.cnf");
    std::fs::write(&custom, "[mariadbd]\nmax_connections=77\n")?;
    std::fs::set_permissions(&custom, PermissionsExt::from_mode(0o600))?;
    project.xylem(&["compute", "stop", "main"])?;
    project.start()?;
    assert_eq!(project.sql("SELECT @@max_connections")?.trim(), "77");
    assert!(out.exists());

    // The doctor sees what others may read.
    let private = |project: &Project| -> Result<serde_json::Value> {
        let out = project.try_xylem(&["doctor", "--json"])?;
        let report: serde_json::Value = serde_json::from_slice(&out.stdout)?;
        let checks = report["checks"].as_array().context("no checks")?;
        let found = checks.iter().find(|check| check["name"] == "private");
        found.cloned().context("no such check")
    };
    assert_eq!(private(&project)?["verdict"], "ok");
    let log = project.dir().join("server.log");
    std::fs::set_permissions(&log, PermissionsExt::from_mode(0o644))?;
    let check = private(&project)?;
    assert_eq!(check["verdict"], "warn");
    assert!(check["found"].to_string().contains("server.log"), "{check}");

    // Running as root needs an explicit option.
    if root {
        for (args, as_root) in [(["--user", "root"], true), (["--unset", "user"], false)] {
            project.xylem(&["compute", "stop", "main"])?;
            project.xylem(&[["up", "--detach"], args].concat())?;
            let uid = std::fs::metadata(process(&project)?)?.uid();
            assert_eq!(uid == 0, as_root, "{args:?}");
        }
    }
    Ok(())
}

#[test]
fn xylem_keeps_a_way_in() -> Result<()> {
    let project = Project::up("16MiB")?;
    let as_root = |branch: &str, password: &str| -> Result<bool> {
        let password = format!("--password={password}");
        let args = ["sql", branch, "-e", "DO 0", "--", "--user=root", &password];
        Ok(project.try_xylem(&args)?.status.success())
    };
    let again = |project: &Project| -> Result<()> {
        project.xylem(&["compute", "stop", "main"])?;
        project.xylem(&["compute", "start", "main"]).map(|_| ())
    };
    let first = project.login()?;
    assert!(as_root("main", &first.password)?);

    // Neither the command line nor a branch undoes users' own changes.
    project.sql("SET PASSWORD FOR root@localhost = PASSWORD('mine')")?;
    assert_eq!(project.sql("SELECT 1")?.trim(), "1");
    again(&project)?;
    assert_eq!(project.sql("SELECT 1")?.trim(), "1");
    project.xylem(&["branch", "create", "dev"])?;
    assert_eq!(project.sql_on("dev", "SELECT 1")?.trim(), "1");
    for branch in ["main", "dev"] {
        assert!(as_root(branch, "mine")?, "{branch}");
        assert!(!as_root(branch, &first.password)?, "{branch}");
    }
    project.xylem(&["compute", "stop", "dev"])?;

    // A dump of all databases from elsewhere brings its own accounts.
    project.sql(
        "DELETE FROM mysql.global_priv; INSERT INTO mysql.global_priv VALUES ('localhost', 'root', \
         JSON_OBJECT('access', 18446744073709551615, 'plugin', 'mysql_native_password', \
         'authentication_string', PASSWORD('theirs'))); FLUSH PRIVILEGES",
    )?;
    let (code, said) = refused(&project, &["sql", "-e", "SELECT 1"])?;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("1045") && said.contains("compute start main"),
        "{said}"
    );
    again(&project)?;
    assert_eq!(project.sql("SELECT 1")?.trim(), "1");
    assert!(as_root("main", "theirs")?);

    // Logins from other hosts work while computes listen on other addresses.
    let anywhere = "SELECT COUNT(*) FROM mysql.global_priv WHERE User='root' AND Host='%'";
    for (args, count) in [(["--bind", "0.0.0.0"], "1"), (["--unset", "bind"], "0")] {
        project.xylem(&["compute", "stop", "main"])?;
        project.xylem(&[["up", "--detach"], args].concat())?;
        assert_eq!(project.sql(anywhere)?.trim(), count, "{args:?}");
    }
    Ok(())
}

#[test]
fn several_come_up_at_once_on_default_ports() -> Result<()> {
    let project = || anyhow::Ok(Project::new()?.with_gateway());
    let projects = [project()?, project()?, project()?];
    let mut children = Vec::new();
    for project in &projects {
        let child = project
            .command(&["up", "--detach", "--buffer-pool", "16MiB"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        children.push(child);
    }
    let mut gateways = std::collections::BTreeSet::new();
    for (child, project) in children.into_iter().zip(&projects) {
        let out = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{said}\n{}", project.logs());
        assert_eq!(project.sql("SELECT 1")?.trim(), "1");
        let gateway = project.json(&["status"])?["gateway"].take();
        assert_eq!(gateway["state"], "running");
        gateways.insert(gateway["port"].to_string());
    }
    assert_eq!(gateways.len(), projects.len(), "{gateways:?}");
    Ok(())
}

/// A stock replica of a compute has accounts of its own.
#[test]
fn the_accounts_of_a_start_are_not_in_the_binary_log() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let logs = tempfile::tempdir()?;
    // Regardless of the user that mariadbd runs as.
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
