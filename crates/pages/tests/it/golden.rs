//! Branches written by these format versions, kept for ever: they must stay
//! readable, and be laid out as docs/formats says.
//!
//! `XYLEM_WRITE_GOLDEN=v4 cargo test -p xylem-pages --test it golden` writes those
//! of a version anew; a new format version stands beside the old ones.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::gate::Gate;
use crate::common::redo::{after, mtr};
use crate::common::{
    BRANCH, MemLog, branch_dir, catch_up, hooked, merging, open, small, wait_until,
};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xylem_pages::{Branch, ReadAt, Store, StoreConfig};
use xylem_redo::SpaceFlags;
use xylem_types::{FileOp, Lsn, PageId};
use xylem_wal::Wal;

fn golden(version: &str) -> PathBuf {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    all.join(version)
}

/// The golden files of a version; before that written anew, if that was asked
/// for.
fn golden_or_new(version: &str, write: impl FnOnce(&Path)) -> PathBuf {
    let at = golden(version);
    if std::env::var("XYLEM_WRITE_GOLDEN").is_ok_and(|v| v == version) {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path());
        let _ = std::fs::remove_dir_all(&at);
        common::copy_dir(temp.path(), &at);
    }
    at
}

/// The history in the golden files: feeds `log`, flushes twice.
fn write(dir: &Path) {
    let log = MemLog::new();
    let branch = open(small(), dir, &log);
    let mut lsn = Lsn::FIRST;
    log.epoch(lsn);
    let flags = SpaceFlags::full_crc32_of(4096).unwrap().raw();
    for part in 0..2u8 {
        if part == 0 {
            log.file(
                lsn,
                FileOp::Mkdir {
                    path: "db".into(),
                    mode: 0o700,
                },
            );
            log.file(
                lsn,
                FileOp::Create {
                    path: "db/t.frm".into(),
                    mode: 0o660,
                },
            );
            for bytes in [
                mtr(|m| {
                    m.create(9, "./db/t.ibd");
                }),
                mtr(|m| {
                    m.header(9, 8, flags);
                }),
            ] {
                log.redo(lsn, &bytes);
                lsn = after(lsn, &bytes);
            }
        }
        log.file(
            lsn,
            FileOp::Write {
                path: "db/t.frm".into(),
                offset: 3,
                data: vec![b'a' + part; 5].into(),
            },
        );
        for n in 0..30u8 {
            let bytes = mtr(|m| {
                let page = PageId::new(9, 3);
                if part == 0 && n == 0 {
                    m.init(page);
                }
                m.write(page, 100 + u32::from(n) * 10, &[n + 1, part]);
            });
            log.redo(lsn, &bytes);
            lsn = after(lsn, &bytes);
        }
        catch_up(&branch, &log);
        branch.flush_now();
    }
}

fn check(branch: &Branch) {
    let page = branch.get_page(PageId::new(9, 3), ReadAt::Newest).unwrap();
    for n in 0..30u8 {
        let at = 100 + usize::from(n) * 10;
        assert_eq!(page.bytes[at..at + 2], [n + 1, 1]);
    }
    let flags = SpaceFlags::full_crc32_of(4096).unwrap();
    xylem_redo::verify(&page.bytes, PageId::new(9, 3), flags).unwrap();
    let t = branch
        .tablespace_by_path("db/t.ibd", ReadAt::Newest)
        .unwrap()
        .unwrap();
    assert_eq!(
        (t.space.0, t.pages, t.page_bytes, t.flags),
        (9, 8, 4096, flags.raw())
    );
    let mut seen = Vec::new();
    branch
        .side_files(ReadAt::Newest, &mut |f| {
            seen.push((f.path, f.mode, f.data.map(|d| d.to_vec())));
            ControlFlow::Continue(())
        })
        .unwrap();
    let frm = b"\0\0\0bbbbb".to_vec();
    assert_eq!(
        seen,
        [
            ("db".into(), 0o700, None),
            ("db/t.frm".into(), 0o660, Some(frm))
        ]
    );
}

#[test]
fn the_golden_branch_reads_as_ever() {
    let at = golden_or_new("v3", write);
    let temp = tempfile::tempdir().unwrap();
    common::copy_dir(&at, temp.path());
    // Nothing is left in the log: all must come from the files.
    let branch = open(small(), temp.path(), &MemLog::new());
    check(&branch);
    assert!(branch.applied() > Lsn::FIRST);
}

#[test]
fn what_is_written_today_reads_the_same() {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path());
    check(&open(small(), temp.path(), &MemLog::new()));
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(b[at..at + 4].try_into().unwrap())
}

