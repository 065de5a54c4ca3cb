//! A process that is killed while it uploads leaves nothing that is taken for
//! an object.
#![allow(clippy::unwrap_used)]

use crate::common::content;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use xylem_objects::testing::S3Server;
use xylem_objects::{Bucket, BucketConfig, CacheConfig, DiskCache, Retry};

const URL: &str = "XYLEM_TEST_CHILD_URL";
const CACHE: &str = "XYLEM_TEST_CHILD_CACHE";
/// More than goes in one request.
const LEN: usize = 18 << 20;

fn open(url: &str, dir: &Path) -> Arc<DiskCache> {
    // The rest comes from the environment.
    let bucket = Bucket::open(url, BucketConfig::default()).unwrap();
    DiskCache::open(dir, CacheConfig::default(), bucket).unwrap()
}

/// The process that is killed; without its environment, nothing.
#[test]
fn child() {
    let (Ok(url), Ok(dir)) = (std::env::var(URL), std::env::var(CACHE)) else {
        return;
    };
    let cache = open(&url, Path::new(&dir));
    let mut done = cache.create("f/done");
    done.write(&content(LEN, 1)).unwrap();
    done.finish().unwrap();
    let mut local = cache.create("f/local");
    local.write(&content(LEN, 2)).unwrap();
    let mut parts = cache.bucket().begin("f/parts");
    parts.write(&content(LEN, 3)).unwrap();
    println!("\nhalf");
    loop {
        std::thread::park();
    }
}

fn kill_in_the_middle(url: &str, env: Vec<(String, String)>, reopen: impl Fn() -> Bucket) {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture"])
        .env(URL, url)
        .env(CACHE, dir.path())
        .envs(env)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line == "half"));
    child.kill().unwrap();
    child.wait().unwrap();

    let bucket = reopen();
    assert_eq!(
        bucket.list("f").unwrap(),
        [("done".to_owned(), LEN as u64)],
        "{url}"
    );
    let cache = DiskCache::open(dir.path(), CacheConfig::default(), bucket).unwrap();
    assert_eq!(cache.stats().held_bytes, LEN as u64);
    // The names are still to be had.
    for name in ["f/local", "f/parts"] {
        let mut writer = cache.create(name);
        writer.write(&content(LEN, 4)).unwrap();
        writer.finish().unwrap();
        assert!(cache.bucket().get(name).unwrap() == content(LEN, 4));
    }
    cache.bucket().delete_folder("f").unwrap();
    assert_eq!(cache.bucket().list_below("f").unwrap(), []);
}

#[test]
fn in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let reopen = || Bucket::open(&url, BucketConfig::default()).unwrap();
    kill_in_the_middle(&url, Vec::new(), reopen);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn on_a_real_s3_server() {
    let server = S3Server::shared().unwrap();
    let url = server.place();
    let reopen = || server.open(&url, Retry::default()).unwrap();
    kill_in_the_middle(&url, server.env(), reopen);
}
