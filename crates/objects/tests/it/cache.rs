//! The cache on local disk.
#![allow(clippy::unwrap_used)]

use crate::common::{bucket_of, config, content, faulty};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xylem_objects::cache::{Hook, Step};
use xylem_objects::testing::{Fault, Faulty, Op, Rates};
use xylem_objects::{Bucket, CacheConfig, DiskCache};

const CHUNK: u64 = 4096;

fn small(max_bytes: u64) -> CacheConfig {
    CacheConfig {
        max_bytes,
        chunk_bytes: CHUNK,
        fetch_bytes: 8 * CHUNK,
        fetch_memory_bytes: 16 * CHUNK,
    }
}

fn open(dir: &Path, max_bytes: u64, bucket: &Bucket) -> Arc<DiskCache> {
    DiskCache::open(dir, small(max_bytes), bucket.clone()).unwrap()
}

/// A store with the object `x` of this many bytes.
fn with_object(len: usize) -> (Faulty, Bucket, Vec<u8>) {
    let (faulty, bucket) = faulty(1);
    let bytes = content(len, 7);
    bucket.put_new("x", bytes.clone()).unwrap();
    (faulty, bucket, bytes)
}

fn read(cache: &DiskCache, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; len];
    cache.object(name)?.read_at(offset, &mut out)?;
    Ok(out)
}

/// Disk that the cache's files take.
fn disk_used(dir: &Path) -> u64 {
    std::fs::read_dir(dir.join("objects"))
        .unwrap()
        .filter_map(|e| Some(e.unwrap().metadata().ok()?.blocks() * 512))
        .sum()
}

/// The files take what the cache says that they take, plus a block for each
/// that is in many pieces, for the list of them.
fn assert_disk(cache: &DiskCache, dir: &Path) {
    let (stats, used) = (cache.stats(), disk_used(dir));
    assert!(
        used <= stats.held_bytes + files(dir).len() as u64 * 4096,
        "{used} {stats:?}"
    );
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir.join("objects"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::yield_now();
    }
}

fn no_space(step: Step<'_>) -> io::Result<()> {
    match step {
        Step::Create(_) | Step::Write(..) => Err(io::Error::from_raw_os_error(28)),
        _ => Ok(()),
    }
}

#[test]
fn what_is_missing_is_fetched_by_chunks_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let (faulty, bucket, bytes) = with_object(10 * CHUNK as usize + 100);
    let cache = open(dir.path(), 1 << 20, &bucket);
    let object = cache.object("x").unwrap();
    assert_eq!((object.name(), object.size()), ("x", bytes.len() as u64));
    let mut asked = faulty.requests();
    // The range read, the requests it takes.
    for (range, requests) in [
        (5000..5010, 1),
        (4096..8192, 0),
        (5000..5001, 0),
        // Three neighbors in one.
        (10_000..20_000, 1),
        (9_000..20_000, 0),
        // Around what is there: two. The second goes on where the last ended,
        // and so fetches ahead.
        (0..24_000, 2),
        // The last one, which is short.
        (10 * CHUNK as usize..bytes.len(), 1),
        (bytes.len() - 1..bytes.len(), 0),
        // The rest.
        (0..bytes.len(), 1),
        (0..bytes.len(), 0),
        (7..7, 0),
        (bytes.len()..bytes.len(), 0),
    ] {
        let mut out = vec![0; range.len()];
        object.read_at(range.start as u64, &mut out).unwrap();
        assert!(out == bytes[range.clone()], "{range:?}");
        assert_eq!(faulty.requests() - asked, requests, "{range:?}");
        asked = faulty.requests();
    }
    let stats = cache.stats();
    assert_eq!(stats.fetched_bytes, bytes.len() as u64);
    assert_eq!(stats.held_bytes, 11 * CHUNK);
    assert_eq!((stats.misses, stats.hits), (5, 7));
    assert_disk(&cache, dir.path());
    let mut out = [0; 10];
    for offset in [bytes.len() as u64 - 9, bytes.len() as u64, u64::MAX - 3] {
        let error = object.read_at(offset, &mut out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{error}");
    }
    let none = cache.object("none").map(|_| ()).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    assert_eq!(cache.stats().objects, 1);
}

