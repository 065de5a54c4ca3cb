//! Scrub, inspect and doctor on a whole system.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use xylem_e2e::{Project, free_ports, wait_until};

/// A project that flushes layers after little redo.
fn started() -> Result<Project> {
    let project = Project::new()?;
    let ports = free_ports(3)?;
    let out = project
        .command(&[
            "up",
            "--detach",
            "--mysql-port",
            &ports[0].to_string(),
            "--grpc-port",
            &ports[1].to_string(),
            "--http-port",
            &ports[2].to_string(),
            "--buffer-pool",
            "32M",
        ])
        .env("XYLEM_OPEN_LAYER_SIZE", "1MiB")
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "up failed: {said}");
    Ok(project)
}

/// A table that was changed a little, and layers with much of it.
fn fill(project: &Project) -> Result<()> {
    project.sql(
        "CREATE DATABASE d; USE d; CREATE TABLE d.t (a INT PRIMARY KEY, b VARCHAR(100)); \
         INSERT INTO d.t VALUES (1, 'one'), (2, 'two'); UPDATE d.t SET b = 'uno' WHERE a = 1; \
         CREATE TABLE d.big (a INT PRIMARY KEY, b VARBINARY(4000)); \
         INSERT INTO d.big SELECT seq, RANDOM_BYTES(1000) FROM seq_1_to_6000",
    )?;
    wait_until("layers are flushed", Duration::from_secs(60), || {
        Ok(layers(project)?.as_array().is_some_and(|l| l.len() > 2))
    })
}

fn layers(project: &Project) -> Result<Value> {
    Ok(project.json(&["inspect", "layers", "main"])?["layers"].take())
}

/// Waits until no flush and no merge has changed the list of layers for a second.
fn settle(project: &Project) -> Result<()> {
    let mut last = (Instant::now(), layers(project)?);
    wait_until("layers stay as they are", Duration::from_secs(60), || {
        let now = layers(project)?;
        if now != last.1 {
            last = (Instant::now(), now);
        }
        Ok(last.0.elapsed() > Duration::from_secs(1))
    })
}

fn checks(project: &Project) -> Result<Vec<Value>> {
    let out = project.try_xylem(&["doctor", "--json"])?;
    let report: Value = serde_json::from_slice(&out.stdout)?;
    report["checks"].as_array().cloned().context("no checks")
}

fn verdict<'a>(checks: &'a [Value], name: &str) -> &'a str {
    let of = checks.iter().filter(|c| c["name"] == name);
    // The worst state, which text order (fail, ok, warn) does not give.
    let rank = |v: &&str| ["ok", "warn", "fail"].iter().position(|r| r == v);
    let verdicts = of.map(|c| c["verdict"].as_str().unwrap_or("none"));
    verdicts.max_by_key(rank).unwrap_or("none")
}

fn find(dir: &Path, is_it: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap_or_default();
        let found = match path.is_dir() {
            true => find(&path, is_it),
            false => is_it(&name).then_some(path),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn what_happened_to_a_page_is_told() -> Result<()> {
    let project = started()?;
    fill(&project)?;
    // The clustered index's root.
    let page = project.json(&["inspect", "page", "main", "d/t:3", "--build"])?;
    assert_eq!(page["path"], "d/t.ibd");
    let versions = page["versions"].as_array().context("versions")?;
    ensure!(versions.len() >= 4, "{page}");
    for version in versions {
        let built = &version["page"];
        ensure!(built.is_null() || built["fault"].is_null(), "{version}");
        ensure!(built.is_null() || built["error"].is_null(), "{version}");
    }
    let texts: Vec<&str> = versions
        .iter()
        .filter_map(|v| v["records"].as_array())
        .flatten()
        .filter_map(|r| r["kind"].as_str())
        .collect();
    ensure!(texts.contains(&"INSERT_HEAP_DYNAMIC"), "{texts:?}");
    ensure!(texts.contains(&"INIT_PAGE"), "{texts:?}");
    // Before the update the page does not have its bytes.
    let newest = versions[0]["lsn"].as_u64().context("lsn")?;
    let hex = |at: u64| -> Result<String> {
        let at = at.to_string();
        let args = ["inspect", "page", "main", "d/t:3", "--hex", "--at", &at];
        let page = project.json(&args)?;
        let hex = page["built"]["hex"].as_str().context("hex")?;
        Ok(hex.to_owned())
    };
    let uno = "756e6f";
    ensure!(hex(newest)?.contains(uno) && !hex(newest - 1)?.contains(uno));
    // The WAL says the same about what layers lack.
    project.sql("UPDATE d.t SET b = 'due' WHERE a = 2")?;
    let page = project.json(&["inspect", "page", "main", "d/t:3", "--limit", "1"])?;
    let newest = page["versions"][0]["lsn"].as_u64().context("lsn")?;
    let log = find(project.dir(), &|name| name.ends_with(".wal")).context("a WAL")?;
    let dir = log.parent().context("its directory")?.display().to_string();
    let space = page["space"].to_string();
    let of = format!("{space}:3");
    let entries = project.json(&["inspect", "wal", &dir, "--page", &of, "--limit", "0"])?;
    let ends: Vec<u64> = entries["entries"]
        .as_array()
        .context("entries")?
        .iter()
        .filter_map(|e| e["mtrs"].as_array())
        .flatten()
        .filter_map(|m| m["end_lsn"].as_u64())
        .collect();
    ensure!(ends.contains(&newest), "{newest} is not in {ends:?}");
    Ok(())
}

#[test]
fn damage_is_found_and_told() -> Result<()> {
    let project = started()?;
    fill(&project)?;
    let report = project.json(&["scrub"])?;
    assert_eq!(report["clean"], true, "{report}");
    ensure!(report["layers"].as_u64() > Some(2), "{report}");
    let all = checks(&project)?;
    for name in ["store", "wal", "layers", "history", "scrub", "clock"] {
        assert_eq!(verdict(&all, name), "ok", "{name}: {all:?}");
    }
    assert_eq!(project.json(&["status"])?["damage"], serde_json::json!([]));

    // A merge would replace the layer, damage and all.
    settle(&project)?;
    let layer = find(project.dir(), &|name| name.ends_with(".layer")).context("a layer")?;
    let mut bytes = std::fs::read(&layer)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&layer, &bytes)?;
    let out = project.try_xylem(&["scrub", "main", "--json"])?;
    let listed = layers(&project)?;
    assert_eq!(out.status.code(), Some(1), "{layer:?} in {listed}");
    let report: Value = serde_json::from_slice(&out.stdout)?;
    assert_eq!(report["damage"], 1, "{report}");
    let name = layer
        .file_name()
        .and_then(|n| n.to_str())
        .context("a name")?;
    assert_eq!(report["findings"][0]["file"], name);
    assert_eq!(verdict(&checks(&project)?, "scrub"), "fail");
    assert_eq!(project.json(&["status"])?["damage"][0]["file"], name);
    // `xylem scrub` on the store alone finds it, too.
    project.xylem(&["down"])?;
    let store = layer.ancestors().nth(3).context("the store")?;
    let url = format!("file://{}", store.display());
    let out = project.try_xylem(&["scrub", "--store", &url, "--json"])?;
    assert_eq!(out.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&out.stdout)?;
    assert_eq!(report["findings"][0]["file"], name);
    bytes[middle] ^= 1;
    std::fs::write(&layer, &bytes)?;
    assert_eq!(project.json(&["scrub", "--store", &url])?["clean"], true);
    Ok(())
}
