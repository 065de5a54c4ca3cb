//! Tablespaces, side files, epochs: the cases that random histories seldom hit.
#![allow(clippy::unwrap_used)]

use crate::common::redo::{after, mtr};
use crate::common::{MemWal, block_on, catch_up, open, small};
use std::ops::ControlFlow;
use std::time::Duration;
use xylem_pages::{Branch, Reach, ReadAt, ReadError, SideFile};
use xylem_redo::SpaceFlags;
use xylem_types::{FileOp, Lsn, PageId, SpaceId};

fn flags() -> u32 {
    SpaceFlags::full_crc32_of(16384).unwrap().raw()
}

fn files(branch: &Branch, at: ReadAt) -> Vec<SideFile> {
    let mut out = Vec::new();
    branch
        .side_files(at, &mut |f| {
            out.push(f);
            ControlFlow::Continue(())
        })
        .unwrap();
    out
}

fn text(branch: &Branch, path: &str) -> Option<String> {
    let found = files(branch, ReadAt::Newest)
        .into_iter()
        .find(|f| f.path == path)?;
    Some(String::from_utf8(found.data?.to_vec()).unwrap())
}

fn write(path: &str, offset: u64, data: &str) -> FileOp {
    FileOp::Write {
        path: path.into(),
        offset,
        data: data.as_bytes().into(),
    }
}

fn create(path: &str) -> FileOp {
    FileOp::Create {
        path: path.into(),
        mode: 0o660,
    }
}

#[test]
fn a_tablespace_before_its_first_page() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    let a = mtr(|m| {
        m.create(9, "./db/t.ibd");
    });
    wal.redo(Lsn::FIRST, &a);
    let branch = open(small(), dir.path(), &wal);
    catch_up(&branch, &wal);
    let lsn = after(Lsn::FIRST, &a);
    assert!(matches!(
        branch.get_page(PageId::new(9, 0), ReadAt::Newest, Reach::Files),
        Err(ReadError::BeyondEnd { pages: 0, .. })
    ));
    assert!(branch.tablespaces(ReadAt::Newest).unwrap().is_empty());
    assert_eq!(
        branch
            .tablespace_by_path("db/t.ibd", ReadAt::Newest)
            .unwrap(),
        None
    );
    wal.redo(
        lsn,
        &mtr(|m| {
            m.header(9, 4, flags());
        }),
    );
    catch_up(&branch, &wal);
    let t = branch
        .tablespace_by_path("./db/t.ibd", ReadAt::Newest)
        .unwrap()
        .unwrap();
    assert_eq!(
        (t.space, t.pages, t.page_bytes, t.path.as_str()),
        (SpaceId(9), 4, 16384, "db/t.ibd")
    );
    assert!(
        branch
            .get_page(PageId::new(9, 3), ReadAt::Newest, Reach::Files)
            .unwrap()
            .bytes
            .iter()
            .all(|b| *b == 0)
    );
    assert!(matches!(
        branch.get_page(PageId::new(9, 4), ReadAt::Newest, Reach::Files),
        Err(ReadError::BeyondEnd { pages: 4, .. })
    ));
    assert!(matches!(
        branch.get_page(PageId::new(8, 0), ReadAt::Newest, Reach::Files),
        Err(ReadError::NoSuchTablespace { .. })
    ));
}

#[test]
fn undo_tablespaces_are_named_by_their_order_and_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    let branch = open(small(), dir.path(), &wal);
    let a = mtr(|m| {
        for space in 0..=3 {
            m.header(space, 10, flags());
        }
    });
    wal.redo(Lsn::FIRST, &a);
    let mid = after(Lsn::FIRST, &a);
    catch_up(&branch, &wal);
    branch.flush_now();
    drop(branch);
    let branch = open(small(), dir.path(), &wal);
    wal.redo(
        mid,
        &mtr(|m| {
            m.header(20, 10, flags()).header(21, 10, flags());
        }),
    );
    catch_up(&branch, &wal);
    let names = |at| -> Vec<(u32, String)> {
        branch
            .tablespaces(at)
            .unwrap()
            .into_iter()
            .map(|t| (t.space.0, t.path))
            .collect()
    };
    let want = |v: &[(u32, &str)]| -> Vec<(u32, String)> {
        v.iter().map(|(s, p)| (*s, (*p).into())).collect()
    };
    assert_eq!(
        names(ReadAt::Lsn(mid)),
        want(&[
            (0, "ibdata1"),
            (1, "undo001"),
            (2, "undo002"),
            (3, "undo003")
        ])
    );
    assert_eq!(
        names(ReadAt::Newest),
        want(&[(0, "ibdata1"), (20, "undo001"), (21, "undo002")])
    );
    assert_eq!(
        branch
            .tablespace_by_path("undo001", ReadAt::Newest)
            .unwrap()
            .unwrap()
            .space,
        SpaceId(20)
    );
    assert_eq!(
        branch
            .tablespace_by_path("undo003", ReadAt::Newest)
            .unwrap(),
        None
    );
}