#[test]
fn one_who_reads_front_to_back_fetches_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let (_, bucket, bytes) = with_object(100 * CHUNK as usize);
    let cache = open(dir.path(), 1 << 20, &bucket);
    let object = cache.object("x").unwrap();
    for at in (0..bytes.len()).step_by(1000) {
        let mut out = vec![0; 1000.min(bytes.len() - at)];
        object.read_at(at as u64, &mut out).unwrap();
        assert!(out == bytes[at..at + out.len()]);
    }
    // 1, 1, 2, 4, and then 8 chunks at once.
    let stats = cache.stats();
    assert!(stats.fetches <= 16, "{stats:?}");
    assert_eq!(stats.fetched_bytes, bytes.len() as u64);
    // Backwards there is nothing ahead.
    cache.forget("x", 0..u64::MAX);
    for chunk in (0..100).rev() {
        let mut out = [0; 10];
        object.read_at(chunk * CHUNK, &mut out).unwrap();
    }
    assert_eq!(cache.stats().fetches, stats.fetches + 100);
}

#[test]
fn one_download_serves_all_who_want_the_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let (faulty, bucket, bytes) = with_object(4 * CHUNK as usize);
    let cache = open(dir.path(), 1 << 20, &bucket);
    faulty.script(Op::Get, "x", 1, 1, Fault::Slow(Duration::from_millis(100)));
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                let out = read(&cache, "x", 100, 8000).unwrap();
                assert!(out == bytes[100..8100]);
            });
        }
    });
    assert_eq!(cache.stats().fetches, 1);
    // Readers that wait for a fetch that fails get its error, and the next
    // reader tries again.
    faulty.script(Op::Get, "x", 0, 1, Fault::Refuse);
    assert!(read(&cache, "x", 3 * CHUNK, 10).is_err());
    assert!(read(&cache, "x", 3 * CHUNK, 10).is_ok());
}

#[test]
fn the_limit_holds_and_what_is_used_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (faulty, bucket, bytes) = with_object(64 * CHUNK as usize);
    let cache = open(dir.path(), 16 * CHUNK, &bucket);
    for n in 0..64 {
        // Chunk 0 again and again, the others once, in no order.
        for chunk in [0, n * 37 % 64] {
            let at = chunk * CHUNK as usize;
            let out = read(&cache, "x", at as u64, 100).unwrap();
            assert!(out == bytes[at..at + 100]);
        }
        assert!(cache.stats().held_bytes <= 16 * CHUNK);
        assert_disk(&cache, dir.path());
    }
    let stats = cache.stats();
    assert_eq!(
        stats.fetches, 64,
        "what is used often was never fetched twice"
    );
    assert_eq!(stats.evictions, 48);
    assert_eq!(stats.held_bytes, 16 * CHUNK);
    // An evicted one comes back.
    let before = faulty.requests();
    assert!(read(&cache, "x", 3 * CHUNK, 4).unwrap() == bytes[3 * CHUNK as usize..][..4]);
    assert_eq!(faulty.requests(), before + 1);
}

