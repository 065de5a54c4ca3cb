//! `xylem inspect` and `xylem scrub` on files: what people see.
//!
//! `UPDATE_EXPECT=1 cargo test -p xylem-cli --test it inspect` writes the
//! texts anew.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::kit::{golden, json, says, text, xylem};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use xylem_types::{Epoch, FileOp, Frame, FrameBody, FrameSeq, Lsn};
use xylem_wal::{LocalWal, LocalWalConfig, Position, Wal};

const BRANCH: &str = "0123456789abcdef0011223344556677";

/// A store with one branch, of the page store's golden files.
fn store() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../pages/tests/golden/v3")
}

fn branch(store: &Path) -> PathBuf {
    store.join("branches").join(BRANCH)
}

fn copy_of_store(to: &Path) -> PathBuf {
    std::fs::create_dir_all(branch(to)).unwrap();
    for entry in std::fs::read_dir(branch(&store())).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), branch(to).join(entry.file_name())).unwrap();
    }
    branch(to)
}

fn layer(number: u64) -> PathBuf {
    let name = format!("{number:016x}-");
    let entries = std::fs::read_dir(branch(&store())).unwrap();
    let mut paths = entries.map(|e| e.unwrap().path());
    let is_it = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with(&name);
    paths.find(is_it).unwrap()
}

#[test]
fn manifests_are_told() {
    let dir = branch(&store());
    golden("manifests.txt", &says(&[&"inspect", &"manifest", &dir]));
    let one = dir.join("manifest-0000000000000003");
    let said = says(&[&"inspect", &"manifest", &one]);
    assert!(said.contains("no snapshot among them"), "{said}");
    let report = json(&[&"inspect", &"manifest", &dir, &"--json"]);
    assert_eq!(report["manifests"].as_array().unwrap().len(), 4);
    assert_eq!(report["manifests"][0]["kind"], "snapshot");
    assert_eq!(report["manifests"][3]["resume"]["lsn"], 13047);
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4);
    assert_eq!(layers[1]["kind"], "image");
}

#[test]
fn layers_are_told() {
    let (delta, image) = (layer(1), layer(4));
    golden("layer.txt", &says(&[&"inspect", &"layer", &delta]));
    let args: [&dyn AsRef<std::ffi::OsStr>; 4] = [&"inspect", &"layer", &delta, &"--records"];
    golden("layer-records.txt", &says(&args));
    let args: [&dyn AsRef<std::ffi::OsStr>; 6] =
        [&"inspect", &"layer", &image, &"--page", &"9:3", &"--hex"];
    golden("layer-hex.txt", &says(&args));
    let args: [&dyn AsRef<std::ffi::OsStr>; 8] = [
        &"inspect", &"layer", &delta, &"--page", &"9:3", &"--limit", &"2", &"--json",
    ];
    let report = json(&args);
    assert_eq!(report["list"].as_array().unwrap().len(), 2);
    assert_eq!(report["list"][0]["key"], "page 9:3");
    assert_eq!(report["list"][1]["lsn"], 12355);
    assert_eq!(report["list_cut"], true);
    assert_eq!(report["faults"], serde_json::json!([]));
    assert_eq!(report["keys_by_kind"][0]["count"], 2);
}

#[test]
fn a_damaged_layer_is_told_and_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let branch = copy_of_store(dir.path());
    let path = branch.join(layer(1).file_name().unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let out = xylem(&[&"inspect", &"layer", &path]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("DAMAGED: block at byte 64: CRC-32C"));
    // Not a layer at all.
    std::fs::write(&path, b"not this").unwrap();
    for kind in ["layer", "manifest", "wal"] {
        let out = xylem(&[&"inspect", &kind, &path]);
        assert_eq!(out.status.code(), Some(1));
        let said = text(&out.stderr);
        assert!(
            out.stdout.is_empty() && said.starts_with("error: "),
            "{said}"
        );
    }
    let none = dir.path().join("none");
    for kind in ["layer", "manifest", "wal"] {
        let out = xylem(&[&"inspect", &kind, &none]);
        assert_eq!(out.status.code(), Some(1));
    }
    // A directory without.
    for kind in ["manifest", "wal"] {
        let out = xylem(&[&"inspect", &kind, &dir.path()]);
        assert!(text(&out.stderr).contains("hint: "));
    }
}