#[test]
fn a_name_that_changed_hands_stays_with_its_new_owner() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    let branch = open(small(), dir.path(), &wal);
    let mut lsn = Lsn::FIRST;
    let mut go = |bytes: Vec<u8>| {
        wal.redo(lsn, &bytes);
        lsn = after(lsn, &bytes);
    };
    for (space, name) in [(10, "./db/t.ibd"), (11, "./db/new.ibd")] {
        go(mtr(|m| {
            m.create(space, name);
        }));
        go(mtr(|m| {
            m.header(space, 4, flags());
        }));
    }
    // As ALTER TABLE does it.
    go(mtr(|m| {
        m.rename(10, "./db/t.ibd", "./db/old.ibd");
    }));
    go(mtr(|m| {
        m.rename(11, "./db/new.ibd", "./db/t.ibd");
    }));
    go(mtr(|m| {
        m.modify(11, "./db/t.ibd");
    }));
    go(mtr(|m| {
        m.delete(10, "./db/old.ibd");
    }));
    catch_up(&branch, &wal);
    let owner = |p: &str| {
        branch
            .tablespace_by_path(p, ReadAt::Newest)
            .unwrap()
            .map(|t| t.space.0)
    };
    assert_eq!(owner("db/t.ibd"), Some(11));
    assert_eq!((owner("db/new.ibd"), owner("db/old.ibd")), (None, None));
}

#[test]
fn operations_inside_a_torn_mtr_are_not_brought_in_twice() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    let branch = open(small(), dir.path(), &wal);
    let a = mtr(|m| {
        m.header(0, 10, flags());
    });
    let (head, tail) = a.split_at(9);
    wal.redo(Lsn::FIRST, head);
    let mid = after(Lsn::FIRST, head);
    // Brought in twice, the write would land in the second file.
    for op in [
        create("a"),
        write("a", 0, "first"),
        FileOp::Rename {
            from: "a".into(),
            to: "b".into(),
        },
        create("a"),
        write("a", 0, "second"),
    ] {
        wal.file(mid, op);
    }
    catch_up(&branch, &wal);
    branch.flush_now();
    drop(branch);
    let branch = open(small(), dir.path(), &wal);
    wal.file(mid, write("b", 5, "!"));
    wal.redo(mid, tail);
    catch_up(&branch, &wal);
    assert_eq!(branch.applied(), after(Lsn::FIRST, &a));
    assert_eq!(text(&branch, "a").as_deref(), Some("second"));
    assert_eq!(text(&branch, "b").as_deref(), Some("first!"));
    assert!(
        branch
            .get_page(PageId::new(0, 0), ReadAt::Newest, Reach::Files)
            .is_ok()
    );
}

#[test]
fn operations_before_any_redo_exist() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    wal.file(
        Lsn::FIRST,
        FileOp::Mkdir {
            path: "mysql".into(),
            mode: 0o700,
        },
    );
    wal.file(Lsn::FIRST, create("mysql/db.opt"));
    wal.file(Lsn::FIRST, write("mysql/db.opt", 0, "x"));
    let branch = open(small(), dir.path(), &wal);
    catch_up(&branch, &wal);
    let got = files(&branch, ReadAt::Newest);
    let paths: Vec<&str> = got.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["mysql", "mysql/db.opt"]);
    assert_eq!((got[0].mode, got[1].mode), (0o700, 0o660));
    assert!(matches!(
        branch.side_files(ReadAt::Lsn(Lsn(5)), &mut |_| ControlFlow::Continue(())),
        Err(ReadError::TooOld { .. })
    ));
}

#[test]
fn a_directory_is_renamed_with_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    for op in [
        FileOp::Mkdir {
            path: "a".into(),
            mode: 0o700,
        },
        create("a/x"),
        write("a/x", 70_000, "far"),
        create("a-b"),
        FileOp::Rename {
            from: "a".into(),
            to: "c".into(),
        },
    ] {
        wal.file(Lsn::FIRST, op);
    }
    let branch = open(small(), dir.path(), &wal);
    catch_up(&branch, &wal);
    let got = files(&branch, ReadAt::Newest);
    let paths: Vec<&str> = got.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["a-b", "c", "c/x"]);
    assert_eq!(got[2].data.as_ref().unwrap().len(), 70_003);
}