#[test]
fn reading_much_once_does_not_drive_out_what_is_read_often() {
    let dir = tempfile::tempdir().unwrap();
    let (faulty, bucket, bytes) = with_object(200 * CHUNK as usize);
    bucket
        .put_new("hot", content(4 * CHUNK as usize, 1))
        .unwrap();
    let cache = open(dir.path(), 20 * CHUNK, &bucket);
    let (hot, scanned) = (cache.object("hot").unwrap(), cache.object("x").unwrap());
    let mut out = [0; 512];
    // Each chunk in eight pieces; the other's four every ten chunks.
    for (n, at) in (0..bytes.len()).step_by(512).enumerate() {
        if n % (8 * 10) == 0 {
            for chunk in [0, 2, 1, 3] {
                hot.read_at(chunk * CHUNK, &mut out).unwrap();
            }
        }
        scanned.read_at(at as u64, &mut out).unwrap();
        if n == 0 {
            faulty.script(Op::Get, "hot", 0, 1, Fault::Refuse);
        }
    }
    assert!(cache.stats().evictions >= 180, "{:?}", cache.stats());
}

#[test]
fn without_any_room_reads_go_straight_to_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (_, bucket, bytes) = with_object(20 * CHUNK as usize);
    for max in [0, CHUNK - 1] {
        let cache = open(dir.path(), max, &bucket);
        for _ in 0..2 {
            assert!(read(&cache, "x", 0, bytes.len()).unwrap() == bytes);
        }
        let mut writer = cache.create("y");
        writer.write(&bytes).unwrap();
        writer.finish().unwrap();
        assert!(read(&cache, "y", 0, bytes.len()).unwrap() == bytes);
        let stats = cache.stats();
        assert_eq!((stats.held_bytes, stats.streamed), (0, 1));
        assert!(stats.not_kept > 0);
        assert_eq!(files(dir.path()), [""; 0]);
        bucket.delete("y").unwrap();
    }
}

#[test]
fn what_is_written_is_in_the_store_and_here() {
    let dir = tempfile::tempdir().unwrap();
    let (faulty, bucket, _) = with_object(1);
    let cache = open(dir.path(), 1 << 20, &bucket);
    for (name, len) in [
        ("b/a", 0),
        ("b/b", 1),
        ("b/c d@%", 70_000),
        ("b/d", 300_000),
    ] {
        let bytes = content(len, 3);
        let mut writer = cache.create(name);
        for part in bytes.chunks(1000) {
            writer.write(part).unwrap();
        }
        assert!(bucket.get(name).is_err(), "not before it is finished");
        writer.finish().unwrap();
        assert!(bucket.get(name).unwrap() == bytes);
        faulty.away(true);
        assert!(read(&cache, name, 0, len).unwrap() == bytes, "{name}");
        faulty.heal();
    }
    assert_eq!(cache.stats().fetches, 0);
    let held = cache.stats().held_bytes;
    assert_disk(&cache, dir.path());
    // One that is dropped was never there, nor one whose name is taken.
    let mut writer = cache.create("b/e");
    writer.write(&content(50_000, 1)).unwrap();
    drop(writer);
    let mut writer = cache.create("b/b");
    writer.write(&content(50_000, 1)).unwrap();
    let error = writer.finish().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(cache.stats().held_bytes, held);
    assert_disk(&cache, dir.path());
    assert_eq!(bucket.list("b").unwrap().len(), 4);
    // The empty one is not worth a file.
    assert_eq!(files(dir.path()).len(), 3);
    // A store that is away: an error, and nothing is left.
    faulty.script(Op::Put, "b/f", 0, 1, Fault::Refuse);
    let mut writer = cache.create("b/f");
    writer.write(b"1").unwrap();
    assert!(writer.finish().is_err());
    assert_eq!(cache.stats().held_bytes, held);

    // Removed: here too.
    bucket.delete_folder("b").unwrap();
    cache.remove("b/a");
    cache.remove_folder("b");
    cache.remove_folder("none");
    assert_eq!(cache.stats().held_bytes, 0);
    assert_eq!(files(dir.path()), [""; 0]);
    assert!(cache.object("b/d").is_err());
}

