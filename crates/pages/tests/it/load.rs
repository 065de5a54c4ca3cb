//! A branch filled from outside: what was loaded is read back, redo goes on
//! top of it, and a load that breaks off leaves nothing.
#![allow(clippy::unwrap_used)]

use crate::common::redo::{after, mtr};
use crate::common::{BRANCH, MemLog, catch_up, hooked, place, small};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use xylem_pages::files::Place;
use xylem_pages::{Branch, LoadError, Loader, ReadAt, ReadError, SideFile, Store, Tablespace};
use xylem_redo::SpaceFlags;
use xylem_types::{FileOp, Lsn, PageId, PageNo, SpaceId};
use xylem_wal::Wal;

const LSN: Lsn = Lsn(5_000_000);
/// ROW_FORMAT=COMPRESSED, pages of 4 KiB in a database with 16.
const ZIP_FLAGS: u32 = 1 | 3 << 1 | 1 << 5;

fn flags() -> u32 {
    SpaceFlags::full_crc32_of(16384).unwrap().raw()
}

fn space(id: u32, path: &str, pages: u32) -> Tablespace {
    Tablespace {
        space: SpaceId(id),
        path: path.into(),
        flags: flags(),
        pages,
        page_bytes: 16384,
    }
}

/// A page as a file has it; different for each.
fn page(id: PageId, bytes: usize) -> Vec<u8> {
    let mut x = u64::from(id.space.0) << 32 | u64::from(id.page.0) | 1 << 63;
    let mut out: Vec<u8> = (0..bytes)
        .map(|_| {
            // Xorshift: does not compress.
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect();
    out[4..8].copy_from_slice(&id.page.0.to_be_bytes());
    out[16..24].copy_from_slice(&(LSN.0 - 7).to_be_bytes());
    out[34..38].copy_from_slice(&id.space.0.to_be_bytes());
    let flags = if bytes == 4096 { ZIP_FLAGS } else { flags() };
    xylem_redo::seal(&mut out, SpaceFlags::new(flags).unwrap());
    out
}

type Pages = BTreeMap<PageId, Vec<u8>>;

/// Loads four tablespaces and some side files.
fn load(store: &Arc<Store>, layer_bytes: u64) -> Result<Pages, LoadError> {
    let mut loader = Loader::begin_with(store, BRANCH, LSN, layer_bytes)?;
    let pages = match fill(&mut loader) {
        Ok(pages) => pages,
        Err(error) => {
            loader.abandon();
            return Err(error);
        }
    };
    let done = loader.finish()?;
    assert_eq!(done.tablespaces, 5);
    assert_eq!(done.pages, pages.len() as u64);
    assert_eq!(done.side_files, 4);
    Ok(pages)
}

fn fill(loader: &mut Loader) -> Result<Pages, LoadError> {
    let mut pages = Pages::new();
    let zip = Tablespace {
        flags: ZIP_FLAGS,
        page_bytes: 4096,
        ..space(7, "db/zip.ibd", 40)
    };
    let spaces = [
        space(0, "ibdata1", 300),
        space(3, "undo001", 20),
        space(4, "undo002", 20),
        space(5, "db/t.ibd", 200),
        zip,
    ];
    for space in spaces {
        let (id, count, bytes) = (space.space.0, space.pages, space.page_bytes);
        loader.tablespace(space)?;
        for no in (0..count).filter(|no| no % 7 != 3) {
            let id = PageId::new(id, no);
            let bytes = page(id, bytes as usize);
            loader.page(PageNo(no), &bytes)?;
            pages.insert(id, bytes);
        }
    }
    loader.directory("db", 0o700)?;
    loader.file("db-x/a.frm", 0o660, 3)?;
    loader.data(b"abc")?;
    loader.file("db/t.frm", 0o640, 150_000)?;
    for part in vec![b'x'; 150_000].chunks(40_000) {
        loader.data(part)?;
    }
    loader.file("db/view.frm", 0o660, 0)?;
    Ok(pages)
}

fn open(dir: &Path, log: &Arc<MemLog>) -> Arc<Branch> {
    let store = Store::open(small(), place(dir)).unwrap();
    store.start_ingest();
    Branch::open(store, BRANCH, Arc::clone(log) as Arc<dyn Wal>, None).unwrap()
}

fn check(branch: &Branch, pages: &Pages, at: ReadAt) {
    for (id, bytes) in pages {
        assert_eq!(
            &*branch.get_page(*id, at).unwrap().bytes,
            &bytes[..],
            "{id}"
        );
    }
    let never = branch.get_page(PageId::new(5, 3), at).unwrap();
    assert!(never.bytes.iter().all(|b| *b == 0));
}

fn side_files(branch: &Branch) -> Vec<SideFile> {
    let mut out = Vec::new();
    branch
        .side_files(ReadAt::Newest, &mut |file| {
            out.push(file);
            ControlFlow::Continue(())
        })
        .unwrap();
    out
}

#[test]
fn what_was_loaded_is_read_back() {
    for layer_bytes in [64 << 20, 100 << 10] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(small(), place(dir.path())).unwrap();
        let pages = load(&store, layer_bytes).unwrap();
        drop(store);
        let log = MemLog::new();
        let branch = open(dir.path(), &log);
        assert_eq!(branch.applied(), LSN);
        assert_eq!(branch.oldest(), Some(LSN));
        // It was there from then on.
        let loaded = branch.time_at(LSN).unwrap().unwrap();
        assert_eq!(branch.lsn_at(loaded).unwrap(), LSN);
        assert!(matches!(
            branch.lsn_at(loaded - 1),
            Err(ReadError::TimeOutside { .. })
        ));
        if layer_bytes < 1 << 20 {
            assert!(branch.stats().layers > 10);
        }
        check(&branch, &pages, ReadAt::Newest);
        check(&branch, &pages, ReadAt::Lsn(LSN));
        assert!(matches!(
            branch.get_page(PageId::new(5, 1), ReadAt::Lsn(Lsn(LSN.0 - 1))),
            Err(ReadError::TooOld { .. })
        ));
        assert!(matches!(
            branch.get_page(PageId::new(5, 200), ReadAt::Newest),
            Err(ReadError::BeyondEnd { pages: 200, .. })
        ));
        assert!(matches!(
            branch.get_page(PageId::new(6, 0), ReadAt::Newest),
            Err(ReadError::NoSuchTablespace { .. })
        ));
        let all = branch.tablespaces(ReadAt::Newest).unwrap();
        let paths: Vec<_> = all.iter().map(|s| (s.space.0, s.path.as_str())).collect();
        assert_eq!(
            paths,
            [
                (0, "ibdata1"),
                (3, "undo001"),
                (4, "undo002"),
                (5, "db/t.ibd"),
                (7, "db/zip.ibd")
            ]
        );
        let zip = branch
            .tablespace_by_path("db/zip.ibd", ReadAt::Newest)
            .unwrap()
            .unwrap();
        assert_eq!(
            (zip.space, zip.pages, zip.page_bytes),
            (SpaceId(7), 40, 4096)
        );
        let files = side_files(&branch);
        let seen: Vec<_> = files
            .iter()
            .map(|f| (f.path.as_str(), f.mode, f.data.as_ref().map(|d| d.len())))
            .collect();
        assert_eq!(
            seen,
            [
                ("db", 0o700, None),
                ("db-x/a.frm", 0o660, Some(3)),
                ("db/t.frm", 0o640, Some(150_000)),
                ("db/view.frm", 0o660, Some(0)),
            ]
        );
        assert!(files[2].data.as_ref().unwrap().iter().all(|b| *b == b'x'));
    }
}

/// The loaded branch lives on as any: epochs begin, redo changes pages, makes
/// and drops tablespaces, side files change; flushed, opened again.
#[test]
fn redo_goes_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(), place(dir.path())).unwrap();
    let mut pages = load(&store, 1 << 20).unwrap();
    drop(store);
    let log = MemLog::new();
    let branch = open(dir.path(), &log);
    log.epoch(LSN);
    let target = PageId::new(5, 11);
    let changes = mtr(|m| {
        m.write(target, 200, b"changed");
    });
    let first = after(LSN, &changes);
    let ddl = mtr(|m| {
        m.delete(7, "./db/zip.ibd");
    });
    let second = after(first, &ddl);
    let mut create = mtr(|m| {
        m.create(9, "./db/new.ibd");
    });
    create.extend(mtr(|m| {
        m.header(9, 6, flags());
    }));
    let third = after(second, &create);
    log.redo(LSN, &changes);
    log.redo(first, &ddl);
    log.redo(second, &create);
    log.file(
        third,
        FileOp::Write {
            path: "db/t.frm".into(),
            offset: 149_990,
            data: (*b"0123456789abcdef").into(),
        },
    );
    log.file(
        third,
        FileOp::Unlink {
            path: "db-x/a.frm".into(),
        },
    );
    catch_up(&branch, &log);
    assert_eq!(branch.failed(), None);

    let bytes = pages.get_mut(&target).unwrap();
    bytes[200..207].copy_from_slice(b"changed");
    bytes[16..24].copy_from_slice(&first.0.to_be_bytes());
    let trailer = bytes.len() - 8;
    bytes[trailer..trailer + 4].copy_from_slice(&(first.0 as u32).to_be_bytes());
    xylem_redo::seal(bytes, SpaceFlags::new(flags()).unwrap());
    pages.retain(|id, _| id.space != SpaceId(7));

    let see = |branch: &Branch| {
        check(branch, &pages, ReadAt::Newest);
        assert_eq!(
            branch
                .tablespace_by_path("db/zip.ibd", ReadAt::Newest)
                .unwrap(),
            None
        );
        let new = branch
            .tablespace_by_path("db/new.ibd", ReadAt::Newest)
            .unwrap();
        assert_eq!(new.unwrap().pages, 6);
        let files = side_files(branch);
        let paths: Vec<_> = files.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(paths, ["db", "db/t.frm", "db/view.frm"]);
        let data = files[1].data.as_ref().unwrap();
        assert_eq!(data.len(), 150_006);
        assert_eq!(&data[149_988..], b"xx0123456789abcdef");
        // The moment of the load is still there.
        let old = branch
            .get_page(PageId::new(7, 1), ReadAt::Lsn(LSN))
            .unwrap();
        assert_eq!(&*old.bytes, &page(PageId::new(7, 1), 4096)[..]);
    };
    see(&branch);
    branch.flush_now();
    see(&branch);
    branch.shutdown();
    drop(branch);
    let branch = open(dir.path(), &log);
    catch_up(&branch, &log);
    see(&branch);
}

