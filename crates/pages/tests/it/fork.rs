//! Where branches leave: the cases that random histories seldom hit, and who
//! may write.
#![allow(clippy::unwrap_used)]

use crate::common;
use crate::common::redo::{after, mtr};
use crate::common::{MemWal, block_on, catch_up, small};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use xylem_pages::place::{Files, LocalFiles, Place};
use xylem_pages::{Branch, ForkError, Reach, ReadAt, ReadError, Store, StoreError};
use xylem_redo::SpaceFlags;
use xylem_types::{BranchId, FileOp, Lsn, PageId};
use xylem_wal::Wal;

/// A directory that several may have open, as an object store.
struct Shared(PathBuf);

impl Place for Shared {
    fn folder(&self, name: &str) -> io::Result<Arc<dyn Files>> {
        std::fs::create_dir_all(self.0.join("branches"))?;
        Ok(Arc::new(LocalFiles::open(&self.0.join(name), None)?))
    }
    fn folders(&self, _: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn remove_folder(&self, name: &str) -> io::Result<()> {
        std::fs::remove_dir_all(self.0.join(name))
    }
    fn url(&self) -> String {
        self.0.display().to_string()
    }
}

struct One {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    wal: Arc<MemWal>,
    main: Arc<Branch>,
    lsn: Lsn,
}

fn store(dir: &tempfile::TempDir) -> Arc<Store> {
    Store::open(small(), Arc::new(Shared(dir.path().into()))).unwrap()
}

fn open(store: &Arc<Store>, id: u128, wal: &Arc<MemWal>, of: Option<&Arc<Branch>>) -> Arc<Branch> {
    let wal = Arc::clone(wal) as Arc<dyn Wal>;
    Branch::open(Arc::clone(store), BranchId(id), wal, of.cloned()).unwrap()
}

/// A branch with a table whose page 1 says 1, and files a and b.
fn one() -> One {
    let dir = tempfile::tempdir().unwrap();
    let store = store(&dir);
    let wal = MemWal::new();
    wal.epoch(Lsn::FIRST);
    store.start_ingest();
    let main = open(&store, 1, &wal, None);
    let mut one = One {
        dir,
        store,
        wal,
        main,
        lsn: Lsn::FIRST,
    };
    let flags = SpaceFlags::full_crc32_of(4096).unwrap().raw();
    one.mtr(|m| {
        m.create(9, "./db/t.ibd");
    });
    one.mtr(|m| {
        m.init(PageId::new(9, 0)).header(9, 8, flags);
        m.init(PageId::new(9, 1))
            .write(PageId::new(9, 1), 100, &[1]);
    });
    one
}

impl One {
    fn mtr(&mut self, build: impl FnOnce(&mut common::redo::MtrBuilder)) -> Lsn {
        let bytes = mtr(build);
        self.wal.redo(self.lsn, &bytes);
        self.lsn = after(self.lsn, &bytes);
        catch_up(&self.main, &self.wal);
        self.lsn
    }

    fn write(&mut self, byte: u8) -> Lsn {
        self.mtr(|m| {
            m.write(PageId::new(9, 1), 100, &[byte]);
        })
    }

    fn create(&self, path: &str) {
        let op = FileOp::Create {
            path: path.into(),
            mode: 0o660,
        };
        self.wal.file(self.lsn, op);
        catch_up(&self.main, &self.wal);
    }