#[test]
fn after_a_restart_whole_objects_are_here_and_others_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (faulty, bucket, bytes) = with_object(20 * CHUNK as usize);
    let cache = open(dir.path(), 1 << 20, &bucket);
    for name in ["written", "evicted", "forgotten", "cut"] {
        let mut writer = cache.create(name);
        writer.write(&bytes).unwrap();
        writer.finish().unwrap();
    }
    bucket.put_new("read", bytes.clone()).unwrap();
    assert!(read(&cache, "read", 0, bytes.len()).unwrap() == bytes);
    read(&cache, "x", 0, 10).unwrap();
    cache.forget("forgotten", 100..101);
    let mut half = cache.create("half");
    half.write(&bytes).unwrap();
    // A kill: the directory as it is now.
    let killed = tempfile::tempdir().unwrap();
    copy(dir.path(), killed.path());
    drop((half, cache));

    let objects = killed.path().join("objects");
    assert!(files(killed.path()).iter().any(|f| f.ends_with(".new")));
    let cut = objects.join(format!("cut@{}", bytes.len()));
    std::fs::File::options()
        .write(true)
        .open(cut)
        .unwrap()
        .set_len(5)
        .unwrap();
    std::fs::write(objects.join("foreign"), "x").unwrap();
    std::fs::write(objects.join("bad@name@x"), "x").unwrap();
    let cache = open(killed.path(), 1 << 20, &bucket);
    assert_eq!(
        files(killed.path()),
        ["evicted", "read", "written"].map(|n| format!("{n}@{}", bytes.len()))
    );
    assert_eq!(cache.stats().held_bytes, 60 * CHUNK);
    faulty.away(true);
    for name in ["written", "read", "evicted"] {
        assert!(read(&cache, name, 0, bytes.len()).unwrap() == bytes);
    }
    faulty.heal();
    for name in ["forgotten", "cut", "x"] {
        assert!(read(&cache, name, 0, bytes.len()).unwrap() == bytes);
    }
    assert!(cache.object("half").is_err());
    drop(cache);

    // A smaller limit.
    let cache = open(killed.path(), 30 * CHUNK, &bucket);
    assert_eq!(cache.stats().held_bytes, 20 * CHUNK);
    assert_disk(&cache, killed.path());
    drop(cache);

    // Another bucket's objects are not this one's.
    let other = Bucket::with_store(
        Arc::clone(bucket.objects().store()),
        "test://other",
        config(),
    )
    .unwrap();
    let cache = open(killed.path(), 1 << 20, &other);
    assert_eq!(cache.stats().held_bytes, 0);
    assert_eq!(files(killed.path()), [""; 0]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("objects")).unwrap();
    for dir in ["", "objects"] {
        for entry in std::fs::read_dir(from.join(dir)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), to.join(dir).join(entry.file_name())).unwrap();
            }
        }
    }
}

#[test]
fn a_directory_that_is_not_a_cache_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (_, bucket, _) = with_object(1);
    std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
    let error = |dir: &Path| {
        DiskCache::open(dir, small(1 << 20), bucket.clone())
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(error(dir.path()).contains("holds other files"));
    assert!(dir.path().join("thesis.txt").exists());
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 20, &bucket);
    assert!(error(dir.path()).contains("another process has it open"));
    drop(cache);
    open(dir.path(), 1 << 20, &bucket);
    for wrong in [
        CacheConfig {
            chunk_bytes: 5000,
            ..small(1 << 20)
        },
        CacheConfig {
            fetch_bytes: 100,
            ..small(1 << 20)
        },
        CacheConfig {
            fetch_memory_bytes: 100,
            ..small(1 << 20)
        },
    ] {
        let error = DiskCache::open(dir.path(), wrong, bucket.clone());
        assert_eq!(
            error.map(|_| ()).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}

#[test]
fn bad_chunks_are_forgotten_and_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_, bucket, bytes) = with_object(10 * CHUNK as usize);
    let cache = open(dir.path(), 1 << 20, &bucket);
    let object = cache.object("x").unwrap();
    let mut out = vec![0; bytes.len()];
    object.read_at(0, &mut out).unwrap();
    let path = dir.path().join(format!("objects/x@{}", bytes.len()));
    let mut bad = std::fs::read(&path).unwrap();
    bad[9000] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    object.read_at(0, &mut out).unwrap();
    assert!(out == bad);
    object.forget(9000, 1);
    object.read_at(0, &mut out).unwrap();
    assert!(out == bytes);
    let stats = cache.stats();
    assert_eq!((stats.forgotten, stats.fetched_bytes), (1, 11 * CHUNK));
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "it is whole again");
    // Beyond the end, and of what is not here: nothing.
    object.forget(u64::MAX, 10);
    object.forget(0, u64::MAX);
    cache.forget("none", 0..10);
    assert_eq!(cache.stats().held_bytes, 0);
    object.read_at(0, &mut out).unwrap();
    assert!(out == bytes);
    // Files that vanish or shrink under us.
    std::fs::remove_file(&path).unwrap();
    drop(object);
    assert!(read(&cache, "x", 0, bytes.len()).unwrap() == bytes);
    std::fs::File::create(&path).unwrap();
    assert!(read(&cache, "x", 0, bytes.len()).unwrap() == bytes);
}

