//! A project on a network: computes over TLS, addresses beyond loopback, certificates of
//! one's own, and other users of the machine.

use anyhow::{Context, Result, ensure};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use xylem_ambient::{Clock, Entropy};
use xylem_channel::ClientTls;
use xylem_e2e::{Project, wait_until};
use xylem_proto::control::ListBranchesRequest;
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::dial::{PROTOCOL, Way};
use xylem_tls::authority::{self, Paths};

/// Certificates of somebody else's authority, for `names`.
fn other_authority(dir: &Path, names: &[&str]) -> Result<Paths> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    authority::ensure(dir, &names, &Clock::system(), &Entropy::system())?;
    Ok(Paths::in_dir(dir))
}

/// The number of branches that the server lists over `way` to the owner.
fn branches(project: &Project, way: &Way) -> Result<usize> {
    let request = project.request(ListBranchesRequest::default())?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let channel = way.connect(Duration::from_secs(10), |endpoint| endpoint);
        let mut control = ControlClient::new(channel.await?);
        let answer = control.list_branches(request).await?;
        Ok(answer.into_inner().branches.len())
    })
}

fn secure(address: &str, authority: &Path) -> Result<Way> {
    let tls = ClientTls::new(xylem_tls::provider(), PROTOCOL, authority.to_owned(), None)?;
    Ok(Way::Tls(address.to_owned(), Arc::new(tls)))
}

/// The address of the server's gRPC on `host`.
fn grpc_on(project: &Project, host: &str) -> Result<String> {
    let address = project.server_address("grpc")?;
    let (_, port) = address.rsplit_once(':').context("no port")?;
    Ok(format!("{host}:{port}"))
}

#[test]
fn a_compute_without_the_socket_works_over_tls_and_survives_its_server() -> Result<()> {
    // No page stays in the buffer pool for long.
    let args = ["--", "--innodb-page-server-socket="];
    let project = Project::with(Vec::new(), &args)?;
    project.up_in_place("16MiB")?;
    let ca = project.sql("SELECT @@innodb_page_server_tls_ca")?;
    ensure!(ca.trim().ends_with("ca.pem"), "{ca}");
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY, b CHAR(200));
         INSERT INTO d.t SELECT seq, MD5(seq) FROM seq_1_to_200000",
    )?;
    let sums = project.checksums("d")?;
    project.kill_server()?;
    project.start()?;
    // The same compute goes on over new connections.
    project.sql("USE d; INSERT INTO d.t SELECT seq, MD5(seq) FROM seq_200001_to_201000")?;
    project.sql("DELETE FROM d.t WHERE a > 200000")?;
    assert_eq!(project.checksums("d")?, sums);
    project.lose_compute()?;
    project.start()?;
    assert_eq!(project.checksums("d")?, sums);
    assert!(project.check("d")?.is_empty());
    Ok(())
}

#[test]
fn a_server_beyond_loopback_has_a_certificate_for_its_names() -> Result<()> {
    let args = [
        "--server-bind",
        "0.0.0.0",
        "--tls-names",
        "127.0.0.7,db.example.com",
    ];
    let project = Project::with(Vec::new(), &args)?;
    project.up_in_place("16MiB")?;
    assert!(project.server_address("grpc")?.starts_with("0.0.0.0:"));
    let authority = project.authority().context("no authority")?;
    // At each address, the name in the certificate is checked.
    for host in ["127.0.0.1", "127.0.0.7"] {
        let way = secure(&grpc_on(&project, host)?, &authority)?;
        assert_eq!(branches(&project, &way)?, 1, "{host}");
    }
    let unnamed = secure(&grpc_on(&project, "127.0.0.9")?, &authority)?;
    assert!(branches(&project, &unnamed).is_err());
    let plain = Way::Plain(grpc_on(&project, "127.0.0.1")?);
    assert!(branches(&project, &plain).is_err());
    // Local programs reach it as before, and back on loopback.
    project.sql("SELECT 1")?;
    project.xylem(&["down"])?;
    project.xylem(&["up", "--detach", "--unset", "server-bind,tls-names"])?;
    assert!(project.server_address("grpc")?.starts_with("127.0.0.1:"));
    project.sql("SELECT 1")?;
    Ok(())
}

