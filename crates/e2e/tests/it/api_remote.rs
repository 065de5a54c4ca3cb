//! The command line that works on a server elsewhere, and the API as a part of `xylem up`.

use crate::api::{Caller, Plain, address, project};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use xylem_e2e::{Project, kill, wait_until};

/// Another directory, from which the project is worked on.
pub struct Laptop<'a> {
    project: &'a Project,
    dir: TempDir,
    server: String,
}

impl Laptop<'_> {
    pub fn new(project: &Project) -> Result<Laptop<'_>> {
        let dir = tempfile::tempdir()?;
        for (from, to) in [("token", "token"), ("tls/ca.pem", "ca.pem")] {
            std::fs::copy(project.dir().join(from), dir.path().join(to))?;
        }
        Ok(Laptop {
            server: address(project)?,
            project,
            dir,
        })
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.project.home().join("bin/xylem"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("XYLEM_TOKEN_FILE", "token")
            .env("XYLEM_CA", "ca.pem")
            .args(["--server", &self.server]);
        command
    }

    pub fn try_xylem(&self, args: &[&str]) -> Result<Output> {
        Ok(self.command(args).output()?)
    }

    pub fn xylem(&self, args: &[&str]) -> Result<String> {
        let out = self.try_xylem(args)?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "{args:?}: {said}");
        Ok(String::from_utf8(out.stdout)?)
    }

    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.xylem(&[args, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| text)
    }
}

#[test]
fn a_laptop_works_on_a_server_elsewhere() -> Result<()> {
    let project = project()?;
    let laptop = Laptop::new(&project)?;
    project.xylem(&["token", "create", "ci", "--read", "main"])?;
    // Nothing changes meanwhile: the compute of main is at rest.
    let rest = |args: &[&str]| {
        let mut pair = (project.json(args)?, laptop.json(args)?);
        for document in [&mut pair.0, &mut pair.1] {
            if let Some(server) = document.get_mut("server") {
                server["memory_bytes"].take();
            }
        }
        anyhow::Ok(pair)
    };
    project.xylem(&["compute", "stop", "main"])?;
    for args in [
        &["status"][..],
        &["branch", "ls"],
        &["branch", "ls", "--all"],
        &["branch", "show"],
        &["branch", "show", "dev"],
        &["compute", "ls"],
        &["token", "ls"],
    ] {
        let (here, there) = rest(args)?;
        assert_eq!(here, there, "{args:?}");
        if args[0] != "status" {
            assert_eq!(project.xylem(args)?, laptop.xylem(args)?, "{args:?}");
        }
    }
    // What is changed from there has the fields that it has here.
    let fields = |document: &Value| -> Result<Vec<String>> {
        let object = document.as_object().context("no object")?;
        let mut names: Vec<String> = object.keys().cloned().collect();
        names.sort();
        Ok(names)
    };
    let both = |here: &[&str], there: &[&str]| {
        let (here, there) = (project.json(here)?, laptop.json(there)?);
        assert_eq!(fields(&here)?, fields(&there)?, "{here} {there}");
        anyhow::Ok(there)
    };
    both(&["branch", "create", "a"], &["branch", "create", "b"])?;
    both(&["compute", "start", "a"], &["compute", "start", "b"])?;
    let reader = &["compute", "start", "main", "--read-only"];
    assert_eq!(both(reader, reader)?["name"], "main@2");
    both(
        &["compute", "stop", "main@1"],
        &["compute", "stop", "main@2"],
    )?;
    both(&["compute", "kill", "a"], &["compute", "kill", "b"])?;
    let after = |name| ["branch", "set", name, "--suspend-after", "5m"];
    assert_eq!(both(&after("a"), &after("b"))?["suspend_after"], "5m");
    both(
        &["branch", "rename", "a", "a2"],
        &["branch", "rename", "b", "b2"],
    )?;
    both(&["branch", "reopen", "a2"], &["branch", "reopen", "b2"])?;
    let restore = |name| ["branch", "restore", name, "--at", "0 seconds ago"];
    let restored = both(&restore("a2"), &restore("b2"))?;
    let kept = restored["kept"]["name"]
        .as_str()
        .context("no kept")?
        .to_owned();
    both(
        &["branch", "rm", "a2", "--yes"],
        &["branch", "rm", "b2", "--yes"],
    )?;
    project.xylem(&["branch", "show", &kept])?;
    let token = |name| {
        [
            "token",
            "create",
            name,
            "--read",
            "main",
            "--expires",
            "never",
        ]
    };
    both(&token("t1"), &token("t2"))?;
    both(&["token", "revoke", "t1"], &["token", "revoke", "t2"])?;
    both(&["token", "rotate"], &["token", "rotate"])?;
    let text = laptop.xylem(&["branch", "create", "c"])?;
    ensure!(text.contains("created branch c from main at LSN"), "{text}");
    ensure!(
        text.contains(&format!("xylem --server {}", laptop.server)),
        "{text}"
    );
    Ok(())
}

