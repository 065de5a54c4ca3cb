//! Tokens: a project is its owner's from the first start on, and others get what they
//! were given.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tonic::{Code, Status};
use xylem_e2e::{Project, wait_until};
use xylem_proto::control::control_client::ControlClient;
use xylem_proto::control::{CreateBranchRequest, ListBranchesRequest, RemoveBranchRequest};

/// Makes a call with `token` at the project's server.
fn call<T>(
    project: &Project,
    token: &str,
    make: impl AsyncFnOnce(&mut ControlClient<tonic::transport::Channel>, &str) -> Result<T, Status>,
) -> Result<Result<T, Code>> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut control = ControlClient::new(project.channel().await?);
            Ok(make(&mut control, token)
                .await
                .map_err(|status| status.code()))
        })
}

fn with<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Ok(token) = token.parse() {
        request.metadata_mut().insert(xylem_proto::TOKEN_KEY, token);
    }
    request
}

fn create(project: &Project, token: &str, name: &str) -> Result<Result<(), Code>> {
    call(project, token, async |control, token| {
        let request = CreateBranchRequest {
            name: name.to_owned(),
            from: "main".to_owned(),
            ..Default::default()
        };
        control
            .create_branch(with(request, token))
            .await
            .map(|_| ())
    })
}

fn remove(project: &Project, token: &str, name: &str) -> Result<Result<(), Code>> {
    call(project, token, async |control, token| {
        let request = RemoveBranchRequest {
            name: name.to_owned(),
        };
        control
            .remove_branch(with(request, token))
            .await
            .map(|_| ())
    })
}

fn list(project: &Project, token: &str) -> Result<Result<Vec<String>, Code>> {
    call(project, token, async |control, token| {
        let request = with(ListBranchesRequest::default(), token);
        let listed = control.list_branches(request).await?.into_inner();
        Ok(listed.branches.into_iter().map(|b| b.name).collect())
    })
}

#[test]
fn others_do_what_their_tokens_allow() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY)")?;

    // A user of the machine without a token.
    assert_eq!(list(&project, "")?, Err(Code::Unauthenticated));
    assert_eq!(remove(&project, "", "main")?, Err(Code::Unauthenticated));

    let args = ["token", "create", "ci", "--admin", "ci/*", "--read", "main"];
    let made = project.json(&args)?;
    let token = made["token"].as_str().context("no token")?;
    assert_eq!(made["name"], "ci");
    assert_eq!(create(&project, token, "ci/1")?, Ok(()));
    assert_eq!(
        create(&project, token, "mine")?,
        Err(Code::PermissionDenied)
    );
    assert_eq!(
        remove(&project, token, "main")?,
        Err(Code::PermissionDenied)
    );
    let seen = list(&project, token)?;
    assert_eq!(seen, Ok(vec!["ci/1".to_owned(), "main".to_owned()]));
    assert_eq!(remove(&project, token, "ci/1")?, Ok(()));

    // The list does not have the token itself.
    let listed = project.json(&["token", "ls"])?;
    let only = &listed.as_array().context("no list")?[0];
    assert_eq!(only["state"], "valid");
    assert_eq!(only["rights"][0]["can"], "read");
    ensure!(only.get("token").is_none(), "{only}");
    let text = project.xylem(&["token", "ls"])?;
    ensure!(text.contains("read main, admin ci/*"), "{text}");

    // Its name is taken, also when it is revoked.
    let out = project.try_xylem(&args)?;
    assert_eq!(out.status.code(), Some(2));
    project.xylem(&["token", "revoke", "ci"])?;
    wait_until("the revocation", Duration::from_secs(10), || {
        Ok(list(&project, token)? == Err(Code::Unauthenticated))
    })?;
    assert_eq!(project.json(&["token", "ls"])?[0]["state"], "revoked");

    // Wrong usage loses nothing.
    for wrong in [
        &["token", "create", "x"][..],
        &["token", "create", "x", "--read", "a b"],
        &[
            "token",
            "create",
            "x",
            "--read",
            "main",
            "--expires",
            "soon",
        ],
        &["token", "create", " ", "--read", "main"],
        &["token", "create", "x", "--read", "id:00"],
        &["token", "create", "x", "--read", "d", "--expires", "99999d"],
    ] {
        let out = project.try_xylem(wrong)?;
        assert_eq!(out.status.code(), Some(2), "{wrong:?}");
    }
    let out = project.try_xylem(&["token", "revoke", "nobody"])?;
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(
        project.json(&["token", "ls"])?.as_array().map(Vec::len),
        Some(1)
    );

    // What was done is on record.
    let log = std::fs::read_to_string(project.dir().join("audit.log"))?;
    let lines: Vec<Value> = log
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let by = |who: &str, call: &str, outcome: &str| {
        lines
            .iter()
            .any(|line| line["who"] == who && line["call"] == call && line["outcome"] == outcome)
    };
    ensure!(by("owner", "Attach", "ok"), "{log}");
    ensure!(by("ci", "CreateBranch", "ok"), "{log}");
    ensure!(by("ci", "RemoveBranch", "PermissionDenied"), "{log}");
    Ok(())
}

