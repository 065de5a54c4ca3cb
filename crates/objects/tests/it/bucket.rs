//! The behavior of a bucket, the same on every kind of store.
#![allow(clippy::unwrap_used)]

use crate::common::{config, content, faulty, file_of};
use std::io::ErrorKind;
use xylem_objects::testing::{Rates, S3Server, quick};
use xylem_objects::{Bucket, BucketConfig, Created};

fn sorted(mut list: Vec<(String, u64)>) -> Vec<(String, u64)> {
    list.sort();
    list
}

/// SeaweedFS lists those that became empty for some seconds.
fn folders_with_objects(bucket: &Bucket, within: &str) -> Vec<String> {
    let mut folders = bucket.folders(within).unwrap();
    folders.retain(|f| {
        !bucket
            .list_below(&format!("{within}/{f}"))
            .unwrap()
            .is_empty()
    });
    folders
}

fn behaves(bucket: &Bucket, part: usize) {
    creates(bucket);
    reads(bucket);
    uploads(bucket, part);
    lists(bucket);
    removes(bucket);
}

fn creates(bucket: &Bucket) {
    assert_eq!(
        bucket.put_new("b/one/x", &b"first"[..]).unwrap(),
        Created::Done
    );
    assert_eq!(
        bucket.put_new("b/one/x", &b"second"[..]).unwrap(),
        Created::Exists
    );
    assert_eq!(
        bucket.put_new("b/one/x", &b"worst"[..]).unwrap(),
        Created::Exists,
        "of equal length"
    );
    assert_eq!(
        bucket.put_new("b/one/x", &b"first"[..]).unwrap(),
        Created::Done,
        "what holds our bytes is ours"
    );
    assert_eq!(&bucket.get("b/one/x").unwrap()[..], b"first");
    assert_eq!(
        bucket.put_new("b/one/empty", &b""[..]).unwrap(),
        Created::Done
    );
    assert_eq!(bucket.get("b/one/empty").unwrap().len(), 0);
}

fn reads(bucket: &Bucket) {
    assert_eq!(bucket.size("b/one/x").unwrap(), 5);
    assert_eq!(&bucket.get_range("b/one/x", 1..4).unwrap()[..], b"irs");
    assert_eq!(&bucket.get_range("b/one/x", 0..5).unwrap()[..], b"first");
    assert!(bucket.get_range("b/one/x", 3..3).unwrap().is_empty());
    for range in [3..6, 5..6, 100..200] {
        let error = bucket.get_range("b/one/x", range).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    }
    for error in [
        bucket.get("b/none").unwrap_err(),
        bucket.size("b/none").unwrap_err(),
        bucket.get_range("b/none", 0..1).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("b/none"), "{error}");
    }
}