/// A hook that fails some steps while told to.
fn failing(which: fn(Step<'_>) -> io::Result<()>) -> (Hook, Arc<AtomicBool>) {
    let on = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&on);
    let hook: Hook = Arc::new(move |step| match asked.load(Ordering::SeqCst) {
        true => which(step),
        false => Ok(()),
    });
    (hook, on)
}

#[test]
fn on_a_full_disk_reads_and_writes_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_, bucket, bytes) = with_object(40 * CHUNK as usize);
    let (hook, full) = failing(no_space);
    let cache =
        DiskCache::open_with(dir.path(), small(1 << 20), bucket.clone(), Some(hook)).unwrap();
    read(&cache, "x", 0, 8 * CHUNK as usize).unwrap();
    full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        assert!(read(&cache, "x", 0, bytes.len()).unwrap() == bytes);
    }
    let stats = cache.stats();
    assert!(stats.not_kept > 30, "{stats:?}");
    // Cached chunks gave way, and the disk was no less full.
    assert!(stats.disk_failures > 0 && stats.held_bytes <= 8 * CHUNK);

    let mut writer = cache.create("y");
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();
    assert!(bucket.get("y").unwrap() == bytes);
    full.store(false, Ordering::SeqCst);
    // Full in the middle of writing.
    for filled_at in [1, 3, 7] {
        let name = format!("z{filled_at}");
        let mut writer = cache.create(&name);
        for (n, part) in bytes.chunks(20_000).enumerate() {
            full.store(n >= filled_at, Ordering::SeqCst);
            writer.write(part).unwrap();
        }
        writer.finish().unwrap();
        assert!(bucket.get(&name).unwrap() == bytes);
        full.store(false, Ordering::SeqCst);
    }
    assert_eq!(cache.stats().streamed, 4);
    // Room again.
    for _ in 0..2 {
        assert!(read(&cache, "x", 0, bytes.len()).unwrap() == bytes);
    }
    assert_eq!(cache.stats().held_bytes, 40 * CHUNK);
    assert_disk(&cache, dir.path());
}