/// The number of undo tablespaces is changed: their names begin anew.
#[test]
fn undo_tablespaces_are_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(), place(dir.path())).unwrap();
    load(&store, 1 << 20).unwrap();
    drop(store);
    let log = MemLog::new();
    let branch = open(dir.path(), &log);
    log.epoch(LSN);
    log.redo(
        LSN,
        &mtr(|m| {
            for id in 20..23 {
                m.header(id, 10, flags());
            }
        }),
    );
    catch_up(&branch, &log);
    let undo: Vec<_> = branch
        .tablespaces(ReadAt::Newest)
        .unwrap()
        .into_iter()
        .filter(|s| s.path.starts_with("undo"))
        .map(|s| (s.space.0, s.path))
        .collect();
    assert_eq!(
        undo,
        [
            (20, "undo001".to_owned()),
            (21, "undo002".to_owned()),
            (22, "undo003".to_owned())
        ]
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(small(), place(dir.path())).unwrap();
    let refused = |what: Result<(), LoadError>, with: &str| match what {
        Err(LoadError::Refused(why)) => assert!(why.contains(with), "{why}"),
        other => panic!("{other:?}"),
    };
    let begin = || Loader::begin(&store, BRANCH, LSN).unwrap();

    refused(
        Loader::begin(&store, BRANCH, Lsn::FIRST).map(|_| ()),
        "LSN 12288",
    );
    let mut l = begin();
    refused(l.page(PageNo(0), &[1; 16384]), "without a tablespace");
    refused(l.data(b"x"), "without a side file");
    refused(l.directory("db", 0o700), "no system tablespace");
    refused(
        l.tablespace(Tablespace {
            flags: 0xffff_ffff,
            ..space(0, "ibdata1", 4)
        }),
        "flags",
    );
    refused(
        l.tablespace(Tablespace {
            page_bytes: 4096,
            ..space(0, "ibdata1", 4)
        }),
        "pages of 16384",
    );
    refused(l.tablespace(space(1, "ibdata1", 4)), "tablespace 0");
    l.tablespace(space(0, "ibdata1", 4)).unwrap();
    refused(l.page(PageNo(4), &[1; 16384]), "has 4 pages");
    refused(l.page(PageNo(1), &[1; 4096]), "4096 bytes");
    l.page(PageNo(2), &[1; 16384]).unwrap();
    refused(l.page(PageNo(2), &[1; 16384]), "after page 2");
    l.tablespace(space(5, "d/t.ibd", 4)).unwrap();
    refused(l.tablespace(space(5, "d/u.ibd", 4)), "after tablespace 5");
    refused(l.tablespace(space(6, "d/t.ibd", 4)), "tablespace 5");
    refused(l.tablespace(space(6, "", 4)), "no file name");
    l.directory("d", 0o700).unwrap();
    refused(l.tablespace(space(6, "d/u.ibd", 4)), "first side file");
    refused(l.page(PageNo(3), &[1; 16384]), "without a tablespace");
    refused(l.directory("c", 0o700), "after \"d\"");
    refused(l.file("d/t.ibd", 0o600, 1), "tablespace 5");
    refused(l.file("d/a", 0o600, 5 << 30), "more than");
    l.file("d/a", 0o600, 4).unwrap();
    refused(l.data(b"12345"), "longer");
    l.data(b"12").unwrap();
    refused(l.directory("e", 0o700), "2 bytes");
    refused(l.finish().map(|_| ()), "2 bytes");

    let mut l = begin();
    l.tablespace(space(0, "ibdata1", 4)).unwrap();
    l.tablespace(space(3, "undo001", 4)).unwrap();
    l.tablespace(space(5, "undo002", 4)).unwrap();
    refused(l.finish().map(|_| ()), "undo tablespace 5");
    refused(begin().finish().map(|_| ()), "no system tablespace");

    // Nothing of all that is left, so that the same id can be filled.
    assert_eq!(place_folders(&store, dir.path()), Vec::<String>::new());
    load(&store, 1 << 20).unwrap();
    refused(Loader::begin(&store, BRANCH, LSN).map(|_| ()), "already");
    assert_eq!(place_folders(&store, dir.path()), [BRANCH.to_string()]);
    store.remove_branch(BRANCH).unwrap();
    assert_eq!(place_folders(&store, dir.path()), Vec::<String>::new());
}