#[test]
fn a_certificate_of_ones_own_is_served_and_renewed_without_a_restart() -> Result<()> {
    let (first, second) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let first = other_authority(first.path(), &["127.0.0.1"])?;
    let second = other_authority(second.path(), &["127.0.0.1"])?;
    let own = tempfile::tempdir()?;
    let file = own.path().join("own.pem");
    std::fs::copy(&first.server, &file)?;
    let path = file.to_str().context("the path is not UTF-8")?;
    let project = Project::with(Vec::new(), &["--tls-cert", path])?;
    project.up_in_place("16MiB")?;
    let address = grpc_on(&project, "127.0.0.1")?;
    assert_eq!(branches(&project, &secure(&address, &first.authority)?)?, 1);
    let projects = project.authority().context("no authority")?;
    assert!(branches(&project, &secure(&address, &projects)?).is_err());

    let pid = project.json(&["status"])?["server"]["pid"].clone();
    let new = own.path().join("new.pem");
    std::fs::copy(&second.server, &new)?;
    std::fs::rename(&new, &file)?;
    let renewed = secure(&address, &second.authority)?;
    wait_until("the new certificate", Duration::from_secs(20), || {
        Ok(branches(&project, &renewed).is_ok())
    })?;
    assert_eq!(project.json(&["status"])?["server"]["pid"], pid);
    // Programs on this machine need no name in it.
    project.sql("SELECT 1")?;

    // A file that is gone is named, and the way back is open.
    project.xylem(&["down"])?;
    std::fs::remove_file(&file)?;
    let out = project.try_xylem(&["up", "--detach"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && said.contains("own.pem"), "{said}");
    project.xylem(&["up", "--detach", "--unset", "tls-cert"])?;
    assert_eq!(branches(&project, &secure(&address, &projects)?)?, 1);
    Ok(())
}

#[test]
fn a_compute_that_knows_no_tls_is_not_left_behind() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY)")?;
    // As an older version wrote it for a compute without access to the socket.
    let dir = project.compute()?["dir"].as_str().map(str::to_owned);
    let file = Path::new(&dir.context("no dir")?).join("my.cnf");
    let text = std::fs::read_to_string(&file)?;
    let old = |line: &&str| !line.contains("-tls-") && !line.contains("page-server-socket");
    let older: Vec<&str> = text.lines().filter(old).collect();
    ensure!(older.len() < text.lines().count());
    std::fs::write(&file, older.join("\n"))?;
    project.kill_server()?;
    let out = project.try_xylem(&["up", "--detach"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        !out.status.success() && said.contains("compute stop main"),
        "{said}"
    );
    project.xylem(&["compute", "kill", "main"])?;
    project.start()?;
    project.sql("INSERT INTO d.t VALUES (1)")?;

    // New settings of a server that runs are for its next start.
    let out = project.try_xylem(&["up", "--detach", "--server-bind", "127.0.0.2"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        out.status.success() && said.contains("the server runs already"),
        "{said}"
    );
    Ok(())
}

#[test]
fn certificates_are_for_their_owner_only_and_the_doctor_looks() -> Result<()> {
    let project = Project::up("16MiB")?;
    let verdict = |name: &str| -> Result<(String, String)> {
        let out = project.try_xylem(&["doctor", "--json"])?;
        let report: serde_json::Value = serde_json::from_slice(&out.stdout)?;
        let checks = report["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| check["name"] == name);
        let check = check.with_context(|| format!("no check {name}"))?;
        let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
        Ok((text("verdict"), text("found")))
    };
    assert_eq!(verdict("certificate")?.0, "ok");
    let key = project.dir().join("tls/ca.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    let (is, found) = verdict("certificate")?;
    ensure!(is == "fail" && found.contains("ca.key"), "{found}");
    Ok(())
}

#[test]
fn another_user_of_the_machine_can_do_nothing() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can be another user");
        return Ok(());
    }
    const NOBODY: u32 = 65534;
    let project = Project::up("16MiB")?;
    for args in [
        &["branch", "ls"][..],
        &["branch", "rm", "main"],
        &["branch", "create", "theirs"],
        &["sql", "-e", "SELECT 1"],
        &["token", "create", "theirs", "--admin", "*"],
        &["down"],
    ] {
        let out = project.command(args).uid(NOBODY).gid(NOBODY).output()?;
        let said = String::from_utf8_lossy(&out.stdout);
        ensure!(!out.status.success(), "nobody may {args:?}: {said}");
    }
    // Every file of the project that holds something is closed.
    for path in [
        "token",
        "tls/ca.key",
        "tls/server.pem",
        "keys",
        "root.password",
    ] {
        let mut cat = std::process::Command::new("test");
        cat.arg("-r").arg(project.dir().join(path));
        let status = cat.uid(NOBODY).gid(NOBODY).status()?;
        ensure!(!status.success(), "nobody may read {path}");
    }
    assert_eq!(
        project.json(&["branch", "ls"])?.as_array().map(Vec::len),
        Some(1)
    );
    project.sql("SELECT 1")?;
    Ok(())
}