#[test]
fn a_writer_that_failed_does_not_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (faulty, bucket, bytes) = with_object(40 * CHUNK as usize);
    let (hook, full) = failing(no_space);
    let cache =
        DiskCache::open_with(dir.path(), small(1 << 20), bucket.clone(), Some(hook)).unwrap();
    let mut writer = cache.create("y");
    writer.write(&bytes).unwrap();
    full.store(true, Ordering::SeqCst);
    faulty.script(Op::Begin, "y", 0, 1, Fault::Refuse);
    assert!(writer.write(&bytes).is_err());
    full.store(false, Ordering::SeqCst);
    assert!(writer.write(&bytes).is_err());
    assert!(writer.finish().is_err());
    assert!(bucket.get("y").is_err());
    assert_eq!(cache.stats().held_bytes, 0);
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn a_disk_that_fails_costs_time_only() {
    let all: [fn(Step<'_>) -> io::Result<()>; 4] = [
        |s| match s {
            Step::Read(..) => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        },
        |s| match s {
            Step::Rename(_) => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        },
        // As on a file system that has no holes.
        |s| match s {
            Step::Punch(_) => Err(io::Error::from_raw_os_error(95)),
            _ => Ok(()),
        },
        |s| match s {
            Step::Remove(_) => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        },
    ];
    for (n, which) in all.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (_, bucket, bytes) = with_object(40 * CHUNK as usize);
        let (hook, on) = failing(which);
        let config = small(30 * CHUNK);
        let cache = DiskCache::open_with(dir.path(), config, bucket, Some(hook)).unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        for step in 0..400 {
            on.store(step % 3 == 0, Ordering::SeqCst);
            match rng.random_range(0..20) {
                0 => {
                    let mut writer = cache.create(&format!("w{step}"));
                    writer.write(&bytes[..20_000]).unwrap();
                    writer.finish().unwrap();
                }
                1 => cache.remove(&format!("w{}", rng.random_range(0..=step))),
                2 => cache.forget("x", 1000..9000),
                _ => {
                    let at = rng.random_range(0..bytes.len());
                    let len = rng.random_range(0..(bytes.len() - at).min(30_000));
                    let out = read(&cache, "x", at as u64, len).unwrap();
                    assert!(out == bytes[at..at + len], "{n}");
                }
            }
            assert!(cache.stats().held_bytes <= 30 * CHUNK);
        }
        assert!(cache.stats().disk_failures > 0, "{n}");
    }
}

#[test]
fn warming_brings_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (faulty, bucket, bytes) = with_object(100 * CHUNK as usize + 7);
    let cache = open(dir.path(), 1 << 20, &bucket);
    read(&cache, "x", 30 * CHUNK, 10).unwrap();
    assert!(cache.warm("x"));
    assert!(cache.warm("none"), "what is not there is no harm");
    until("warm", || cache.warming() == 0);
    faulty.away(true);
    assert!(read(&cache, "x", 0, bytes.len()).unwrap() == bytes);
    let fetches = cache.stats().fetches;
    assert!(fetches <= 16, "{fetches} requests for 13 times 8 chunks");
    drop(cache);

    // As far as there is room, and no further.
    faulty.heal();
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 0, &bucket);
    assert!(cache.warm("x"));
    until("warm", || cache.warming() == 0);
    assert_eq!(cache.stats().fetches, 1);
    // The queue has a limit.
    faulty.script(Op::Get, "x", 0, 1, Fault::Slow(Duration::from_millis(100)));
    let queued = (0..5000).filter(|_| cache.warm("x")).count();
    assert!((1024..2000).contains(&queued), "{queued}");
}

/// Opens a cache again and reads `known` objects: those whose files are whole
/// without a request to the store.
fn reads_whole_objects_alone(
    dir: &Path,
    faulty: &Faulty,
    bucket: &Bucket,
    known: &HashMap<u64, Vec<u8>>,
) {
    let name = |n: u64| format!("branch-{}/layer-{n}", n % 3);
    let whole = files(dir);
    let cache = open(dir, 60 * CHUNK, bucket);
    faulty.away(true);
    for (n, bytes) in known {
        let file = format!("branch-{}%2Flayer-{n}@{}", n % 3, bytes.len());
        if whole.contains(&file) && !bytes.is_empty() {
            assert!(read(&cache, &name(*n), 0, bytes.len()).unwrap() == *bytes);
        }
    }
    faulty.heal();
    for (n, bytes) in known {
        assert!(read(&cache, &name(*n), 0, bytes.len()).unwrap() == *bytes);
    }
}