fn place_folders(_held: &Arc<Store>, dir: &Path) -> Vec<String> {
    let branches = dir.join("branches");
    std::fs::read_dir(branches)
        .into_iter()
        .flatten()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Each step of writing fails once: the load fails, and no branch is there; or
/// it succeeds, and all of it is.
#[test]
fn a_failure_anywhere_leaves_all_or_nothing() {
    let mut failures = 0;
    for at in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let hook = Arc::new(move |_: xylem_pages::files::Step<'_>| {
            if counter.fetch_add(1, Ordering::Relaxed) == at {
                return Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
            }
            Ok(())
        });
        let place: Arc<dyn Place> = hooked(dir.path(), hook);
        let store = Store::open(small(), place).unwrap();
        let loaded = load(&store, 1 << 20);
        let steps = count.load(Ordering::Relaxed);
        match loaded {
            Ok(pages) => {
                drop(store);
                check(&open(dir.path(), &MemLog::new()), &pages, ReadAt::Newest);
            }
            Err(LoadError::Store(_)) => {
                assert_eq!(place_folders(&store, dir.path()), Vec::<String>::new());
                failures += 1;
            }
            Err(LoadError::Refused(why)) => panic!("step {at}: {why}"),
        }
        if steps <= at {
            break;
        }
    }
    assert!(failures > 20, "{failures}");
}