/// Uploads in one request, in parts, and never over something.
fn uploads(bucket: &Bucket, part: usize) {
    for len in [0, 1, part - 1, part, part + 1, 3 * part + 17] {
        let bytes = content(len, len as u64);
        let name = format!("b/two/file-{len}");
        let file = file_of(&bytes);
        bucket.upload(&name, &file, len as u64).unwrap();
        assert!(bucket.get(&name).unwrap() == bytes, "{len}");
        let other = file_of(&content(len, 99));
        let error = bucket.upload(&name, &other, len as u64);
        if len > 0 {
            assert_eq!(error.unwrap_err().kind(), ErrorKind::AlreadyExists);
        }
        assert!(bucket.get(&name).unwrap() == bytes, "{len}");
    }
    // One that is not finished was never there.
    let mut upload = bucket.begin("b/two/half");
    upload.write(&content(2 * part + 5, 1)).unwrap();
    drop(upload);
    assert_eq!(
        bucket.get("b/two/half").unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

fn lists(bucket: &Bucket) {
    bucket.put_new("b/one/deep/er", &b"123"[..]).unwrap();
    bucket.put_new("b/onemore", &b"12"[..]).unwrap();
    assert_eq!(
        sorted(bucket.list("b/one").unwrap()),
        [("empty".to_owned(), 0), ("x".to_owned(), 5)]
    );
    assert_eq!(
        sorted(bucket.list_below("b/one").unwrap()),
        [
            ("deep/er".to_owned(), 3),
            ("empty".to_owned(), 0),
            ("x".to_owned(), 5)
        ]
    );
    assert_eq!(bucket.list("b").unwrap(), [("onemore".to_owned(), 2)]);
    let mut folders = bucket.folders("b").unwrap();
    folders.sort();
    assert_eq!(folders, ["one", "two"]);
    assert_eq!(bucket.folders("b/two").unwrap(), [""; 0]);
    assert_eq!(bucket.list("b/none").unwrap(), []);
    assert_eq!(bucket.folders("none").unwrap(), [""; 0]);
    assert!(bucket.folders("").unwrap().contains(&"b".to_owned()));
}

fn removes(bucket: &Bucket) {
    bucket.delete("b/one/x").unwrap();
    bucket.delete("b/one/x").unwrap();
    bucket.delete("b/none").unwrap();
    assert_eq!(
        bucket.get("b/one/x").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    bucket.delete_folder("b/one").unwrap();
    bucket.delete_folder("b/one").unwrap();
    bucket.delete_folder("none").unwrap();
    assert_eq!(bucket.list_below("b/one").unwrap(), []);
    assert_eq!(bucket.get("b/onemore").unwrap().len(), 2);
    assert_eq!(folders_with_objects(bucket, "b"), ["two"]);
    for n in 0..30 {
        bucket
            .put_new(&format!("b/many/{n}"), vec![n as u8; n])
            .unwrap();
    }
    assert_eq!(bucket.list("b/many").unwrap().len(), 30);
    bucket.delete_folder("b").unwrap();
    assert_eq!(bucket.list_below("b").unwrap(), []);
    assert_eq!(folders_with_objects(bucket, ""), [""; 0]);

    bucket.check().unwrap();
    assert_eq!(bucket.list_below("").unwrap(), [], "the check cleans up");
}

#[test]
fn in_memory() {
    let bucket = Bucket::open("memory:///", config()).unwrap();
    behaves(&bucket, config().part_bytes);
    assert_eq!(bucket.url(), "memory://");
}

#[test]
fn in_memory_below_a_prefix() {
    let bucket = Bucket::open("memory:///some/where", config()).unwrap();
    behaves(&bucket, config().part_bytes);
}

#[test]
fn in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/er");
    let url = format!("file://{}", root.display());
    let bucket = Bucket::open(&url, config()).unwrap();
    behaves(&bucket, config().part_bytes);
    assert_eq!(bucket.url(), url);
    // The next process finds written objects. The remains of a killed upload do
    // not pass for a file, and go with their folder.
    bucket.put_new("f/x", &b"there"[..]).unwrap();
    std::fs::write(root.join("f/y#1"), b"cut off").unwrap();
    let bucket = Bucket::open(&url, config()).unwrap();
    assert_eq!(bucket.list("f").unwrap(), [("x".to_owned(), 5)]);
    bucket.delete_folder("f").unwrap();
    assert!(!root.join("f").exists());
    assert!(root.exists());
}

#[test]
fn on_a_real_s3_server() {
    let server = S3Server::shared().unwrap();
    let config = BucketConfig {
        settings: server.settings(),
        // The least that S3 takes.
        part_bytes: 5 << 20,
        ..BucketConfig::default()
    };
    let bucket = Bucket::open(&server.place(), config.clone()).unwrap();
    behaves(&bucket, config.part_bytes);
    assert!(!bucket.url().contains("secret"), "{}", bucket.url());

    // Settings may stand in the URL.
    let query: Vec<String> = server
        .settings()
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let place = server.place();
    let bucket = Bucket::open(
        &format!("{place}?{}", query.join("&")),
        BucketConfig::default(),
    )
    .unwrap();
    assert_eq!(bucket.url(), place);
    bucket.put_new("x", &b"1"[..]).unwrap();
    assert_eq!(bucket.get("x").unwrap().len(), 1);
}

#[test]
fn on_a_store_that_fails_all_the_time() {
    for seed in 0..6 {
        let (faulty, bucket) = faulty(seed);
        // A late request may come after the object was deleted.
        faulty.rates(Rates {
            late: 0,
            ..Rates::some()
        });
        behaves(&bucket, config().part_bytes);
        assert!(faulty.injected() > 20, "{}", faulty.injected());
        assert!(bucket.stats().retries > 20);
    }
}

#[test]
fn calls_come_from_any_thread_and_the_end_from_anywhere() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bucket = Bucket::open("memory:///", config()).unwrap();
        let blocking = bucket.clone();
        tokio::task::spawn_blocking(move || blocking.put_new("x", &b"1"[..]).unwrap())
            .await
            .unwrap();
        let objects = bucket.objects().clone();
        assert_eq!(objects.get("x").await.unwrap().len(), 1);
        assert_eq!(
            objects.put_new("x", b"2"[..].into()).await.unwrap(),
            Created::Exists
        );
        // Dropping a runtime in async code panics; this must not.
        drop((bucket, objects));
    });
}

#[test]
fn a_server_killed_while_objects_are_created_has_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(dir.path()).unwrap();
    let mut retry = quick();
    retry.give_up = xylem_objects::GiveUp::After(std::time::Duration::from_secs(60));
    retry.attempt_timeout = std::time::Duration::from_secs(5);
    let bucket = server.open(&server.url(), retry).unwrap();
    let (seen, killer) = std::sync::mpsc::sync_channel(1000);
    std::thread::scope(|s| {
        for writer in 0..4 {
            let (bucket, seen) = (bucket.clone(), seen.clone());
            s.spawn(move || {
                for n in 0..150 {
                    let name = format!("kill/{writer}-{n}");
                    let put = bucket.put_new(&name, content(9000, n)).unwrap();
                    assert_eq!(put, Created::Done, "{name}: nobody else creates it");
                    seen.send(()).unwrap();
                }
            });
        }
        drop(seen);
        let mut created = 0;
        while killer.recv().is_ok() {
            created += 1;
            if created == 100 || created == 300 {
                server.kill();
                server.restart().unwrap();
            }
        }
        assert_eq!(created, 600);
    });
    assert!(bucket.stats().retries > 0);
    let list = bucket.list("kill").unwrap();
    assert_eq!(list.len(), 600);
    for writer in 0..4 {
        for n in 0..150 {
            let held = bucket.get(&format!("kill/{writer}-{n}")).unwrap();
            assert!(held == content(9000, n), "{writer}-{n}");
        }
    }
}