/// Readers, writers, removers, warmers and a limit far below the data, on a
/// store that fails.
#[test]
fn many_threads_on_little_room_read_what_was_written() {
    for seed in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let (faulty, bucket) = faulty(seed);
        let cache = open(dir.path(), 60 * CHUNK, &bucket);
        let known: Mutex<HashMap<u64, Vec<u8>>> = Mutex::default();
        let next = AtomicU64::new(0);
        let name = |n: u64| format!("branch-{}/layer-{n}", n % 3);
        let write = |n: u64, len: usize| {
            let bytes = content(len, n);
            let mut writer = cache.create(&name(n));
            for part in bytes.chunks(9000) {
                writer.write(part).unwrap();
            }
            // Part of an upload may fail for good under so many faults.
            if writer.finish().is_ok() {
                known.lock().insert(n, bytes);
            }
        };
        for n in 0..15 {
            write(next.fetch_add(1, Ordering::Relaxed), 8000 * n);
        }
        faulty.rates(Rates {
            late: 0,
            hang: 0,
            ..Rates::some()
        });
        std::thread::scope(|s| {
            for thread in 0..6 {
                let (cache, known, next) = (&cache, &known, &next);
                let (name, write) = (&name, &write);
                let bucket = &bucket;
                s.spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed * 100 + thread);
                    for _ in 0..400 {
                        let chosen = {
                            let known = known.lock();
                            let nth = rng.random_range(0..known.len());
                            let mut keys: Vec<_> = known.keys().copied().collect();
                            keys.sort_unstable();
                            (keys[nth], known[&keys[nth]].clone())
                        };
                        let (n, bytes) = chosen;
                        match rng.random_range(0..40) {
                            0 => {
                                let len = rng.random_range(0..100_000);
                                write(next.fetch_add(1, Ordering::Relaxed), len);
                            }
                            1 if known.lock().len() > 8 => {
                                if known.lock().remove(&n).is_some() {
                                    cache.remove(&name(n));
                                    bucket.delete(&name(n)).unwrap();
                                    cache.remove(&name(n));
                                }
                            }
                            2 => {
                                cache.warm(&name(n));
                            }
                            3 => cache.forget(&name(n), 0..rng.random_range(1..100_000)),
                            _ => {
                                let at = rng.random_range(0..=bytes.len());
                                let len = rng.random_range(0..=bytes.len() - at);
                                let len = len.min(1 << rng.random_range(0..18));
                                match read(cache, &name(n), at as u64, len) {
                                    Ok(out) => assert!(out == bytes[at..at + len]),
                                    // Another removed it meanwhile.
                                    Err(e) => assert!(!known.lock().contains_key(&n), "{e}"),
                                }
                            }
                        }
                        let held = cache.stats().held_bytes;
                        assert!(held <= 60 * CHUNK, "{held}");
                    }
                });
            }
        });
        until("warm", || cache.warming() == 0);
        faulty.heal();
        let stats = cache.stats();
        assert!(stats.evictions > 100 && stats.hits > 100, "{stats:?}");
        assert_disk(&cache, dir.path());
        assert!(stats.objects <= 60, "{stats:?}");
        drop(cache);
        reads_whole_objects_alone(dir.path(), &faulty, &bucket, &known.into_inner());
    }
}

#[test]
fn in_front_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = object_store::local::LocalFileSystem::new_with_prefix(dir.path()).unwrap();
    let bucket = bucket_of(store);
    let cache_dir = tempfile::tempdir().unwrap();
    let cache = open(cache_dir.path(), 1 << 20, &bucket);
    let bytes = content(100_000, 4);
    let mut writer = cache.create("deep/er/x");
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();
    cache.forget("deep/er/x", 0..50_000);
    assert!(read(&cache, "deep/er/x", 0, bytes.len()).unwrap() == bytes);
    assert_eq!(cache.stats().fetched_bytes, 13 * CHUNK);
}
