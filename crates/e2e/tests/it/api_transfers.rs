//! Imports and exports by the API: between branches and directories that the owner has allowed.

use crate::api::{Answer, Caller, project};
use crate::api_remote::Laptop;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use xylem_e2e::{Project, wait_until};

/// A project whose API may use a directory, in which nothing is yet.
struct Allowed {
    project: Project,
    dir: TempDir,
}

impl Allowed {
    fn new() -> Result<Allowed> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().to_str().context("the path is not UTF-8")?;
        let project = Project::with(Vec::new(), &["--api-files", path])?.with_api();
        project.up_in_place("16MiB")?;
        Ok(Allowed { project, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn names(&self) -> Result<Vec<String>> {
        let all = std::fs::read_dir(self.dir.path())?.flatten();
        Ok(all
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect())
    }

    /// Keeps others from changing the project until the answer is dropped.
    fn lock(&self) -> Result<File> {
        let lock = File::options()
            .write(true)
            .open(self.project.dir().join("lock"))?;
        lock.lock()?;
        Ok(lock)
    }
}

fn export(caller: &Caller, dir: &Path) -> Result<Answer> {
    let body = json!({ "dir": dir });
    caller.call("POST", "/v1/branches/main/exports?wait=300", Some(&body))
}

fn import(caller: &Caller, body: &Value) -> Result<Answer> {
    caller.call("POST", "/v1/imports?wait=300", Some(body))
}

#[test]
fn a_branch_goes_out_and_comes_back() -> Result<()> {
    let allowed = Allowed::new()?;
    let project = &allowed.project;
    let owner = Caller::owner(project)?;
    project
        .sql("CREATE DATABASE shop; CREATE TABLE shop.t (a INT); INSERT INTO shop.t VALUES (7)")?;
    let moment = owner.ok("GET", "/v1/branches/main/moments", None)?;
    project.sql("INSERT INTO shop.t VALUES (8)")?;
    let out = allowed.path("out");
    let body = json!({ "dir": out, "at": moment["lsn"].to_string() });
    let done = owner.ok("POST", "/v1/branches/main/exports?wait=300", Some(&body))?;
    assert_eq!(
        (&done["branch"], &done["lsn"], &done["dir"]),
        (&json!("main"), &moment["lsn"], &json!(out))
    );
    ensure!(out.join("ibdata1").exists() && out.join("shop/t.ibd").exists());
    assert_eq!(allowed.names()?, ["out"]);
    // What is there is not written over.
    let again = export(&owner, &out)?;
    ensure!(again.is_problem(409)?.contains("is not empty"), "{again:?}");

    let checked = import(
        &owner,
        &json!({ "datadir": out, "branch": "copy", "check": true }),
    )?;
    assert_eq!(checked.status, 200, "{checked:?}");
    assert_eq!(checked.body["refused"], json!([]));
    owner
        .call("GET", "/v1/branches/copy", None)?
        .is_problem(404)?;
    let body = json!({ "datadir": out, "branch": "copy" });
    let made = import(&owner, &body)?;
    assert_eq!(
        (made.status, made.headers["location"].to_str()?),
        (201, "/v1/branches/copy"),
        "{made:?}"
    );
    owner.ok("POST", "/v1/computes/copy/start?wait=60", None)?;
    assert_eq!(project.sql_on("copy", "SELECT a FROM shop.t")?.trim(), "7");
    let again = import(&owner, &body)?;
    ensure!(
        again
            .is_problem(409)?
            .contains("there is a branch copy already"),
        "{again:?}"
    );
    // What is no data directory: a check tells all obstacles, an import fails with them.
    std::fs::create_dir(allowed.path("empty"))?;
    let body = json!({ "datadir": allowed.path("empty"), "branch": "other", "check": true });
    let checked = import(&owner, &body)?;
    ensure!(
        checked.status == 200 && checked.body["refused"][0]["problem"].is_string(),
        "{checked:?}"
    );
    let body = json!({ "datadir": allowed.path("empty"), "branch": "other" });
    let failed = import(&owner, &body)?;
    ensure!(
        failed.is_problem(422)?.contains("cannot be imported"),
        "{failed:?}"
    );
    Ok(())
}

#[test]
fn no_token_gives_access_to_other_files() -> Result<()> {
    let closed = project()?;
    let owner = Caller::owner(&closed)?;
    let refused = export(&owner, Path::new("/tmp/x"))?;
    ensure!(refused.is_problem(409)?.contains("may not read or write"));
    let hint = refused.body["hint"].as_str().context("no hint")?;
    ensure!(hint.contains("--api-files"), "{hint}");
    import(&owner, &json!({ "datadir": "/tmp", "branch": "x" }))?.is_problem(409)?;
    drop(closed);

    let allowed = Allowed::new()?;
    let owner = Caller::owner(&allowed.project)?;
    let outside = tempfile::tempdir()?;
    std::os::unix::fs::symlink(outside.path(), allowed.path("link"))?;
    let top = allowed.dir.path().to_string_lossy().into_owned();
    let name = top.rsplit('/').next().unwrap_or_default();
    for path in [
        "/etc/x".to_owned(),
        "x".to_owned(),
        String::new(),
        "/".to_owned(),
        format!("{top}/../x"),
        format!("{top}/y/../../x"),
        format!("{top}x/y"),
        format!("{top}/link/x"),
        format!("{top}/link/../x"),
        format!("{top}/../{name}/x"),
        top.clone(),
        outside.path().join("x").to_string_lossy().into_owned(),
        allowed
            .project
            .dir()
            .join("x")
            .to_string_lossy()
            .into_owned(),
    ] {
        let answer = export(&owner, Path::new(&path))?;
        answer.is_problem(422).with_context(|| path.clone())?;
        if path != top {
            let answer = import(&owner, &json!({ "datadir": path, "branch": "x" }))?;
            answer.is_problem(422).with_context(|| path.clone())?;
        }
    }
    // A link in the directory that is read, and the directory of the copy.
    std::fs::create_dir(allowed.path("data"))?;
    std::os::unix::fs::symlink("/etc/passwd", allowed.path("data/ibdata1"))?;
    let answer = import(
        &owner,
        &json!({ "datadir": allowed.path("data"), "branch": "x" }),
    )?;
    ensure!(answer.is_problem(422)?.contains("leads out"), "{answer:?}");
    std::fs::remove_file(allowed.path("data/ibdata1"))?;
    let body = json!({ "datadir": allowed.path("data"), "branch": "x", "scratch": "/tmp" });
    let answer = import(&owner, &body)?;
    ensure!(answer.is_problem(422)?.contains("scratch"), "{answer:?}");
    assert_eq!(std::fs::read_dir(outside.path())?.count(), 0);
    // One branch is not enough to read or write files.
    let admin = Caller::with_rights(&allowed.project, "admin", &["--admin", "main"])?;
    export(&admin, &allowed.path("x"))?.is_problem(403)?;
    Ok(())
}

#[test]
fn one_that_is_cancelled_leaves_nothing() -> Result<()> {
    let allowed = Allowed::new()?;
    let owner = Caller::owner(&allowed.project)?;
    let reader = Caller::with_rights(&allowed.project, "reader", &["--read", "main"])?;
    let lock = allowed.lock()?;
    let body = json!({ "dir": allowed.path("out") });
    let begun = owner.call("POST", "/v1/branches/main/exports?wait=0", Some(&body))?;
    assert_eq!(begun.status, 202, "{begun:?}");
    let id = begun.body["id"].as_str().context("no id")?;
    let operation = format!("/v1/operations/{id}");
    wait_until("the export to begin", Duration::from_secs(20), || {
        Ok(!allowed.names()?.is_empty())
    })?;
    // The next one waits for its turn, and can be cancelled as well.
    let body = json!({ "dir": allowed.path("second") });
    let second = owner.call("POST", "/v1/branches/main/exports?wait=0", Some(&body))?;
    let second = second.body["id"].as_str().context("no id")?.to_owned();
    let second = owner.ok("DELETE", &format!("/v1/operations/{second}"), None)?;
    assert_eq!(second["state"], "failed", "{second}");
    reader.call("DELETE", &operation, None)?.is_problem(403)?;
    let ended = owner.ok("DELETE", &operation, None)?;
    assert_eq!(
        (&ended["state"], &ended["problem"]["status"]),
        (&json!("failed"), &json!(409)),
        "{ended}"
    );
    assert_eq!(allowed.names()?, Vec::<String>::new());
    // Others cannot be cut off in the middle.
    let body = json!({ "name": "b" });
    let begun = owner.call("POST", "/v1/branches?wait=0", Some(&body))?;
    let id = begun.body["id"].as_str().context("no id")?;
    let refused = owner.call("DELETE", &format!("/v1/operations/{id}"), None)?;
    ensure!(
        refused.is_problem(409)?.contains("only imports"),
        "{refused:?}"
    );
    drop(lock);
    // The API does not wait for one when it stops.
    let lock = allowed.lock()?;
    let body = json!({ "dir": allowed.path("third") });
    owner.call("POST", "/v1/branches/main/exports?wait=0", Some(&body))?;
    wait_until("the export to begin", Duration::from_secs(20), || {
        Ok(!allowed.names()?.is_empty())
    })?;
    drop(lock);
    allowed.project.xylem(&["up", "--detach", "--api", "off"])?;
    let left = allowed.names()?;
    ensure!(left.iter().all(|name| name == "third"), "{left:?}");
    Ok(())
}

#[test]
fn the_command_line_elsewhere_imports_and_exports() -> Result<()> {
    let allowed = Allowed::new()?;
    let laptop = Laptop::new(&allowed.project)?;
    let path = |name: &str| allowed.path(name).to_string_lossy().into_owned();
    let fields = |document: &Value| -> Result<Vec<String>> {
        Ok(document
            .as_object()
            .context("no object")?
            .keys()
            .cloned()
            .collect())
    };
    let here = allowed.project.json(&["export", "main", &path("here")])?;
    let there = laptop.json(&["export", "main", &path("there")])?;
    assert_eq!(fields(&here)?, fields(&there)?);
    let here = allowed
        .project
        .json(&["import", &path("here"), "--branch", "a"])?;
    let there = laptop.json(&["import", &path("there"), "--branch", "b"])?;
    assert_eq!(fields(&here)?, fields(&there)?);
    assert_eq!(here["tablespaces"], there["tablespaces"]);
    let text = laptop.xylem(&["import", &path("there"), "--branch", "c", "--check"])?;
    ensure!(
        text.contains("can be imported: every page is sound"),
        "{text}"
    );
    for args in [
        &["export", "main", "relative"][..],
        &["import", "relative"],
        &["import", "/x", "--object-store", "file:///x"],
    ] {
        let out = laptop.try_xylem(args)?;
        assert_eq!(out.status.code(), Some(2), "{args:?}: {out:?}");
    }
    let out = laptop.try_xylem(&["export", "main", "/etc/x"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        out.status.code() == Some(1) && said.contains("may use"),
        "{said}"
    );
    // Told to end, it ends the work there.
    let lock = allowed.lock()?;
    let child = laptop
        .command(&["export", "main", &path("cut")])
        .stderr(Stdio::piped())
        .spawn()?;
    let begun = || Ok(allowed.names()?.iter().any(|name| name.contains("cut")));
    wait_until("the export to begin", Duration::from_secs(20), begun)?;
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id())?).context("no pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let out = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        out.status.code() == Some(1) && said.contains("terminated: nothing was exported"),
        "{said}"
    );
    ensure!(!begun()?, "{:?}", allowed.names()?);
    drop(lock);
    Ok(())
}