#[test]
fn what_fails_there_says_so_as_it_does_here() -> Result<()> {
    let project = project()?;
    let laptop = Laptop::new(&project)?;
    for args in [
        &["branch", "show", "deb"][..],
        &["branch", "rm", "nothing", "--yes"],
        &["branch", "create", "dev"],
        &["branch", "restore", "dev", "--at", "5"],
        &["compute", "start", "main@1"],
        &["compute", "start", "main@1", "--read-only"],
        &["token", "create", "owner of nothing", "--read", "id:00"],
    ] {
        let (here, there) = (project.try_xylem(args)?, laptop.try_xylem(args)?);
        assert_eq!(here.status.code(), there.status.code(), "{args:?}");
        let text = |out: &Output| {
            String::from_utf8_lossy(&out.stderr)
                .replace(&format!("--server {} ", laptop.server), "")
        };
        assert_eq!(text(&here), text(&there), "{args:?}");
        ensure!(
            here.status.code() != Some(0) && there.stdout.is_empty(),
            "{args:?}"
        );
    }
    let said = |out: Output| {
        (
            out.status.code(),
            String::from_utf8_lossy(&out.stderr).into_owned(),
        )
    };
    for args in [
        &["up"][..],
        &["down"],
        &["doctor"],
        &["sql"],
        &["scrub"],
        &["inspect", "layers", "main"],
        &["gateway"],
        &["api"],
    ] {
        let (code, text) = said(laptop.try_xylem(args)?);
        assert_eq!(code, Some(2), "{args:?}: {text}");
        ensure!(text.contains("not by --server"), "{args:?}: {text}");
        ensure!(args[0] != "sql" || text.contains("gateway"), "{text}");
    }
    // Without its authority the server is not believed; without TLS it is not asked.
    let mut command = laptop.command(&["status"]);
    let (_, text) = said(command.env_remove("XYLEM_CA").output()?);
    ensure!(text.contains("--ca FILE"), "{text}");
    for (server, why) in [
        ("http://192.0.2.1:3380", "without TLS"),
        ("ftp://localhost:1", "not HTTPS"),
        ("https://token@localhost:1", "--token-file"),
        ("https://me:hush@localhost:1", "https://...@localhost:1"),
        (
            "https://me:hush@localhost:99999",
            "https://...@localhost:99999",
        ),
        ("https://localhost:1/path", "only a host"),
    ] {
        let (code, text) = said(
            laptop
                .command(&["status"])
                .args(["--server", server])
                .output()?,
        );
        ensure!(
            code == Some(2) || text.contains("multiple times"),
            "{server}: {text}"
        );
        let mut command = Command::new(project.home().join("bin/xylem"));
        command
            .current_dir(laptop.dir.path())
            .arg("status")
            .env("XYLEM_SERVER", server);
        let (code, text) = said(command.env("XYLEM_TOKEN_FILE", "token").output()?);
        assert_eq!(code, Some(2), "{server}: {text}");
        ensure!(text.contains(why), "{server}: {text}");
        ensure!(!text.contains("hush"), "{server}: {text}");
    }
    let mut command = laptop.command(&["status"]);
    let (code, text) = said(command.env_remove("XYLEM_TOKEN_FILE").output()?);
    ensure!(code == Some(2) && text.contains("--token-file"), "{text}");
    Ok(())
}

/// The API's part of `xylem status --json`.
fn status(project: &Project) -> Result<Value> {
    Ok(project.json(&["status"])?["api"].take())
}