#[test]
fn keys_change_while_computes_run() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY)")?;
    let old = project.token()?.context("no token")?;
    project.xylem(&["token", "rotate"])?;
    let new = project.token()?.context("no token")?;
    ensure!(old != new);
    // Before the server has looked at the directory by itself.
    project.xylem(&["branch", "ls"])?;
    ensure!(list(&project, &old)?.is_ok());

    // The compute connects again, with the token that an older key has signed.
    project.kill_server()?;
    project.xylem(&["up", "--detach"])?;
    project.sql("INSERT INTO d.t VALUES (1)")?;

    let said = project.json(&["token", "rotate", "--drop-old"])?;
    assert_eq!(said["dropped_keys"], 2);
    assert_eq!(said["computes_to_restart"][0], "main");
    wait_until("the old keys to end", Duration::from_secs(10), || {
        Ok(list(&project, &old)? == Err(Code::Unauthenticated))
    })?;
    // A connection that exists goes on.
    project.sql("INSERT INTO d.t VALUES (2)")?;
    project.xylem(&["compute", "stop", "main"])?;
    project.xylem(&["compute", "start", "main"])?;
    assert_eq!(project.sql("SELECT COUNT(*) FROM d.t")?, "2\n");
    Ok(())
}

#[test]
fn secrets_are_in_closed_files_and_nowhere_else() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.xylem(&["token", "create", "x", "--read", "*"])?;
    let owner = project.token()?.context("no token")?;
    let dir = project.dir();
    let compute = std::fs::read_to_string(dir.join("computes/main/token"))?;
    ensure!(compute != owner, "a compute has a token of its own");
    for (path, mode) in [
        ("keys", 0o700),
        ("keys/1.pem", 0o600),
        ("keys/issued", 0o600),
        ("token", 0o600),
        ("audit.log", 0o600),
    ] {
        let meta = std::fs::metadata(dir.join(path))?;
        assert_eq!(meta.permissions().mode() & 0o777, mode, "{path}");
    }
    let of_compute = std::fs::metadata(dir.join("computes/main/token"))?;
    ensure!(of_compute.permissions().mode() & 0o007 == 0);

    // Not in a core dump.
    let status = project.json(&["status"])?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", status["server"]["pid"]))?;
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let soft = core.and_then(|line| line.split_whitespace().nth(4));
    assert_eq!(soft, Some("0"), "{limits}");

    // Not in arguments, environments and logs.
    let key = std::fs::read_to_string(dir.join("keys/1.pem"))?;
    let key = key.lines().nth(1).context("no key")?.to_owned();
    let signature = |token: &str| {
        token
            .trim()
            .rsplit('.')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let secrets = [signature(&owner), signature(&compute), key];
    let mut texts = Vec::new();
    for pid in [&status["server"]["pid"], &project.compute()?["pid"]] {
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            texts.push((path.clone(), std::fs::read(path)?));
        }
    }
    for log in ["server.log", "audit.log", "computes/main/mariadbd.log"] {
        texts.push((log.to_owned(), std::fs::read(dir.join(log))?));
    }
    for (place, text) in texts {
        let text = String::from_utf8_lossy(&text);
        for secret in &secrets {
            ensure!(!text.contains(secret.as_str()), "{place} has a secret");
        }
    }
    project.xylem(&["branch", "create", "fresh"])?;
    let checks = project.json(&["doctor"])?;
    let token = checks["checks"]
        .as_array()
        .context("no checks")?
        .iter()
        .find(|check| check["name"] == "token")
        .context("no check of the token")?;
    assert_eq!(token["verdict"], "ok", "{token}");
    std::fs::set_permissions(dir.join("keys"), PermissionsExt::from_mode(0o755))?;
    let out = project.try_xylem(&["doctor"])?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(said.contains("keys"), "{said}");
    Ok(())
}

/// A `token` of before there were keys, or one that was lost.
#[test]
fn the_owners_token_is_made_anew() -> Result<()> {
    let project = Project::up("16MiB")?;
    project.xylem(&["down"])?;
    std::fs::write(project.dir().join("token"), "s3cret\n")?;
    project.xylem(&["up", "--detach"])?;
    ensure!(
        project
            .token()?
            .is_some_and(|token| token.split('.').count() == 3)
    );
    std::fs::remove_file(project.dir().join("token"))?;
    let out = project.try_xylem(&["branch", "ls"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && said.contains("token"), "{said}");
    ensure!(said.contains("restart the server"), "{said}");
    project.xylem(&["token", "ls"])?;
    project.xylem(&["branch", "ls"])?;
    Ok(())
}