    fn fork(&self, id: u128, at: ReadAt) -> (Arc<Branch>, Arc<MemWal>, Lsn) {
        let lsn = self.main.fork(BranchId(id), at).unwrap();
        let wal = MemWal::new();
        wal.epoch(lsn);
        let branch = open(&self.store, id, &wal, Some(&self.main));
        catch_up(&branch, &wal);
        (branch, wal, lsn)
    }
}

fn byte(branch: &Branch, at: ReadAt) -> u8 {
    branch
        .get_page(PageId::new(9, 1), at, Reach::Files)
        .unwrap()
        .bytes[100]
}

fn files(branch: &Branch) -> Vec<String> {
    let mut out = Vec::new();
    branch
        .side_files(ReadAt::Newest, &mut |f| {
            out.push(f.path);
            ControlFlow::Continue(())
        })
        .unwrap();
    out
}

/// An operation that comes a while after the redo before it is not part of a
/// moment in between, also where the WAL is read again, and whether what was
/// before it is in layers by then or not.
#[test]
fn a_moment_in_a_pause_is_without_what_came_after_it() {
    for flushed in [false, true] {
        let mut one = one();
        let at = |us: u64| 1_000_000 + us;
        let clock = Arc::clone(&one.wal.clock);
        let set = |us: u64| clock.store(at(us), Ordering::Relaxed);
        set(0);
        let written = one.write(2);
        set(5_000);
        one.create("at once");
        for (n, name) in ["a", "b", "c"].iter().enumerate() {
            set((n as u64 + 1) * 100_000);
            one.create(name);
        }
        if flushed {
            one.main.flush_now();
        }
        set(400_000);
        // More pauses than there is room for: shown earlier than it came.
        one.create("d");
        let moments = [50_000, 150_000, 250_000, 350_000];
        let mut leases = Vec::new();
        for (n, us) in moments.into_iter().enumerate() {
            let lsn = one.main.lsn_at(at(us)).unwrap();
            assert_eq!(lsn, Lsn(written.0 + n as u64), "flushed: {flushed}");
            let (branch, wal, _) = one.fork(10 + n as u128, ReadAt::Lsn(lsn));
            leases.push((branch, wal));
        }
        let (now, now_wal, _) = one.fork(20, ReadAt::Newest);
        let shown: Vec<Arc<Branch>> = leases.iter().map(|(b, _)| Arc::clone(b)).collect();
        compare(&one.main, &shown, &now, flushed);
        // The server starts again and reads the WAL anew from where layers end.
        for branch in shown.iter().chain([&now, &one.main]) {
            branch.shutdown();
        }
        drop(shown);
        let store = store(&one.dir);
        let main = open(&store, 1, &one.wal, None);
        let shown: Vec<Arc<Branch>> = leases
            .iter()
            .enumerate()
            .map(|(n, (_, wal))| open(&store, 10 + n as u128, wal, Some(&main)))
            .collect();
        let now = open(&store, 20, &now_wal, Some(&main));
        store.start_ingest();
        catch_up(&main, &one.wal);
        compare(&main, &shown, &now, flushed);
    }
}

fn compare(main: &Branch, moments: &[Arc<Branch>], now: &Branch, flushed: bool) {
    let all = ["a", "at once", "b", "c", "d"];
    for (n, branch) in moments.iter().enumerate() {
        let mut want: Vec<&str> = ["at once", "a", "b"].into_iter().take(n + 1).collect();
        if n == 3 {
            want = all.to_vec();
        }
        want.sort_unstable();
        assert_eq!(files(branch), want, "moment {n}, flushed: {flushed}");
        assert_eq!(byte(branch, ReadAt::Newest), 2);
    }
    assert_eq!(files(now), all);
    assert_eq!(files(main), all);
}

#[test]
fn a_file_made_after_a_fork_at_the_same_lsn_is_not_the_forks() {
    let mut one = one();
    one.create("a");
    let (left, ..) = one.fork(2, ReadAt::Newest);
    one.create("b");
    let (later, _, lsn) = one.fork(3, ReadAt::Newest);
    one.create("c");
    assert_eq!(files(&left), ["a"]);
    assert_eq!(files(&later), ["a", "b"]);
    assert!(lsn > one.lsn, "nobody could tell them apart");
    one.write(2);
    assert_eq!(files(&one.main), ["a", "b", "c"]);
    let check = |one: &One, left: &Branch, later: &Branch| {
        assert_eq!(files(left), ["a"]);
        assert_eq!(files(later), ["a", "b"]);
        assert_eq!(files(&one.main), ["a", "b", "c"]);
    };
    check(&one, &left, &later);
    // The WAL is read again: the operations get the same places.
    let wals = [MemWal::new(), MemWal::new()];
    let reopen = |one: &mut One| {
        one.main.shutdown();
        one.store = store(&one.dir);
        one.main = open(&one.store, 1, &one.wal, None);
        let left = open(&one.store, 2, &wals[0], Some(&one.main));
        let later = open(&one.store, 3, &wals[1], Some(&one.main));
        one.store.start_ingest();
        catch_up(&one.main, &one.wal);
        (left, later)
    };
    let (left, later) = reopen(&mut one);
    check(&one, &left, &later);
    one.main.flush_now();
    let (left, later) = reopen(&mut one);
    check(&one, &left, &later);
}

#[test]
fn there_are_few_places_between_two_mtrs_and_none_is_given_twice() {
    let mut one = one();
    let mut made = Vec::new();
    let refused = (2..20).find_map(|id| {
        one.create(&format!("f{id}"));
        match one.main.fork(BranchId(id), ReadAt::Newest) {
            Ok(lsn) => made.push(lsn),
            Err(e) => return Some(e),
        }
        None
    });
    assert!(
        matches!(refused, Some(ForkError::Crowded { .. })),
        "{made:?}"
    );
    assert!(made.is_sorted() && made.len() > 3, "{made:?}");
    let end = one.write(2);
    assert!(made.last().is_some_and(|l| *l < end));
    one.main.fork(BranchId(50), ReadAt::Newest).unwrap();
}

#[test]
fn the_past_of_a_fork_is_its_parents() {
    let mut one = one();
    let early = one.write(2);
    one.write(3);
    let (fork, wal, lsn) = one.fork(2, ReadAt::Newest);
    let own = mtr(|m| {
        m.write(PageId::new(9, 1), 100, &[77]);
    });
    wal.redo(lsn, &own);
    catch_up(&fork, &wal);
    one.write(4);
    assert_eq!(byte(&fork, ReadAt::Newest), 77);
    assert_eq!(byte(&fork, ReadAt::Lsn(lsn)), 3);
    assert_eq!(byte(&fork, ReadAt::Lsn(early)), 2);
    assert_eq!(byte(&one.main, ReadAt::Newest), 4);
    // A fork of the fork in their common past leaves the parent: it does not
    // depend on the first one.
    assert_eq!(fork.fork(BranchId(3), ReadAt::Lsn(early)).unwrap(), early);
    let past = open(&one.store, 3, &MemWal::new(), Some(&one.main));
    assert_eq!(byte(&past, ReadAt::Newest), 2);
    let wrong = Branch::open(
        Arc::clone(&one.store),
        BranchId(3),
        MemWal::new() as Arc<dyn Wal>,
        Some(Arc::clone(&fork)),
    );
    let wrong = wrong.err().unwrap().to_string();
    assert!(wrong.contains("left branch"), "{wrong}");
    fork.shutdown();
    one.store.remove_branch(BranchId(2)).unwrap();
    let kept = one.store.remove_branch(BranchId(1));
    assert!(matches!(kept, Err(StoreError::HasForks { .. })), "{kept:?}");
}

#[test]
fn nobody_leaves_in_the_future_or_before_the_history() {
    let one = one();
    let ahead = one.main.fork(BranchId(2), ReadAt::Lsn(Lsn(1 << 40)));
    assert!(matches!(
        ahead,
        Err(ForkError::Read(ReadError::NotReached { .. }))
    ));
    let before = one.main.fork(BranchId(2), ReadAt::Lsn(Lsn(1)));
    assert!(matches!(
        before,
        Err(ForkError::Read(ReadError::TooOld { .. }))
    ));
    one.main.fork(BranchId(2), ReadAt::Newest).unwrap();
    let twice = one.main.fork(BranchId(2), ReadAt::Newest);
    assert!(matches!(twice, Err(ForkError::Store(_))), "{twice:?}");
}

#[test]
fn a_fork_waits_until_its_parent_has_read_the_wal_again() {
    let mut one = one();
    one.write(5);
    let (_, _, lsn) = one.fork(2, ReadAt::Newest);
    one.main.shutdown();
    let store = store(&one.dir);
    // The parent's WAL is empty for now.
    let wal = MemWal::new();
    let main = open(&store, 1, &wal, None);
    let fork = open(&store, 2, &MemWal::new(), Some(&main));
    store.start_ingest();
    let early = fork.get_page(PageId::new(9, 1), ReadAt::Newest, Reach::Files);
    assert!(
        matches!(early, Err(ReadError::NotReached { .. })),
        "{early:?}"
    );
    let soon = |ms| tokio::time::Instant::now() + Duration::from_millis(ms);
    let waited = block_on(async { fork.wait_applied(lsn, soon(20)).await });
    assert!(waited.unwrap_err().to_string().contains("parent"));
    wal.copy_of(&one.wal);
    block_on(async { fork.wait_applied(lsn, soon(20_000)).await }).unwrap();
    assert_eq!(byte(&fork, ReadAt::Newest), 5);
}

/// The parent's layers reach the LSN of a fork, and the operations that count
/// from there are still to be read from its WAL: a rename of such a file in
/// the fork must wait for them, or it renames nothing, for good.
#[test]
fn a_fork_waits_for_side_files_at_its_very_lsn() {
    let one = one();
    one.main.flush_now();
    let early = MemWal::new();
    early.copy_of(&one.wal);
    one.create("x");
    let (fork, wal, lsn) = one.fork(2, ReadAt::Newest);
    assert!(lsn.0 - one.lsn.0 <= 1, "{lsn} {}", one.lsn);
    // Before any redo of its own.
    let rename = FileOp::Rename {
        from: "x".into(),
        to: "y".into(),
    };
    wal.file(lsn, rename);
    catch_up(&fork, &wal);
    assert_eq!(files(&fork), ["y"]);
    fork.shutdown();
    one.main.shutdown();
    // The next server has not read the end of the parent's WAL yet.
    let store = store(&one.dir);
    let main = open(&store, 1, &early, None);
    let fork = open(&store, 2, &wal, Some(&main));
    store.start_ingest();
    let soon = |ms| tokio::time::Instant::now() + Duration::from_millis(ms);
    let waited = block_on(async { fork.wait_ingested(wal.end(), soon(200)).await });
    assert!(waited.unwrap_err().to_string().contains("parent"));
    early.copy_of(&one.wal);
    catch_up(&fork, &wal);
    assert_eq!(files(&fork), ["y"]);
    assert_eq!(files(&main), ["x"]);
}

/// What stood behind the redo that a fork shares was lost with a WAL's disk:
/// the fork goes on without it, as its parent does.
#[test]
fn operations_that_were_lost_with_a_wal_are_not_waited_for() {
    let one = one();
    one.main.flush_now();
    let left = MemWal::new();
    left.copy_of(&one.wal);
    let end = left.end();
    one.create("x");
    let (fork, wal, _) = one.fork(2, ReadAt::Newest);
    fork.shutdown();
    one.main.shutdown();
    let store = store(&one.dir);
    let main = open(&store, 1, &left, None);
    let fork = open(&store, 2, &wal, Some(&main));
    fork.check_parent(one.lsn, end);
    store.start_ingest();
    catch_up(&fork, &wal);
    assert_eq!(files(&fork), Vec::<String>::new());
    assert_eq!(fork.failed(), None);
}

/// Whoever was told an LSN finds the branch there as it was then: with what
/// came right after the redo before it, and without what comes next.
#[test]
fn an_lsn_that_was_told_has_all_that_came_before_and_nothing_later() {
    let one = one();
    let clock = Arc::clone(&one.wal.clock);
    clock.store(1_000_000, Ordering::Relaxed);
    one.create("a");
    let first = one.main.tell();
    // At once, without a pause.
    one.create("b");
    one.create("c");
    let second = one.main.tell();
    one.create("d");
    clock.store(2_000_000, Ordering::Relaxed);
    one.create("e");
    let third = one.main.tell();
    let (at_first, ..) = one.fork(2, ReadAt::Lsn(first));
    let (at_second, ..) = one.fork(3, ReadAt::Lsn(second));
    let (at_third, ..) = one.fork(4, ReadAt::Lsn(third));
    assert_eq!(files(&at_first), ["a"]);
    assert_eq!(files(&at_second), ["a", "b", "c"]);
    assert_eq!(files(&at_third), ["a", "b", "c", "d", "e"]);
}

#[test]
fn of_two_servers_one_writes() {
    let mut one = one();
    one.write(5);
    one.main.flush_now();
    let theirs = store(&one.dir);
    theirs.start_ingest();
    let wal = MemWal::new();
    wal.copy_of(&one.wal);
    let main = open(&theirs, 1, &wal, None);
    let names = |dir: &tempfile::TempDir| {
        let dir = dir.path().join("branches").join(BranchId(1).to_string());
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let before = names(&one.dir);
    // The first one does not know yet; it learns at its next manifest.
    one.write(6);
    one.main.flush_now();
    let why = one.main.failed().unwrap();
    assert!(why.contains("another server"), "{why}");
    assert!(before.iter().all(|n| names(&one.dir).contains(n)));
    assert_eq!(byte(&one.main, ReadAt::Newest), 6, "reads go on");
    let more = mtr(|m| {
        m.write(PageId::new(9, 1), 100, &[9]);
    });
    wal.redo(main.applied(), &more);
    catch_up(&main, &wal);
    main.flush_now();
    assert_eq!(main.failed(), None);
    drop(main);
    let again = store(&one.dir);
    again.start_ingest();
    let again = open(&again, 1, &wal, None);
    catch_up(&again, &wal);
    assert_eq!(byte(&again, ReadAt::Newest), 9);
}

/// All pages of the table, as a branch has them now.
fn read_all(branch: &Branch, count: u32) -> Vec<u8> {
    let read = |page| {
        let page = PageId::new(9, page);
        branch
            .get_page(page, ReadAt::Newest, Reach::Files)
            .unwrap()
            .bytes[100]
    };
    (1..count).map(read).collect()
}

#[test]
fn branches_keep_pages_that_they_share_once() {
    const PAGES: u32 = 200;
    let mut one = one();
    one.mtr(|m| {
        m.size(9, PAGES);
        for page in 2..PAGES {
            let page = PageId::new(9, page);
            m.init(page).write(page, 100, &[page.page.0 as u8]);
        }
    });
    let wanted: Vec<u8> = (1..PAGES).map(|p| p as u8).collect();
    one.main.flush_now();
    let forks: Vec<_> = (2..6).map(|id| one.fork(id, ReadAt::Newest)).collect();
    let bytes = u64::from(PAGES) * 4096;
    let mut before = one.store.memory_used();
    for (n, (fork, ..)) in forks.iter().enumerate() {
        for again in [false, true] {
            assert_eq!(read_all(fork, PAGES), wanted);
            let stats = fork.stats();
            let misses = if n == 0 { u64::from(PAGES) - 1 } else { 0 };
            assert_eq!(stats.page_cache_misses, misses, "fork {n}, again {again}");
        }
        let used = one.store.memory_used();
        let more = used - before;
        assert_eq!(more > bytes, n == 0, "fork {n} takes {more} bytes");
        assert!(n == 0 || more < bytes / 10, "fork {n} takes {more} bytes");
        before = used;
    }
    // The parent goes on from there, and so does each of the others.
    assert_eq!(read_all(&one.main, PAGES), wanted);
    assert_eq!(one.main.stats().page_cache_misses, 0);
    let page = |n| PageId::new(9, n);
    one.mtr(|m| {
        m.write(page(7), 100, &[250]);
    });
    let (fork, wal, lsn) = &forks[1];
    wal.redo(
        *lsn,
        &mtr(|m| {
            m.write(page(9), 100, &[251]);
        }),
    );
    catch_up(fork, wal);
    for _ in 0..2 {
        let mut of_main = wanted.clone();
        of_main[6] = 250;
        assert_eq!(read_all(&one.main, PAGES), of_main);
        let mut of_fork = wanted.clone();
        of_fork[8] = 251;
        for (n, (fork, ..)) in forks.iter().enumerate() {
            let wanted = if n == 1 { &of_fork } else { &wanted };
            assert_eq!(&read_all(fork, PAGES), wanted, "fork {n}");
        }
    }
    // A branch that left later shares what the parent has now.
    let (late, ..) = one.fork(9, ReadAt::Newest);
    let mut of_main = wanted.clone();
    of_main[6] = 250;
    assert_eq!(read_all(&late, PAGES), of_main);
    assert_eq!(late.stats().page_cache_misses, 0);
    // What they kept is right in its place, too.
    let old = ReadAt::Lsn(forks[0].2);
    assert_eq!(
        one.main.get_page(page(7), old, Reach::Files).unwrap().bytes[100],
        7
    );
}