#[test]
fn the_golden_files_are_laid_out_as_documented() {
    let (mut layers, mut manifests) = (0, 0);
    for entry in std::fs::read_dir(branch_dir(&golden("v3"))).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let b = std::fs::read(&path).unwrap();
        assert_eq!(u32_at(&b, 60), crc32c::crc32c(&b[..60]), "{name}");
        let version = if name.ends_with(".layer") { 2 } else { 3 };
        assert_eq!(b[8..10], [version, 0], "{name}");
        assert_eq!(b[16..32], BRANCH.0.to_le_bytes());
        let number = u64_at(&b, 32);
        if name.ends_with(".layer") {
            layers += 1;
            assert_eq!(&b[..8], b"XYLAYER\x01");
            assert_eq!(u64::from_str_radix(&name[..16], 16).unwrap(), number);
            let f = &b[b.len() - 64..];
            assert_eq!(&f[..8], b"XYLAYEND");
            assert_eq!(u32_at(f, 60), crc32c::crc32c(&f[..60]));
            assert_eq!(u64_at(f, 48), number);
            // Blocks follow one another from byte 64 to the footer; the last
            // is the root.
            let mut seed = crc32c::crc32c(&BRANCH.0.to_le_bytes());
            seed = crc32c::crc32c_append(seed, &number.to_le_bytes());
            let mut at = 64;
            let mut kinds = Vec::new();
            while at < b.len() - 64 {
                let len = 16 + u32_at(&b, at + 12) as usize;
                let crc = crc32c::crc32c_append(seed, &(at as u64).to_le_bytes());
                let crc = crc32c::crc32c_append(crc, &b[at + 4..at + len]);
                assert_eq!(u32_at(&b, at), crc, "{name} block at {at}");
                kinds.push(b[at + 5]);
                if b[at + 5] == 4 {
                    assert_eq!((u64_at(f, 8), u32_at(f, 16)), (at as u64, len as u32));
                }
                at += len;
            }
            assert_eq!(at, b.len() - 64);
            assert!(
                kinds.is_sorted() && kinds.ends_with(&[1, 2, 3, 4]),
                "{kinds:?}"
            );
        } else {
            manifests += 1;
            assert_eq!(&b[..8], b"XYMANIF\x01");
            assert_eq!(name, format!("manifest-{number:016x}"));
            assert_eq!(u64_at(&b, 40), b.len() as u64 - 64);
            assert_eq!(u32_at(&b, 48), crc32c::crc32c(&b[64..]));
            assert_eq!(
                b[10],
                u8::from(number != 1),
                "the first is a snapshot, then come edits"
            );
        }
    }
    assert_eq!((layers, manifests), (4, 4));
}

/// Flushes of the branch of which layers are being merged; each writes pages 1
/// to 4.
const FLUSHES: u8 = 18;

/// The mtrs of each flush, and where they end.
fn flushes() -> Vec<(Vec<Vec<u8>>, Lsn)> {
    let flags = SpaceFlags::full_crc32_of(4096).unwrap().raw();
    let mut lsn = Lsn::FIRST;
    let each = (0..FLUSHES).map(|n| {
        let mut mtrs = Vec::new();
        if n == 0 {
            mtrs.push(mtr(|m| {
                m.create(9, "./db/t.ibd");
            }));
            mtrs.push(mtr(|m| {
                m.header(9, 8, flags);
            }));
        }
        mtrs.extend((1..=4).map(|page| {
            mtr(|m| {
                let id = PageId::new(9, page);
                if n == 0 {
                    m.init(id);
                }
                m.write(id, 100, &[n + 1, page as u8]);
            })
        }));
        for bytes in &mtrs {
            lsn = after(lsn, bytes);
        }
        (mtrs, lsn)
    });
    each.collect()
}

/// Two merges are under way, each with a piece of few keys behind it.
fn write_merging(dir: &Path) {
    let temp = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let config = StoreConfig {
        merged_layer_bytes: 128,
        ..small()
    };
    let store = Store::open(config, hooked(temp.path(), gate.hook())).unwrap();
    store.start_ingest();
    let log = MemLog::new();
    let shared = Arc::clone(&log) as Arc<dyn Wal>;
    let branch = Branch::open(store, BRANCH, shared, None).unwrap();
    // Gone before the branch, which waits for its merges.
    let gate = gate;
    log.epoch(Lsn::FIRST);
    let mut lsn = Lsn::FIRST;
    let mut merges = Vec::new();
    for (n, (mtrs, _)) in flushes().into_iter().enumerate() {
        for bytes in mtrs {
            log.redo(lsn, &bytes);
            lsn = after(lsn, &bytes);
        }
        catch_up(&branch, &log);
        branch.flush_now();
        if n % 9 == 8 {
            let name = format!("merge {n}");
            gate.close(&name, 1);
            let branch = Arc::clone(&branch);
            let thread = std::thread::Builder::new().name(name.clone());
            merges.push(thread.spawn(move || branch.compact_now()).unwrap());
            wait_until("a merge is under way", || gate.holds(&name));
        }
    }
    common::copy_dir(temp.path(), dir);
    gate.open();
    for merge in merges {
        merge.join().unwrap().unwrap();
    }
}

fn check_merging(branch: &Branch) {
    for (n, (_, lsn)) in flushes().into_iter().enumerate() {
        for page in 1..=4 {
            let got = branch.get_page(PageId::new(9, page), ReadAt::Lsn(lsn));
            let got = got.unwrap().bytes;
            assert_eq!(got[100..102], [n as u8 + 1, page as u8], "at {lsn}");
        }
    }
}

#[test]
fn the_golden_merges_go_on_as_ever() {
    let at = golden_or_new("v4", write_merging);
    let (version, inputs) = merging(&at);
    assert_eq!(version, 4);
    assert!(inputs.len() >= 8, "{inputs:?}");
    let temp = tempfile::tempdir().unwrap();
    common::copy_dir(&at, temp.path());
    let branch = open(small(), temp.path(), &MemLog::new());
    assert_eq!(merging(temp.path()), (4, inputs));
    check_merging(&branch);
    branch.compact_now().unwrap();
    assert!(branch.stats().merges >= 2);
    assert_eq!(merging(temp.path()), (3, Vec::new()));
    check_merging(&branch);
    drop(branch);
    common::care::clean(temp.path());
}

#[test]
fn merges_under_way_are_written_the_same_today() {
    let temp = tempfile::tempdir().unwrap();
    write_merging(temp.path());
    assert_eq!(merging(temp.path()).0, 4);
    check_merging(&open(small(), temp.path(), &MemLog::new()));
}