#[test]
fn a_store_is_scrubbed_without_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let branch = copy_of_store(dir.path());
    let url = format!("file://{}", dir.path().display());
    let said = says(&[&"scrub", &"--store", &url]);
    assert_eq!(said, "1 branch, 4 layers, 34.6 KiB read: no damage\n");
    let path = branch.join(layer(1).file_name().unwrap());
    let bytes = std::fs::read(&path).unwrap();
    let mut bad = bytes.clone();
    bad[5000] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    std::fs::write(branch.join("x.tmp"), "").unwrap();
    let out = xylem(&[&"scrub", &"--store", &url]);
    assert_eq!(out.status.code(), Some(1));
    let said = text(&out.stdout);
    assert!(
        said.contains("damaged: branch 0123") && said.contains("CRC-32C"),
        "{said}"
    );
    assert!(
        said.contains("orphan: branch 0123") && said.contains("x.tmp"),
        "{said}"
    );
    assert!(said.ends_with("1 damaged or missing, 0 unreadable, 1 file that no manifest names\n"));
    assert!(text(&out.stderr).contains("backup"));
    let out = xylem(&[&"scrub", &"--store", &url, &"--json", &"--rate", &"100MiB"]);
    assert_eq!(out.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (&report["clean"], &report["damage"]),
        (&false.into(), &1.into())
    );
    assert_eq!(report["findings"][0]["kind"], "damaged");
    // A file that no manifest names is no failure.
    std::fs::write(&path, &bytes).unwrap();
    let said = says(&[&"scrub", &"--store", &url]);
    assert!(
        said.contains("no damage; 1 file that no manifest names"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_scrubbed_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    for (url, status) in [
        ("s3://bucket/place", 2),
        ("layers", 2),
        ("file:///nowhere/at/all", 1),
        (url.as_str(), 1),
    ] {
        let out = xylem(&[&"scrub", &"--store", &url]);
        assert_eq!(out.status.code(), Some(status), "{url}");
        assert!(out.stdout.is_empty(), "{url}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    for args in [
        ["inspect", "page", "main", "5"].as_slice(),
        &["inspect", "page", "main", ":3"],
        &["inspect", "page", "main", "db/t:x"],
        &["inspect", "layer", "f", "--page", "db/t:3"],
        &["inspect", "wal", "d", "--lsn", "now"],
        &["scrub", "main", "--store", "file:///x"],
        &["inspect"],
    ] {
        let args: Vec<&dyn AsRef<std::ffi::OsStr>> = args
            .iter()
            .map(|a| a as &dyn AsRef<std::ffi::OsStr>)
            .collect();
        let out = xylem(&args);
        assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    }
    // What asks the server needs a project.
    for args in [
        ["scrub"].as_slice(),
        &["inspect", "page", "main", "5:3"],
        &["inspect", "layers", "main"],
    ] {
        let args: Vec<&dyn AsRef<std::ffi::OsStr>> = args
            .iter()
            .map(|a| a as &dyn AsRef<std::ffi::OsStr>)
            .collect();
        let out = xylem(&args);
        assert_eq!(out.status.code(), Some(1));
        assert!(text(&out.stderr).contains("there is no project"));
    }
}

/// INIT_PAGE of page 5:3 and a write of `data` at 100, as one mtr.
fn mtr(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x12, 5, 3];
    // WRITE on the same page, 76 bytes behind FIL_PAGE_TYPE.
    out.push(0xb0 | (data.len() as u8 + 1));
    out.push(76);
    out.extend_from_slice(data);
    let crc = crc32c::crc32c(&out).to_be_bytes();
    out.push(1);
    out.extend_from_slice(&crc);
    out
}

struct Written {
    wal: LocalWal,
    epoch: Epoch,
    seq: u64,
    lsn: Lsn,
}

async fn begin(dir: &Path, config: LocalWalConfig) -> Written {
    let wal = LocalWal::open(dir, config).unwrap();
    let epoch = wal.seal().await.unwrap().epoch();
    wal.begin(epoch, Lsn::FIRST).await.unwrap();
    Written {
        wal,
        epoch,
        seq: 0,
        lsn: Lsn::FIRST,
    }
}

impl Written {
    async fn append(&mut self, body: FrameBody) {
        self.seq += 1;
        let frame = Frame {
            seq: FrameSeq(self.seq),
            start: self.lsn,
            body,
        };
        self.lsn = frame.end();
        self.wal.append(self.epoch, vec![frame]).await.unwrap();
    }

    async fn redo(&mut self, bytes: &[u8]) {
        self.append(FrameBody::Redo(bytes.into())).await;
    }

    async fn durable(&self) {
        let mut durable = self.wal.durable();
        let seq = FrameSeq(self.seq);
        durable.wait_for(|d| d.seq() >= seq).await.unwrap();
    }
}

/// Names and bytes of all files.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|e| e.unwrap())
        .map(|e| {
            let name = e.file_name().into_string().unwrap();
            (name, std::fs::read(e.path()).unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_wal_is_told_while_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let mut w = begin(dir.path(), LocalWalConfig::default()).await;
    let (one, two) = (mtr(&[1, 2, 3]), mtr(&[4]));
    w.redo(&one).await;
    w.append(FrameBody::File(FileOp::Create {
        path: "db/t.frm".to_owned(),
        mode: 0o660,
    }))
    .await;
    // One that is cut in two.
    w.redo(&two[..5]).await;
    w.redo(&two[5..]).await;
    w.durable().await;
    let before = content(dir.path());
    let report = json(&[&"inspect", &"wal", &dir.path(), &"--records", &"--json"]);
    assert_eq!(content(dir.path()), before, "the WAL was changed");
    assert_eq!(
        (&report["epoch"], &report["lsn"]),
        (&1.into(), &w.lsn.0.into())
    );
    let entries = report["entries"].as_array().unwrap();
    let kinds: Vec<&str> = entries
        .iter()
        .map(|e| e["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["seal", "begin", "redo", "create", "redo", "redo"]);
    assert_eq!(entries[3]["operation"], "db/t.frm, mode 660");
    let first = &entries[2]["mtrs"][0];
    assert_eq!(first["start_lsn"], 12288);
    assert_eq!(first["end_lsn"], 12288 + one.len());
    assert_eq!(first["records"][0]["kind"], "INIT_PAGE");
    assert_eq!(first["records"][1]["page"], "5:3");
    assert_eq!(first["records"][1]["text"], "3 bytes at 100: 010203");
    assert_eq!(entries[4].get("mtrs"), None);
    assert_eq!(entries[5]["mtrs"][0]["end_lsn"], w.lsn.0);
    assert_eq!(report["next"], serde_json::Value::Null);

    let said = says(&[&"inspect", &"wal", &dir.path(), &"--mtrs"]);
    assert!(said.contains("create db/t.frm, mode 660"), "{said}");
    assert!(said.contains(&format!("mtr 12288..{}, 2 records", 12288 + one.len())));
    // In parts, from an LSN, of a page.
    let part = json(&[&"inspect", &"wal", &dir.path(), &"--limit", &"2", &"--json"]);
    assert_eq!(part["entries"].as_array().unwrap().len(), 2);
    let next = part["next"].as_u64().unwrap();
    assert_eq!(next, entries[2]["position"].as_u64().unwrap());
    let from = next.to_string();
    let rest = json(&[&"inspect", &"wal", &dir.path(), &"--from", &from, &"--json"]);
    assert_eq!(rest["entries"].as_array().unwrap().len(), 4);
    let lsn = (12288 + one.len()).to_string();
    let late = json(&[&"inspect", &"wal", &dir.path(), &"--lsn", &lsn, &"--json"]);
    assert_eq!(late["entries"][0]["end_lsn"], 12288 + one.len() + 5);
    for (page, count) in [("5:3", 2), ("5:4", 0)] {
        let of = json(&[&"inspect", &"wal", &dir.path(), &"--page", &page, &"--json"]);
        assert_eq!(of["entries"].as_array().unwrap().len(), count, "{page}");
    }
    let out = xylem(&[&"inspect", &"wal", &dir.path(), &"--from", &"7"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("positions go from 0 to"));
    w.wal.close().await.unwrap();
    assert_eq!(
        json(&[&"inspect", &"wal", &dir.path(), &"--json"])["epoch"],
        1
    );
}

#[tokio::test]
async fn a_wal_that_begins_in_the_middle_of_an_mtr_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = LocalWalConfig {
        segment_bytes: 16 << 10,
        max_frame_bytes: 4 << 10,
        ..LocalWalConfig::default()
    };
    let mut w = begin(dir.path(), config).await;
    let mut all = Vec::new();
    for n in 0..4000u32 {
        all.extend_from_slice(&mtr(&n.to_be_bytes()));
    }
    // Frames end anywhere.
    for piece in all.chunks(1000) {
        w.redo(piece).await;
    }
    w.durable().await;
    let middle = Position(w.wal.durable().borrow().position().0 / 2);
    w.wal.trim(middle).unwrap();
    let first = w.wal.first();
    assert!(first > Position(0));
    let report = json(&[
        &"inspect",
        &"wal",
        &dir.path(),
        &"--mtrs",
        &"--limit",
        &"0",
        &"--json",
    ]);
    assert_eq!(report["first"], first.0);
    let entries = report["entries"].as_array().unwrap();
    let note = entries[0]["note"].as_str().unwrap();
    assert!(note.contains("began before"), "{note}");
    // From the first whole one on there is no gap.
    let mtrs = entries
        .iter()
        .filter_map(|e| e["mtrs"].as_array())
        .flatten();
    let mut next = None;
    for m in mtrs {
        assert!(next.is_none_or(|lsn| lsn == m["start_lsn"]));
        next = Some(m["end_lsn"].clone());
    }
    assert_eq!(next.unwrap(), w.lsn.0);
    assert_eq!(report["fault"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_damaged_wal_is_told_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let config = LocalWalConfig {
        segment_bytes: 16 << 10,
        max_frame_bytes: 4 << 10,
        ..LocalWalConfig::default()
    };
    let mut w = begin(dir.path(), config).await;
    for n in 0..60u32 {
        w.redo(&mtr(&n.to_be_bytes()).repeat(60)).await;
        w.durable().await;
    }
    w.wal.close().await.unwrap();
    let path = dir.path().join("000000000002.wal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let report = json(&[&"inspect", &"wal", &dir.path(), &"--json"]);
    let fault = report["fault"].as_str().unwrap();
    assert!(fault.contains("000000000002.wal"), "{fault}");
    assert!(report["entries"].as_array().unwrap().len() > 10);
}