#[test]
fn an_epoch_that_goes_back_behind_whole_mtrs_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    let a = mtr(|m| {
        m.header(0, 10, flags());
    });
    wal.redo(Lsn::FIRST, &a);
    let applied = after(Lsn::FIRST, &a);
    let branch = open(small(), dir.path(), &wal);
    catch_up(&branch, &wal);
    wal.epoch(Lsn::FIRST);
    let error = block_on(async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        branch
            .wait_applied(Lsn(applied.0 + 1), deadline)
            .await
            .unwrap_err()
            .to_string()
    });
    assert!(
        error.contains(&Lsn::FIRST.to_string()) && error.contains(&applied.to_string()),
        "{error}"
    );
    // What was whole is served.
    assert!(
        branch
            .get_page(PageId::new(0, 0), ReadAt::Newest, Reach::Files)
            .is_ok()
    );
    assert_eq!(branch.applied(), applied);
}

#[test]
fn redo_that_is_not_understood_stops_ingest_there() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    let a = mtr(|m| {
        m.header(0, 10, flags());
    });
    let mut bad = vec![0x62, 0, 3, 0];
    let crc = crc32c::crc32c(&bad[..3]);
    bad.extend_from_slice(&crc.to_be_bytes());
    let applied = after(Lsn::FIRST, &a);
    wal.redo(Lsn::FIRST, &[a, bad].concat());
    let branch = open(small(), dir.path(), &wal);
    let error = block_on(async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        branch
            .wait_applied(Lsn(applied.0 + 1), deadline)
            .await
            .unwrap_err()
    });
    assert!(matches!(error, ReadError::Stopped(_)), "{error}");
    let why = branch.failed().unwrap();
    assert!(why.contains(&applied.to_string()), "{why}");
    assert_eq!(branch.applied(), applied);
    assert!(
        branch
            .get_page(PageId::new(0, 0), ReadAt::Lsn(applied), Reach::Files)
            .is_ok()
    );
    // Half of an mtr is never seen, flushed or not; a restart stops there too.
    branch.flush_now();
    drop(branch);
    let branch = open(small(), dir.path(), &wal);
    while branch.failed().is_none() {
        std::thread::yield_now();
    }
    assert_eq!(branch.applied(), applied);
}

/// InnoDB logs FILE_CREATE and the first pages before it makes the file, and
/// nothing more when it cannot.
#[test]
fn a_tablespace_whose_file_was_never_made_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    let branch = open(small(), dir.path(), &wal);
    let mut lsn = Lsn::FIRST;
    let mut made = |space: u32, name: &str| {
        let bytes = mtr(|m| {
            m.create(space, name).header(space, 4, flags());
        });
        wal.redo(lsn, &bytes);
        lsn = after(lsn, &bytes);
        catch_up(&branch, &wal);
        lsn
    };
    let paths = |at| {
        let all = branch.tablespaces(at).unwrap().into_iter();
        all.map(|t| (t.space.0, t.path)).collect::<Vec<_>>()
    };
    made(8, "./db/a.ibd");
    // As 50 dots in a table's name, and partitions.
    let long = format!("db/{}#P#p0#SP#p0sp0.ibd", "@002e".repeat(50));
    made(9, &format!("./{long}"));
    assert_eq!(paths(ReadAt::Newest), [(8, "db/a.ibd".to_owned())]);
    assert_eq!(
        branch.tablespace_by_path(&long, ReadAt::Newest).unwrap(),
        None
    );
    let by_id = branch.tablespace_by_id(SpaceId(9), ReadAt::Newest);
    assert_eq!(by_id.unwrap(), None);
    // No room on the compute's disk; then there is, and the statement is given
    // once more.
    let before = made(10, "./db/b.ibd");
    made(11, "./db/b.ibd");
    let want = [(8, "db/a.ibd".to_owned()), (11, "db/b.ibd".to_owned())];
    assert_eq!(paths(ReadAt::Newest), want);
    assert!(matches!(
        branch.get_page(PageId::new(10, 0), ReadAt::Newest, Reach::Files),
        Err(ReadError::NoSuchTablespace { .. })
    ));
    // Until then it was what is known.
    assert_eq!(paths(ReadAt::Lsn(before))[1].0, 10);
    // A late FILE_DELETE of it takes nothing away.
    let bytes = mtr(|m| {
        m.delete(10, "./db/b.ibd");
    });
    wal.redo(lsn, &bytes);
    catch_up(&branch, &wal);
    assert_eq!(paths(ReadAt::Newest), want);
    branch.flush_now();
    branch.compact_now().unwrap();
    assert_eq!(paths(ReadAt::Newest), want);
    assert_eq!(branch.failed(), None);
}