#[test]
fn up_keeps_the_api_and_down_ends_it() -> Result<()> {
    let project = project()?;
    let doctor = || -> Result<String> {
        let out = project.try_xylem(&["doctor", "--json"])?;
        let report: Value = serde_json::from_slice(&out.stdout)?;
        let checks = report["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| check["name"] == "api");
        Ok(check.context("no check")?["verdict"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    let before = status(&project)?;
    assert_eq!(before["state"], "running");
    assert_eq!(doctor()?, "ok");
    let text = project.xylem(&["status"])?;
    ensure!(
        text.lines()
            .any(|line| line.starts_with("API       running")),
        "{text}"
    );
    // It dies alone, and `up` starts it at its port.
    kill(i32::try_from(before["pid"].as_i64().context("no pid")?)?)?;
    wait_until("the API to be gone", Duration::from_secs(5), || {
        Ok(status(&project)?["state"] == "crashed")
    })?;
    assert_eq!(doctor()?, "fail");
    assert_eq!(project.compute()?["state"], "running");
    project.start()?;
    let after = status(&project)?;
    assert_eq!(
        (&after["state"], &after["port"]),
        (&json!("running"), &before["port"])
    );
    // What it does when it is told to stop is finished.
    let owner = Caller::owner(&project)?;
    let begun = owner.call("POST", "/v1/computes/dev/start?wait=0", None)?;
    assert_eq!(begun.body["state"], "running");
    wait_until("the start to begin", Duration::from_secs(5), || {
        let all = owner.ok("GET", "/v1/operations", None)?;
        Ok(!all[0]["progress"].is_null())
    })?;
    project.xylem(&["up", "--detach", "--api", "off"])?;
    assert_eq!(status(&project)?["state"], "stopped");
    assert_eq!(project.compute_named("dev")?["state"], "running");
    assert_eq!(doctor()?, "ok");
    project.xylem(&["up", "--detach", "--api", "on"])?;
    let said = project.xylem(&["down"])?;
    ensure!(said.contains("the API"), "{said}");
    assert_eq!(status(&project)?["state"], "stopped");
    // Off is kept by later starts.
    project.xylem(&["up", "--detach", "--api", "off"])?;
    assert_eq!(status(&project)?["state"], "stopped");
    Ok(())
}

/// Passes each connection on to `to`, and breaks the first `broken` ones off when the answer
/// begins. The address to connect to, and the number of connections so far.
fn unreliable(to: &str, broken: usize) -> Result<(String, Arc<AtomicUsize>)> {
    unreliable_with(to, broken, || {})
}

/// The same, and calls `meanwhile` before it breaks a connection off.
fn unreliable_with(
    to: &str,
    broken: usize,
    meanwhile: impl Fn() + Send + Sync + 'static,
) -> Result<(String, Arc<AtomicUsize>)> {
    let meanwhile = Arc::new(meanwhile);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let (seen, to) = (Arc::new(AtomicUsize::new(0)), to.to_owned());
    let count = Arc::clone(&seen);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let Ok(server) = TcpStream::connect(&to) else {
                return;
            };
            let meanwhile = Arc::clone(&meanwhile);
            let breaks = (number < broken).then_some(move || meanwhile());
            std::thread::spawn(move || pass(client, server, breaks));
        }
    });
    Ok((address, seen))
}

fn pass(
    mut client: TcpStream,
    mut server: TcpStream,
    breaks: Option<impl Fn()>,
) -> std::io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let asks = std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    if let Some(meanwhile) = breaks {
        // The server has done something by now.
        server.read_exact(&mut [0])?;
        meanwhile();
        client.shutdown(Shutdown::Both)?;
        return server.shutdown(Shutdown::Both);
    }
    std::io::copy(&mut server, &mut client)?;
    client.shutdown(Shutdown::Both)?;
    let _ = asks.join();
    Ok(())
}

#[test]
fn a_connection_that_breaks_is_made_again_and_nothing_twice() -> Result<()> {
    let project = project()?;
    let plain = Plain::new(&project)?;
    let mut laptop = Laptop::new(&project)?;
    let (address, seen) = unreliable(&plain.1, 2)?;
    laptop.server = address;
    let made = laptop.json(&["branch", "create", "once"])?;
    assert_eq!(made["name"], "once");
    assert_eq!(seen.load(Ordering::Relaxed), 3);
    // Looks, too.
    let (address, seen) = unreliable(&plain.1, 2)?;
    laptop.server = address;
    assert_eq!(laptop.json(&["branch", "show", "once"])?["name"], "once");
    ensure!(seen.load(Ordering::Relaxed) >= 3);
    // Not for ever.
    let (address, seen) = unreliable(&plain.1, usize::MAX)?;
    laptop.server = address;
    let out = laptop.try_xylem(&["branch", "create", "never"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        out.status.code() == Some(1) && said.contains("does not answer"),
        "{said}"
    );
    assert_eq!(seen.load(Ordering::Relaxed), 4);
    // It was done at the first try, and the others were told so.
    project.branch("never")?;
    Ok(())
}

#[test]
fn a_change_is_not_made_twice_by_an_api_that_was_started_meanwhile() -> Result<()> {
    let project = Arc::new(project()?);
    let plain = Plain::new(&project)?;
    let mut laptop = Laptop::new(&project)?;
    let (to, there) = (plain.1.clone(), Mutex::new(Some(plain)));
    let (same, other) = (to.clone(), Arc::clone(&project));
    // It has made the branch by then.
    let restart = move || {
        let mut there = there.lock().unwrap_or_else(PoisonError::into_inner);
        there.take();
        *there = Plain::listening(&other, &same).ok();
    };
    let (address, seen) = unreliable_with(&to, 1, restart)?;
    laptop.server = address;
    let out = laptop.try_xylem(&["branch", "create", "once"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        !out.status.success() && said.contains("was started after"),
        "{said}"
    );
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    project.branch("once")?;

    let owner = Caller::owner(&project)?;
    let repeated = |name: &str, ms: &str| {
        let request = owner.request("POST", "/v1/branches")?;
        let request = request
            .header("Idempotency-Key", name)
            .header("Xylem-First-Sent-Ms", ms);
        owner.send(request.json(&json!({ "name": name })))
    };
    repeated("late", "3600000")?.is_problem(409)?;
    for bad in ["", "-1", "1.5", "1234567890123"] {
        repeated("late", bad)?.is_problem(400)?;
    }
    ensure!(project.branch("late").is_err());
    Ok(())
}