/// InnoDB counts tablespace ids up, but an id may come again (after an import,
/// or a counter that was set back): nothing of the one before shows through.
#[test]
fn a_tablespace_id_that_is_used_again_shows_nothing_of_the_one_before() {
    for (flushed, merged) in [(false, false), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let wal = MemWal::new();
        wal.epoch(Lsn::FIRST);
        let branch = open(small(), dir.path(), &wal);
        let mut lsn = Lsn::FIRST;
        let mut ends = Vec::new();
        for round in 0..5u32 {
            let path = format!("./db/t{round}.ibd");
            let pages = 20 - 3 * round;
            let bytes = [
                mtr(|m| {
                    m.create(9, &path).header(9, pages, flags());
                    for page in (1 + round)..pages {
                        let id = PageId::new(9, page);
                        m.init(id).write(id, 100, &[10 + round as u8; 300]);
                    }
                }),
                mtr(|m| {
                    m.write(PageId::new(9, 10), 100, &[20 + round as u8; 300]);
                }),
                // The last one stays.
                match round {
                    4 => Vec::new(),
                    _ => mtr(|m| {
                        m.delete(9, &path);
                    }),
                },
            ];
            for (n, bytes) in bytes.iter().filter(|b| !b.is_empty()).enumerate() {
                // Read in between, so that caches know the one before.
                wal.redo(lsn, bytes);
                lsn = after(lsn, bytes);
                catch_up(&branch, &wal);
                ends.push((lsn, round, n, pages));
                for page in 0..21 {
                    let _ = branch.get_page(PageId::new(9, page), ReadAt::Newest, Reach::Files);
                    let _ = branch.get_page(PageId::new(9, page), ReadAt::Newest, Reach::Memory);
                }
            }
            if flushed {
                branch.flush_now();
            }
        }
        if merged {
            branch.compact_now().unwrap();
        }
        let check = |branch: &Branch| {
            for (lsn, round, n, pages) in &ends {
                for page in 0..21 {
                    let got =
                        branch.get_page(PageId::new(9, page), ReadAt::Lsn(*lsn), Reach::Files);
                    let at = format!("{flushed} {merged}: page {page}, round {round}.{n}");
                    match got {
                        Err(ReadError::NoSuchTablespace { .. }) => assert_eq!(*n, 2, "{at}"),
                        Err(ReadError::BeyondEnd { .. }) => assert!(page >= *pages, "{at}"),
                        Err(e) => panic!("{at}: {e}"),
                        Ok(got) => {
                            assert!(*n < 2 && page < *pages, "{at}");
                            let want = match page {
                                0 => continue,
                                10 => 10 + (*n as u8) * 10 + *round as u8,
                                p if p <= *round => 0,
                                _ => 10 + *round as u8,
                            };
                            assert_eq!(got.bytes[100], want, "{at}");
                        }
                    }
                }
            }
            let now = branch.tablespaces(ReadAt::Newest).unwrap();
            assert_eq!((now.len(), now[0].path.as_str()), (1, "db/t4.ibd"));
            assert_eq!(
                branch
                    .tablespace_by_path("db/t3.ibd", ReadAt::Newest)
                    .unwrap(),
                None
            );
        };
        check(&branch);
        branch.shutdown();
        drop(branch);
        let branch = open(small(), dir.path(), &wal);
        catch_up(&branch, &wal);
        check(&branch);
    }
}

/// Paths that no file has, from a compute that does not keep to the rules:
/// they are left out, and do not get into layers that nobody could read.
#[test]
fn paths_longer_than_any_file_has_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    let branch = open(small(), dir.path(), &wal);
    let long = |n: usize| format!("d/{n}{}", "x".repeat(1 << 20));
    for n in 0..100 {
        wal.file(Lsn::FIRST, create(&long(n)));
        wal.file(Lsn::FIRST, write(&long(n), 0, "bytes"));
        if n % 10 == 0 {
            wal.file(Lsn::FIRST, create(&format!("d/f{n}")));
            wal.file(
                Lsn::FIRST,
                FileOp::Rename {
                    from: format!("d/f{n}"),
                    to: long(n),
                },
            );
        }
    }
    // The longest that there are, many of them.
    let longest = |n: usize| format!("d/{n:04}{}", "y".repeat(FileOp::PATH_MAX - 6));
    for n in 0..600 {
        wal.file(Lsn::FIRST, create(&longest(n)));
    }
    catch_up(&branch, &wal);
    branch.flush_now();
    branch.compact_now().unwrap();
    assert_eq!(branch.failed(), None);
    let check = |branch: &Branch| {
        let names = files(branch, ReadAt::Newest).into_iter().map(|f| f.path);
        let mut want: Vec<String> = (0..10).map(|n| format!("d/f{}", n * 10)).collect();
        want.extend((0..600).map(longest));
        want.sort();
        assert!(names.collect::<Vec<_>>() == want);
    };
    check(&branch);
    branch.shutdown();
    drop(branch);
    let branch = open(small(), dir.path(), &wal);
    catch_up(&branch, &wal);
    check(&branch);
}
